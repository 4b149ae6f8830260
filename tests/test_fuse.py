"""Ensembles of probabilities, masks and boxes; pixels painted from instances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import Boxes, Instances, KindError, RecipeError, StageError
from cellkit.stages import average, fuse, merge_masks, paint, to_labels, vote
from test_boxes_stages import NONE, random_boxes, weighted_fusion, with_masks


def blank(height, width):
    return np.zeros((height, width, 1), np.float32)


def instances_of(rng, count, extent, probs=True):
    found = with_masks(random_boxes(rng, count, extent=extent, most=12), rng)
    return found if probs else Instances(found.boxes, found.masks)


def full_size(instances, index, shape, values):
    """One object's values in a picture of `shape`, by copying pixel by pixel."""
    out = np.zeros(shape, np.float32)
    x0, y0 = np.floor(instances.boxes.xyxy[index, :2]).astype(int)
    for (y, x), value in np.ndenumerate(values):
        if 0 <= y0 + y < shape[0] and 0 <= x0 + x < shape[1]:
            out[y0 + y, x0 + x] = value
    return out


@settings(max_examples=40)
@given(st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
def test_average_is_that_of_numpy(count, weighed, seed):
    rng = np.random.default_rng(seed)
    probs = [rng.random((5, 7, 2), np.float32) for _ in range(count)]
    weights = tuple(rng.uniform(0.1, 5, count)) if weighed else ()
    wanted = np.average(probs, axis=0, weights=weights or None)
    got = average(*probs, weights=weights)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_average_of_equal_layers_does_not_leave_the_range():
    one = np.ones((3, 3, 1), np.float32)
    assert average(one, one, one, weights=(0.1, 0.7, 0.3)).max() <= 1


def test_average_refuses_what_does_not_fit():
    a, b = np.zeros((4, 5, 1), np.float32), np.zeros((4, 5, 3), np.float32)
    with pytest.raises(StageError, match="4 x 5 with 1 channel, 4 x 5 with 3 channels"):
        average(a, b)
    with pytest.raises(StageError, match="one weight for each of 2 layers, got 1"):
        average(a, a, weights=(1.0,))
    with pytest.raises(StageError, match="a weight above 0, got 0, 0"):
        average(a, a, weights=(0.0, 0.0))


@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.5, 2 / 3, 0.75, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_vote_counts(count, share):
    masks = list((np.arange(16)[None] >> np.arange(4)[:count, None] & 1).astype(bool)[:, None])
    got = vote(*masks, share=share)
    total = np.sum(masks, axis=0)
    wanted = (total == count) if share == 1 else (3 * total > round(3 * share * count, 6))
    np.testing.assert_array_equal(got, wanted)


def test_vote_refuses_masks_of_several_sizes():
    with pytest.raises(StageError, match="4 x 5, 5 x 4"):
        vote(np.zeros((4, 5), bool), np.zeros((5, 4), bool))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=4), st.integers(0, 10**6))
def test_fuse_equals_the_paper(counts, seed):
    rng = np.random.default_rng(seed)
    layers = [random_boxes(rng, n, extent=30) for n in counts]
    weights = tuple(rng.integers(1, 5, len(layers)) / 2.0)
    got = fuse(*layers, weights=weights)
    wanted = weighted_fusion(layers, weights, 0.55)
    order = np.lexsort((wanted[:, 0], -wanted[:, 4].round(5)))
    mine = np.lexsort((got.xyxy[:, 0], -got.scores.astype(float).round(5)))
    np.testing.assert_allclose(got.xyxy[mine], wanted[order, :4], rtol=1e-4)
    np.testing.assert_allclose(got.scores[mine], wanted[order, 4], rtol=1e-5)
    np.testing.assert_array_equal(got.classes[mine], wanted[order, 5])


