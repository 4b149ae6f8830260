"""distance, maxima and watershed against scipy, scikit-image and slow implementations of their definitions."""

from __future__ import annotations

import heapq

import cv2
import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.morphology import h_maxima
from skimage.segmentation import watershed as skimage_watershed

from cellkit.core.errors import KindError, StageError
from cellkit.core.stage import OBJECT, spec_of
from cellkit.stages.split import distance, maxima, watershed
from strategies import images, masks

EIGHT = np.ones((3, 3))

# Older versions let a flood run downhill before it rises on (scikit-image issue 7661).
same_watershed = pytest.mark.skipif(
    tuple(int(part) for part in skimage.__version__.split(".")[:2]) < (0, 26),
    reason="the order of flooding in scikit-image before 0.26 is another",
)


def frozen(array):
    array.setflags(write=False)
    return array


def discs(side, count, seed=0):
    """A mask of overlapping discs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    mask = np.zeros((side, side), bool)
    for _ in range(count):
        cy, cx, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(5, 11)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 <= r * r
    return frozen(mask)


@st.composite
def fields(draw):
    """Float32 (y, x), many with plateaus and with values of 0."""
    field = draw(images())[..., 0]
    scale, steps = draw(st.sampled_from([1.0, 8.0])), draw(st.sampled_from([0, 4, 16]))
    if steps:
        field = np.round(field * steps) / steps
    return frozen((field * scale).astype(np.float32))


@st.composite
def floods(draw):
    """Field, seeds and mask of one size."""
    field = draw(fields())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random(field.shape) < draw(st.sampled_from([0.0, 0.5, 0.8, 0.97, 1.0]))
    number = rng.integers(1, draw(st.sampled_from([2, 4, 99])), field.shape)
    seeds = np.where(rng.random(field.shape) < draw(st.sampled_from([0.0, 0.03, 0.3])), number, 0).astype(np.int32)
    return field, frozen(seeds), frozen(mask)


def plain_watershed(landscape, seeds, mask):
    """The definition: one heap of (value, age)."""
    out = np.where(mask, seeds, 0)
    heap = [(landscape[y, x], age, y, x) for age, (y, x) in enumerate(np.argwhere(out))]
    heapq.heapify(heap)
    age = len(heap)
    while heap:
        level, _, y, x = heapq.heappop(heap)
        for v, u in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
            if 0 <= v < out.shape[0] and 0 <= u < out.shape[1] and mask[v, u] and not out[v, u]:
                out[v, u] = out[y, x]
                heapq.heappush(heap, (max(level, landscape[v, u]), age, v, u))
                age += 1
    return out


@settings(deadline=None, max_examples=60)
@given(masks())
def test_distance_equals_scipy(mask):
    if mask.all():
        mask = mask.copy()
        mask[0, 0] = False
    got = distance(frozen(mask))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, ndi.distance_transform_edt(mask).astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 997), (997, 1), (1, 2), (211, 307), (3, 1000), (600, 130)])
@pytest.mark.parametrize("share", [0.5, 0.99, 0.9999])
def test_distance_of_long_runs_and_thin_images(shape, share):
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < share
    mask[shape[0] // 3, shape[1] // 2] = False
    np.testing.assert_array_equal(distance(mask), ndi.distance_transform_edt(mask).astype(np.float32))


def test_distance_agrees_with_opencv():
    mask = discs(400, 120)
    np.testing.assert_allclose(
        distance(mask), cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 8), (13, 13)])
def test_distance_without_background_is_to_beyond_the_edge(shape):
    padded = np.pad(np.ones(shape, bool), 1)
    np.testing.assert_array_equal(
        distance(np.ones(shape, bool)), ndi.distance_transform_edt(padded)[1:-1, 1:-1].astype(np.float32)
    )


def plain_maxima(field, r, threshold):
    top = ndi.maximum_filter(field, 2 * r + 1, mode="constant", cval=-np.inf)
    peaks = np.argwhere((field == top) & (field > threshold))
    out = np.zeros(field.shape, np.int32)
    for i, (y, x) in enumerate(peaks):
        if not any(y - v <= r and abs(x - u) <= r for v, u in peaks[:i]):
            out[y, x] = out.max() + 1
    return out


@settings(deadline=None, max_examples=80)
@given(fields(), st.sampled_from([1, 2, 5, 40]), st.sampled_from([0.0, 0.3]))
def test_maxima_equal_their_definition(field, r, threshold):
    got = maxima(field, min_distance=r, threshold=threshold)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, plain_maxima(field, r, threshold))


def test_maxima_equal_peak_local_max_where_no_two_values_are_equal():
    field = ndi.gaussian_filter(np.random.default_rng(1).random((211, 307)), 2).astype(np.float32)
    wanted = peak_local_max(field, min_distance=4, exclude_border=False)
    np.testing.assert_array_equal(np.argwhere(maxima(field, min_distance=4)), wanted[np.lexsort(wanted.T[::-1])])


def test_a_plateau_gets_one_seed():
    field = np.zeros((40, 60), np.float32)
    field[5:12, 5:40] = 2
    field[20:38, 41:60] = 3
    assert maxima(field).max() == 2
    assert maxima(field, h=1.0).max() == 2


def plain_h_maxima(field, h):
    """A maximum stays unless the pixels above ``itself - h`` join it to a higher one or an equal one before it."""
    out = np.zeros(field.shape, bool)
    summits = field == ndi.maximum_filter(field, 3, mode="constant", cval=-np.inf)
    for y, x in np.argwhere(summits & (field > 0)):
        level = np.float64(field[y, x]) - h
        if level < 0:
            continue
        parts, _ = ndi.label((field > level) & (field > 0), EIGHT)
        same = parts == parts[y, x]
        best = field[same].max()
        out[y, x] = field[y, x] == best and tuple(np.argwhere(same & (field == best))[0]) == (y, x)
    return out


def plain_parting(field, kept, r):
    parts, _ = ndi.label(field > 0, EIGHT)
    peaks = [tuple(p) for p in np.argwhere(kept)]
    near = lambda p, q: abs(p[0] - q[0]) <= r and abs(p[1] - q[1]) <= r and parts[p] == parts[q]  # noqa: E731
    stay = [p for p in peaks if not any(near(p, q) and (-field[q], q) < (-field[p], p) for q in peaks)]
    out = np.zeros(field.shape, np.int32)
    for n, p in enumerate(stay, 1):
        out[p] = n
    return out


@settings(deadline=None, max_examples=40)
@given(
    images(sides=st.sampled_from([1, 3, 7, 13])), st.sampled_from([2, 5, 100]), st.sampled_from([0.1, 0.25, 0.5, 2.0])
)
def test_h_maxima_equal_their_definition(image, steps, h):
    field = (np.round(image[..., 0] * steps) / steps).astype(np.float32)
    kept = plain_h_maxima(field, h)
    for r in (1, 3):
        np.testing.assert_array_equal(maxima(frozen(field), h=h, min_distance=r), plain_parting(field, kept, r))
    high = maxima(field, h=h, min_distance=1, threshold=0.6)
    np.testing.assert_array_equal(high > 0, (plain_parting(field, kept, 1) > 0) & (field > np.float32(0.6)))


def test_h_maxima_lie_in_those_of_scikit_image_one_in_each_dome():
    field = np.round(ndi.gaussian_filter(np.random.default_rng(2).random((160, 90)), 2) * 256).astype(np.float32)
    field[:, 40:44] = 0
    for h in (1.0, 2.0, 6.0):
        got = maxima(field, h=h, min_distance=1) > 0
        theirs = h_maxima(field, h).astype(bool)
        assert not (got & ~theirs).any()
        # Theirs marks every one of several equally high points of a dome: all of them rise less than h above the pass.
        for y, x in np.argwhere(theirs & ~got):
            dome, _ = ndi.label(field > field[y, x] - h, EIGHT)
            assert (got & (dome == dome[y, x]) & (field == field[y, x])).sum() == 1


def test_h_maxima_of_a_large_piece_equal_their_definition():
    field = (ndi.gaussian_filter(np.random.default_rng(3).random((90, 110)), 1.5) + 0.01).astype(np.float32)
    got = maxima(field, h=0.02, min_distance=2)
    np.testing.assert_array_equal(got, plain_parting(field, plain_h_maxima(field, 0.02), 2))
    assert got.max() > 50


@settings(deadline=None, max_examples=120)
@given(floods(), st.sampled_from(["peaks", "basins"]))
def test_watershed_equals_its_definition(layers, flood):
    field, seeds, mask = layers
    got = watershed(field, seeds, mask, flood=flood)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, plain_watershed(-field if flood == "peaks" else field, seeds, mask))


@same_watershed
@settings(deadline=None, max_examples=60)
@given(floods())
def test_watershed_equals_scikit_image_where_no_two_seeds_are_equally_high(layers):
    field, seeds, mask = layers
    rng = np.random.default_rng(0)
    field = field.copy()
    field[seeds > 0] += rng.permutation((seeds > 0).sum()).astype(np.float32) * np.float32(1e-3)
    mine = watershed(frozen(field), seeds, mask)
    inside = field[(seeds > 0) & mask]
    if len(np.unique(inside)) == len(inside):
        np.testing.assert_array_equal(mine, skimage_watershed(-field, seeds, mask=mask))


def test_watershed_does_not_hang_on_how_values_are_cut_into_levels():
    mask = discs(150, 60)
    field = distance(mask) + np.float32(0.3) * np.random.default_rng(4).random(mask.shape, np.float32)
    seeds = maxima(field)
    for skewed in (np.exp(4 * field), field**9, np.round(field, 1), np.where(field > 3, 1e30, field)):
        skewed = skewed.astype(np.float32)
        np.testing.assert_array_equal(watershed(skewed, seeds, mask), plain_watershed(-skewed, seeds, mask))


@same_watershed
def test_watershed_of_touching_objects_equals_scikit_image():
    mask = discs(500, 250)
    field = cv2.GaussianBlur(distance(mask), (0, 0), 1) + np.random.default_rng(5).random(mask.shape, np.float32) * 0.1
    seeds = maxima(field)
    np.testing.assert_array_equal(watershed(field, seeds, mask), skimage_watershed(-field, seeds, mask=mask))
    np.testing.assert_array_equal(
        watershed(field[..., None], seeds, mask, flood="basins"), skimage_watershed(field, seeds, mask=mask)
    )


@same_watershed
def test_watershed_with_more_seeds_than_16_bits_hold():
    side = 560
    seeds = np.zeros((side, side), np.int32)
    seeds[::2, ::2] = np.arange(1, (side // 2) ** 2 + 1).reshape(side // 2, side // 2)
    field = np.random.default_rng(6).random((side, side), np.float32)
    assert seeds.max() > 70_000
    mask = np.ones((side, side), bool)
    np.testing.assert_array_equal(watershed(field, seeds, mask), skimage_watershed(-field, seeds, mask=mask))


def test_watershed_takes_infinite_and_tiny_values():
    field = np.array([[0, np.inf, 1e-45, 2e-45, -np.inf, 3, -0.0, 0.0]], np.float32)
    seeds = np.array([[1, 0, 0, 0, 0, 0, 0, 2]], np.int32)
    mask = np.ones(field.shape, bool)
    np.testing.assert_array_equal(watershed(field, seeds, mask), plain_watershed(-field, seeds, mask))


@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (997, 1), (31, 37)])
@pytest.mark.parametrize("full", [True, False])
def test_empty_and_full_masks(shape, full):
    mask = np.full(shape, full)
    field = distance(mask)
    seeds = maxima(field)
    labels = watershed(field, seeds, mask)
    assert labels.shape == shape
    if full:
        assert seeds.max() == 1
    assert (labels == int(full)).all()
    assert (watershed(field, np.zeros(shape, np.int32), mask) == 0).all()


def test_seeds_outside_the_mask_are_ignored():
    mask = np.zeros((5, 9), bool)
    mask[1:4, 1:4] = True
    seeds = np.zeros((5, 9), np.int32)
    seeds[0, 0], seeds[2, 2], seeds[2, 7] = 5, 6, 7
    np.testing.assert_array_equal(watershed(distance(mask), seeds, mask), np.where(mask, 6, 0))


def test_refusals_name_the_fix():
    mask, seeds = np.ones((4, 5), bool), np.zeros((4, 5), np.int32)
    with pytest.raises(KindError, match=r"one channel, got 3 channels; put `grayscale` or `channel` before it"):
        watershed(np.zeros((4, 5, 3), np.float32), seeds, mask)
    with pytest.raises(StageError, match=r"one size, got \(4, 4\), \(4, 5\) and \(4, 5\)"):
        watershed(np.zeros((4, 4), np.float32), seeds, mask)
    with pytest.raises(StageError, match="at most 1,400,000,000 pixels"):
        watershed(*(np.broadcast_to(np.zeros((), t), (50_000, 50_000)) for t in (np.float32, np.int32, bool)))


@settings(deadline=None, max_examples=60)
@given(floods())
def test_each_object_can_be_done_alone(layers):
    """What `OBJECT` promises: a window that holds an object and the pixels around it gives that object's result."""
    noise, seeds, mask = layers
    field = np.where(mask, noise, 0)
    whole = distance(mask), maxima(field, h=0.3) > 0, watershed(field, seeds, mask)
    pieces, _ = ndi.label(mask, EIGHT)
    for n, (rows, columns) in enumerate(ndi.find_objects(pieces), 1):
        cut = slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1)
        own = pieces[cut] == n
        alone = distance(mask[cut]), maxima(field[cut], h=0.3) > 0, watershed(field[cut], seeds[cut], mask[cut])
        for got, wanted in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(got[own], wanted[cut][own])


def test_signatures():
    assert spec_of(distance).reach({}) is OBJECT
    assert spec_of(watershed).reach({}) is OBJECT
    assert spec_of(maxima).out == "seeds"
    assert spec_of(maxima).reach({"min_distance": 7, "h": 0.0}) == 14
    assert spec_of(maxima).reach({"min_distance": 7, "h": 0.5}) is OBJECT
