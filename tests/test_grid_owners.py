"""Boxes and instances at the seams of tiles: every object once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import KINDS, Boxes, Instances
from cellkit.grid.brackets import pad, resize, tile

BOXES, INSTANCES = KINDS["boxes"], KINDS["instances"]
NONE = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))


def boxes_in(rng, shape, count, most=15):
    # Quarters of a pixel, so that shifting there and back is exact in float32.
    corner = np.floor(rng.random((count, 2)) * np.array(shape[::-1]) * 4) / 4
    far = np.minimum(corner + np.ceil(rng.random((count, 2)) * most * 4) / 4, shape[::-1])
    return Boxes(
        np.concatenate([corner, far], axis=1).astype(np.float32),
        rng.random(count, np.float32),
        rng.integers(0, 3, count).astype(np.int32),
    )


def instances_of(boxes, rng):
    probs = []
    for x0, y0, x1, y1 in boxes.xyxy:
        prob = rng.random((int(np.ceil(y1) - np.floor(y0)), int(np.ceil(x1) - np.floor(x0))), np.float32)
        prob[0, 0] = 1
        probs.append(prob)
    return Instances(boxes, tuple(prob > 0.2 for prob in probs), tuple(probs))


def rows(boxes):
    return sorted(np.column_stack([boxes.xyxy, boxes.scores, boxes.classes]).tolist())


def through(frame, kind, value):
    return frame.leave(kind, (part.enter(kind, value) for part in frame.parts))


@settings(deadline=None, max_examples=120)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(0, 40),
    st.integers(3, 20),
    st.integers(0, 25),
    st.integers(0, 1000),
)
def test_boxes_that_enter_tiles_leave_them_each_once(shape, count, size, halo, seed):
    boxes = boxes_in(np.random.default_rng(seed), shape, count)
    frame = tile(shape, size=size, halo=halo, pad="reflect" if seed % 2 else "none")
    assert rows(through(frame, BOXES, boxes)) == rows(boxes)


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(2, 50), st.integers(2, 50)), st.integers(0, 20), st.integers(0, 20), st.integers(0, 1000))
def test_instances_that_enter_tiles_leave_them_with_their_masks(shape, count, halo, seed):
    rng = np.random.default_rng(seed)
    instances = instances_of(boxes_in(rng, shape, count), rng)
    got = through(tile(shape, size=9, halo=halo), INSTANCES, instances)
    assert rows(got.boxes) == rows(instances.boxes)
    wanted = dict(zip(instances.boxes.scores.tolist(), instances.probs, strict=True))
    for score, mask, prob in zip(got.boxes.scores.tolist(), got.masks, got.probs or (), strict=True):
        np.testing.assert_array_equal(prob, wanted[score])
        np.testing.assert_array_equal(mask, prob > 0.2)


def one(xyxy, score=0.9, cls=0):
    return Boxes(np.array([xyxy], np.float32), np.array([score], np.float32), np.array([cls], np.int32))


def two_tiles(left, right, halo=8):
    """Detections of two tiles of 16 x 16 px side by side, given in outer coordinates."""
    frame = tile((16, 32), size=16, halo=halo)
    moved = []
    for part, boxes in zip(frame.parts, (left, right), strict=True):
        shift = np.array([part.tile.window.left, part.tile.window.top] * 2, np.float32)
        moved.append(Boxes(boxes.xyxy - shift, boxes.scores, boxes.classes))
    return frame.leave(BOXES, moved)


def test_an_object_both_tiles_take_for_their_own_is_kept_once_with_the_better_score():
    got = two_tiles(one([11, 4, 20, 10], 0.8), one([12, 4, 21, 10], 0.9))  # centres 15.5 and 16.5
    np.testing.assert_array_equal(got.xyxy, [[12, 4, 21, 10]])


def test_an_object_neither_tile_takes_for_its_own_is_kept_once():
    got = two_tiles(one([12, 4, 21, 10], 0.8), one([11, 4, 20, 10], 0.9))  # centres 16.5 and 15.5
    np.testing.assert_array_equal(got.xyxy, [[11, 4, 20, 10]])


def test_an_object_that_neither_tile_owns_nor_sees_whole_is_kept_where_its_mean_lies():
    got = two_tiles(one([9, 4, 23.5, 10], 0.8), one([8.5, 4, 23, 10], 0.9))  # centres 16.25 and 15.75, mean 16
    np.testing.assert_array_equal(got.xyxy, [[8.5, 4, 23, 10]])


def test_objects_of_different_classes_do_not_suppress_each_other():
    assert len(two_tiles(one([11, 4, 20, 10], cls=0), one([12, 4, 21, 10], cls=1))) == 2


def test_what_only_the_neighbour_sees_of_an_object_that_is_not_its_own_is_dropped():
    assert len(two_tiles(one([17, 4, 23, 10]), NONE)) == 0
    assert len(two_tiles(NONE, one([17, 4, 23, 10]))) == 1


def test_two_overlapping_objects_with_centres_on_either_side_both_stay():
    """Their overlap over union is 0.6; each tile sees both, so neither is the other's duplicate."""
    both = Boxes(
        np.array([[8, 2, 22, 12], [11.5, 2, 25.5, 12]], np.float32), np.array([0.9, 0.8], np.float32), np.zeros(2, int)
    )
    cut = Boxes(np.minimum(both.xyxy, np.float32(24)), both.scores, both.classes)
    got = two_tiles(cut, both)
    assert len(got) == 2
    np.testing.assert_array_equal(got.xyxy[got.scores < 0.85], [[11.5, 2, 25.5, 12]])


