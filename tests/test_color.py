"""Colour to one intensity, against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import color

from cellkit.core import KindError, StageError
from cellkit.core.stage import spec_of
from cellkit.stages.color import channel, grayscale, invert, stain
from strategies import images

HDX = np.array([[0.65, 0.70, 0.29], [0.27, 0.57, 0.78], [0.0, 0.0, 0.0]])
HDX[2] = np.cross(HDX[0], HDX[1])


@settings(deadline=None, max_examples=40)
@given(images(channels=st.just(3)))
def test_grayscale_weights(image):
    image.setflags(write=False)
    np.testing.assert_allclose(grayscale(image, weights="rec709")[..., 0], color.rgb2gray(image), atol=1e-6)
    np.testing.assert_allclose(grayscale(image)[..., 0], image @ np.array([0.299, 0.587, 0.114]), atol=1e-6)
    np.testing.assert_allclose(grayscale(image, weights="mean")[..., 0], image.mean(2), atol=1e-6)


def test_grayscale_passes_one_channel_and_refuses_four():
    one = np.random.default_rng(0).random((4, 5, 1), np.float32)
    assert np.array_equal(grayscale(one), one)
    for count in (2, 4, 7):
        image = np.ones((4, 5, count), np.float32)
        with pytest.raises(KindError, match=rf"got {count} channels: choose one with `channel: {{name: 0}}`"):
            grayscale(image)
        assert np.array_equal(grayscale(image, weights="mean"), one * 0 + 1)
    assert spec_of(grayscale).names({}, ("dapi",)) == ("dapi",)
    assert spec_of(grayscale).names({}, ("r", "g", "b")) == ()


def test_channel_by_number_and_name():
    image = np.random.default_rng(0).random((4, 5, 3), np.float32)
    names = ("dapi", "actin", "tubulin")
    assert np.array_equal(channel(image), image[..., :1])
    assert np.array_equal(channel(image, name=2), image[..., 2:])
    assert np.array_equal(channel(image, name="actin", names=names), image[..., 1:2])
    assert channel(image, name=1).flags.c_contiguous
    rule = spec_of(channel).names
    assert rule({"name": 1}, names) == rule({"name": "actin"}, names) == ("actin",)
    assert rule({"name": 1}, ()) == ()


@pytest.mark.parametrize(
    ("name", "names", "said"),
    [
        (3, (), "no channel 3, the image has 3, counted from 0"),
        (-1, (), "no channel -1"),
        ("dappi", ("dapi", "actin", "tubulin"), "no channel is called 'dappi'; did you mean 'dapi'"),
        ("x", ("dapi", "actin", "tubulin"), "the channels are dapi, actin, tubulin"),
        ("dapi", (), "names no channels: give a number"),
    ],
)
def test_channel_that_is_not_there(name, names, said):
    with pytest.raises(StageError, match=said):
        channel(np.zeros((2, 2, 3), np.float32), name=name, names=names)


@settings(deadline=None, max_examples=30)
@given(images(channels=st.just(3)))
def test_stain_is_colour_deconvolution(image):
    image.setflags(write=False)
    floored = np.maximum(image, 1 / 255)
    scale = np.log(1e6) / np.log(255)
    hed = color.rgb2hed(floored) * scale
    for index, name in enumerate(["hematoxylin", "eosin", "dab"]):
        np.testing.assert_allclose(stain(image, stain=name)[..., 0], hed[..., index], atol=2e-6)
    hdx = color.separate_stains(floored, np.linalg.inv(HDX)) * scale
    for index, name in enumerate(["hematoxylin", "dab"]):
        result = stain(image, stain=name, mixture="hematoxylin-dab")
        np.testing.assert_allclose(result[..., 0], hdx[..., index], atol=2e-6)


def test_stain_of_one_pure_stain():
    density = np.linspace(0, 0.5, 11)
    image = np.exp(-np.log(255) * density[None, :, None] * np.array([0.65, 0.70, 0.29])).astype(np.float32)
    for mixture in ("hematoxylin-eosin-dab", "hematoxylin-eosin", "hematoxylin-dab"):
        np.testing.assert_allclose(stain(image, mixture=mixture)[0, :, 0], density, atol=1e-5)
    assert stain(image, stain="eosin").max() < 1e-5
    assert spec_of(stain).names({"stain": "dab"}, ()) == ("dab",)


def test_stain_refuses():
    with pytest.raises(KindError, match="stain wants red, green and blue, got 1 channels"):
        stain(np.zeros((2, 2, 1), np.float32))
    with pytest.raises(StageError, match="dab is not part of hematoxylin-eosin; choose another `mixture`"):
        stain(np.zeros((2, 2, 3), np.float32), stain="dab", mixture="hematoxylin-eosin")


@settings(deadline=None, max_examples=20)
@given(images(channels=st.sampled_from([1, 3])))
def test_invert_twice(image):
    result = invert(image)
    assert result.dtype == np.float32
    assert np.array_equal(result, 1 - image)
    np.testing.assert_allclose(invert(result), image, atol=1e-7)
