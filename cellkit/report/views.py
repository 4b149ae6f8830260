"""What a layer looks like: pictures of every kind, a few figures, and the spread of its values."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.kinds import Boxes, Instances, Kind
from cellkit.report.display import display, limits
from cellkit.report.overlay import draw, palette_for
from cellkit.report.palette import BRIGHT, assigned, colored, edges

__all__ = ["LARGEST", "Base", "View", "data_uri", "encoded", "facts", "fitted", "spread", "thicken", "tones", "views"]

LARGEST = 1024
"""Longer side of a picture on a page, px; larger layers are shown smaller."""
_MOST_CHANNELS = 6
# Pictures of this size are shown smaller, and lines one pixel wide would fade.
_THIN = 700
_SPECK = 4
_BINS = 64


@dataclass(frozen=True, eq=False)
class View:
    """One picture of a layer: uint8 (y, x), (y, x, 3), or (y, x, 4) with alpha, to be laid on the page's image.

    `label` names it, `text` describes it for those who cannot see it. `scale` says what its tones mean: the kind of
    scale (``grey``, ``viridis``), lowest and highest value.
    """

    label: str
    picture: np.ndarray
    text: str
    scale: tuple[str, str, str] | None = None


@dataclass(frozen=True, eq=False)
class Base:
    """The picture, uint8 (y, x, 3), that objects are drawn on, and the size of the layer it shows.

    `shared`: it stands on the page already, and contours can be laid on it.
    """

    picture: np.ndarray
    shape: tuple[int, ...]
    shared: bool

    @classmethod
    def of(cls, image: np.ndarray, names: Sequence[str], shared: bool) -> Base:
        """Return the base that an `Image` makes."""
        return cls(display(fitted(image), names=names), image.shape[:2], shared)


def views(kind: Kind, value: Any, names: Sequence[str], base: Base | None) -> list[View]:
    """Return the pictures of a layer, the most telling first; none for a table or a measurement."""
    if kind.name == "image":
        return _image_views(value, names)
    if kind.name == "prob":
        return _prob_views(value, names)
    if kind.name == "field":
        return [_tones(value, "values", *_range(value))]
    if kind.name == "mask":
        picture = fitted(value.astype(np.uint8) * np.uint8(255))
        return [View("mask", picture, "Foreground white, background black."), *_on(value, base)]
    if kind.name == "classes":
        colors = colored(_picked(value), np.arange(1, 256, dtype=np.uint64), np.arange(255), BRIGHT)
        return [View("classes", colors, "Each class in its colour, class 0 black."), *_on(value, base)]
    if kind.name == "labels":
        return [*_on(value, base), _objects(value)]
    if isinstance(value, (Boxes, Instances)):
        return _on(value, base)
    return []


def facts(kind: Kind, value: Any) -> list[tuple[str, str]]:
    """Return a few figures of a layer as (name, text)."""
    if kind.name in ("image", "prob", "field"):
        low, high = _range(value)
        found = [("size", _size(value)), ("range", f"{low:.4g} to {high:.4g}"), ("mean", f"{float(value.mean()):.4g}")]
        if kind.name == "prob":
            found.append(("above 0.5", f"{100 * np.count_nonzero(value > 0.5) / value.size:.1f} % of pixels"))
        return found
    if kind.name == "mask":
        return [
            ("size", _size(value)),
            ("foreground", f"{100 * np.count_nonzero(value) / max(1, value.size):.1f} % of pixels"),
        ]
    if kind.name == "classes":
        counts = np.bincount(value.ravel(), minlength=1)
        shares = [f"{c}: {100 * counts[c] / max(1, value.size):.1f} %" for c in np.flatnonzero(counts)[:12]]
        return [("size", _size(value)), ("share of each class", ", ".join(shares))]
    if kind.name == "labels":
        ids, areas = np.unique(value[value > 0], return_counts=True)
        found = [("size", _size(value)), ("objects", f"{len(ids):,}")]
        if len(ids):
            spread = f"{np.median(areas):,.0f} px (from {areas.min():,} to {areas.max():,})"
            found += [("median area", spread), ("foreground", f"{100 * areas.sum() / value.size:.1f} % of pixels")]
        return found
    if isinstance(value, Instances):
        return [("objects", f"{len(value):,}")]
    if isinstance(value, Boxes):
        score = [("scores", f"{value.scores.min():.3f} to {value.scores.max():.3f}")] if len(value) else []
        return [("objects", f"{len(value):,}"), *score]
    if kind.name == "table":
        return [("rows", f"{len(value):,}"), ("columns", f"{len(value.columns):,}")]
    return []


def spread(kind: Kind, value: Any) -> tuple[np.ndarray, str, str] | None:
    """Return how often values occur in 64 equal steps, int64, and the smallest and largest; None where all are one."""
    if kind.name not in ("image", "prob", "field"):
        return None
    low, high = _range(value)
    if not low < high:
        return None
    flat = value.ravel()[:: max(1, value.size >> 20)]
    return np.histogram(flat, bins=_BINS, range=(low, high))[0], f"{low:.3g}", f"{high:.3g}"


def data_uri(picture: np.ndarray, *, lossy: bool = False) -> str:
    """Return a picture, uint8 (y, x), (y, x, 3) or (y, x, 4), as a ``data:`` address of a PNG, `lossy` of a WebP."""
    form = "webp" if lossy else "png"
    return f"data:image/{form};base64," + base64.b64encode(encoded(picture, form)).decode("ascii")


def encoded(picture: np.ndarray, form: str) -> bytes:
    """Return a picture, uint8 (y, x), (y, x, 3) or (y, x, 4), as the bytes of a ``png``, ``webp`` or ``jpg``."""
    import cv2

    if picture.ndim == 3 and picture.shape[2] == 3 and (picture[..., :1] == picture).all():
        picture = picture[..., 0]
    elif picture.ndim == 3:
        picture = picture[..., [2, 1, 0, 3][: picture.shape[2]]]
    how = {
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 6],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, 88],
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, 90],
    }[form]
    done, data = cv2.imencode(f".{form}", np.ascontiguousarray(picture), how)
    if not done:
        raise KindError(f"a picture of shape {picture.shape} cannot be written as {form}")
    return data.tobytes()


def _image_views(image: np.ndarray, names: Sequence[str]) -> list[View]:
    channels = image.shape[2]
    low, high = limits(image)
    legend = ("grey", f"{low:.3g}", f"{high:.3g}") if channels == 1 else None
    text = f"Image, stretched for the screen from {low:.3g} to {high:.3g}."
    shown = [View("image" if channels == 1 else "colours", display(fitted(image), names=names), text, legend)]
    if channels == 2 or channels > 3 or (names and len(set(names) & {"red", "green", "blue", "r", "g", "b"}) < 3):
        for i in range(min(channels, _MOST_CHANNELS)) if channels > 1 else ():
            one = image[..., i]
            low, high = limits(one)
            label = names[i] if names else f"channel {i}"
            shown.append(View(label, display(fitted(one)), f"Channel {label}.", ("grey", f"{low:.3g}", f"{high:.3g}")))
    return shown


def _prob_views(prob: np.ndarray, names: Sequence[str]) -> list[View]:
    labels = list(names) or (["probability"] if prob.shape[2] == 1 else [f"class {i}" for i in range(prob.shape[2])])
    return [_tones(prob[..., i], labels[i], 0.0, 1.0) for i in range(min(prob.shape[2], _MOST_CHANNELS))]


def _tones(field: np.ndarray, label: str, low: float, high: float) -> View:
    text = f"Map of {label}, dark violet for {low:.3g} to yellow for {high:.3g}."
    return View(label, tones(fitted(field), low, high), text, ("viridis", f"{low:.3g}", f"{high:.3g}"))


def tones(field: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return a field (y, x) in the colours of viridis, `low` dark violet and `high` yellow, uint8 (y, x, 3)."""
    import cv2

    scaled = np.clip(np.nan_to_num(field, nan=low), low, high).astype(np.float32) - np.float32(low)
    scaled *= np.float32(255 / (high - low) if high > low else 0)
    eight = (scaled + np.float32(0.5)).clip(0, 255).astype(np.uint8)
    return cv2.applyColorMap(eight, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def _objects(labels: np.ndarray) -> View:
    few = _picked(labels)
    # An object that fills the picture has no outline: one pixel of nothing around it gives it one.
    framed = np.pad(few, 1)
    ids, numbers = assigned(framed, edges(framed), len(BRIGHT))
    picture = colored(few, ids, numbers, BRIGHT)
    if _specks(few):
        thicken(picture, _SPECK)
    return View("objects", picture, "Objects, neighbours in different colours, on black.")


def _specks(labels: np.ndarray) -> bool:
    """Return whether objects are so small that they would hardly be seen, as seeds are."""
    outline = edges(labels)
    inner = np.count_nonzero(labels) - np.count_nonzero(outline)
    return inner < np.count_nonzero(outline)


def _on(value: Any, base: Base | None) -> list[View]:
    """Return the contours of objects on their image; nothing where the sizes differ."""
    if base is None or (isinstance(value, np.ndarray) and value.shape != base.shape):
        return []
    colors = palette_for(base.picture)
    canvas = np.zeros((*base.picture.shape[:2], 4), np.uint8)
    draw(canvas, _scaled(value, base.shape), np.insert(colors, 3, 255, axis=1))
    if isinstance(value, np.ndarray) and value.dtype == np.int32 and _specks(value):
        thicken(canvas, _SPECK)
    elif max(canvas.shape) >= _THIN:
        thicken(canvas, 1)
    if not base.shared:
        canvas = np.where(canvas[..., 3:] > 0, canvas[..., :3], base.picture)
    return [View("on the image", canvas, "Contours of the objects on the image.")]


def thicken(picture: np.ndarray, pixels: int) -> None:
    """Make what is drawn on black some pixels wider, down and to the right; works in place."""
    for _ in range(pixels):
        for to, origin in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            empty = ~picture[to].any(axis=2, keepdims=True)
            picture[to] = np.where(empty, picture[origin], picture[to])


def _scaled(value: Any, shape: tuple[int, ...]) -> Any:
    """Return objects in the pixels of the picture of a layer of `shape`."""
    if isinstance(value, np.ndarray):
        return _picked(value)
    step, times = _step(shape), _times(shape)
    if isinstance(value, Boxes):
        return replace(value, xyxy=value.xyxy * times / step)
    corners = np.floor(value.boxes.xyxy[:, :2]).astype(np.int64)
    starts = (-corners) % step
    masks = tuple(
        m[y::step, x::step].repeat(times, axis=0).repeat(times, axis=1)
        for (x, y), m in zip(starts.tolist(), value.masks, strict=True)
    )
    firsts = (corners + starts) // step * times
    sizes = np.array([m.shape[::-1] for m in masks]).reshape(-1, 2)
    xyxy = np.concatenate([firsts, firsts + sizes], axis=1).astype(np.float32)
    return Instances(replace(value.boxes, xyxy=xyxy), masks)


def _step(shape: tuple[int, ...]) -> int:
    """Return how many pixels of a layer make one of its picture, along a side."""
    return max(1, -(-max(shape[:2]) // LARGEST))


def _times(shape: tuple[int, ...]) -> int:
    """Return how many pixels of its picture one pixel of a small layer makes, so that contours on it are thin."""
    return min(4, max(1, LARGEST // max(shape[:2])))


def fitted(image: np.ndarray) -> np.ndarray:
    """Return an image of the size of its picture: averaged where large, repeated where small; dtype and channels kept.

    uint8 or float32, (y, x) or (y, x, c).
    """
    import cv2

    step = _step(image.shape)
    if step == 1:
        return _repeated(image)
    height, width = (-(-side // step) for side in image.shape[:2])
    stack = image if image.ndim == 3 else image[..., None]
    planes = [np.ascontiguousarray(stack[..., i]) for i in range(stack.shape[2])]
    less = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in planes]
    return np.stack(less, axis=2) if image.ndim == 3 else less[0]


def _picked(labels: np.ndarray) -> np.ndarray:
    """Return labels of the size of their picture.

    Ids cannot be averaged: of the pixels that make one, the largest id stays, so that single-pixel seeds do.
    """
    step = _step(labels.shape)
    if step == 1:
        return _repeated(labels)
    height, width = labels.shape
    few = np.zeros((-(-height // step), -(-width // step)), labels.dtype)
    for y in range(min(step, height)):
        for x in range(min(step, width)):
            part = labels[y::step, x::step]
            into = few[: part.shape[0], : part.shape[1]]
            np.maximum(into, part, out=into)
    return few


def _repeated(array: np.ndarray) -> np.ndarray:
    times = _times(array.shape)
    return array if times == 1 else array.repeat(times, axis=0).repeat(times, axis=1)


def _range(value: np.ndarray) -> tuple[float, float]:
    low, high = float(value.min()), float(value.max())
    if not np.isfinite(high - low):
        finite = value[np.isfinite(value)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return low, high


def _size(value: np.ndarray) -> str:
    height, width = value.shape[:2]
    channels = f", {value.shape[2]} channels" if value.ndim == 3 and value.shape[2] > 1 else ""
    shown = f", picture 1 : {_step(value.shape)}" if _step(value.shape) > 1 else ""
    return f"{width:,} × {height:,} px{channels}{shown}"
