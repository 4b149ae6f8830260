"""Samples and runs as a notebook shows them: small pictures of every layer, with what it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.report.views import Base, data_uri, facts, views

if TYPE_CHECKING:
    from cellkit.core.kinds import Kind
    from cellkit.core.sample import Sample

__all__ = ["Card", "cards_html", "sample_html", "thumbnail"]

_SIDE = 176
_LETTERS = 80
_SHORT = ("objects", "foreground", "above 0.5", "range", "rows", "columns", "share of each class")
Card = tuple[str, str, "np.ndarray | None", Sequence[str]]
"""A layer: its name, its kind, its picture, uint8 (y, x, 3), and lines about it."""


def sample_html(sample: Sample) -> str:
    """Return a sample as HTML for a notebook: a small picture of every layer, with name, kind, size and counts."""
    base = _base(sample)
    cards = [
        (name, str(layer.kind), thumbnail(layer.kind, layer.value, layer.names, base), _lines(layer.kind, layer.value))
        for name, layer in sample.layers.items()
        if name != "image" or "raw" not in sample or layer.value is not sample["raw"]
    ]
    about = []
    if "raw" in sample or "image" in sample:
        height, width = sample.shape
        about.append(f"{width:,} × {height:,} px")
    if sample.pixel_size is not None:
        y, x = sample.pixel_size
        about.append(f"{x:.4g} µm a pixel" if x == y else f"{x:.4g} × {y:.4g} µm a pixel")
    about += [f"{key} {value}" for key, value in sample.fields.items()] + list(sample.notes)
    return cards_html(f"Sample {sample.name}", about, cards)


def cards_html(title: str, about: Sequence[str], cards: Sequence[Card]) -> str:
    """Return layers as HTML for a notebook, in its own colours, whatever the text holds."""
    shown = "".join(_card(*card) for card in cards)
    text = " · ".join(escape(_cut(line)) for line in about)
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;line-height:1.4">'
        f'<div style="font-weight:600;overflow-wrap:anywhere">{escape(_cut(title))}</div>'
        f'<div style="opacity:.75;overflow-wrap:anywhere">{text}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin-top:8px">{shown}</div></div>'
    )


def thumbnail(kind: Kind, value: Any, names: Sequence[str], base: Base | None) -> np.ndarray | None:
    """Return a small picture of a layer, uint8 (y, x, 3), contours on `base`; None where it has no look."""
    import cv2

    shown = views(kind, value, names, base)
    if not shown:
        return None
    # Contours would fade where they are this small.
    picture = shown[-1 if kind.name == "labels" else 0].picture
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if picture.shape[2] == 4 and base is not None:
        picture = np.where(picture[..., 3:] > 0, picture[..., :3], base.picture)
    share = _SIDE / max(picture.shape[:2])
    if share >= 1:
        return np.ascontiguousarray(picture)
    size = [max(1, round(side * share)) for side in picture.shape[1::-1]]
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)


def _base(sample: Sample) -> Base | None:
    name = next((name for name in ("raw", "image") if name in sample), None)
    if name is None:
        return None
    layer = sample.layer(name)
    return Base.of(layer.value, layer.names, True)


def _lines(kind: Kind, value: Any) -> list[str]:
    shape = f"{' × '.join(map(str, value.shape))}, {value.dtype}" if isinstance(value, np.ndarray) else ""
    told = [f"{name} {text}" for name, text in facts(kind, value) if name in _SHORT]
    return [line for line in (shape, *told) if line]


def _card(name: str, kind: str, picture: np.ndarray | None, lines: Sequence[str]) -> str:
    box = f"width:{_SIDE}px;height:{_SIDE}px;border-radius:6px;"
    if picture is None:
        image = (
            f'<div style="{box}border:1px dashed currentColor;opacity:.4;display:grid;place-items:center">'
            f"{escape(kind)}</div>"
        )
    else:
        image = (
            f'<img src="{data_uri(picture)}" alt="{escape(f"{name}: {kind}")}" '
            f'style="{box}object-fit:contain;background:#0e1418">'
        )
    text = "".join(f'<div style="opacity:.75;overflow-wrap:anywhere">{escape(_cut(line))}</div>' for line in lines)
    return (
        f'<div style="width:{_SIDE}px">{image}<div style="overflow-wrap:anywhere"><b>{escape(_cut(name))}</b> '
        f'<span style="opacity:.75">{escape(kind)}</span></div>{text}</div>'
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
