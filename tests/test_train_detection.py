"""Trainings of detectors, of seconds, on drawn cells: they learn, resume exactly, and say what does not fit."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import cellkit as ck
from cellkit.core import Boxes, CellkitError, FormatError, Instances, UsageError
from cellkit.io.datasets import Pair
from cellkit.io.datasets.truth import Truth
from cellkit.metrics import boxes, instance
from cellkit.models.store import find_model, load_network
from cellkit_cli.main import cli
from objects_to_learn import CLASSES, PARAMETERS, config_of, draw, text_of, voc

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.train._objectscore import coco_protocol, objects_of, renamed  # noqa: E402
from cellkit.train.config import parse_config  # noqa: E402
from cellkit.train.detection import DetectionTask  # noqa: E402
from cellkit.train.keeper import Silent  # noqa: E402
from cellkit.train.loop import train  # noqa: E402
from cellkit.train.parts import open_crops, open_parts, with_classes  # noqa: E402
from cellkit.train.task import BATCH_FILE, Diverged, build_network  # noqa: E402
from cellkit.train.validate import Validator, figures  # noqa: E402

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {kind: draw(folder / kind, kind) for kind in ("boxes", "masks")}


@pytest.fixture
def boxed(tmp_path) -> Path:
    return draw(tmp_path / "boxed", "boxes", images=5)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def untrained(config) -> float:
    parts = open_parts(config)
    config = with_classes(config, parts)
    with Validator(config, parts.val, parts.gives, config.plain_card, CPU) as validator:
        return validator.score(build_network(config))[0].value


# They learn -----------------------------------------------------------------------------------------------------------


def test_faster_rcnn_learns_boxes_of_two_classes(data, tmp_path):
    config = config_of(data["boxes"], "boxes", {"epochs": 6, "validate": 6})
    assert config.model.classes == ()  # those of the data set, one of whose images is empty
    report = train(config, tmp_path / "run", device="cpu")
    rows = rows_of(tmp_path / "run")
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert [*rows[0]][3:7] == ["class", "box", "objectness", "proposal"]
    found = report.figures["validation"]["model"]
    assert found["score"] == "AP over IoU 0.50:0.95 (boxes)"
    assert found["low"] <= found["value"] <= found["high"]
    assert found["value"] > untrained(config) + 0.2
    assert set(found["scores"]["per_class"]) == set(CLASSES)
    assert found["scores"]["AP_50"] > found["value"]

    located = find_model(str(tmp_path / "run" / "model.safetensors"))
    card = located.card
    assert (card.task, card.head, card.classes, card.tile, card.reach) == ("boxes", "boxes", CLASSES, 64, None)
    assert card.parameters["boxes_per_image"] == 40
    assert card.parameters["anchor_sizes"] == (8.0, 16.0)
    network = load_network(located)
    assert network.roi_heads.detections_per_img == 40
    assert network.rpn.anchor_generator.sizes == ((8.0,), (16.0,))

    # The same score, of what the recipe finds with the model's file, by the evaluator itself.
    recipe = ck.Recipe.read(str(data["boxes"] / "boxes.yaml"))
    recipe = recipe.set("detect.model", str(located.path)).set("detect.score", 0.0)
    truth = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES)]}
    results = []
    for pair in open_parts(config).val:
        seen = ck.run(recipe, ck.read(pair.image))["boxes"]
        assert len(seen) > 0
        truth["images"].append({"id": pair.name, "height": 64, "width": 64})
        for layer, entries in ((pair.boxes(), truth["annotations"]), (seen, results)):
            for (x0, y0, x1, y1), score, kind in zip(layer.xyxy.tolist(), layer.scores, layer.classes, strict=True):
                box = [x0, y0, x1 - x0, y1 - y0]
                entries.append({"image_id": pair.name, "category_id": int(kind), "bbox": box, "score": float(score)})
    assert boxes.evaluate(truth, results, resamples=0)["value"] == pytest.approx(found["value"], abs=1e-3)


def test_mask_rcnn_learns_from_labels_and_runs_in_the_recipe(data, tmp_path):
    config = config_of(data["masks"], "masks", baseline="nuclei-classical")
    report = train(config, tmp_path / "run", device="cpu")
    rows = rows_of(tmp_path / "run")
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert float(rows[-1]["mask"]) < float(rows[0]["mask"])
    found = report.figures["validation"]["model"]
    assert found["score"] == "DSB2018 score"
    assert found["low"] <= found["value"] <= found["high"]
    assert found["value"] > untrained(config) + 0.2
    assert report.figures["validation"]["baseline"]["score"] == "DSB2018 score"
    model = tmp_path / "run" / "model.safetensors"
    card = find_model(str(model)).card
    assert (card.task, card.classes, card.parameters["proposals"]) == ("masks", ("object",), 60)

    images = [str(pair.image) for pair in open_parts(config).val]
    arguments = ["run", str(data["masks"] / "masks.yaml"), *images, "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(cli, [*arguments, "--set", f"detect_masks.model={model}"])
    assert done.exit_code == 0, done.output
    counts = []
    for pair in open_parts(config).val:
        (path,) = (tmp_path / "out" / "labels").glob(f"{pair.name}.*")
        labels = ck.io.read_labels(path)
        assert labels.max() > 0
        counts.append(instance.count(pair.labels(), labels))
    assert instance.score(counts[0] + counts[1]) == pytest.approx(found["value"], abs=1e-3)
    shown = CliRunner().invoke(cli, ["models", "show", str(model)])
    assert shown.exit_code == 0, shown.output
    assert "mask-rcnn" in shown.stdout


class Fatal(Silent):
    """Stops in mid-epoch."""

    def step(self, epoch: int, step: int) -> None:
        if (epoch, step) == (2, 2):
            raise RuntimeError("the light goes out")


def test_a_run_taken_up_again_ends_with_the_same_weights(data, tmp_path):
    kind = "masks"  # whose losses are those of boxes and one more
    loop = {"epochs": 3, "steps": 3, "batch": 2, "accumulate": 2, "validate": 3}
    config = config_of(data[kind], kind, loop, schedule="one_cycle", augment="light")
    train(config, tmp_path / "whole", device="cpu")
    with pytest.raises(RuntimeError, match="light goes out"):
        train(config, tmp_path / "cut", device="cpu", show=Fatal())
    assert len(rows_of(tmp_path / "cut")) == 1
    assert train(config, tmp_path / "cut", resume=True, device="cpu").epochs == 3
    one, two = (
        load_network(find_model(str(tmp_path / run / "model.safetensors"))).state_dict() for run in ("whole", "cut")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    columns = ("epoch", "step", "loss", "box", "rate", "score")
    logs = [[[row[c] for c in columns] for row in rows_of(tmp_path / run)] for run in ("whole", "cut")]
    assert logs[0] == logs[1]
    other = config_of(data[kind], kind, loop, schedule="one_cycle", augment="none")
    with pytest.raises(UsageError, match="augment changed"):
        train(other, tmp_path / "cut", resume=True, device="cpu")


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_a_batch_without_objects_teaches_too(data, tmp_path, kind):
    config = config_of(data[kind], kind, data={"folder": ".", "objects": 0.0})
    parts = open_parts(config)
    config = with_classes(config, parts)
    crops = open_crops(config, parts)
    empty = [item for item in (crops[0, i] for i in range(40)) if not len(item["target"]["boxes"])][:2]
    assert len(empty) == 2
    task = DetectionTask(config, build_network(config).train(), tmp_path)
    loss = task.training_step(DetectionTask.collate(empty), 0)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    gradient = task.network.rpn.head.cls_logits.weight.grad
    assert gradient is not None
    assert bool(gradient.any())


def test_a_loss_that_is_no_number_leaves_its_batch(data, tmp_path, monkeypatch):
    honest = DetectionTask.training_step

    def poisoned(self, batch, index):
        batch["image"][1][0, 0, 0] = math.nan
        return honest(self, batch, index)

    monkeypatch.setattr(DetectionTask, "training_step", poisoned)
    with pytest.raises(Diverged, match="not finite: c") as caught:
        train(config_of(data["masks"], "masks"), tmp_path / "run", device="cpu")
    with np.load(tmp_path / "run" / BATCH_FILE, allow_pickle=False) as kept:
        assert kept["image"].shape == (4, 1, 64, 64)
        assert len(kept["boxes"]) == len(kept["labels"]) == len(kept["crop"]) > 0
        assert kept["masks"].shape == (len(kept["boxes"]), 64, 64)
        assert kept["name"].tolist()[1] in str(caught.value)


def test_anchors_are_exact_in_lower_precision(data):
    """Bfloat16 holds every second whole number beyond 256, and torchvision's anchors take the type of the features."""
    network = build_network(config_of(data["masks"], "masks", model={
        "architecture": "mask-rcnn", "classes": ["cell"], "parameters": PARAMETERS,
    })).eval()  # fmt: skip
    seen = []
    network.rpn.anchor_generator.register_forward_hook(lambda _, __, anchors: seen.append(anchors[0]))
    with torch.inference_mode():
        network([torch.zeros(1, 40, 600)])
        with torch.autocast("cpu", torch.bfloat16):
            network([torch.zeros(1, 40, 600)])
    assert seen[1].dtype == torch.float32
    assert torch.equal(seen[0], seen[1])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_training_on_a_gpu_in_lower_precision(data, tmp_path, kind):
    config = config_of(data[kind], kind, {"precision": "auto"})
    report = train(config, tmp_path / "run", device="cuda")
    assert report.finished
    assert all(math.isfinite(float(row["loss"])) for row in rows_of(tmp_path / "run"))
    assert report.figures["validation"]["model"]["value"] > 0


