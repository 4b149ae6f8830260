"""Windows on a network's grid: every pixel in one core, every core far enough from its window's ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.grid.windows import best_side, padded, windows

LENGTHS = st.integers(1, 400)
GRIDS = st.sampled_from([1, 2, 8, 16, 32])


@given(LENGTHS, LENGTHS, st.integers(1, 20), st.integers(0, 40), GRIDS)
def test_cores_cover_every_pixel_once_and_keep_their_halo(height, width, cores, halo, grid):
    side = 2 * padded(halo, grid) + cores * grid
    tiles = windows((height, width), (side, side), halo, grid)
    count = np.zeros((height, width), int)
    for tile in tiles:
        core, window = tile.core, tile.window
        count[core.slices] += 1
        assert window.shape == tiles[0].window.shape
        assert all(edge % grid == 0 for edge in window)
        assert min(window) >= 0
        assert window.bottom <= padded(height, grid)
        assert window.right <= padded(width, grid)
        assert core.top - window.top >= halo or window.top == 0
        assert core.left - window.left >= halo or window.left == 0
        assert window.bottom - core.bottom >= halo or window.bottom == padded(height, grid)
        assert window.right - core.right >= halo or window.right == padded(width, grid)
    assert (count == 1).all()


@given(LENGTHS, LENGTHS, st.integers(0, 40), GRIDS, st.integers(1, 4))
def test_the_best_side_is_within_bounds_and_no_other_choice_is_less_work(height, width, halo, grid, lanes):
    least = 2 * padded(halo, grid) + grid
    most = max(least, 96) ** 2
    rows, columns = best_side((height, width), halo, grid, most, lanes)
    assert rows * columns <= most

    def work(side):
        tiles = windows((height, width), side, halo, grid)
        return -(-len(tiles) // lanes) * tiles[0].window.shape[0] * tiles[0].window.shape[1]

    chosen = work((rows, columns))
    for other in range(least, max(least, 96) + 1, 8 * grid):
        if padded(height, grid) >= other <= padded(width, grid):
            assert chosen <= work((other, other)) * 1.35  # not every side is tried, only those that divide evenly


def test_a_picture_that_fits_is_one_window():
    (tile,) = windows((100, 37), (128, 128), 64, 16)
    assert tile.window == (0, 0, 112, 48)
    assert tile.core == (0, 0, 100, 37)


def test_a_window_without_room_for_its_halos_is_refused():
    with pytest.raises(ValueError, match="no room for a halo of 64 px"):
        windows((300, 300), (128, 128), 64, 16)
    with pytest.raises(ValueError, match="needs windows of at least"):
        best_side((300, 300), 64, 16, 100 * 100)
