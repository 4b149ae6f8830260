"""The GlaS scores and Hausdorff distances against scipy, brute force and hand-worked cases."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, directed_hausdorff

from cellkit.core import KindError
from cellkit.metrics import PROTOCOLS, Settings, gland, hausdorff
from strategies import label_images, masks
from test_metrics_matching import label_pairs

QUICK = settings(deadline=None, max_examples=60)


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in rows], np.int32)


def square(side: int, *at: tuple[int, int, int]) -> np.ndarray:
    """Labels (side, side) with squares: top, left, size."""
    labels = np.zeros((side, side), np.int32)
    for i, (y, x, size) in enumerate(at, 1):
        labels[y : y + size, x : x + size] = i
    return labels


def reference(one: np.ndarray, other: np.ndarray) -> float:
    a, b = np.argwhere(one), np.argwhere(other)
    return max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])


@QUICK
@given(masks(), st.integers(0, 2**32 - 1), st.sampled_from(["any", "left and right", "above and below", "far"]))
def test_distances_are_scipys(mask, seed, look):
    rng = np.random.default_rng(seed)
    other = rng.permutation(mask.ravel()).reshape(mask.shape) & (rng.random(mask.shape) < 0.5)
    height, width = mask.shape
    mask = mask.copy()
    if look == "left and right":
        mask[:, width // 2 :], other[:, : width // 2] = False, False
    elif look == "above and below":
        mask[: height // 2], other[height // 2 :] = False, False
    elif look == "far":
        mask, other = np.pad(mask, ((0, 50), (0, 90))), np.pad(other, ((50, 0), (90, 0)))
    if not mask.any() or not other.any():
        assert hausdorff.distance(mask, other) == (0 if mask.any() == other.any() else math.inf)
        return
    assert hausdorff.distance(mask, other) == hausdorff.distance(other, mask) == reference(mask, other)


@pytest.mark.parametrize("shape", [(1, 1200), (1030, 40), (1000, 1000)])
def test_large_and_long_objects_are_exact(shape):
    rng = np.random.default_rng(0)
    one, other = rng.random(shape) < 0.001, rng.random(shape) < 0.001
    one[0, 0] = one[-1, -1] = other[0, -1] = True
    a, b = np.argwhere(one), np.argwhere(other)
    away = cdist(a, b)
    assert hausdorff.distance(one, other) == max(away.min(axis=1).max(), away.min(axis=0).max())


def test_distances_by_hand():
    assert hausdorff.distance(grid("100000"), grid("000001")) == 5
    assert hausdorff.distance(grid("1000", "0000", "0000"), grid("0000", "0000", "0001")) == math.hypot(2, 3)
    assert hausdorff.distance(grid("110000"), grid("011111")) == 4
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    assert hausdorff.distance(ring, np.ones((9, 9), bool)) == 3  # the middle is farthest, not an edge
    assert hausdorff.distance(grid("00"), grid("00")) == 0
    assert hausdorff.distance(grid("10"), grid("00")) == math.inf
    with pytest.raises(KindError, match="both must have one size"):
        hausdorff.distance(grid("10"), grid("100"))


@QUICK
@given(label_images())
def test_objects_and_their_boxes(labels):
    found = hausdorff.objects(labels)
    assert found.ids.tolist() == [i for i in np.unique(labels) if i]
    for k, i in enumerate(found.ids):
        at = np.argwhere(labels == i)
        assert found.boxes[k].tolist() == [*at.min(axis=0), *(at.max(axis=0) + 1)]
        assert found.mask(k).sum() == len(at)


def brute(truth: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """All three scores by their definitions, mask by mask; of equal overlaps the smaller object is the partner."""
    truths, preds = ([side == i for i in np.unique(side) if i] for side in (truth, pred))

    def partner(mask, others):
        ranks = [(int((mask & o).sum()), -int(o.sum())) for o in others]
        best = max(ranks, default=(0, 0))
        return [j for j, r in enumerate(ranks) if r == best] if best[0] else []

    def dice(mask, others):
        ties = partner(mask, others)
        return Fraction(2 * int((mask & others[ties[0]]).sum()), int(mask.sum() + others[ties[0]].sum())) if ties else 0

    def distance(mask, others):
        among = partner(mask, others) or range(len(others))
        return min((reference(mask, others[j]) for j in among), default=math.inf)

    hits = 0
    for p in preds:
        ties = partner(p, truths)
        hits += bool(ties) and 2 * int((p & truths[ties[0]]).sum()) > int(truths[ties[0]].sum())
    sides = ((truths, preds), (preds, truths))
    area = [sum(int(m.sum()) for m in own) for own, _ in sides]
    halves = [sum(int(m.sum()) * dice(m, o) for m in own) / a if a else 0 for (own, o), a in zip(sides, area, strict=True)]  # fmt: skip # noqa: E501
    result = {"f1": 2 * hits / (len(truths) + len(preds)), "dice": float(sum(halves)) / 2, "hausdorff": math.inf}
    if truths and preds:
        result["hausdorff"] = (
            sum(sum(int(m.sum()) * distance(m, o) for m in own) / a for (own, o), a in zip(sides, area, strict=True))
            / 2
        )
    return result


def scores(counts: gland.Counts) -> dict[str, float]:
    return {
        "f1": gland.object_f1(counts),
        "dice": gland.object_dice(counts),
        "hausdorff": gland.object_hausdorff(counts),
    }


@QUICK
@given(label_pairs(most=8))
def test_the_three_scores_against_their_definitions(pair):
    truth, pred = pair
    if truth.any() or pred.any():
        assert scores(gland.count(truth, pred)) == pytest.approx(brute(truth, pred), abs=1e-9)


@QUICK
@given(label_pairs(), st.integers(0, 2**32 - 1))
def test_relabelling_permuting_and_swapping(pair, seed):
    truth, pred = pair
    rng = np.random.default_rng(seed)
    new, other = (np.concatenate([[0], rng.choice(2**40, 200, replace=False) + 1]) for _ in range(2))
    counts = gland.count(truth, pred)
    for changed in (gland.count(new[truth], other[pred]), gland.count(truth[::-1], pred[::-1])):
        assert (changed.hits, changed.partners, changed.one_sided) == (counts.hits, counts.partners, counts.one_sided)
        assert scores(changed) == pytest.approx(scores(counts))
        assert gland.object_f1(changed, "older") == gland.object_f1(counts, "older")
    swapped, same = gland.count(pred, truth), gland.count(truth, truth)
    assert gland.object_dice(swapped) == pytest.approx(gland.object_dice(counts))
    assert gland.object_hausdorff(swapped) == pytest.approx(gland.object_hausdorff(counts))
    assert scores(same) == pytest.approx({"f1": 1, "dice": 1, "hausdorff": 0})
    assert gland.object_f1(same, "older") == 1


def test_v6_and_the_older_script_differ():
    truth, pred = square(20, (0, 0, 6), (10, 10, 6)), square(20, (0, 0, 6), (13, 13, 6))
    counts = gland.count(truth, pred)
    assert (counts.hits, counts.truths, counts.preds, counts.partners) == (1, 2, 2, 2)
    assert gland.object_f1(counts, "older") == pytest.approx(2 / 3)  # the second is somebody's partner: no FN
    assert gland.object_f1(counts, "v6") == gland.score(counts) == 0.5


def test_exactly_half_is_no_hit_and_one_pixel_more_is():
    truth = grid("111111")
    assert gland.count(truth, grid("111000")).hits == 0
    assert gland.count(truth, grid("111100")).hits == 1
    assert gland.object_f1(gland.count(truth, grid("111000"))) == 0


def test_the_background_is_never_a_partner():
    truth, pred = square(20, (2, 2, 6)), square(20, (6, 6, 6))  # 4 of 36 pixels shared, 32 over background
    counts = gland.count(truth, pred)
    assert (counts.hits, counts.partners) == (0, 1)
    assert gland.object_dice(counts) == pytest.approx(8 / 72)
    assert gland.object_hausdorff(counts) == pytest.approx(math.hypot(4, 4))


def test_the_partner_is_the_one_with_most_shared_pixels():
    truth, pred = grid("1111222222"), grid("0001110000")
    counts = gland.count(truth, pred)
    assert counts.hits == 0  # two of six pixels of object 2; object 1 would not do either
    assert gland.object_dice(counts) == pytest.approx((4 * (2 / 7) + 6 * (4 / 9)) / 10 / 2 + (4 / 9) / 2)


def test_an_object_without_overlap_goes_with_the_one_at_the_smallest_distance():
    truth, pred = square(40, (0, 0, 4), (30, 30, 4)), square(40, (0, 0, 4), (30, 20, 4), (10, 0, 4))
    counts = gland.count(truth, pred)
    third = min(10, math.hypot(20, 30), math.hypot(30, 30))
    wanted = ((0 + 10) / 2 + (0 + 10 + third) / 3) / 2
    assert gland.object_hausdorff(counts) == pytest.approx(wanted)


def test_label_256_survives():
    truth = square(40, (0, 0, 10), (20, 20, 10))
    large = np.where(truth == 2, 256, truth)
    assert gland.count(large, large) == gland.count(truth, truth)
    assert gland.score(gland.count(large.astype(np.uint16), truth)) == 1


def test_one_side_without_objects_is_infinitely_far_and_is_counted():
    nothing, something = np.zeros((9, 9), np.int32), square(9, (1, 1, 3))
    for pair in ((nothing, something), (something, nothing)):
        counts = gland.count(*pair)
        assert scores(counts) == {"f1": 0, "dice": 0, "hausdorff": math.inf}
        assert counts.one_sided == 1
        more = counts + gland.count(something, np.roll(something, 2, axis=1))
        assert gland.object_hausdorff(more) == math.inf
        assert gland.finite_hausdorff(more) == 2
    empty = gland.count(nothing, nothing)
    assert scores(empty) == {"f1": 1, "dice": 1, "hausdorff": 0}
    assert math.isnan(gland.object_f1(empty, "v6", "skip"))
    assert math.isnan(gland.object_hausdorff(empty, "zero"))
    assert empty + gland.count(something, something) == gland.count(something, something)


def test_pooled_over_the_set_is_not_the_mean_of_images():
    small, large = square(60, (0, 0, 4)), square(60, (0, 0, 4), (20, 20, 30), (10, 50, 5))
    pairs = {"a": (small, np.roll(small, 1, axis=0)), "b": (large, large), "c": (small * 0, small * 0)}
    protocol = PROTOCOLS["glas"]
    counts = {name: gland.count(*pair) for name, pair in pairs.items()}
    pooled = protocol.report(counts)
    one = gland.count(*pairs["a"])
    areas = 16 + 16 + 900 + 25
    assert pooled.pooling == "all images pooled"
    assert pooled.top["object_dice"] == pytest.approx((16 * gland.object_dice(one) + areas - 16) / areas)
    assert pooled.top["object_hausdorff"] == pytest.approx(16 / areas)
    means = protocol.report(counts, Settings(pooling="images"))
    assert means.pooling == "mean of images"
    assert means.top["object_dice"] == pytest.approx((gland.object_dice(one) + 1 + 1) / 3)
    assert means.top["object_hausdorff"] == pytest.approx(1 / 3)
    skipping = protocol.report(counts, Settings("skip", "images"))
    assert skipping.top["object_dice"] == pytest.approx((gland.object_dice(one) + 1) / 2)
    assert skipping.empty_images == 1


def test_real_glands_against_scipy(data_folder):
    import cv2

    paths = sorted((data_folder / "glas" / "labels").glob("*.png"))[:2]
    for path in paths:
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[::4, ::4].astype(np.int32)
        pred = np.roll(cv2.erode(truth.astype(np.uint16), np.ones((5, 5), np.uint8)), 3, axis=1).astype(np.int32)
        assert scores(gland.count(truth, pred)) == pytest.approx(brute(truth, pred))
