"""One-to-one matching, PQ, AJI and split/merge counts against StarDist, Cellpose's definition and brute force."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cellkit.core import KindError, UsageError
from cellkit.metrics import aji, assignment, contingency, faults, instance, matching
from cellkit.metrics.assignment import best_pairs, spread
from strategies import label_images

QUICK = settings(deadline=None, max_examples=50)
LEVELS = (0.05, 0.1, 0.25, 1 / 3, 0.5, 0.6, 0.75, 0.95, 1.0)


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in rows], np.int32)


@st.composite
def label_pairs(draw, most=12):
    """Two label images of one shape, the second often a disturbed copy of the first."""
    truth = draw(label_images(most=most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    look = draw(st.sampled_from(["same", "shifted", "halved", "merged", "mixed", "other", "empty"]))
    pred = truth.copy()
    if look == "shifted":
        pred = np.roll(truth, 1, axis=int(rng.integers(0, 2)))
    elif look == "halved":
        pred[:, ::2] += 50 * (pred[:, ::2] > 0)
    elif look == "merged":
        pred = (truth + 2) // 3 * (truth > 0)
    elif look == "mixed":
        pred = np.where(rng.random(truth.shape) < 0.3, np.roll(truth, 2, axis=1), truth)
    elif look == "other":
        pred = rng.permutation(truth.ravel()).reshape(truth.shape)
    elif look == "empty":
        pred = np.zeros_like(truth)
    return truth, pred


def table_of(truth: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions of all objects, int (n, m), from masks."""
    truths = [truth == i for i in np.unique(truth) if i]
    preds = [pred == i for i in np.unique(pred) if i]
    both = np.array([[int((t & p).sum()) for p in preds] for t in truths]).reshape(len(truths), len(preds))
    either = np.array([[int((t | p).sum()) for p in preds] for t in truths]).reshape(len(truths), len(preds))
    return both, either


def raise_(error: Exception) -> None:
    raise error


