"""cellkit: from a folder of microscopy images to objects, by recipes of stages.

The public names are loaded when first used, so that ``import cellkit`` is quick::

    import cellkit as ck

    recipe = ck.Recipe.read("nuclei-classical")
    result = ck.run(recipe, ck.read("plate/a01.png"))
    ck.write("a01_labels.tif", result["labels"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cellkit.core import registry as _registry
from cellkit.core import sample as _sample

_registry.builtin("cellkit.stages", "cellkit.grid.brackets")
# Pictures are none of core's business, but a notebook asks the sample itself.
_sample.shown_by(lambda sample: importlib.import_module("cellkit.report.notebook").sample_html(sample))

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cellkit import stages
    from cellkit.core import (
        OBJECT,
        WHOLE,
        Boxes,
        CellkitError,
        Classes,
        Fault,
        Field,
        FromSample,
        Histogram,
        Image,
        Instances,
        Labels,
        Mask,
        Model,
        Prob,
        Recipe,
        Sample,
        Span,
        Table,
        check,
        stage,
    )
    from cellkit.engine import run, run_batch
    from cellkit.io import read, read_labels, write
    from cellkit.report import show

_HOME = {
    **dict.fromkeys(("read", "read_labels", "write"), "cellkit.io"),
    **dict.fromkeys(("run", "run_batch"), "cellkit.engine"),
    "show": "cellkit.report",
}
_MODULES = ("stages", "metrics", "formats", "io", "engine", "grid", "report", "core", "models")

__all__ = [
    "OBJECT",
    "WHOLE",
    "Boxes",
    "CellkitError",
    "Classes",
    "Fault",
    "Field",
    "FromSample",
    "Histogram",
    "Image",
    "Instances",
    "Labels",
    "Mask",
    "Model",
    "Prob",
    "Recipe",
    "Sample",
    "Span",
    "Table",
    "check",
    "read",
    "read_labels",
    "run",
    "run_batch",
    "show",
    "stage",
    "stages",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"cellkit.{name}")
    if name in __all__:
        return getattr(importlib.import_module(_HOME.get(name, "cellkit.core")), name)
    raise AttributeError(f"module 'cellkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
