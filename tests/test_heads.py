"""What the channels of a network become before a watershed."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.core import KindError, StageError
from cellkit.stages.color import to_rgb
from cellkit.stages.heads import relief, union
from cellkit.stages.split import maxima, watershed
from cellkit.stages.threshold import threshold

NAMES = ("interior", "border", "distance")


def probs(shape=(23, 31), channels=3):
    prob = np.random.default_rng(0).random((*shape, channels), np.float32)
    prob.setflags(write=False)
    return prob


@pytest.mark.parametrize(("channels", "numbers"), [((), [0, 1, 2]), (("interior", "border"), [0, 1]), ((2,), [2])])
def test_union_is_the_sum_up_to_one(channels, numbers):
    prob = probs()
    found = union(prob, channels=channels, names=NAMES)
    assert found.shape == (23, 31, 1)
    assert found.dtype == np.float32
    assert np.allclose(found[..., 0], np.minimum(prob[..., numbers].sum(axis=2), 1), atol=1e-6)
    assert found.max() <= 1


def test_relief_is_high_in_the_middle_low_between_and_nothing_outside():
    prob = probs()
    mask = np.random.default_rng(1).random((23, 31)) > 0.5
    found = relief(prob, mask, peaks="distance", valleys="border", weight=0.5, names=NAMES)
    wanted = np.where(mask, np.maximum(prob[..., 2] - 0.5 * prob[..., 1], 0), 0)
    assert found.dtype == np.float32
    assert np.allclose(found, wanted, atol=1e-6)
    assert np.array_equal(relief(prob, mask), found), "numbers stand for those of the distance head"
    assert np.allclose(relief(prob, mask, valleys=None), np.where(mask, prob[..., 2], 0))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda p: union(p, channels=("boarder",), names=NAMES),
            "no channel is called 'boarder'; did you mean 'border'",
        ),
        (lambda p: union(p, channels=("x",)), "names no channels: give a number from 0"),
        (lambda p: union(p, channels=(3,), names=NAMES), "there is no channel 3, the prob has 3"),
        (lambda p: union(p, channels=(1, "border"), names=NAMES), "named twice in 1, border"),
        (lambda p: relief(p, np.ones((23, 31), bool), peaks=5), "relief: there is no channel 5"),
        (lambda p: relief(p, np.ones((23, 30), bool)), "relief: wanted prob and mask of one size"),
    ],
)
def test_what_is_not_there_is_named(call, said):
    with pytest.raises(StageError, match=said):
        call(probs())


def test_two_touching_discs_come_apart():
    y, x = np.mgrid[:40, :60]
    near = [np.hypot(y - 20, x - at) for at in (18, 40)]
    mask = np.minimum(*near) < 12
    distance = np.clip(1 - np.minimum(*near) / 12, 0, 1) * mask
    border = (mask & (np.abs(near[0] - near[1]) < 3)).astype(np.float32)
    prob = np.dstack([mask - border, border, distance]).astype(np.float32)
    whole = threshold(union(prob, channels=("interior", "border"), names=NAMES))
    field = relief(prob, whole, peaks="distance", valleys="border", names=NAMES)
    labels = watershed(field, maxima(field, h=0.2), whole)
    assert np.array_equal(labels > 0, mask)
    assert labels.max() == 2
    assert labels[20, 18] != labels[20, 40]
    assert set(np.unique(labels[(near[0] < 9)])) == {labels[20, 18]}


def test_one_channel_becomes_three():
    image = probs(channels=1)
    assert np.array_equal(to_rgb(image), np.repeat(image, 3, axis=2))
    three = probs(channels=3)
    assert to_rgb(three) is three
    with pytest.raises(KindError, match="to_rgb wants one channel, or red, green and blue, got 4"):
        to_rgb(probs(channels=4))
