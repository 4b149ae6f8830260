"""`cellkit run nuclei` on a folder, on the CPU: seconds per megapixel of image and the peak of its memory.

Run as ``python benchmarks/nuclei.py [--images 16] [--side 1024] [--runs 3]``. The pictures are fields of drawn nuclei,
8-bit PNG, some of them coloured as stained tissue is. Timed is the whole command in a process of its own, start,
reading, network, splitting, measuring and all outputs included, and the same with labels as the only output; the start
(the same command on a single picture of 64 px) is given apart and taken off. The best of several runs counts; memory is
the largest resident set of the process that was seen. Networks alone, beside those of StarDist and Cellpose:
``python benchmarks/networks.py``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from predict import peak_of

from cellkit.io.samples import fluorescence_field

_STAIN = np.float32([0.35, 0.75, 0.55])
"""What is left of red, green and blue where a drawn nucleus is brightest, in pictures that stand for stained tissue."""


def write_pictures(folder: Path, count: int, side: int) -> None:
    """Write `count` pictures, every fourth of them stained."""
    folder.mkdir()
    for number in range(count):
        image, _ = fluorescence_field(side, seed=number, bits=8)
        if number % 4 == 3:
            light = 1 - image.astype(np.float32)[..., None] / 255 * (1 - _STAIN)
            image = np.round(light * 255).astype(np.uint8)[..., ::-1]
        cv2.imwrite(str(folder / f"{number:03}.png"), image)


def timed(pictures: Path, out: Path, runs: int, *more: str) -> tuple[float, int]:
    """Return the best time and the largest peak of several runs over a folder."""
    command = [sys.executable, "-c", "from cellkit_cli.main import main; main()", "run", "nuclei", str(pictures)]
    best, largest = float("inf"), 0
    for _ in range(runs):
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak, code = peak_of([*command, "-o", str(out), "--device", "cpu", *more])
        if code:
            raise SystemExit(f"{' '.join(command)}: ended with {code}")
        best, largest = min(best, seconds), max(largest, peak)
    return best, largest


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder / "pictures", given.images, given.side)
        write_pictures(folder / "one", 1, 64)
        start, _ = timed(folder / "one", folder / "out", given.runs)
        megapixels = given.images * given.side**2 / 1e6
        print(f"{given.images} pictures of {given.side} px, best of {given.runs}; {start:.1f} s of start are taken off")
        for name, more in (("all outputs", ()), ("labels alone", ("--outputs", "labels"))):
            seconds, peak = timed(folder / "pictures", folder / "out", given.runs, *more)
            each = (seconds - start) / megapixels
            print(f"{name:14}{each:8.3f} s / megapixel{peak / 1e9:8.2f} GB at most{seconds:8.1f} s in all")


if __name__ == "__main__":
    main()
