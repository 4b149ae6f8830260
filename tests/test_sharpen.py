"""Sharpening against scikit-image and scipy."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cellkit.core.stage import spec_of
from cellkit.stages.sharpen import sharpen, unsharp
from strategies import images


@settings(deadline=None, max_examples=50)
@given(images(channels=st.sampled_from([1, 2, 3, 6])), st.floats(0.1, 12), st.floats(0, 10))
def test_unsharp_adds_back_the_detail(image, sigma, amount):
    image.setflags(write=False)
    exact = image.astype(np.float64)
    radius = ceil(4 * sigma)
    blurred = ndi.gaussian_filter(exact, (sigma, sigma, 0), radius=(radius, radius, 0))
    result = unsharp(image, sigma=sigma, amount=amount)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, exact + amount * (exact - blurred), atol=2e-6 * (1 + amount))


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_unsharp_agrees_with_skimage_inside(sigma):
    from skimage.filters import unsharp_mask

    image = np.random.default_rng(0).random((64, 71, 1), np.float32)
    wanted = unsharp_mask(image[..., 0], radius=sigma, amount=1.5, preserve_range=True)
    inside = np.s_[ceil(4 * sigma) : -ceil(4 * sigma), ceil(4 * sigma) : -ceil(4 * sigma)]
    result = unsharp(image, sigma=sigma, amount=1.5)[..., 0]
    np.testing.assert_allclose(result[inside], wanted[inside], atol=1e-4)
    assert spec_of(unsharp).reach({"sigma": sigma}) == ceil(4 * sigma)


@settings(deadline=None, max_examples=50)
@given(images(channels=st.sampled_from([1, 2, 3, 6])))
def test_sharpen_is_the_kernel(image):
    image.setflags(write=False)
    kernel = np.full((3, 3), -1.0)
    kernel[1, 1] = 9
    result = sharpen(image)
    for channel in range(image.shape[2]):
        wanted = ndi.correlate(image[..., channel].astype(np.float64), kernel, mode="reflect")
        np.testing.assert_allclose(result[..., channel], wanted, atol=1e-5)


def test_flat_images_stay():
    for shape in [(1, 1, 1), (1, 997, 1), (5, 3, 4)]:
        image = np.full(shape, 0.25, np.float32)
        np.testing.assert_allclose(unsharp(image), image, atol=1e-6)
        np.testing.assert_allclose(sharpen(image), image, atol=1e-6)
