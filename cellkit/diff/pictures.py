"""The part of an image in which most changed, read for a page: the picture and the objects of both runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellkit.core.errors import CellkitError
from cellkit.diff.account import text_of
from cellkit.diff.codes import Codes
from cellkit.diff.compare import RLE, Difference, Kept
from cellkit.diff.labels import QUIET, Compared, coded
from cellkit.diff.runs import Entry, Run
from cellkit.grid.cover import Window
from cellkit.io.labelfile import LabelFile
from cellkit.report.diffpage import Side, View

__all__ = ["views_of"]

_WHOLE = 2048
"""Images up to this side, px, are shown whole."""
_SIDE, _CELL = 1024, 64


def views_of(found: Difference) -> list[View]:
    """Return what a page shows of the images kept in `found`, a view for each label layer, the most changed first.

    A file that is gone is said in the view's `note`; nothing is raised for it.
    """
    return [
        _view(found, kept, name, compared)
        for kept in found.kept
        for name, compared in kept.compared.items()
        if next((layer.differs for layer in kept.image.layers if layer.name == name), False)
    ]


def _view(found: Difference, kept: Kept, name: str, compared: Compared) -> View:
    layer = next(layer for layer in kept.image.layers if layer.name == name)
    window, sides = compared.busiest, None
    notes = [text_of(kept.image)]
    try:
        fits = max(compared.shape) <= _WHOLE
        read = Window(0, 0, *compared.shape) if fits else compared.busiest
        runs = (found.before, found.after)
        labels = [_labels(run, name, kept.image.name, read) for run in runs]
        ids, codes = (compared.before_ids, compared.after_ids), (compared.changes.before, compared.changes.after)
        both = [Side(labels[i].astype(np.int64), coded(labels[i], ids[i], codes[i])) for i in range(2)]
        window = read if fits else _busiest(read, both)
        at = window.within(read).slices
        sides = both[0].cut(*at), both[1].cut(*at)
    except CellkitError as error:
        notes.append(str(error))
    picture = None
    if sides is not None:
        picture, fault = _picture(found, kept.image.after, window, compared.shape)
        notes.append(fault)
    place = "" if window.shape == compared.shape else f"rows {window.top:,} to {window.bottom:,}, columns {window.left:,} to {window.right:,}"  # fmt: skip # noqa: E501
    counts = {"before": layer.before, "after": layer.after, **layer.counts}
    return View(kept.image.name, name, compared.shape, place, sides, picture, counts, layer.iou, "; ".join(filter(None, notes)))  # fmt: skip # noqa: E501


def _labels(run: Run, layer: str, image: str, window: Window) -> np.ndarray:
    path = run.labels(layer, image)
    if path is None and layer == RLE:
        return Codes(run).labels(image)[window.slices]
    with LabelFile(path if path is not None else run.folder / layer / image) as file:
        return file.read(window)


def _busiest(window: Window, sides: list[Side]) -> Window:
    """Return the part of a window, 1,024 px at most, in which the most pixels are of objects that did not stay."""
    loud = np.zeros(window.shape, bool)
    for side in sides:
        loud |= side.codes > QUIET + 1
    cells = np.zeros([-(-side // _CELL) for side in window.shape], np.int64)
    rows, columns = np.nonzero(loud)
    np.add.at(cells, (rows // _CELL, columns // _CELL), 1)
    total = np.pad(cells.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    tall, wide = (min(_SIDE // _CELL, side) for side in cells.shape)
    sums = total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    top, left = window.top + int(row) * _CELL, window.left + int(column) * _CELL
    return Window(top, left, min(top + _SIDE, window.bottom), min(left + _SIDE, window.right))


def _picture(
    found: Difference, entry: Entry | None, window: Window, shape: tuple[int, int]
) -> tuple[np.ndarray | None, str]:
    """Return the pixels that the objects lie on, float32 (y, x, c), or None and why."""
    from cellkit.io import Source, open_slide

    paths = tuple(map(Path, entry.source.split(" + "))) if entry is not None and entry.source else ()
    if not paths or not all(path.exists() for path in paths):
        return None, f"the image is not there: {entry.source if entry is not None else ''}"
    try:
        with open_slide(Source(entry.name if entry is not None else "", paths), found.after.read_options) as slide:
            if slide.shape != shape:
                return None, "the objects were found at another resolution than that of the image"
            return slide.read(window)["raw"], ""
    except CellkitError as error:
        return None, str(error)
