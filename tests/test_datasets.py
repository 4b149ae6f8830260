"""Published data set layouts: what `open_dataset` makes of them, and what it refuses."""

from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import CellkitError, FormatError, ReadError, UsageError
from cellkit.io import write_image, write_labels
from cellkit.io.datasets import LAYOUTS, open_dataset
from cellkit.io.datasets.truth import boxes_of

SIZE = (20, 30)


def picture(path, seed=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    write_image(path, cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC))
    return path


def labels_at(path, *boxes, size=SIZE, values=None):
    """Write a label image of rectangles (y0, x0, y1, x1)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(size, np.int32)
    for i, (y0, x0, y1, x1) in enumerate(boxes):
        labels[y0:y1, x0:x1] = values[i] if values else i + 1
    write_labels(path, labels)
    return labels


def bmp(path, array):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


# ---- one folder for each layout ----


def make_dsb2018(root):
    for seed, name in enumerate(("a1", "b2")):
        picture(root / name / "images" / f"{name}.png", seed)
        for i, box in enumerate([(0, 0, 5, 5), (5, 5, 9, 12)]):
            labels_at(root / name / "masks" / f"m{i}.png", box, values=[255])


def make_labels(root):
    for i in range(3):
        picture(root / "images" / f"f{i}.png", i)
        labels_at(root / "labels" / f"f{i}.png", (1, 2, 6, 9), (10, 10, 12, 12), values=[300, 7])
    (root / "split.csv").write_text("id,part,group,stain\nf0,train,g1,he\nf1,train,g1,he\nf2,val,g2,ihc\n")


def make_glas(root):
    rng = np.random.default_rng(0)
    for name in ("train_1", "train_2", "testA_1"):
        bmp(root / f"{name}.bmp", rng.integers(0, 255, (*SIZE, 3), np.uint8))
        labels = np.zeros(SIZE, np.uint8)
        labels[2:8, 3:9] = 5
        bmp(root / f"{name}_anno.bmp", labels)
    (root / "Grade.csv").write_text(
        "name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)\n"
        "train_1, 4, benign, adenomatous\ntrain_2, 4, benign, healthy\ntestA_1, 9, malignant, poor\n"
    )


def make_darkfield(root):
    for i in range(1, 4):
        picture(root / "images" / f"{i:03}.png", i)
        labels_at(root / "masks" / f"{i:03}.png", (0, 0, 5, 5), (8, 8, 10, 20))
    (root / "duplicates.csv").write_text("a,b\n001,003\n")


def make_voc(root):
    for i in range(2):
        picture(root / "JPEGImages" / f"im{i}.png", i)
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
            f"<ymax>{y1}</ymax></bndbox></object>"
            for name, x0, y0, x1, y1 in (("WBC", 1, 1, 10, 5), ("RBC", 21, 11, 30, 20))
        )
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"im{i}.xml").write_text(
            f"<annotation><filename>other.jpg</filename><size><width>30</width><height>20</height></size>{objects}"
            "</annotation>"
        )
    sets = root / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("im0\n")
    (sets / "val.txt").write_text("im1 1\n")


def make_bbbc041(root):
    for name, part in (("a", "training"), ("b", "test")):
        picture(root / "images" / f"{name}.png")
        entry = {
            "image": {"checksum": "ff", "pathname": f"/images/{name}.png", "shape": {"r": 20, "c": 30, "channels": 3}},
            "objects": [
                {"bounding_box": {"minimum": {"r": 2, "c": 3}, "maximum": {"r": 12, "c": 23}}, "category": "ring"}
            ],
        }
        (root / f"{part}.json").write_text(json.dumps([entry]))


def coco(images, polygons=True):
    annotations = []
    for image in images:
        for x, category in ((2, 9), (15, 4)):
            polygon = [x, 3, x + 6, 3, x + 6, 9, x, 9]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category, "bbox": [x, 3, 6, 6],
                 "area": 36, "iscrowd": 0, **({"segmentation": [polygon]} if polygons else {})}
            )  # fmt: skip
    categories = [{"id": 9, "name": "gland"}, {"id": 4, "name": "cell"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_coco(root, polygons=True):
    (root / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        picture(root / part / f"{part}_1.png")
        images = [{"id": 5, "file_name": f"{part}_1.png", "height": 20, "width": 30}]
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(coco(images, polygons)))
    (root / "annotations" / "captions.json").write_text('{"images": [], "annotations": []}')


MAKERS = {
    "dsb2018": make_dsb2018,
    "labels": make_labels,
    "glas": make_glas,
    "darkfield": make_darkfield,
    "voc": make_voc,
    "bbbc041": make_bbbc041,
    "coco": make_coco,
}


@pytest.mark.parametrize("layout", MAKERS)
def test_a_layout_is_told_by_what_the_folder_holds(tmp_path, layout):
    MAKERS[layout](tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == layout
    assert [pair.name for pair in open_dataset(tmp_path, layout=layout)] == [pair.name for pair in dataset]
    for pair in dataset:
        assert pair.truth.kind == dataset.kind
        assert pair.shape == SIZE
        assert pair.sample().layers["image"].value.shape == (*SIZE, 3)
        assert dataset[pair.name] is pair
    assert not dataset.missing


def test_dsb2018_has_one_mask_file_an_object(tmp_path):
    make_dsb2018(tmp_path)
    dataset = open_dataset(tmp_path)
    assert (dataset.kind, dataset.classes, len(dataset)) == ("instances", ("nucleus",), 2)
    labels = dataset["a1"].labels()
    assert labels.dtype == np.int32
    assert [(labels == i).sum() for i in (1, 2)] == [25, 28]
    assert dataset["a1"].boxes().xyxy.tolist() == [[0, 0, 5, 5], [5, 5, 12, 9]]
    assert [mask.shape for mask in dataset["a1"].instances().masks] == [(5, 5), (4, 7)]
    assert dataset["a1"].classes().max() == 1


def test_labels_with_a_table(tmp_path):
    make_labels(tmp_path)
    dataset = open_dataset(tmp_path)
    assert [(p.group, p.split, p.fields["stain"]) for p in dataset] == [
        ("g1", "train", "he"), ("g1", "train", "he"), ("g2", "val", "ihc"),
    ]  # fmt: skip
    assert [p.name for p in dataset.part("val")] == ["f2"]
    with pytest.raises(UsageError, match="no image belongs to the part 'test'; parts: train, val"):
        dataset.part("test")
    assert np.unique(dataset["f0"].labels()).tolist() == [0, 7, 300]
    instances = dataset["f0"].instances()
    assert instances.boxes.xyxy.tolist() == [[10, 10, 12, 12], [2, 1, 9, 6]]
    assert all(mask.all() for mask in instances.masks)
    with pytest.raises(UsageError, match="no image is called 'f00'; did you mean"):
        dataset["f00"]
    (tmp_path / "split.csv").write_text("id,part\nf0,train\nzz,train\n")
    assert open_dataset(tmp_path).notes == (
        "split.csv lists 1 images that are not here (zz ...)", "split.csv lacks 2 images (f1 ...)",
    )  # fmt: skip


def test_glas_tells_patient_and_part(tmp_path):
    make_glas(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("gland",)
    assert [(p.name, p.split, p.group) for p in dataset] == [
        ("testA_1", "testA", "9"), ("train_1", "train", "4"), ("train_2", "train", "4"),
    ]  # fmt: skip
    assert dataset["train_1"].fields["grade (GlaS)"] == "benign"
    assert np.unique(dataset["train_1"].labels()).tolist() == [0, 5]
    (tmp_path / "Grade.csv").unlink()
    assert "no Grade.csv" in open_dataset(tmp_path).notes[0]


def test_darkfield_has_classes_and_groups_of_copies(tmp_path):
    make_darkfield(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "blood cell", "bacteria")
    assert [p.group for p in dataset] == ["001", "", "001"]
    classes = dataset["002"].classes()
    assert (classes.dtype, np.unique(classes).tolist()) == (np.uint8, [0, 1, 2])
    with pytest.raises(UsageError, match="holds classes, from which no labels follow; ask for classes"):
        dataset["002"].labels()
    labels_at(tmp_path / "masks" / "002.png", (0, 0, 2, 2), values=[7])
    with pytest.raises(FormatError, match="holds the value 7; the classes are 0 background, 1 blood cell, 2 bacteria"):
        dataset["002"].classes()


def test_other_class_images_have_classes_without_names(tmp_path):
    picture(tmp_path / "images" / "x.png")
    labels_at(tmp_path / "masks" / "x.png", (0, 0, 2, 2), values=[255])
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.classes) == ("masks", ())
    assert dataset["x"].classes().max() == 255


def test_voc_counts_from_one_and_both_ends_belong_to_the_box(tmp_path):
    make_voc(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("RBC", "WBC")
    boxes = dataset["im0"].boxes()
    assert boxes.xyxy.tolist() == [[0, 0, 10, 5], [20, 10, 30, 20]]
    assert boxes.classes.tolist() == [1, 0]
    assert [p.split for p in dataset] == ["train", "val"]
    with pytest.raises(UsageError, match="holds boxes, from which no labels follow; ask for boxes"):
        dataset["im0"].labels()


def test_the_formats_read_a_voc_file_alike(tmp_path):
    from cellkit.formats import voc

    make_voc(tmp_path)
    file = tmp_path / "Annotations" / "im0.xml"
    np.testing.assert_array_equal(voc.decode(file.read_text()).boxes, open_dataset(tmp_path)["im0"].boxes().xyxy)


def test_boxes_that_are_no_boxes_are_refused_or_dropped(tmp_path):
    make_voc(tmp_path)
    file = tmp_path / "Annotations" / "im0.xml"
    file.write_text(file.read_text().replace("<xmin>1</xmin>", "<xmin>10</xmin>"))
    pair = open_dataset(tmp_path)["im0"]
    with pytest.raises(FormatError, match=r"box 1 \(WBC\) has no extent: x 9 to 9"):
        pair.boxes()
    assert pair.boxes(invalid="drop").xyxy.tolist() == [[20, 10, 30, 20]]
    file.write_text(file.read_text().replace("<xmax>30</xmax>", "<xmax>31</xmax>"))
    with pytest.raises(FormatError, match="no extent"):
        open_dataset(tmp_path)["im0"].boxes()
    assert not len(open_dataset(tmp_path)["im0"].boxes(invalid="drop"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "no sound Pascal VOC annotation"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', "declares a document type or entities"),
        ("<annotation><object><name>a</name><bndbox><xmin>two</xmin></bndbox></object></annotation>", "no sound"),
    ],
)
def test_damaged_voc_files_stop_nothing_but_themselves(tmp_path, text, message):
    make_voc(tmp_path)
    (tmp_path / "Annotations" / "im0.xml").write_text(text)
    dataset = open_dataset(tmp_path)
    assert len(dataset["im1"].boxes()) == 2
    for invalid in ("refuse", "drop"):
        with pytest.raises(FormatError, match=message):
            dataset["im0"].boxes(invalid=invalid)


def test_bbbc041_counts_rows_and_columns(tmp_path):
    make_bbbc041(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("ring",)
    assert [(p.name, p.split, p.size) for p in dataset] == [("a", "train", SIZE), ("b", "test", SIZE)]
    assert dataset["a"].boxes().xyxy.tolist() == [[3, 2, 23, 12]]
    assert [p.name for p in open_dataset(tmp_path / "test.json")] == ["b"]
    (tmp_path / "images" / "b.png").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.notes == ("test.json describes 1 images, none of which is here",)
    (tmp_path / "test.json").write_text('[{"image": {"pathname": "x"}, "objects": [{"bounding_box": 3}]}]')
    with pytest.raises(FormatError, match="entry 1 is not of the form of BBBC041: no 'shape'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("polygons", [True, False])
def test_coco(tmp_path, polygons):
    make_coco(tmp_path, polygons)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cell", "gland")  # by their numbers
    assert [(p.name, p.split) for p in dataset] == [("train2017_1", "train"), ("val2017_1", "val")]
    pair = dataset["val2017_1"]
    assert pair.boxes().xyxy.tolist() == [[2, 3, 8, 9], [15, 3, 21, 9]]
    assert pair.boxes().classes.tolist() == [1, 0]
    assert [p.name for p in open_dataset(tmp_path / "annotations" / "instances_val2017.json")] == ["val2017_1"]
    if not polygons:
        assert dataset.kind == "boxes"
        return
    document = json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())
    picture(tmp_path / "val2017" / "bare.png", 7)
    document["images"].append({"id": 6, "file_name": "bare.png", "height": 20, "width": 30})
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    bare = open_dataset(tmp_path)["bare"]
    assert not bare.labels().any()
    assert len(bare.instances()) == len(bare.boxes()) == 0
    labels = pair.labels()
    assert [(labels == i).sum() for i in (1, 2)] == [36, 36]
    assert pair.classes()[4, [3, 16]].tolist() == [2, 1]
    assert [mask.all() for mask in pair.instances().masks] == [True, True]


def test_coco_leaves_crowds_out_and_tells_of_strangers(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(document))
    assert len(open_dataset(tmp_path)["val2017_1"].boxes()) == 1
    document["annotations"][0]["image_id"] = 77
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="annotations of image 77, which `images` does not list"):
        open_dataset(tmp_path)
    document["annotations"] = [{"image_id": 5}]
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="no sound COCO data set: an entry has no 'bbox'"):
        open_dataset(tmp_path)
    document["images"][0]["file_name"] = "../../secret.png"
    document["annotations"] = []
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="may lie outside the data set"):
        open_dataset(tmp_path)


def test_two_files_on_one_image_are_not_added_up(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    (tmp_path / "annotations" / "person_val2017.json").write_text(file.read_text())
    with pytest.raises(UsageError, match=r"both describe val2017_1.png; give the file that is meant"):
        open_dataset(tmp_path)
    assert len(open_dataset(file)) == 1


# ---- what is refused ----


def test_an_unknown_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError) as caught:
        open_dataset(tmp_path)
    message = str(caught.value)
    assert "no data set of a known layout; it holds notes.txt" in message
    assert all(f"{name}: {layout.looks}" in message for name, layout in LAYOUTS.items())
    with pytest.raises(UsageError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is not of the layout 'voc': looked for annotations/"):
        open_dataset(tmp_path, layout="voc")
    with pytest.raises(UsageError, match="wanted one of auto, dsb2018"):
        open_dataset(tmp_path, layout="dsb")


def test_a_folder_of_two_layouts_wants_a_word(tmp_path):
    make_labels(tmp_path)
    picture(tmp_path / "masks" / "f0.png")
    with pytest.raises(UsageError, match="may be of the layouts labels and masks; name the one that is meant"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, layout="labels").layout == "labels"


@pytest.mark.parametrize("layout", ["dsb2018", "labels", "glas", "darkfield", "voc"])
def test_missing_truth_is_named(tmp_path, layout):
    MAKERS[layout](tmp_path)
    gone = {
        "dsb2018": "b2/masks/m0.png", "labels": "labels/f1.png", "glas": "train_2_anno.bmp",
        "darkfield": "masks/002.png", "voc": "Annotations/im1.xml",
    }[layout]  # fmt: skip
    (tmp_path / gone).unlink()
    if layout == "dsb2018":
        (tmp_path / "b2" / "masks" / "m1.png").unlink()
        (tmp_path / "b2" / "masks").rmdir()
    with pytest.raises(UsageError, match=r"1 files are missing .*: no truth"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, allow_missing=True)
    assert [m.what for m in dataset.missing] == ["truth"]
    assert len(dataset) + 1 == len(open_dataset_of(layout, tmp_path / "again"))


def open_dataset_of(layout, root):
    root.mkdir()
    MAKERS[layout](root)
    return open_dataset(root)


@pytest.mark.parametrize("layout", ["labels", "voc", "bbbc041", "coco"])
def test_missing_images_are_named(tmp_path, layout):
    if layout in ("bbbc041", "coco"):
        MAKERS[layout](tmp_path)
        file = tmp_path / ("test.json" if layout == "bbbc041" else "annotations/instances_val2017.json")
        document = json.loads(file.read_text())
        if layout == "bbbc041":
            document.append({**document[0], "image": {**document[0]["image"], "pathname": "gone.png"}})
        else:
            document["images"].append({"id": 88, "file_name": "gone.png", "height": 2, "width": 2})
        file.write_text(json.dumps(document))
    else:
        MAKERS[layout](tmp_path)
        (tmp_path / ("images/f1.png" if layout == "labels" else "JPEGImages/im1.png")).unlink()
    with pytest.raises(UsageError, match=r"1 files are missing .*: no image"):
        open_dataset(tmp_path)
    assert [m.what for m in open_dataset(tmp_path, allow_missing=True).missing] == ["image"]


def test_truth_of_another_size_is_refused_when_it_is_read(tmp_path):
    make_labels(tmp_path)
    labels_at(tmp_path / "labels" / "f1.png", (0, 0, 2, 2), size=SIZE[::-1])
    dataset = open_dataset(tmp_path)
    with pytest.raises(FormatError, match="is 30 x 20 px, but its image is 20 x 30 px"):
        dataset["f1"].labels()
    make_voc(tmp_path / "voc")
    file = tmp_path / "voc" / "Annotations" / "im0.xml"
    file.write_text(file.read_text().replace("<width>30", "<width>31"))
    with pytest.raises(FormatError, match=r"says that im0.png is 20 x 31 px, but the image is 20 x 30 px"):
        open_dataset(tmp_path / "voc")["im0"].boxes()


def test_masks_that_overlap_are_no_labels(tmp_path):
    make_dsb2018(tmp_path)
    labels_at(tmp_path / "a1" / "masks" / "m1.png", (4, 4, 9, 9), values=[255])
    pair = open_dataset(tmp_path)["a1"]
    with pytest.raises(FormatError, match=r"m1.png: shares 1 px with m0.png; labels do not overlap"):
        pair.labels()
    assert len(pair.instances()) == 2


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    make_labels(tmp_path)
    for path in (tmp_path / "images" / "f1.png", tmp_path / "labels" / "f1.png"):
        path.write_bytes(b"no picture")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 3
    with pytest.raises(ReadError):
        dataset["f1"].labels()


def test_tables_and_json_are_checked(tmp_path):
    make_labels(tmp_path)
    (tmp_path / "split.csv").write_text("name,part\nf0,train\n")
    with pytest.raises(FormatError, match="has no column 'id'; its columns are name, part"):
        open_dataset(tmp_path)
    (tmp_path / "split.csv").write_text("id,part\nf0\n")
    with pytest.raises(FormatError, match="line 2 has 1 values, the head 2"):
        open_dataset(tmp_path)
    (tmp_path / "split.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="is not UTF-8"):
        open_dataset(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x.json").write_text("[" * 100_000)
    with pytest.raises(FormatError, match="is no sound JSON"):
        open_dataset(broken)


def test_boxes_of_labels_are_those_of_scikit_image():
    from skimage.measure import regionprops

    rng = np.random.default_rng(3)
    labels = np.zeros((61, 47), np.int32)
    for i in range(40):
        y, x = rng.integers(0, 60), rng.integers(0, 46)
        labels[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = 3 * i + 1
    expected = [[r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]] for r in regionprops(labels)]
    assert boxes_of(labels).xyxy.tolist() == expected
    assert boxes_of(np.zeros((1, 1), np.int32)).xyxy.shape == (0, 4)


@st.composite
def mutated(draw, document):
    """Return a JSON document with one value, somewhere in it, replaced by another."""
    document = copy.deepcopy(document)
    at = document
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw(st.sampled_from(keys))
        inner = at[key]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 3)) == 0:
            at[key] = draw(JUNK)
            return document
        at = inner


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=8),
    st.sampled_from([[], {}, [[]], "a" * 5000, "x/\0/y", [1, 2], {"id": 5}]),
)  # fmt: skip


@pytest.mark.parametrize("layout", ["bbbc041", "coco"])
def test_damaged_json_is_refused_or_read_never_a_crash(tmp_path_factory, layout):
    root = tmp_path_factory.mktemp(layout)
    MAKERS[layout](root)
    file = root / ("test.json" if layout == "bbbc041" else "annotations/instances_val2017.json")
    sound = json.loads(file.read_text())

    @settings(max_examples=150, deadline=None)
    @given(document=mutated(sound))
    def check(document):
        file.write_text(json.dumps(document))
        try:
            for pair in open_dataset(root, layout=layout, allow_missing=True):
                pair.boxes(invalid="drop")
                if "labels" in pair.truth.gives:
                    pair.labels()
        except CellkitError:
            pass

    check()


# ---- the real data ----


def test_real_dsb2018(data_folder):
    dataset = open_dataset(data_folder / "dsb2018")
    assert (dataset.layout, len(dataset)) == ("labels", 664)
    assert len(dataset.part("val")) == 100
    assert len({pair.group for pair in dataset}) == 323
    pair = dataset.pairs[0]
    assert len(np.unique(pair.labels())) - 1 == int(pair.fields["n_objects"])


def test_real_glas(data_folder):
    dataset = open_dataset(data_folder / "glas")
    assert (dataset.layout, len(dataset), len({p.group for p in dataset})) == ("labels", 85, 15)
    assert len(np.unique(dataset["train_1"].labels())) - 1 == 7


def test_real_bacteria(data_folder):
    dataset = open_dataset(data_folder / "bacteria")
    assert (dataset.layout, len(dataset)) == ("darkfield", 257)
    assert dataset["331"].group == dataset["263"].group == "263"
    assert sum(bool(p.group) for p in dataset) == 12
    assert dataset["071"].classes().max() <= 2


def test_real_bccd(data_folder):
    dataset = open_dataset(data_folder / "bccd")
    assert (dataset.layout, len(dataset), dataset.classes) == ("voc", 292, ("Platelets", "RBC", "WBC"))
    assert sum(len(p.boxes(invalid="drop")) for p in dataset) == 3886 - 2


def test_real_bbbc041(data_folder):
    dataset = open_dataset(data_folder / "bbbc041")
    assert (dataset.layout, len(dataset)) == ("bbbc041", 5)
    assert sum(len(p.boxes()) for p in dataset) == 390
    assert dataset.notes == ("test.json describes 120 images, none of which is here",)
