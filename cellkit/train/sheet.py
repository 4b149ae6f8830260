"""One self-contained HTML page of what a network will see: crops after augmentation, their truth and their targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from cellkit.core import Boxes, Instances, UsageError
from cellkit.report.display import display
from cellkit.report.overlay import overlay
from cellkit.report.palette import BRIGHT, colored
from cellkit.report.style import CSS, PAGE, SCRIPT
from cellkit.report.views import data_uri

__all__ = ["contact_sheet"]

_OUTLINED = 512
"""Crops are drawn twice as large, up to this side, so that outlines are thinner than their pixels."""
_COARSE = 400
_MOST_MAPS = 16


def contact_sheet(
    samples: Iterable[Mapping[str, Any]],
    *,
    title: str,
    names: Sequence[str] = (),
    value_range: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Return an HTML page, complete in itself, of `samples` as `TrainingCrops` gives them, tensors or arrays.

    Each crop stands there four ways: as the network sees it, `value_range` from black to white; stretched, with the
    outlines of its truth; its target maps, called by `names` (those of the head; for targets that are classes, of the
    classes, background first; for objects, of their classes), 0 dark to 1 bright; and the weights of its pixels, where
    they differ. Of more than 3 channels the first 3 are shown.

    Raises `UsageError` where a sample has no image (c, y, x).
    """
    crops = [_Crop(number, sample, names, value_range) for number, sample in enumerate(samples)]
    film = "".join(
        f'<li><a href="#crop{crop.number}" data-of="crop{crop.number}-0"><span class="thumb" aria-hidden="true"></span>'
        f"<span>{escape(crop.name)}</span></a></li>"
        for crop in crops
    )
    sizes = sorted({crop.size for crop in crops})
    facts = f"{len(crops)} crop{'s' * (len(crops) != 1)}{''.join(f' · {size}' for size in sizes[:3])}"
    legend = _legend(names) if any(crop.has_classes for crop in crops) else ""
    slots = {"title": escape(title), "facts": escape(facts), "film": film, "help": _HELP + legend}
    cards = "".join(crop.card() for crop in crops) or "<p>There are no crops.</p>"
    words = {"item": "picture", "items": "Crops", "compare": "Crop"}
    return PAGE.format(css=CSS + _CSS, script=SCRIPT, body="", cards=cards, **slots, **words)


