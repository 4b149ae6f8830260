from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from skimage.measure import regionprops

from cellkit.core import Boxes, Instances, KindError
from cellkit.core.stage import spec_of
from cellkit.stages._sums import compact, label_ids
from cellkit.stages.measure import measure, tally
from strategies import images, label_images

SHAPE = [
    *("area", "equivalent_diameter", "centroid_y", "centroid_x", "bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"),
    *("major_axis", "minor_axis", "orientation", "eccentricity", "solidity", "perimeter"),
]
INTENSITY = ["mean_intensity", "sd_intensity", "min_intensity", "max_intensity"]


def blank(labels, channels=1):
    return np.zeros((*labels.shape, channels), np.float32)


def frozen(*arrays):
    for array in arrays:
        array.setflags(write=False)


def hull_solidity(mask):
    y, x = np.nonzero(mask)
    corners = np.concatenate([np.stack([y + dy, x + dx], axis=1) for dy in (0, 1) for dx in (0, 1)])
    return len(y) / ConvexHull(corners).volume


def assert_angles(got, wanted, atol=1e-6):
    """Equal as directions: an angle and the same turned by half a turn are one."""
    assert abs(math.remainder(got - wanted, math.pi)) < atol


def assert_as_regionprops(table, labels, raw, spacing=(1.0, 1.0)):
    suffix = "" if spacing == (1.0, 1.0) else "_um"
    found = regionprops(labels, intensity_image=raw, spacing=spacing)
    assert table["label"].tolist() == [region.label for region in found]
    for (_, row), region in zip(table.iterrows(), found, strict=True):
        assert row["area"] == region.num_pixels
        assert (row["bbox_y0"], row["bbox_x0"], row["bbox_y1"], row["bbox_x1"]) == region.bbox
        wanted = {
            f"centroid_y{suffix}": region.centroid[0],
            f"centroid_x{suffix}": region.centroid[1],
            f"equivalent_diameter{suffix}": region.equivalent_diameter_area,
            f"major_axis{suffix}": region.axis_major_length,
            f"minor_axis{suffix}": region.axis_minor_length,
        }
        for name, value in wanted.items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-5), name
        assert row["eccentricity"] == pytest.approx(region.eccentricity, abs=1e-6)
        if region.axis_major_length > region.axis_minor_length + 1e-6:  # a round object points nowhere
            assert_angles(row["orientation"], region.orientation)
        if suffix:
            assert row["area_um2"] == pytest.approx(region.area)
        else:
            assert row["perimeter"] == pytest.approx(region.perimeter)
        names = ["intensity"] if raw.shape[2] == 1 else range(raw.shape[2])
        for channel, name in enumerate(names):
            values = raw[..., channel][labels == region.label].astype(np.float64)
            assert row[f"mean_{name}"] == pytest.approx(values.mean(), abs=1e-12)
            assert row[f"sd_{name}"] == pytest.approx(values.std(), abs=1e-12)
            assert (row[f"min_{name}"], row[f"max_{name}"]) == (values.min(), values.max())


@settings(deadline=None, max_examples=40)
@given(label_images(), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_equals_regionprops(labels, channels, seed):
    raw = np.random.default_rng(seed).normal(size=(*labels.shape, channels)).astype(np.float32)
    frozen(labels, raw)
    assert_as_regionprops(measure(labels, raw), labels, raw)


@settings(deadline=None, max_examples=20)
@given(label_images(), st.sampled_from([(0.5, 0.5), (0.25, 1.5), (3.0, 0.7)]))
def test_pixel_size(labels, pixel_size):
    raw = blank(labels)
    table = measure(labels, raw, pixel_size=pixel_size)
    assert_as_regionprops(table, labels, raw, spacing=pixel_size)
    plain = measure(labels, raw)
    assert ("perimeter_um" in table) == (pixel_size == (0.5, 0.5))
    if "perimeter_um" in table:
        np.testing.assert_allclose(table["perimeter_um"], plain["perimeter"] / 2)
        np.testing.assert_allclose(table["orientation"], plain["orientation"])
    for name in set(SHAPE) - {"orientation", "eccentricity"}:
        np.testing.assert_array_equal(table[name], plain[name])


@settings(deadline=None, max_examples=40)
@given(label_images())
def test_solidity_is_that_of_the_corners_hull(labels):
    table = measure(labels, blank(labels), properties=("solidity",))
    assert list(table.columns) == ["label", "solidity"]
    for label, solidity in table.itertuples(index=False):
        assert solidity == pytest.approx(hull_solidity(labels == label))
        assert solidity <= 1


def test_hand_worked():
    labels = np.array([[0, 4, 4, 4], [0, 4, 0, 0], [9, 4, 0, 9]], np.int32)
    raw = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    table = measure(labels, raw).set_index("label")
    assert table.index.tolist() == [4, 9]
    four, nine = table.loc[4], table.loc[9]
    assert (four["area"], four["centroid_y"], four["centroid_x"]) == (5, 0.6, 1.6)
    assert four["solidity"] == pytest.approx(5 / 7)  # the hull cuts a triangle of 2 x 2 / 2 off the 3 x 3 box
    assert (four["mean_intensity"], four["min_intensity"], four["max_intensity"]) == (4.0, 1.0, 9.0)
    assert tuple(nine[["bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"]]) == (2, 0, 3, 4)
    assert (nine["area"], nine["solidity"], nine["eccentricity"], nine["minor_axis"]) == (2, 0.5, 1.0, 0.0)
    assert nine["major_axis"] == 4 * 1.5
    assert nine["orientation"] == math.pi / 2  # along x
    assert nine["sd_intensity"] == 1.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (997, 1)])
