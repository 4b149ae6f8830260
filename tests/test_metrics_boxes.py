"""Box and mask AP against pycocotools, by hand, and on what evaluators get wrong."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellkit.core import FormatError, UsageError
from cellkit.metrics import boxes, boxinput, boxmatch

CLASSES = [{"id": 3, "name": "red cell"}, {"id": 7, "name": "parasite"}, {"id": 8, "name": "never seen"}]


def rle(mask):
    made = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(made["size"]), "counts": made["counts"].decode()}


def ellipse(size, box):
    y, x = np.mgrid[:size, :size]
    cx, cy, rx, ry = box[0] + box[2] / 2, box[1] + box[3] / 2, box[2] / 2, box[3] / 2
    return ((x + 0.5 - cx) / rx) ** 2 + ((y + 0.5 - cy) / ry) ** 2 <= 1


def random_set(seed, images=4, most=15, size=120, masks=False):
    """Truth and results that overlap well, badly or not; several classes, crowds, equal scores."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "annotations": [], "categories": CLASSES}
    results = []
    for i in range(images):
        image = {"id": 10 * i + 5, "file_name": f"{i}.png", "height": size, "width": size}
        truth["images"].append(image)
        for _ in range(rng.integers(0, most)):
            wh = rng.integers(4, 60, 2)
            xy = rng.integers(0, size - wh + 1)
            box = [float(v) for v in (*xy, *wh)]
            category = int(rng.choice([3, 7]))
            shape = {"segmentation": rle(ellipse(size, box))} if masks else {}
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image["id"], "category_id": category, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.1), **shape}
            )  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                near = np.maximum(np.array(box) + rng.integers(-6, 7, 4) * (rng.random() < 0.7), [0, 0, 2, 2])
                near = [float(v) for v in near]
                # pycocotools takes the size of a result from its box, where it has one beside its mask.
                shape = {"segmentation": rle(ellipse(size, near))} if masks else {"bbox": near}
                results.append(
                    {"image_id": image["id"], "category_id": category if rng.random() < 0.8 else 3,
                     "score": float(rng.integers(1, 20) / 20), **shape}
                )  # fmt: skip
    return truth, results