class _Crop:
    """One sample, its pictures made."""

    def __init__(
        self, number: int, sample: Mapping[str, Any], names: Sequence[str], value_range: tuple[float, float]
    ) -> None:
        image = np.asarray(sample.get("image", 0), np.float32)
        if image.ndim != 3 or image.size == 0:
            raise UsageError(f"contact sheet: sample {number}: wanted an image (c, y, x), got shape {image.shape}")
        self.number = number
        self.name = str(sample.get("name", number))
        self.applied = str(sample.get("applied", ""))
        self.has_classes = "classes" in sample
        channels, height, width = image.shape
        self.size = f"{width:,} × {height:,} px, {channels} channel{'s' * (channels != 1)}"
        self.facts = [("size", self.size), ("values", f"{image.min():.3g} to {image.max():.3g}")]
        self.pictures: list[tuple[str, np.ndarray]] = [("crop", _as_seen(image, value_range))]
        stretched = _enlarged(display(np.ascontiguousarray(image.transpose(1, 2, 0))))
        if "target" in sample:
            self._objects(sample["target"], stretched, names)
        if "labels" in sample:
            self._labels(np.asarray(sample["labels"]), stretched)
        self._targets(sample, names)

    def card(self) -> str:
        """Return the section of the page."""
        rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in self.facts)
        applied = escape(self.applied.replace("_", " ")) or "nothing"
        figures = "".join(self._figure(i, label, picture) for i, (label, picture) in enumerate(self.pictures))
        return (
            f'<section class="case" id="crop{self.number}" aria-label="{escape(self.name)}"><h2>{escape(self.name)}'
            f'</h2><p class="flow">applied: {applied}</p><dl>{rows}</dl><div class="sheet">{figures}</div></section>'
        )

    def _figure(self, place: int, label: str, picture: np.ndarray) -> str:
        height, width = picture.shape[:2]
        coarse = ' class="coarse"' if max(height, width) <= _COARSE else ""
        first = f"crop{self.number}-0"
        hold = f'<button type="button" class="before" data-before="{first}">Crop</button>' if place else ""
        title = escape(f"{self.name}: {label}")
        return (
            f'<div class="step" id="crop{self.number}-{place}" aria-label="{title}"><figure>'
            f'<button type="button" class="open" aria-label="Open {title} at full size">'
            f'<img src="{data_uri(picture)}" width="{width}" height="{height}"{coarse} alt="{title}"></button>'
            f"<figcaption>{escape(label)}{hold}</figcaption></figure></div>"
        )

    def _labels(self, labels: np.ndarray, picture: np.ndarray) -> None:
        known = np.maximum(labels, 0).astype(np.int32)
        self.facts.append(("objects", f"{len(np.unique(known[known > 0])):,}"))
        if (labels < 0).any():
            self.facts.append(("unknown", f"{100 * np.mean(labels < 0):.1f} % of pixels"))
        self.pictures.append(("truth", overlay(picture, _repeated(known, picture.shape))))

    def _objects(self, target: Mapping[str, Any], picture: np.ndarray, names: Sequence[str]) -> None:
        xyxy = np.asarray(target["boxes"], np.float32).reshape(-1, 4)
        kinds = np.asarray(target["labels"], np.int32) - 1
        self.facts.append(("objects", f"{len(xyxy):,}"))
        if len(names) > 1:
            self.facts += [(name, f"{int(np.sum(kinds == i)):,}") for i, name in enumerate(names) if i in kinds]
        masks, times = target.get("masks"), picture.shape[0] // self.pictures[0][1].shape[0]
        scores = np.ones(len(xyxy), np.float32)
        if masks is not None:
            corners = np.rint(xyxy).astype(np.int64)
            cut = [np.asarray(m, bool)[y0:y1, x0:x1] for m, (x0, y0, x1, y1) in zip(masks, corners, strict=True)]
            large = tuple(mask.repeat(times, axis=0).repeat(times, axis=1) for mask in cut)
            scaled = Boxes((corners * times).astype(np.float32), scores, kinds)
            self.pictures.append(("masks", overlay(picture, Instances(scaled, large))))
        self.pictures.append(("boxes", overlay(picture, Boxes(xyxy * np.float32(times), scores, kinds))))

    def _targets(self, sample: Mapping[str, Any], names: Sequence[str]) -> None:
        if "maps" in sample:
            maps = np.asarray(sample["maps"], np.float32)
            for i, plane in enumerate(maps[:_MOST_MAPS]):
                self.pictures.append((names[i] if i < len(names) else f"map {i}", _toned(plane, 1.0)))
        if "classes" in sample:
            values = np.asarray(sample["classes"]).astype(np.uint8)
            every = np.arange(1, 256, dtype=np.uint64)
            self.pictures.append(("classes", colored(values, every, np.arange(255), BRIGHT)))
        if "weight" in sample:
            weight = np.asarray(sample["weight"], np.float32)
            low, high = float(weight.min()), float(weight.max())
            self.facts.append(("weights", f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"))
            if low != high:
                self.pictures.append((f"weight, 0 to {high:.3g}", _toned(weight, high)))


def _as_seen(image: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Return the first channels as a picture, uint8 (y, x, 3), `value_range` from black to white."""
    low, high = value_range
    scaled = np.clip((np.nan_to_num(image[:3], nan=low) - np.float32(low)) / np.float32(high - low), 0, 1)
    tones = (scaled * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    if len(tones) != 3:  # two channels as magenta and green, as `display` shows them
        tones = tones[[0, len(tones) - 1, 0]]
    return np.ascontiguousarray(tones.transpose(1, 2, 0))


def _toned(plane: np.ndarray, high: float) -> np.ndarray:
    """Return a map as a picture, uint8 (y, x, 3): dark violet for 0 to yellow for `high`."""
    import cv2

    tones = (np.clip(plane / np.float32(high), 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return cv2.applyColorMap(tones, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def _enlarged(picture: np.ndarray) -> np.ndarray:
    times = 2 if 2 * max(picture.shape[:2]) <= _OUTLINED else 1
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _repeated(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    times = shape[0] // labels.shape[0]
    return labels.repeat(times, axis=0).repeat(times, axis=1)


def _legend(names: Sequence[str]) -> str:
    """Return which colour stands for which class."""
    items = "".join(
        f'<li><i style="background:rgb{tuple(BRIGHT[(i - 1) % len(BRIGHT)].tolist())}" aria-hidden="true"></i>'
        f"{escape(name)}</li>"
        for i, name in enumerate(names)
        if i
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


_HELP = """<p class="help">Click a picture to see it large. Hold <b>Crop</b> to see the crop in its place. With a
picture open: <kbd>←</kbd> <kbd>→</kbd> step through, hold <kbd>B</kbd> for the crop, <kbd>Z</kbd> zooms.</p>"""

_CSS = """
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.25rem;margin:0 0 1rem;padding:0;font-size:.875rem}
.legend i{display:inline-block;width:.9rem;height:.9rem;border-radius:3px;margin-right:.4rem;vertical-align:-.1rem;
border:1px solid var(--line)}
.case{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.25rem;margin:0 0 1.25rem;
scroll-margin-top:7.5rem}
.case h2{overflow-wrap:anywhere}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(12.5rem,1fr));gap:1rem}
.sheet .step{display:block;padding:0;border:0;margin:0;background:none}
.sheet .open img{width:100%}
"""
