"""`cellkit eval`: matching files, rules in the JSON, what fails and how it ends."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from cellkit.metrics import instance, pixel
from cellkit_cli.eval import eval_command


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in rows], np.uint16)


TRUTH = {"a": grid("1122", "1122"), "b": grid("1111111111"), "c": grid("0000")}
PRED = {"a": grid("3355", "3355"), "b": grid("1111110000"), "c": grid("0000")}


@pytest.fixture
def folders(tmp_path):
    """The truth as 16-bit PNG, the predictions as TIFF in the output folder of a run."""
    truth, pred = tmp_path / "truth", tmp_path / "out"
    truth.mkdir()
    (pred / "labels").mkdir(parents=True)
    for name, labels in TRUTH.items():
        Image.fromarray(labels).save(truth / f"{name}.png")
    for name, labels in PRED.items():
        tifffile.imwrite(pred / "labels" / f"{name}.tif", labels)
    return truth, pred


def evaluate(*arguments, code: int = 0):
    """Run the command through the group, which turns errors into exit codes."""
    from cellkit_cli.main import cli

    done = CliRunner().invoke(cli, ["eval", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def document(tmp_path, *arguments, code: int = 0) -> dict:
    path = tmp_path / "score.json"
    evaluate(*arguments, "--json", path, code=code)
    return json.loads(path.read_text(encoding="utf-8"))


def test_dsb2018_of_the_output_of_a_run(folders, tmp_path):
    found = document(tmp_path, *folders, "--as", "dsb2018")
    assert found["value"] == pytest.approx((1 + 0.2 + 1) / 3)
    assert (found["images"], found["empty_images"], found["pooling"]) == (3, 1, "mean of images")
    assert "strictly greater" in found["rule"]
    assert "counts as 1" in found["rule"]
    assert [(row["image"], row["value"]) for row in found["per_image"]] == [("a", 1.0), ("b", 0.2), ("c", 1.0)]
    assert found["interval"]["low"] <= found["value"] <= found["interval"]["high"]
    assert (found["failed"], found["without_prediction"], found["without_truth"]) == ([], [], [])


@pytest.mark.parametrize(("empty", "value"), [("skip", 0.6), ("zero", 0.4)])
def test_how_empty_images_count_is_an_option(folders, tmp_path, empty, value):
    found = document(tmp_path, *folders, "--as", "dsb2018", "--empty", empty)
    assert found["value"] == pytest.approx(value)
    assert (found["empty"], found["empty_images"], found["images"]) == (empty, 1, 3)
    assert found["per_image"][2]["value"] == {"skip": None, "zero": 0}[empty]


def test_pixel_and_semantic(folders, tmp_path):
    found = document(tmp_path, *folders, "--as", "pixel")
    counts = sum((pixel.count(TRUTH[n], PRED[n]) for n in TRUTH), pixel.Counts())
    assert found["value"] == found["scores"]["pooled_dice"] == pytest.approx(2 * 14 / (2 * 14 + 4))
    assert found["scores"]["pooled_iou"] == pytest.approx(pixel.iou(counts))
    assert found["scores"]["image_mean_dice"] == pytest.approx((1 + 12 / 16 + 1) / 3)
    semantic = document(tmp_path, folders[0], folders[0], "--as", "semantic")
    assert (semantic["value"], semantic["scores"]["classes"]) == (1.0, [0, 1, 2])


def test_every_number_is_strict_json_and_csv_has_a_row_per_image(folders, tmp_path):
    path = tmp_path / "deep" / "rows.csv"
    found = document(tmp_path, *folders, "--as", "semantic", "--csv", path)
    assert found["per_image"][2]["iou_1"] is None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["a", "b", "c"]
    assert rows[2]["iou_1"] == ""
    assert [float(row["value"]) for row in rows] == [row["value"] for row in found["per_image"]]
    assert sorted(p.name for p in path.parent.iterdir()) == ["rows.csv"]


def test_images_without_partner_are_an_error_unless_allowed(folders, tmp_path):
    truth, pred = folders
    (pred / "labels" / "b.tif").rename(pred / "labels" / "other.tif")
    text = evaluate(truth, pred, "--as", "dsb2018", "--json", tmp_path / "none.json", code=2)
    assert "--allow-missing" in text
    assert "1 (b)" in text
    assert "1 (other)" in text
    assert not (tmp_path / "none.json").exists()
    found = document(tmp_path, truth, pred, "--as", "dsb2018", "--allow-missing")
    assert (found["value"], found["images"]) == (1.0, 2)
    assert (found["without_prediction"], found["without_truth"]) == (["b"], ["other"])
    assert "without prediction, left out" in evaluate(truth, pred, "--as", "dsb2018", "--allow-missing")


def test_what_cannot_be_scored_is_named_and_the_rest_is_complete(folders, tmp_path):
    truth, pred = folders
    tifffile.imwrite(pred / "labels" / "a.tif", grid("111"))
    (pred / "labels" / "c.tif").write_bytes(b"no image")
    found = document(tmp_path, truth, pred, "--as", "dsb2018", code=1)
    assert (found["images"], found["value"]) == (1, pytest.approx(0.2))
    reasons = {one["image"]: one["reason"] for one in found["failed"]}
    assert set(reasons) == {"a", "c"}
    assert "2 x 4 px but the prediction is 1 x 3 px" in reasons["a"]
    assert "c.tif" in reasons["c"]
    text = evaluate(truth, pred, "--as", "pixel", code=1)
    assert "failed: a: " in text
    assert "failed, left out" in text


def test_object_ids_are_no_classes(tmp_path):
    for side in ("truth", "pred"):
        (tmp_path / side).mkdir()
        Image.fromarray(grid("0123") * 300).save(tmp_path / side / "a.png")
    text = evaluate(tmp_path / "truth", tmp_path / "pred", "--as", "semantic", code=1)
    assert "classes lie in 0 to 255, found 900" in text
    assert "none" in text  # there is no value


def test_ome_tiff_has_one_suffix(tmp_path):
    for side in ("truth", "pred"):
        (tmp_path / side).mkdir()
    tifffile.imwrite(tmp_path / "truth" / "a.ome.tif", grid("01"))
    Image.fromarray(grid("01")).save(tmp_path / "pred" / "a.png")
    assert document(tmp_path, tmp_path / "truth", tmp_path / "pred", "--as", "dsb2018")["per_image"][0]["image"] == "a"


def test_two_files_are_compared_whatever_their_names(folders, tmp_path):
    truth, pred = folders
    found = document(tmp_path, truth / "a.png", pred / "labels" / "b.tif", "--as", "pixel", code=1)
    assert "both must have one size" in found["failed"][0]["reason"]
    assert document(tmp_path, truth / "b.png", pred / "labels" / "b.tif", "--as", "pixel")["images"] == 1
    evaluate(truth / "a.png", pred, "--as", "pixel", code=2)


def test_wrong_usage_ends_with_2(folders, tmp_path):
    truth, pred = folders
    evaluate(truth, pred, code=2)
    evaluate(truth, pred, "--as", "miou", code=2)
    evaluate(truth, tmp_path / "none", "--as", "pixel", code=2)
    (tmp_path / "empty").mkdir()
    assert "no images" in evaluate(truth, tmp_path / "empty", "--as", "pixel", code=2)
    (pred / "run.json").write_text("{}", encoding="utf-8")
    (pred / "labels").rename(pred / "overlays")
    assert "run again with --outputs labels" in evaluate(truth, pred, "--as", "dsb2018", code=2)
    (tmp_path / "else").mkdir()
    tifffile.imwrite(tmp_path / "else" / "z.tif", grid("1"))
    assert "has a partner of the same name" in evaluate(truth, tmp_path / "else", "--as", "pixel", code=2)


def test_help_has_an_example_and_importing_is_light():
    assert "cellkit eval dsb2018/labels out --as dsb2018" in CliRunner().invoke(eval_command, ["--help"]).output
    code = (
        "import sys, cellkit_cli.eval; "
        "print([m for m in ('numpy', 'cv2', 'scipy', 'rich', 'pandas', 'cellkit.metrics') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_nuclei_eroded_by_one_pixel(data_folder, tmp_path):
    import cv2

    truth, pred = tmp_path / "truth", tmp_path / "pred"
    truth.mkdir()
    pred.mkdir()
    values = []
    for path in sorted((data_folder / "dsb2018" / "labels").glob("*.png"))[:6]:
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        eroded = cv2.erode(labels, np.ones((3, 3), np.uint8))
        Image.fromarray(labels).save(truth / path.name)
        tifffile.imwrite(pred / f"{path.stem}.tif", eroded, compression="deflate")
        values.append(instance.score(instance.count(labels, eroded)))
    found = document(tmp_path, truth, pred, "--as", "dsb2018")
    assert found["value"] == pytest.approx(np.mean(values))
    assert 0.3 < found["value"] < 1