# What does not fit ----------------------------------------------------------------------------------------------------


def model(**more) -> dict:
    return {"model": {"architecture": "faster-rcnn", "parameters": PARAMETERS, **more}}


def test_boxes_that_are_not_sound_are_refused_or_dropped(boxed, tmp_path):
    objects = [("disc", 10, 10, 25, 25), ("ring", 30, 30, 30, 45), ("ring", 40, 40, 55, 70)]
    for name in ("c1", "c4"):  # one to train on, one to validate on
        (boxed / "annotations" / f"{name}.xml").write_text(voc(f"{name}.png", 64, objects))
        unaudited = config_of(boxed, "boxes", data={"folder": ".", "audit": "off"})
        with pytest.raises(FormatError, match=rf"{name}\.xml: box .*has no extent"):
            train(unaudited, tmp_path / "run", device="cpu")
        with pytest.raises(CellkitError, match=rf"{name}.*has no extent"):  # the audit names them all
            train(config_of(boxed, "boxes"), tmp_path / "audited", device="cpu")
        if name == "c1":
            draw(tmp_path / "sound", "boxes", images=5)
            (boxed / "annotations" / "c1.xml").write_bytes((tmp_path / "sound/annotations/c1.xml").read_bytes())
    (boxed / "annotations" / "c1.xml").write_text(voc("c1.png", 64, objects))
    config = config_of(boxed, "boxes", {"epochs": 1, "steps": 1}, data={"folder": ".", "invalid": "drop"})
    report = train(config, tmp_path / "run", device="cpu")
    per_class = report.figures["validation"]["model"]["scores"]["per_class"]
    sound = open_parts(config).val[0]
    assert sum(one["objects"] for one in per_class.values()) == len(sound.boxes()) + 1
    parts = open_parts(config)
    crops = open_crops(with_classes(config, parts), parts)
    assert [len(picture.boxes) for picture in (crops.pictures[i] for i in range(2))] == [0, 1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"classes": ["disc", "rng"]}, r"holds objects of class ring, the config has disc, rng.*did you mean 'rng'"),
        ({"classes": ["disc"]}, r"class ring.*ignore: \[ring\]"),
    ],
)
def test_classes_that_differ_are_told_before_the_first_batch(boxed, tmp_path, more, words):
    with pytest.raises(UsageError, match=words):
        train(config_of(boxed, "boxes", **model(**more)), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_classes_are_numbered_as_the_config_has_them(boxed):
    plain = open_parts(config_of(boxed, "boxes"))
    assert plain.classes == CLASSES
    turned = open_parts(config_of(boxed, "boxes", **model(classes=["ring", "disc", "star"])))
    assert turned.classes == ("ring", "disc", "star")
    assert turned.notes == ("no image to train on holds an object of class star",)
    only = open_parts(config_of(boxed, "boxes", data={"folder": ".", "ignore": ["ring"]}))
    assert only.classes == ("disc",)
    for before, after, left in zip(plain.train, turned.train, only.train, strict=True):
        kinds = before.boxes().classes
        assert after.boxes().classes.tolist() == (1 - kinds).tolist()
        np.testing.assert_array_equal(left.boxes().xyxy, before.boxes().xyxy[kinds == 0])
    for given, words in (
        ({"ignore": ["rings"]}, "no class 'rings'; did you mean 'ring'"),
        ({"ignore": ["ring", "disc"]}, "leaves no class"),
    ):
        with pytest.raises(UsageError, match=words):
            open_parts(config_of(boxed, "boxes", data={"folder": ".", **given}))


def test_masks_of_a_coco_file_keep_to_their_classes(tmp_path):
    folder = draw(tmp_path / "coco", "boxes", images=3)
    shapes = [[10, 10, 30, 10, 30, 30, 10, 30], [20, 20, 40, 20, 40, 40, 20, 40]]  # which overlap
    document = {
        "images": [{"id": i, "file_name": f"c{i}.png", "height": 64, "width": 64} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "category_id": 1 + k, "segmentation": [shape], "bbox": [0, 0, 5, 5]}
            for i in (1, 2) for k, shape in enumerate(shapes)
        ],
    }  # fmt: skip
    (folder / "images" / "c0.png").unlink()
    for path in (*(folder / "annotations").iterdir(), folder / "split.csv"):
        path.unlink()
    (folder / "annotations").rmdir()
    (folder / "annotations.json").write_text(json.dumps(document))
    both = open_parts(config_of(folder, "masks"))
    assert both.classes == ("cell", "dust")
    one = open_parts(config_of(folder, "masks", data={"folder": ".", "ignore": ["cell"]}))
    (pair,) = one.train
    assert pair.instances().boxes.xyxy.tolist() == [[20, 20, 40, 40]]
    assert pair.instances().boxes.classes.tolist() == [0]
    for parts, name in ((both, "coco"), (one, "dsb2018")):  # masks that overlap are no labels
        config = with_classes(config_of(folder, "masks"), parts)
        recipe = yaml.safe_load((folder / "masks.yaml").read_text())
        assert "to_labels" in str(recipe)
        with Validator(config, parts.val, parts.gives, config.plain_card, CPU) as validator:
            assert validator.protocol.name == name


