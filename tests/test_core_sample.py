"""Samples scale once, count what is missing, and cannot be written into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellkit.core import KINDS, Boxes, Histogram, Instances, KindError, Sample
from cellkit.core.histogram import BINS
from strategies import images


@pytest.mark.parametrize(
    ("array", "bits", "top"),
    [
        (np.array([[0, 255]], np.uint8), None, 1.0),
        (np.array([[0, 65535]], np.uint16), None, 1.0),
        (np.array([[0, 4095]], np.uint16), 12, 1.0),
        (np.array([[0, 2**32 - 1]], np.uint32), None, 1.0),
        (np.array([[-5, 32767]], np.int16), None, 1.0),
        (np.array([[False, True]]), None, 1.0),
        (np.array([[0, 0.5]], np.float16), None, 0.5),
        (np.array([[0, 7.5]], np.float64), None, 7.5),
        (np.array([[0, 255.0]], np.float32), 8, 1.0),
    ],
)
def test_scaled_once_by_the_declared_depth(array, bits, top):
    image = Sample.of(array, bits=bits)["image"]
    assert image.dtype == np.float32
    assert image.shape == (1, 2, 1)
    assert image[0, 1, 0] == pytest.approx(top)


def test_missing_values_take_the_median_and_are_counted():
    array = np.array([[np.nan, 1, 2, 3, np.inf]], np.float32)
    sample = Sample.of(array)
    assert sample["image"].ravel().tolist() == [2, 1, 2, 3, 2]
    assert sample.missing == 2
    assert "2 missing values" in sample.notes[0]
    assert Sample.of(np.full((2, 2), np.nan))["image"].tolist() == np.zeros((2, 2, 1)).tolist()
    assert np.isnan(array[0, 0]), "the caller's array stays as it was"


@pytest.mark.parametrize(
    ("array", "more", "said"),
    [
        (np.zeros((2, 2, 2, 2)), {}, "axes"),
        (np.zeros((0, 3)), {}, "at least one pixel"),
        (np.zeros((2, 2), complex), {}, "holds numbers"),
        (np.array([["a"]]), {}, "holds numbers"),
        (np.zeros((2, 2)), {"bits": 40}, "bits must lie in"),
        (np.zeros((2, 2)), {"channels": ("a", "b")}, "2 channel names for 1"),
        (np.zeros((2, 2)), {"pixel_size": -1}, "pixel_size must be"),
    ],
)
def test_what_is_no_image(array, more, said):
    with pytest.raises(KindError, match=said):
        Sample.of(array, **more)


def test_layers_are_read_only_and_the_sample_immutable():
    mine = np.zeros((2, 2), np.float32)
    sample = Sample.of(mine)
    with pytest.raises(ValueError, match="read-only"):
        sample["image"][0, 0, 0] = 1
    mine[0, 0] = 1  # the caller's own array is not frozen
    more = sample.with_layer("mask", KINDS["mask"], np.ones((2, 2), bool))
    assert list(sample) == ["raw", "image"]
    assert list(more) == ["raw", "image", "mask"]
    assert "mask" not in more.without(["mask"])
    with pytest.raises(KindError, match="wanted Labels, int32"):
        sample.with_layer("labels", KINDS["labels"], np.ones((2, 2), np.int64))
    with pytest.raises(KindError, match="wanted Boxes"):
        sample.with_layer("boxes", KINDS["boxes"], np.ones((2, 4)))
    with pytest.raises(KindError, match="DataFrame"):
        sample.with_layer("table", KINDS["table"], [1])
    with pytest.raises((AttributeError, TypeError)):
        sample.name = "other"


def test_boxes_and_instances_agree_in_length():
    boxes = Boxes(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, np.int32))
    assert len(boxes) == 2
    with pytest.raises(KindError, match="wanted xyxy"):
        Boxes(np.zeros((2, 3)), np.ones(2), np.zeros(2))
    with pytest.raises(KindError, match="2 boxes but 1 masks"):
        Instances(boxes, (np.ones((1, 1), bool),))


@settings(deadline=None, max_examples=50)
@given(images(), st.integers(0, 37))
def test_histograms_add_up(image, cut):
    whole = Histogram.of(image)
    assert Histogram.of(image[:cut]) + Histogram.of(image[cut:]) == whole
    assert Histogram.zero(image.shape[2]) + whole == whole
    assert whole.counts.sum() == image.size


FLOATS = st.floats(-70000, 70000, width=32)


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(np.float32, (3, 5), elements=FLOATS))
def test_histogram_counts_float16_values_in_order(image):
    values, counts = Histogram.of(image).filled()
    expected, expected_counts = np.unique(
        np.clip(image, -65504, 65504).astype(np.float16).astype(float), return_counts=True
    )
    assert np.array_equal(values, expected)
    assert np.array_equal(counts, expected_counts)
    median = np.sort(np.clip(image, -65504, 65504).astype(np.float16).ravel())[7]
    assert Histogram.of(image).quantile(0.5) == median


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(np.float32, (3, 5, 2), elements=st.floats(width=32) | st.floats(-(2**-13), 2**-13, width=32)))
def test_the_compiled_count_is_the_same(image):
    from cellkit.engine._count import histogram

    assert histogram(image) == Histogram.of(image)
    assert histogram(image[..., 0]) == Histogram.of(image[..., 0])


def test_histogram_of_missing_and_nothing():
    image = np.array([[np.nan, -np.inf, np.inf, -0.0, 0.0]], np.float32)
    values, counts = Histogram.of(image).filled()
    assert values.tolist() == [-65504, 0, 65504]
    assert counts.tolist() == [1, 2, 1]
    assert Histogram.zero(1).quantile(0.5) == 0
    assert Histogram.zero(2).counts.shape == (2, BINS)
