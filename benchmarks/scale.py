"""How `cellkit run` scales: with the size of an image, the number of images, and the number of workers.

``python benchmarks/scale.py large --side 20000 [--recipe nuclei-classical] [--memory 2GB]``
    One large image (``scale_image.py``) against some of 2,000 px: seconds per megapixel of either, and the peak memory.
``python benchmarks/scale.py workers --side 6000``
    The same image by 1, 2 and 4 workers of Dask, and by a pool of as many local processes; outputs are compared.
``python benchmarks/scale.py many --images 10000``
    Small images in one run: memory at 1,000 and at the end, a kill on the way, what is done again, `cellkit status`.

Every run is the whole command in a process of its own. Start-up, measured on an image of 64 px, is given apart.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

COMMAND = [sys.executable, "-c", "from cellkit_cli.main import main; main()"]
HERE = Path(__file__).parent


def processor() -> float:
    """Return the seconds of a core that finished children have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched(*arguments: object, kill_at: float = 0.0) -> tuple[float, int, list[tuple[float, int]]]:
    """Run `cellkit`; return seconds, the most bytes that it and its children held, and all samples of that.

    `kill_at`: seconds after which it is killed with all its children.
    """
    started = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    own, seen = psutil.Process(process.pid), []
    while process.poll() is None:
        try:
            family = [own, *own.children(recursive=True)]
            seen.append((time.perf_counter() - started, sum(p.memory_info().rss for p in family)))
            if kill_at and time.perf_counter() - started > kill_at:
                for p in reversed(family):
                    p.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode and not kill_at:
        error = process.stderr.read().decode() if process.stderr else ""
        raise SystemExit(f"cellkit {' '.join(map(str, arguments))}: ended with {process.returncode}\n{error[-2000:]}")
    return seconds, max((size for _, size in seen), default=0), seen


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
    small = folder / "small"
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
        seconds, peak, _ = watched(
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
    """Compare workers of Dask with local processes."""
    image = make_image(folder, given.side)
    found = {}
    for name, more in (
        *((f"Dask, {n} workers", ("--scheduler", "local", "--workers", n)) for n in (1, 2, 4)),
        *((f"processes, {n}", ("--pool", "processes", "--workers", n)) for n in (1, 2, 4)),
        ("threads, 2", ("--workers", 2)),
    ):
        out = folder / "out"
        seconds, peak, _ = watched(
            "run", given.recipe, image, "-o", out, "--memory", given.memory, "--outputs", given.outputs, *more
        )
        found[name] = seconds
        print(f"  {name}: {seconds:.1f} s, peak of all processes {peak / 1e9:.2f} GB, outputs {digest(out)[:12]}")
        shutil.rmtree(out)
    for n in (1, 2, 4):
        ratio = found[f"Dask, {n} workers"] / found[f"processes, {n}"]
        gain = found["Dask, 1 workers"] / found[f"Dask, {n} workers"]
        print(f"  {n} workers: speed-up {gain:.2f}, Dask by local {ratio:.2f}")


def many(folder: Path, given: argparse.Namespace) -> None:
    """Run many small images, kill the run, and go on."""
    from cellkit.io import fluorescence_field, write

    pictures = folder / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for i in range(given.images):
            image, _ = fluorescence_field(128, 8, seed=i % 200)
            write(pictures / f"{i:06}.png", np.roll(image, i, axis=1))
    out = folder / "out-many"
    seconds, peak, seen = watched("run", given.recipe, pictures, "-o", out, "--outputs", "labels,table")
    tenth = [size for at, size in seen if at < 0.1 * seconds + 5]
    print(
        f"  {given.images:,} images: {seconds:.1f} s, memory {tenth[-1] / 1e6:,.0f} MB at about 1,000, "
        f"{max(size for _, size in seen[-20:]) / 1e6:,.0f} MB at the end, peak {peak / 1e6:,.0f} MB"
    )
    wanted = digest(out)
    shutil.rmtree(out)
    watched("run", given.recipe, pictures, "-o", out, "--outputs", "labels,table", kill_at=seconds * 0.6)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "labels").glob("*")}
    at = time.perf_counter()
    subprocess.run([*COMMAND, "status", str(out)], check=False)
    print(f"  status took {time.perf_counter() - at:.2f} s, Python's start included")
    watched("run", given.recipe, pictures, "-o", out, "--outputs", "labels,table")
    again = sum((out / "labels" / name).stat().st_mtime_ns != old for name, old in before.items())
    print(f"  killed with {len(before):,} done, {again} of them done again; outputs equal: {digest(out) == wanted}")


def digest(out: Path) -> str:
    """Return a digest of all results of a run but for times, places and notes."""
    total = hashlib.sha256()
    for path in sorted(p for p in out.rglob("*") if p.is_file() and ".cellkit" not in p.parts):
        if path.name in ("run.json", "images.csv"):
            continue
        total.update(str(path.relative_to(out)).encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["large", "workers", "many"])
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--copies", type=int, default=12)
    parser.add_argument("--recipe", default="nuclei-classical")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--outputs", default="labels,table,rle,geojson")
    parser.add_argument("--folder", type=Path, help="Where images are kept for the next time.")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        {"large": large, "workers": workers, "many": many}[given.what](folder, given)


if __name__ == "__main__":
    main()