def test_objects_too_large_for_a_window_are_told(boxed):
    assert open_parts(config_of(boxed, "boxes")).notes == ()
    (note,) = open_parts(config_of(boxed, "boxes", {"crop": 24})).notes
    assert "up to 15 px long" in note
    assert "a crop of 32 px" in note


def test_average_precision_of_masks_by_class_and_column():
    square = Boxes(np.float32([[2, 3, 8, 9], [4, 5, 12, 11]]), np.float32([1, 1]), np.int32([0, 1]))
    truth = Instances(square, (np.ones((6, 6), bool), np.ones((6, 8), bool)))
    protocol = coco_protocol("coco", "instances", CLASSES, 0.5)
    right, wrong = objects_of(truth, (20, 20)), objects_of(truth.take(np.zeros(0, int)), (20, 20))
    assert [entry["category_id"] for entry in right.entries] == [1, 2]
    report = protocol.report({"a": protocol.count(right, right), "b": protocol.count(right, wrong)})
    assert report.value == pytest.approx(51 / 101, abs=1e-6)  # a recall of one half at full precision
    pairs = [Pair(name, Path(name), Truth(Path(name)), fields={"stain": name * 2}) for name in "ab"]
    found = figures(report, protocol, pairs, "stain")
    assert {name: (part["value"], part["images"]) for name, part in found["by_stain"].items()} == {
        "aa": (1.0, 1),
        "bb": (0.0, 1),
    }
    assert found["by_stain"]["aa"]["low"] is None  # one image tells of no other
    assert found["scores"]["per_class"]["ring"]["objects"] == 2
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    turned = renamed(truth, ("ring", "disc"), CLASSES)
    assert turned.boxes.classes.tolist() == [1, 0]
    assert turned.masks is truth.masks
    with pytest.raises(UsageError, match=r"found objects of class rings, .*did you mean 'ring'"):
        renamed(square, ("disc", "rings"), CLASSES)


