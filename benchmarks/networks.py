"""Bare networks for cells side by side: the shipped `nuclei` and `unet-compact`, StarDist's and Cellpose's.

Run as ``python benchmarks/networks.py`` (``--side 512 --runs 5 --threads N --only NAME``), on the CPU. Prints for every
network its parameters, the best time of several runs in seconds per megapixel of input, and how many times that is the
first one's. What is not installed is left out, with the reason (``pip install stardist tensorflow``; cellpose 3 or 4).

Timed is the forward pass alone, on one tile that is a ready array, each library with the same number of threads; the
networks take turns, so that whatever else the machine does meets all of them. Not timed: normalisation, tiles that
overlap, what makes objects of the output, and that Cellpose 3 first scales an image until its objects are 30 px wide.
Speed depends on the weights' shapes alone, so random ones serve for all but `nuclei`; nothing is downloaded. `nuclei`
is timed as `predict` runs it, once in float32 and once in the format that it chooses on this machine.

Seen on two cores of an AMD EPYC server with avx512_bf16, 512 px, seconds a megapixel: `nuclei` 0.34 in bfloat16 and
0.64 in float32, StarDist 1.68 (grid 1, its default) and 0.58 (grid 2), Cellpose 4 38.9.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.utils.mkldnn

from cellkit import models
from cellkit.stages.cellpose import PACKAGE as CELLPOSE
from cellkit.stages.stardist import PACKAGE as STARDIST

SAM_SIDE = 256
"""The only tile that the network of Cellpose 4 takes."""


class Absent(Exception):
    """A network that cannot be timed here, with the reason."""


@dataclass(frozen=True)
class Timed:
    """A network as it is timed: how many parameters it has, and a call that runs it once over ``side * side`` px."""

    parameters: int
    call: Callable[[], Any]


def of_torch(network: torch.nn.Module, tiles: torch.Tensor) -> Timed:
    """Return a network of PyTorch, as it predicts."""
    network.eval()

    def call() -> Any:
        with torch.inference_mode():
            return network(tiles)

    return Timed(sum(weights.numel() for weights in network.parameters()), call)


def unet_compact(side: int) -> Timed:
    """Return cellkit's U-Net for the CPU, one channel in and three out, as `predict` runs it."""
    network = models.build("unet-compact", 1, 3).to(memory_format=torch.channels_last)
    return of_torch(network, torch.rand(1, 1, side, side).to(memory_format=torch.channels_last))


def nuclei(side: int, precision: str) -> Timed:
    """Return the network that ships with cellkit, as `predict` runs it."""
    from cellkit.models.device import choose_precision
    from cellkit.models.inference import fold_norms
    from cellkit.models.torch_backend import TorchBackend

    located = models.find_model("nuclei")
    device = torch.device("cpu")
    dtype = choose_precision(precision, device, located.card)
    if precision == "auto" and dtype == torch.float32:
        raise Absent("this CPU has no faster format than float32")
    network = models.load_network(located)
    count = sum(weights.numel() for weights in network.parameters())
    backend = TorchBackend(fold_norms(network), located.card, device, dtype)
    tile = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    return Timed(count, lambda: backend(tile))


def stardist(side: int, grid: int) -> Timed:
    """Return StarDist's default network, 32 rays; `grid` 2 is that of its model 2D_versatile_fluo."""
    stardist_models = needed(STARDIST, "stardist.models")
    config = stardist_models.Config2D(n_channel_in=1, grid=(grid, grid))
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its thresholds
        network = stardist_models.StarDist2D(config, name="random", basedir=None).keras_model
    tile = np.random.default_rng(0).random((1, side, side, 1), np.float32)
    return Timed(network.count_params(), lambda: network.predict_on_batch(tile))


def cellpose(side: int) -> Timed:
    """Return the network of the installed Cellpose: version 3 in one tile, version 4 (SAM) in tiles of 256 px."""
    cellpose_models = needed(CELLPOSE, "cellpose.models")
    if hasattr(cellpose_models, "SizeModel"):
        network = cellpose_models.CellposeModel(gpu=False, pretrained_model=None).net.eval()
        count = sum(weights.numel() for weights in network.parameters())
        if network.mkldnn:  # as its own forward pass has it on a CPU
            network = torch.utils.mkldnn.to_mkldnn(network)
        return replace(of_torch(network, torch.rand(1, 2, side, side)), parameters=count)
    count = (side // SAM_SIDE) ** 2
    if side % SAM_SIDE:
        raise Absent(f"takes tiles of {SAM_SIDE} px only: give a side that is a multiple")
    # In bfloat16, as it runs by default.
    network = CELLPOSE.module("cellpose.vit").CPSAM(dtype=torch.bfloat16).to(torch.bfloat16)
    return of_torch(network, torch.rand(count, 3, SAM_SIDE, SAM_SIDE, dtype=torch.bfloat16))


def needed(package: Any, module: str) -> Any:
    """Return a module of another package. Raises `Absent` where it is not installed."""
    if package.missing():
        raise Absent(f"{' and '.join(package.missing())} not installed ({package.install})")
    return package.module(module)


NETWORKS: dict[str, Callable[[int], Timed]] = {
    "nuclei": lambda side: nuclei(side, "auto"),
    "nuclei, float32": lambda side: nuclei(side, "float32"),
    "unet-compact": unet_compact,
    "stardist, grid 2": lambda side: stardist(side, 2),
    "stardist, grid 1": lambda side: stardist(side, 1),
    "cellpose": cellpose,
}


def limit_threads(count: int) -> None:
    """Let PyTorch and, where it is installed, TensorFlow use so many threads."""
    torch.set_num_threads(count)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    if not STARDIST.missing():
        import torchvision  # noqa: F401 - TensorFlow must come after it, see cellkit/stages/stardist.py

        threading = STARDIST.module("tensorflow").config.threading
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(1)


def main(side: int, runs: int, threads: int, only: list[str]) -> None:
    """Measure and print."""
    limit_threads(threads)
    timed: dict[str, Timed] = {}
    for name, make in NETWORKS.items():
        if only and not name.startswith("nuclei") and not any(name.startswith(word) for word in only):
            continue
        try:
            timed[name] = make(side)
            timed[name].call()  # compiles, and finds its memory
        except Absent as reason:
            print(f"{name}: left out: {reason}")
    times = {name: float("inf") for name in timed}
    for _ in range(runs):
        for name, network in timed.items():
            start = time.perf_counter()
            network.call()
            times[name] = min(times[name], time.perf_counter() - start)
    first = times["nuclei"] if "nuclei" in times else times["nuclei, float32"]
    print(f"\n{side} x {side} px, best of {runs}, {threads} threads, {versions()}")
    print(f"{'network':20}{'parameters, M':>15}{'s / megapixel':>15}{'ratio':>8}")
    for name, taken in times.items():
        millions = timed[name].parameters / 1e6
        print(f"{name:20}{millions:15.2f}{taken / (side * side / 1e6):15.3f}{taken / first:8.1f}")


def versions() -> str:
    """Return the libraries that were measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("torch", "stardist", "tensorflow", "tensorflow-cpu", "cellpose"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="of the square image, in pixels")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="beside nuclei; may be repeated")
    arguments = parser.parse_args()
    main(arguments.side, arguments.runs, arguments.threads, arguments.only)
