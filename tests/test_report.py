"""Pictures: the stretch for the screen, contours, and colours that keep neighbours apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import Boxes, Instances, KindError
from cellkit.report import display, overlay
from cellkit.report.palette import BRIGHT, STRONG, assigned, colored, edges
from strategies import images, label_images, masks

QUICK = settings(deadline=None, max_examples=50)


def outline(labels: np.ndarray) -> np.ndarray:
    """The inner outline, pixel by pixel."""
    edge = np.zeros(labels.shape, bool)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + dy, x + dx
                if 0 <= v < height and 0 <= u < width and labels[y, x] and labels[v, u] != labels[y, x]:
                    edge[y, x] = True
    return edge


@QUICK
@given(label_images())
def test_contours_are_inner_pixels_beside_another_id(labels):
    edge = outline(labels)
    assert np.array_equal(edges(labels), edge)
    image = np.zeros((*labels.shape, 1), np.float32)
    picture = overlay(image, labels)
    assert (picture.dtype, picture.shape) == (np.uint8, (*labels.shape, 3))
    assert np.array_equal(picture.any(axis=2), edge)
    for i in np.unique(labels[edge]):
        assert len(np.unique(picture[edge & (labels == i)], axis=0)) == 1


@QUICK
@given(label_images(most=40))
def test_touching_objects_have_different_colours(labels):
    edge = edges(labels)
    ids, numbers = assigned(labels, edge, 6)
    assert np.array_equal(ids, np.unique(labels[edge]))
    color = dict(zip(ids.tolist(), numbers.tolist(), strict=True))
    pairs = set()
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        clash = (a != b) & (a > 0) & (b > 0)
        pairs |= {tuple(sorted(pair)) for pair in zip(a[clash].tolist(), b[clash].tolist(), strict=True)}
    degree = {i: sum(i in pair for pair in pairs) for i in color}
    for a, b in pairs:
        if degree[a] < 6 and degree[b] < 6:
            assert color[a] != color[b]


def test_objects_a_few_pixels_apart_have_different_colours_too():
    labels = np.zeros((20, 100), np.int32)
    for i in range(10):
        labels[5:15, 10 * i : 10 * i + 7] = 5 * i + 3
    _, numbers = assigned(labels, edges(labels), 6)
    assert (np.diff(numbers) != 0).all()


def test_seventy_thousand_objects_with_large_ids():
    ids = (np.arange(1, 70001, dtype=np.int32) * 30000).reshape(250, 280)
    labels = np.kron(ids, np.ones((3, 3), np.int32))
    labels[::3] = 0
    picture = overlay(np.zeros((*labels.shape, 1), np.float32), labels)
    assert np.array_equal(picture.any(axis=2), edges(labels))
    touching = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0)
    assert (picture[:, 1:][touching] != picture[:, :-1][touching]).any(axis=1).all()


@QUICK
@given(masks())
def test_a_mask_has_one_colour(mask):
    picture = overlay(np.zeros((*mask.shape, 1), np.float32), mask)
    assert np.array_equal(picture.any(axis=2), outline(mask.astype(np.int32)))
    assert len(np.unique(picture[picture.any(axis=2)], axis=0)) <= 1


def test_a_class_has_the_same_colour_in_every_image():
    first, second = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    first[1:4, 1:4], first[5:8, 5:8], second[2:7, 2:7] = 1, 2, 2
    black = np.zeros((9, 9, 1), np.float32)
    assert np.array_equal(overlay(black, first)[5, 5], overlay(black, second)[2, 2])
    assert not np.array_equal(overlay(black, first)[1, 1], overlay(black, first)[5, 5])


def test_boxes_are_half_open_and_stop_at_the_edge():
    boxes = Boxes(
        np.array([[2, 1, 6, 4], [-3, 5, 3, 20], [50, 50, 60, 60]], np.float32),
        np.ones(3, np.float32),
        np.array([0, 1, 0], np.int32),
    )
    picture = overlay(np.zeros((10, 9, 1), np.float32), boxes)
    wanted = np.zeros((10, 9), int)
    wanted[1:4, 2:6] = 1
    wanted[2:3, 3:5] = 0
    wanted[5, 0:3] = 2
    wanted[5:10, 2] = 2
    assert np.array_equal((picture == BRIGHT[0]).all(axis=2), wanted == 1)
    assert np.array_equal((picture == BRIGHT[1]).all(axis=2), wanted == 2)
    assert np.array_equal(picture.any(axis=2), wanted > 0)


def test_instances_may_overlap_and_reach_beyond_the_image():
    boxes = Boxes(
        np.array([[1.5, 1.2, 5.9, 5.1], [6, 6, 12, 12]], np.float32), np.ones(2, np.float32), np.zeros(2, np.int32)
    )
    picture = overlay(np.zeros((9, 9, 1), np.float32), Instances(boxes, (np.ones((5, 5), bool), np.ones((6, 6), bool))))
    wanted = np.zeros((9, 9), bool)
    wanted[1:6, 1:6] = True
    wanted[2:5, 2:5] = False
    wanted[6:, 6] = wanted[6, 6:] = True
    assert np.array_equal(picture.any(axis=2), wanted)


def test_overlays_can_be_laid_on_each_other_and_write_into_nothing():
    image = np.full((12, 12, 1), 0.1, np.float32)
    outer, inner = np.zeros((12, 12), np.int32), np.zeros((12, 12), np.int32)
    outer[1:11, 1:11], inner[4:8, 4:8] = 1, 1
    for array in (image, outer, inner):
        array.setflags(write=False)
    first = overlay(image, outer)
    both = overlay(first, inner)
    assert np.array_equal(both[1, 1:11], first[1, 1:11])
    assert not np.array_equal(both, first)
    assert np.array_equal(first, overlay(image, outer))


def test_colours_follow_the_brightness():
    labels = np.zeros((9, 9), np.int32)
    labels[2:7, 2:7] = 1
    dark, bright = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 240, np.uint8)
    assert overlay(dark, labels)[2, 2].tolist() in BRIGHT.tolist()
    assert overlay(bright, labels)[2, 2].tolist() in STRONG.tolist()


@QUICK
@given(images(channels=st.integers(1, 5)))
def test_a_picture_of_any_image(image):
    shown = display(image)
    assert (shown.dtype, shown.shape) == (np.uint8, (*image.shape[:2], 3))
    assert np.array_equal(display(shown), shown)
    if image.shape[2] == 1:
        assert (np.ptp(shown, axis=2) == 0).all()
        assert np.array_equal(display(image[..., 0]), shown)
        if image.max() > image.min():
            assert (shown.min(), shown.max()) == (0, 255)
    for dtype, top in ((np.uint16, 4095), (np.float32, 3.5), (np.int32, 70000)):
        assert display((image * top).astype(dtype)).shape == shown.shape


def test_colour_images_keep_their_hue_and_stains_are_stretched_apart():
    rng = np.random.default_rng(0)
    image = rng.random((64, 64, 1)).astype(np.float32) * np.array([1, 0.5, 0.1], np.float32)
    assert [int(c.max()) for c in np.moveaxis(display(image), 2, 0)] == pytest.approx([255, 128, 26], abs=2)
    same = display(image, names=("Red", "G", "blue"))
    assert np.array_equal(same, display(image))
    stains = display(image, names=("dapi", "gfp", "rfp"))
    assert [int(c.max()) for c in np.moveaxis(stains, 2, 0)] == [255, 255, 255]
    two = display(image, channels=("gfp", 0), names=("dapi", "gfp", "rfp"))
    assert np.array_equal(two[..., 0], two[..., 2])
    assert np.array_equal(display(image, channels=[2])[..., 0], stains[..., 2])


def test_constant_images_and_missing_values_are_shown():
    assert (display(np.full((3, 3, 1), 0.5, np.float32)) == 128).all()
    assert (display(np.zeros((1, 1, 1), np.float32)) == 0).all()
    holed = np.array([[0.0, np.nan, 1.0]], np.float32)
    assert display(holed)[0, :, 0].tolist() == [0, 0, 255]
    assert display(np.array([[False, True]]))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: display(np.zeros((2, 2, 2, 2))), "got shape"),
        (lambda: display(np.zeros((2, 2, 2)), channels=["gpf"], names=("dapi", "gfp")), "did you mean 'gfp'"),
        (lambda: display(np.zeros((2, 2, 2)), channels=[2]), "no channel 2: the image has 2"),
        (lambda: display(np.zeros((2, 2, 9)), channels=[0, 1, 2, 3]), "three colours, but 4 channels"),
        (lambda: overlay(np.zeros((2, 2)), np.zeros((3, 3), np.int32)), "the objects are .3, 3."),
        (lambda: overlay(np.zeros((2, 2)), np.zeros((2, 2), np.float32)), "got float32"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, words):
    with pytest.raises(KindError, match=words):
        call()


def test_colours_of_ids_that_are_not_known_are_black():
    values = np.array([[0, 5, 7]])
    assert colored(values, np.array([5], np.uint64), np.array([1]), BRIGHT).tolist() == [
        [[0, 0, 0], BRIGHT[1].tolist(), [0, 0, 0]]
    ]
    assert not colored(values, np.zeros(0, np.uint64), np.zeros(0, int), BRIGHT).any()