def test_label_images_give_one_class(data):
    several = {"architecture": "mask-rcnn", "parameters": PARAMETERS, "classes": ["a", "b"]}
    with pytest.raises(UsageError, match=r"2 classes: the objects of .* have no classes"):
        open_parts(config_of(data["masks"], "masks", model=several))
    with pytest.raises(UsageError, match="holds boxes, which detectors of masks cannot learn from"):
        open_parts(config_of(data["boxes"], "masks"))


def test_a_recipe_or_baseline_that_cannot_be_scored_is_told_first(data, tmp_path):
    for changes, words in (
        ({"metric": "dsb2018"}, r"metric dsb2018: the recipe makes no labels"),
        ({"baseline": "nuclei-classical"}, "nuclei.* makes no boxes, which is what is scored"),
    ):
        with pytest.raises(UsageError, match=words):
            train(config_of(data["boxes"], "boxes", **changes), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "log.csv").exists()


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"loss": "dice"}, "loss", "losses of its own"),
        ({"targets": {"border": 2}}, "targets", "leave `targets` out"),
        (model(head="distance"), "model.head", "no head to choose"),
        (model(head="masks"), "model.head", "finds boxes"),
        (model(classes=["a", "a"]), "model.classes", "'a' occurs twice"),
        (model(classes=["background", "a"]), "model.classes", "background of its own"),
        ({"model": {"architecture": "faster-rcnn", "parameters": {"box_per_image": 3}}}, "model.parameters", "boxes_per_image"),  # noqa: E501
        ({"model": {"architecture": "mask-rcnn"}}, "model.architecture", "such as faster-rcnn"),
        ({"model": {"architecture": "unet-compact"}}, "model.architecture", "detector of boxes"),
        ({"metric": "coco5"}, "metric", "coco50"),
        ({"data": {"invalid": "dorp"}}, "data.invalid", "drop"),
    ],
)  # fmt: skip
def test_one_fault_of_a_config_is_told_with_its_place(data, change, place, words):
    config, faults = parse_config(text_of(data["boxes"], "boxes", **change), data["boxes"])
    assert config is None
    assert len(faults) == 1, faults
    assert str(faults[0]).startswith(f"{place}:"), faults
    assert words in str(faults[0])


