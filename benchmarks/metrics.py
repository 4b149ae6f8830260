"""Scores of objects against the usual ways to compute them, as ratios.

Run as ``python benchmarks/metrics.py``; every figure comes from this one run.

* Ten thresholds on a 2048 px pair of 3,400 objects: one sparse table against StarDist's `matching` once a threshold
  (its own file where stardist is installed, ``pip install --no-deps stardist tqdm``, else the same steps written here).
* Object Hausdorff distance of 500 objects: distance transforms of cropped boxes against all pairs of pixels.
* A 20,000 x 20,000 pair of 200,000 objects on disk, read in strips: time and the largest memory of the process.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rle import best, nuclei
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, directed_hausdorff

from cellkit.metrics import contingency, gland, instance, matching, objectwise
from cellkit.metrics.pooling import total

SIDE, OBJECTS, STRIP = 20_000, 200_000, 500


def shifted(labels: np.ndarray, by: int) -> np.ndarray:
    """Return labels moved a few pixels down and renumbered, as a prediction that is nearly right."""
    moved = np.roll(labels, by, axis=0)
    order = np.random.default_rng(1).permutation(labels.max()) + 1
    return np.concatenate([[0], order]).astype(np.int32)[moved]


def stardist() -> tuple[Callable[..., Any], str]:
    """Return StarDist's `matching` and where it comes from."""
    found = importlib.util.find_spec("stardist")
    if found is None or not found.submodule_search_locations:
        return rewritten, "its steps written anew, as stardist is not installed"
    stub = types.ModuleType("csbdeep.utils")
    stub._raise = print  # type: ignore[attr-defined]
    # The file alone: the package around it wants TensorFlow's friends.
    sys.modules.setdefault("csbdeep", types.ModuleType("csbdeep"))
    sys.modules.setdefault("csbdeep.utils", stub)
    path = Path(found.submodule_search_locations[0]) / "matching.py"
    spec = importlib.util.spec_from_file_location("stardist_matching", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.matching, "its own file"


def rewritten(truth: np.ndarray, pred: np.ndarray, thresh: float) -> Any:
    """Match by a dense table and an assignment, as StarDist does."""
    table = np.zeros((truth.max() + 1, pred.max() + 1), np.uint64)
    np.add.at(table, (truth.ravel(), pred.ravel()), 1)
    union = table.sum(0, keepdims=True) + table.sum(1, keepdims=True) - table
    scores = np.divide(table, union, out=np.zeros(table.shape, np.float32), where=union > 0)[1:, 1:]
    rows, columns = linear_sum_assignment(-(scores >= thresh).astype(float) - scores / (2 * min(scores.shape)))
    return types.SimpleNamespace(tp=int((scores[rows, columns] >= thresh).sum()))


def ten_thresholds() -> None:
    """Compare the score at ten thresholds."""
    truth = nuclei(2048, 3400)
    pred = shifted(truth, 3)
    theirs, where = stardist()
    theirs(truth[:64, :64], pred[:64, :64], thresh=0.5)  # compiles
    start = time.perf_counter()
    hits = [theirs(truth, pred, thresh=t).tp for t in matching.THRESHOLDS]
    slow = (time.perf_counter() - start) * 1000
    ours = best(lambda: matching.count(truth, pred), 10)
    dsb = best(lambda: instance.count(truth, pred), 10)
    every = best(lambda: objectwise.count(truth, pred), 10)
    objects = len(np.unique(truth)) - 1
    equal = matching.count(truth, pred).hits.tolist() == hits
    print(f"ten thresholds, {truth.shape[0]} x {truth.shape[1]} px, {objects:,} objects; equal: {equal}")
    print(f"StarDist matching per threshold ({where})   {slow:9.1f} ms")
    print(f"cellkit matching, all ten                   {ours:9.1f} ms   ratio {slow / ours:7.1f}")
    print(f"cellkit DSB2018 score                       {dsb:9.1f} ms   ratio {slow / dsb:7.1f}")
    print(f"cellkit, every instance score               {every:9.1f} ms   ratio {slow / every:7.1f}\n")


def all_pairs(truth: np.ndarray, pred: np.ndarray, way: str) -> float:
    """Return the object Hausdorff distance by all pairs of pixels of partners, as evaluation scripts do."""
    sides = []
    for own, other in ((truth, pred), (pred, truth)):
        pixels = {i: np.argwhere(other == i) for i in np.unique(other) if i}
        value, area = 0.0, 0
        for i in np.unique(own):
            if not i:
                continue
            mine = np.argwhere(own == i)
            met = other[tuple(mine.T)]
            partner = pixels[int(np.bincount(met[met > 0]).argmax())]
            if way == "directed_hausdorff":
                away = max(directed_hausdorff(mine, partner)[0], directed_hausdorff(partner, mine)[0])
            else:
                every = cdist(mine, partner)
                away = max(every.min(axis=0).max(), every.min(axis=1).max())
            value += away * len(mine)
            area += len(mine)
        sides.append(value / area)
    return sum(sides) / 2


def hausdorff() -> None:
    """Compare the object Hausdorff distance of 500 objects."""
    truth = nuclei(1500, 500)
    pred = shifted(truth, 4)
    ours = best(lambda: gland.count(truth, pred), 5)
    value = gland.object_hausdorff(gland.count(truth, pred))
    print(f"object Hausdorff, {truth.shape[0]} x {truth.shape[1]} px, {len(np.unique(truth)) - 1} objects")
    print(f"cellkit, all three GlaS scores              {ours:9.1f} ms")
    for way in ("all pairs of pixels", "directed_hausdorff"):
        start = time.perf_counter()
        other = all_pairs(truth, pred, way)
        slow = (time.perf_counter() - start) * 1000
        same = math.isclose(value, other)
        print(f"{way:<43} {slow:9.1f} ms   ratio {slow / ours:7.1f}   equal: {same}")
    print()


def write_large(folder: Path) -> None:
    """Write a large pair of label images as .npy, strip by strip."""
    rows = SIDE // STRIP
    tile = nuclei(STRIP, OBJECTS // rows**2)
    offset = int(tile.max())
    files = [
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.int32, (SIDE, SIDE)) for name in ("truth", "pred")
    ]
    for row in range(rows):
        strip = np.concatenate([np.where(tile > 0, tile + offset * (row * rows + i), 0) for i in range(rows)], axis=1)
        files[0][row * STRIP : (row + 1) * STRIP] = strip
        files[1][row * STRIP : (row + 1) * STRIP] = np.roll(strip, 2, axis=1)
    for file in files:
        file.flush()


def score_large(folder: Path) -> None:
    """Score the pair in strips that are read one at a time, and print the largest memory of this process."""
    import psutil

    process, peak = psutil.Process(), 0
    start = time.perf_counter()
    tables = []
    height = 1 << 8
    for top in range(0, SIDE, height):
        strip = []
        for name in ("truth", "pred"):
            with (folder / f"{name}.npy").open("rb") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                rows = min(height, SIDE - top)
                file.seek(top * SIDE * 4, 1)
                strip.append(np.fromfile(file, np.int32, rows * SIDE).reshape(rows, SIDE))
        tables.append(contingency(*strip))
        peak = max(peak, process.memory_info().rss)
    table = total(tables, contingency(np.zeros((0, 1), int), np.zeros((0, 1), int)))
    counts = objectwise.count_table(table)
    peak = max(peak, process.memory_info().rss)
    status = Path("/proc/self/status")
    if status.is_file():  # the kernel's own mark; elsewhere the largest of those taken above
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        peak = int(line.split()[1]) * 1024
    print(
        f"{SIDE:,} x {SIDE:,} px, {counts.matched.truths:,} and {counts.matched.preds:,} objects, every instance score"
    )
    print(
        f"mean AP {matching.score(counts.matched):.4f}; {time.perf_counter() - start:.1f} s; peak {peak / 1e9:.2f} GB"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score-large", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.score_large is not None:
        score_large(given.score_large)
        return
    ten_thresholds()
    hausdorff()
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder))
        # A process of its own, so that its memory is that of the scoring alone.
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, "--score-large", folder], check=True)


if __name__ == "__main__":
    main()
