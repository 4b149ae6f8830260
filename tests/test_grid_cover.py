"""Cover, fill and blend: the arithmetic under the brackets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.grid.blend import axis_weights, ramp
from cellkit.grid.cover import Window, columns_of, cover, earlier_neighbours
from cellkit.grid.fill import cut

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(deadline=None, max_examples=60)
@given(SHAPES, SHAPES, st.integers(0, 50), st.booleans())
def test_cores_cover_every_pixel_once_and_windows_hold_the_halo(shape, size, halo, clip):
    seen = np.zeros(shape, int)
    for tile in cover(shape, size, halo, clip=clip):
        seen[tile.core.slices] += 1
        assert tile.core.top % size[0] == 0
        assert tile.core.left % size[1] == 0
        wanted = Window(
            tile.core.top - halo, tile.core.left - halo, tile.core.top + size[0] + halo, tile.core.left + size[1] + halo
        )
        assert tile.window == (wanted.clipped(Window(0, 0, *shape)) if clip else wanted)
    assert (seen == 1).all()


@settings(deadline=None, max_examples=30)
@given(SHAPES, SHAPES)
def test_earlier_neighbours_are_those_whose_cores_touch(shape, size):
    tiles = cover(shape, size, 0, clip=True)
    columns = columns_of(tiles)
    for index, tile in enumerate(tiles):
        grown = Window(tile.core.top - 1, tile.core.left - 1, tile.core.bottom + 1, tile.core.right + 1)
        touching = []
        for other in range(index):
            shared = tiles[other].core.clipped(grown)
            if shared.top < shared.bottom and shared.left < shared.right:
                touching.append(other)
        assert sorted(earlier_neighbours(index, columns)) == touching


@settings(deadline=None, max_examples=80)
@given(SHAPES, st.tuples(*[st.integers(0, 70)] * 4), st.sampled_from(["zero", "reflect", "symmetric", "edge"]))
def test_filling_equals_numpy_pad(shape, margins, fill):
    top, left, bottom, right = margins
    array = np.random.default_rng(1).random((*shape, 2)).astype(np.float32)
    mode = "constant" if fill == "zero" else fill
    wanted = np.pad(array, ((top, bottom), (left, right), (0, 0)), mode)
    got = cut(array, Window(-top, -left, shape[0] + bottom, shape[1] + right), fill)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, wanted)


def test_cutting_the_whole_copies_nothing_and_a_crop_is_contiguous():
    array = np.arange(12).reshape(3, 4)
    assert cut(array, Window(0, 0, 3, 4), "zero") is array
    crop = cut(array, Window(1, 1, 3, 3), "zero")
    assert crop.flags.c_contiguous
    np.testing.assert_array_equal(crop, [[5, 6], [9, 10]])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 100))
def test_weights_add_up_to_one_everywhere(length, size, halo):
    spans = [(s - halo, s + size + halo) for s in range(0, length, size)]
    total = np.zeros(length)
    for (start, stop), weight in zip(spans, axis_weights(spans, length, halo), strict=True):
        assert (weight > 0).all()
        total[max(start, 0) : min(stop, length)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_ramp_rises_over_the_overlap_and_stays_at_one():
    weight = ramp(16, 2)  # core 12, halo 2: neighbours overlap by 4
    np.testing.assert_allclose(weight[:4] + weight[-4:], 1)
    np.testing.assert_allclose(weight[4:12], 1)
    assert weight[0] == pytest.approx(np.sin(np.pi / 16) ** 2)
    np.testing.assert_allclose(weight, weight[::-1])
