from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cellkit.core import FormatError
from cellkit.formats import coco
from cellkit.formats._runs import merged
from cellkit.formats.objects import ObjectSet
from strategies import label_images

# pycocotools asks numpy 2 for an array in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def dataset(*annotations, size=(6, 8), **more):
    image = {"id": 3, "file_name": "plate/a.png", "height": size[0], "width": size[1]}
    lines = [{"id": i, "image_id": 3, "category_id": 2, **a} for i, a in enumerate(annotations, 11)]
    categories = [{"id": 2, "name": "cell"}, {"id": 5, "name": "debris"}]
    return json.dumps({"images": [image], "annotations": lines, "categories": categories, **more})


@settings(deadline=None, max_examples=60)
@given(st.lists(label_images(), min_size=1, max_size=3))
def test_data_set_round_trip(images):
    sets = []
    for i, labels in enumerate(images):
        made = ObjectSet.of_labels(labels, name=f"im{i}", pixel_size=(0.5, 0.25) if i else None)
        classes = tuple("ab"[k % 2] for k in range(len(made)))
        scores = np.linspace(0, 1, len(made)) / 3 if len(made) else None
        sets.append(made.with_(scores=scores, classes=classes, crowd=made.ids % 3 == 0))
    text = coco.encode_dataset(sets)
    back = coco.decode_dataset(text)
    for made, found, labels in zip(sets, back, images, strict=True):
        np.testing.assert_array_equal(found.labels(), labels)
        np.testing.assert_array_equal(found.ids, made.ids)
        np.testing.assert_array_equal(found.boxes, made.boxes)
        assert (found.name, found.pixel_size) == (made.name, made.pixel_size)
        if len(made):
            assert found.classes == made.classes
            np.testing.assert_array_equal(found.scores, made.scores)
            assert found.crowd is None or (found.crowd == made.crowd).all()
    assert coco.encode_dataset(back) == text


def test_pycocotools_reads_what_is_written(tmp_path):
    labels = np.zeros((20, 30), np.int32)
    labels[2:5, 3:9], labels[10:14, 20:22] = 4, 9
    path = tmp_path / "a.json"
    path.write_text(coco.encode_dataset([ObjectSet.of_labels(labels, name="a"), ObjectSet.of_labels(labels, name="b")]))
    theirs = COCO(str(path))
    assert len(theirs.anns) == 4
    for line in theirs.loadAnns(theirs.getAnnIds(imgIds=[2])):
        number = line.get("label", line["id"])
        np.testing.assert_array_equal(theirs.annToMask(line) > 0, labels == number)
        assert line["area"] == (labels == number).sum()
        np.testing.assert_array_equal(line["bbox"], coco_mask.toBbox(line["segmentation"]))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(st.floats(-4, 24, width=32), min_size=6, max_size=14).filter(lambda p: len(p) % 2 == 0),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_polygons_are_rasterised_as_pycocotools_does(polygons):
    height, width = 19, 17
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))) > 0
    (found,) = coco.decode_dataset(dataset({"segmentation": polygons}, size=(height, width)))
    np.testing.assert_array_equal(found.labels() > 0, theirs)


