"""Object scores against hand-worked cases, a brute-force reference and what must not change them."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import KindError
from cellkit.metrics import contingency, instance
from cellkit.metrics.contingency import renumbered
from strategies import label_images

QUICK = settings(deadline=None, max_examples=60)
DATA = Path(os.environ.get("CELLKIT_DATA") or Path(__file__).parents[1] / "../shared/data")


@st.composite
def label_pairs(draw):
    """Two label images of one shape, the second often a disturbed copy of the first."""
    truth = draw(label_images())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pred = truth.copy()
    look = draw(st.sampled_from(["same", "shifted", "split", "other", "empty"]))
    if look == "shifted":
        pred = np.roll(truth, 1, axis=int(rng.integers(0, 2)))
    elif look == "split":
        pred[:, ::2] += 50 * (pred[:, ::2] > 0)
    elif look == "other":
        pred = rng.permutation(truth.ravel()).reshape(truth.shape)
    elif look == "empty":
        pred = np.zeros_like(truth)
    return truth, pred


def brute_force(truth: np.ndarray, pred: np.ndarray) -> Fraction:
    """Score one pair from masks and exact fractions, object by object."""
    truths = [truth == i for i in np.unique(truth) if i]
    preds = [pred == i for i in np.unique(pred) if i]
    if not truths and not preds:
        return Fraction(1)
    total = Fraction(0)
    for percent in range(50, 100, 5):
        hit_truths, hit_preds = set(), set()
        for i, t in enumerate(truths):
            for j, p in enumerate(preds):
                shared, either = int((t & p).sum()), int((t | p).sum())
                if Fraction(shared, either) > Fraction(percent, 100):
                    hit_truths.add(i)
                    hit_preds.add(j)
        tp = len(hit_truths)
        assert tp == len(hit_preds)
        total += Fraction(tp, tp + len(preds) - tp + len(truths) - tp)
    return total / 10


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in rows], np.int32)


def test_one_object_split_in_two_equal_halves_is_no_hit_at_one_half():
    counts = instance.count(grid("1111", "1111"), grid("1122", "1122"))
    assert (counts.hits[0], counts.preds - counts.hits[0], counts.truths - counts.hits[0]) == (0, 2, 1)
    assert instance.score(counts) == 0


@pytest.mark.parametrize("percent", range(50, 100, 5))
def test_an_iou_of_exactly_the_threshold_is_no_hit_and_one_pixel_more_is(percent):
    truth = np.ones((1, 100), np.int32)
    pred = np.zeros_like(truth)
    pred[0, :percent] = 1
    at = instance.THRESHOLDS.index(percent)
    assert instance.count(truth, pred).hits[at] == 0
    pred[0, percent] = 1
    assert instance.count(truth, pred).hits[at] == 1


def test_three_fifths_is_not_a_hit_at_0_60_where_floats_would_say_so():
    counts = instance.count(grid("11111"), grid("11100"))  # np.arange(.5, 1, .05)[2] is 0.6000000000000001
    assert counts.hits == (1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    assert instance.score(counts) == 0.2


def test_ids_need_not_be_consecutive():
    assert instance.score(instance.count(grid("1100", "0099"), grid("1100", "0022"))) == 1.0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_whole_number_dtype_scores_alike(dtype):
    truth, pred = grid("1103", "1103"), grid("2204", "2200").astype(dtype)
    assert instance.count(truth, pred) == instance.count(truth, pred.astype(np.int32))


def test_a_mask_is_one_object():
    assert instance.count(grid("0110") > 0, grid("0770")).hits == (1,) * 10


def test_huge_ids_are_kept_apart():
    truth = np.array([[2**63 + 1, 2**63 + 1, 0, 2**40, 2**40]], np.uint64)
    pred = np.array([[5, 5, 0, 2**62, 2**62]], np.int64)
    assert instance.score(instance.count(truth, pred)) == 1.0


def test_empty_images_count_as_told():
    nothing, something = grid("00"), grid("01")
    both, one = instance.count(nothing, nothing), instance.count(nothing, something)
    half = instance.count(grid("1111111111"), grid("1111110000"))  # hit at 0.50 and 0.55
    assert [instance.score(both, e) for e in ("one", "zero")] == [1.0, 0.0]
    assert np.isnan(instance.score(both, "skip"))
    assert instance.score(one) == 0.0
    assert instance.score(instance.count(something, nothing)) == 0.0
    every = both + one + half
    assert (every.images, every.both_empty, every.one_empty) == (3, 1, 1)
    assert [instance.score(every, e) for e in ("one", "skip", "zero")] == pytest.approx([1.2 / 3, 0.2 / 2, 0.2 / 3])


def test_adding_an_empty_image_changes_only_the_number_of_empty_ones():
    one = instance.count(grid("1122"), grid("1100"))
    more = one + instance.count(grid("0"), grid("0"))
    assert (more.values, more.hits, more.truths, more.preds, more.one_empty) == (
        one.values, one.hits, one.truths, one.preds, one.one_empty,
    )  # fmt: skip
    assert more.both_empty == 1


def test_disjoint_objects_score_zero():
    assert instance.score(instance.count(grid("1100"), grid("0011"))) == 0.0


@pytest.mark.parametrize(
    ("truth", "pred", "words"),
    [
        (grid("01"), grid("011"), "the truth is 1 x 2 px but the prediction is 1 x 3 px"),
        (grid("01") - 1, grid("01"), "truth: ids must not be negative .* found -1"),
        (grid("01"), grid("01") - 3, "prediction: ids must not be negative .* found -3"),
        (grid("01"), grid("01").astype(np.float32), "prediction: wanted labels .* got float32"),
    ],
)
def test_what_is_no_pair_of_label_images_is_refused(truth, pred, words):
    with pytest.raises(KindError, match=words):
        instance.count(truth, pred)


@QUICK
@given(label_pairs())
def test_brute_force_agrees(pair):
    truth, pred = pair
    assert instance.score(instance.count(truth, pred)) == pytest.approx(float(brute_force(truth, pred)), abs=1e-15)


@QUICK
@given(label_pairs(), st.integers(0, 2**32 - 1))
def test_relabelling_permuting_and_swapping_change_nothing(pair, seed):
    truth, pred = pair
    rng = np.random.default_rng(seed)
    new = np.concatenate([[0], rng.choice(2**40, 200, replace=False) + 1])
    counts = instance.count(truth, pred)
    assert instance.count(new[truth], pred) == counts
    swapped = instance.count(pred, truth)
    assert (swapped.values, swapped.hits, swapped.truths) == (counts.values, counts.hits, counts.preds)
    assert instance.count(truth[::-1], pred[::-1]) == counts
    assert instance.count(truth.T, pred.T) == counts
    assert instance.score(instance.count(truth, truth)) == 1.0


@QUICK
@given(label_pairs(), st.integers(1, 9), st.integers(1, 9))
def test_tables_of_tiles_add_up_to_the_whole(pair, height, width):
    truth, pred = pair
    tiles = [
        contingency(truth[y : y + height, x : x + width], pred[y : y + height, x : x + width])
        for y in range(0, truth.shape[0], height)
        for x in range(0, truth.shape[1], width)
    ]
    whole = contingency(truth, pred)
    assert sum(tiles[1:], tiles[0]) == whole
    assert instance.count_table(whole) == instance.count(truth, pred)


@QUICK
@given(label_pairs())
def test_the_table_equals_a_dense_count(pair):
    truth, pred = pair
    table = contingency(truth, pred)
    for i, a in enumerate(table.truth_ids):
        for j, b in enumerate(table.pred_ids):
            assert table.dense()[i, j] == np.count_nonzero((truth == a) & (pred == b))
    assert table.truth_areas.tolist() == [np.count_nonzero(truth == a) for a in table.truth_ids]
    assert table.pred_areas.tolist() == [np.count_nonzero(pred == b) for b in table.pred_ids]


def test_an_image_larger_than_one_block_and_without_background():
    rng = np.random.default_rng(0)
    truth = np.kron(np.arange(1, 70001, dtype=np.int32).reshape(250, 280), np.ones((5, 5), np.int32))
    assert truth.size > 2**20
    order = rng.permutation(70000) + 1
    counts = instance.count(truth, order[truth - 1])
    assert (counts.truths, counts.preds, instance.score(counts)) == (70000, 70000, 1.0)


@QUICK
@given(st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1)), max_size=30))
def test_renumbering_is_that_of_unique(values):
    ids = np.array(values, np.uint64)
    wanted, place = np.unique(ids, return_inverse=True)
    got = renumbered(ids)
    assert np.array_equal(got[0], wanted)
    assert np.array_equal(got[1], place)


def test_a_pair_without_pixels_is_empty():
    nothing = np.zeros((0, 5), np.int32)
    assert instance.count(nothing, nothing) == instance.Counts(both_empty=1)


def test_real_nuclei_against_brute_force():
    folder = DATA / "dsb2018" / "labels"
    if not folder.is_dir():
        pytest.skip(f"no DSB2018 labels in {folder} (set CELLKIT_DATA)")
    import cv2

    paths = sorted(folder.glob("*.png"))[:40]
    truths = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED)[:256, :256] for p in paths]
    small = [t for t in truths if t.shape == (256, 256) and len(np.unique(t)) < 40][:8]
    kernel = np.ones((3, 3), np.uint8)
    for truth in small:
        pred = cv2.erode(truth, kernel)
        counts = instance.count(truth, pred)
        assert 0 < instance.score(counts) < 1
        assert instance.score(counts) == pytest.approx(float(brute_force(truth, pred)), abs=1e-15)
        assert instance.score(instance.count(truth, truth)) == 1.0