def stardist():
    """StarDist's own file, without the rest of the package, which wants TensorFlow's friends."""
    found = importlib.util.find_spec("stardist")
    if found is None:
        pytest.skip("needs stardist: pip install --no-deps stardist tqdm")
    path = Path(found.submodule_search_locations[0]) / "matching.py"
    stub = types.ModuleType("csbdeep.utils")
    stub._raise = raise_
    saved = {name: sys.modules.get(name) for name in ("csbdeep", "csbdeep.utils")}
    sys.modules.update({"csbdeep": types.ModuleType("csbdeep"), "csbdeep.utils": stub})
    try:
        spec = importlib.util.spec_from_file_location("stardist_matching", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        pytest.skip(f"stardist needs {error.name}")
    finally:
        for name, before in saved.items():
            sys.modules.pop(name) if before is None else sys.modules.update({name: before})
    return module


@pytest.fixture(scope="module")
def reference():
    return stardist().matching


def numbers(counts: matching.Counts) -> dict[str, np.ndarray]:
    return {
        "tp": counts.hits,
        "fp": counts.preds - counts.hits,
        "fn": counts.truths - counts.hits,
        "precision": matching.precision(counts, "zero"),
        "recall": matching.recall(counts, "zero"),
        "f1": matching.f1(counts, "zero"),
        "accuracy": matching.accuracy(counts, "zero"),
        "mean_matched_score": matching.mean_matched_iou(counts, "zero"),
        "mean_true_score": matching.mean_true_iou(counts, "zero"),
        "panoptic_quality": matching.panoptic_quality(counts, "zero"),
    }


@QUICK
@given(label_pairs())
def test_every_number_is_stardists_at_every_threshold(reference, pair):
    truth, pred = pair
    ours = numbers(matching.count(truth, pred, thresholds=LEVELS))
    for at, level in enumerate(LEVELS):
        theirs = reference(truth, pred, thresh=level)
        for name, values in ours.items():
            if level < 0.5 and name not in ("tp", "fp", "fn"):
                continue  # ids decide between equal assignments there: see the next test
            assert values[at] == pytest.approx(getattr(theirs, name), abs=1e-5), (name, level)


@QUICK
@given(label_pairs(most=4))
def test_matching_is_the_best_of_all_assignments(pair):
    both, either = table_of(*pair)
    assume(0 < both.shape[0] <= 5 and 0 < both.shape[1] <= 5)
    if both.shape[0] > both.shape[1]:
        both, either = both.T, either.T
    fewer = both.shape[0]
    for level in (0.1, 0.3, 0.5, 0.7):
        exact = Fraction(str(level))
        reached = [[Fraction(int(i), int(u)) >= exact for i, u in zip(*rows, strict=True)] for rows in zip(both, either, strict=True)]  # fmt: skip # noqa: E501
        choices = [list(zip(range(fewer), p, strict=True)) for p in itertools.permutations(range(both.shape[1]), fewer)]
        most = max(sum(reached[i][j] for i, j in choice) for choice in choices)
        value = [sum(both[i, j] / either[i, j] for i, j in choice) for choice in choices if sum(reached[i][j] for i, j in choice) == most]  # fmt: skip # noqa: E501
        counts = matching.count(*pair, thresholds=(level,))
        assert counts.hits[0] == most
        assert counts.matched_iou[0] <= max(value) + 1e-9


def test_one_object_split_in_two_equal_halves_is_a_hit_here_and_none_in_the_dsb2018_score():
    truth, pred = grid("1111", "1111"), grid("1122", "1122")
    counts = matching.count(truth, pred, thresholds=(0.5,))
    assert (counts.hits[0], counts.preds - counts.hits[0], counts.truths - counts.hits[0]) == (1, 1, 0)
    assert instance.count(truth, pred).hits[0] == 0
    strict = matching.count(truth, pred, thresholds=(0.5,), strict=True)
    assert strict.hits[0] == 0


@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_an_iou_of_exactly_the_threshold_is_a_hit_unless_strict(percent):
    truth = np.ones((1, 100), np.int32)
    pred = np.zeros_like(truth)
    pred[0, :percent] = 1
    level = (percent / 100,)
    assert matching.count(truth, pred, thresholds=level).hits[0] == 1
    assert matching.count(truth, pred, thresholds=level, strict=True).hits[0] == 0
    pred[0, percent - 1] = 0
    assert matching.count(truth, pred, thresholds=level).hits[0] == 0


def test_thresholds_lie_in_0_to_1_and_counts_of_unlike_ones_do_not_add_up():
    for level in (0, -0.5, 1.01, 50):
        with pytest.raises(UsageError, match="IoU threshold lies above 0"):
            matching.count(grid("1"), grid("1"), thresholds=(level,))
    with pytest.raises(UsageError, match="different thresholds do not add up"):
        matching.count(grid("1"), grid("1"), thresholds=(0.5,)) + matching.count(
            grid("1"), grid("1"), thresholds=(0.6,)
        )
    with pytest.raises(UsageError, match="different strict"):
        matching.count(grid("1"), grid("1")) + matching.count(grid("1"), grid("1"), strict=True)


def test_panoptic_quality_by_hand():
    # one object of IoU 3/4, one of exactly 1/2 (no match for Kirillov), one missed, one extra
    truth = grid("111100220330")
    pred = grid("111000200004")
    counts = matching.count(truth, pred, thresholds=(0.5,), strict=True)
    assert matching.panoptic_quality(counts)[0] == pytest.approx(0.75 / (1 + 2 / 2 + 2 / 2))
    assert matching.segmentation_quality(counts)[0] == pytest.approx(0.75)
    assert matching.f1(counts)[0] == pytest.approx(1 / 3)
    looser = matching.count(truth, pred, thresholds=(0.5,))
    assert matching.panoptic_quality(looser)[0] == pytest.approx(1.25 / 3)


def test_what_nothing_in_an_image_means():
    nothing, something = grid("00"), grid("01")
    both = matching.count(nothing, nothing)
    assert [matching.score(both, e) for e in ("one", "zero")] == [1, 0]
    assert np.isnan(matching.score(both, "skip"))
    for pair in ((nothing, something), (something, nothing)):
        one = matching.count(*pair)
        assert all((numbers(one)[n] == 0).all() for n in ("precision", "recall", "f1", "accuracy", "panoptic_quality"))
        assert aji.score(aji.count(*pair)) == aji.score(aji.count(*pair, "cellpose")) == 0
    assert aji.score(aji.count(nothing, nothing)) == 1
    assert np.isnan(aji.score(aji.count(nothing, nothing), "skip"))


def kumar(both: np.ndarray, either: np.ndarray, truths: list[int], preds: list[int]) -> Fraction:
    """Kumar's index; of equal choices the one that is highest."""
    options = []
    for i in range(len(truths)):
        rank = [(Fraction(int(b), int(u)), int(b)) for b, u in zip(both[i], either[i], strict=True)]
        top = max(rank, default=(Fraction(0), 0))
        options.append([j for j, r in enumerate(rank) if r == top and r[1]] or [None])
    best = Fraction(0)
    for choice in itertools.product(*options):
        shared = sum(int(both[i, j]) for i, j in enumerate(choice) if j is not None)
        whole = sum(int(either[i, j]) if j is not None else truths[i] for i, j in enumerate(choice))
        whole += sum(area for j, area in enumerate(preds) if j not in choice)
        best = max(best, Fraction(shared, whole))
    return best


@QUICK
@given(label_pairs(most=6))
def test_kumars_index_against_brute_force(pair):
    truth, pred = pair
    both, either = table_of(truth, pred)
    areas = [[int((side == i).sum()) for i in np.unique(side) if i] for side in (truth, pred)]
    assume(areas[0] or areas[1])
    options = 1
    for i in range(len(areas[0])):
        options *= max(1, int((both[i] > 0).sum()))
    assume(options < 2000)
    assert aji.score(aji.count(truth, pred)) == pytest.approx(float(kumar(both, either, *areas)), abs=1e-12)


def cellpose(truth: np.ndarray, pred: np.ndarray) -> float:
    """Cellpose's index from its definition, with a dense assignment."""
    both, either = table_of(truth, pred)
    iou = both / either
    rows, columns = linear_sum_assignment(-(iou >= 0.5).astype(float) - iou / (2 * min(iou.shape)))
    return both[rows, columns].sum() / ((truth > 0) | (pred > 0)).sum()


@QUICK
@given(label_pairs())
def test_cellposes_index_against_its_definition(pair):
    truth, pred = pair
    assume(truth.any() and pred.any())
    other = np.where(pred > 0, pred.max() + 1 - pred, 0)
    wanted = cellpose(truth, pred)
    assume(wanted == cellpose(truth, other))  # else ids decide between equal assignments
    got = aji.score(aji.count(truth, pred, "cellpose"))
    assert got >= wanted - 1e-12
    assert got == pytest.approx(wanted, abs=0.05)


def test_the_two_indices_differ():
    # Kumar lets one prediction serve two true objects and counts its area twice.
    truth, pred = grid("11111"), grid("11223")
    assert aji.score(aji.count(truth, pred)) == 0.25
    assert aji.score(aji.count(truth, pred, "cellpose")) == 0.4
    truth, pred = grid("11220"), grid("11110")
    assert aji.count(truth, pred) == aji.Counts(4, 8)
    assert aji.count(truth, pred, "cellpose") == aji.Counts(2, 4)
    truth, pred = grid("1111000000", "2222000000"), grid("1100000000", "1100000000")
    assert aji.count(truth, pred) == aji.Counts(4, 12)
    assert aji.count(truth, pred, "cellpose") == aji.Counts(2, 8)


def test_of_equal_choices_ids_never_decide():
    # true object 1 is halved by 1 and 2; 2 goes with true object 2 only if 1 does not take it
    truth = grid("1122")
    for pred in (grid("1222"), grid("2111")):
        assert aji.count(truth, pred) == aji.count(truth[:, ::-1].copy(), pred[:, ::-1].copy())
    assert spread(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5, 3, 5])).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("truth", "pred", "wanted"),
    [
        ("1111", "1122", (1, 0, 0, 0)),  # split
        ("1122", "1111", (0, 1, 0, 0)),  # merged
        ("1100", "0000", (0, 0, 1, 0)),  # missed
        ("0000", "0011", (0, 0, 0, 1)),  # extra
        ("1100", "0011", (0, 0, 1, 1)),
        ("1111", "0110", (0, 0, 0, 0)),  # exactly half of the true object, all of the predicted one
        ("110000", "011000", (0, 0, 1, 1)),  # exactly half of both: neither lies in the other
        ("1112223", "1111111", (0, 1, 0, 0)),
        ("1111122", "1113333", (0, 0, 0, 0)),  # 3 lies half in 2, which lies in 3
    ],
)
def test_what_went_wrong_by_hand(truth, pred, wanted):
    found = faults.count(grid(truth), grid(pred))
    assert (found.split, found.merged, found.missed, found.extra) == wanted


