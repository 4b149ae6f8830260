"""Which pixels of a window are as they would be on the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellkit.grid.cover import Window

__all__ = ["Sides", "Validity", "after_objects", "after_pixels", "broken_ids", "together"]


@dataclass(frozen=True, eq=False)
class Validity:
    """Pixels inside `rect`, counted within the window, are good, but for those in `bad` (None: no other)."""

    rect: Window
    bad: np.ndarray | None = None


@dataclass(frozen=True)
class Sides:
    """Which sides of a window are edges of the image: top, left, bottom, right."""

    top: bool
    left: bool
    bottom: bool
    right: bool

    @classmethod
    def of(cls, window: Window, shape: tuple[int, int]) -> Sides:
        """Return those of `window` in an image of `shape`."""
        return cls(window.top <= 0, window.left <= 0, window.bottom >= shape[0], window.right >= shape[1])


def together(some: list[Validity], window: Window) -> Validity:
    """Return where all of `some` are good; without any, everywhere in `window`."""
    rect = Window(0, 0, *window.shape)
    bad: np.ndarray | None = None
    for one in some:
        rect = rect.clipped(one.rect)
        if one.bad is not None:
            bad = one.bad if bad is None else bad | one.bad
    return Validity(rect, bad)


def after_pixels(before: Validity, reach: int, sides: Sides) -> Validity:
    """Return what is good behind a step that looks `reach` pixels around each."""
    if not reach:
        return before
    import cv2

    top, left, bottom, right = before.rect
    rect = Window(
        top + reach * (not sides.top), left + reach * (not sides.left),
        bottom - reach * (not sides.bottom), right - reach * (not sides.right),
    )  # fmt: skip
    bad = before.bad
    if bad is not None:
        side = 2 * reach + 1
        bad = cv2.dilate(bad.view(np.uint8), np.ones((side, side), np.uint8)).view(bool)
    return Validity(rect, bad)


def after_objects(before: Validity, support: np.ndarray, sides: Sides) -> Validity:
    """Return what is good behind a step that looks at the whole of every object.

    `support`: bool (y, x) the objects as connected pieces, or int32 labels, of which every id is one object, wherever
    its pixels lie. An object is bad as soon as a pixel of it is, or where it may go on beyond what is good.
    """
    from cellkit.engine.blockwise._spread import spread

    rect = before.rect
    if rect.bottom <= rect.top or rect.right <= rect.left:
        return before
    bad = np.zeros(support.shape, bool) if before.bad is None else before.bad.copy()
    labels = support if support.dtype != bool else None
    inside = Window(rect.top, rect.left, rect.bottom, rect.right)
    ends = (not sides.top, not sides.left, not sides.bottom, not sides.right)
    pieces = np.ascontiguousarray(support > 0 if labels is not None else support)
    grown = spread(pieces, bad, inside, ends, before.bad is not None)
    if labels is not None:
        broken = broken_ids(labels, Validity(rect, bad if grown else before.bad), sides)
        if broken.any():
            bad |= broken[labels]
            grown = True
    return Validity(rect, bad if grown or before.bad is not None else None)


def broken_ids(labels: np.ndarray, where: Validity, sides: Sides) -> np.ndarray:
    """Return for every id in `labels`, 0 to the largest, whether part of it is bad, or may lie beyond what is good."""
    broken = np.zeros(int(labels.max(initial=0)) + 1, bool)
    top, left, bottom, right = where.rect
    height, width = labels.shape
    # The outermost good pixels count as well, where the image goes on: what touches them may go on.
    rows = (top if sides.top else top + 1, bottom if sides.bottom else bottom - 1)
    columns = (left if sides.left else left + 1, right if sides.right else right - 1)
    for part in (
        labels[: max(rows[0], 0)], labels[min(rows[1], height) :],
        labels[:, : max(columns[0], 0)], labels[:, min(columns[1], width) :],
    ):  # fmt: skip
        broken[part] = True
    if where.bad is not None:
        import cv2

        # What lies beside bad pixels may go on in them, whatever they seem to hold.
        beside = cv2.dilate(where.bad.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
        broken[labels[beside]] = True
    broken[0] = False
    return broken