def reference(truth, results, iou_type):
    """The twelve numbers and the evaluator of pycocotools at the same limit of detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        dt = gt.loadRes(copy.deepcopy(results)) if results else COCO()
        run = COCOeval(gt, dt, iou_type)
        run.params.maxDets = [1, 10, 100]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [math.nan if v == -1 else v for v in run.stats], run


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_the_twelve_numbers_are_those_of_pycocotools(iou_type, seed):
    truth, results = random_set(seed, masks=iou_type == "segm")
    expected, _ = reference(truth, results, iou_type)
    found = boxes.evaluate(truth, results, iou_type=iou_type, resamples=0)
    assert list(found["scores"]) == list(boxes.NUMBERS)
    np.testing.assert_allclose(list(found["scores"].values()), expected, atol=1e-12)
    assert found["value"] == found["scores"]["AP"]
    assert found["max_dets"] == [1, 10, 100]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 4), most=st.integers(1, 12))
def test_boxes_agree_with_pycocotools_on_any_data(seed, images, most):
    truth, results = random_set(seed, images, most)
    if not results:
        return
    expected, run = reference(truth, results, "bbox")
    found = boxes.evaluate(truth, results, score_threshold=0.4, resamples=0)
    np.testing.assert_allclose(list(found["scores"].values()), expected, atol=1e-12)
    for row in found["per_class"]:
        k = [c["id"] for c in CLASSES].index(row["id"])
        values = run.eval["precision"][:, :, k, 0, 2]
        values = values[values > -1]
        assert row["AP"] == pytest.approx(values.mean() if values.size else math.nan, nan_ok=True)
    # Matches at one IoU and score threshold, from what pycocotools kept of every image.
    hits = misses = truths = 0
    for one in run.evalImgs:
        if one is not None and one["aRng"] == [0, 1e10]:
            kept = np.array(one["dtScores"]) >= 0.4
            matched, ignored = one["dtMatches"][0] > 0, one["dtIgnore"][0] > 0
            hits += int((kept & matched & ~ignored).sum())
            misses += int((kept & ~matched & ~ignored).sum())
            truths += int((np.array(one["gtIgnore"]) == 0).sum())
    at = found["at_threshold"]
    assert (at["true_positives"], at["false_positives"], at["false_negatives"]) == (hits, misses, truths - hits)


@pytest.mark.parametrize("seed", range(3))
def test_resampled_ap_of_the_sample_itself_is_the_evaluators(seed):
    truth, results = random_set(seed)
    made = boxinput.checked(truth, results, "bbox")
    matches = boxmatch.match(made, 100, boxmatch.THRESHOLDS)
    ranks = [boxmatch.ranked(one, len(made.images)) for one in matches.values()]
    ones = np.ones(len(made.images), np.int64)
    values = [boxmatch.average_precision(one, ones) for one in ranks if one is not None]
    scores = boxes.evaluate(truth, results, resamples=0)["scores"]
    assert np.mean([v[0] for v in values]) == pytest.approx(scores["AP"], abs=1e-12)
    assert np.mean([v[1] for v in values]) == pytest.approx(scores["AR_max"], abs=1e-12)
    found = boxes.evaluate(truth, results, resamples=40)["intervals"]
    assert found["AP"][0] <= scores["AP"] <= found["AP"][1]
    assert found["units"] == 4


def test_weights_count_an_image_as_often():
    truth, results = random_set(5)
    twice = copy.deepcopy(truth)
    first = truth["images"][0]["id"]
    twice["images"].append({**truth["images"][0], "id": 999})
    twice["annotations"] += [{**a, "image_id": 999} for a in truth["annotations"] if a["image_id"] == first]
    again = results + [{**r, "image_id": 999} for r in results if r["image_id"] == first]
    made = boxinput.checked(truth, results, "bbox")
    weights = np.array([2, 1, 1, 1])
    parts = [boxmatch.ranked(m, 4) for m in boxmatch.match(made, 100, boxmatch.THRESHOLDS).values()]
    ap = np.mean([boxmatch.average_precision(one, weights)[0] for one in parts if one is not None])
    # Equal scores of different images may stand in another order, so the two are close, not equal.
    assert ap == pytest.approx(boxes.evaluate(twice, again, resamples=0)["value"], abs=0.02)


def test_groups_are_drawn_whole():
    truth, results = random_set(6)
    groups = {image["id"]: "a" if i < 2 else "b" for i, image in enumerate(truth["images"])}
    found = boxes.evaluate(truth, results, resamples=20, groups=groups)["intervals"]
    assert (found["units"], found["method"]) == (2, "percentile bootstrap of groups")
    with pytest.raises(UsageError, match="no group for image 5"):
        boxes.evaluate(truth, results, groups={})


def grid(n, side=10):
    """A true image of n cells that do not touch."""
    across = math.isqrt(n - 1) + 1
    return [[float(i % across * (side + 2)), float(i // across * (side + 2)), side, side] for i in range(n)]


def one_class(truth_boxes, result_boxes, size=500):
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "height": size, "width": size}],
        "categories": [{"id": 1, "name": "nucleus"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": b} for i, b in enumerate(truth_boxes)],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in result_boxes]
    return truth, results


def test_three_hundred_perfect_nuclei_score_one():
    cells = grid(300)
    truth, results = one_class(cells, [(b, 0.9) for b in cells])
    found = boxes.evaluate(truth, results)
    assert found["scores"]["AP"] == found["scores"]["AR_max"] == found["at_threshold"]["f1"] == 1.0
    assert found["max_dets"] == [1, 10, 300]
    assert reference({**truth, "annotations": [{**a, "id": a["id"] + 1, "area": 100, "iscrowd": 0} for a in
                      truth["annotations"]]}, results, "bbox")[0][0] == pytest.approx(0.337, abs=0.001)  # fmt: skip


def test_by_hand():
    # Two cells; by falling score: a hit, a miss, a hit. Precision 1 up to recall 1/2, 2/3 beyond.
    a, b = [0, 0, 10, 10], [20, 20, 10, 10]
    truth, results = one_class([a, b], [(a, 0.9), ([50, 50, 10, 10], 0.8), (b, 0.6)])
    found = boxes.evaluate(truth, results, score_threshold=0.7)
    assert found["value"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    at = found["at_threshold"]
    assert (at["true_positives"], at["false_positives"], at["false_negatives"]) == (1, 1, 1)
    assert (at["precision"], at["recall"], at["f1"]) == (0.5, 0.5, 0.5)
    assert boxes.evaluate(truth, results, score_threshold=0.6)["at_threshold"]["f1"] == pytest.approx(4 / 5)
    assert found["per_image"] == [
        {"image": "a.png", "id": 1, "value": 0.5, "true_positives": 1, "false_positives": 1, "false_negatives": 1,
         "precision": 0.5, "recall": 0.5, "f1": 0.5}
    ]  # fmt: skip
    assert found["intervals"] == {}  # one image


def test_an_iou_of_the_threshold_itself_is_a_hit():
    truth, results = one_class([[0, 0, 10, 10]], [([0, 0, 10, 5], 1.0)])
    found = boxes.evaluate(truth, results)
    assert found["scores"]["AP_50"] == 1.0
    assert found["value"] == pytest.approx(0.1)
    assert boxes.evaluate(truth, results, iou_threshold=0.51)["at_threshold"]["f1"] == 0.0


def test_confusion_of_classes():
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
            {"image_id": 1, "category_id": 2, "bbox": [30, 0, 10, 10]},
            {"image_id": 1, "category_id": 2, "bbox": [60, 0, 10, 10]},
            {"image_id": 2, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "score": 0.99},  # beside the right one: extra
        {"image_id": 1, "category_id": 1, "bbox": [30, 0, 10, 10], "score": 0.9},  # of the wrong class
        {"image_id": 1, "category_id": 1, "bbox": [60, 0, 10, 10], "score": 0.1},  # below the threshold
        {"image_id": 2, "category_id": 1, "bbox": [5, 5, 10, 10], "score": 0.9},  # on a crowd
    ]
    found = boxes.evaluate(truth, results, resamples=0)
    assert found["confusion"]["classes"] == ["RBC", "WBC", "none"]
    assert found["confusion"]["matrix"] == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert found["truth_objects"] == 3
    # Within classes, as COCO has it: one hit, two extra (the detection on the crowd is none), two missed.
    at = found["at_threshold"]
    assert (at["true_positives"], at["false_positives"], at["false_negatives"]) == (1, 2, 2)


def test_the_size_of_an_object_without_an_area_is_that_of_its_box_or_mask():
    truth, results = one_class([[0, 0, 10, 10], [50, 50, 200, 200]], [([0, 0, 10, 10], 1.0)])
    found = boxes.evaluate(truth, results)["scores"]
    assert (found["AP_small"], found["AP_large"]) == (1.0, 0.0)
    assert math.isnan(found["AP_medium"])


def test_nothing_found_and_nothing_there():
    truth, results = one_class([[0, 0, 10, 10]], [])
    found = boxes.evaluate(truth, results)
    assert (found["value"], found["at_threshold"]["recall"]) == (0.0, 0.0)
    assert math.isnan(found["at_threshold"]["precision"])
    found = boxes.evaluate({**truth, "annotations": []}, [])
    assert math.isnan(found["value"])
    assert math.isnan(found["at_threshold"]["f1"])
    assert math.isnan(boxes.evaluate({"images": [], "annotations": [], "categories": []}, [])["value"])


def test_order_names_and_numbers_of_images_do_not_matter():
    truth, results = random_set(8)
    other = copy.deepcopy(truth)
    names = {image["id"]: f"image {image['id']}" for image in truth["images"]}
    other["images"] = [{**image, "id": names[image["id"]]} for image in reversed(truth["images"])]
    other["annotations"] = [{**a, "image_id": names[a["image_id"]], "id": 0} for a in reversed(truth["annotations"])]
    renamed = [{**r, "image_id": names[r["image_id"]], "score": r["score"] + i * 1e-9} for i, r in enumerate(results)]
    again = [{**r, "score": r["score"] + i * 1e-9} for i, r in enumerate(results)]
    a = boxes.evaluate(truth, again, resamples=0)
    b = boxes.evaluate(other, renamed, resamples=0)
    assert a["scores"] == pytest.approx(b["scores"], nan_ok=True)
    assert a["confusion"] == b["confusion"]


def test_it_is_silent_and_leaves_its_arguments_alone(capfd, recwarn):
    truth, results = random_set(9, masks=True)
    before = json.dumps([truth, results])
    boxes.evaluate(truth, results, iou_type="segm", resamples=2)
    assert json.dumps([truth, results]) == before
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.parametrize("form", ["compressed", "bytes", "plain", "polygon"])
def test_every_form_of_segmentation(form):
    mask = np.zeros((20, 30), bool)
    mask[3:9, 4:14] = True
    packed = rle(mask)
    runs = boxinput._runs(packed["counts"], "").tolist()
    segmentation = {
        "compressed": packed,
        "bytes": {**packed, "counts": packed["counts"].encode()},
        "plain": {**packed, "counts": runs},
        "polygon": [[4, 3, 14, 3, 14, 9, 4, 9]],
    }[form]
    truth = {
        "images": [{"id": "a", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "gland"}],
        "annotations": [{"image_id": "a", "category_id": 1, "segmentation": segmentation}],
    }
    result = {"image_id": "a", "category_id": 1, "segmentation": packed, "score": 1.0}
    assert boxes.evaluate(truth, [result], iou_type="segm")["value"] == 1.0
    # A truth of masks serves boxes too.
    box = {"image_id": "a", "category_id": 1, "bbox": [4, 3, 10, 6], "score": 1.0}
    assert boxes.evaluate(truth, [box])["value"] == 1.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), h=st.integers(1, 40), w=st.integers(1, 40))
def test_compressed_runs_are_those_of_pycocotools(seed, h, w):
    rng = np.random.default_rng(seed)
    mask = rng.random((h, w)) < rng.random()
    runs = boxinput._runs(rle(mask)["counts"], "")
    again = coco_mask.frPyObjects({"size": [h, w], "counts": runs.tolist()}, h, w)
    assert again["counts"].decode() == rle(mask)["counts"]


REFUSED = {
    "no score": ({"score": None}, UsageError, "has no score. AP ranks objects by score"),
    "nan": ({"score": math.nan}, FormatError, "score: wanted a finite number"),
    "text": ({"score": "0.9"}, FormatError, "wanted a number, got '0.9'"),
    "other image": ({"image_id": 4}, UsageError, "no image of id 4"),
    "other class": ({"category_id": 9}, UsageError, "no class of id 9; it has 1"),
    "negative": ({"bbox": [0, 0, -1, 5]}, FormatError, "negative width or height"),
    "three": ({"bbox": [0, 0, 5]}, FormatError, r"wanted a bbox \[x, y, width, height\]"),
    "infinite": ({"bbox": [0, 0, 1e400, 5]}, FormatError, "wanted a finite number"),
    "nothing": ({"bbox": None}, FormatError, "neither bbox nor segmentation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_results(case):
    change, error, message = REFUSED[case]
    truth, results = one_class([[0, 0, 5, 5]], [([0, 0, 5, 5], 0.5)])
    with pytest.raises(error, match=message):
        boxes.evaluate(truth, [{**results[0], **change}])


SEGMENTATIONS = {
    "size": ({"size": [5, 5], "counts": "0"}, "the RLE is of size"),
    "short": ({"size": [10, 10], "counts": [50]}, "covers 50 pixels, but the image has 10 x 10"),
    "negative": ({"size": [10, 10], "counts": [-50, 150]}, "list of whole numbers from 0 up"),
    "huge": ({"size": [10, 10], "counts": [2**40]}, "list of whole numbers from 0 up"),
    "cut": ({"size": [10, 10], "counts": "PP"}, "the RLE text is damaged"),
    "wide": ({"size": [10, 10], "counts": "oooooooooo0"}, "more than 32 bits"),
    "letters": ({"size": [10, 10], "counts": "\u4e2d"}, "covers|damaged"),
    "two points": ([[0, 0, 5, 5]], "wanted polygons as"),
    "far": ([[0, 0, 5, 5, 1e9, 0]], "a polygon runs from 0 to 1e\\+09 in 10 px"),
    "number": (7, "wanted a segmentation as RLE or a list of polygons"),
}


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_refuses_segmentations(case):
    segmentation, message = SEGMENTATIONS[case]
    truth, results = one_class([[0, 0, 5, 5]], [([0, 0, 5, 5], 0.5)], size=10)
    truth["annotations"][0]["segmentation"] = [[0, 0, 5, 0, 5, 5]]
    with pytest.raises(FormatError, match=message):
        boxes.evaluate(truth, [{**results[0], "segmentation": segmentation}], iou_type="segm")


@settings(max_examples=150, deadline=None)
@given(
    counts=st.one_of(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30), st.binary(max_size=30))
)
def test_no_text_passes_as_a_wrong_mask(counts):
    try:
        runs = boxinput._runs(counts, "")
    except FormatError:
        return
    assert runs.dtype == np.int64
    assert (runs >= 0).all()


def test_refuses_what_is_no_data_set():
    with pytest.raises(FormatError, match="wanted a COCO data set with a list of 'images'"):
        boxes.evaluate({}, [])
    truth, results = one_class([[0, 0, 5, 5]], [([0, 0, 5, 5], 0.5)])
    with pytest.raises(UsageError, match="wanted a COCO result list"):
        boxes.evaluate(truth, truth)
    with pytest.raises(FormatError, match="id 1 occurs twice"):
        boxes.evaluate({**truth, "images": truth["images"] * 2}, results)
    with pytest.raises(UsageError, match="has no segmentation"):
        boxes.evaluate(truth, results, iou_type="segm")
    with pytest.raises(UsageError, match="iou_threshold"):
        boxes.evaluate(truth, results, iou_threshold=0)
