"""Reports on whole data sets: pooling, empty images, bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cellkit.core import UsageError
from cellkit.metrics import PROTOCOLS, Settings
from cellkit.metrics.pooling import interval, mean_of_images, total


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in rows], np.int32)


def report(name: str, pairs: list[tuple[np.ndarray, np.ndarray]], empty="one"):
    protocol = PROTOCOLS[name]
    return protocol.report({f"{i}": protocol.count(*pair) for i, pair in enumerate(pairs)}, empty)


def test_the_mean_of_images_is_not_the_pooled_score():
    many = np.kron(np.eye(10, dtype=np.int32) * np.arange(1, 11), np.ones((2, 2), np.int32))
    found = report("dsb2018", [(many, many), (grid("10"), grid("01"))])
    assert found.value == 0.5
    assert found.pooling == "mean of images"
    assert found.scores["pooled"] == pytest.approx(10 / 12)
    assert found.scores["pooled_by_threshold"] == {f"{t / 100:.2f}": 10 / 12 for t in range(50, 100, 5)}
    assert [row["value"] for row in found.per_image] == [1.0, 0.0]


@pytest.mark.parametrize(("empty", "value"), [("one", 0.5), ("skip", 0.0), ("zero", 0.0)])
def test_an_empty_image_counts_as_told_and_is_reported(empty, value):
    found = report("dsb2018", [(grid("00"), grid("00")), (grid("10"), grid("01"))], empty)
    assert (found.value, found.empty_images) == (value, 1)
    assert {"one": "counts as 1", "skip": "does not count", "zero": "counts as 0"}[empty] in found.rule


def test_no_image_that_counts_has_no_value():
    for name in PROTOCOLS:
        found = report(name, [])
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert found.per_image == ()
    assert math.isnan(report("dsb2018", [(grid("0"), grid("0"))], "skip").value)
    assert math.isnan(report("pixel", [(grid("0"), grid("0"))], "skip").value)


def test_pixels_are_pooled_and_image_means_stand_apart():
    small, large = (grid("10"), grid("10")), (grid("11110000"), grid("00001111"))
    found = report("pixel", [small, large, (grid("0"), grid("0"))])
    assert found.value == found.scores["pooled_dice"] == pytest.approx(2 / (2 + 4 + 4))
    assert found.scores["image_mean_dice"] == pytest.approx((1 + 0 + 1) / 3)
    assert found.scores["pooled_accuracy"] == pytest.approx(3 / 11)
    assert found.scores["image_mean_accuracy"] == pytest.approx((1 + 0 + 1) / 3)
    assert found.empty_images == 1
    skipping = report("pixel", [small, large, (grid("0"), grid("0"))], "skip")
    assert skipping.scores["image_mean_dice"] == pytest.approx(1 / 2)
    assert math.isnan(skipping.per_image[2]["value"])


def test_classes_are_averaged_over_those_of_the_data_set():
    found = report("semantic", [(grid("0011"), grid("0011")), (grid("0022"), grid("0002"))])
    assert found.value == pytest.approx((4 / 5 + 1 + 1 / 2) / 3)
    assert found.scores["classes"] == [0, 1, 2]
    assert found.scores["pooled_mean_iou_without_class_0"] == pytest.approx(3 / 4)
    assert found.scores["per_class"]["2"]["recall"] == pytest.approx(1 / 2)
    # class 2 is on neither side of the first image, class 1 of the second: they count as agreed
    assert [row["value"] for row in found.per_image] == pytest.approx([1, (2 / 3 + 1 + 1 / 2) / 3])
    assert math.isnan(found.per_image[0]["iou_2"])
    assert np.sum(found.scores["confusion"]) == 8


def test_the_interval_is_seeded_and_holds_the_mean():
    rng = np.random.default_rng(3)
    values = rng.random(200)
    rows = np.stack([values, np.ones(200)], axis=1)
    first = interval(rows, lambda s: s[0] / s[1])
    assert first == interval(rows, lambda s: s[0] / s[1])
    error = values.std(ddof=1) / np.sqrt(200)
    assert first == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.3 * error)
    assert all(map(math.isnan, interval(rows[:1], lambda s: s[0] / s[1])))
    assert all(map(math.isnan, interval(rows, lambda _: math.nan)))


def test_an_interval_of_equal_images_has_no_width():
    found = report("dsb2018", [(grid("1"), grid("1"))] * 5)
    assert (found.low, found.value, found.high) == (1, 1, 1)
    found = report("pixel", [(grid("110"), grid("011"))] * 5)
    assert (found.low, found.high) == (found.value, found.value) == (0.5, 0.5)
    found = report("semantic", [(grid("11"), grid("01"))] * 5)
    assert found.low == found.high == pytest.approx(found.value)


def test_the_order_of_images_changes_nothing():
    values = np.random.default_rng(0).random(1000).tolist()
    assert mean_of_images(values, 3, "one") == mean_of_images(sorted(values), 3, "one")
    assert total([(i,) for i in range(7)], ()) == tuple(range(7))
    assert total([], 0) == 0


def test_images_of_one_group_are_drawn_together():
    values = np.repeat([0.0, 1.0, 0.2, 0.8], 25)
    rows = np.stack([values, np.ones(100)], axis=1)
    groups = np.repeat(["a", "b", "c", "d"], 25).tolist()
    alone = interval(rows, lambda s: s[0] / s[1])
    together = interval(rows, lambda s: s[0] / s[1], groups=groups)
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])
    assert together == (0.05, 0.95) or (together[0] < 0.15 and together[1] > 0.85)
    same = interval(rows, lambda s: s[0] / s[1], groups=list(range(100)))
    assert same == alone
    assert all(map(math.isnan, interval(rows, lambda s: s[0] / s[1], groups=["a"] * 100)))


def test_every_score_has_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(12):
        truth = np.kron(rng.integers(0, 4, (6, 6)), np.ones((4, 4), int))
        pairs.append((truth, np.where(rng.random(truth.shape) < 0.1, 0, truth)))
    for name in PROTOCOLS:
        found = report(name, pairs)
        assert found.low <= found.value <= found.high
        numbers = {**found.top, **found.scores}
        for score, (low, high) in found.intervals.items():
            if score in numbers:
                assert low <= numbers[score] <= high, (name, score)
        shares = [k for k, v in numbers.items() if isinstance(v, float) and "foreground" not in k]
        missing = [k for k in shares if k not in found.intervals and k != "image_mean_iou"]
        assert not missing, (name, missing)


def test_a_group_for_every_image():
    counts = {name: PROTOCOLS["pixel"].count(grid("01"), grid("01")) for name in ("plate1", "plate2")}
    with pytest.raises(UsageError, match="1 images have no group, the first 'plate2'"):
        PROTOCOLS["pixel"].report(counts, Settings(groups={"plate1": "a"}))


def test_the_headline_can_be_pooled_or_a_mean_of_images():
    small, large = (grid("10"), grid("10")), (grid("11110000"), grid("00001111"))
    for name in ("pixel", "semantic", "glas", "instances"):
        protocol = PROTOCOLS[name]
        counts = {str(i): protocol.count(*pair) for i, pair in enumerate((small, large))}
        means = protocol.report(counts, Settings(pooling="images"))
        assert means.value == pytest.approx(0.5)
        assert means.value == pytest.approx(np.mean([row["value"] for row in means.per_image]))
        assert means.pooling == "mean of images"
        assert protocol.report(counts).pooling != means.pooling
    with pytest.raises(UsageError, match="by definition the mean of images"):
        PROTOCOLS["dsb2018"].report({}, Settings(pooling="set"))


def test_adding_an_empty_image_changes_only_the_documented_number():
    pair, nothing = (grid("1122"), grid("1120")), (grid("0000"), grid("0000"))
    for name in ("glas", "instances"):
        one, two = report(name, [pair, pair]), report(name, [pair, pair, nothing])
        assert (one.value, one.top) == (two.value, two.top)
        assert (one.empty_images, two.empty_images) == (0, 1)
        same = [k for k, v in one.scores.items() if isinstance(v, (int, float)) and not k.startswith("image_mean")]
        means = ("dsb2018", "aji", "aji_cellpose")
        assert all(one.scores[k] == pytest.approx(two.scores[k]) for k in same if k not in means)


def test_classes_of_each_image_stand_in_its_row():
    found = report("semantic", [(grid("0011"), grid("0111")), (grid("0022"), grid("0002"))])
    row = found.per_image[0]
    assert (row["pixels_0_as_1"], row["pixels_1_as_1"], row["pixels_2_as_2"]) == (1, 2, 0)
    assert (row["precision_1"], row["recall_1"], row["recall_0"]) == pytest.approx((2 / 3, 1, 1 / 2))
    assert found.intervals["per_class.1.iou"][0] <= found.scores["per_class"]["1"]["iou"]
