"""`predict` in a recipe against the bare network on the same tiles, and the memory that a large image takes.

Run as ``python benchmarks/predict.py [--device cpu|cuda] [--precision P] [--images 200] [--side 512] [--large 8192]
[--runs 3] [--memory 4GB]``.

The network is `unet-compact` with random weights and three outputs. The recipe is grayscale, predict, channel, otsu
and components; labels are written, PNG files read. *Bare*: the network called in a plain loop, in the same process and
number format, on the very tiles (halo and padding included) that `predict` cuts, as ready tensors; torch may use all
cores for it. Both are run in turn, several times; the best of each counts. On a GPU its utilisation during the run is
printed. The memory of the large image is the peak of a subprocess that runs the real command under ``--memory``.

Seen on two cores of an AMD EPYC server, float32: 1.02 times the bare time for 200 images of 512 px, 0.80 times for one
of 8192 px (tiles side by side, each on one core, beat all cores on one tile; convolutions absorb their normalisation).
No GPU was to be had: ``--device cuda`` has not been measured yet.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import psutil
from classical import dense_field

import cellkit as ck

RECIPE = """
steps:
  - grayscale
  - predict: {{model: {model}, precision: {precision}}}
  - channel: {{name: interior}}
  - otsu: {{}}
  - components
outputs: [labels]
"""


def main() -> None:
    """Time a folder of small images and one large image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--large", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", default="4GB")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        recipe = _recipe(folder, given.precision)
        for name, count, side in (("small", given.images, given.side), ("large", 1, given.large)):
            if count and side:
                _pictures(folder / name, count, side)
                _compare(recipe, folder, name, given)
        if given.large and given.memory:
            _memory(folder, given)


def _recipe(folder: Path, precision: str) -> ck.Recipe:
    import torch

    from cellkit.models import Card, build, measure_context, save_model

    torch.manual_seed(0)
    network = build("unet-compact", 1, 3).eval()
    card = Card("bench", "unet-compact", "dense", 1, ("interior", "border", "distance"), "distance")
    card = save_model(folder / "model", network, measure_context(network, card))
    count = sum(p.numel() for p in network.parameters())
    print(f"unet-compact, {count / 1e6:.2f} M parameters, halo {card.halo} px, {precision}")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=folder / "model", precision=precision))
    return ck.Recipe.read(folder / "recipe.yaml")


def _pictures(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    some = [dense_field(min(side, 1024), seed) for seed in range(min(count, 8))]
    for i in range(count):
        field = some[i % len(some)]
        field = np.tile(field, (-(-side // field.shape[0]), -(-side // field.shape[1]), 1))[:side, :side]
        cv2.imwrite(str(folder / f"{i:04}.png"), np.roll(field, i * 7, axis=0)[..., 0])


def _compare(recipe: ck.Recipe, folder: Path, name: str, given: argparse.Namespace) -> None:
    from cellkit.engine import Settings

    images = folder / name
    settings = Settings(fresh=True, device=given.device)
    bare = _bare(recipe, images, given)
    ck.run_batch(recipe, [sorted(images.iterdir())[0]], folder / "warm", settings=settings)
    bare()
    times: dict[str, list[float]] = {"bare": [], "run": []}
    with _Utilisation(given.device) as busy:
        for _ in range(given.runs):
            times["bare"].append(_timed(bare))
            busy.start()
            times["run"].append(
                _timed(lambda: ck.run_batch(recipe, [images], folder / f"out-{name}", settings=settings))
            )
            busy.stop()
    best = {key: min(values) for key, values in times.items()}
    files = len(list(images.iterdir()))
    side = given.side if name == "small" else given.large
    line = f"{files:4} of {side} px: bare {best['bare']:7.2f} s, cellkit run {best['run']:7.2f} s, "
    pixels = files * side**2 / 1e6
    line += f"{best['run'] / best['bare']:.2f} times the bare time, {pixels / best['run']:.2f} megapixels/s"
    print(line + busy.text())


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _bare(recipe: ck.Recipe, images: Path, given: argparse.Namespace) -> Callable[[], None]:
    """Return a plain loop of the network over the tiles of every image."""
    import torch

    from cellkit.grid.fill import cut
    from cellkit.models.dense import Tiling, plan_windows
    from cellkit.models.inference import Inference
    from cellkit.models.runtime import Options, open_model
    from cellkit.models.store import find_model, load_network

    step, files = recipe.steps[1], sorted(images.iterdir())
    device = torch.device(given.device)
    alone = len(files) < (psutil.cpu_count() or 1)
    network = open_model(step.params["model"], Options(given.device, alone=alone), given.precision)
    located = find_model(step.params["model"])
    module = Inference(load_network(located), located.card).eval().to(device, memory_format=torch.channels_last)
    dtype = getattr(torch, given.precision)
    tiles = []
    for path in files:
        image = ck.read(path)["image"]
        for tile in plan_windows(network, image.shape[:2], Tiling()):
            pixels = np.array(np.moveaxis(cut(image, tile.window, "reflect"), -1, 0))[None]
            tiles.append(torch.from_numpy(pixels).to(device, memory_format=torch.channels_last))
    batches = [torch.cat(tiles[i : i + network.batch]) for i in range(0, len(tiles), network.batch)]
    torch.set_num_threads(psutil.cpu_count(logical=True) or 1)

    def loop() -> None:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for batch in batches:
                found = module(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        assert found.shape[1] == 3

    return loop


class _Utilisation:
    """Asks the GPU, ten times a second, how busy it is."""

    def __init__(self, device: str) -> None:
        self.device, self.seen, self.on, self.over = device, list[int](), False, False
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Utilisation:
        if self.device.startswith("cuda"):
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True

    def start(self) -> None:
        self.on = True

    def stop(self) -> None:
        self.on = False

    def text(self) -> str:
        return f", GPU {np.mean(self.seen):.0f} % busy" if self.seen else ""

    def _watch(self) -> None:
        import torch

        while not self.over:
            if self.on:
                self.seen.append(torch.cuda.utilization())
            time.sleep(0.1)


def _memory(folder: Path, given: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "cellkit_cli.main", "run", folder / "recipe.yaml", folder / "large"]
    command += ["-o", folder / "out-memory", "--memory", given.memory, "--device", given.device]
    seconds, peak, code = peak_of([str(part) for part in command])
    verdict = f"peak {peak / 1e9:.2f} GB" if code == 0 else f"failed with exit code {code}"
    print(f"   1 of {given.large} px under --memory {given.memory}: {verdict}, {seconds:.1f} s")


def peak_of(command: Sequence[str]) -> tuple[float, int, int]:
    """Run a command; return its seconds, the peak of its resident memory in bytes, and its exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    return time.perf_counter() - start, peak, process.wait()


if __name__ == "__main__":
    main()
