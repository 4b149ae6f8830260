"""The audit finds the faults that are put into a data set, and those known in the real ones."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from cellkit.core import UsageError
from cellkit.io import fluorescence_field, write_image, write_labels
from cellkit.io.datasets import CHECKS, audit, copies, open_dataset
from cellkit.io.datasets.objects import _of_labels
from strategies import label_images
from test_datasets import MAKERS, labels_at

SIDE = 160


def field(seed, size=SIDE):
    return fluorescence_field(size, seed=seed)


def make(root, images, tables=None):
    """Write images/ and labels/ of (image, labels) by name, and split.csv of (part, group)."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for name, (image, labels) in images.items():
        write_image(root / "images" / f"{name}.png", image)
        write_labels(root / "labels" / f"{name}.png", labels)
    if tables:
        rows = "".join(f"{name},{part},{group}\n" for name, (part, group) in tables.items())
        (root / "split.csv").write_text(f"id,part,group\n{rows}")
    return root


def found(root, **options):
    """Return check, image, object and other of all that is found."""
    result = audit(open_dataset(root, allow_missing=True), **options)
    assert sum(result.counts.values()) == len(result.findings)
    return {(f.check, f.image, f.object, f.other) for f in result.findings}


def test_a_sound_data_set_is_clean(tmp_path):
    make(tmp_path, {f"f{i}": field(i) for i in range(3)})
    result = audit(open_dataset(tmp_path))
    assert result.findings == ()
    assert result.images == 3
    assert result.objects == sum(field(i)[1].max() for i in range(3))
    assert set(result.counts.values()) == {0}


def test_objects_of_labels(tmp_path):
    image, labels = field(0)
    labels = np.zeros_like(labels)
    labels[5:9, 5:9] = 1
    labels[20, 30] = 2
    labels[40:42, 40:44] = 3
    labels[60:70, 60:70] = 4
    labels[90:92, 60:70] = 4
    labels[100, 80] = 4
    labels[50, 50], labels[51, 51] = 6, 6  # corners join
    make(tmp_path, {"a": (image, labels), "b": (field(1)[0], labels * 0)})
    assert found(tmp_path) == {
        ("one pixel", "a", "2", ""), ("tiny", "a", "3", ""), ("tiny", "a", "6", ""), ("fragmented", "a", "4", ""),
        ("empty", "b", "", ""),
    }  # fmt: skip
    messages = {f.check: f.message for f in audit(open_dataset(tmp_path)).findings}
    assert messages["fragmented"] == "3 pieces of 100, 20, 1 px, the smallest at row 100, column 80"
    assert messages["one pixel"] == "at row 20, column 30"
    assert ("tiny", "a", "3", "") not in found(tmp_path, tiny=8)


@settings(max_examples=40, deadline=None)
@given(labels=label_images())
def test_pieces_and_areas_are_those_of_scipy(labels):
    faults = {(f.check, f.object) for f in _of_labels("x", labels, 5).faults}
    expected = set()
    for value in np.unique(labels[labels > 0]).tolist():
        own = labels == value
        pieces = ndimage.label(own, np.ones((3, 3)))[1]
        expected |= {("fragmented", str(value))} if pieces > 1 else set()
        expected |= {("one pixel", str(value))} if own.sum() == 1 else set()
        expected |= {("tiny", str(value))} if 1 < own.sum() < 5 else set()
    assert faults == expected
    assert _of_labels("x", labels, 5).objects == len(np.unique(labels[labels > 0]))


def test_objects_of_mask_files(tmp_path):
    MAKERS["dsb2018"](tmp_path)
    folder = tmp_path / "a1" / "masks"
    labels_at(folder / "m2.png", (8, 11, 12, 16), values=[255])  # one pixel of m1
    labels_at(folder / "m3.png", (0, 0, 5, 5), values=[255])  # m0 again
    labels_at(folder / "m4.png")  # nothing
    labels_at(folder / "m5.png", (15, 0, 19, 4), (15, 20, 19, 24), values=[255, 255])
    assert found(tmp_path) == {
        ("overlap", "a1", "m2.png", "m1.png"), ("duplicate", "a1", "m3.png", "m0.png"),
        ("empty mask", "a1", "m4.png", ""), ("fragmented", "a1", "m5.png", ""),
    }  # fmt: skip
    message = next(f.message for f in audit(open_dataset(tmp_path)).findings if f.check == "overlap")
    assert message == "shares 1 of its 20 px with m1.png"


