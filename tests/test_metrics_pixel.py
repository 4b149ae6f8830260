"""Pixel and class scores against hand-worked cases, scikit-learn-like references and what must not change them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import KindError
from cellkit.metrics import pixel, semantic
from strategies import label_images

QUICK = settings(deadline=None, max_examples=60)
DATA = Path(os.environ.get("CELLKIT_DATA") or Path(__file__).parents[1] / "../shared/data")


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in rows], np.int32)


@st.composite
def class_pairs(draw):
    """Two class images of one shape with values 0 to 4."""
    truth = draw(label_images()) % 5
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    wrong = rng.random(truth.shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))
    return truth, np.where(wrong, rng.integers(0, 5, truth.shape), truth)


def test_pixel_scores_by_hand():
    counts = pixel.count(grid("1110", "0000"), grid("0110", "0100"))
    assert counts == pixel.Counts(tp=2, fp=1, fn=1, tn=4)
    assert pixel.scores(counts) == pytest.approx(
        {"dice": 2 / 3, "iou": 0.5, "precision": 2 / 3, "recall": 2 / 3, "accuracy": 0.75}
    )
    assert pixel.score(counts) == pixel.dice(counts)


def test_any_value_above_zero_is_foreground():
    truth = grid("0123")
    same = pixel.Counts(tp=3, tn=1)
    for pred in (grid("0999"), truth > 0, truth * 300, truth.astype(np.uint8) * 80, truth - 0.0, -1 + 2 * (truth > 0)):
        assert pixel.count(truth, pred) == same


def test_what_nothing_in_an_image_means():
    nothing, something = grid("00"), grid("01")
    empty = pixel.count(nothing, nothing)
    assert pixel.scores(empty, "one") == dict.fromkeys(pixel.SCORES, 1.0)
    assert pixel.scores(empty, "zero") == {**dict.fromkeys(pixel.SCORES, 0.0), "accuracy": 1.0}
    skipped = pixel.scores(empty, "skip")
    assert skipped.pop("accuracy") == 1.0
    assert all(map(math.isnan, skipped.values()))
    for one in (pixel.count(nothing, something), pixel.count(something, nothing)):
        assert pixel.scores(one) == {"dice": 0, "iou": 0, "precision": 0, "recall": 0, "accuracy": 0.5}
    assert math.isnan(pixel.accuracy(pixel.Counts()))


def test_disjoint_is_zero_and_identical_is_one():
    assert pixel.score(pixel.count(grid("10"), grid("01"))) == 0
    assert set(pixel.scores(pixel.count(grid("10"), grid("10"))).values()) == {1.0}
    assert semantic.score(semantic.count(grid("12"), grid("21"))) == 0
    assert semantic.score(semantic.count(grid("102"), grid("102"))) == 1


@QUICK
@given(class_pairs(), st.integers(1, 9))
def test_counts_of_tiles_add_up_and_swapping_is_symmetric(pair, size):
    truth, pred = pair
    spots = [(slice(y, y + size), slice(x, x + size)) for y in range(0, truth.shape[0], size) for x in range(0, truth.shape[1], size)]  # fmt: skip # noqa: E501
    whole = pixel.count(truth, pred)
    assert sum((pixel.count(truth[s], pred[s]) for s in spots), pixel.Counts()) == whole
    swapped = pixel.count(pred, truth)
    assert (pixel.dice(swapped), pixel.iou(swapped), pixel.precision(swapped)) == (
        pixel.dice(whole), pixel.iou(whole), pixel.recall(whole),
    )  # fmt: skip
    classes = semantic.count(truth, pred)
    assert sum((semantic.count(truth[s], pred[s]) for s in spots), semantic.Confusion()) == classes
    assert semantic.score(semantic.count(pred, truth)) == semantic.score(classes)


@QUICK
@given(class_pairs())
def test_class_scores_equal_those_of_masks(pair):
    truth, pred = pair
    counts = semantic.count(truth, pred)
    present = sorted({*truth.ravel().tolist(), *pred.ravel().tolist()})
    assert counts.classes == tuple(present)
    ious = [np.sum((truth == c) & (pred == c)) / np.sum((truth == c) | (pred == c)) for c in present]
    assert semantic.class_iou(counts).tolist() == pytest.approx(ious)
    assert semantic.score(counts) == pytest.approx(np.mean(ious))
    assert semantic.accuracy(counts) == pytest.approx(np.mean(truth == pred))
    for i, a in enumerate(present):
        for j, b in enumerate(present):
            assert counts.matrix[i, j] == np.sum((truth == a) & (pred == b))
    binary = semantic.count(truth > 0, pred > 0)
    if binary.classes == (0, 1):
        assert semantic.class_iou(binary)[1] == pytest.approx(pixel.iou(pixel.count(truth, pred)))


def test_classes_are_those_of_the_data_set():
    first, second = semantic.count(grid("0011"), grid("0011")), semantic.count(grid("0022"), grid("0002"))
    every = first + second
    assert every.classes == (0, 1, 2)
    # background: 4 of 5 px; class 1: 2 of 2; class 2: 1 of 2
    assert semantic.class_iou(every).tolist() == pytest.approx([4 / 5, 1, 1 / 2])
    assert semantic.score(every) == pytest.approx((4 / 5 + 1 + 1 / 2) / 3)


def test_how_an_absent_class_counts():
    counts = semantic.count(grid("0011"), grid("0010"))
    ious = [2 / 3, 1 / 2]
    assert semantic.score(counts) == pytest.approx(np.mean(ious))
    for absent, wanted in (("skip", np.mean(ious)), ("one", np.mean([*ious, 1])), ("zero", np.mean([*ious, 0]))):
        assert semantic.score(counts, (0, 1, 7), absent) == pytest.approx(wanted)
    assert semantic.score(counts, (1,)) == pytest.approx(1 / 2)
    assert math.isnan(semantic.score(counts, (7,)))
    # Predicted but never true: IoU 0, and it counts.
    assert semantic.score(semantic.count(grid("00"), grid("03"))) == pytest.approx((1 / 2 + 0) / 2)
    assert math.isnan(semantic.score(semantic.Confusion()))
    assert math.isnan(semantic.accuracy(semantic.Confusion()))


def test_high_values_are_classes_up_to_255():
    counts = semantic.count(grid("01").astype(np.uint8) * 255, grid("01") * 255)
    assert (counts.classes, semantic.score(counts)) == ((0, 255), 1.0)
    with pytest.raises(KindError, match="prediction: classes lie in 0 to 255, found 256; object ids are scored as"):
        semantic.count(grid("01"), grid("01") * 256)


@pytest.mark.parametrize("count", [pixel.count, semantic.count])
def test_two_sizes_are_refused(count):
    with pytest.raises(KindError, match="both must have one size"):
        count(grid("01"), grid("0", "1"))


def test_real_classes_score_one_against_themselves():
    folder = DATA / "bacteria" / "masks"
    if not folder.is_dir():
        pytest.skip(f"no bacteria masks in {folder} (set CELLKIT_DATA)")
    import cv2

    masks = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted(folder.glob("*.png"))[:10]]
    counts = sum((semantic.count(m, m) for m in masks), semantic.Confusion())
    assert counts.classes == (0, 1, 2)
    assert semantic.score(counts) == 1.0
    worse = sum((semantic.count(m, np.roll(m, 3, axis=1)) for m in masks), semantic.Confusion())
    truth, pred = (
        np.concatenate([m.ravel() for m in masks]),
        np.concatenate([np.roll(m, 3, axis=1).ravel() for m in masks]),
    )
    wanted = np.mean([np.sum((truth == c) & (pred == c)) / np.sum((truth == c) | (pred == c)) for c in range(3)])
    assert semantic.score(worse) == pytest.approx(wanted)


@pytest.mark.filterwarnings("ignore:A single label was found")
@QUICK
@given(class_pairs())
def test_every_number_is_scikit_learns(pair):
    reference = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    truth, pred = pair[0].ravel(), pair[1].ravel()
    counts = semantic.count(*pair)
    classes = list(counts.classes)
    assert np.array_equal(counts.matrix, reference.confusion_matrix(truth, pred, labels=classes))
    ours = (semantic.class_precision, semantic.class_recall, semantic.class_dice, semantic.class_iou)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        truth, pred, labels=classes, average=None, zero_division=0
    )
    iou = reference.jaccard_score(truth, pred, labels=classes, average=None, zero_division=0)
    for function, wanted in zip(ours, (precision, recall, f1, iou), strict=True):
        assert function(counts) == pytest.approx(wanted)
    assert semantic.accuracy(counts) == pytest.approx(reference.accuracy_score(truth, pred))
    binary = pixel.scores(pixel.count(*pair), "zero")
    mask, found = truth > 0, pred > 0
    for name, function in (
        ("dice", reference.f1_score),
        ("iou", reference.jaccard_score),
        ("precision", reference.precision_score),
        ("recall", reference.recall_score),
    ):
        assert binary[name] == pytest.approx(function(mask, found, zero_division=0)), name
    assert binary["accuracy"] == pytest.approx(reference.accuracy_score(mask, found))


def test_real_masks_against_scikit_learn(data_folder):
    reference = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    import cv2

    paths = sorted((data_folder / "bacteria" / "masks").glob("*"))[:3]
    total = semantic.Confusion()
    truths, preds = [], []
    for path in paths:
        truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        pred = cv2.erode(truth, np.ones((5, 5), np.uint8))
        total = total + semantic.count(truth, pred)
        truths.append(truth.ravel())
        preds.append(pred.ravel())
    truth, pred = np.concatenate(truths), np.concatenate(preds)
    labels = list(total.classes)
    assert semantic.score(total) == pytest.approx(reference.jaccard_score(truth, pred, labels=labels, average="macro"))
    assert np.array_equal(total.matrix, reference.confusion_matrix(truth, pred, labels=labels))
