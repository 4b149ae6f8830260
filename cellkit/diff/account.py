"""What differs between two runs in words, and as rows of tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from cellkit.diff.compare import LOUD, Difference, ImageDiff
from cellkit.diff.tables import Shift
from cellkit.metrics.changes import RULE

__all__ = ["csv_rows", "document", "headline", "image_rows", "measurement_rows", "number", "setting_rows", "text_of"]

Rows = tuple[list[str], list[list[str]]]
_SHOWN = ("same", "kept", *LOUD)
_LETTERS = 60


def headline(found: Difference) -> str:
    """Return in one line whether anything differs."""
    images = f"{found.total:,} image{'s' * (found.total != 1)}"
    if not found.differs:
        return f"no difference: {images}"
    what = f"{len(found.images):,} of {images} differ"
    if not found.moves:
        return f"{what}, but only in the edges of objects, with an IoU of {found.limit:g} or more"
    counts = _counts(found)
    parts = [f"{counts[name]:,} {name}" for name in LOUD if counts[name]]
    return f"{what}: objects {', '.join(parts)}" if parts else what


def image_rows(images: Sequence[ImageDiff]) -> Rows:
    """Return the head and rows of a table of `images`: a row for each layer that differs, or for the whole image."""
    head = ["image", "layer", "before", "after", *_SHOWN, "median IoU", "what else"]
    rows = []
    for image in images:
        rest = text_of(image)
        layers = [layer for layer in image.layers if layer.differs]
        for layer in layers:
            counts = [f"{layer.counts[name]:,}" if name in layer.counts else "" for name in _SHOWN]
            more = f"{layer.pixels:,} px differ" if layer.pixels else ""
            objects = ["", ""] if layer.pixels else [f"{layer.before:,}", f"{layer.after:,}"]
            what = "; ".join(filter(None, (more, rest)))
            rows.append([image.name, layer.name, *objects, *counts, number(layer.iou, 3), what])
            rest = ""
        if not layers:
            moved = sorted({s.column for shifts in image.measurements.values() for s in shifts if s.differing})
            columns = ", ".join(moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
            what = rest or f"measurements differ: {columns}"
            rows.append([image.name, "", "", "", *[""] * len(_SHOWN), "", what])
    return head, rows


def text_of(image: ImageDiff) -> str:
    """Return in words what differs of an image as a whole."""
    parts = [image.state] if image.state else []
    for entry in (image.before, image.after):
        if image.state.startswith("failed") and entry is not None and not entry.done:
            parts.append(entry.reason)
    return "; ".join((*parts, *image.faults, *image.notes))


def measurement_rows(shifts: Sequence[Shift]) -> Rows:
    """Return the head and rows of a table of measurements of paired objects."""
    head = ["measurement", "objects", "differ", "median before", "after", "median shift", "quartiles of the shift"]
    rows = [
        [
            one.column, f"{one.objects:,}", f"{one.differing:,}", number(one.before), number(one.after),
            number(one.median, sign="+"),
            "" if math.isnan(one.low) else f"{number(one.low, sign='+')} to {number(one.high, sign='+')}",
        ]
        for one in shifts
        if one.differing
    ]  # fmt: skip
    return head, rows


def setting_rows(found: Difference) -> Rows:
    """Return the head and rows of a table of the settings that differ."""
    rows = [[name, _said(one), _said(two)] for name, (one, two) in found.settings.items()]
    if found.inputs:
        rows.append(["image files", "", f"{len(found.inputs):,} differ, such as {found.inputs[0]}"])
    return ["setting", "before", "after"], rows


def number(value: float, digits: int = 4, sign: str = "") -> str:
    """Return a number as tables show it; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:{sign}.{digits}g}"


def document(found: Difference) -> dict[str, Any]:
    """Return everything as plain data: numbers that are none are None."""
    counts = _counts(found)
    return {
        "before": str(found.before.folder),
        "after": str(found.after.folder),
        "differs": found.differs,
        "iou_limit": found.limit,
        "rule": RULE,
        "images": found.total,
        "images_that_differ": len(found.images),
        "objects": counts,
        "settings": {name: {"before": one, "after": two} for name, (one, two) in found.settings.items()},
        "changed_image_files": list(found.inputs),
        "measurements": {name: [_shift(s) for s in shifts] for name, shifts in found.measurements.items()},
        "per_image": [_image(image) for image in found.images],
    }


def csv_rows(found: Difference) -> Iterator[list[str]]:
    """Yield the head and a row for each layer of each image that differs."""
    head, rows = image_rows(found.images)
    yield [name.replace(" ", "_") for name in head]
    yield from (
        [cell.replace(",", "") if 2 <= i < len(row) - 1 else cell for i, cell in enumerate(row)] for row in rows
    )


def _counts(found: Difference) -> dict[str, int]:
    layers = [layer for image in found.images for layer in image.layers]
    return {name: sum(layer.counts.get(name, 0) for layer in layers) for name in _SHOWN}


def _image(image: ImageDiff) -> dict[str, Any]:
    told: dict[str, Any] = {"image": image.name}
    if image.state:
        told["state"] = image.state
    for key, entry in (("before", image.before), ("after", image.after)):
        if entry is not None and entry.reason:
            told[f"reason_{key}"] = entry.reason
    told["layers"] = [
        {
            "layer": layer.name,
            **({"pixels": layer.pixels} if layer.pixels else {"before": layer.before, "after": layer.after}),
            **layer.counts,
            "median_iou": _plain(layer.iou),
        }
        for layer in image.layers
    ]
    told["measurements"] = {name: [_shift(s) for s in shifts] for name, shifts in image.measurements.items()}
    return {**told, "faults": list(image.faults), "notes": list(image.notes)}


def _shift(one: Shift) -> dict[str, Any]:
    told = {
        "measurement": one.column,
        "objects": one.objects,
        "differing": one.differing,
        "median_before": _plain(one.before),
        "median_after": _plain(one.after),
        "median_shift": _plain(one.median),
        "quartiles_of_shift": [_plain(one.low), _plain(one.high)],
    }
    return told if one.thinned == 1 else {**told, "one_of": one.thinned}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _said(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
