"""How `cellkit run` scales: with the size of an image, the number of images, and the number of workers.

``python benchmarks/scale.py large --side 20000 [--recipe nuclei-classical] [--memory 2GB]``
    One large image (``scale_image.py``) against some of 2,000 px: seconds per megapixel of either, and the peak memory.
``python benchmarks/scale.py workers --side 6000 [--rounds 2]``
    The same image by 1, 2 and 4 workers of Dask, and by a pool of as many local processes, to and fro; outputs are
    compared.
``python benchmarks/scale.py many --images 10000``
    Small images in one run: memory at 1,000 and at the end, a kill on the way, what is done again, `cellkit status`.
``python benchmarks/scale.py kills --side 2048 --images 400 [--kills 10] [--seed 0]``
    Runs and workers of Dask killed at random moments, on an image in blocks and on small images: what is left after
    every kill can be read, and what they end with has the bytes of an undisturbed run (``scale_kills.py``).

Every run is the whole command in a process of its own. Start-up, measured on an image of 64 px, is given apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from scale_kills import COMMAND, digest, kills

HERE = Path(__file__).parent


def processor() -> float:
    """Return the seconds of a core that finished children have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched(*arguments: object, look: Callable[[int], bool] | None = None) -> tuple[float, int]:
    """Run `cellkit`; return seconds, and the most bytes that it and its children held.

    `look` is told those bytes every now and then; where it returns True, the run is killed with all its children.
    """
    started, peak, killed = time.perf_counter(), 0, False
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    own = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [own, *own.children(recursive=True)]
            held = sum(p.memory_info().rss for p in family)
            peak = max(peak, held)
            if look is not None and look(held):
                killed = True
                for p in reversed(family):
                    p.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode and not killed:
        error = process.stderr.read().decode() if process.stderr else ""
        raise SystemExit(f"cellkit {' '.join(map(str, arguments))}: ended with {process.returncode}\n{error[-2000:]}")
    return seconds, peak


def make_image(folder: Path, side: int) -> Path:
    """Write the mosaic of `side` px, where it is not there yet."""
    path = folder / f"mosaic-{side}.tif"
    if not path.exists():
        subprocess.run([sys.executable, HERE / "scale_image.py", path, "--side", str(side)], check=True)
    return path


def start_up(folder: Path, recipe: str) -> tuple[float, float]:
    """Return the seconds of a run on next to nothing, by the clock and of a core."""
    from cellkit.io import write

    write(folder / "tiny.png", np.zeros((64, 64), np.uint8))
    watched("run", recipe, folder / "tiny.png", "-o", folder / "warm")  # compiles what is not compiled yet
    before = processor()
    return watched("run", recipe, folder / "tiny.png", "-o", folder / "start", "--fresh")[0], processor() - before


def large(folder: Path, given: argparse.Namespace) -> None:
    """Compare a large image with a small one, of which several are done in one run."""
    start = start_up(folder, given.recipe)
    print(f"{given.recipe}: start-up {start[0]:.1f} s, {start[1]:.1f} s of a core")
    small = folder / f"small-{given.copies}"
    if not small.exists():
        small.mkdir()
        source = make_image(folder, 2000)
        for number in range(given.copies):
            shutil.copy(source, small / f"{number}.tif")
    rates = []
    for name, image, pixels in (
        (f"{given.copies} of 2,000 x 2,000 px", small, given.copies * 4.0),
        (f"{given.side:,} x {given.side:,} px", make_image(folder, given.side), given.side**2 / 1e6),
    ):
        out, before = folder / "out-large", processor()
        seconds, peak = watched(
            "run", given.recipe, image, "-o", out, "--memory", given.memory, "--outputs", given.outputs
        )
        rates.append(((seconds - start[0]) / pixels, (processor() - before - start[1]) / pixels))
        rows = (out / "images.csv").read_text(encoding="utf-8").splitlines()[1:]
        objects = sum(int(row.split(",")[3]) for row in rows)
        print(
            f"  {name}: {seconds:.1f} s; without start-up {rates[-1][0]:.4f} s/Mpx, {rates[-1][1]:.4f} s of a core; "
            f"peak {peak / 1e9:.2f} GB; {objects:,} objects"
        )
        shutil.rmtree(out)
    print(f"  large by small: {rates[1][0] / rates[0][0]:.2f} by the clock, {rates[1][1] / rates[0][1]:.2f} of a core")


