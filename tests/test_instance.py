"""components, relabel, expand, smooth_labels, subtract and relate against slow or foreign implementations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage.measure import label
from skimage.segmentation import expand_labels, relabel_sequential

from cellkit.core.errors import StageError
from cellkit.core.stage import WHOLE, spec_of
from cellkit.stages.instance import components, expand, relabel, relate, smooth_labels, subtract
from strategies import label_images, masks

SMALL = st.sampled_from([1, 2, 3, 7, 13])


def frozen(array):
    array.setflags(write=False)
    return array


def many_objects(step=1):
    """78,400 objects of one pixel each."""
    labels = np.zeros((560, 560), np.int32)
    labels[::2, ::2] = np.arange(1, 280 * 280 + 1).reshape(280, 280) * step
    return frozen(labels)


@settings(deadline=None, max_examples=80)
@given(masks(), st.sampled_from([4, 8]))
def test_components_equal_scikit_image(mask, connectivity):
    got = components(frozen(mask), connectivity=connectivity)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, label(mask, connectivity=connectivity // 4))


@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (997, 1), (211, 307)])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.6, 1.0])
def test_components_of_noise(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    for connectivity in (4, 8):
        np.testing.assert_array_equal(
            components(mask, connectivity=connectivity), label(mask, connectivity=connectivity // 4)
        )


def test_components_beyond_16_bits():
    mask = many_objects() > 0
    assert components(mask).max() == 78_400


@settings(deadline=None, max_examples=60)
@given(label_images(), st.sampled_from([1, 1000, 50_000_000]))
def test_relabel_equals_scikit_image(labels, step):
    labels = frozen(labels * np.int32(step))
    got = relabel(labels)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, relabel_sequential(labels.copy())[0])
    np.testing.assert_array_equal(relabel(got), got)


@pytest.mark.parametrize("step", [1, 3, 20_000])
def test_relabel_beyond_16_bits(step):
    np.testing.assert_array_equal(relabel(many_objects(step)), many_objects())


def test_relabel_without_background_and_with_the_largest_label():
    labels = np.array([[2**31 - 1, 5], [5, 7]], np.int32)
    np.testing.assert_array_equal(relabel(labels), [[3, 1], [1, 2]])
    with pytest.raises(StageError, match="relabel: wanted labels of 0 and above, got -1; set negative ones to 0 first"):
        relabel(np.array([[-1, 1]], np.int32))


def plain_expand(labels, distance):
    out = labels.copy()
    points = np.argwhere(labels)
    for y, x in np.argwhere(labels == 0):
        found = [((v - y) ** 2 + (u - x) ** 2, v, u) for v, u in points]
        if found and np.sqrt(min(found)[0]) <= distance:
            out[y, x] = labels[min(found)[1:]]
    return out


@settings(deadline=None, max_examples=80)
@given(label_images(sides=SMALL, most=4), st.sampled_from([0.0, 0.5, 1.0, 1.5, 2**0.5, 3**0.5, 5**0.5, 4.0, 1000.0]))
def test_expand_equals_its_definition(labels, distance):
    got = expand(frozen(labels), distance=distance)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, plain_expand(labels, distance))


@pytest.mark.parametrize("shape", [(1, 997), (997, 1), (211, 307)])
@pytest.mark.parametrize("distance", [1.0, 7.3, 60.0])
def test_expand_equals_scikit_image_where_nothing_is_equally_near(shape, distance):
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(shape) < 0.003, rng.integers(1, 99, shape), 0).astype(np.int32)
    got, wanted = expand(frozen(labels), distance=distance), expand_labels(labels, distance)
    np.testing.assert_array_equal(got > 0, wanted > 0)
    for y, x in np.argwhere(got != wanted):
        near = [((np.argwhere(labels == k) - (y, x)) ** 2).sum(1).min() for k in (got[y, x], wanted[y, x])]
        assert near[0] == near[1]
    assert (got != wanted).mean() < 0.1


def test_expand_does_not_hang_on_the_numbering():
    labels = np.zeros((9, 9), np.int32)
    labels[4, 1], labels[4, 7], labels[1, 4] = 3, 1, 2
    other = np.array([0, 8, 4, 6], np.int32)
    np.testing.assert_array_equal(expand(other[labels], distance=9), other[expand(labels, distance=9)])


def plain_smooth(labels, radius):
    out = labels.copy()
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = np.argwhere(dy**2 + dx**2 <= radius**2) - radius
    for y, x in np.ndindex(labels.shape):
        v, u = np.add(disc, (y, x)).T
        inside = (v >= 0) & (v < labels.shape[0]) & (u >= 0) & (u < labels.shape[1])
        numbers, counts = np.unique(labels[v[inside], u[inside]], return_counts=True)
        if 2 * counts.max() > inside.sum():
            out[y, x] = numbers[counts.argmax()]
    return out


@settings(deadline=None, max_examples=40)
@given(label_images(sides=st.sampled_from([1, 3, 7, 13, 16])), st.sampled_from([1, 2, 4]))
def test_smooth_labels_equals_its_definition(labels, radius):
    got = smooth_labels(frozen(labels), radius=radius)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, plain_smooth(labels, radius))


def test_smooth_labels_removes_spurs_and_keeps_gaps():
    labels = np.zeros((24, 44), np.int32)
    labels[4:20, 2:20] = 1
    labels[4:20, 21:40] = 2
    spiked = labels.copy()
    spiked[0:4, 10] = 1
    spiked[10:12, 39] = 0
    got = smooth_labels(spiked, radius=3)
    assert (got[:3] == 0).all()
    assert (got[10:12, 39] == 2).all()
    assert (got[:, 20] == 0).all()
    assert set(np.unique(got)) == {0, 1, 2}


@settings(deadline=None, max_examples=30)
@given(label_images())
def test_subtract(labels):
    nuclei = frozen(ndi.grey_erosion(labels, 3) if min(labels.shape) > 2 else np.zeros_like(labels))
    got = subtract(frozen(labels), nuclei)
    assert got.dtype == np.int32
    assert not (got[nuclei > 0]).any()
    np.testing.assert_array_equal(got[nuclei == 0], labels[nuclei == 0])


@st.composite
def families(draw):
    """Child and parent labels of one size."""
    child = draw(label_images())
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    parent = np.zeros_like(child)
    for _ in range(draw(st.integers(0, 9))):
        y, x = (rng.integers(0, n) for n in child.shape)
        parent[y : y + 12, x : x + 12] = rng.integers(1, 20)
    return frozen(child), frozen(parent)


@settings(deadline=None, max_examples=60)
@given(families(), st.sampled_from([0.0, 0.5, 1.0]))
def test_relate_equals_counting_object_by_object(family, least):
    child, parent = family
    numbers = [*np.unique(child[child > 0]), 10_000]
    table = pd.DataFrame({"label": numbers, "area": 1.0})
    got = relate(table, child, parent, min_overlap=least)
    assert list(table.columns) == ["label", "area"]
    assert list(got.columns) == ["label", "area", "parent", "overlap"]
    for row in got.itertuples():
        within = parent[child == row.label]
        counts = np.bincount(within[within > 0], minlength=1)
        share = counts.max() / len(within) if len(within) else 0.0
        assert row.overlap == pytest.approx(share)
        assert row.parent == (counts.argmax() if share >= least else 0)


def test_relate_of_many_objects():
    child = many_objects()
    parent = (np.arange(560)[:, None] // 8 * 70 + np.arange(560) // 8 + 1).astype(np.int32)
    table = pd.DataFrame({"label": np.arange(78_400, 0, -1)})
    got = relate(table, child, parent).set_index("label")
    assert (got["parent"].sort_index() == parent[::2, ::2].ravel()).all()
    assert (got["overlap"] == 1).all()


def test_relate_on_an_empty_table_and_no_objects():
    nothing = np.zeros((3, 4), np.int32)
    got = relate(pd.DataFrame({"label": np.zeros(0, np.int32)}), nothing, nothing)
    assert list(got.columns) == ["label", "parent", "overlap"]
    assert len(got) == 0


def test_refusals_name_the_fix():
    labels, small = np.zeros((4, 5), np.int32), np.zeros((4, 4), np.int32)
    with pytest.raises(StageError, match=r"relate: wanted a table with a column 'label', got area; put `measure`"):
        relate(pd.DataFrame({"area": [1]}), labels, labels)
    with pytest.raises(StageError, match=r"relate: wanted two label layers of one size, got \(4, 5\) and \(4, 4\)"):
        relate(pd.DataFrame({"label": [1]}), labels, small)
    with pytest.raises(StageError, match=r"subtract: wanted two label layers of one size"):
        subtract(labels, small)


def test_reach():
    assert spec_of(components).reach({}) is WHOLE
    assert spec_of(expand).reach({"distance": 2.5}) == 3
    assert spec_of(smooth_labels).reach({"radius": 4}) == 4
    assert spec_of(subtract).reach({}) == 0


@settings(deadline=None, max_examples=30)
@given(label_images(sides=st.sampled_from([1, 16, 31, 37])), st.data())
def test_reach_is_enough(labels, data):
    """A crop with its reach gives the same core as the whole image."""
    for stage, parameters in ((expand, {"distance": 2.5}), (smooth_labels, {"radius": 3})):
        halo = spec_of(stage).reach(parameters)
        y, x = (data.draw(st.integers(0, n - 1)) for n in labels.shape)
        y0, x0 = max(y - halo, 0), max(x - halo, 0)
        part = stage(labels[y0 : y + 8 + halo, x0 : x + 8 + halo], **parameters)
        core = part[y - y0 : y - y0 + 8, x - x0 : x - x0 + 8]
        np.testing.assert_array_equal(core, stage(labels, **parameters)[y : y + 8, x : x + 8])
