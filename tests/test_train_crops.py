"""Crops: what is read, what is drawn, what a network is given, and that a run can be taken up again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cellkit.core import Boxes, Instances, ReadError, RecipeError, Sample, UsageError
from cellkit.core.recipe import load
from cellkit.engine import run
from cellkit.io.datasets import open_dataset
from cellkit.train import crops as crops_module
from cellkit.train._pictures import _layered, stored
from cellkit.train.augment import Augmentation
from cellkit.train.crops import (
    CropRules,
    DenseTargets,
    EpochSampler,
    Pictures,
    TrainingCrops,
    ValidationCrops,
    collate_objects,
    preprocessing,
    start_worker,
)
from cellkit.train.splits import balanced_weights, split_of
from tiny_models import tiny

SIZES = [(40, 50), (64, 64), (9, 70), (30, 31)]


pytestmark = pytest.mark.usefixtures("one_thread")


def scene(size, seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint16)
    for number in range(1, 7):
        cv2.circle(labels, (int(rng.integers(size[1])), int(rng.integers(size[0]))), 4, number, -1)
    image = np.where(labels > 0, 180, 40).astype(np.uint8) + rng.integers(0, 20, size).astype(np.uint8)
    return image, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    for name in ("images", "labels"):
        (root / name).mkdir()
    rows = ["id,part,group,modality"]
    for i, size in enumerate(SIZES):
        image, labels = scene(size, i)
        cv2.imwrite(str(root / "images" / f"i{i}.png"), image)
        cv2.imwrite(str(root / "labels" / f"i{i}.png"), labels)
        rows.append(f"i{i},train,g{i // 2},{'rare' if i == 0 else 'common'}")
    (root / "split.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder)


def pictures_of(dataset, **options):
    return Pictures(dataset.pairs, **options)


def same(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, two[key]), key
        elif isinstance(value, dict):
            same(value, two[key])
        else:
            assert value == two[key], key


RULES = CropRules(height=32, width=24, count=40, seed=5)


# What a network is given


def test_a_dense_sample(dataset):
    crops = TrainingCrops(pictures_of(dataset), RULES, Augmentation("full"), targets=DenseTargets("distance"))
    names = set()
    for i in range(len(crops)):
        sample = crops[i]
        assert sample["image"].shape == (1, 32, 24)
        assert sample["image"].dtype == torch.float32
        assert sample["labels"].shape == (32, 24)
        assert sample["labels"].dtype == torch.int32
        assert sample["maps"].shape == (3, 32, 24)
        assert sample["weight"].shape == (32, 24)
        # Objects are what the interior and the border are of.
        assert torch.equal(sample["labels"] > 0, sample["maps"][:2].sum(0) > 0)
        names.add(sample["name"])
    assert names == {"i0", "i1", "i2", "i3"}
    with pytest.raises(IndexError):
        crops[len(crops)]


def test_without_augmentation_a_crop_is_a_part_of_its_image(dataset):
    crops = TrainingCrops(pictures_of(dataset), RULES)
    images = {pair.name: (pair.sample()["image"][..., 0], pair.labels()) for pair in dataset}
    found = 0
    for i in range(len(crops)):
        sample = crops[i]
        image, labels = images[sample["name"]]
        if image.shape[0] < 32:
            continue
        crop = sample["image"][0].numpy()
        match = cv2.matchTemplate(image, crop, cv2.TM_SQDIFF)
        row, column = np.unravel_index(np.argmin(match), match.shape)
        assert np.array_equal(image[row : row + 32, column : column + 24], crop)
        assert np.array_equal(labels[row : row + 32, column : column + 24], sample["labels"].numpy())
        found += 1
    assert found > 15


def test_images_smaller_than_the_crop_are_mirrored(dataset):
    rules = CropRules(height=90, width=90, count=8)
    for sample in map(TrainingCrops(pictures_of(dataset), rules).__getitem__, range(8)):
        assert sample["image"].shape == (1, 90, 90)
        labels, image = sample["labels"], sample["image"][0]
        assert len(torch.unique(labels)) > 6  # mirrored objects have numbers of their own
        assert (image[labels > 0] > 0.6).all()
        assert (image[labels == 0] < 0.3).all()


def test_crops_prefer_objects(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    labels = np.zeros((300, 300), np.uint16)
    labels[200:206, 40:46] = 1
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((300, 300), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), labels)
    pictures = Pictures(open_dataset(tmp_path).pairs)
    for share in (0.0, 0.5, 1.0):
        crops = TrainingCrops(pictures, CropRules(height=30, width=30, count=60, objects=share))
        hit = [bool((crops[i]["labels"] > 0).any()) for i in range(60)]
        assert abs(np.mean(hit) - share) < 0.2
    # The object lies anywhere in the crop.
    rows = [np.nonzero(crops[i]["labels"].numpy())[0].mean() for i in range(60)]
    assert np.std(rows) > 5


def test_weights_balance_a_column(dataset):
    weights = balanced_weights(split_of(dataset).values("modality"))
    rules = CropRules(height=8, width=8, count=120)
    crops = TrainingCrops(pictures_of(dataset), rules, weights=weights)
    drawn = Counter(crops.order(3).tolist())
    assert drawn[0] in (59, 60, 61)
    assert all(19 <= drawn[i] <= 21 for i in (1, 2, 3))
    assert not np.array_equal(crops.order(3), crops.order(4))
    even = Counter(TrainingCrops(pictures_of(dataset), rules).order(0).tolist())
    assert set(even.values()) <= {29, 30, 31}
    never = TrainingCrops(pictures_of(dataset), rules, weights=[0, 1, 0, 1])
    assert set(never.order(0).tolist()) == {1, 3}
    for wrong in ([1, 1], [0, 0, 0, 0], [1, 1, 1, -1], [1, 1, 1, np.nan]):
        with pytest.raises(UsageError, match="weights"):
            TrainingCrops(pictures_of(dataset), rules, weights=wrong)


# Taking up again


def test_crops_hang_on_seed_epoch_and_index_alone(dataset):
    def make(seed=5):
        rules = CropRules(height=24, width=24, count=10, seed=seed)
        return TrainingCrops(pictures_of(dataset), rules, Augmentation("full"), targets=DenseTargets("border"))

    crops = make()
    every = {(e, i): crops[e, i] for e in (0, 1) for i in range(10)}
    other = make()
    for key in [(1, 7), (0, 3), (1, 0), (0, 9)]:  # another order, another object
        same(other[key], every[key])
    other.epoch = 1
    same(other[4], every[1, 4])
    assert not torch.equal(every[0, 2]["image"], every[1, 2]["image"])
    assert not torch.equal(make(6)[0, 2]["image"], every[0, 2]["image"])


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of Python 3.12 on, where it forks
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_crops_and_leave_the_cache_alone(dataset, method):
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    rules = CropRules(height=24, width=24, count=9, seed=1)
    pictures = pictures_of(dataset)
    pictures.fill(threads=2)
    crops = TrainingCrops(pictures, rules, Augmentation("light"), targets=DenseTargets("distance"))
    wanted = [crops[2, i] for i in range(2, 9)]
    loader = DataLoader(
        crops, batch_size=1, sampler=EpochSampler(9, epoch=2, start=2), num_workers=1, worker_init_fn=start_worker,
        multiprocessing_context=method,
    )  # fmt: skip
    for batch, one in zip(loader, wanted, strict=True):
        assert torch.equal(batch["image"][0], one["image"])
        assert torch.equal(batch["maps"][0], one["maps"])
        assert batch["name"] == [one["name"]]
    assert pictures.cached == 4
    same(crops[2, 5], wanted[3])


def test_the_sampler():
    sampler = EpochSampler(10, start=4)
    assert list(sampler) == [(0, i) for i in range(4, 10)]
    assert len(sampler) == 6
    sampler.set_epoch(0)
    assert len(sampler) == 6
    sampler.set_epoch(3)
    assert list(sampler) == [(3, i) for i in range(10)]
    parts = [list(EpochSampler(11, epoch=1, start=1, rank=rank, world=3)) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert sorted(one for part in parts for one in part) == [(1, i) for i in range(1, 10)]
    for wrong in ({"start": 12}, {"rank": 1}, {"epoch": -1}):
        with pytest.raises(UsageError, match="sampler"):
            EpochSampler(11, **wrong)


# The cache


def test_stored_values_are_exact_where_they_can_be():
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        whole = rng.integers(0, np.iinfo(dtype).max, (20, 20, 2), endpoint=True).astype(dtype)
        image = Sample.of(whole)["image"]
        kept = stored(np.array(image))
        assert kept.dtype == dtype
        assert np.array_equal(kept, whole)
    image = rng.random((20, 20, 1), np.float32)
    assert stored(image).dtype == np.float16
    assert np.allclose(stored(image), image, rtol=2**-11)
    assert np.array_equal(stored(image, half=False), image)
    assert stored(image * np.float32(1e6)).dtype == np.float32


def test_the_budget_is_kept_and_changes_nothing(dataset, tmp_path):
    rules = CropRules(height=24, width=24, count=12)
    wanted = TrainingCrops(pictures_of(dataset), rules)
    for options, cached in (({"memory": 9000}, range(1, 4)), ({"memory": 0}, [0]), (
        {"memory": 5000, "folder": tmp_path / "kept"}, [4])):  # fmt: skip
        pictures = pictures_of(dataset, **options)
        seen = []
        pictures.fill(threads=1, told=lambda done, of, seen=seen: seen.append((done, of)))
        assert seen[-1] == (4, 4)
        assert pictures.cached in cached
        assert pictures.used <= options["memory"]
        crops = TrainingCrops(pictures, rules)
        for i in range(12):
            same(crops[i], wanted[i])
    assert list((tmp_path / "kept").iterdir())
    del pictures, crops
    assert not list((tmp_path / "kept").iterdir())


# Preprocessing


def test_preprocessing_is_what_a_run_does(dataset):
    recipe = load(
        "cellkit: 1\nsteps:\n  - invert\n  - gaussian: {sigma: 2}\n  - tile: {size: 64, halo: 16}\n    steps:\n"
        "      - invert\n      - otsu: {}\n        name: here\n"
    )
    made = preprocessing(recipe, "here")
    assert made.layer == "image"
    direct = load("cellkit: 1\nsteps: [invert, gaussian: {sigma: 2}, {invert: {}, out: seen}]\noutputs: [seen]\n")
    pictures = pictures_of(dataset, preprocessing=made, half=False)
    for i, pair in enumerate(dataset):
        assert np.array_equal(pictures[i].image, run(direct, pair.sample())["seen"])


def test_preprocessing_resizes_image_and_truth(dataset):
    recipe = load(
        "cellkit: 1\nsteps:\n  - invert\n  - resize: {factor: 0.5}\n    steps: [gaussian: {sigma: 1}, otsu]\n"
    )
    pictures = pictures_of(dataset, preprocessing=preprocessing(recipe, "otsu"))
    for i, pair in enumerate(dataset):
        assert pictures.shape(i) == tuple(max(1, round(side / 2)) for side in pair.shape)
        picture = pictures[i]
        assert picture.shape == picture.labels.shape == pictures.shape(i)
        dark = picture.image[..., 0].astype(np.float32) < 0.5
        assert (dark == (picture.labels > 0)).mean() > 0.9


def test_faults_of_preprocessing():
    with pytest.raises(UsageError, match="did you mean 'otsu'"):
        preprocessing(load("cellkit: 1\nsteps: [otsu]\n"), "otsy")
    with pytest.raises(UsageError, match="2 steps are called 'invert'"):
        preprocessing(load("cellkit: 1\nsteps: [invert, invert]\n"), "invert")
    with pytest.raises(RecipeError, match="put it before"):
        preprocessing(load("cellkit: 1\nsteps:\n  - tile: {size: 64}\n    steps: [clahe, otsu]\n"), "otsu")
    with pytest.raises(RecipeError, match="did you mean 'sigma'"):
        preprocessing(load("cellkit: 1\nsteps: [gaussian: {sigm: 1}, otsu]\n"), "otsu")
    first = preprocessing(load("cellkit: 1\nsteps: [otsu]\n"), "otsu")
    assert first.layer == "image"
    sample = Sample.of(np.ones((3, 4), np.float32))
    assert np.array_equal(first.image(sample), sample["image"])


# Judging


@pytest.mark.parametrize("size", [(24, 24), (17, 64), (100, 100)])
def test_validation_counts_every_pixel_once(dataset, size):
    pictures = pictures_of(dataset)
    crops = ValidationCrops(pictures, size, targets=DenseTargets("distance"))
    total, objects = Counter(), Counter()
    for sample in map(crops.__getitem__, range(len(crops))):
        assert sample["image"].shape[1:] == size
        total[sample["name"]] += int(sample["weight"].sum())
        objects[sample["name"]] += int(((sample["labels"] > 0) & (sample["weight"] > 0)).sum())
    for pair in dataset:
        assert total[pair.name] == np.prod(pair.shape)
        assert objects[pair.name] == np.count_nonzero(pair.labels())


def test_validation_of_whole_images(dataset):
    crops = ValidationCrops(pictures_of(dataset), divisor=16, targets=DenseTargets("sigmoid"))
    assert len(crops) == 4
    for i, pair in enumerate(dataset):
        sample = crops[i]
        assert all(side % 16 == 0 for side in sample["image"].shape[1:])
        assert sample["shape"].tolist() == list(pair.shape)
        assert sample["weight"].sum() == np.prod(pair.shape)
        at = sample["weight"] > 0
        assert np.array_equal(sample["labels"][at].numpy().reshape(pair.shape), pair.labels())


# Classes


@pytest.fixture(scope="module")
def class_dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(6):
        mask = np.zeros((60, 60), np.uint8)
        mask[10:50, 10:50] = 1
        if i == 0:
            mask[30:33, 30:33] = 2
        cv2.imwrite(str(root / "images" / f"a{i}.png"), mask * 100)
        cv2.imwrite(str(root / "masks" / f"a{i}.png"), mask)
    return open_dataset(root)


def test_classes_of_pixels(class_dataset):
    pictures = Pictures(class_dataset.pairs, truth="classes")
    rules = CropRules(height=20, width=20, count=60, objects=1.0, balance_classes=True)
    crops = TrainingCrops(pictures, rules, Augmentation("flips", mirrored="same"),
                          targets=DenseTargets("softmax", count=2))  # fmt: skip
    rare = 0
    for sample in map(crops.__getitem__, range(60)):
        assert torch.equal(sample["classes"].int(), sample["labels"])
        rare += bool((sample["labels"] == 2).any())
    plain = TrainingCrops(pictures, CropRules(height=20, width=20, count=60))
    assert rare >= 28
    assert sum(bool((plain[i]["labels"] == 2).any()) for i in range(60)) < 12
    with pytest.raises(UsageError, match="mirrored='same'"):
        TrainingCrops(pictures, rules, Augmentation("flips"))
    mirrored = TrainingCrops(pictures, CropRules(height=90, width=90, count=2))[0]["labels"]
    assert set(torch.unique(mirrored).tolist()) <= {0, 1, 2}


# Detectors


@pytest.fixture(scope="module")
def coco_dataset(tmp_path_factory):
    """Three images: two overlapping objects of two classes, one object, none."""
    root = tmp_path_factory.mktemp("coco")
    (root / "images").mkdir()
    images, annotations = [], []
    squares = {1: [(10, 10, 20, 1), (20, 20, 20, 2)], 2: [(5, 30, 12, 1)], 3: []}
    for number, own in squares.items():
        cv2.imwrite(str(root / "images" / f"c{number}.png"), np.full((64, 64), 90, np.uint8))
        images.append({"id": number, "file_name": f"c{number}.png", "height": 64, "width": 64})
        for x, y, side, kind in own:
            polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": kind, "iscrowd": 0, "area": side**2,
                 "bbox": [x, y, side, side], "segmentation": [polygon]}
            )  # fmt: skip
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (root / "all.json").write_text(text)
    return open_dataset(root, layout="coco")


@pytest.mark.parametrize("truth", ["boxes", "instances"])
def test_targets_of_detectors(coco_dataset, truth):
    pictures = Pictures(coco_dataset.pairs, truth=truth)
    task = "masks" if truth == "instances" else "boxes"
    whole = ValidationCrops(pictures, task=task)
    target = whole[0]["target"]
    order = torch.argsort(target["boxes"][:, 0])
    assert target["boxes"][order].tolist() == [[10, 10, 30, 30], [20, 20, 40, 40]]
    assert target["labels"][order].tolist() == [1, 2]
    assert target["area"].tolist() == [400, 400]
    assert target["labels"].dtype == torch.int64
    assert target["boxes"].dtype == torch.float32
    empty = whole[2]["target"]
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].shape == (0,)
    if task == "masks":
        assert empty["masks"].shape == (0, 64, 64)
        first = target["masks"][order[0]].numpy()
        assert first.sum() == 400  # all of it, though the other lies over it
        assert first[10:30, 10:30].all()
    crops = TrainingCrops(pictures, CropRules(height=40, width=40, count=30), Augmentation("full"), task=task)
    batch = collate_objects([crops[i] for i in range(30)])
    assert len(batch["image"]) == len(batch["target"]) == 30
    for one in batch["target"]:
        boxes = one["boxes"]
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((boxes >= 0) & (boxes <= 40)).all()
        assert (one["area"] >= 4).all()
        assert len(boxes) == len(one["labels"]) == len(one["iscrowd"])
        for box, mask in zip(boxes.int().tolist(), one.get("masks", []), strict=False):
            rows, columns = np.nonzero(mask.numpy())
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box
    assert any(len(one["boxes"]) == 0 for one in batch["target"])
    assert {kind for one in batch["target"] for kind in one["labels"].tolist()} == {1, 2}


def test_detectors_learn_from_them(coco_dataset):
    pictures = Pictures(coco_dataset.pairs, truth="instances")
    crops = TrainingCrops(pictures, CropRules(height=64, width=64, count=3), task="masks")
    batch = collate_objects([crops[i] for i in range(3)])
    assert min(len(target["boxes"]) for target in batch["target"]) == 0
    losses = tiny("mask-rcnn", 1, 2).train()(batch["image"], batch["target"])
    assert "loss_mask" in losses
    assert all(torch.isfinite(value) for value in losses.values())


def test_layers_hold_all_of_overlapping_objects():
    boxes = Boxes(np.array([[0, 0, 6, 6], [3, 3, 9, 9], [7, 0, 12, 5]], np.float32), np.ones(3, np.float32),
                  np.zeros(3, np.int32))  # fmt: skip
    masks = (np.ones((6, 6), bool), np.ones((6, 6), bool), np.ones((5, 5), bool))
    layers = _layered(Instances(boxes, masks), (10, 10))
    assert layers.shape == (2, 10, 10)
    assert [(layers == n).sum() for n in (1, 2, 3)] == [36, 36, 15]  # what lies outside is not there
    assert _layered(Instances(boxes.take(np.zeros(0, int)), ()), (4, 5)).shape == (1, 4, 5)


# Faults


def test_wrong_use(dataset, class_dataset, coco_dataset, tmp_path):
    with pytest.raises(UsageError, match="there are no images"):
        Pictures(())
    with pytest.raises(UsageError, match="truth: wanted one of labels"):
        pictures_of(dataset, truth="label")
    with pytest.raises(UsageError, match="dense needs labels or classes or instances"):
        TrainingCrops(Pictures(coco_dataset.pairs, truth="boxes"), RULES)
    with pytest.raises(UsageError, match="masks needs labels or instances"):
        ValidationCrops(Pictures(class_dataset.pairs, truth="classes"), task="masks")
    with pytest.raises(UsageError, match="task: wanted one of"):
        TrainingCrops(pictures_of(dataset), RULES, task="sparse")
    with pytest.raises(UsageError, match="makes its own targets"):
        TrainingCrops(pictures_of(dataset), RULES, task="boxes", targets=DenseTargets("border"))
    with pytest.raises(UsageError, match="crops: objects"):
        CropRules(objects=1.5)
    with pytest.raises(UsageError, match="at least 1 px"):
        ValidationCrops(pictures_of(dataset), (0, 3))
    with pytest.raises(UsageError, match="no labels follow"):
        Pictures(class_dataset.pairs, truth="labels")[0]
    recipe = load("cellkit: 1\nread: {crop: [0, 0, 5, 5]}\nsteps: [otsu]\n")
    with pytest.raises(UsageError, match="read: crop"):
        pictures_of(dataset, preprocessing=preprocessing(recipe, "otsu"))


def test_a_damaged_image_is_named(dataset, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(dataset.pairs[0].image.read_bytes()[:60])
    pictures = Pictures([replace(dataset.pairs[0], image=path)])
    with pytest.raises(ReadError, match=r"bad\.png"):
        pictures[0]
    with pytest.raises(ReadError, match=r"bad\.png"):
        pictures.fill(threads=1)


def test_names_are_public():
    assert all(hasattr(crops_module, name) for name in crops_module.__all__)