def test_the_rule_of_caicedo():
    truth, pred = np.repeat([1, 0], [10, 90])[None], np.repeat([1, 2, 3, 0], [7, 2, 1, 90])[None]
    found = faults.count(truth, pred, "caicedo")  # IoU 0.7, 0.2 and exactly 0.1
    assert (found.split, found.merged, found.missed, found.extra) == (1, 0, 0, 1)
    assert faults.count(pred, truth, "caicedo").merged == 1
    assert faults.count(truth, pred).extra == 0


@QUICK
@given(label_pairs(), st.sampled_from(["majority", "caicedo"]))
def test_faults_against_masks(pair, rule):
    truth, pred = pair
    both, either = table_of(truth, pred)
    areas = [np.array([(side == i).sum() for i in np.unique(side) if i], int) for side in (truth, pred)]
    if rule == "caicedo":
        down = up = both * 10 > either
    else:
        down, up = both * 2 > areas[1], both * 2 > areas[0][:, None]
    meet = down | up
    wanted = ((down.sum(1) > 1).sum(), (up.sum(0) > 1).sum(), (~meet.any(1)).sum(), (~meet.any(0)).sum())
    found = faults.count(truth, pred, rule)
    assert (found.split, found.merged, found.missed, found.extra) == wanted


COUNTERS = {
    "matching": lambda t, p: matching.count(t, p, thresholds=(0.5, 0.75)),
    "low": lambda t, p: matching.count(t, p, thresholds=(0.2,)).hits.tolist(),
    "kumar": aji.count,
    "cellpose": lambda t, p: aji.count(t, p, "cellpose"),
    "faults": faults.count,
    "caicedo": lambda t, p: faults.count(t, p, "caicedo"),
}


