"""Truth and predictions drawn on their image at the size of a page's column, so that what is wrong is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Literal

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.kinds import Boxes
from cellkit.report.display import display, nearest
from cellkit.report.overlay import draw
from cellkit.report.palette import edges
from cellkit.report.views import thicken
from cellkit.report.worst import OUTCOMES, PIXELS, outcomes, pixel_outcomes

__all__ = ["CLASS_COLORS", "MARKS", "Marks", "box_outcomes", "legend", "marked", "plain", "true_marks"]

Marks = Literal["labels", "mask", "classes", "boxes"]
MARKS: tuple[Marks, ...] = ("labels", "mask", "classes", "boxes")
"""What can be drawn: objects, a foreground, a class for each pixel, or boxes."""

# Of the palettes for dark and bright pictures those that no kind of error has, and two more.
CLASS_COLORS: np.ndarray = np.array(
    [
        (196, 255, 165), (171, 130, 246), (0, 163, 255), (181, 129, 0), (23, 165, 110), (255, 120, 180), (110, 70, 30),
    ],
    np.uint8,
)  # fmt: skip
"""RGB colours of classes, uint8 (7, 3), apart from those of errors; more classes begin anew."""
_TRUE = (0, 163, 255)
"""Colour of true outlines: of no kind of error."""
_WIDTH, _HEIGHT = 360, 480
_MATCH = 0.5
_LOUD, _QUIET = 0.6, 0.4
_LARGE = 14.0
"""Objects as wide as this in the picture, px, have lines of two pixels."""
_BOX_OUTCOMES = {
    "missed": "a true box without prediction",
    "extra": "a predicted box without true one",
    "confused": "a predicted box whose true one is of another class",
}


def plain(image: np.ndarray) -> np.ndarray:
    """Return an image, (y, x) or (y, x, c) of any dtype, as a picture 360 px wide, uint8 (y, x, 3)."""
    return _resized(display(image if image.dtype in (np.uint8, np.float32) else image.astype(np.float32)))


def true_marks(image: np.ndarray, truth: np.ndarray | Boxes, by: Marks) -> np.ndarray:
    """Return the truth on its image, as `marked` does with a prediction: outlines of one colour."""
    picture = plain(image)
    if by == "classes" and isinstance(truth, np.ndarray):
        return _class_marks(image, truth, truth)
    if isinstance(truth, Boxes):
        _lines(picture, _scaled(truth, image.shape), CLASS_COLORS)
        return picture
    small = nearest(_checked(image, truth), picture.shape)
    labels = (small > 0) if by == "mask" else small.astype(np.int32)
    lines = np.zeros_like(picture)
    lines[edges(labels.astype(np.int32))] = _TRUE
    return _laid(picture, lines, _thickness(labels))


def marked(
    image: np.ndarray, truth: np.ndarray | Boxes, pred: np.ndarray | Boxes, by: Marks
) -> tuple[np.ndarray, dict[str, int]]:
    """Return a prediction on its image in grey, uint8 (y, x, 3), 360 px wide, and how much came to what.

    `by`: ``labels``, what became of each object; ``mask`` and ``classes``, of each pixel; ``boxes``, of each `Boxes`
    entry. Lines are drawn after making the picture smaller, so that they stay. Raises `KindError` where sizes differ.
    """
    if isinstance(truth, Boxes) and isinstance(pred, Boxes):
        return _box_marks(image, truth, pred)
    if isinstance(truth, Boxes) or isinstance(pred, Boxes):
        raise KindError("boxes are compared with boxes, labels with labels; got one of each")
    _checked(image, truth), _checked(image, pred)
    if by == "labels":
        return _object_marks(image, truth, pred)
    counts = pixel_outcomes(truth, pred, "classes" if by == "classes" else "foreground")[1]
    if by == "classes":
        return _class_marks(image, truth, pred), counts
    return _mask_marks(image, truth, pred), counts


def legend(by: Marks, classes: Sequence[str] = ()) -> str:
    """Return which colour stands for what, as items of a list in HTML; `classes` from the first that is drawn."""
    items = [(CLASS_COLORS[i % len(CLASS_COLORS)], name, "") for i, name in enumerate(classes)]
    if by == "labels":
        items = [(np.array(color), name, text) for name, (color, text) in OUTCOMES.items()]
    else:
        words = {name: text for name, (_, text) in PIXELS.items()} if by != "boxes" else _BOX_OUTCOMES
        left_out = {"labels": (), "mask": ("confused",), "classes": ("right",), "boxes": ("right",)}[by]
        items += [(np.array(PIXELS[n][0]), n, text) for n, text in words.items() if n not in left_out]
    return "".join(
        f'<li><i style="background:rgb({r},{g},{b})" aria-hidden="true"></i><b>{escape(name)}</b> {escape(text)}</li>'
        for (r, g, b), name, text in ((color.tolist(), name, text) for color, name, text in items)
    )


def box_outcomes(truth: Boxes, pred: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Return what became of each predicted box, ``right``, ``confused`` or ``extra`` (n,), and which true are missed.

    Boxes are paired one to one whatever their class, the largest IoU first, from 0.5 up.
    """
    iou = _iou(pred.xyxy, truth.xyxy)
    rows, columns = np.nonzero(iou >= _MATCH)
    same = pred.classes[rows] == truth.classes[columns]
    codes, missed = np.full(len(pred), "extra", "<U8"), np.ones(len(truth), bool)
    for at in np.lexsort((~same, -iou[rows, columns])):
        row, column = rows[at], columns[at]
        if codes[row] == "extra" and missed[column]:
            codes[row], missed[column] = "right" if same[at] else "confused", False
    return codes, missed


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(one[:, 2:] - one[:, :2]).prod(axis=1) for one in (a, b)]
    return inner / np.maximum(areas[0][:, None] + areas[1][None] - inner, 1e-9)


