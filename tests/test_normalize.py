"""Intensity scaling against numpy, OpenCV, scipy and scikit-image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cellkit.core import WHOLE, Histogram, StageError
from cellkit.core.stage import spec_of
from cellkit.stages.normalize import background, clahe, dark_background, gamma, normalize
from strategies import images


def measured(stage, image, **params):
    return stage(image, Histogram.of(image), **params)


def lowest(values, shares):
    """Return percentiles as the least value that so many do not exceed, of values rounded to float16."""
    return np.quantile(values.astype(np.float16).astype(np.float64), shares, method="inverted_cdf")


@settings(deadline=None, max_examples=60)
@given(images(channels=st.sampled_from([1, 3])))
def test_dark_background_inverts_bright_ones_only(image):
    image.setflags(write=False)
    low, middle, high = lowest(image, [0.01, 0.5, 0.99])
    wanted = low + high - image.astype(np.float64) if middle > (low + high) / 2 else image
    np.testing.assert_allclose(measured(dark_background, image), wanted, atol=1e-6)


def test_dark_background_of_objects_dark_on_bright():
    image = np.full((50, 50, 1), 0.9, np.float32)
    image[10:20, 10:20] = 0.2
    result = measured(dark_background, image)
    assert result[15, 15, 0] > 0.8
    assert result[0, 0, 0] < 0.3
    assert np.array_equal(measured(dark_background, result), result)
    flat = np.full((3, 3, 1), 1.0, np.float32)
    assert np.array_equal(measured(dark_background, flat), flat)


@settings(deadline=None, max_examples=60)
@given(images(channels=st.sampled_from([1, 3])), st.floats(0, 49), st.floats(51, 100), st.booleans())
def test_normalize_stretches_between_percentiles(image, low, high, clip):
    image.setflags(write=False)
    result = measured(normalize, image, low=low, high=high, clip=clip)
    assert result.dtype == np.float32
    for channel in range(image.shape[2]):
        values = image[..., channel].astype(np.float64)
        dark, bright = lowest(values, np.array([low, high]) / 100)
        if dark == bright:
            dark, bright = lowest(values, [0, 1])
        wanted = np.zeros(values.shape) if dark == bright else (values - dark) / (bright - dark)
        wanted = np.clip(wanted, 0, 1) if clip else wanted
        np.testing.assert_allclose(result[..., channel], wanted, rtol=1e-5, atol=1e-5)


def test_normalize_keeps_few_bright_pixels_on_black():
    image = np.zeros((100, 100, 1), np.float32)
    image[3, 4] = 0.5
    assert measured(normalize, image)[3, 4, 0] == 1
    assert measured(normalize, image).sum() == 1


@pytest.mark.parametrize(("low", "high"), [(50, 50), (99, 1)])
def test_normalize_refuses(low, high):
    with pytest.raises(StageError, match=f"`low` must be below `high`, got {low} and {high} percent"):
        measured(normalize, np.zeros((2, 2, 1), np.float32), low=low, high=high)


@settings(deadline=None, max_examples=30)
@given(images(channels=st.sampled_from([1, 2])), st.floats(0.1, 10))
def test_gamma_is_the_power(image, exponent):
    image.setflags(write=False)
    result = gamma(image - np.float32(0.1), gamma=exponent)
    assert result.dtype == np.float32
    wanted = np.maximum((image - np.float32(0.1)).astype(np.float64), 0) ** exponent
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tiles", [1, 2, 4])
@pytest.mark.parametrize("clip_limit", [2.0, 40.0])
@settings(deadline=None, max_examples=6)
@given(image=images(sides=st.sampled_from([128, 192])))
def test_clahe_is_that_of_opencv_on_8_bit(tiles, clip_limit, image):
    levels = np.round(image[..., 0] * 255).astype(np.uint8)
    wanted = cv2.createCLAHE(clip_limit, (tiles, tiles)).apply(levels)
    exact = np.multiply(levels, np.float32(1 / 255))[..., None]
    exact.setflags(write=False)
    result = clahe(exact, clip_limit=clip_limit, tiles=tiles)
    assert result.dtype == np.float32
    # OpenCV rounds to whole levels twice, and gives what is left of the cut counts, up to 255, to the first levels.
    np.testing.assert_allclose(result[..., 0] * 255, wanted, atol=2 + 255 * 64 * tiles**2 / levels.size)


@pytest.mark.parametrize("clip_limit", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(13, 17), (1, 1), (1, 29), (6, 3)])
def test_clahe_pixel_by_pixel(shape, clip_limit):
    tiles = 3
    image = np.random.default_rng(0).normal(0.5, 0.3, shape).astype(np.float32)
    levels = np.clip(image.astype(np.float64), 0, 1) * 255
    filled = np.pad(np.rint(levels).astype(int), [(0, -n % tiles) for n in shape], mode="reflect")
    tall, wide = filled.shape[0] // tiles, filled.shape[1] // tiles

    def becomes(i, j, level):
        tile = filled[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
        counts = np.bincount(tile.ravel(), minlength=256).astype(float)
        limit = max(1, int(clip_limit * tile.size / 256))
        cut = np.minimum(counts, limit)
        share = np.cumsum(cut + (counts - cut).sum() / 256) / tile.size
        return np.interp(level, np.arange(256), share)

    wanted = np.empty(shape)
    for y, x in np.ndindex(shape):
        i, j = (y - tall / 2) / tall, (x - wide / 2) / wide
        wanted[y, x] = sum(
            (1 - abs(i - a)) * (1 - abs(j - b)) * becomes(min(max(a, 0), 2), min(max(b, 0), 2), levels[y, x])
            for a in range(-1, 4)
            for b in range(-1, 4)
            if abs(i - a) < 1 and abs(j - b) < 1
        )
    np.testing.assert_allclose(clahe(image[..., None], clip_limit=clip_limit, tiles=tiles)[..., 0], wanted, atol=1e-5)


def test_clahe_interpolates_between_levels():
    ramp = np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64, 1)
    assert len(np.unique(clahe(ramp, tiles=1))) > 4000
    assert spec_of(clahe).reach({}) is WHOLE


def disc(radius):
    side = np.arange(-int(radius), int(radius) + 1)
    return side[:, None] ** 2 + side[None] ** 2 <= radius * radius


@settings(deadline=None, max_examples=40)
@given(images(channels=st.sampled_from([1, 2])), st.floats(1, 14))
def test_tophat_is_that_of_opencv(image, radius):
    image.setflags(write=False)
    result = background(image, radius=radius)
    footprint = disc(radius).astype(np.uint8)
    for channel in range(image.shape[2]):
        wanted = cv2.morphologyEx(np.ascontiguousarray(image[..., channel]), cv2.MORPH_TOPHAT, footprint)
        np.testing.assert_allclose(result[..., channel].reshape(wanted.shape), wanted, atol=1e-7)
    assert spec_of(background).reach({"method": "tophat", "radius": radius}) == 2 * int(radius)


@settings(deadline=None, max_examples=40)
@given(images(), st.floats(1, 10))
def test_small_rolling_ball_is_an_opening_by_a_ball(image, radius):
    image.setflags(write=False)
    side = np.arange(-int(radius), int(radius) + 1)
    height = np.sqrt(np.maximum(radius**2 - side[:, None] ** 2 - side[None] ** 2, 0)) / 255
    margin = 2 * int(radius)
    exact = image[..., 0].astype(np.float64)
    # Outside nothing counts: nothing lower than the image, and nothing of the ball rolling there.
    risen = ndi.grey_erosion(np.pad(exact, margin, constant_values=9), structure=height, footprint=disc(radius))
    inside = np.full(risen.shape, -9.0)
    core = np.s_[margin : margin + exact.shape[0], margin : margin + exact.shape[1]]
    inside[core] = risen[core]
    surface = ndi.grey_dilation(inside, structure=height, footprint=disc(radius))[core]
    result = background(image, radius=radius, method="rolling_ball")
    np.testing.assert_allclose(result[..., 0], exact - surface, atol=1e-6)
    assert result.min() >= 0


def test_the_ball_rises_as_high_as_that_of_skimage():
    from skimage.restoration import rolling_ball

    from cellkit.stages import _disc

    image = np.random.default_rng(0).random((60, 61)).astype(np.float32) * 200
    radius = 9
    risen = _disc.erode_ball(image, _disc.ball(radius, 1.0)) + radius
    inside = np.s_[radius:-radius, radius:-radius]
    np.testing.assert_allclose(risen[inside], rolling_ball(image, radius=radius)[inside], atol=1e-3)


@pytest.mark.parametrize("radius", [20, 50, 120])
def test_large_rolling_ball_takes_a_slope_and_leaves_spots(radius):
    y, x = np.mgrid[:300, :311]
    slope = (0.1 + 0.2 * y / 300 + 0.1 * x / 300).astype(np.float32)
    spots = np.zeros_like(slope)
    spots[20::40, 20::40] = 0.4
    spots = ndi.maximum_filter(spots, 5)
    result = background((slope + spots)[..., None], method="rolling_ball", radius=radius)[..., 0]
    margin = np.s_[30:-30, 30:-30]
    np.testing.assert_allclose(result[margin], spots[margin], atol=0.02)
    assert result.min() >= 0
    assert spec_of(background).reach({"method": "rolling_ball", "radius": radius}) is WHOLE
    assert spec_of(background).reach({"method": "rolling_ball", "radius": 10}) == 20


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 997, 1), (7, 1, 2)])
def test_strips_and_single_pixels(shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    flat = np.full(shape, 0.5, np.float32)
    assert not measured(normalize, flat).any()
    for method in ("tophat", "rolling_ball"):
        for radius in (3, 25, 101):
            assert background(image, method=method, radius=radius).shape == shape
            np.testing.assert_allclose(background(flat, method=method, radius=radius), 0, atol=1e-6)
    assert np.isfinite(clahe(image)).all()


def test_normalize_together_keeps_colours_and_does_not_magnify_an_empty_channel():
    image = np.random.default_rng(0).random((40, 50, 3), np.float32) * np.float32([1, 0.5, 0.01])
    found = measured(normalize, image, low=0, high=100, together=True)
    low, high = image.min(), image.max()
    assert np.allclose(found, (image - low) / (high - low), atol=2e-3)
    assert found[..., 2].max() < 0.02
    assert measured(normalize, image, low=0, high=100)[..., 2].max() > 0.99
    few = np.zeros((40, 50, 3), np.float32)
    few[3, 4, 1] = 0.25
    assert measured(normalize, few, together=True).sum() == 1
    assert not measured(normalize, np.full((4, 5, 3), 0.5, np.float32), together=True).any()
