"""Scores as pure functions: count(truth, pred) gives additive counts, score(counts) numbers.

One module for each thing that is compared: `instance` (objects, Data Science Bowl 2018), `matching` (objects one to
one: precision, recall, F1, accuracy, PQ), `aji`, `faults` (split, merged, missed, extra), `gland` (GlaS), `pixel`
(foreground), `semantic` (classes). `contingency` is the table they share, `hausdorff` the distances, `pooling` how
images become one number and its interval, `protocols` the scores by name.
"""

from cellkit.metrics import aji, faults, gland, hausdorff, instance, matching, pixel, semantic
from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.protocols import PROTOCOLS, Protocol, Report, Settings

__all__ = [
    "PROTOCOLS",
    "Contingency",
    "Protocol",
    "Report",
    "Settings",
    "aji",
    "contingency",
    "faults",
    "gland",
    "hausdorff",
    "instance",
    "matching",
    "pixel",
    "semantic",
]
