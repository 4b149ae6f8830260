"""Write a large fluorescence image for trying out what scales: python benchmarks/scale_image.py OUT.tif --side 20000.

A mosaic of small fluorescence images of the Data Science Bowl 2018 (the folder dsb2018 of the environment variable
CELLKIT_DATA), mirrored and turned at random; where they are missing, of drawn nuclei. A tiled, pyramidal TIFF, or with
--zarr an OME-Zarr store, is written band by band: memory does not grow with the height of the image. The same arguments
give the same pixels. Prints what the image holds and took.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

CELL = 256  # px; the side of a piece of the mosaic and of a tile
PIXEL_SIZE = 0.5  # um, made up: these images do not say theirs
_LEAST = 12  # nuclei of a piece; with these an image of 20,000 px holds about 200,000
_PER_FIELD = 28  # nuclei of a drawn piece


def pieces(most: int = 200) -> tuple[list[np.ndarray], list[int]]:
    """Return grey pieces, uint8 (256, 256), of a dozen nuclei or more, and how many each holds."""
    folder = Path(os.environ.get("CELLKIT_DATA", "../shared/data")) / "dsb2018"
    images, counts = [], []
    if folder.is_dir():
        from cellkit.io import find, read, read_labels

        labels = {source.name: source.paths[0] for source in find([folder / "labels"])}
        for source in find([folder / "images"]):
            sample = read(source)
            grey = np.rint(sample["raw"] * 255).astype(np.uint8)
            dark = np.median(grey) < 80 and all(
                np.array_equal(grey[..., 0], grey[..., i]) for i in range(grey.shape[2])
            )
            if not dark or min(sample.shape) < CELL or source.name not in labels:
                continue
            truth = read_labels(labels[source.name])[:CELL, :CELL]
            nuclei = len(np.unique(truth)) - 1
            if nuclei < _LEAST:
                continue
            images.append(np.ascontiguousarray(grey[:CELL, :CELL, 0]))
            counts.append(nuclei)
            if len(images) == most:
                break
    if not images:
        from cellkit.io import fluorescence_field

        for seed in range(24):
            image, truth = fluorescence_field(CELL, _PER_FIELD, seed)
            images.append(image)
            counts.append(int(truth.max()))
    return images, counts


def bands(side: int, seed: int, images: list[np.ndarray], counts: list[int]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the image from top to bottom, uint8 (up to 256, side), each with the nuclei of its whole pieces."""
    rng = np.random.default_rng(seed)
    across = -(-side // CELL)
    for top in range(0, side, CELL):
        band = np.empty((CELL, across * CELL), np.uint8)
        nuclei = 0
        for column in range(across):
            number, turns, mirrored = int(rng.integers(len(images))), int(rng.integers(4)), bool(rng.integers(2))
            piece = np.rot90(images[number], turns)
            band[:, column * CELL : (column + 1) * CELL] = piece[:, ::-1] if mirrored else piece
            nuclei += counts[number]
        yield band[: min(CELL, side - top), :side], nuclei


def halved(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield an image at half its size, averaged, from its bands; an odd last row or column is left out."""
    for band in parts:
        height, width = band.shape[0] // 2 * 2, band.shape[1] // 2 * 2
        if height:
            four = band[:height, :width].reshape(height // 2, 2, width // 2, 2).astype(np.uint16)
            yield ((four.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)


def rebanded(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the rows of `parts` in bands of 256."""
    held: list[np.ndarray] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += len(part)
        while rows >= CELL:
            whole = np.concatenate(held)
            yield whole[:CELL]
            held, rows = [whole[CELL:]], rows - CELL
    if rows:
        yield np.concatenate(held)


def level(number: int, start: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield level `number` of the pyramid in bands."""
    for _ in range(number):
        start = rebanded(halved(start))
    return start


def write_tiff(path: Path, side: int, make) -> None:
    """Write a tiled, pyramidal BigTIFF with deflate; every level is made anew from the pieces, so that none is held."""
    import tifffile

    levels = levels_of(side)
    resolution = (1e4 / PIXEL_SIZE, 1e4 / PIXEL_SIZE)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, size in enumerate(levels):
            scale = 2**number
            file.write(
                tiles(level(number, make()), size),
                shape=(size, size),
                dtype=np.uint8,
                tile=(CELL, CELL),
                photometric="minisblack",
                compression="zlib",
                subifds=len(levels) - 1 if not number else None,
                subfiletype=int(number > 0),
                resolution=(resolution[0] / scale, resolution[1] / scale),
                resolutionunit="CENTIMETER",
                metadata=None,
                maxworkers=1,
            )


def tiles(parts: Iterator[np.ndarray], side: int) -> Iterator[np.ndarray]:
    """Yield the tiles of an image, row by row, filled up with zeros."""
    for band in parts:
        for left in range(0, side, CELL):
            tile = np.zeros((CELL, CELL), np.uint8)
            part = band[:, left : left + CELL]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def write_zarr(path: Path, side: int, make) -> None:
    """Write an OME-Zarr 0.4 store in chunks of 512 px."""
    import zarr

    datasets = []
    for number, size in enumerate(levels_of(side)):
        array = zarr.open_array(
            str(path / str(number)), mode="w", zarr_format=2, shape=(size, size), chunks=(512, 512), dtype="u1"
        )
        top = 0
        held = []
        for band in level(number, make()):  # two bands are a row of chunks
            held.append(band)
            if len(held) == 2 or top + sum(map(len, held)) == size:
                rows = np.concatenate(held)
                array[top : top + len(rows)] = rows
                top, held = top + len(rows), []
        scale = [PIXEL_SIZE * 2**number] * 2
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    image = {"version": "0.4", "name": path.stem, "axes": axes, "datasets": datasets}
    (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))


def levels_of(side: int) -> list[int]:
    """Return the side of every level, each half of the one above, down to 512 px or less."""
    sides = [side]
    while sides[-1] > 512:
        sides.append(sides[-1] // 2)
    return sides


def make_image(path: Path, side: int = 20_000, seed: int = 0, as_zarr: bool = False) -> int:
    """Write the image and return about how many nuclei it holds (pieces cut by its edges count whole)."""
    images, counts = pieces()
    (write_zarr if as_zarr else write_tiff)(path, side, lambda: (band for band, _ in bands(side, seed, images, counts)))
    return sum(nuclei for _, nuclei in bands(side, seed, images, counts))


def peak_memory() -> str:
    """Return the most memory this process has held so far."""
    try:
        import resource
    except ImportError:  # Windows
        return "an unknown amount"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return f"{peak:.0f} MB"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=20_000, help="pixels (20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zarr", action="store_true", help="write OME-Zarr, not TIFF")
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists already")
    started = perf_counter()
    nuclei = make_image(given.out, given.side, given.seed, given.zarr)
    files = [given.out] if given.out.is_file() else [file for file in given.out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    seconds = perf_counter() - started
    print(f"{given.out}: {given.side} x {given.side} px, about {nuclei} nuclei, {size:.0f} MB")
    print(f"{seconds:.0f} s, {peak_memory()} of memory at most")


if __name__ == "__main__":
    main()