def test_strips_and_single_pixels(shape):
    labels = np.ones(shape, np.int32)
    raw = np.full((*shape, 1), 0.25, np.float32)
    row = measure(labels, raw).iloc[0]
    assert (row["area"], row["solidity"], row["sd_intensity"]) == (max(shape), 1.0, 0.0)
    assert row["minor_axis"] == 0
    assert row["eccentricity"] == (1.0 if max(shape) > 1 else 0.0)
    assert row["major_axis"] == pytest.approx(4 * math.sqrt((max(shape) ** 2 - 1) / 12))
    assert_as_regionprops(measure(labels, raw), labels, raw)


def test_far_from_the_corner_nothing_cancels():
    labels = np.zeros((4, 200_000), np.int32)
    labels[1:3, 199_000:199_003] = 5
    near = np.zeros((4, 200_000), np.int32)
    near[1:3, 0:3] = 5
    raw = np.full((4, 200_000, 1), 1e4, np.float32)
    raw[1, 199_000] = raw[1, 0] = 1e4 + 0.0078125
    far, here = (measure(image, raw).iloc[0] for image in (labels, near))
    for name in set(SHAPE) - {"centroid_x", "bbox_x0", "bbox_x1"} | set(INTENSITY):
        assert far[name] == here[name], name
    assert here["sd_intensity"] == pytest.approx(0.0078125 * math.sqrt(5) / 6)


def test_any_memory_layout():
    labels = np.random.default_rng(0).integers(0, 5, (24, 30)).astype(np.int32)
    raw = np.random.default_rng(1).random((24, 30, 4)).astype(np.float32)
    for a, b in ((labels[::2, ::-1], raw[::2, ::-1, 1:3]), (np.asfortranarray(labels), np.asfortranarray(raw))):
        assert measure(a, b).equals(measure(a.copy(order="C"), b.copy(order="C")))


def test_properties_choose_columns():
    labels = np.ones((3, 3), np.int32)
    raw = np.random.default_rng(0).random((3, 3, 2)).astype(np.float32)
    everything = measure(labels, raw)
    pair = [f"{value}_{c}" for c in (0, 1) for value in ("mean", "sd", "min", "max")]
    assert list(everything.columns) == ["label", *SHAPE, *pair]
    some = measure(labels, raw, properties=("mean", "box", "area"))
    boxes = ["bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"]
    assert list(some.columns) == ["label", "area", "equivalent_diameter", *boxes, "mean_0", "mean_1"]
    for name in some.columns:
        np.testing.assert_allclose(some[name], everything[name])
    assert list(measure(labels, raw, properties=()).columns) == ["label"]
    assert list(measure(labels, raw, properties=("eccentricity",)).columns) == ["label", "eccentricity"]


@pytest.mark.parametrize(
    ("channels", "number", "names"),
    [
        ((), 1, ["intensity"]),
        ((), 3, ["0", "1", "2"]),
        (("dapi",), 1, ["dapi"]),
        (("dapi", "gfp"), 2, ["dapi", "gfp"]),
        (("dapi", "dapi"), 2, ["0", "1"]),
        (("dapi",), 2, ["0", "1"]),
    ],
)
def test_channel_names(channels, number, names):
    labels = np.ones((2, 2), np.int32)
    table = measure(labels, blank(labels, number), properties=("mean",), channels=channels)
    assert list(table.columns) == ["label", *(f"mean_{name}" for name in names)]


