"""How a data set is scored, by name: what is counted, how images are pooled, and every number that follows."""

from __future__ import annotations

from collections.abc import Mapping

from cellkit.metrics import classwise, gland, instance, objectwise, pixel, semantic
from cellkit.metrics.report import Protocol, Report, Settings

__all__ = ["PROTOCOLS", "Protocol", "Report", "Settings"]

PROTOCOLS: Mapping[str, Protocol] = {
    "dsb2018": Protocol("dsb2018", "DSB2018 score", instance.count, objectwise.dsb2018, ("images",)),
    "pixel": Protocol("pixel", "Dice (F1)", pixel.count, classwise.foreground),
    "semantic": Protocol("semantic", "mean IoU", semantic.count, classwise.classes),
    "glas": Protocol("glas", "object F1 (GlaS)", gland.count, objectwise.glas, variants=("v6", "older")),
    "instances": Protocol(
        "instances",
        "mean AP over IoU 0.50:0.95 (matching)",
        objectwise.count,
        objectwise.instances,
        variants=("majority", "caicedo"),
    ),
}
