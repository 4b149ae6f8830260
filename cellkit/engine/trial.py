"""Try a recipe before running it: does every file open, and does every kind of file pass the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellkit.core.check import Plan
from cellkit.core.errors import CellkitError
from cellkit.core.sample import Sample
from cellkit.engine.execute import execute

__all__ = ["try_images"]

_SIDE = 256


def try_images(plan: Plan, images: Sequence[str | Path]) -> Iterator[tuple[str, bool]]:
    """Yield a line for every image and whether it is fine.

    Every file is read; the recipe is run on the middle 256 px of the first file of each number of channels.
    """
    from cellkit.io import find, read

    options = plan.recipe.read_options
    tried: dict[tuple[int, tuple[str, ...]], tuple[str, str]] = {}
    for source in find(images, options):
        try:
            sample = read(source, options)
        except CellkitError as error:
            yield f"{source.name}: {error}", False
            continue
        raw = sample.layer("raw")
        height, width, channels = raw.value.shape
        what = f"{source.name}: {height} x {width} px, {channels} channel{'s' if channels > 1 else ''}"
        key = (channels, raw.names)
        if key not in tried:
            try:
                execute(plan, _middle(sample))
                tried[key] = source.name, ""
            except CellkitError as error:
                tried[key] = source.name, str(error)
        first, fault = tried[key]
        if fault:
            yield f"{what}: {fault if first == source.name else f'as {first}'}", False
        else:
            yield "; ".join([what, *sample.notes]), True


def _middle(sample: Sample) -> Sample:
    height, width = sample.shape
    top, left = max(0, (height - _SIDE) // 2), max(0, (width - _SIDE) // 2)
    small = sample
    for name, layer in sample.layers.items():
        part = np.ascontiguousarray(layer.value[top : top + _SIDE, left : left + _SIDE])
        small = small.with_layer(name, layer.kind, part, layer.names)
    return replace(small, notes=())