def _object_marks(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    codes, counts = outcomes(truth.astype(np.int32), pred.astype(np.int32))
    names = list(OUTCOMES)
    colors = np.array([color for color, _ in OUTCOMES.values()], np.uint8)
    # What is right has a line only; what is half right, a light fill.
    strength = np.array([{"matched": 0.0, "missed": _LOUD, "extra": _LOUD}.get(n, _QUIET / 2) for n in names])
    picture = _filled(image, codes, colors, strength)
    small, found = (nearest(layer, picture.shape) for layer in (codes, pred.astype(np.int32)))
    true = nearest(truth.astype(np.int32), picture.shape)
    lines = np.zeros_like(picture)
    outline = edges(found) | (edges(true) & (small == 1 + names.index("missed")))
    lines[outline & (small > 0)] = colors[small[outline & (small > 0)] - 1]
    return _laid(picture, lines, _thickness(true if true.any() else found)), counts


def _mask_marks(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    codes, _ = pixel_outcomes(truth, pred, "foreground")
    colors = np.array([color for color, _ in PIXELS.values()], np.uint8)
    picture = _filled(image, codes, colors, np.array([0.0, _LOUD, _LOUD, _LOUD]))
    small = nearest(pred > 0, picture.shape)
    lines = np.zeros_like(picture)
    lines[edges(small.view(np.uint8))] = colors[0]
    return _laid(picture, lines, 1)


def _class_marks(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Return classes in their colours, and over them the pixels that are wrong in those of errors."""
    errors, _ = pixel_outcomes(_checked(image, truth), pred, "classes")
    wrong = [color for color, _ in list(PIXELS.values())[1:]]
    every = np.concatenate([CLASS_COLORS, np.array(wrong, np.uint8)])
    own = np.where(pred > 0, (pred.astype(np.int64) - 1) % len(CLASS_COLORS) + 1, 0)
    codes = np.where(errors > 1, errors.astype(np.int64) + len(CLASS_COLORS) - 1, own).astype(np.uint8)
    strength = np.array([_QUIET] * len(CLASS_COLORS) + [0.85] * len(wrong))
    grey = truth is not pred
    picture = _filled(image, codes, every, strength, grey=grey)
    small = nearest(codes, picture.shape)
    lines = np.zeros_like(picture)
    outline = edges(nearest(pred.astype(np.uint8), picture.shape)) & (small > 0)
    lines[outline] = every[small[outline] - 1]
    return _laid(picture, lines, 1)


def _box_marks(image: np.ndarray, truth: Boxes, pred: Boxes) -> tuple[np.ndarray, dict[str, int]]:
    codes, missed = box_outcomes(truth, pred)
    picture = _resized(_grey(display(image)))
    found, true = _scaled(pred, image.shape), _scaled(truth, image.shape)
    lost = _taken(true, missed)
    for x0, y0, x1, y1 in np.rint(lost.xyxy).astype(np.int64).clip(0).tolist():
        part = picture[y0:y1, x0:x1]
        part[:] = (0.7 * part + 0.3 * np.array(PIXELS["missed"][0])).astype(np.uint8)
    _lines(picture, _taken(found, codes == "right"), CLASS_COLORS)
    for name, boxes in (("missed", lost), *((n, _taken(found, codes == n)) for n in ("extra", "confused"))):
        _lines(picture, boxes, np.array([PIXELS[name][0]], np.uint8))
    counts = {name: int(np.count_nonzero(codes == name)) for name in ("right", "confused", "extra")}
    return picture, {**counts, "missed": int(np.count_nonzero(missed))}


def _taken(boxes: Boxes, keep: np.ndarray) -> Boxes:
    return Boxes(boxes.xyxy[keep], boxes.scores[keep], boxes.classes[keep])


def _scaled(boxes: Boxes, shape: tuple[int, ...]) -> Boxes:
    height, width = _size(shape)
    times = np.array([width / shape[1], height / shape[0]] * 2, np.float32)
    return replace(boxes, xyxy=boxes.xyxy * times)


def _lines(picture: np.ndarray, boxes: Boxes, palette: np.ndarray) -> None:
    """Draw boxes into a picture, each side two pixels wide."""
    lines = np.zeros_like(picture)
    draw(lines, boxes, palette)
    picture[:] = _laid(picture, lines, 2)


def _laid(picture: np.ndarray, lines: np.ndarray, thickness: int) -> np.ndarray:
    thicken(lines, thickness - 1)
    return np.where(lines.any(axis=2, keepdims=True), lines, picture)


def _filled(
    image: np.ndarray, codes: np.ndarray, colors: np.ndarray, strength: np.ndarray, *, grey: bool = True
) -> np.ndarray:
    """Return a picture with the i-th colour, from 1, laid on pixels of code i as strongly as `strength` (n,) says.

    Filled before it is made smaller: specks fade, but none is left out.
    """
    picture = display(image if image.dtype in (np.uint8, np.float32) else image.astype(np.float32))
    picture = _grey(picture) if grey else picture
    share = np.concatenate([[0.0], strength]).astype(np.float32)[codes][..., None]
    color = np.concatenate([np.zeros((1, 3), np.uint8), colors])[codes].astype(np.float32)
    return _resized(((1 - share) * picture + share * color + np.float32(0.5)).astype(np.uint8))


def _grey(picture: np.ndarray) -> np.ndarray:
    grey = (picture.mean(axis=2, keepdims=True) * 0.75).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)


def _thickness(labels: np.ndarray) -> int:
    areas = np.bincount(labels.ravel())[1:] if labels.dtype != bool else np.array([labels.size])
    areas = areas[areas > 0]
    return 2 if len(areas) and float(np.median(areas)) ** 0.5 >= _LARGE else 1


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    times = min(_WIDTH / shape[1], _HEIGHT / shape[0])
    return max(1, round(shape[0] * times)), max(1, round(shape[1] * times))


def _resized(picture: np.ndarray) -> np.ndarray:
    import cv2

    height, width = _size(picture.shape)
    how = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=how)


def _checked(image: np.ndarray, layer: np.ndarray) -> np.ndarray:
    if layer.shape != image.shape[:2]:
        raise KindError(f"the image is {image.shape[:2]} (y, x) but what is drawn on it {layer.shape}")
    return layer
