"""The stages: pure functions from layers to a layer, one idea a file. Each is callable without any recipe::

mask = ck.stages.otsu(image, ck.stages.histogram(image))
"""

from __future__ import annotations

from typing import Any

from cellkit.core import Histogram, UsageError, registry

histogram = Histogram.of


def __getattr__(name: str) -> Any:
    try:
        return registry.get(name).function
    except UsageError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return [*registry.stages(), "histogram"]
