"""Networks as predictors: architectures, cards, weights, and prediction over tiles of any image.

torch is imported by what builds or runs a network, never by what lists or describes one.
"""

from __future__ import annotations

import importlib
from typing import Any

# A module sets its name in its package when it is first imported; here, so that the functions below have the last word.
import cellkit.models.architecture
import cellkit.models.architectures  # noqa: F401
from cellkit.models.architecture import ArchitectureSpec, architecture, architectures, build
from cellkit.models.card import HEADS, Card
from cellkit.models.store import Located, find_model, load_network, models, save_model

# What needs torch as soon as it is imported.
_LAZY = {
    "Inference": "cellkit.models.inference",
    "Network": "cellkit.models.runtime",
    "open_model": "cellkit.models.runtime",
    "export_onnx": "cellkit.models.onnx_export",
    "measure_context": "cellkit.models.context",
}

__all__ = [
    "HEADS",
    "ArchitectureSpec",
    "Card",
    "Inference",
    "Located",
    "Network",
    "architecture",
    "architectures",
    "build",
    "export_onnx",
    "find_model",
    "load_network",
    "measure_context",
    "models",
    "open_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
