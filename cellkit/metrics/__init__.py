"""Scores as pure functions: count(truth, pred) gives additive counts, score(counts) numbers.

One module for each thing that is compared: `instance` (objects), `pixel` (foreground), `semantic` (classes).
`contingency` is the table they share, `pooling` how images become one number, `protocols` the scores by name.
"""

from cellkit.metrics import instance, pixel, semantic
from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.protocols import PROTOCOLS, Protocol, Report

__all__ = ["PROTOCOLS", "Contingency", "Protocol", "Report", "contingency", "instance", "pixel", "semantic"]
