"""Pictures of truth and predictions side by side, and the page they stand on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cellkit.core import Boxes, KindError
from cellkit.report.marked import CLASS_COLORS, box_outcomes, legend, marked, true_marks
from cellkit.report.runs import Score
from cellkit.report.sides import Figure, Row, chosen, figures_table, sides_page, value_text
from cellkit.report.worst import OUTCOMES, PIXELS

IMAGE = np.full((60, 90, 3), 120, np.uint8)


def squares(*at: tuple[int, int], side: int = 14) -> np.ndarray:
    labels = np.zeros(IMAGE.shape[:2], np.int32)
    for i, (y, x) in enumerate(at, 1):
        labels[y : y + side, x : x + side] = i
    return labels


def boxes(*entries: tuple[int, int, int, int, int]) -> Boxes:
    rows = np.array(entries, np.float32).reshape(-1, 5)
    return Boxes(rows[:, :4].copy(), np.ones(len(rows), np.float32), rows[:, 4].astype(np.int32))


def holds(picture: np.ndarray, color: tuple[int, int, int] | np.ndarray) -> bool:
    return bool((picture == np.array(color, np.uint8)).all(axis=2).any())


def test_objects_are_outlined_by_what_became_of_them():
    truth, pred = squares((5, 5), (5, 60)), squares((6, 5), (40, 40))
    picture, counts = marked(IMAGE, truth, pred, "labels")
    assert counts == {"matched": 1, "missed": 1, "extra": 1, "split": 0, "merged": 0}
    assert picture.shape == (240, 360, 3)
    for name in ("matched", "missed", "extra"):
        assert holds(picture, OUTCOMES[name][0]), name
    assert not holds(picture, OUTCOMES["merged"][0])
    # What is missed is filled, what is right is not.
    assert not np.array_equal(picture[4 * 12, 4 * 67], [90, 90, 90])
    assert np.array_equal(picture[4 * 13, 4 * 12], [90, 90, 90])


def test_pixels_of_a_mask_and_of_classes_are_told_apart():
    truth, pred = (squares((5, 5), (5, 60)) > 0).astype(np.uint8), (squares((5, 5), (40, 40)) > 0).astype(np.uint8)
    _, counts = marked(IMAGE, truth, pred, "mask")
    assert counts == {"right px": 196, "missed px": 196, "extra px": 196}
    _, counts = marked(IMAGE, truth, pred * 2, "classes")
    assert counts["confused px"] == 196
    picture, counts = marked(IMAGE, truth, truth, "classes")
    assert holds(picture, CLASS_COLORS[0])
    assert not any(counts[f"{name} px"] for name in ("missed", "extra", "confused"))


def test_boxes_are_paired_one_to_one_whatever_their_class():
    truth = boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 40, 50, 50, 0))
    pred = boxes((0, 0, 10, 9, 0), (0, 1, 10, 10, 0), (20, 0, 30, 10, 0), (70, 40, 80, 50, 1))
    codes, missed = box_outcomes(truth, pred)
    assert codes.tolist() == ["right", "extra", "confused", "extra"]
    assert missed.tolist() == [False, False, True]
    picture, counts = marked(IMAGE, truth, pred, "boxes")
    assert counts == {"right": 1, "confused": 1, "extra": 2, "missed": 1}
    for name in ("confused", "extra", "missed"):
        assert holds(picture, PIXELS[name][0]), name
    assert box_outcomes(boxes(), boxes())[0].tolist() == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(KindError, match="the image is"):
        marked(IMAGE, np.zeros((3, 3), np.int32), squares((1, 1)), "labels")
    with pytest.raises(KindError, match="one of each"):
        marked(IMAGE, boxes(), squares((1, 1)), "boxes")


@pytest.mark.parametrize("by", ["labels", "mask", "classes"])
def test_the_truth_alone_holds_no_colour_of_an_error(by):
    picture = true_marks(IMAGE, squares((5, 5), (5, 19)).astype(np.uint8), by)
    assert not np.array_equal(picture, true_marks(IMAGE, np.zeros((60, 90), np.uint8), by))
    for name in ("missed", "extra", "confused"):
        assert not holds(picture, PIXELS[name][0])
    assert "missed" in legend(by)


def test_images_are_chosen_by_what_they_show():
    better = {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.8, "e": math.nan}
    picked = dict(chosen(better, {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.2}, 2))
    assert picked == {"b": "the best", "d": "the median, differs most: +0.6000", "a": "the worst", "c": "worst but 1"}
    assert chosen({"e": math.nan}, {}, 2) == []


def test_figures_and_a_way_that_failed_in_an_image_stand_on_the_page():
    own = {"old": Score("AP", 0.5, 0.4, 0.6), "new": Score("AP", 0.75, math.nan, math.nan)}
    figure = Figure("AP <1>", 3, own, 0.22, "elsewhere", Score("gain", 0.25, 0.1, 0.4), "a rule")
    head, rows = figures_table([figure], {"old": "", "new": "", "none": "not trained"})
    assert head == ["score", "images", "published figure", "old", "new", "none", "gain"]
    assert rows[0][2:] == [
        "0.220 (elsewhere)", "0.5000 (0.4000 to 0.6000)", "0.7500", "not trained", "+0.2500 (+0.1000 to +0.4000)"
    ]  # fmt: skip
    assert value_text(Score("AP")) == "none"
    assert value_text(Score("px", 86.7787, 32.2552, 159.754)) == "86.8 (32.3 to 159.8)"
    truth = squares((5, 5))
    row = Row("image <7>", "the worst", IMAGE, truth, {"old": truth, "new": None}, {"old": [("score", "1.0000")]})
    page = sides_page("title <t>", ["facts"], [figure], {"old": "", "new": ""}, [row], draw=("labels", ()), parts={})
    assert page.count("<img src=") == 3  # input, truth, old
    assert page.count("no result") == 1
    assert "image &lt;7&gt;" in page
    assert "<7>" not in page
    assert 'src="http' not in page