def workers(folder: Path, given: argparse.Namespace) -> None:
    """Compare workers of Dask with local processes, in turns, to and fro."""
    image = make_image(folder, given.side)
    pools = {"Dask": ("--scheduler", "local"), "processes": ("--pool", "processes"), "threads": ()}
    turns = [*((pool, n) for n in (1, 2, 4) for pool in ("Dask", "processes")), ("threads", 2)]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {turn: [] for turn in turns}
    digests = set()
    start_up(folder, given.recipe)  # compiles what is not compiled yet
    least = {
        (pool, n): idle(folder, given.recipe, *pools[pool], "--workers", n) for pool, n in turns if pool != "threads"
    }
    for number in range(given.rounds):
        for pool, n in turns if number % 2 == 0 else reversed(turns):
            out, before = folder / "out", processor()
            seconds, peak = watched(
                "run", given.recipe, image, "-o", out, "--memory", given.memory, "--outputs", given.outputs,
                "--blocks", 1024, *pools[pool], "--workers", n,
            )  # fmt: skip
            found[pool, n].append((seconds, processor() - before))
            digests.add(digest(out))
            print(
                f"  {pool}, {n}: {seconds:.1f} s, {found[pool, n][-1][1]:.1f} s of a core, "
                f"peak of all processes {peak / 1e9:.2f} GB"
            )
            shutil.rmtree(out)
    best = {turn: [min(values) for values in zip(*times, strict=True)] for turn, times in found.items()}
    for n in (1, 2, 4):
        dask, local = best["Dask", n], best["processes", n]
        print(
            f"  {n} workers: speed-up {best['Dask', 1][0] / dask[0]:.2f} (processes "
            f"{best['processes', 1][0] / local[0]:.2f}); Dask by processes {dask[0] / local[0]:.2f} by the clock, "
            f"{dask[1] / local[1]:.2f} of a core; without start-up ({least['Dask', n]:.1f} and "
            f"{least['processes', n]:.1f} s of a core) "
            f"{(dask[1] - least['Dask', n]) / (local[1] - least['processes', n]):.2f}"
        )
    print(f"  all outputs equal: {len(digests) == 1}")


def idle(folder: Path, recipe: str, *more: object) -> float:
    """Return the seconds of a core that a run takes whose workers have next to nothing to do."""
    from cellkit.io import write

    write(folder / "black.png", np.zeros((512, 512), np.uint8))
    before = processor()
    watched("run", recipe, folder / "black.png", "-o", folder / "idle", "--fresh", "--blocks", 128, *more)
    return processor() - before


def status_seconds(out: Path) -> float:
    """Return the seconds of `cellkit status`, Python's start included."""
    before = time.perf_counter()
    subprocess.run([*COMMAND, "status", str(out)], check=False, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def many(folder: Path, given: argparse.Namespace) -> None:
    """Run many small images, kill the run, and go on."""
    from cellkit.io import fluorescence_field, write

    pictures = folder / f"pictures-{given.images}"
    if not pictures.exists():
        pictures.mkdir()
        for i in range(given.images):
            image, _ = fluorescence_field(128, 8, seed=i % 200)
            write(pictures / f"{i:06}.png", np.roll(image, i, axis=1))
    out = folder / "out-many"
    words = ("run", given.recipe, pictures, "-o", out, "--outputs", "labels,table")
    memory: list[tuple[int, int]] = []
    asked: list[float] = []

    def look(held: int) -> bool:
        memory.append((sum(1 for _ in os.scandir(out / "labels")) if (out / "labels").exists() else 0, held))
        if memory[-1][0] > (len(asked) + 1) * given.images / 5:
            asked.append(status_seconds(out))
        return False

    before = processor()
    seconds, peak = watched(*words, look=look)
    used = processor() - before
    early = max((held for done, held in memory if done <= given.images / 10), default=0)
    late = max(held for done, held in memory if 0.9 * given.images <= done < given.images)
    print(
        f"  {given.images:,} images: {seconds:.1f} s, {used:.1f} s of a core; memory up to image "
        f"{given.images // 10:,}: {early / 1e6:,.0f} MB, over the last tenth: {late / 1e6:,.0f} MB, with the "
        f"tables of the run: {peak / 1e6:,.0f} MB"
    )
    asked.append(status_seconds(out))
    print(f"  status: {', '.join(f'{s:.2f}' for s in asked)} s, Python's start included; the last after the end")
    wanted = digest(out)
    shutil.rmtree(out)
    labels = out / "labels"
    watched(*words, look=lambda _: labels.exists() and sum(1 for _ in os.scandir(labels)) > 0.6 * given.images)
    done = {path.name: path.stat().st_mtime_ns for path in labels.glob("*")}
    print(f"  status after a kill: {status_seconds(out):.2f} s")
    seconds, _ = watched(*words)
    again = sum((labels / name).stat().st_mtime_ns != old for name, old in done.items())
    print(
        f"  killed with {len(done):,} done, {again} of them done again; {seconds:.1f} s for the rest; outputs equal: "
        f"{digest(out) == wanted}"
    )
    shutil.rmtree(out)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["large", "workers", "many", "kills"])
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--copies", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="nuclei-classical")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--outputs", default="labels,table,rle,geojson")
    parser.add_argument("--folder", type=Path, help="Where images are kept for the next time.")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        {"large": large, "workers": workers, "many": many, "kills": kills}[given.what](folder, given)


if __name__ == "__main__":
    main()
