"""Targets of training: distances, borders, weights, against scipy and the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from cellkit.core import KindError, StageError, UsageError
from cellkit.core.stage import read_parameters
from cellkit.train.targets import DENSE_HEADS, TargetRules, balance_weights, class_counts, target_maps

# Blocks of objects in wild numbers, touching and not, cut by the edges.
NUMBERS = np.array([0, 0, 7, 2, 1, 2**31 - 1], np.int32)
BLOCKS = hnp.arrays(
    np.int8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6), elements=st.integers(0, 5)
)


def labels_of(blocks: np.ndarray, cut: int) -> np.ndarray:
    grown = np.kron(NUMBERS[blocks], np.ones((3, 3), np.int32))
    return np.ascontiguousarray(grown[cut:, cut // 2 :])


def depths(labels: np.ndarray) -> np.ndarray:
    """Distance of each pixel of an object to the nearest that is not of it, by scipy, one object at a time."""
    out = np.zeros(labels.shape)
    for number in np.unique(labels[labels > 0]):
        inside = labels == number
        out[inside] = ndimage.distance_transform_edt(inside)[inside] if not inside.all() else sum(labels.shape)
    return out


def to_others(labels: np.ndarray) -> np.ndarray:
    """Distances (objects, y, x) to each object."""
    return np.array([ndimage.distance_transform_edt(labels != n) for n in np.unique(labels[labels > 0])])


def largest(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = np.zeros(labels.shape)
    for number in np.unique(labels[labels > 0]):
        out[labels == number] = values[labels == number].max()
    return out


@settings(max_examples=60)
@given(BLOCKS, st.integers(0, 2), st.sampled_from([1.0, 2.0, 3.5]), st.booleans())
def test_interior_border_and_distance(blocks, cut, border, contacts):
    labels = labels_of(blocks, cut)
    rules = TargetRules(border=border, borders="contacts" if contacts else "outline")
    target = target_maps(labels, "distance", rules)
    maps = target["maps"]
    assert maps.dtype == np.float32
    assert maps.shape == (3, *labels.shape)
    deep = depths(labels)
    most = largest(labels, deep)
    if contacts:
        near = np.zeros(labels.shape, bool)
        for number in np.unique(labels[labels > 0]):
            others = (labels > 0) & (labels != number)
            if others.any():
                near |= (labels == number) & (ndimage.distance_transform_edt(~others) <= border)
    else:
        near = deep <= border
    ring = (labels > 0) & near & (deep <= most / 2)
    np.testing.assert_array_equal(maps[1], ring)
    np.testing.assert_array_equal(maps[0], (labels > 0) & ~ring)
    np.testing.assert_allclose(maps[2], deep / np.maximum(most, 1), rtol=1e-6)
    assert (target["weight"] == 1).all()
    classes = target_maps(labels, "border", rules)["classes"]
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, (labels > 0) + ring.astype(int))


@settings(max_examples=40)
@given(BLOCKS, st.integers(0, 2), st.sampled_from([(10.0, 5.0), (3.0, 1.5)]))
def test_weight_map_of_the_u_net(blocks, cut, setting):
    labels = labels_of(blocks, cut)
    w0, sigma = setting
    weight = target_maps(labels, "sigmoid", TargetRules(separation=w0, sigma=sigma))["weight"]
    wanted = np.ones(labels.shape)
    far = to_others(labels)
    if len(far) > 1:
        d1, d2 = np.sort(far, 0)[:2]
        wanted += np.where(labels == 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)
    np.testing.assert_allclose(weight, wanted, atol=1.1e-3)


def test_a_worked_case():
    labels = np.array([[0, 0, 0, 0, 0, 0, 0],
                       [0, 5, 5, 5, 5, 5, 0],
                       [0, 5, 5, 5, 5, 5, 9],
                       [0, 5, 5, 5, 5, 5, 9],
                       [0, 0, 0, 0, 0, 0, 9]], np.int32)  # fmt: skip
    maps = target_maps(labels, "distance", TargetRules(border=1))["maps"]
    # Depths of 5: an outer ring of 1 (one half), the middle row 2 but at its ends. 9 goes on beyond the edge.
    np.testing.assert_array_equal(maps[2, 1:4, 1:6], [[0.5] * 5, [0.5, 1, 1, 1, 0.5], [0.5] * 5])
    np.testing.assert_array_equal(maps[2, 2:, 6], [1, 1, 1])
    np.testing.assert_array_equal(maps[0, 2], [0, 0, 1, 1, 1, 0, 1])
    contacts = target_maps(labels, "border", TargetRules(border=1, borders="contacts"))["classes"]
    np.testing.assert_array_equal(contacts[:, 5], [0, 1, 2, 2, 0])
    assert (contacts[:, :5] < 2).all()
    # The gap takes the pixels of 5 beside 9; those of 9 are its middle.
    apart = target_maps(labels, "sigmoid", TargetRules(gap=1))["maps"][0]
    np.testing.assert_array_equal(apart[:, 5], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(apart[2:, 6], [1, 1, 1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (6, 6)])
def test_an_object_that_fills_the_crop_and_none_at_all(shape):
    for number, inside in ((3, 1), (0, 0)):
        labels = np.full(shape, number, np.int32)
        rules = TargetRules(gap=2, separation=10, balance="inverse")
        for scaling in ("maximum", "saturate"):
            target = target_maps(labels, "distance", TargetRules(scaling=scaling, saturation=1))
            np.testing.assert_array_equal(target["maps"][:, 0, 0], [inside, 0, inside])
            assert np.ptp(target["maps"], axis=(1, 2)).max() == 0
        for head in DENSE_HEADS:
            target = target_maps(labels, head, rules)
            assert (target["weight"] == 1).all()
            assert all(np.isfinite(values).all() for values in target.values())


def test_a_single_pixel_keeps_its_interior():
    labels = np.zeros((5, 5), np.int32)
    labels[2, 2] = 4
    maps = target_maps(labels, "distance", TargetRules(border=3))["maps"]
    assert maps[:, 2, 2].tolist() == [1, 0, 1]
    assert maps.sum() == 2


def test_the_edge_of_a_crop_is_no_outline():
    y, x = np.mgrid[:40, :40]
    disc = np.where((y - 20) ** 2 + (x - 20) ** 2 < 15**2, 1, 0).astype(np.int32)
    whole = target_maps(disc, "distance")["maps"]
    cut = target_maps(np.ascontiguousarray(disc[:, 20:]), "distance")["maps"]
    # Half a disc has the same outline and the same depth.
    np.testing.assert_allclose(cut[:, :, :14], whole[:, :, 20:34], atol=0.02)
    np.testing.assert_array_equal(cut[:2], whole[:2, :, 20:])


def test_saturated_distance_is_that_of_the_whole_object():
    y, x = np.mgrid[:60, :60]
    disc = np.where((y - 30) ** 2 + (x - 30) ** 2 < 25**2, 1, 0).astype(np.int32)
    rules = TargetRules(scaling="saturate", saturation=6)
    whole = target_maps(disc, "distance", rules)["maps"][2]
    np.testing.assert_allclose(whole, np.minimum(depths(disc) / 6, 1), rtol=1e-6)
    cut = target_maps(np.ascontiguousarray(disc[:, 45:]), "distance", rules)["maps"][2]
    np.testing.assert_allclose(cut, whole[:, 45:], atol=0.05)


@settings(max_examples=30)
@given(BLOCKS, st.integers(0, 2))
def test_the_numbers_and_the_turn_of_the_picture_do_not_matter(blocks, cut):
    labels = labels_of(blocks, cut)
    _, small = np.unique(labels, return_inverse=True)
    first = 0 if (labels == 0).any() else 1
    small = (small.reshape(labels.shape) + first).astype(np.int32)
    turned = np.ascontiguousarray(labels.T[::-1])
    rules = TargetRules(gap=1, borders="contacts", separation=5, balance="root")
    for head in ("distance", "border"):
        target = target_maps(labels, head, rules)
        again = target_maps(small, head, rules)
        other = target_maps(turned, head, rules)
        for name, values in target.items():
            np.testing.assert_array_equal(values, again[name])
            back = np.swapaxes(other[name][..., ::-1, :], -1, -2)
            np.testing.assert_allclose(values, back, rtol=1e-5)


def test_unknown_pixels_weigh_nothing_and_are_no_outline():
    labels = np.zeros((9, 12), np.int32)
    labels[2:7, 3:] = 8
    open_ended = target_maps(labels, "distance", TargetRules(separation=10, balance="inverse"))
    hidden = labels.copy()
    hidden[:, 8:] = -1
    target = target_maps(hidden, "distance", TargetRules(separation=10))
    assert (target["weight"][:, 8:] == 0).all()
    assert (target["weight"][:, :8] == 1).all()
    np.testing.assert_array_equal(target["maps"][:, :, :8], open_ended["maps"][:, :, :8])
    nothing = target_maps(np.full((4, 4), -1, np.int32), "border")
    assert not nothing["weight"].any()
    assert not nothing["classes"].any()


def test_classes():
    labels = np.zeros((4, 6), np.int32)
    labels[:, :2], labels[:, 4:] = 30, 2
    maps = target_maps(labels, "sigmoid", classes={30: 3, 2: 1, 77: 9}, count=3)["maps"]
    assert maps.shape == (3, 4, 6)
    np.testing.assert_array_equal(maps[2], labels == 30)
    np.testing.assert_array_equal(maps[0], labels == 2)
    assert not maps[1].any()
    target = target_maps(labels, "softmax", classes={30: 3, 2: 1}, count=3)
    np.testing.assert_array_equal(target["classes"], np.select([labels == 30, labels == 2], [3, 1]))
    assert class_counts(target, "softmax", 3).tolist() == [8, 8, 0, 8]
    for classes in ({30: 3}, {30: 4, 2: 1}, {30: 0, 2: 1}):
        with pytest.raises(StageError, match="wanted a class from 1 to 3"):
            target_maps(labels, "softmax", classes=classes, count=3)


@pytest.mark.parametrize("head", DENSE_HEADS)
def test_balance_evens_out_the_classes(head):
    labels = np.zeros((20, 20), np.int32)
    labels[5:15, 5:12] = 1
    plain = target_maps(labels, head)
    counts = class_counts(plain, head)
    weight = target_maps(labels, head, TargetRules(balance="inverse"))["weight"]
    assert counts.sum() == 400
    assert weight.mean() == pytest.approx(1, rel=1e-5)
    assert weight[labels == 0].sum() == pytest.approx(400 / len(counts), rel=1e-5)


def test_rules_of_balance():
    counts = [600, 300, 100, 0]
    np.testing.assert_allclose(balance_weights(counts, "none"), 1)
    np.testing.assert_allclose(balance_weights(counts, "inverse"), [1000 / 1800, 1000 / 900, 1000 / 300, 1], rtol=1e-6)
    np.testing.assert_allclose(balance_weights(counts, "median"), [0.5, 1, 3, 1], rtol=1e-6)
    root = balance_weights(counts, "root")
    np.testing.assert_allclose(root[:3] / root[0], np.sqrt([1, 2, 6]), rtol=1e-6)
    assert root @ counts == pytest.approx(1000, rel=1e-5)
    assert balance_weights([10**9, 1], "inverse").max() == 10
    assert balance_weights([0, 0], "median").tolist() == [1, 1]
    with pytest.raises(UsageError, match="wanted none"):
        balance_weights(counts, "inverted")


def test_bad_input():
    good = np.zeros((4, 4), np.int32)
    for bad in (good.astype(np.int64), good.astype(float), good[None], np.zeros((0, 4), np.int32), [[1]]):
        with pytest.raises(KindError, match="int32"):
            target_maps(bad, "sigmoid")
    with pytest.raises(UsageError, match="did you mean 'softmax'"):
        target_maps(good, "softmaks")
    with pytest.raises(UsageError, match="1 to 254"):
        target_maps(good, "softmax", count=255)
    with pytest.raises(UsageError, match=r"border: .* outside"):
        TargetRules(border=0.2)
    with pytest.raises(UsageError, match="did you mean 'separation'"):
        TargetRules.of({"seperation": 10})
    assert TargetRules.of({"gap": 1}).gap == 1.0
    assert set(read_parameters(TargetRules)) == set(TargetRules.__dataclass_fields__)


def test_the_labels_stay_as_they_are_and_any_layout_will_do():
    labels = np.zeros((16, 20), np.int32)
    labels[3:9, 4:12] = -1
    labels[6:14, 8:18] = 5
    view = labels[::-1, ::2]
    view.setflags(write=False)
    before = labels.copy()
    for head in DENSE_HEADS:
        got = target_maps(view, head, TargetRules(gap=1, separation=10))
        wanted = target_maps(np.ascontiguousarray(view), head, TargetRules(gap=1, separation=10))
        for name, values in wanted.items():
            np.testing.assert_array_equal(got[name], values)
    np.testing.assert_array_equal(labels, before)
