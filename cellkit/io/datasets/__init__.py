"""Data sets: folders of images and their truth, in the layouts that they are published in.

`open_dataset` tells the layout and returns a `Dataset` of `Pair`s, none of which is read before it is asked for;
`audit` looks through all of them for faults.
"""

from __future__ import annotations

from cellkit.io.datasets.audit import Audit, audit
from cellkit.io.datasets.findings import CHECKS, Finding
from cellkit.io.datasets.layouts import LAYOUTS, open_dataset
from cellkit.io.datasets.pairs import Dataset, Missing, Pair

__all__ = ["CHECKS", "LAYOUTS", "Audit", "Dataset", "Finding", "Missing", "Pair", "audit", "open_dataset"]