def test_fuse_by_hand():
    """Both detectors see one object: 0.8 and 0.4 make 0.6. One of the two sees another: 0.5 makes 0.25."""
    one = Boxes(np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32), np.float32([0.8, 0.5]), np.int32([2, 2]))
    two = Boxes(np.array([[1, 0, 11, 10]], np.float32), np.float32([0.4]), np.int32([2]))
    got = fuse(one, two)
    np.testing.assert_allclose(got.xyxy, [[1 / 3, 0, 31 / 3, 10], [50, 50, 60, 60]], rtol=1e-6)
    np.testing.assert_allclose(got.scores, [0.6, 0.25], rtol=1e-6)
    assert len(fuse(one, two, score=0.45)) == 2
    assert len(fuse(NONE, NONE)) == 0
    with pytest.raises(KindError, match="box 1"):
        fuse(one, Boxes(np.full((1, 4), np.nan, np.float32), np.float32([1]), np.int32([0])))


@settings(max_examples=40)
@given(st.integers(0, 8), st.booleans(), st.sampled_from(["max", "sum"]), st.booleans(), st.integers(0, 10**6))
def test_paint_equals_whole_pictures(count, probs, combine, weigh, seed):
    rng = np.random.default_rng(seed)
    instances = instances_of(rng, count, 25, probs)
    shape = (19, 23)  # some objects reach beyond it, or lie outside
    planes = [np.zeros(shape, np.float32)]
    for i, score in enumerate(instances.boxes.scores):
        values = instances.probs[i] if probs else instances.masks[i]
        planes.append((score if weigh else 1) * full_size(instances, i, shape, values))
    wanted = np.max(planes, axis=0) if combine == "max" else np.minimum(np.sum(planes, axis=0), 1)
    got = paint(instances, blank(*shape), combine=combine, weigh=weigh)
    np.testing.assert_allclose(got[..., 0], wanted, atol=1e-6)


def test_paint_of_boxes_fills_the_pixels_they_touch():
    boxes = Boxes(np.array([[1.5, 0, 3.2, 2]], np.float32), np.float32([0.7]), np.int32([0]))
    wanted = np.zeros((3, 5), np.float32)
    wanted[0:2, 1:4] = 0.7
    np.testing.assert_array_equal(paint(boxes, blank(3, 5))[..., 0], wanted)
    assert not paint(NONE, blank(1, 1)).any()


def reference_labels(instances, shape, overlap, area):
    """Pixel sets, taken in order of the score."""
    taken, labels, number = {}, np.zeros(shape, np.int32), 1
    for i in sorted(range(len(instances)), key=lambda i: (-instances.boxes.scores[i], i)):
        own = set(zip(*np.nonzero(full_size(instances, i, shape, instances.masks[i])), strict=True))
        free = own - taken.keys()
        if free and len(own - free) <= overlap * len(own) and len(free) >= area:
            taken.update(dict.fromkeys(free, number))
            number += 1
    for (y, x), label in taken.items():
        labels[y, x] = label
    return labels


@settings(max_examples=60)
@given(st.integers(0, 10), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 9), st.integers(0, 10**6))
def test_to_labels_equals_pixel_sets(count, overlap, area, seed):
    rng = np.random.default_rng(seed)
    instances = instances_of(rng, count, 20)
    shape = (17, 22)
    got = to_labels(instances, blank(*shape), overlap=overlap, area=area)
    np.testing.assert_array_equal(got, reference_labels(instances, shape, overlap, area))


def test_to_labels_keeps_pieces_together_or_the_largest_alone():
    mask = np.ones((3, 9), bool)
    bar = np.ones((5, 1), bool)
    boxes = Boxes(np.array([[0, 1, 9, 4], [3, 0, 4, 5]], np.float32), np.float32([0.5, 0.9]), np.int32([0, 0]))
    instances = Instances(boxes, (mask, bar))
    both = to_labels(instances, blank(5, 9))
    assert set(np.unique(both)) == {0, 1, 2}
    assert np.count_nonzero(both == 2) == 24
    large = to_labels(instances, blank(5, 9), largest=True)
    assert np.count_nonzero(large == 2) == 15
    assert not large[1:4, :3].any()
    np.testing.assert_array_equal(to_labels(instances, blank(5, 9), score=0.6) > 0, both == 1)
    assert not to_labels(instances, blank(5, 9), score=0.95).any()
    assert not to_labels(Instances(NONE, ()), blank(1, 1)).any()


