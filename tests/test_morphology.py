"""Mask morphology against scipy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage import morphology as reference
from skimage.morphology import disk
from skimage.segmentation import clear_border as clear_border_reference

from cellkit.core import OBJECT, WHOLE
from cellkit.core.stage import spec_of
from cellkit.stages import morphology
from cellkit.stages.morphology import clear_border, close, dilate, drop_large, drop_small, erode, fill_holes
from strategies import label_images, masks

EIGHT = np.ones((3, 3))


@settings(deadline=None, max_examples=80)
@given(masks())
def test_fill_holes_is_that_of_scipy(mask):
    mask.setflags(write=False)
    assert np.array_equal(fill_holes(mask), ndi.binary_fill_holes(mask))


@settings(deadline=None, max_examples=80)
@given(masks(), st.integers(1, 30))
def test_fill_holes_up_to_an_area(mask, area):
    pieces, count = ndi.label(~mask)
    wanted = mask.copy()
    for piece in range(1, count + 1):
        ys, xs = np.nonzero(pieces == piece)
        inside = ys.min() > 0 and xs.min() > 0 and ys.max() < mask.shape[0] - 1 and xs.max() < mask.shape[1] - 1
        if inside and len(ys) <= area:
            wanted[ys, xs] = True
    assert np.array_equal(fill_holes(mask, area=area), wanted)


def test_fill_holes_joins_background_along_sides_only():
    mask = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    assert fill_holes(mask)[1, 1]
    assert spec_of(fill_holes).reach({"area": 0}) is WHOLE
    assert spec_of(fill_holes).reach({"area": 25}) == 25


@settings(deadline=None, max_examples=80)
@given(masks(), st.integers(0, 30))
def test_drop_by_area_in_a_mask(mask, area):
    mask.setflags(write=False)
    pieces, _ = ndi.label(mask, EIGHT)
    size = np.bincount(pieces.ravel())[pieces]
    assert np.array_equal(drop_small(mask, area=area), mask & (size > area))
    assert np.array_equal(drop_large(mask, area=area), mask & (size <= area))


@settings(deadline=None, max_examples=80)
@given(label_images(), st.integers(0, 30), st.sampled_from([1, 1000, 50_000_000]))
def test_drop_by_area_in_labels(labels, area, step):
    labels = labels * np.int32(step)  # also ids far too large for a table
    labels.setflags(write=False)
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    size = counts[index.reshape(labels.shape)]
    small, large = drop_small(labels, area=area), drop_large(labels, area=area)
    assert small.dtype == large.dtype == np.int32
    assert np.array_equal(small, np.where(size > area, labels, 0))
    assert np.array_equal(large, np.where(size <= area, labels, 0))


def test_ten_pixels_and_under_are_gone_at_area_10():
    mask = np.zeros((5, 30), bool)
    mask[1, 1:10] = mask[1, 12:22] = mask[3, 1:12] = True
    assert drop_small(mask).sum() == 11
    assert spec_of(drop_small).reach({"area": 10}) is OBJECT


def test_drop_small_with_70_000_pieces():
    mask = np.zeros((1060, 1060), bool)
    mask[::4, ::4] = True
    mask[1::4, ::4] = True
    mask[::4, 1::8] = True
    assert np.count_nonzero(mask[::4, ::4]) == 265 * 265
    big = drop_small(mask, area=2)
    assert ndi.label(big, EIGHT)[1] == 265 * 133
    assert np.array_equal(drop_large(mask, area=2), mask & ~big)
    labels = ndi.label(mask, EIGHT)[0].astype(np.int32)
    assert np.array_equal(drop_small(labels, area=2) > 0, big)


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 11, 40])
@settings(deadline=None, max_examples=12)
@given(mask=masks())
def test_discs_are_those_of_skimage(radius, mask):
    mask.setflags(write=False)
    footprint = disk(radius)
    ours = {"erosion": erode, "dilation": dilate, "opening": morphology.open, "closing": close}
    for name, stage in ours.items():
        result = stage(mask, radius=radius)
        assert result.dtype == bool
        assert np.array_equal(result, getattr(reference, name)(mask, footprint, mode="ignore")), name


@settings(deadline=None, max_examples=40)
@given(masks(), st.floats(1, 12))
def test_a_disc_holds_what_lies_within_its_radius(mask, radius):
    far = ndi.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
    assert np.array_equal(dilate(mask, radius=radius), far <= radius)


def test_discs_between_whole_radii():
    mask = np.zeros((7, 7), bool)
    mask[3, 3] = True
    assert dilate(mask, radius=1).sum() == 5
    assert dilate(mask, radius=1.5).sum() == 9
    assert dilate(mask, radius=2.3).sum() == 21
    assert spec_of(morphology.open).reach({"radius": 2.3}) == 4
    assert spec_of(erode).reach({"radius": 2.3}) == 2


def test_the_edge_of_the_image_erodes_nothing():
    assert erode(np.ones((1, 997), bool), radius=200).all()
    assert morphology.open(np.ones((5, 1), bool), radius=7).all()
    assert not dilate(np.zeros((5, 1), bool), radius=7).any()


@settings(deadline=None, max_examples=60)
@given(masks())
def test_clear_border_of_a_mask_is_that_of_skimage(mask):
    mask.setflags(write=False)
    pieces, _ = ndi.label(mask, EIGHT)
    assert np.array_equal(clear_border(mask), clear_border_reference(pieces) > 0)


@settings(deadline=None, max_examples=60)
@given(label_images(), st.sampled_from([1, 50_000_000]))
def test_clear_border_of_labels(labels, step):
    labels = labels * np.int32(step)
    labels.setflags(write=False)
    edge = {*labels[0].tolist(), *labels[-1].tolist(), *labels[:, 0].tolist(), *labels[:, -1].tolist()}
    result = clear_border(labels)
    assert result.dtype == np.int32
    assert np.array_equal(result, np.where(np.isin(labels, list(edge)), 0, labels))


@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (997, 1)])
@pytest.mark.parametrize("value", [False, True])
def test_strips_and_single_pixels(shape, value):
    mask = np.full(shape, value)
    for stage in (fill_holes, erode, dilate, morphology.open, close):
        assert np.array_equal(stage(mask), mask)
    assert not clear_border(mask).any()
    assert drop_small(mask).all() == (value and mask.size > 10)
    assert np.array_equal(drop_large(mask), mask)
