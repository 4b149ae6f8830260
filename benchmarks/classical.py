"""A classical chain on synthetic fields: cellkit against the same steps of scikit-image and scipy, one thread each.

Run as ``python benchmarks/classical.py [SIDE ...]`` (default: 512, 1024, 2048 and 4096 px). Both chains take the same
uint8 RGB image and start from its float32 in [0, 1]. Prints, for every size, the best of several runs of every step in
milliseconds, the totals and their ratio, and the share of label pixels that are equal, with where they differ.

The steps: grayscale, dark_background, unsharp, otsu, fill_holes, drop_small, distance, maxima, watershed, measure
(area, centroid, box, mean intensity) and rle. Compiling or loading cellkit's kernels is left out: every chain runs once
on a small image before it is timed. OpenCV is held to one thread; nothing else here starts any.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage as ndi
from skimage import color, feature, filters, measure, segmentation

import cellkit as ck

SIGMA, AMOUNT, AREA, APART = 2.0, 1.0, 10, 5
PROPERTIES = ("label", "area", "centroid", "bbox", "intensity_mean")
STEPS = (
    "grayscale",
    "dark_background",
    "unsharp",
    "otsu",
    "fill_holes",
    "drop_small",
    "distance",
    "maxima",
    "watershed",
    "measure",
    "rle",
)


class Clock:
    """The seconds that each named step took in one run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Return what `call` returns, and note its time under `name`."""
        start = time.perf_counter()
        result = call(*arguments, **named)
        self.seconds[name] = time.perf_counter() - start
        return result


Outcome = tuple[dict[str, float], dict[str, Any]]


def dense_field(side: int, seed: int = 0) -> np.ndarray:
    """Return a field of touching nuclei, uint8 (side, side, 3): 3,400 of them at 2,048 px, uneven light and noise."""
    rng = np.random.default_rng(seed)
    count = max(1, round(3400 * (side / 2048) ** 2))
    grid = int(np.ceil(np.sqrt(count)))
    pitch = side / grid
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    centers = (np.stack([rows, columns], axis=1) + 0.5 + rng.uniform(-0.3, 0.3, (grid * grid, 2))) * pitch
    light = np.zeros((side, side), np.float32)
    for (y, x), long, wide, angle, glow in zip(
        centers,
        rng.uniform(0.42, 0.58, len(centers)) * pitch,
        rng.uniform(0.32, 0.46, len(centers)) * pitch,
        rng.uniform(0, np.pi, len(centers)),
        rng.uniform(0.35, 1.0, len(centers)),
        strict=True,
    ):
        y0, x0 = (max(0, int(v - long - 1)) for v in (y, x))
        yy, xx = np.mgrid[y0 : min(side, int(y + long + 2)), x0 : min(side, int(x + long + 2))]
        along = (yy - y) * np.sin(angle) + (xx - x) * np.cos(angle)
        across = (yy - y) * np.cos(angle) - (xx - x) * np.sin(angle)
        inside = (along / long) ** 2 + (across / wide) ** 2 < 1
        part = light[yy[0, 0] : yy[-1, 0] + 1, xx[0, 0] : xx[0, -1] + 1]
        np.maximum(part, inside * np.float32(glow), out=part)
    light = cv2.GaussianBlur(light, (0, 0), 1.3) * 150 + np.linspace(8, 24, side, dtype=np.float32)
    noisy = rng.normal(light, 2 + 0.15 * np.sqrt(light))
    return np.repeat(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def with_cellkit(pixels: np.ndarray) -> Outcome:
    """Run the chain with cellkit's stages, as its engine would: every measurement is part of its step."""
    s, clock = ck.stages, Clock()
    image = raw = pixels.astype(np.float32) / 255
    image = clock("grayscale", s.grayscale, image, weights="rec709")
    image = clock("dark_background", lambda x: s.dark_background(x, s.histogram(x)), image)
    image = clock("unsharp", s.unsharp, image, sigma=SIGMA, amount=AMOUNT)
    mask = clock("otsu", lambda x: s.otsu(x, s.histogram(x)), image)
    mask = clock("fill_holes", s.fill_holes, mask)
    mask = clock("drop_small", s.drop_small, mask, area=AREA)
    field = clock("distance", s.distance, mask)
    seeds = clock("maxima", s.maxima, field, min_distance=APART)
    labels = clock("watershed", s.watershed, field, seeds, mask)
    table = clock("measure", s.measure, labels, raw, properties=("area", "centroid", "box", "mean"))
    runs = clock("rle", s.rle, labels)
    return clock.seconds, {"mask": mask, "field": field, "seeds": seeds, "labels": labels, "table": table, "rle": runs}


def with_skimage(pixels: np.ndarray) -> Outcome:
    """Run the same chain as a careful user of scikit-image and scipy would write it."""
    clock = Clock()
    raw = pixels.astype(np.float32) / 255
    image = clock("grayscale", color.rgb2gray, raw)
    image = clock("dark_background", _dark_background, image)
    image = clock("unsharp", filters.unsharp_mask, image, radius=SIGMA, amount=AMOUNT, preserve_range=True)
    mask = clock("otsu", lambda x: x > filters.threshold_otsu(x), image)
    mask = clock("fill_holes", ndi.binary_fill_holes, mask)
    mask = clock("drop_small", _drop_small, mask)
    field = clock("distance", ndi.distance_transform_edt, mask)
    seeds = clock("maxima", _maxima, field)
    labels = clock("watershed", lambda: segmentation.watershed(-field, seeds, mask=mask))
    table = clock("measure", lambda: pd.DataFrame(measure.regionprops_table(labels, raw, properties=PROPERTIES)))
    runs = clock("rle", _rle, labels)
    return clock.seconds, {"mask": mask, "field": field, "seeds": seeds, "labels": labels, "table": table, "rle": runs}


