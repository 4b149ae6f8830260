"""Augmentation: one contract for all of the registry, and every resampling against an independent one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellkit.core import Boxes, KindError, UsageError
from cellkit.io.datasets.truth import boxes_of
from cellkit.train._geometry import MOVEMENTS, Frame
from cellkit.train._looks import _KEPT, LOOKS
from cellkit.train._warp import Warp
from cellkit.train.augment import AUGMENTATIONS, PRESETS, Augmentation, augment_faults, augment_steps

SIZES = [(1, 1), (1, 7), (13, 1), (17, 23), (32, 32)]


def image_of(size, channels, seed=0):
    return np.random.default_rng(seed).random((*size, channels), np.float32)


def labels_of(size, seed=0, count=9):
    """Discs that do not touch the numbers' order: any of 1 to 3 * count."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.int32)
    for number in rng.permutation(3 * count)[:count].tolist():
        centre = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        cv2.circle(labels, centre, int(rng.integers(1, 6)), number + 1, -1)
    return labels


def always(*names):
    return [{"name": name, "p": 1.0} for name in names]


def run(spec, image, labels=None, boxes=None, *, seed=0, size=None, corner=(0, 0), **options):
    return Augmentation(spec, **options)(
        image, labels, boxes, rng=np.random.default_rng(seed), size=size, corner=corner
    )


# The registry's contract


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_contract_of_shapes_and_labels(name, channels):
    for size in SIZES:
        image, labels = image_of(size, channels), labels_of(size)
        before = image.copy(), labels.copy()
        one = run(always(name), image, labels, seed=3)
        two = run(always(name), image, labels, seed=3)
        assert one.image.shape == image.shape
        assert one.image.dtype == np.float32
        assert one.image.flags.c_contiguous
        assert one.labels.shape == size
        assert one.labels.dtype == np.int32
        assert np.isfinite(one.image).all()
        assert one.image.min() >= 0
        assert one.image.max() <= 1
        assert one.applied == (name,)
        there = {one.origins.get(number, number) for number in np.unique(one.labels).tolist()}
        assert there <= {0, *np.unique(labels).tolist()}
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.labels, two.labels)
        assert np.array_equal(image, before[0])
        assert np.array_equal(labels, before[1])
        if name in LOOKS:
            assert np.array_equal(one.labels, labels)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability_0_is_the_identity(name):
    image, labels = image_of((17, 23), 3), labels_of((17, 23))
    out = run([{"name": name, "p": 0.0}], image, labels)
    assert np.array_equal(out.image, image)
    assert np.array_equal(out.labels, labels)
    assert out.applied == ()
    assert out.zoom == 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_does_something(name):
    image = image_of((24, 24), 3)
    if name == "tint":
        image = np.repeat(image[..., :1], 3, axis=2)
    outs = [run(always(name), image, seed=seed).image for seed in range(3)]
    assert any(not np.array_equal(out, image) for out in outs)
    if name not in ("flip_horizontal", "flip_vertical", "invert", "grayscale", "median_blur"):
        assert not all(np.array_equal(out, outs[0]) for out in outs)


@settings(max_examples=40)
@given(
    names=st.lists(st.sampled_from(sorted(MOVEMENTS)), max_size=4),
    seed=st.integers(0, 1000),
    size=st.sampled_from([(31, 31), (40, 29), (7, 50)]),
    corner=st.tuples(st.integers(-25, 40), st.integers(-25, 40)),
)
def test_image_and_labels_move_together(names, seed, size, corner):
    # The image is flat inside each of its blocks and says their number; where all of what a pixel is blended from is
    # of one block, image and label must agree.
    labels = np.kron(np.arange(1, 31).reshape(5, 6), np.ones((9, 9))).astype(np.int32)
    image = (labels / 31).astype(np.float32)[..., None]
    out = run(always(*names), image, labels, seed=seed, size=size, corner=corner, mirrored="same")
    said = out.image[..., 0] * 31
    flat = ndimage.minimum_filter(out.labels, 5) == ndimage.maximum_filter(out.labels, 5)
    flat[:2] = flat[-2:] = flat[:, :2] = flat[:, -2:] = False  # what is beside these is not in the crop
    shrunk = max(0.0, 1 / out.zoom - 1)
    assert (np.abs(said - out.labels)[flat] <= (0.01 if shrunk < 0.1 else 8)).all()
    assert ((out.labels > 0) & (out.labels <= 30)).all()


