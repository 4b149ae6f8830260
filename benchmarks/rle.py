"""RLE of every object of a label image: cellkit in one pass against pycocotools on the stacked masks.

Run as ``python benchmarks/rle.py``. Prints the best of several runs in milliseconds, the ratio, and whether the two
texts are equal once the COCO counts are converted to Kaggle's pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco
from scipy.spatial import cKDTree

from cellkit.formats.rle import decode_labels, encode_labels


def nuclei(side: int, count: int, seed: int = 0) -> np.ndarray:
    """Return a label image, int32 (side, side), of `count` discs, many of which touch along a straight border."""
    rng = np.random.default_rng(seed)
    grid = int(np.ceil(np.sqrt(count)))
    cells = np.stack(np.divmod(np.arange(count), grid), axis=1)
    centres = (cells + 0.5 + rng.uniform(-0.35, 0.35, (count, 2))) * side / grid
    distance, nearest = cKDTree(centres).query(np.stack(np.mgrid[:side, :side], axis=-1).reshape(-1, 2))
    radius = rng.uniform(0.3, 0.55, count) * side / grid
    return np.where(distance < radius[nearest], nearest + 1, 0).astype(np.int32).reshape(side, side)


def best(call: Callable[[], Any], runs: int) -> float:
    """Return the shortest of `runs` times in milliseconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def kaggle_pairs(counts: bytes) -> str:
    """Convert a compressed COCO string to Kaggle's pairs."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        digit = byte - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit >> 4 & 1) << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    starts = np.cumsum(runs) + 1
    return " ".join(f"{starts[i - 1]} {runs[i]}" for i in range(1, len(runs), 2))


def main() -> None:
    """Measure and print."""
    labels = nuclei(1024, 850)
    ids, texts = encode_labels(labels)
    # Stacking is counted apart: it is work only the other way needs, but no part of its encoder.
    start = time.perf_counter()
    columns = np.ascontiguousarray(labels.T)
    stack = np.stack([columns == i for i in ids]).view(np.uint8).T
    stacking = (time.perf_counter() - start) * 1000
    equal = [kaggle_pairs(found["counts"]) for found in coco.encode(stack)] == texts
    ours, theirs = best(lambda: encode_labels(labels), 20), best(lambda: coco.encode(stack), 3)
    back = best(lambda: decode_labels(texts, labels.shape), 20)
    print(f"{labels.shape[0]} x {labels.shape[1]} px, {len(ids)} objects; equal: {equal}")
    print(f"pycocotools, stacked masks   {theirs:8.1f} ms (and {stacking:.0f} ms to stack them)")
    print(f"cellkit, every object        {ours:8.1f} ms")
    print(f"ratio                        {theirs / ours:8.1f}")
    print(f"cellkit, back to labels      {back:8.1f} ms")


if __name__ == "__main__":
    main()