def test_no_objects_keep_columns_and_dtypes():
    empty, one = np.zeros((5, 4), np.int32), np.ones((5, 4), np.int32)
    for size in (None, (0.5, 0.5), (0.5, 1.0)):
        table, full = (measure(labels, blank(labels), pixel_size=size) for labels in (empty, one))
        assert len(table) == 0
        assert list(table.columns) == list(full.columns)
        assert table.dtypes.tolist() == full.dtypes.tolist()
    whole = ("label", "area", "bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1")
    assert all(table[name].dtype == (np.int64 if name in whole else np.float64) for name in table.columns)
    nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    a_box = Boxes(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.ones(1, np.int32))
    for none, some in ((nothing, a_box), (Instances(nothing, ()), Instances(a_box, (np.ones((0, 0), bool),)))):
        for names in ((), ("rbc", "wbc")):
            table, full = (measure(objects, blank(empty), class_names=names) for objects in (none, some))
            assert (len(table), list(table.columns)) == (0, list(full.columns))
            assert table.dtypes.tolist() == full.dtypes.tolist()


@pytest.mark.parametrize("ids", [[7, 2_000_000, 2**31 - 1], [1, 2, 3], [5, 1 << 20, (1 << 20) + 1]])
def test_ids_may_be_anything(ids):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, (23, 29)).astype(np.int32)
    raw = rng.random((23, 29, 1)).astype(np.float32)
    frozen(labels, raw)
    big = np.array([0, *ids], np.int32)[labels]
    table, plain = measure(big, raw), measure(labels, raw)
    assert table["label"].tolist() == ids
    for name in plain.columns[1:]:
        np.testing.assert_array_equal(table[name], plain[name])
    classes = (labels % 3).astype(np.uint8)
    np.testing.assert_array_equal(tally(big, classes).to_numpy(), tally(labels, classes).to_numpy())
    assert tally(big)["count"].tolist() == [3]


@settings(deadline=None, max_examples=30)
@given(label_images())
def test_compact(labels):
    small, ids = compact(labels, dense=0)
    if ids is None:
        assert not labels.any()
    else:
        np.testing.assert_array_equal(np.array([0, *ids])[small], labels)
        assert small.max() == len(ids)
    np.testing.assert_array_equal(label_ids(labels), np.unique(labels[labels > 0]))