@pytest.mark.parametrize("cubic", [False, True])
def test_resampling_against_scipy(cubic):
    image = ndimage.gaussian_filter(image_of((50, 60), 2, 1), (2, 2, 0))
    turn = np.deg2rad(33)
    matrix = np.array([[np.cos(turn), -np.sin(turn), 3.3], [np.sin(turn), np.cos(turn), -7.7], [0, 0, 1]]) * 0.9
    warp = Warp((50, 60), (41, 30), (5, 9), matrix)
    out = warp.image(image, cubic=cubic)
    y, x = np.mgrid[:41, :30]
    at = matrix[:2, :2] @ np.stack([(x - 14.5).ravel(), (y - 20).ravel()]) + matrix[:2, 2:]
    rows, columns = (at[1] + 5 + 20).reshape(41, 30), (at[0] + 9 + 14.5).reshape(41, 30)
    for c in range(2):
        wanted = ndimage.map_coordinates(image[..., c], [rows, columns], order=1, mode="mirror")
        # OpenCV may take places in steps of 1/32 px.
        assert np.abs(out[..., c] - wanted).max() < (0.02 if cubic else 0.004)
    labels = labels_of((50, 60))
    wanted = ndimage.map_coordinates(labels, [np.rint(rows), np.rint(columns)], order=0, mode="mirror")
    found, _ = warp.labels(labels, "same")
    assert (found != wanted).mean() < 0.001  # places right between two pixels


def test_flips_and_turns_are_exact():
    image, labels = image_of((21, 34), 3), labels_of((21, 34))
    out = run(always("flip_horizontal"), image, labels)
    assert np.array_equal(out.image, image[:, ::-1])
    assert np.array_equal(out.labels, labels[:, ::-1])
    out = run(always("flip_vertical"), image, labels)
    assert np.array_equal(out.image, image[::-1])
    seen = set()
    for seed in range(12):
        part = run(always("quarter_turn"), image, labels, seed=seed, size=(16, 16), corner=(3, 8))
        turns = [k for k in (1, 2, 3) if np.array_equal(part.image, np.rot90(image[3:19, 8:24], k))]
        assert len(turns) == 1
        assert np.array_equal(part.labels, np.rot90(labels[3:19, 8:24], turns[0]))
        seen |= set(turns)
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("size", [(11, 20), (10, 21), (9, 9), (1, 8)])
def test_turns_of_unequal_sides_interpolate_nothing(size):
    image = image_of((60, 60), 1)
    for seed in range(6):
        out = run(always("quarter_turn", "flip_vertical", "shift"), image, seed=seed, size=size, corner=(25, 22))
        assert np.isin(out.image, image).all()


def test_large_crops_read_from_the_whole_image():
    # At half the size a crop of 20 px sees 40 px of the image: real pixels, not mirrored ones.
    image = np.linspace(0, 1, 80, dtype=np.float32)[None, :, None].repeat(80, axis=0)
    spec = [{"name": "scale", "p": 1.0, "low": 0.5, "high": 1.0}]
    outs = [run(spec, image, seed=seed, size=(20, 20), corner=(30, 30)) for seed in range(20)]
    smallest = min(outs, key=lambda out: out.zoom)
    assert smallest.zoom < 0.6
    for out in outs:
        slope = np.diff(out.image[10, :, 0])
        assert np.allclose(slope, 1 / 79 / out.zoom, rtol=0.05)
    assert np.ptp(smallest.image) > 19 / 0.6 / 79