def test_every_kind_of_mask_in_one_image():
    plain = {"size": [6, 8], "counts": [6, 2, 40]}
    text = {
        "size": [6, 8],
        "counts": coco_mask.encode(np.asfortranarray(np.eye(6, 8, dtype=np.uint8)))["counts"].decode(),
    }
    (found,) = coco.decode_dataset(
        dataset(
            {"segmentation": plain, "iscrowd": 1},
            {"segmentation": text, "category_id": 5},
            {"segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]], "bbox": [1, 1, 3.5, 3]},
        )
    )
    assert found.name == "a"
    assert found.file_name == "plate/a.png"
    assert found.ids.tolist() == [11, 12, 13]
    assert found.classes == ("cell", "debris", "cell")
    assert found.crowd.tolist() == [True, False, False]
    assert found.areas.tolist() == [2, 6, 9]
    assert found.boxes.tolist() == [[1, 0, 2, 2], [0, 0, 6, 6], [1, 1, 4.5, 4]]
    assert found.categories == {"cell": 2, "debris": 5}
    assert coco.decode_dataset(coco.encode_dataset([found]))[0].classes == found.classes
    assert json.loads(coco.encode_dataset([found]))["categories"][1]["id"] == 5


def test_boxes_alone_and_results():
    (boxes,) = coco.decode_dataset(dataset({"bbox": [1, 2, 3, 4]}))
    assert boxes.runs is None
    assert boxes.boxes.tolist() == [[1, 2, 4, 6]]
    results = json.dumps([{"image_id": 3, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 0.9}])
    (found,) = coco.decode_results(results, {3: boxes})
    assert (found.name, found.classes, found.scores.tolist()) == ("a", ("debris",), [0.9])
    assert json.loads(coco.encode_results([found]))[0]["category_id"] == 5
    with pytest.raises(FormatError, match="give the data set these results belong to"):
        coco.decode_results(results)
    masks = json.dumps(
        [{"image_id": 7, "category_id": 2, "segmentation": {"size": [2, 2], "counts": "022"}, "score": 1}]
    )
    (alone,) = coco.decode_results(masks)
    assert (alone.name, alone.classes, alone.areas.tolist()) == ("7", ("2",), [2])
    with pytest.raises(FormatError, match="image 'a': COCO results need a score"):
        coco.encode_results([boxes])


def test_an_image_beyond_32_bit_counts_has_cropped_masks():
    side = 100_000
    runs = merged(
        np.array([5 * 10**9 + 7, 5 * 10**9 + 7 + side]), np.array([5 * 10**9 + 9, 5 * 10**9 + 8 + side]), np.zeros(2)
    )
    text = coco.encode_dataset([ObjectSet.of_runs(runs, (side, side), name="slide")])
    (line,) = json.loads(text)["annotations"]
    assert line["segmentation"] == {"size": [2, 2], "counts": "031", "offset": [7, 50_000]}
    assert line["bbox"] == [50_000, 7, 2, 2]
    (back,) = coco.decode_dataset(text)
    assert back.runs.starts.tolist() == runs.starts.tolist()
    assert back.runs.ends.tolist() == runs.ends.tolist()
    with pytest.raises(FormatError, match="leaves its image"):
        coco.decode_dataset(text.replace("[7,50000]", "[99999,50000]"))


def test_numbers_are_kept_where_they_are_free():
    labels = np.array([[1, 2]], np.int32)
    text = coco.encode_dataset([ObjectSet.of_labels(labels, name=n) for n in "ab"])
    assert [(a["id"], a.get("label")) for a in json.loads(text)["annotations"]] == [
        (1, None),
        (2, None),
        (3, 1),
        (4, 2),
    ]
    assert [o.ids.tolist() for o in coco.decode_dataset(text)] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            {"segmentation": {"size": [8, 6], "counts": "0"}},
            "its image has 6 x 8 (size is [height, width])",
        ),
        ({"segmentation": {"size": [6, 8], "counts": [6, 2]}}, "add up to 8 pixels, the size 6 x 8 has 48"),
        ({"segmentation": {"size": [6, 8], "counts": [-1, 49]}}, "a count of -1"),
        ({"segmentation": {"size": [6, 8], "counts": [0.5, 47.5]}}, "wanted whole numbers"),
        ({"segmentation": {"size": [6, 8], "counts": 7}}, "as text, got int"),
        ({"segmentation": {"counts": "0"}}, "a list of polygons or {size, counts}"),
        ({"segmentation": [[1, 1, 2, 2]]}, "3 points or more; got 4 numbers"),
        ({"segmentation": [[1, 1, 2, 2, 3, "a"]]}, "wanted a list of numbers"),
        ({"segmentation": [[0, 0, 1e9, 0, 0, 1e9]]}, "reaches far beyond any image"),
        ({"segmentation": []}, "has neither a segmentation nor a bbox"),
        ({"bbox": [0, 0, -1, 2]}, "wanted [x, y, width, height]"),
        ({"bbox": [0, 0, 1, 2], "category_id": 9}, "no category with the id 9"),
        ({"bbox": [0, 0, 1, 2], "score": "high"}, "wanted a number, got 'high'"),
    ],
)
def test_refusals_name_image_and_annotation(annotation, message):
    with pytest.raises(FormatError) as caught:
        coco.decode_dataset(dataset(annotation))
    assert "image 'a', annotation 11" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "wanted an object, got []"),
        ("{}", "images: wanted a list, got None"),
        (dataset({"image_id": 4, "bbox": [0, 0, 1, 1]}), "entry 1: there is no image with the id 4"),
        (dataset(images=[{"id": 1, "height": 2}]), "images, entry 1, width: wanted a number, got None"),
        (dataset(images=[{"id": 1, "height": 2, "width": 0}]), "wanted 1 or more, got 0"),
        (dataset(images=[{"id": 1, "height": 2, "width": 2}] * 2), "two images have the id 1"),
        (dataset(images=[{"id": 1, "height": 10**12, "width": 2}]), "1000000000000 x 2"),
        (dataset({"bbox": [0, 0, 1, 1]}, {"segmentation": [[0, 0, 1, 0, 1, 1]]}), "has no segmentation, others"),
        (dataset({"bbox": [0, 0, 1, 1], "score": 1}, {"bbox": [0, 0, 1, 1]}), "annotation 12: has no score, others"),
    ],
)
def test_refuses_what_is_no_data_set(text, message):
    with pytest.raises(FormatError) as caught:
        coco.decode_dataset(text)
    assert message in str(caught.value)


KEYS = st.sampled_from(["id", "size", "counts"])
PLACES = ["images", "annotations", "categories", "id", "height", "width", "file_name", "segmentation", "counts", "bbox"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(JSON, st.sampled_from(PLACES))
def test_fuzzed_data_sets_are_refused_or_lie_in_their_image(value, place):
    document = json.loads(dataset({"segmentation": {"size": [6, 8], "counts": "0`1"}, "bbox": [0, 0, 8, 6]}))
    line = document["annotations"][0]
    for holder in (document, document["images"][0], line, line["segmentation"]):
        if place in holder:
            holder[place] = value
    try:
        found = coco.decode_dataset(json.dumps(document))
    except FormatError:
        return
    for objects in found:
        assert objects.runs is None or objects.runs.ends.max(initial=0) <= objects.size[0] * objects.size[1]


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=40))
def test_fuzzed_bytes_are_refused(data):
    with pytest.raises(FormatError):
        coco.decode_dataset(data)
