"""Labels at the seams of tiles: no object cut, none merged."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellkit.core import KINDS, KindError
from cellkit.grid.brackets import tile
from strategies import label_images, masks

LABELS, MASK = KINDS["labels"], KINDS["mask"]
EIGHT = np.ones((3, 3), bool)


def same(one, two):
    """Whether two label images are equal up to renumbering."""
    pairs = np.unique(np.stack([one.ravel(), two.ravel()]), axis=1)
    return len(pairs[0]) == len(np.unique(one)) == len(np.unique(two)) and not ((pairs[0] == 0) ^ (pairs[1] == 0)).any()


def pieces(labels):
    """Every 8-connected piece of every label, as a label of its own (skimage: independent of cellkit)."""
    from skimage.measure import label

    return label(labels, connectivity=2).astype(np.int32)


def renumbered(labels, rng):
    """Local numbers as a tile may give them: any order, with gaps."""
    values, inverse = np.unique(labels, return_inverse=True)
    names = rng.permutation(len(values) * 3)[: len(values)] + 1
    names[values == 0] = 0
    return names[inverse].reshape(labels.shape).astype(np.int32)


def rejoined(truth, *, seed=0, **how):
    rng = np.random.default_rng(seed)
    frame = tile(truth.shape, **how)
    return frame.leave(LABELS, (renumbered(part.enter(LABELS, truth), rng) for part in frame.parts))


def in_raster_order(labels):
    values, first = np.unique(labels[labels > 0], return_index=True)
    return (values == np.arange(1, len(values) + 1)).all() and (np.diff(first) > 0).all()


def voronoi(side, spacing, reach=1.0, seed=0):
    """Touching cells around jittered grid points; each connected."""
    cells = side // spacing
    rng = np.random.default_rng(seed)
    points = (np.stack(np.mgrid[:cells, :cells], -1) + rng.random((cells, cells, 2))) * spacing
    away = np.ones((side, side), bool)
    at = points.reshape(-1, 2).astype(int)
    away[at[:, 0], at[:, 1]] = False
    distance, (rows, columns) = ndimage.distance_transform_edt(away, return_indices=True)
    return pieces(np.where(distance <= reach * spacing, rows * side + columns + 1, 0).astype(np.int32))


@settings(deadline=None, max_examples=100)
@given(label_images(), st.integers(1, 14), st.integers(1, 40), st.sampled_from(["none", "reflect", "zero"]))
def test_touching_objects_cut_into_tiles_come_back_with_any_halo(labels, size, halo, fill):
    truth = pieces(labels)
    got = rejoined(truth, size=size, halo=halo, pad=fill, seed=size)
    assert got.dtype == np.int32
    assert same(got, truth)
    assert in_raster_order(got) or tile(truth.shape, size=size, halo=halo).parts[1:] == ()


@settings(deadline=None, max_examples=100)
@given(masks(), st.tuples(st.integers(1, 14), st.integers(1, 14)), st.sampled_from([0, 1, 2, 7]), st.booleans())
def test_components_of_tiles_joined_are_the_components_of_the_whole(mask, size, halo, eight):
    structure = EIGHT if eight or halo == 0 else None  # without a halo, touching by a corner joins as well
    frame = tile(mask.shape, size=size, halo=halo)
    got = frame.leave(
        LABELS, [ndimage.label(part.enter(MASK, mask), structure)[0].astype(np.int32) for part in frame.parts]
    )
    assert same(got, ndimage.label(mask, structure)[0])


def test_two_blobs_joined_by_a_thin_bridge_flush_with_the_seam():
    """In what both tiles see, the bridge is far smaller than either blob: each blob is whole in one tile only."""
    mask = np.zeros((40, 16), bool)
    mask[2:18, 3:8] = mask[16:18, 3:12] = mask[16:38, 8:12] = True
    mask[20:38, 5:8] = False
    frame = tile(mask.shape, size=(40, 8), halo=1)
    got = frame.leave(LABELS, [ndimage.label(p.enter(MASK, mask))[0].astype(np.int32) for p in frame.parts])
    np.testing.assert_array_equal(got, mask.astype(np.int32))


def spiral(side):
    mask = np.zeros((side, side), bool)
    y = x = 0
    step, length = [(0, 1), (1, 0), (0, -1), (-1, 0)], side - 1
    turn = 0
    while length > 0:
        for _ in range(2 if turn else 3):
            for _ in range(length):
                mask[y, x] = True
                y, x = y + step[turn % 4][0], x + step[turn % 4][1]
            turn += 1
        length -= 2
    mask[y, x] = True
    return mask


@pytest.mark.parametrize("halo", [0, 1, 4, 64])
@pytest.mark.parametrize("size", [5, 16, 61])
def test_a_spiral_over_all_tiles_is_one_object(size, halo):
    mask = spiral(61)
    assert ndimage.label(mask)[1] == 1
    frame = tile(mask.shape, size=size, halo=halo)
    got = frame.leave(LABELS, [ndimage.label(p.enter(MASK, mask))[0].astype(np.int32) for p in frame.parts])
    np.testing.assert_array_equal(got, mask.astype(np.int32))


def test_the_arms_of_a_u_are_one_object_and_what_stands_between_them_another():
    truth = np.zeros((20, 32), np.int32)
    truth[2:6, 4:30] = truth[14:18, 4:30] = truth[2:18, 26:30] = 5
    truth[8:12, 4:20] = 2
    for size, halo in ((16, 2), (8, 3), (16, 16)):
        frame = tile(truth.shape, size=(20, size), halo=halo)
        got = frame.leave(LABELS, [pieces(part.enter(LABELS, truth)) for part in frame.parts])
        assert same(got, truth)
        assert got[2, 4] == 1


def test_four_tiles_meet_in_one_corner():
    whole = np.ones((16, 16), np.int32)
    quarters = np.kron([[1, 2], [3, 4]], np.ones((8, 8), int)).astype(np.int32)
    diagonal = np.eye(16, dtype=np.int32)
    for truth in (whole, quarters, diagonal, diagonal[:, ::-1].copy()):
        assert same(rejoined(truth, size=8, halo=1), truth)
        assert same(rejoined(truth, size=8, halo=5), truth)
    assert rejoined(diagonal, size=8, halo=0).max() == 1
    assert rejoined(diagonal[:, ::-1].copy(), size=8, halo=0).max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (997, 1), (31, 37)])
def test_odd_sizes(shape):
    truth = pieces(np.random.default_rng(0).integers(0, 3, shape).astype(np.int32))
    for size, halo in ((8, 1), (5, 7), (64, 8)):
        assert same(rejoined(truth, size=size, halo=halo), truth)


def test_an_empty_image_has_no_objects():
    for halo in (0, 2):
        got = rejoined(np.zeros((20, 20), np.int32), size=8, halo=halo)
        assert got.shape == (20, 20)
        assert not got.any()


def test_without_a_halo_objects_apart_stay_apart_and_those_that_touch_at_a_seam_merge():
    apart = np.zeros((16, 16), np.int32)
    apart[1:7, 5:11], apart[8:15, 5:11], apart[3, 13:] = 1, 2, 3
    assert same(rejoined(apart, size=8, halo=0), apart)
    touching = np.zeros((4, 16), np.int32)
    touching[:, 2:8], touching[:, 8:12] = 1, 2
    assert rejoined(touching, size=(4, 8), halo=0).max() == 1
    assert same(rejoined(touching, size=(4, 8), halo=1), touching)


def test_what_only_a_halo_sees_is_dropped():
    truth = np.zeros((8, 16), np.int32)
    truth[2:5, 9:11] = 1
    frame = tile(truth.shape, size=(8, 8), halo=4)
    left, right = (part.enter(LABELS, truth) for part in frame.parts)
    assert left.any()
    assert not frame.leave(LABELS, [left, np.zeros_like(right)]).any()
    assert same(frame.leave(LABELS, [np.zeros_like(left), right]), truth)


def test_a_sliver_over_the_seam_goes_to_the_object_the_other_tile_ends_there():
    """The left tile draws the object one pixel over the seam, the right one ends it at the seam."""
    frame = tile((12, 32), size=(12, 16), halo=8)
    seen_left, seen_right = (np.zeros(part.shape, np.int32) for part in frame.parts)
    seen_left[3:9, 15:22] = 1
    seen_right[3:9, 16 - 8 : 22 - 8] = 1
    wanted = np.zeros((12, 32), np.int32)
    wanted[3:9, 15:22] = 1
    np.testing.assert_array_equal(frame.leave(LABELS, [seen_left, seen_right]), wanted)


@pytest.mark.parametrize("top", [1, 4])  # x larger than y where both tiles see them, and smaller
def test_a_tile_that_cannot_tell_neighbours_apart_at_its_rim_does_not_merge_them(top):
    """Of x, over the seam, and y, left of it, the right tile sees only ends and takes them for one object."""
    frame = tile((12, 32), size=(12, 16), halo=6)
    truth = np.zeros((12, 32), np.int32)
    truth[top:6, 6:20], truth[6:11, 4:15] = 1, 2
    left, right = (part.enter(LABELS, truth).copy() for part in frame.parts)
    right[right > 0] = 1
    assert same(frame.leave(LABELS, [left, right]), truth)


def test_what_one_tile_splits_and_the_other_does_not_is_one_object():
    """Both halves reach over the seam into what the right tile takes for one object, so they are one."""
    frame = tile((12, 32), size=(12, 16), halo=6)
    truth = np.zeros((12, 32), np.int32)
    truth[2:10, 8:24] = 1
    left, right = (part.enter(LABELS, truth).copy() for part in frame.parts)
    left[6:][left[6:] > 0] = 2
    assert same(frame.leave(LABELS, [left, right]), truth)


@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 3])
def test_neighbours_whose_border_the_tiles_draw_some_pixels_apart_stay_two(shift):
    frame = tile((20, 64), size=(20, 32), halo=16)
    left, right = (np.zeros(part.shape, np.int32) for part in frame.parts)
    border = 31
    left[4:16, 20:border], left[4:16, border:44] = 1, 2
    right[4:16, 20 - 16 : border + shift - 16], right[4:16, border + shift - 16 : 44 - 16] = 1, 2
    assert frame.leave(LABELS, [left, right]).max() == 2


def test_watershed_in_tiles_equals_watershed_of_the_whole_where_the_halo_holds_an_object():
    from skimage.draw import disk
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256), bool)
    for y, x, radius in zip(
        rng.integers(0, 256, 220), rng.integers(0, 256, 220), rng.integers(4, 11, 220), strict=True
    ):
        mask[disk((y, x), radius, shape=mask.shape)] = True

    def split(part):
        depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1], 1)
        at = peak_local_max(depth, min_distance=4, labels=part.astype(int), exclude_border=False)
        seeds = np.zeros(part.shape, np.int32)
        seeds[tuple(at.T)] = np.arange(1, len(at) + 1)
        return watershed(-depth, seeds, mask=part).astype(np.int32)

    frame = tile(mask.shape, size=64, halo=48)
    whole = split(mask)
    assert whole.max() > 80
    assert same(frame.leave(LABELS, [split(part.enter(MASK, mask)) for part in frame.parts]), whole)


def test_seventy_thousand_touching_objects():
    truth = voronoi(2128, 8)
    assert truth.max() > 70_000
    assert same(rejoined(truth, size=512, halo=16), truth)


def test_large_and_sparse_numbers_are_taken_and_negative_ones_refused():
    frame = tile((8, 16), size=8, halo=2)
    truth = np.zeros((8, 16), np.int32)
    truth[2:5, 6:10], truth[6, 1] = 2**31 - 1, 2**30
    got = frame.leave(LABELS, [part.enter(LABELS, truth) for part in frame.parts])
    np.testing.assert_array_equal(got, np.where(truth == 2**31 - 1, 1, np.where(truth > 0, 2, 0)))
    full = np.full((8, 16), 2**30, np.int32)  # no background at all
    np.testing.assert_array_equal(frame.leave(LABELS, [part.enter(LABELS, full) for part in frame.parts]), full >> 30)
    with pytest.raises(KindError, match="wanted 0 or more, got -1"):
        frame.leave(LABELS, [np.full(part.shape, -1, np.int32) for part in frame.parts])


def test_no_more_than_a_row_of_tiles_is_held():
    truth = voronoi(128, 8)
    frame = tile(truth.shape, size=16, halo=4)
    alive: set[int] = set()
    most = 0

    def results():
        nonlocal most
        for index, part in enumerate(frame.parts):
            value = renumbered(part.enter(LABELS, truth), np.random.default_rng(index))
            alive.add(index)
            weakref.finalize(value, alive.discard, index)
            most = max(most, len(alive))
            yield value

    assert same(frame.leave(LABELS, results()), truth)
    assert most <= 8 + 4