def voc(root, boxes):
    MAKERS["voc"](root)
    (root / "JPEGImages" / "im1.png").unlink()
    (root / "Annotations" / "im1.xml").unlink()
    text = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for n, a, b, c, d in boxes
    )
    size = "<size><width>30</width><height>20</height></size>"
    (root / "Annotations" / "im0.xml").write_text(f"<annotation>{size}{text}</annotation>")
    return root


def test_objects_of_boxes(tmp_path):
    voc(
        tmp_path,
        [("RBC", 1, 1, 10, 10), ("RBC", 1, 1, 10, 9), ("WBC", 1, 1, 10, 10), ("RBC", 5, 5, 5, 5),
         ("RBC", 25, 1, 31, 5), ("RBC", 20, 15, 21, 18)],
    )  # fmt: skip
    assert found(tmp_path) == {
        ("overlap", "im0", "2 (RBC)", "1 (RBC)"), ("duplicate", "im0", "3 (WBC)", "1 (RBC)"),
        ("overlap", "im0", "3 (WBC)", "2 (RBC)"), ("invalid box", "im0", "4 (RBC)", ""),
        ("invalid box", "im0", "5 (RBC)", ""), ("tiny", "im0", "6 (RBC)", ""),
    }  # fmt: skip
    assert ("overlap", "im0", "2 (RBC)", "1 (RBC)") not in found(tmp_path, overlap=0.95)
    assert audit(open_dataset(tmp_path)).present == {"RBC": 1, "WBC": 1}


