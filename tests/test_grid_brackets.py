"""The brackets `pad`, `tile` and `resize` on every kind but labels at seams and objects at seams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import KINDS, Boxes, Instances, KindError, StageError, registry
from cellkit.grid.brackets import pad, resize, tile
from strategies import SIDES, images

PADS = ["none", "zero", "reflect", "symmetric", "edge"]
K = KINDS


def layers_of(shape, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((*shape, 3), np.float32),
        "prob": rng.random((*shape, 2), np.float32),
        "field": rng.normal(size=shape).astype(np.float32),
        "mask": rng.random(shape) < 0.5,
        "classes": rng.integers(0, 5, shape).astype(np.uint8),
    }


def through(frame, kind, value):
    return frame.leave(K[kind], [part.enter(K[kind], value) for part in frame.parts])


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(1, 20), st.integers(0, 25), st.sampled_from(PADS))
def test_what_enters_tiles_leaves_them_unchanged(h, w, size, halo, fill):
    frame = tile((h, w), size=size, halo=halo, pad=fill)
    own = 0
    for part in frame.parts:
        rows, columns = part.core
        own += (rows.stop - rows.start) * (columns.stop - columns.start)
        if fill != "none":
            assert part.shape == (size + 2 * halo, size + 2 * halo)
    assert own == h * w
    for kind, value in layers_of((h, w)).items():
        value.setflags(write=False)
        for part in frame.parts:
            inner = part.enter(K[kind], value)
            assert inner.flags.c_contiguous
            assert inner.shape[:2] == part.shape
        got = through(frame, kind, value)
        assert got.dtype == value.dtype
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, value)


@settings(deadline=None, max_examples=40)
@given(images(), st.integers(1, 12), st.integers(1, 15), st.sampled_from(PADS))
def test_blending_what_tiles_agree_on_changes_nothing(image, size, halo, fill):
    frame = tile(image.shape[:2], size=size, halo=halo, pad=fill, blend="weighted")
    # Tiles of 1 px with a halo of 15 add up to hundreds of float32 terms for each pixel.
    np.testing.assert_allclose(through(frame, "image", image), image, atol=5e-6)
    field = np.ascontiguousarray(image[..., 0])
    np.testing.assert_allclose(through(frame, "field", field), field, atol=5e-6)
    assert through(frame, "prob", np.ones_like(image)).max() <= 1
    mask = field > 0.5
    np.testing.assert_array_equal(through(frame, "mask", mask), mask)


@pytest.mark.parametrize("fill", ["none", "reflect"])
def test_blending_fades_from_one_tile_to_the_next(fill):
    frame = tile((4, 24), size=(4, 12), halo=2, pad=fill, blend="weighted")
    values = [np.full(part.shape, float(i), np.float32) for i, part in enumerate(frame.parts)]
    row = frame.leave(K["field"], values)[1]
    assert (row[:10] == 0).all()
    np.testing.assert_allclose(row[14:], 1)
    np.testing.assert_allclose(row[10:14], np.sin(np.pi / 8 * (np.arange(4) + 0.5)) ** 2, atol=1e-6)


def test_halo_is_real_pixels_and_fill_lies_only_beyond_the_edge():
    image = np.arange(8 * 8, dtype=np.float32).reshape(8, 8, 1)
    frame = tile((8, 8), size=4, halo=2, pad="reflect")
    np.testing.assert_array_equal(
        frame.parts[3].enter(K["image"], image), np.pad(image, ((0, 2), (0, 2), (0, 0)), "reflect")[2:, 2:]
    )
    clipped = tile((8, 8), size=4, halo=2).parts[3]
    np.testing.assert_array_equal(clipped.enter(K["image"], image), image[2:, 2:])
    assert clipped.core == (slice(2, 6), slice(2, 6))


def test_a_filter_tile_by_tile_equals_the_whole_where_the_halo_is_its_reach():
    from scipy import ndimage

    field = np.random.default_rng(0).random((53, 47)).astype(np.float32)

    def blur(a):
        return ndimage.uniform_filter(a, 7, mode="reflect")

    frame = tile(field.shape, size=16, halo=3)
    got = frame.leave(K["field"], (blur(part.enter(K["field"], field)) for part in frame.parts))
    np.testing.assert_allclose(got, blur(field), atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(SIDES, SIDES, st.sampled_from(PADS[1:]), st.sampled_from(["center", "corner"]), st.integers(0, 40))
def test_what_enters_a_pad_leaves_it_unchanged(h, w, mode, align, more):
    frame = pad((h, w), size=(h + more, w + 2 * more), multiple=4, mode=mode, align=align)
    (part,) = frame.parts
    assert part.shape == (-(-(h + more) // 4) * 4, -(-(w + 2 * more) // 4) * 4)
    for kind, value in layers_of((h, w)).items():
        inner = part.enter(K[kind], value)
        assert inner.shape[:2] == part.shape
        np.testing.assert_array_equal(inner[part.core], value)
        np.testing.assert_array_equal(through(frame, kind, value), value)


def test_pad_to_a_size_a_square_or_a_multiple():
    assert pad((30, 50), size=64).parts[0].shape == (64, 64)
    assert pad((30, 50), square=True).parts[0].shape == (50, 50)
    assert pad((30, 50), multiple=32).parts[0].shape == (32, 64)
    assert pad((30, 50), square=True, multiple=16).parts[0].shape == (64, 64)
    assert pad((64, 32), multiple=32).parts[0].shape == (64, 32)
    assert pad((30, 51), size=64).parts[0].core == (slice(17, 47), slice(6, 57))
    assert pad((30, 51), size=64, align="corner").parts[0].core == (slice(0, 30), slice(0, 51))


def test_labels_leave_a_pad_with_their_numbers_and_without_what_lay_in_the_padding():
    frame = pad((4, 4), size=8)
    inner = np.zeros((8, 8), np.int32)
    inner[0, 0], inner[1:4, 4], inner[5, 5] = 3, 7, 9
    got = frame.leave(K["labels"], [inner])
    assert sorted(np.unique(got)) == [0, 7, 9]
    np.testing.assert_array_equal(got, inner[2:6, 2:6])


def test_the_second_nuclei_way_reflects_every_tile():
    image = np.random.default_rng(0).random((150, 130, 1), np.float32)
    outer = tile(image.shape[:2], size=128)
    results = []
    for part in outer.parts:
        inner = pad(part.shape, size=256, mode="reflect")
        value = part.enter(K["image"], image)
        padded = inner.parts[0].enter(K["image"], value)
        assert padded.shape == (256, 256, 1)
        results.append(inner.leave(K["image"], [padded]))
    np.testing.assert_array_equal(outer.leave(K["image"], results), image)


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40))
def test_resize_brings_every_kind_back_to_the_exact_size(h, w, inner_h, inner_w):
    frame = resize((h, w), size=(inner_h, inner_w))
    assert frame.scale == (inner_h / h, inner_w / w)
    assert frame.parts[0].core == (slice(0, inner_h), slice(0, inner_w))
    for kind, value in layers_of((h, w)).items():
        value.setflags(write=False)
        inner = frame.parts[0].enter(K[kind], value)
        assert inner.shape[:2] == (inner_h, inner_w)
        back = frame.leave(K[kind], [inner])
        assert back.shape == value.shape
        assert back.dtype == value.dtype
        assert back.flags.c_contiguous
        assert set(np.unique(back)) <= set(np.unique(value)) or kind in ("image", "prob", "field")
        assert value.min() - 1e-6 <= back.min()
        assert back.max() <= value.max() + 1e-6


def test_resize_averages_down_interpolates_up_and_takes_the_nearest_label():
    from skimage.transform import resize as reference

    rng = np.random.default_rng(0)
    image = rng.random((12, 20, 7), np.float32)
    half = resize((12, 20), factor=0.5).parts[0].enter(K["image"], image)
    np.testing.assert_allclose(half, image.reshape(6, 2, 10, 2, 7).mean((1, 3)), atol=1e-6)
    grown = resize((12, 20), size=(31, 47)).parts[0].enter(K["image"], image)
    wanted = reference(image, (31, 47), order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(grown, wanted, atol=1e-5)
    labels = rng.integers(0, 70_000, (12, 20)).astype(np.int32)
    frame = resize((12, 20), factor=3.0)
    inner = frame.parts[0].enter(K["labels"], labels)
    np.testing.assert_array_equal(inner, labels.repeat(3, 0).repeat(3, 1))
    np.testing.assert_array_equal(frame.leave(K["labels"], [inner]), labels)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(1, 40))
def test_the_longer_side_becomes_what_is_asked_for_and_the_other_keeps_its_proportion(h, w, longest):
    inner = resize((h, w), longest=longest).inner
    assert max(inner) == longest
    assert abs(min(inner) - max(1, min(h, w) * longest / max(h, w))) <= 0.5
    assert (inner[0] >= inner[1]) == (h >= w) or inner[0] == inner[1]


def test_resize_with_more_channels_than_opencv_takes():
    image = np.random.default_rng(0).random((16, 16, 600), np.float32)
    frame = resize((16, 16), size=8)
    np.testing.assert_allclose(
        frame.parts[0].enter(K["image"], image), image.reshape(8, 2, 8, 2, 600).mean((1, 3)), atol=1e-6
    )


def test_boxes_and_masks_of_instances_are_scaled():
    boxes = Boxes(np.array([[2, 4, 6, 10]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    mask = np.zeros((6, 4), bool)
    mask[:3] = True
    frame = resize((20, 20), factor=2.0)
    inner = frame.parts[0].enter(K["instances"], Instances(boxes, (mask,)))
    np.testing.assert_array_equal(inner.boxes.xyxy, [[4, 8, 12, 20]])
    np.testing.assert_array_equal(inner.masks[0], mask.repeat(2, 0).repeat(2, 1))
    back = frame.leave(K["instances"], [inner])
    np.testing.assert_array_equal(back.boxes.xyxy, boxes.xyxy)
    np.testing.assert_array_equal(back.masks[0], mask)
    np.testing.assert_array_equal(frame.leave(K["boxes"], [inner.boxes]).xyxy, boxes.xyxy)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tile((9, 9), blend="weighted"), "set a halo or blend: crop"),
        (lambda: pad((9, 9)), "give size, multiple or square"),
        (lambda: pad((9, 20), size=16), "9 x 20, is larger than size 16 x 16"),
        (lambda: resize((9, 9)), "got none of them; give one"),
        (lambda: resize((9, 9), size=4, factor=2.0), "got size and factor; give one"),
        (lambda: resize((9, 9), longest=4, factor=2.0), "got factor and longest; give one"),
        (lambda: resize((9, 9), factor=2.0, diameter=5.0), "a diameter of 5 px needs `standard`"),
        (lambda: resize((9, 90_000), standard=20.0, diameter=5.0), "would become 36 x 360,000; too large"),
        (lambda: tile((0, 9)), "at least 1 x 1 px, got 0 x 9"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(call, words):
    with pytest.raises(StageError, match=words):
        call()


@pytest.mark.parametrize("frame", [tile((9, 9), size=4), pad((9, 9), size=12), resize((9, 9), factor=2.0)])
def test_tables_and_histograms_cross_no_bracket(frame):
    for kind in ("table", "histogram"):
        with pytest.raises(StageError, match="neither enter nor leave"):
            frame.parts[0].enter(K[kind], None)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(StageError, match="behind the bracket"):
        frame.leave(K["table"], [pandas.DataFrame() for _ in frame.parts])


def test_values_that_do_not_fit_their_parts_are_refused():
    frame = tile((9, 9), size=5)
    good = [np.zeros(part.shape, bool) for part in frame.parts]
    with pytest.raises(StageError, match="each of 4 parts, got 3"):
        frame.leave(K["mask"], good[:3])
    with pytest.raises(StageError, match="each of 4 parts, got 5"):
        frame.leave(K["mask"], [*good, good[0]])
    with pytest.raises(KindError, match="part 4 of 4: wanted shape"):
        frame.leave(K["mask"], [*good[:3], good[0]])
    with pytest.raises(KindError, match="part 1 of 4"):
        frame.leave(K["labels"], good)


def test_the_registry_knows_the_brackets_and_their_ranges():
    known = registry.stages()
    assert all(known[name].bracket for name in ("tile", "pad", "resize"))
    size = known["tile"].parameters["size"]
    assert size.coerce([128, 64]) == (128, 64)
    assert size.coerce(128) == 128
    with pytest.raises(ValueError, match="outside"):
        size.coerce(0)
    with pytest.raises(ValueError, match="reflect"):
        known["tile"].parameters["pad"].coerce("reflct")