def test_of_two_owners_the_one_that_saw_the_object_whole_is_kept():
    got = two_tiles(one([7, 4, 24, 10], 0.9), one([8, 4, 29, 10], 0.5))  # the left window ends at 24, the right at 8
    np.testing.assert_array_equal(got.xyxy, [[7, 4, 24, 10]])
    got = two_tiles(one([7.5, 4, 24, 10], 0.9), one([9.5, 4, 25, 10], 0.5))
    np.testing.assert_array_equal(got.xyxy, [[9.5, 4, 25, 10]])


def test_thousands_of_jittered_detections_come_out_once_each():
    rng = np.random.default_rng(0)
    grid = np.stack(np.mgrid[0:500:20, 0:500:20], -1).reshape(-1, 2) + 3.0
    shape = (500, 500)
    truth = np.concatenate([grid, grid + 13], axis=1)
    frame = tile(shape, size=64, halo=20)
    parts = []
    for part in frame.parts:
        xyxy = np.clip(truth + rng.uniform(-1, 1, truth.shape), 0, 500).astype(np.float32)
        boxes = Boxes(xyxy, rng.random(len(xyxy), np.float32), np.zeros(len(xyxy), np.int32))
        window = part.tile.window
        seen = part.enter(BOXES, boxes)
        cut = np.clip(seen.xyxy, 0, np.array([window.shape[1], window.shape[0]] * 2, np.float32))
        parts.append(Boxes(cut, seen.scores, seen.classes))
    got = frame.leave(BOXES, parts)
    assert len(got) == len(truth)
    centre = ((got.xyxy[:, :2] + got.xyxy[:, 2:]) / 2 - 9.5) / 20
    assert len({tuple(c) for c in np.round(centre).astype(int).tolist()}) == len(truth)


def test_instances_that_cross_are_told_apart_by_their_masks():
    """Two diagonal objects with nearly the same box, one seen by the left tile only, the other by the right only."""
    down, up = np.eye(12, dtype=bool), np.eye(12, dtype=bool)[::-1].copy()
    frame = tile((16, 32), size=16, halo=8)
    left = Instances(one([9, 2, 21, 14]), (down,))
    right = Instances(one([10 - 8, 2, 22 - 8, 14]), (up,))
    got = frame.leave(INSTANCES, [left, right])
    assert len(got) == 2
    same = frame.leave(INSTANCES, [left, Instances(one([9 - 8, 2, 21 - 8, 14]), (down,))])
    assert len(same) == 1
    np.testing.assert_array_equal(same.masks[0], down)


@pytest.mark.parametrize("align", ["center", "corner"])
def test_boxes_leave_a_pad_cut_to_the_picture(align):
    frame = pad((10, 10), size=20, mode="reflect", align=align)
    top = 5 if align == "center" else 0
    inner = Boxes(
        np.array([[top + 6, top + 2, top + 14, top + 6], [top + 11, 16, top + 14, 20]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.zeros(2, np.int32),
    )
    got = frame.leave(BOXES, [inner])  # the first reaches over the edge, mirrored; the second is padding only
    np.testing.assert_array_equal(got.xyxy, [[6, 2, 10, 6]])
    masks = (np.ones((4, 8), bool), np.ones((4, 3), bool))
    cut = frame.leave(INSTANCES, [Instances(inner, masks)])
    assert [mask.shape for mask in cut.masks] == [(4, 4)]
    assert rows(through(frame, BOXES, got)) == rows(got)


def test_an_instance_whose_pixels_all_lie_in_padding_vanishes():
    frame = pad((10, 10), size=20)
    mask = np.zeros((4, 8), bool)
    mask[:, 5:] = True
    inner = Instances(one([11, 7, 19, 11]), (mask,))
    assert len(frame.leave(INSTANCES, [inner])) == 0


def test_instances_without_probabilities_among_those_with():
    mask = np.ones((6, 9), bool)
    frame = tile((16, 32), size=16, halo=8)
    soft = Instances(one([2, 4, 11, 10]), (mask,), (np.full((6, 9), 0.7, np.float32),))
    hard = Instances(one([12, 4, 21, 10]), (mask,))
    got = frame.leave(INSTANCES, [soft, hard])
    assert len(got) == 2
    assert got.probs is None
    got = frame.leave(INSTANCES, [soft, Instances(NONE, ())])
    assert [p.max() for p in got.probs] == [np.float32(0.7)]


def test_an_instance_without_a_pixel_stays_while_it_has_probabilities():
    frame = tile((16, 32), size=16, halo=8)
    faint = Instances(one([2, 4, 4, 6]), (np.zeros((2, 2), bool),), (np.full((2, 2), 0.4, np.float32),))
    assert len(frame.leave(INSTANCES, [faint, Instances(NONE, ())])) == 1
    gone = Instances(faint.boxes, faint.masks)
    assert len(frame.leave(INSTANCES, [gone, Instances(NONE, ())])) == 0


def test_probabilities_are_scaled_with_their_masks():
    prob = np.random.default_rng(0).random((6, 9), np.float32)
    instances = Instances(one([2, 4, 11, 10]), (prob > 0.5,), (prob,))
    frame = resize((20, 20), factor=2.0)
    inner = frame.parts[0].enter(INSTANCES, instances)
    np.testing.assert_array_equal(inner.probs[0], prob.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(frame.leave(INSTANCES, [inner]).probs[0], prob)


def test_no_objects_at_all():
    frame = tile((20, 20), size=8, halo=2)
    assert len(through(frame, BOXES, NONE)) == 0
    assert len(through(frame, INSTANCES, Instances(NONE, ()))) == 0