@pytest.mark.parametrize("stage", [paint, to_labels, merge_masks])
def test_masks_that_do_not_fit_are_named(stage):
    box = Boxes(np.array([[0.5, 0, 2.5, 2]], np.float32), np.float32([1]), np.int32([0]))
    with pytest.raises(KindError, match=r"instance 1: wanted a mask of shape \(2, 3\).*got \(2, 2\)"):
        stage(Instances(box, (np.ones((2, 2), bool),)), blank(4, 4))
    bad = Boxes(np.array([[0, np.inf, 2, 2]], np.float32), np.float32([1]), np.int32([0]))
    with pytest.raises(KindError, match="box 1: wanted finite"):
        stage(Instances(bad, (np.ones((2, 2), bool),)), blank(4, 4))


def published(instances, shape, score, iou, pixel, threshold):
    """The published way over whole pictures, with torchvision's suppression."""
    import torch
    from torchvision.ops import nms

    keep = np.flatnonzero(instances.boxes.scores >= np.float32(score))
    xyxy, scores = instances.boxes.xyxy[keep], instances.boxes.scores[keep]
    keep = keep[nms(torch.from_numpy(xyxy), torch.from_numpy(scores), iou).numpy()]
    total = np.zeros(shape)
    for i in keep:
        plane = full_size(instances, i, shape, instances.probs[i])
        plane[plane < pixel] = 0
        total += plane
    return total > threshold


@settings(max_examples=40)
@given(st.integers(0, 12), st.integers(0, 10**6))
def test_merge_masks_equals_the_published_way(count, seed):
    rng = np.random.default_rng(seed)
    instances = instances_of(rng, count, 16)
    shape = (21, 17)
    got = merge_masks(instances, blank(*shape))
    np.testing.assert_array_equal(got, published(instances, shape, 0.4, 0.5, 0.3, 0.9))
    got = merge_masks(instances, blank(*shape), score=0.2, iou=0.7, pixel=0.6, threshold=1.3)
    np.testing.assert_array_equal(got, published(instances, shape, 0.2, 0.7, 0.6, 1.3))


def test_masks_without_probabilities_are_merged_whole():
    box = Boxes(np.array([[1, 1, 3, 3]], np.float32), np.float32([0.5]), np.int32([0]))
    got = merge_masks(Instances(box, (np.eye(2, dtype=bool),)), blank(4, 4))
    np.testing.assert_array_equal(np.argwhere(got), [[1, 1], [2, 2]])
    assert not merge_masks(Instances(box, (np.eye(2, dtype=bool),)), blank(4, 4), score=0.6).any()


def test_instances_check_their_probabilities():
    box = Boxes(np.array([[0, 0, 2, 2]], np.float32), np.float32([1]), np.int32([0]))
    mask = np.ones((2, 2), bool)
    with pytest.raises(KindError, match="1 masks but 0 probs"):
        Instances(box, (mask,), ())
    for wrong in (np.ones((2, 2)), np.ones((2, 3), np.float32)):
        with pytest.raises(KindError, match=r"object 0: wanted float32 \(2, 2\)"):
            Instances(box, (mask,), (wrong,))


def test_ensembles_in_a_recipe():
    steps = """
    steps:
      - {otsu: , out: bright}
      - {threshold: {value: 0.2}, out: pale}
      - {vote: {share: 0.0}, in: [bright, pale]}
      - components
    """
    recipe = ck.Recipe.load(steps)
    image = np.tile(np.linspace(0, 1, 12, dtype=np.float32), (6, 1))
    result = ck.run(recipe, ck.Sample.of(image=image))
    np.testing.assert_array_equal(result["mask"], result["bright"] | result["pale"])
    assert ck.check(recipe) == []
    with pytest.raises(RecipeError, match="'prob' wants Prob"):
        ck.run(ck.Recipe.load("steps: [average]"), ck.Sample.of(image=image))
