"""Suppression of boxes against torchvision and plain readings of the papers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import Boxes, Instances, KindError, StageError
from cellkit.stages import suppress

NONE = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))


def random_boxes(rng, count, extent=60.0, most=25.0, classes=3):
    corner = np.floor(rng.random((count, 2)) * extent * 4) / 4
    far = corner + np.ceil(rng.random((count, 2)) * most * 4) / 4
    xyxy = np.concatenate([corner, far], axis=1).astype(np.float32)
    # Scores with ties among them.
    scores = (rng.integers(1, 40, count) / 40).astype(np.float32)
    return Boxes(xyxy, scores, rng.integers(0, classes, count).astype(np.int32))


def with_masks(boxes, rng):
    sides = np.ceil(boxes.xyxy[:, 2:]) - np.floor(boxes.xyxy[:, :2])
    probs = tuple(rng.random((int(h), int(w)), np.float32) for w, h in sides)
    return Instances(boxes, tuple(p > 0.5 for p in probs), probs)


def overlap(a, b):
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common) if common else 0.0


def soft_nms(boxes, sigma, per_class):
    """Figure 2 of Bodla et al., word by word."""
    xyxy, scores = boxes.xyxy.astype(float), boxes.scores.astype(float)
    left, out = list(range(len(xyxy))), []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        left.remove(best)
        out.append(best)
        for i in left:
            if not per_class or boxes.classes[i] == boxes.classes[best]:
                scores[i] *= np.exp(-(overlap(xyxy[best], xyxy[i]) ** 2) / sigma)
    return np.array(out, int), scores


def weighted_fusion(sources, weights, iou):
    """Section 3 of Solovyev et al., step by step: rows of x0, y0, x1, y1, score, class."""
    found = []
    for boxes, weight in zip(sources, weights, strict=True):
        for box, score, cls in zip(boxes.xyxy.astype(float), boxes.scores.astype(float), boxes.classes, strict=True):
            found.append((box, score * weight, int(cls)))
    found.sort(key=lambda row: -row[1])
    clusters, fused = [], []
    for box, score, cls in found:
        match, best = -1, iou
        for index, (mean, _, own) in enumerate(fused):
            if own == cls and overlap(box, mean) > best:
                match, best = index, overlap(box, mean)
        if match < 0:
            match = len(fused)
            clusters.append([])
            fused.append(None)
        clusters[match].append((box, score))
        scores = np.array([s for _, s in clusters[match]])
        mean = (scores[:, None] * np.array([b for b, _ in clusters[match]])).sum(axis=0) / scores.sum()
        fused[match] = (mean, scores.mean(), cls)
    rows = []
    for (mean, score, cls), members in zip(fused, clusters, strict=True):
        rows.append([*mean, score * min(len(members), len(sources)) / sum(weights), cls])
    return np.array(sorted(rows, key=lambda row: -row[4])).reshape(-1, 6)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 150), st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0]), st.booleans(), st.integers(0, 10**6))
def test_nms_equals_torchvision(count, iou, per_class, seed):
    import torch
    from torchvision.ops import batched_nms, nms

    boxes = random_boxes(np.random.default_rng(seed), count)
    xyxy, scores = torch.from_numpy(boxes.xyxy), torch.from_numpy(boxes.scores)
    classes = torch.from_numpy(boxes.classes).long()
    wanted = batched_nms(xyxy, scores, classes, iou) if per_class else nms(xyxy, scores, iou)
    got = suppress(boxes, iou=iou, per_class=per_class)
    np.testing.assert_array_equal(got.xyxy, boxes.xyxy[wanted])
    np.testing.assert_array_equal(got.scores, boxes.scores[wanted])
    np.testing.assert_array_equal(got.classes, boxes.classes[wanted])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.sampled_from([0.05, 0.5, 2.0]), st.booleans(), st.integers(0, 10**6))
def test_soft_nms_equals_the_paper(count, sigma, per_class, seed):
    boxes = random_boxes(np.random.default_rng(seed), count)
    order, scores = soft_nms(boxes, sigma, per_class)
    got = suppress(boxes, method="soft-nms", sigma=sigma, per_class=per_class)
    np.testing.assert_array_equal(got.xyxy, boxes.xyxy[order])
    np.testing.assert_allclose(got.scores, scores[order], rtol=1e-6)
    some = suppress(boxes, method="soft-nms", sigma=sigma, per_class=per_class, score=0.3)
    np.testing.assert_array_equal(some.xyxy, got.xyxy[got.scores >= np.float32(0.3)])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.sampled_from([0.2, 0.55, 0.8]), st.integers(0, 10**6))
def test_wbf_equals_the_paper(count, iou, seed):
    boxes = random_boxes(np.random.default_rng(seed), count)
    wanted = weighted_fusion([boxes], [1.0], iou)
    got = suppress(boxes, method="wbf", iou=iou)
    np.testing.assert_allclose(got.xyxy, wanted[:, :4], rtol=1e-5)
    np.testing.assert_allclose(got.scores, wanted[:, 4], rtol=1e-5)
    np.testing.assert_array_equal(got.classes, wanted[:, 5])


@pytest.mark.parametrize("method", ["nms", "soft-nms", "wbf"])
def test_classes_may_be_looked_at_together(method):
    xyxy = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    boxes = Boxes(xyxy, np.array([0.6, 0.9], np.float32), np.array([7, 4], np.int32))
    assert len(suppress(boxes, method=method, score=0.3)) == 2
    (one,) = suppress(boxes, method=method, score=0.3, per_class=False).classes
    assert one == 4


def test_scores_and_the_most_boxes():
    boxes = random_boxes(np.random.default_rng(3), 200, extent=2000)
    kept = suppress(boxes, score=0.6)
    assert kept.scores.min() == np.float32(0.6)  # a score equal to the limit stays
    best = suppress(boxes, most=5)
    np.testing.assert_array_equal(best.scores, suppress(boxes).scores[:5])
    assert suppress(replace(boxes, scores=np.full(200, np.nan, np.float32))).scores.shape == (0,)


def test_instances_keep_their_masks_and_probabilities():
    rng = np.random.default_rng(0)
    instances = with_masks(random_boxes(rng, 40), rng)
    for method in ("nms", "soft-nms"):
        got = suppress(instances, method=method, score=0.1)
        assert 0 < len(got) < 40
        for box, cls, mask, prob in zip(got.boxes.xyxy, got.boxes.classes, got.masks, got.probs, strict=True):
            same = (instances.boxes.xyxy == box).all(axis=1) & (instances.boxes.classes == cls)
            assert any(prob is instances.probs[i] and mask is instances.masks[i] for i in np.flatnonzero(same))
    with pytest.raises(StageError, match="wbf averages boxes"):
        suppress(instances, method="wbf")


@pytest.mark.parametrize("method", ["nms", "soft-nms", "wbf"])
def test_no_box_and_bad_boxes(method):
    assert len(suppress(NONE, method=method)) == 0
    xyxy = np.array([[0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 3, 3], [1e30, 0, 2e30, 1]], np.float32)
    flat = Boxes(xyxy, np.array([0.4, 0.3, 0.2, 0.0], np.float32), np.zeros(4, np.int32))
    np.testing.assert_array_equal(suppress(flat, method=method).xyxy, xyxy)
    bad = replace(flat, xyxy=np.where(np.arange(16).reshape(4, 4) == 6, np.nan, xyxy).astype(np.float32))
    with pytest.raises(KindError, match="box 2: wanted finite"):
        suppress(bad, method=method)


@pytest.mark.parametrize("method", ["nms", "soft-nms", "wbf"])
def test_a_slide_of_boxes_is_cut_into_neighbourhoods(method):
    """70,000 boxes far apart, each twice and one as large as everything: what is near decides, not what there is."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.mgrid[0:188, 0:188], -1).reshape(-1, 2)[:35_000] * 40.0
    xyxy = np.concatenate([grid, grid + 20], axis=1).astype(np.float32)
    both = np.concatenate([xyxy, xyxy + 1, [[0, 0, 7500, 7500]]]).astype(np.float32)
    scores = np.concatenate([rng.uniform(0.5, 1, 35_000), rng.uniform(0.2, 0.4, 35_000), [0.1]]).astype(np.float32)
    got = suppress(Boxes(both, scores, np.zeros(70_001, np.int32)), method=method, score=0.1)
    alone = got.xyxy[got.scores >= 0.1][:35_000]
    if method == "nms":
        assert len(got) == 35_001
        assert {tuple(b) for b in alone.tolist()} == {tuple(b) for b in xyxy.tolist()}
    elif method == "soft-nms":
        factor = np.exp(-((19 * 19 / (800 - 19 * 19)) ** 2) / 0.5)
        twins = got.scores[(got.xyxy[:, 0] % 40 == 1) & (got.xyxy[:, 2] < 7500)]
        assert len(twins) == np.count_nonzero(scores[35_000:70_000] * factor >= 0.1)
    else:
        assert len(got) == 35_001
        shift = got.xyxy[:-1, 0] % 40
        assert shift.min() > 0.1
        assert shift.max() < 0.5
