"""Deal out the images of a data set to training and validation, once and for all, before anything is trained.

``python examples/systems/splits.py glas DATA`` writes split.csv of that system from the data set in the folder DATA,
always the same for the same data. Only names are written, never images. Images that show the same, as the audit finds
them and as duplicates.csv of the bacteria lists them, stay together.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cellkit.io.datasets import Dataset, open_dataset
from cellkit.io.datasets.audit import audit
from cellkit.train.splits import Row, Split, hold_out, make_folds, split_of, write_split

HERE = Path(__file__).parent


def glas(data: Dataset) -> Split:
    """Hold out a fifth of the visual fields, never a part of one, benign and malignant balanced."""
    rows = (Row(row.name, group=row.value("field"), fields=row.fields) for row in split_of(data))
    return hold_out(Split(tuple(rows)), 0.2, stratify="grade")


def blood(data: Dataset) -> Split:
    """Hold out a fifth of the images."""
    return hold_out(_with_copies(data, ()), 0.2)


def bacteria(data: Dataset) -> Split:
    """Make three folds, of which the first is the part for validation."""
    with (data.folder / "duplicates.csv").open(encoding="utf-8") as file:
        known = [(row["a"], row["b"]) for row in csv.DictReader(file)]
    dealt = make_folds(_with_copies(data, known), 3)
    return Split(tuple(replace(row, part="val" if row.fold == 0 else "train") for row in dealt))


def _with_copies(data: Dataset, known: Iterable[tuple[str, str]]) -> Split:
    """Return the images, each in a group with those that show the same."""
    same = {pair.name: pair.name for pair in data}
    found = [
        (fault.image, fault.other) for fault in audit(data).findings if fault.check in ("near copy", "other truth")
    ]
    for a, b in [*known, *found]:
        if a in same and b in same:
            same = {name: same[a] if group == same[b] else group for name, group in same.items()}
    return Split(tuple(Row(pair.name, group=same[pair.name]) for pair in data))


SYSTEMS = {
    "glas": ("3-glas-glands", glas),
    "blood": ("4-blood-smears", blood),
    "bacteria": ("5-darkfield-bacteria", bacteria),
}

if __name__ == "__main__":
    name, make = SYSTEMS[sys.argv[1]]
    write_split(HERE / name / "split.csv", make(open_dataset(Path(sys.argv[2]))))