def test_objects_of_coco_masks(tmp_path):
    MAKERS["coco"](tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    document["annotations"][1]["segmentation"] = [[7, 3, 14, 3, 14, 9, 7, 9]]
    document["annotations"][1]["bbox"] = [7, 3, 70, 6]
    file.write_text(json.dumps(document))
    checks = {(check, image) for check, image, *_ in found(tmp_path)}
    assert {("overlap", "val2017_1"), ("invalid box", "val2017_1")} <= checks


def test_class_images(tmp_path):
    MAKERS["darkfield"](tmp_path)
    labels_at(tmp_path / "masks" / "001.png", (0, 0, 1, 1), (4, 4, 5, 5), (9, 9, 12, 12), values=[1, 1, 5])
    labels_at(tmp_path / "masks" / "002.png")
    assert found(tmp_path) == {
        ("one pixel", "001", "blood cell", ""), ("unknown class", "001", "value 5", ""), ("empty", "002", "", ""),
    }  # fmt: skip
    result = audit(open_dataset(tmp_path))
    assert result.present == {"background": 3, "blood cell": 2, "bacteria": 1, "value 5": 1}


def test_files_that_are_missing_damaged_or_of_another_size(tmp_path):
    MAKERS["labels"](tmp_path)
    (tmp_path / "labels" / "f0.png").unlink()
    (tmp_path / "images" / "f1.png").write_bytes(b"no picture")
    labels_at(tmp_path / "labels" / "f2.png", (0, 0, 5, 5), size=(9, 9))
    assert found(tmp_path) == {
        ("missing", "f0", "", ""), ("unreadable", "f1", "", ""), ("size", "f2", "", ""),
    }  # fmt: skip
    file = voc(tmp_path / "voc", []) / "Annotations" / "im0.xml"
    file.write_text("<annotation>")
    assert found(tmp_path / "voc") == {("unreadable", "im0", "", "")}


# ---- images ----


def test_noise_and_blanks(tmp_path):
    rng = np.random.default_rng(0)
    image, labels = field(0)
    noise = np.clip(rng.normal(40, 3, image.shape), 0, 255).astype(np.uint8)
    blank = np.full_like(image, 7)
    make(tmp_path, {"field": (image, labels), "noise": (noise, labels), "blank": (blank, labels)})
    assert found(tmp_path) == {("noise", "noise", "", ""), ("noise", "blank", "", "")}


def test_contrast_of_gaussian_noise_is_that_of_its_quantiles():
    rng = np.random.default_rng(1)
    expected = 2 * 2.3263  # between the 1st and 99th percentile of a normal distribution
    assert copies.contrast(rng.normal(0.5, 0.02, (512, 512)).astype(np.float32)) == pytest.approx(expected, rel=0.02)
    assert copies.contrast(np.zeros((1, 1), np.float32)) == 0
    assert copies.contrast(np.zeros((9, 9), np.float32)) == 0
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    assert copies.contrast(ramp) > 1000


def jpeg(image, quality=60):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


COPIES = {
    "itself": lambda image: image,
    "compressed": jpeg,
    "brighter": lambda image: np.clip(image * 1.3 + 10, 0, 255).astype(np.uint8),
    "smaller": lambda image: cv2.resize(image, (120, 120), interpolation=cv2.INTER_AREA),
    "shifted": lambda image: np.roll(image, (6, -9), (0, 1)),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
}


@pytest.mark.parametrize("kind", COPIES)
def test_near_copies_across_parts_and_groups(tmp_path, kind):
    image, labels = field(3)
    changed = COPIES[kind](image)
    fitting = cv2.resize(labels.astype(np.uint16), changed.shape[::-1], interpolation=cv2.INTER_NEAREST)
    images = {"a": (image, labels), "b": (changed, fitting.astype(np.int32)), "c": field(4), "d": field(5)}
    cases = (("train", "g2", ["near copy"]), ("val", "g1", ["leak", "cut group"]), ("train", "g1", []))
    for part, group, expected in cases:
        tables = {"a": ("train", "g1"), "b": (part, group), "c": ("val", "g3"), "d": ("train", "g4")}
        root = make(tmp_path / f"{part}{group}", images, tables)
        assert found(root, tiny=0) - {("fragmented",)} == {(check, "a", "", "b") for check in expected}


def test_a_group_in_two_parts(tmp_path):
    images = {name: field(number) for number, name in enumerate("abcde", 3)}
    tables = {"a": ("train", "g1"), "b": ("val", "g1"), "c": ("val", "g1"), "d": ("train", "g2"), "e": ("val", "")}
    findings = audit(open_dataset(make(tmp_path, images, tables)), tiny=0).findings
    (one,) = [finding for finding in findings if finding.check == "cut group"]
    assert (one.image, one.other, one.message) == ("a", "b", "of the group g1, 1 in train and 2 in val")


def test_the_same_image_with_other_truth(tmp_path):
    image, labels = field(6)
    other = labels.copy()
    other[labels > labels.max() // 2] = 0
    make(tmp_path, {"a": (image, labels), "b": (jpeg(image, 95), other)}, {"a": ("x", "g"), "b": ("x", "g")})
    assert found(tmp_path) == {("other truth", "a", "", "b")}


def test_fields_that_only_share_their_background_are_no_copies(tmp_path):
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    vignette = 150 * np.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) * 3)
    images = {}
    for i in range(6):
        image, labels = field(i)
        images[f"f{i}"] = (np.clip(image * 0.4 + vignette, 0, 255).astype(np.uint8), labels)
    make(tmp_path, images)
    assert {check for check, *_ in found(tmp_path)} <= {"fragmented", "tiny"}


def test_many_copies_are_joined_up_not_listed_in_pairs(tmp_path):
    image, labels = field(2, 64)
    names = [f"f{i:02}" for i in range(12)]
    tables = {name: ("train" if i < 8 else "val", "") for i, name in enumerate(names)}
    make(tmp_path, dict.fromkeys(names, (image, labels)), tables)
    checks = [check for check, *_ in found(tmp_path)]
    assert checks.count("near copy") == 7 + 3
    assert {name for check, first, _, second in found(tmp_path) if check == "leak" for name in (first, second)} == set(
        names
    )


