"""The stages: pure functions from layers to a layer, one idea a file, each callable without any recipe.

::

    mask = ck.stages.otsu(image, ck.stages.histogram(image))
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from cellkit.core import Histogram, UsageError, registry

histogram = Histogram.of


class _Stages(ModuleType):
    """A package whose names are its stages: importing the file `threshold` must not hide the stage `threshold`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return registry.get(name).function
        except UsageError as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*registry.stages(), "histogram"]


sys.modules[__name__].__class__ = _Stages