def _dark_background(image: np.ndarray) -> np.ndarray:
    low, middle, high = np.percentile(image, [1, 50, 99])
    return low + high - image if middle > (low + high) / 2 else image


def _drop_small(mask: np.ndarray) -> np.ndarray:
    # What remove_small_objects does; written out because the name of its argument depends on the version.
    pieces, _ = ndi.label(mask, structure=np.ones((3, 3)))
    large = np.bincount(pieces.ravel()) > AREA
    large[0] = False
    return large[pieces]


def _maxima(field: np.ndarray) -> np.ndarray:
    peaks = feature.peak_local_max(field, min_distance=APART, threshold_abs=0, exclude_border=False)
    seeds = np.zeros(field.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return seeds


def _rle(labels: np.ndarray) -> pd.DataFrame:
    """Encode one object after the other, each within its own box."""
    height, rows = labels.shape[0], []
    for number, box in enumerate(ndi.find_objects(labels), 1):
        if box is None:
            continue
        x, y = np.nonzero((labels[box] == number).T)
        pixels = (x + box[1].start) * height + (y + box[0].start) + 1
        breaks = np.flatnonzero(np.diff(pixels) != 1) + 1
        starts = np.concatenate([[0], breaks])
        lengths = np.diff(np.concatenate([starts, [len(pixels)]]))
        pairs = np.stack([pixels[starts], lengths], axis=1)
        rows.append((number, " ".join(map(str, pairs.ravel().tolist()))))
    return pd.DataFrame(rows, columns=["label", "EncodedPixels"])


def equal_share(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the share of pixels with the same label once objects are paired: each with the one it shares most with.

    The two number their objects in different orders, so numbers as such say nothing; a pair counts where each is the
    other's largest overlap.
    """
    width = int(theirs.max()) + 1
    pairs, counts = np.unique(ours.ravel().astype(np.int64) * width + theirs.ravel(), return_counts=True)
    a, b = np.divmod(pairs, width)
    order = np.argsort(counts, kind="stable")
    of_ours = dict(zip(a[order].tolist(), b[order].tolist(), strict=True))  # the largest comes last and stays
    of_theirs = dict(zip(b[order].tolist(), a[order].tolist(), strict=True))
    both = ((a == 0) == (b == 0)) & [
        of_ours[i] == j and of_theirs[j] == i for i, j in zip(a.tolist(), b.tolist(), strict=True)
    ]
    return float(counts[both].sum() / ours.size)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Say, step by step, how much of the two results is equal, and what the later steps make of equal input."""
    s = ck.stages
    mask = theirs["mask"]
    field = s.distance(mask)
    seeds = s.maxima(field, min_distance=APART)
    theirs_field = theirs["field"].astype(np.float32)
    flooded = s.watershed(theirs_field, theirs["seeds"], mask)
    apart = int((ours["mask"] != mask).sum())
    largest = float(np.abs(field - theirs["field"]).max())
    moved = int(((seeds > 0) != (theirs["seeds"] > 0)).sum())
    onward = equal_share(s.watershed(field, seeds, mask), theirs["labels"])
    return [
        f"labels of the whole chain               {equal_share(ours['labels'], theirs['labels']):9.4%} equal:",
        f"mask                                    {1 - apart / mask.size:9.4%} equal, {apart} px differ: "
        "Otsu over 256 bins there, over all values here",
        f"distance of one mask                    differs by {largest:.1g} px at most: float64 there, float32 here",
        f"seeds of one mask                       {moved} px differ, {int((seeds > 0).sum())} seeds: "
        "of equally high maxima that close only one stays here, there more at just that distance",
        f"labels of one mask                      {onward:9.4%} equal: objects whose seeds differ",
        f"watershed of one field, seeds and mask  {equal_share(flooded, theirs['labels']):9.4%} equal: "
        "order of seeds of equal height, which moves pixels equally near to both",
    ]


def best(pixels: np.ndarray, runs: int) -> tuple[Outcome, Outcome]:
    """Return, for cellkit and for scikit-image, every step's shortest time and the last result.

    The two take turns, so that whatever else the machine does meets both.
    """
    chains = (with_cellkit, with_skimage)
    times: tuple[dict[str, float], ...] = ({}, {})
    results: list[dict[str, Any]] = [{}, {}]
    for _ in range(runs):
        for which, chain in enumerate(chains):
            seconds, results[which] = chain(pixels)
            for step, taken in seconds.items():
                times[which][step] = min(taken, times[which].get(step, taken))
    return (times[0], results[0]), (times[1], results[1])


def main(sides: list[int]) -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    for chain in (with_cellkit, with_skimage):
        chain(dense_field(128))
    for side in sides:
        pixels = dense_field(side)
        runs = 5 if side <= 2048 else 2
        (fast, ours), (slow, theirs) = best(pixels, runs)
        print(f"\n{side} x {side} px, {len(ours['table'])} objects; best of {runs}, one thread")
        print(f"{'step':18}{'scikit-image, ms':>18}{'cellkit, ms':>14}{'ratio':>8}")
        for step in STEPS:
            print(f"{step:18}{slow[step] * 1e3:18.1f}{fast[step] * 1e3:14.1f}{slow[step] / fast[step]:8.1f}")
        total = sum(slow.values()), sum(fast.values())
        print(f"{'all':18}{total[0] * 1e3:18.1f}{total[1] * 1e3:14.1f}{total[0] / total[1]:8.1f}")
        print(*differences(ours, theirs), sep="\n")


if __name__ == "__main__":
    main([int(side) for side in sys.argv[1:]] or [512, 1024, 2048, 4096])
