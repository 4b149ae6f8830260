"""Classes from probabilities, and masks from classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import KindError, StageError
from cellkit.stages.classes import argmax, select
from strategies import images

NAMES = ("background", "bacteria", "debris")


@settings(deadline=None, max_examples=50)
@given(images(channels=st.sampled_from([2, 3, 7, 256])))
def test_argmax_is_that_of_numpy(prob):
    prob.setflags(write=False)
    result = argmax(prob)
    assert result.dtype == np.uint8
    assert np.array_equal(result, prob.argmax(axis=2)), "of equal ones the first"


def test_argmax_refuses():
    with pytest.raises(KindError, match="single one: make a mask of it with `threshold`"):
        argmax(np.zeros((2, 2, 1), np.float32))
    with pytest.raises(KindError, match="at most 256 classes, got 257"):
        argmax(np.zeros((2, 2, 257), np.float32))


@pytest.mark.parametrize(
    ("classes", "names", "numbers"),
    [
        ((), NAMES, [1, 2]),
        ((), (), list(range(1, 256))),
        ((1,), (), [1]),
        (("bacteria",), NAMES, [1]),
        (("debris", 0), NAMES, [0, 2]),
        ((255,), (), [255]),
    ],
)
def test_select_by_name_and_number(classes, names, numbers):
    top = len(names) or 256
    semantic = np.random.default_rng(0).integers(0, top, (23, 31)).astype(np.uint8)
    semantic.setflags(write=False)
    result = select(semantic, classes=classes, names=names)
    assert result.dtype == bool
    assert np.array_equal(result, np.isin(semantic, numbers))


@pytest.mark.parametrize(
    ("wanted", "names", "said"),
    [
        ("bacterium", NAMES, "no class is called 'bacterium'; did you mean 'bacteria'"),
        ("x", NAMES, "the classes are background, bacteria, debris"),
        ("x", (), "have no names: give numbers from 0"),
        (3, NAMES, "there is no class 3, they count from 0 to 2"),
        (256, (), "they count from 0 to 255"),
        (-1, (), "there is no class -1"),
    ],
)
def test_select_refuses(wanted, names, said):
    with pytest.raises(StageError, match=said):
        select(np.zeros((2, 2), np.uint8), classes=(wanted,), names=names)
