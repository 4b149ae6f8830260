"""Proportions of objects: counts against a hand-worked case, intervals against another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cellkit as ck
from cellkit.stages.proportion import wilson

NAMES = ("red blood cell", "leukocyte", "ring", "schizont")


def boxes(*classes: int) -> ck.Boxes:
    corners = np.tile(np.array([[0, 0, 4, 4]], np.float32), (len(classes), 1))
    return ck.Boxes(corners, np.ones(len(classes), np.float32), np.array(classes, np.int32))


@given(st.integers(1, 5000), st.data())
def test_the_interval_is_that_of_scipy(total, data):
    from scipy.stats import binomtest

    count = data.draw(st.integers(0, total))
    other = binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert wilson(count, total) == pytest.approx((other.low, other.high), abs=1e-12)


def test_infected_cells_of_all_red_cells():
    row = ck.stages.proportion(
        boxes(0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3), of=("ring", "schizont"), among=("red blood cell",), label_names=NAMES
    ).iloc[0]
    assert (row["count"], row["total"], row["proportion"]) == (3, 9, 3 / 9)
    assert row["low"] < 3 / 9 < row["high"]


def test_without_among_all_objects_are_the_whole_and_numbers_do_for_names():
    row = ck.stages.proportion(boxes(0, 1, 2, 2), of=("2",)).iloc[0]
    assert (row["count"], row["total"]) == (2, 4)


def test_nothing_has_no_proportion():
    row = ck.stages.proportion(boxes(1, 1), of=("ring",), among=("red blood cell",), label_names=NAMES).iloc[0]
    assert (row["count"], row["total"]) == (0, 0)
    assert math.isnan(row["proportion"])
    assert math.isnan(row["low"])


def test_a_wrong_name_is_told_with_what_was_meant():
    with pytest.raises(ck.core.StageError, match=r"no class is called 'rign'; did you mean 'ring'"):
        ck.stages.proportion(boxes(0), of=("rign",), label_names=NAMES)


def test_a_recipe_that_names_no_class_is_a_fault_and_a_run_has_one_row_an_image(tmp_path):
    text = "steps: [grayscale, otsu, components, proportion]\noutputs: [proportion]"
    assert "names no class" in str(ck.check(ck.Recipe.load(text))[0])
    image = np.zeros((20, 20), np.uint8)
    image[2:6, 2:6] = image[10:14, 10:14] = 200
    for name in ("a", "b"):
        ck.write(tmp_path / f"{name}.png", image)
    recipe = ck.Recipe.load(text.replace("proportion]\n", "{proportion: {of: [all]}}]\n"))
    ck.run_batch(recipe, [tmp_path], tmp_path / "out")
    lines = (tmp_path / "out" / "proportion.csv").read_text().replace('"', "").splitlines()
    assert lines[0].split(",")[:4] == ["image", "count", "total", "proportion"]
    assert [line.split(",")[:4] for line in lines[1:]] == [["a", "2", "2", "1"], ["b", "2", "2", "1"]]