def test_a_dense_network_has_no_use_for_what_detectors_need(data):
    recipe = {"cellkit": 1, "steps": ["grayscale", {"predict": {"model": "x"}}], "outputs": ["prob"]}
    (data["masks"] / "dense.yaml").write_text(yaml.safe_dump(recipe))
    config = {"recipe": "dense.yaml", "data": {"ignore": ["x"]}, "model": {"head": "boxes"}}
    _, faults = parse_config(yaml.safe_dump(config), data["masks"])
    assert {fault.where for fault in faults} == {"model.head", "data.ignore"}


def test_the_command_checks_and_shows_crops(boxed, tmp_path):
    path = boxed / "config.yaml"
    path.write_text(text_of(boxed, "boxes"))
    done = CliRunner().invoke(cli, ["train", str(path), "--check"])
    assert done.exit_code == 0, done.output
    for words in ("faster-rcnn", "boxes: disc, ring", "the detector's own", "step detect", "is sound"):
        assert words in done.stdout
    page = tmp_path / "page.html"
    done = CliRunner().invoke(cli, ["train", str(path), "--show-batch", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8").count(": boxes") >= 16
    assert page.read_text(encoding="utf-8").count("<img") >= 32
    assert "<dt>ring</dt>" in page.read_text(encoding="utf-8")
    path.write_text(text_of(boxed, "boxes", **model(classes=["disc", "rang"])))
    done = CliRunner().invoke(cli, ["train", str(path), "--check"])
    assert done.exit_code == 2
    assert "did you mean" in done.stderr
