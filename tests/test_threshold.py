"""Thresholds against scikit-image and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import WHOLE, Histogram, KindError, StageError
from cellkit.core.stage import spec_of
from cellkit.stages.threshold import hysteresis, li, local, multi_otsu, otsu, threshold, triangle
from strategies import images

AUTOMATIC = {"otsu": otsu, "li": li, "triangle": triangle}


def measured(stage, image, **params):
    return stage(image, Histogram.of(image), **params)


def two_humps(rng, shape=(61, 67), share=0.3, spread=0.05):
    """Background around 0.2 and objects around 0.6, not yet rounded."""
    bright = rng.random(shape) < share
    values = np.where(bright, rng.normal(0.6, spread, shape), rng.normal(0.2, spread, shape))
    return np.clip(values, 0, 1).astype(np.float32)[..., None]


def halves(image):
    """Every way to part the values, rounded as a histogram counts them: the last value below, and both sides."""
    rounded = image[..., 0].astype(np.float16).astype(np.float64)
    for below in np.unique(rounded)[:-1]:
        yield below, rounded[rounded <= below], rounded[rounded > below]


def variance_between(low, high):
    return len(low) * len(high) * (low.mean() - high.mean()) ** 2


def cross_entropy(low, high, least):
    def part(side):
        side = side - least
        return 0.0 if side.sum() == 0 else side.sum() * np.log(side.mean())

    return -part(low) - part(high)


@settings(deadline=None, max_examples=60)
@given(images())
def test_otsu_is_best_of_every_split(image):
    mask = measured(otsu, image)
    rounded = image[..., 0].astype(np.float16).astype(np.float64)
    scores = [variance_between(low, high) for _, low, high in halves(image)]
    if not scores:
        assert not mask.any()
        return
    assert mask.any()
    assert not mask.all()
    assert variance_between(rounded[~mask], rounded[mask]) >= max(scores) * (1 - 1e-9)


@settings(deadline=None, max_examples=60)
@given(images())
def test_li_is_best_of_every_split(image):
    mask = measured(li, image)
    rounded = image[..., 0].astype(np.float16).astype(np.float64)
    scores = [cross_entropy(low, high, rounded.min()) for _, low, high in halves(image)]
    if not scores:
        assert not mask.any()
        return
    best = cross_entropy(rounded[~mask], rounded[mask], rounded.min())
    assert best <= min(scores) + 1e-9 * max(1, abs(min(scores)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", AUTOMATIC)
def test_automatic_thresholds_agree_with_skimage(name, seed):
    from skimage import filters

    image = two_humps(np.random.default_rng(seed), share=0.1 + 0.1 * seed)
    reference = getattr(filters, f"threshold_{name}")(image[..., 0])
    mask = measured(AUTOMATIC[name], image)
    values = np.sort(image.ravel())
    own = values[np.searchsorted(values, image[..., 0][~mask].max())]
    # scikit-image parts 256 bins (Otsu, triangle) or iterates to a tolerance (Li); nothing lies between the humps.
    gap = (values > min(own, reference)) & (values <= max(own, reference))
    assert gap.mean() < (0.02 if name == "triangle" else 0.005)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["otsu", "triangle"])
def test_automatic_thresholds_on_8_bit_are_those_of_skimage(name, seed):
    from skimage import filters

    levels = np.round(two_humps(np.random.default_rng(seed), (301, 307), spread=0.07)[..., 0] * 255).astype(np.uint8)
    image = np.multiply(levels, np.float32(1 / 255))[..., None]
    assert np.array_equal(measured(AUTOMATIC[name], image), levels > getattr(filters, f"threshold_{name}")(levels))


def test_a_pixel_rounded_up_stays_on_its_side():
    """Values a hair below one that float16 knows are counted there, and must not fall to the other side."""
    low, high = np.float32(0.25), np.float32(0.75)
    near = np.nextafter(high, np.float32(0))
    image = np.array([[low, low, near, high, near]], np.float32)[..., None]
    assert measured(otsu, image).tolist() == [[False, False, True, True, True]]
    # Neighbours in float16: the midpoint rounds to the even one, which is the upper.
    below, above = (np.array([0x3801, 0x3802], np.uint16).view(np.float16)).astype(np.float32)
    middle = (below + above) / 2
    assert np.float16(middle) == above
    image = np.array([[below, middle, above]], np.float32)[..., None]
    assert measured(otsu, image).tolist() == [[False, True, True]]


@pytest.mark.parametrize("stage", AUTOMATIC.values(), ids=list(AUTOMATIC))
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -2.0, 1e6])
@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (8, 8)])
def test_constant_image_has_no_foreground(stage, value, shape):
    image = np.full((*shape, 1), value, np.float32)
    mask = measured(stage, image)
    assert mask.dtype == bool
    assert mask.shape == shape
    assert not mask.any()
    assert not measured(multi_otsu, image).any()


@pytest.mark.parametrize("stage", AUTOMATIC.values(), ids=list(AUTOMATIC))
def test_scale_multiplies_the_threshold(stage):
    image = two_humps(np.random.default_rng(0))
    counts = [np.count_nonzero(measured(stage, image, scale=s)) for s in (0.5, 1.0, 1.5, 10.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2]
    assert counts[3] == 0


@settings(deadline=None, max_examples=40)
@given(images())
def test_automatic_thresholds_take_any_image(image):
    for stage in AUTOMATIC.values():
        mask = measured(stage, image)
        assert mask.dtype == bool
        assert mask.shape == image.shape[:2]
        if len(np.unique(image.astype(np.float16))) > 1 and stage is not triangle:
            assert mask.flat[image.argmax()]
            assert not mask.flat[image.argmin()]


def test_triangle_finds_the_foot_of_the_background():
    rng = np.random.default_rng(1)
    image = rng.normal(0.2, 0.02, (200, 200)).astype(np.float32)
    image[:20, :20] = rng.uniform(0.5, 0.9, (20, 20))
    mask = measured(triangle, image[..., None])
    assert mask[:20, :20].all()
    assert mask[20:].mean() < 0.05
    # And with the tail on the other side the bulk is what lies above.
    mask = measured(triangle, 1 - image[..., None])
    assert not mask[:20, :20].any()
    assert mask[20:].mean() > 0.95


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_multi_otsu_is_best_of_every_cut(classes, seed):
    from itertools import combinations

    rng = np.random.default_rng(seed)
    levels = np.sort(rng.choice(256, 9, replace=False)) / np.float32(255)
    image = rng.choice(levels, (12, 13), p=rng.dirichlet(np.ones(9))).astype(np.float32)[..., None]
    rounded = image[..., 0].astype(np.float16).astype(np.float64)
    present = np.unique(rounded)
    wanted = min(classes, len(present))

    def between(parts):
        return sum(p.size * (p.mean() - rounded.mean()) ** 2 for p in parts)

    best = max(
        between([rounded[np.searchsorted(c, rounded) == k] for k in range(wanted)])
        for c in map(list, combinations(present[:-1], wanted - 1))
    )
    result = measured(multi_otsu, image, classes=classes)
    assert set(np.unique(result)) == set(range(wanted))
    assert between([rounded[result == k] for k in range(wanted)]) >= best * (1 - 1e-9)


def test_multi_otsu_agrees_with_skimage():
    from skimage.filters import threshold_multiotsu

    rng = np.random.default_rng(3)
    image = np.concatenate([rng.normal(m, 0.04, 4000) for m in (0.2, 0.5, 0.8)]).astype(np.float32).reshape(100, 120, 1)
    reference = np.digitize(image[..., 0], threshold_multiotsu(image[..., 0], 3))
    result = measured(multi_otsu, image)
    assert result.dtype == np.uint8
    assert np.mean(result != reference) < 0.005


def test_threshold_is_strict():
    image = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.2]], np.float32)[..., None]
    assert threshold(image).tolist() == [[False, True, False]]
    assert threshold(image, value=0.1).all()
    assert not threshold(image, value=1.0).any()


@pytest.mark.parametrize("stage", [*AUTOMATIC.values(), multi_otsu])
def test_many_channels_are_refused(stage):
    image = np.zeros((3, 4, 3), np.float32)
    with pytest.raises(KindError, match=r"one channel, got 3: put `grayscale` or `channel"):
        measured(stage, image)
    with pytest.raises(KindError, match=r"threshold wants one channel, got 3"):
        threshold(image)


@pytest.mark.parametrize("radius", [1, 3, 12, 50])
@settings(deadline=None, max_examples=12)
@given(image=images(), k=st.floats(-0.5, 0.5), r=st.floats(0.1, 1), offset=st.floats(-0.2, 0.2))
def test_local_against_windows_one_by_one(radius, image, k, r, offset):
    image.setflags(write=False)
    steps = np.floor(image[..., 0].astype(np.float64) * 65536 + 0.5)
    wide = np.pad(steps, radius, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (2 * radius + 1,) * 2)
    mean, spread = windows.mean(axis=(2, 3)), windows.std(axis=(2, 3))
    for method, limit in (("mean", mean), ("sauvola", mean * (1 + k * (spread / (r * 65536) - 1)))):
        away = np.abs(steps - (limit - offset * 65536)) > 1e-3
        result = local(image, method=method, radius=radius, k=k, r=r, offset=offset)
        assert result.dtype == bool
        assert np.array_equal(result[away], (steps > limit - offset * 65536)[away])


@pytest.mark.parametrize("radius", [2, 15])
def test_local_agrees_with_skimage(radius):
    from skimage.filters import threshold_local, threshold_sauvola

    image = two_humps(np.random.default_rng(5), (120, 131))
    part, side = image[..., 0], 2 * radius + 1
    inside = np.s_[radius:-radius, radius:-radius]
    sauvola = part > threshold_sauvola(part, side, k=0.2, r=0.5)
    mean = part > threshold_local(part, side, method="mean", offset=0.02)
    assert np.mean(local(image, method="mean", radius=radius, offset=0.02) != mean) < 1e-3
    assert np.mean(local(image, method="sauvola", radius=radius)[inside] != sauvola[inside]) < 1e-3


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -2.0, 100.0])
def test_local_finds_nothing_in_what_is_flat(value):
    image = np.full((40, 41, 1), value, np.float32)
    assert not local(image, radius=9).any()
    assert local(image, radius=9, method="sauvola").all() == (value > 0)
    if value > 0:
        assert not local(image, radius=9, method="sauvola", k=-0.2).any()
    image[5:10, 5:10] = value + 0.5
    flat = local(image, radius=5)
    assert flat[5:10, 5:10].all()
    assert flat.sum() == 25, "what left the window is forgotten"


def test_local_refuses_what_was_not_scaled():
    with pytest.raises(StageError, match=r"values up to 4095: add `normalize`"):
        local(np.full((3, 3, 1), 4095, np.float32))
    with pytest.raises(StageError, match="values up to 4095"):
        local(np.full((3, 3, 1), -4095, np.float32))


@settings(deadline=None, max_examples=60)
@given(images(), st.floats(0, 1), st.floats(0, 1))
def test_hysteresis_is_that_of_skimage(image, a, b):
    from scipy import ndimage as ndi
    from skimage.filters import apply_hysteresis_threshold

    image.setflags(write=False)
    low, high = (float(np.float32(v)) for v in sorted((a, b)))
    part = image[..., 0]
    assert np.array_equal(
        hysteresis(image, low=low, high=high, connectivity=4), apply_hysteresis_threshold(part, low, high)
    )
    pieces, _ = ndi.label(part > low, np.ones((3, 3)))
    kept = np.unique(pieces[part > high])
    assert np.array_equal(hysteresis(image, low=low, high=high), (part > low) & np.isin(pieces, kept))


def test_hysteresis_refuses_and_is_whole():
    with pytest.raises(StageError, match=r"`low` must not be greater than `high`, got 0\.6 and 0\.5"):
        hysteresis(np.zeros((3, 3, 1), np.float32), low=0.6)
    with pytest.raises(KindError, match="hysteresis wants one channel, got 2"):
        hysteresis(np.zeros((3, 3, 2), np.float32))
    assert spec_of(hysteresis).reach(spec_of(hysteresis).defaults) is WHOLE


def test_hysteresis_of_70_000_pieces():
    image = np.zeros((1060, 1060, 1), np.float32)
    image[::4, ::4] = 0.4
    image[::8, ::4] = 0.6
    assert np.array_equal(hysteresis(image), image[..., 0] > 0.5)
