"""Smoothing against scipy, scikit-image and brute force."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cellkit.core.stage import spec_of
from cellkit.stages.smooth import bilateral, gaussian, median
from strategies import images


@settings(deadline=None, max_examples=60)
@given(images(channels=st.sampled_from([1, 2, 3, 6])), st.floats(0.1, 12))
def test_gaussian_is_that_of_scipy(image, sigma):
    image.setflags(write=False)
    radius = ceil(4 * sigma)
    result = gaussian(image, sigma=sigma)
    assert result.dtype == np.float32
    for channel in range(image.shape[2]):
        wanted = ndi.gaussian_filter(image[..., channel].astype(np.float64), sigma, radius=radius)
        np.testing.assert_allclose(result[..., channel], wanted, atol=1e-6)
    assert spec_of(gaussian).reach({"sigma": sigma}) == radius


def test_gaussian_of_a_field_and_of_many_channels():
    rng = np.random.default_rng(0)
    field = rng.random((31, 37), np.float32) * 50
    result = gaussian(field, sigma=2)
    assert result.shape == field.shape
    np.testing.assert_allclose(result, ndi.gaussian_filter(field, 2), atol=1e-4)
    prob = rng.random((9, 8, 150), np.float32)
    assert np.array_equal(gaussian(prob)[..., 77:78], gaussian(prob[..., 77:78]))


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 11, 50])
@settings(deadline=None, max_examples=10)
@given(image=images(channels=st.sampled_from([1, 2, 3])))
def test_median_is_that_of_scipy(radius, image):
    image.setflags(write=False)
    result = median(image, radius=radius)
    assert result.dtype == np.float32
    for channel in range(image.shape[2]):
        wanted = ndi.median_filter(image[..., channel], 2 * radius + 1, mode="nearest")
        assert np.array_equal(result[..., channel], wanted)


@pytest.mark.parametrize("values", ["8 bit", "any"])
@pytest.mark.parametrize("radius", [3, 6])
def test_median_over_several_blocks(values, radius):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (261, 530)).astype(np.float32)
    if values == "8 bit":
        image = np.multiply(rng.integers(0, 256, image.shape), np.float32(1 / 255), dtype=np.float32)
    wanted = ndi.median_filter(image, 2 * radius + 1, mode="nearest")
    assert np.array_equal(median(image[..., None], radius=radius)[..., 0], wanted)


def one_by_one(image, sigma_space, sigma_color):
    """Bilateral filter of float64 (y, x, c) by its definition."""
    radius = ceil(2 * sigma_space)
    wide = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    total, weights = np.zeros(image.shape), np.zeros(image.shape[:2])
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            square = dy * dy + dx * dx
            if square > radius * radius:
                continue
            moved = wide[radius + dy :, radius + dx :][: image.shape[0], : image.shape[1]]
            apart = np.abs(moved - image).sum(axis=2)
            weight = np.exp(-square / (2 * sigma_space**2) - apart**2 / (2 * sigma_color**2))
            weights += weight
            total += weight[..., None] * moved
    return total / weights[..., None]


@settings(deadline=None, max_examples=40)
@given(images(channels=st.sampled_from([1, 2, 3])), st.floats(0.5, 4), st.floats(0.02, 1))
def test_bilateral_is_its_definition(image, sigma_space, sigma_color):
    image.setflags(write=False)
    exact = image.astype(np.float64)
    result = bilateral(image, sigma_space=sigma_space, sigma_color=sigma_color)
    assert result.dtype == np.float32
    parts = [exact] if image.shape[2] == 3 else [exact[..., c : c + 1] for c in range(image.shape[2])]
    wanted = np.concatenate([one_by_one(part, sigma_space, sigma_color) for part in parts], axis=2)
    np.testing.assert_allclose(result, wanted, atol=2e-4)


def test_bilateral_keeps_an_edge():
    image = np.zeros((20, 20, 1), np.float32)
    image[:, 10:] = 1
    np.testing.assert_allclose(bilateral(image, sigma_color=0.1), image, atol=1e-6)


def test_flat_images_stay():
    for shape in [(1, 1, 1), (1, 997, 1), (5, 3, 4)]:
        image = np.full(shape, 0.25, np.float32)
        for stage in (gaussian, median, bilateral):
            np.testing.assert_allclose(stage(image), image, atol=1e-6)


@pytest.mark.parametrize("shape", [(512, 641), (700, 523, 3), (521, 513, 5)])
def test_a_wide_gaussian_of_a_large_image_is_the_same_gaussian(shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    result = gaussian(image, sigma=20.5)
    axes = (20.5, 20.5, 0)[: image.ndim]
    # 4 sigma in whole pixels, rounded up here and to the nearest there
    wanted = ndi.gaussian_filter(image.astype(np.float64), axes, truncate=82 / 20.5)
    np.testing.assert_allclose(result, wanted, atol=2e-6)
    part = gaussian(np.ascontiguousarray(image[:200]), sigma=20.5)
    np.testing.assert_allclose(part[:118], result[:118], atol=2e-6)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
