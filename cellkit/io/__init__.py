"""Read images and labels, find them in folders, write results.

The names are loaded when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellkit.io.info import Info
    from cellkit.io.labelfile import LabelFile, RasterFile
    from cellkit.io.omezarr import LabelStore
    from cellkit.io.reader import probe, read, read_labels
    from cellkit.io.samples import fluorescence_field, write_samples
    from cellkit.io.slides import Slide, SlideSpec, open_slide
    from cellkit.io.sources import Source, find
    from cellkit.io.temporary import atomic
    from cellkit.io.writer import write, write_image, write_labels, write_mask, write_prob

_HOME = {
    "Info": "info",
    "LabelFile": "labelfile",
    "LabelStore": "omezarr",
    "RasterFile": "labelfile",
    "Slide": "slides",
    "SlideSpec": "slides",
    "Source": "sources",
    "atomic": "temporary",
    "find": "sources",
    "fluorescence_field": "samples",
    "open_slide": "slides",
    "probe": "reader",
    "read": "reader",
    "read_labels": "reader",
    "write": "writer",
    "write_image": "writer",
    "write_labels": "writer",
    "write_mask": "writer",
    "write_prob": "writer",
    "write_samples": "samples",
}

__all__ = [
    "Info",
    "LabelFile",
    "LabelStore",
    "RasterFile",
    "Slide",
    "SlideSpec",
    "Source",
    "atomic",
    "find",
    "fluorescence_field",
    "open_slide",
    "probe",
    "read",
    "read_labels",
    "write",
    "write_image",
    "write_labels",
    "write_mask",
    "write_prob",
    "write_samples",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"cellkit.io.{_HOME[name]}"), name)
    raise AttributeError(f"module 'cellkit.io' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