def alike(one, other) -> bool:
    if isinstance(one, matching.Counts):
        return np.array_equal(one.hits, other.hits) and np.allclose(one.matched_iou, other.matched_iou)
    return one == other


@QUICK
@given(label_pairs(), st.integers(0, 2**32 - 1))
def test_relabelling_and_permuting_change_nothing(pair, seed):
    truth, pred = pair
    rng = np.random.default_rng(seed)
    new, other = (np.concatenate([[0], rng.choice(2**40, 200, replace=False) + 1]) for _ in range(2))
    for name, counter in COUNTERS.items():
        counts = counter(truth, pred)
        assert alike(counter(new[truth], other[pred]), counts), name
        assert alike(counter(truth[::-1], pred[::-1]), counts), name
        assert alike(counter(truth.T, pred.T), counts), name


@QUICK
@given(label_pairs())
def test_swapping_truth_and_prediction(pair):
    truth, pred = pair
    one, other = matching.count(truth, pred), matching.count(pred, truth)
    assert np.array_equal(one.hits, other.hits)
    assert np.allclose(matching.panoptic_quality(one), matching.panoptic_quality(other))
    assert np.array_equal(matching.precision(one), matching.recall(other))
    a, b = faults.count(truth, pred), faults.count(pred, truth)
    assert (a.split, a.merged, a.missed, a.extra) == (b.merged, b.split, b.extra, b.missed)
    same = matching.count(truth, truth)
    assert matching.score(same) == matching.panoptic_quality(same)[0] == 1
    assert aji.score(aji.count(truth, truth)) == aji.score(aji.count(truth, truth, "cellpose")) == 1