def test_limits_are_checked(tmp_path):
    make(tmp_path, {"a": field(0, 32)})
    with pytest.raises(UsageError, match="wanted tiny >= 0"):
        audit(open_dataset(tmp_path), overlap=0)


# ---- the command ----


def test_command(tmp_path, cellkit):
    image, labels = field(0)
    labels[labels == 1] = 0
    labels[0, 0] = 1
    make(tmp_path / "set", {"a": (image, labels), "b, c": field(1)})
    out = tmp_path / "out"
    done = cellkit(
        "audit", tmp_path / "set", "--json", out / "a.json", "--csv", out / "a.csv", code=1, env=wide(cellkit)
    )
    assert "layout labels, 2 images" in done.stdout
    assert "one pixel" in done.stdout
    assert "a, object 1: at row 0, column 0" in done.stdout
    document = json.loads((out / "a.json").read_text(encoding="utf-8"))
    assert document["checks"] == {**dict.fromkeys(CHECKS, 0), "one pixel": 1}
    expected = {"check": "one pixel", "image": "a", "object": "1", "other": "", "message": "at row 0, column 0"}
    assert document["findings"] == [expected]
    with open(out / "a.csv", encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [expected]
    (tmp_path / "set" / "images" / "a.png").unlink()
    (tmp_path / "set" / "labels" / "a.png").unlink()
    assert "no fault found" in cellkit("audit", tmp_path / "set", code=0).stdout
    done = cellkit("audit", tmp_path, code=2)
    assert "no data set of a known layout; it holds out/, set/" in done.stderr


def wide(cellkit):
    import os

    return {**os.environ, "COLUMNS": "200"}


# ---- the real data ----


def test_known_faults_of_the_real_boxes(data_folder):
    result = audit(open_dataset(data_folder / "bccd"))
    invalid = [(f.image, f.object) for f in result.findings if f.check == "invalid box"]
    assert invalid == [("BloodImage_00338", "13 (RBC)"), ("BloodImage_00343", "4 (RBC)")]
    # The same field at another focus or a little aside, which a split by image would cut.
    assert [(f.image, f.other) for f in result.findings if f.check == "near copy"] == [
        ("BloodImage_00037", "BloodImage_00038"),
        ("BloodImage_00227", "BloodImage_00260"),
        ("BloodImage_00229", "BloodImage_00258"),
        ("BloodImage_00382", "BloodImage_00395"),
    ]
    assert result.objects == 3886


def test_known_copies_of_the_real_class_images(data_folder):
    dataset = open_dataset(data_folder / "bacteria")
    wanted = {"071", "073", "228", "230", "263", "331", "270", "306", "277", "284", "301", "335", "001", "002"}
    some = type(dataset)(
        dataset.folder, dataset.layout, dataset.kind, tuple(p for p in dataset if p.name in wanted), dataset.classes
    )
    result = audit(some)
    assert {(f.image, f.other) for f in result.findings if f.check == "other truth"} == {
        ("071", "073"), ("263", "331"), ("270", "306"), ("277", "284"), ("301", "335"),
    }  # fmt: skip
    assert not [f for f in result.findings if f.check == "near copy"]  # duplicates.csv puts each pair into one group


def test_the_real_image_of_noise(data_folder):
    dataset = open_dataset(data_folder / "dsb2018")
    faint = ("93c5638e", "e5aeb5b3", "84eeec68", "00071198", "866a8cba", "0b0d5771")
    some = tuple(p for p in dataset if p.name.startswith(faint))
    result = audit(type(dataset)(dataset.folder, dataset.layout, dataset.kind, some))
    assert [f.image[:8] for f in result.findings if f.check == "noise"] == ["84eeec68", "93c5638e", "e5aeb5b3"]