def test_shrinking_averages():
    image = np.indices((200, 200)).sum(axis=0).astype(np.float32)[..., None] % 2  # a chessboard
    spec = [{"name": "scale", "p": 1.0, "low": 0.3, "high": 1.0}]
    for seed in range(20):
        out = run(spec, image, seed=seed, size=(40, 40), corner=(80, 80))
        if out.zoom < 0.4:
            assert np.abs(out.image - 0.5).max() < 0.1
            break
    else:
        pytest.fail("no crop was made much smaller")


def test_crop_of_three_quarters():
    image = image_of((64, 64), 1)
    out = run([{"name": "crop", "p": 1.0, "share": 0.75}], image, labels_of((64, 64)))
    assert out.zoom == pytest.approx(4 / 3)
    inside = run([{"name": "crop", "p": 1.0, "share": 0.75}], image, mirrored="objects", labels=labels_of((64, 64)))
    assert inside.origins == {}  # nothing is mirrored: the part lies in the crop


# What lies beyond the edge


def test_mirrored_pieces_are_objects_of_their_own():
    labels = np.zeros((12, 12), np.int32)
    labels[4:7, 2:5] = 7
    image = (labels[..., None] > 0).astype(np.float32)
    out = run((), image, labels, size=(12, 24), corner=(0, -12))
    numbers = np.unique(out.labels).tolist()
    assert numbers == [0, 7, 8]
    assert out.origins == {8: 7}
    assert np.array_equal(out.labels[:, 12:], labels)
    wanted = np.pad(image[..., 0], ((0, 0), (12, 0)), mode="reflect")
    assert np.array_equal(out.image[..., 0], wanted)
    assert np.array_equal(out.labels > 0, wanted > 0)
    same = run((), image, labels, size=(12, 24), corner=(0, -12), mirrored="same")
    assert np.unique(same.labels).tolist() == [0, 7]
    assert same.origins == {}
    unknown = run((), image, labels, size=(12, 24), corner=(0, -12), mirrored="unknown")
    assert (unknown.labels[:, :12] == -1).all()
    assert np.array_equal(unknown.labels[:, 12:], labels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (5, 7)])
def test_images_smaller_than_the_crop(shape):
    image, labels = image_of(shape, 2), np.arange(1, shape[0] * shape[1] + 1, dtype=np.int32).reshape(shape)
    out = run((), image, labels, size=(23, 29), corner=(-9, -11), mirrored="same")
    pad = ((9, 23 - 9 - shape[0]), (11, 29 - 11 - shape[1]))
    assert np.array_equal(out.image, np.pad(image, (*pad, (0, 0)), mode="reflect"))
    assert np.array_equal(out.labels, np.pad(labels, pad, mode="reflect"))
    own = run((), image, labels, size=(23, 29), corner=(-9, -11))
    back = np.vectorize(lambda number: own.origins.get(number, number))(own.labels)
    assert np.array_equal(back, out.labels)
    # One object each time: no number occurs in two mirrors.
    if min(shape) > 2:
        for number in own.origins:
            rows, columns = np.nonzero(own.labels == number)
            assert np.ptp(rows) <= 1
            assert np.ptp(columns) <= 1


def test_layers_of_overlapping_objects_keep_numbers_apart():
    labels = np.zeros((2, 10, 10), np.int32)
    labels[0, 2:5, 2:5], labels[1, 3:6, 3:6] = 1, 2
    out = run((), image_of((10, 10), 1), labels, size=(30, 30), corner=(-10, -10))
    assert out.labels.shape == (2, 30, 30)
    one, two = (set(np.unique(layer).tolist()) - {0} for layer in out.labels)
    assert not one & two
    assert {out.origins.get(number, number) for number in one} == {1}
    assert {out.origins.get(number, number) for number in two} == {2}


