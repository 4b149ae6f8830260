"""Zooming window by window: the same numbers as of the whole, and those of an independent reckoning."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import KINDS, StageError
from cellkit.grid.cover import Window
from cellkit.grid.frame import ScaledFrame
from cellkit.grid.zoom import reach_of, zoom_window

SIDES = st.integers(1, 90)


def smooth(array, inner):
    """By OpenCV: by area along an axis that shrinks, then linear along one that grows."""
    planes = []
    for plane in np.moveaxis(array[..., None] if array.ndim == 2 else array, 2, 0):
        small = (min(plane.shape[1], inner[1]), min(plane.shape[0], inner[0]))
        plane = cv2.resize(np.ascontiguousarray(plane), small, interpolation=cv2.INTER_AREA)
        planes.append(cv2.resize(plane, inner[::-1], interpolation=cv2.INTER_LINEAR))
    return np.stack(planes, axis=2) if array.ndim == 3 else planes[0]


def zoomed(array, inner, window=None):
    return zoom_window(lambda part: array[part.slices], array.shape[:2], inner, window or Window(0, 0, *inner))


@settings(max_examples=60)
@given(outer=st.tuples(SIDES, SIDES), inner=st.tuples(SIDES, SIDES), channels=st.integers(0, 5), data=st.data())
def test_windows_are_parts_of_the_whole(outer, inner, channels, data):
    array = np.random.default_rng(outer[0]).random((*outer, channels) if channels else outer, np.float32)
    whole = zoomed(array, inner)
    np.testing.assert_allclose(whole, smooth(array, inner), atol=1e-5)
    assert array.min() <= whole.min()
    assert whole.max() <= array.max()
    top, left = data.draw(st.integers(0, inner[0] - 1)), data.draw(st.integers(0, inner[1] - 1))
    window = Window(top, left, data.draw(st.integers(top + 1, inner[0])), data.draw(st.integers(left + 1, inner[1])))
    reach = reach_of(outer, inner, window)
    blind = np.full_like(array, np.nan)
    blind[reach.slices] = array[reach.slices]
    np.testing.assert_array_equal(zoomed(blind, inner, window), whole[window.slices])


@pytest.mark.parametrize(("given_", "wanted"), [(2001, 2000), (2001, 1999), (101, 7), (6, 2), (7, 7)])
def test_area_by_hand(given_, wanted):
    """Every weight is the share of a pixel that is covered; OpenCV leaves shares under a thousandth out."""
    line = np.random.default_rng(0).random(given_).astype(np.float32)
    edges = np.linspace(0, given_, wanted + 1)
    total = np.concatenate([[0.0], np.cumsum(line.astype(np.float64))])
    covered = np.diff(np.interp(edges, np.arange(given_ + 1), total)) / (given_ / wanted)
    np.testing.assert_allclose(zoomed(line[:, None], (wanted, 1))[:, 0], covered, atol=1e-6)


def test_growing_is_linear_between_centres():
    line = np.array([[0.0, 8.0]], np.float32)
    np.testing.assert_array_equal(zoomed(line, (1, 8)), [[0, 0, 1, 3, 5, 7, 8, 8]])
    np.testing.assert_array_equal(zoomed(line[:, :1] + 3, (5, 4)), np.full((5, 4), 3))


def test_constants_stay():
    for inner in ((37, 41), (300, 41), (300, 500)):
        assert (zoomed(np.full((113, 127, 2), 0.1, np.float32), inner) == np.float32(0.1)).all()


def test_windows_beyond_are_refused():
    for window in (Window(0, 0, 6, 5), Window(-1, 0, 3, 3), Window(2, 2, 2, 4)):
        with pytest.raises(ValueError, match="does not lie within 5 x 5"):
            zoomed(np.zeros((9, 9), np.float32), (5, 5), window)


@settings(max_examples=150)
@given(
    outer=st.tuples(st.integers(1, 200), st.integers(1, 200)), factor=st.floats(0.05, 5),
    kind=st.sampled_from(["image", "mask"]), grid=st.sampled_from([1, 4]), data=st.data(),
)  # fmt: skip
def test_a_window_that_is_resized_and_brought_back_is_part_of_the_whole(outer, factor, kind, grid, data):
    """But for a rim whose width is what blocks reckon with; what is beyond it is 0."""
    inner = tuple(max(1, round(side * factor)) for side in outer)
    whole = ScaledFrame(outer, inner)
    top, left = data.draw(st.integers(0, outer[0] - 1)), data.draw(st.integers(0, outer[1] - 1))
    seen = Window(top, left, data.draw(st.integers(top + 1, outer[0])), data.draw(st.integers(left + 1, outer[1])))
    value = np.random.default_rng(outer[0]).random((*outer, 1), np.float32)
    value = value if kind == "image" else value[..., 0] > 0.5
    back = whole.leave(KINDS[kind], [whole.parts[0].enter(KINDS[kind], value)])
    frame = replace(whole, seen=seen, grid=grid)
    rim = math.ceil(1.15 * (grid + 4) / factor) + 3
    good = Window(
        top + rim * (top > 0), left + rim * (left > 0),
        seen.bottom - rim * (seen.bottom < outer[0]), seen.right - rim * (seen.right < outer[1]),
    )  # fmt: skip
    try:
        (part,) = frame.parts
    except StageError:
        assert good.top >= good.bottom or good.left >= good.right
        return
    assert part.window.top % grid == part.window.left % grid == 0
    made = part.enter(KINDS[kind], value[seen.slices])
    np.testing.assert_array_equal(made, whole.parts[0].enter(KINDS[kind], value)[part.window.slices])
    got = frame.leave(KINDS[kind], [made])
    assert got.shape == value[seen.slices].shape
    if good.top < good.bottom and good.left < good.right:
        np.testing.assert_array_equal(got[good.within(seen).slices], back[good.slices])