@QUICK
@given(label_pairs(), st.integers(1, 9))
def test_tables_of_tiles_give_the_counts_of_the_whole(pair, size):
    truth, pred = pair
    spots = [np.s_[y : y + size, x : x + size] for y in range(0, truth.shape[0], size) for x in range(0, truth.shape[1], size)]  # fmt: skip # noqa: E501
    tiles = [contingency(truth[s], pred[s]) for s in spots]
    table = sum(tiles[1:], tiles[0])
    assert matching.count_table(table) == matching.count(truth, pred)
    assert aji.count_table(table) == aji.count(truth, pred)
    assert aji.count_table(table, "cellpose") == aji.count(truth, pred, "cellpose")
    assert faults.count_table(table) == faults.count(truth, pred)


@QUICK
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([0, 1 << 16]))
def test_best_pairs_against_every_assignment(n, m, seed, dense):
    rng = np.random.default_rng(seed)
    there = rng.random((n, m)) < 0.6
    gain = rng.integers(1, 9, (n, m)) / 8 + 5 * (rng.random((n, m)) < 0.3)
    rows, columns = np.nonzero(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "_DENSE", dense)  # both ways to solve
        chosen = best_pairs(rows, columns, gain[rows, columns])
    assert len(set(rows[chosen])) == len(set(columns[chosen])) == chosen.sum()
    dense = np.where(there, gain, 0)
    best = dense[linear_sum_assignment(-dense)].sum()
    assert gain[rows, columns][chosen].sum() == pytest.approx(best)
    kept = spread(rows, columns, gain[0][columns])
    assert sorted(rows[kept]) == sorted(set(rows))


def test_a_field_of_many_touching_objects_shifted_far():
    truth = np.kron(np.arange(1, 10001, dtype=np.int32).reshape(100, 100), np.ones((4, 4), np.int32))
    pred = np.roll(truth, 2, axis=1)
    counts = matching.count(truth, pred, thresholds=(0.1, 1 / 3, 0.34))
    assert counts.hits.tolist() == [10000, 10000, 0]
    assert aji.score(aji.count(truth, pred, "cellpose")) > 0.49


def test_what_is_no_pair_of_label_images_is_refused():
    for count in (matching.count, aji.count, faults.count):
        with pytest.raises(KindError, match="both must have one size"):
            count(grid("01"), grid("011"))
        with pytest.raises(KindError, match="must not be negative"):
            count(grid("01") - 1, grid("01"))


def test_real_nuclei_against_stardist(data_folder, reference):
    import cv2

    paths = sorted((data_folder / "dsb2018" / "labels").glob("*.png"))[:60:10]
    for path in paths:
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int32)
        pred = np.roll(cv2.erode(truth.astype(np.uint16), np.ones((3, 3), np.uint8)), 1, axis=0).astype(np.int32)
        ours = numbers(matching.count(truth, pred))
        for at, level in enumerate(matching.THRESHOLDS):
            theirs = reference(truth, pred, thresh=level)
            for name, values in ours.items():
                assert values[at] == pytest.approx(getattr(theirs, name), abs=1e-5), (name, level)
        assert aji.score(aji.count(truth, pred, "cellpose")) == pytest.approx(cellpose(truth, pred))