def test_stored_types_stand_for_the_same_values():
    whole = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    image = whole * np.float32(1 / 255)
    for names in ((), ("rotate",), ("flip_vertical", "gamma")):
        assert np.array_equal(run(always(*names), whole).image, run(always(*names), image).image)
    half = image.astype(np.float16)
    assert np.array_equal(run((), half).image, half.astype(np.float32))
    for dtype in (np.uint8, np.uint16, np.int64):
        labels = labels_of((20, 20)).astype(dtype)
        out = run(always("rotate"), image, labels)
        assert np.array_equal(out.labels, run(always("rotate"), image, labels_of((20, 20))).labels)
        assert out.labels.dtype == np.int32


# Boxes


def discs(size=(120, 140), radius=8):
    labels = np.zeros(size, np.int32)
    number = 0
    for row in range(12, size[0] - 8, 24):
        for column in range(12, size[1] - 8, 24):
            number += 1
            cv2.circle(labels, (column, row), radius, number, -1)
    return labels


@settings(max_examples=30)
@given(names=st.lists(st.sampled_from(sorted(MOVEMENTS)), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_boxes_follow_labels(names, seed):
    labels = discs()
    boxes = boxes_of(labels)
    boxes = Boxes(boxes.xyxy, boxes.scores, np.unique(labels)[1:].astype(np.int32))
    out = run(always(*names), image_of(labels.shape, 1), labels, boxes, seed=seed, size=(90, 80), corner=(10, 20))
    bent = {"elastic", "piecewise_affine"} & set(names)
    near = (3.0 if bent else 1.6) * max(1, out.zoom)
    drawn = dict(zip(np.unique(out.labels[out.labels > 0]).tolist(), boxes_of(out.labels).xyxy, strict=True))
    found = 0
    for number, box in drawn.items():
        if box[0] > 0 and box[1] > 0 and box[2] < 80 and box[3] < 90:
            own = out.boxes.xyxy[out.boxes.classes == out.origins.get(number, number)]
            assert len(own)
            assert np.abs(own - box).max(axis=1).min() <= near
            found += 1
    assert found or len(drawn) < 9


def test_boxes_are_exact_under_flips_and_mirrors():
    labels = np.zeros((20, 30), np.int32)
    labels[3:8, 4:11] = 1
    boxes = boxes_of(labels)
    out = run(always("flip_horizontal"), image_of((20, 30), 1), labels, boxes)
    assert np.allclose(out.boxes.xyxy, boxes_of(out.labels).xyxy)
    out = run((), image_of((20, 30), 1), labels, boxes, size=(60, 75), corner=(-20, -31))
    wanted = boxes_of(out.labels).xyxy
    assert len(out.boxes) == len(wanted) == 1 + len(out.origins)
    assert np.allclose(sorted(out.boxes.xyxy.tolist()), sorted(wanted.tolist()), atol=1e-4)


def test_boxes_that_leave_the_crop_go():
    boxes = Boxes(np.array([[0, 0, 10, 10], [18, 0, 28, 10], [40, 0, 50, 10]], np.float32), np.ones(3, np.float32),
                  np.arange(3, dtype=np.int32))  # fmt: skip
    image = image_of((20, 60), 1)
    assert run((), image, boxes=boxes, size=(20, 20)).boxes.classes.tolist() == [0]  # a fifth of the second is left
    all_left = run((), image, boxes=boxes, size=(20, 20), visible=0.1).boxes
    assert all_left.classes.tolist() == [0, 1]
    assert all_left.xyxy[1].tolist() == [18, 0, 20, 10]
    none = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert len(run(always(*MOVEMENTS), image, boxes=none).boxes) == 0


@pytest.mark.parametrize("name", ["elastic", "piecewise_affine"])
def test_deformations_do_not_fold(name):
    for seed in range(10):
        frame = Frame(np.random.default_rng(seed), 97, 130)
        moved = MOVEMENTS[name](frame, strength=0.25, spacing=16.0).astype(np.float64)
        assert np.abs(moved).max() <= 4.0 + 1e-5
        assert np.abs(moved).max() > 1.0
        dx, dy = np.diff(moved, axis=1)[:-1], np.diff(moved, axis=0)[:, :-1]
        assert ((1 + dx[..., 0]) * (1 + dy[..., 1]) - dx[..., 1] * dy[..., 0] > 0).all()


# Values


def look(name, image, seed=0, **parameters):
    given = AUGMENTATIONS.complete(name, parameters)
    return LOOKS[name](image.copy(), np.random.default_rng(seed), **given)


def test_light():
    image = image_of((16, 16), 2)
    assert np.ptp(look("brightness", image) - image) < 1e-6
    assert np.ptp(look("gain", image) / image) < 1e-5
    out = look("contrast", image)
    assert out.mean() == pytest.approx(image.mean(), abs=1e-5)
    assert np.ptp((out - out.mean()) / (image - image.mean())) < 1e-2
    rng = np.random.default_rng(0)
    power = np.exp(rng.uniform(-np.log(1.5), np.log(1.5)))
    assert np.allclose(look("gamma", image), image**power, atol=1e-5)
    ratio = look("shade", image) / image
    assert np.ptp(ratio, axis=2).max() < 1e-5
    assert (ratio > 1 / 1.41).all()
    assert (ratio < 1.41).all()
    assert np.allclose(look("invert", image), 1 - image)


def test_colours():
    image = image_of((16, 16), 3)
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    assert np.allclose(look("grayscale", image), grey[..., None], atol=1e-6)
    for name in ("saturation", "hue"):
        out = look(name, image)
        assert np.allclose(out @ np.array([0.299, 0.587, 0.114], np.float32), grey, atol=2e-3)
        assert not np.allclose(out, image, atol=1e-2)
    flat = np.repeat(image[..., :1], 3, axis=2)
    for name in ("saturation", "hue", "stain_jitter"):
        assert np.allclose(look(name, flat), flat, atol=2e-3)  # grey stays grey
    tinted = look("tint", flat)
    assert np.ptp(tinted, axis=2).mean() > 0.05
    assert np.array_equal(look("tint", image), image)
    assert (look("channel_drop", image) == 0).all(axis=(0, 1)).sum() == 1
    assert sorted(look("channel_shuffle", image).sum(axis=(0, 1))) == pytest.approx(sorted(image.sum(axis=(0, 1))))


def test_stain_jitter_against_scikit_image():
    color = pytest.importorskip("skimage.color")
    image = np.float32(0.1) + np.float32(0.8) * image_of((16, 16), 3)
    rng = np.random.default_rng(5)
    factors, more = rng.uniform(0.8, 1.2, 3), rng.uniform(-0.02, 0.02, 3)
    unit = np.log(255) / np.log(1e6)  # scikit-image counts densities in units of log 1,000,000
    hed = color.separate_stains(image, np.linalg.inv([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]))
    density = -np.log(image.astype(np.float64)) / np.log(1e6)
    stains = density @ np.linalg.inv([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    assert np.allclose(np.maximum(stains, 0), hed, atol=1e-4)
    changed = (stains * factors + more * unit) @ np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    assert np.allclose(look("stain_jitter", image, 5), np.exp(-changed * np.log(1e6)), atol=1e-4)


def test_noise_and_sharpness():
    flat = np.full((128, 128, 1), 0.5, np.float32)
    sigma = np.random.default_rng(0)
    sigma.integers(_KEPT - flat.size)  # the place in the row of normal deviates is drawn first
    wanted = sigma.uniform(0, 0.05)
    assert look("noise", flat).std() == pytest.approx(wanted, rel=0.05)
    assert abs(look("noise", flat).mean() - 0.5) < wanted / 20
    assert not np.array_equal(look("noise", flat, 1), look("noise", flat, 2))
    dark = np.full((128, 128, 1), 0.125, np.float32)
    assert look("shot_noise", flat).std() == pytest.approx(2 * look("shot_noise", dark).std(), rel=0.05)
    image = image_of((40, 40), 3)
    blurred, drawn = look("blur", image), np.random.default_rng(0).uniform(0, 1.5)
    assert np.allclose(blurred, ndimage.gaussian_filter(image, (drawn, drawn, 0), mode="mirror"), atol=5e-3)
    for side in (3, 5):
        wanted = ndimage.median_filter(image, (side, side, 1), mode="nearest")
        assert np.allclose(look("median_blur", image, side=side), wanted)
    sharp = look("sharpen", image)
    share = np.random.default_rng(0).uniform(0, 1)
    wanted = image + share * (image - ndimage.gaussian_filter(image, (1, 1, 0), mode="mirror"))
    assert np.allclose(sharp, wanted, atol=5e-3)


def test_values_stay_in_their_range():
    image = image_of((16, 16), 1) * np.float32(6) - np.float32(3)
    for name in LOOKS:
        out = run(always(name), image, value_range=(-3.0, 3.0)).image
        assert out.min() >= -3
        assert out.max() <= 3
    assert np.allclose(run(always("invert"), image, value_range=(-3.0, 3.0)).image, -image, atol=1e-5)
    bright = image_of((16, 16), 1) + np.float32(1)  # beyond the range before: left there
    assert run(always("blur"), bright).image.max() > 1.5


# Lists


def test_lists_are_read_whole():
    steps = augment_steps(["flips", {"name": "noise", "p": 0.1, "sigma": "1e-2"}])
    assert [step.name for step in steps] == ["flip_horizontal", "flip_vertical", "quarter_turn", "noise"]
    assert steps[-1].p == 0.1
    assert steps[-1].parameters == {"sigma": 0.01}
    assert augment_steps(None) == augment_steps("none") == ()
    assert augment_steps("invert")[0].p == 0.5
    for preset in PRESETS:
        assert augment_faults(preset) == []
    full = {step.name for step in augment_steps("full")}
    assert {"elastic", "piecewise_affine", "crop", "stain_jitter", "median_blur", "sharpen", "channel_drop"} <= full


@pytest.mark.parametrize(
    ("spec", "where", "text"),
    [
        ("rotat", "augment", "did you mean 'rotate'?"),
        ([{"name": "noise", "sigm": 1}], "augment[0]", "did you mean 'sigma'?"),
        ([{"name": "noise", "sigma": 7}], "augment[0].sigma", "outside 0 to 1"),
        ([{"name": "noise", "p": 2}], "augment[0].p", "outside 0 to 1"),
        (["light", 5], "augment[1]", "lists with a name: none, flips, light, full"),
        ([{"p": 1}], "augment[0]", "wanted the name"),
    ],
)
def test_faults_say_where(spec, where, text):
    (fault,) = augment_faults(spec)
    assert fault.where == where
    assert text in str(fault)
    with pytest.raises(UsageError, match="augment"):
        Augmentation(spec)


def test_bad_input_is_refused():
    image = image_of((8, 8), 1)
    with pytest.raises(KindError, match="wanted an image"):
        run((), image[..., 0])
    with pytest.raises(KindError, match="wanted an image"):
        run((), image.astype(np.float64))
    with pytest.raises(KindError, match="but the labels are"):
        run((), image, np.zeros((8, 9), np.int32))
    with pytest.raises(KindError, match="wanted labels"):
        run((), image, np.zeros((8, 8), np.float32))
    with pytest.raises(UsageError, match="at least 1 x 1"):
        run((), image, size=(0, 4))
    for options in ({"mirrored": "nothing"}, {"interpolation": "best"}, {"value_range": (1.0, 1.0)}):
        with pytest.raises(UsageError, match=next(iter(options))):
            Augmentation((), **options)


def test_the_same_seed_gives_the_same_crop_for_the_full_list():
    image, labels = image_of((70, 60), 3), labels_of((70, 60))
    for seed in range(5):
        one = run("full", image, labels, seed=seed, size=(32, 32), corner=(20, 10))
        two = run("full", image, labels, seed=seed, size=(32, 32), corner=(20, 10))
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.labels, two.labels)
        assert one.applied == two.applied