def test_seventy_thousand_objects():
    labels = np.zeros((530, 795), np.int32)
    labels[::2, ::3] = np.arange(1, 265 * 265 + 1).reshape(265, 265)
    labels[::2, 1::3] = labels[::2, ::3]
    raw = np.random.default_rng(0).random((530, 795, 1)).astype(np.float32)
    table = measure(labels, raw)
    y, x = np.divmod(np.arange(265 * 265), 265)
    assert table["label"].tolist() == list(range(1, 265 * 265 + 1))
    np.testing.assert_array_equal(table["centroid_y"], 2 * y)
    np.testing.assert_array_equal(table["centroid_x"], 3 * x + 0.5)
    np.testing.assert_array_equal(table["major_axis"], 2)
    np.testing.assert_array_equal(table["solidity"], 1)
    np.testing.assert_array_equal(table["perimeter"], 0)
    pair = np.stack([raw[::2, ::3, 0].ravel(), raw[::2, 1::3, 0].ravel()])
    np.testing.assert_allclose(table["mean_intensity"], pair.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(table["max_intensity"], pair.max(axis=0))


def test_scattered_objects_take_little_memory():
    labels = np.random.default_rng(0).integers(0, 70_000, (300, 400)).astype(np.int32)
    table = measure(labels, blank(labels), properties=("area", "solidity"))
    np.testing.assert_array_equal(table["area"], np.bincount(labels.ravel())[table["label"]])
    for label, solidity in table[["label", "solidity"]].head(50).itertuples(index=False):
        assert solidity == pytest.approx(hull_solidity(labels == label))


def as_instances(labels, pad=0.0, scores=0.5):
    boxes, masks, ids = [], [], [i for i in np.unique(labels) if i]
    for i in ids:
        y, x = np.nonzero(labels == i)
        y0, x0, y1, x1 = y.min(), x.min(), y.max() + 1, x.max() + 1
        grow = math.ceil(pad)
        masks.append(np.pad(labels[y0:y1, x0:x1] == i, grow))
        boxes.append((x0 - pad, y0 - pad, x1 + pad, y1 + pad))
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(ids)
    return Instances(Boxes(xyxy, np.full(count, scores, np.float32), np.arange(count, dtype=np.int32)), tuple(masks))


@settings(deadline=None, max_examples=30)
@given(label_images(), st.sampled_from([0.0, 0.25, 3.0]), st.integers(0, 2**32 - 1))
def test_instances_equal_labels(labels, pad, seed):
    raw = np.random.default_rng(seed).random((*labels.shape, 2)).astype(np.float32)
    instances = as_instances(labels, pad)  # padding reaches beyond the image
    frozen(raw, *instances.masks)
    table = measure(instances, raw, pixel_size=(0.5, 0.5))
    wanted = measure(labels, raw, pixel_size=(0.5, 0.5))
    assert table["label"].tolist() == list(range(1, len(wanted) + 1))
    assert (table["score"] == 0.5).all()
    for name in wanted.columns[1:]:
        np.testing.assert_allclose(table[name], wanted[name], rtol=1e-12, err_msg=name)
    assert table["class"].tolist() == list(range(len(wanted)))


def test_instances_overlap_and_leave_the_image():
    boxes = Boxes(
        np.array([[0, 0, 3, 3], [1, 1, 4, 4], [-2, -1, 1, 1], [8, 8, 9, 9]], np.float32),
        np.ones(4, np.float32),
        np.array([1, 0, 1, 5], np.int32),
    )
    masks = (np.ones((3, 3), bool), np.ones((3, 3), bool), np.ones((2, 3), bool), np.ones((1, 1), bool))
    raw = np.arange(25, dtype=np.float32).reshape(5, 5, 1)
    table = measure(Instances(boxes, masks), raw, class_names=("rbc", "wbc"))
    assert table["area"].tolist() == [9, 9, 1, 0]
    assert table["class"].tolist() == ["wbc", "rbc", "wbc", "5"]
    assert table["mean_intensity"].tolist()[:3] == [6.0, 12.0, 0.0]
    beyond = table.iloc[3]
    assert (beyond["bbox_y0"], beyond["bbox_y1"]) == (5, 5)
    undefined = ["centroid_y", "major_axis", "orientation", "eccentricity", "solidity", "perimeter", *INTENSITY]
    assert beyond[undefined].isna().all()


def test_boxes():
    boxes = Boxes(
        np.array([[1, 0, 4, 2], [0.5, 1.5, 2.0, 3.0], [-3, -3, 0, 0]], np.float32),
        np.array([0.9, 0.5, 0.1], np.float32),
        np.array([2, 0, 2], np.int32),
    )
    raw = np.random.default_rng(0).random((5, 6, 1)).astype(np.float32)
    frozen(boxes.xyxy, raw)
    table = measure(boxes, raw, pixel_size=(2.0, 1.0))
    shape = ["area", "area_um2", "centroid_y", "centroid_x", "centroid_y_um", "centroid_x_um"]
    corners = ["bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"]
    assert list(table.columns) == ["label", *shape, *corners, "score", "class", *INTENSITY]
    first, second, third = (table.iloc[i] for i in range(3))
    assert [first[name] for name in shape] == [6, 12, 0.5, 2.0, 1.0, 2.0]
    assert [second[name] for name in corners] == [1.5, 0.5, 3.0, 2.0]
    assert (first["score"], first["class"]) == (pytest.approx(0.9), 2)
    for row, part in ((first, raw[0:2, 1:4]), (second, raw[1:3, 0:2])):
        values = part.astype(np.float64)
        assert [row[name] for name in INTENSITY] == pytest.approx(
            [f(values) for f in (np.mean, np.std, np.min, np.max)]
        )
    assert third[INTENSITY].isna().all()  # no pixel of the image lies in it
    assert list(measure(boxes, raw, properties=("mean",)).columns) == ["label", "score", "class", "mean_intensity"]


@settings(deadline=None, max_examples=20)
@given(label_images(), st.data())
def test_a_box_of_whole_numbers_measures_as_its_pixels(labels, data):
    raw = data.draw(images(sides=st.just(max(labels.shape))))[: labels.shape[0], : labels.shape[1]].copy()
    table = measure(labels, raw)
    corners = table[["bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1"]].to_numpy(np.float32)
    boxes = Boxes(corners, np.ones(len(table), np.float32), np.ones(len(table), np.int32))
    found = measure(boxes, raw)
    for i in range(len(table)):
        x0, y0, x1, y1 = corners[i].astype(int)
        filled = np.zeros(labels.shape, np.int32)
        filled[y0:y1, x0:x1] = 1
        wanted = measure(filled, raw).iloc[0]
        for name in ("area", "centroid_y", "centroid_x", *INTENSITY):
            assert found[name][i] == pytest.approx(wanted[name])


def test_refusals():
    labels, box = np.ones((3, 4), np.int32), np.array([[0, 0, 2, 2]], np.float32)
    with pytest.raises(KindError, match=r"labels of 3 x 4 px, but `raw` has 4 x 3; both must cover the same frame"):
        measure(labels, np.zeros((4, 3, 1), np.float32))
    with pytest.raises(KindError, match=r"`classes` has 4 x 3"):
        tally(labels, np.zeros((4, 3), np.uint8))
    one = (np.ones(1, np.float32), np.ones(1, np.int32))
    with pytest.raises(KindError, match=r"instance 1: wanted a mask of shape \(2, 2\), its box .*, got \(2, 3\)"):
        measure(Instances(Boxes(box, *one), (np.ones((2, 3), bool),)), blank(labels))
    with pytest.raises(KindError, match=r"objects: wanted Labels, int32 \(y, x\), got int64"):
        measure(labels.astype(np.int64), blank(labels))
    with pytest.raises(KindError, match=r"raw: wanted Image, float32 \(y, x, c\), got float32 \(3, 4\)"):
        measure(labels, blank(labels)[..., 0])
    with pytest.raises(KindError, match="box 1: wanted finite coordinates"):
        measure(Boxes(box * np.float32(np.nan), *one), blank(labels))


def test_tally_labels():
    labels = np.array([[1, 1, 0, 3], [1, 7, 7, 3]], np.int32)
    classes = np.array([[2, 2, 1, 1], [0, 2, 1, 0]], np.uint8)
    frozen(labels, classes)
    table = tally(labels, classes, class_names=("background", "rbc", "wbc", "platelet"))
    assert list(table.columns) == ["class", "count", "share"]
    assert table["class"].tolist() == ["background", "rbc", "wbc", "platelet"]
    assert table["count"].tolist() == [1, 1, 1, 0]  # labels 3 and 7 are split evenly: the lower class has them
    np.testing.assert_allclose(table["share"], [1 / 3, 1 / 3, 1 / 3, 0])
    assert tally(labels, classes).to_numpy().tolist() == [[0, 1, 1 / 3], [1, 1, 1 / 3], [2, 1, 1 / 3]]
    assert tally(labels).to_numpy().tolist() == [["all", 3, 1.0]]
    assert tally(np.zeros((2, 4), np.int32)).to_numpy().tolist() == [["all", 0, 0.0]]
    assert tally(np.zeros((2, 4), np.int32), classes).shape == (0, 3)
    assert tally(np.zeros((2, 4), np.int32), classes, class_names=("a", "b"))["share"].tolist() == [0, 0]


@settings(deadline=None, max_examples=30)
@given(label_images(), st.integers(0, 2**32 - 1))
def test_tally_is_the_majority(labels, seed):
    classes = np.random.default_rng(seed).integers(0, 4, labels.shape).astype(np.uint8)
    wanted = [np.argmax(np.bincount(classes[labels == i])) for i in np.unique(labels) if i]
    table = tally(labels, classes)
    assert np.repeat(table["class"], table["count"]).tolist() == sorted(wanted)
    if wanted:
        assert table["share"].sum() == pytest.approx(1)


def test_tally_detections():
    classes = np.array([0, 2, 2, 5, 2], np.int32)
    boxes = Boxes(np.ones((5, 4), np.float32), np.ones(5, np.float32), classes)
    instances = Instances(boxes, (np.ones((0, 0), bool),) * 5)
    for objects in (boxes, instances):
        assert tally(objects).to_numpy().tolist() == [[0, 1, 0.2], [2, 3, 0.6], [5, 1, 0.2]]
        named = tally(objects, label_names=("rbc", "wbc", "platelet"))
        assert named["class"].tolist() == ["rbc", "wbc", "platelet", "5"]
        assert named["count"].tolist() == [1, 0, 3, 1]


def test_stages_declare_themselves():
    for function, out in ((measure, ""), (tally, "tally")):
        spec = spec_of(function)
        assert [k.name for k in spec.arguments[0].kinds] == ["labels", "boxes", "instances"]
        assert ([k.name for k in spec.returns], spec.out, repr(spec.reach({}))) == (["table"], out, "WHOLE")
    spec = spec_of(measure)
    assert list(spec.parameters) == ["properties"]
    assert spec.parameters["properties"].coerce(["area", "mean"]) == ("area", "mean")
    with pytest.raises(ValueError, match="wanted one of"):
        spec.parameters["properties"].coerce(["size"])
    assert {name: source.what for name, source in spec.supplied.items()} == {
        "pixel_size": "pixel_size",
        "channels": "names:raw",
        "class_names": "names:objects",
    }
