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

from cellkit.formats.rle import encode_labels
from cellkit.metrics import aji, gland, instance, matching, pixel
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


def test_instances_prints_every_object_score_with_its_rule(folders, tmp_path):
    found = document(tmp_path, *folders, "--as", "instances")
    counts = sum((matching.count(TRUTH[n], PRED[n]) for n in "bc"), matching.count(TRUTH["a"], PRED["a"]))
    assert found["value"] == found["scores"]["mean_ap"] == pytest.approx(matching.score(counts))
    assert found["scores"]["f1_at_0.75"] == pytest.approx(matching.f1(counts)[5])
    assert found["scores"]["aji"] == pytest.approx(np.mean([aji.score(aji.count(TRUTH[n], PRED[n])) for n in "abc"]))
    assert found["scores"]["dsb2018"] == pytest.approx((1 + 0.2 + 1) / 3)
    assert (found["scores"]["split"], found["scores"]["missed"], found["pooling"]) == (0, 0, "all images pooled")
    assert "IoU at least the threshold" in found["rule"]
    assert "Kirillov" in found["rules"]["pq, sq, rq"]
    assert "more than half" in found["rules"]["split, merged, missed, extra"]
    span = found["intervals"]["precision_at_0.50"]
    assert span["low"] <= found["scores"]["precision_at_0.50"] <= span["high"]
    means = document(tmp_path, *folders, "--as", "instances", "--pooling", "images", "--variant", "caicedo")
    assert means["value"] == pytest.approx(np.mean([matching.score(matching.count(TRUTH[n], PRED[n])) for n in "abc"]))
    assert means["scores"]["other_pooling"]["pooled_mean_ap"] == pytest.approx(found["value"])
    assert "IoU is above 0.1" in means["rules"]["split, merged, missed, extra"]


def test_glas_has_its_three_scores_at_the_top(folders, tmp_path):
    found = document(tmp_path, *folders, "--as", "glas")
    counts = sum((gland.count(TRUTH[n], PRED[n]) for n in TRUTH), gland.Counts())
    assert found["value"] == found["object_f1"] == pytest.approx(gland.object_f1(counts))
    assert found["object_dice"] == pytest.approx(gland.object_dice(counts))
    assert found["object_hausdorff"] == pytest.approx(gland.object_hausdorff(counts))
    assert (found["variant"], found["pooling"]) == ("v6", "all images pooled")
    assert found["object_hausdorff_infinite_images"] == 0
    tifffile.imwrite(folders[1] / "labels" / "a.tif", TRUTH["a"] * 0)
    found = document(tmp_path, *folders, "--as", "glas", "--variant", "older", "--pooling", "images")
    assert (found["object_hausdorff"], found["object_hausdorff_infinite_images"]) == (None, 1)
    assert found["scores"]["pooled_object_hausdorff_where_finite"] == 4
    assert (found["variant"], found["pooling"]) == ("older", "mean of images")
    assert "infinite" in evaluate(*folders, "--as", "glas")


def test_what_does_not_go_together_is_told_before_anything_is_read(folders, tmp_path):
    assert "by definition the mean of images" in evaluate(*folders, "--as", "dsb2018", "--pooling", "set", code=2)
    assert "has v6 and older, not 'v5'" in evaluate(*folders, "--as", "glas", "--variant", "v5", code=2)
    assert "has no variants" in evaluate(*folders, "--as", "pixel", "--variant", "v6", code=2)
    assert "--worst needs --html" in evaluate(*folders, "--as", "pixel", "--worst", 3, code=2)
    assert "belongs together" in evaluate(*folders, "--as", "pixel", "--groups", folders[0] / "a.png", code=2)


def test_intervals_over_groups_of_images(tmp_path):
    for side in ("truth", "pred"):
        (tmp_path / side).mkdir()
    lines = ["stem,slide"]
    for i in range(24):
        truth = np.kron(np.arange(1, 17, dtype=np.uint16).reshape(4, 4), np.ones((4, 4), np.uint16))
        pred = truth.copy()
        pred[: 4 * (i // 6)] = 0  # the images of one slide are alike
        Image.fromarray(truth).save(tmp_path / "truth" / f"{i}.png")
        Image.fromarray(pred).save(tmp_path / "pred" / f"{i}.png")
        lines.append(f"{i}.png,slide{i // 6}")
    table = tmp_path / "groups.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    sides = (tmp_path / "truth", tmp_path / "pred", "--as", "instances")
    groups = ("--groups", table, "--group-column", "slide")
    alone, grouped = document(tmp_path, *sides), document(tmp_path, *sides, *groups)
    assert alone["value"] == grouped["value"]
    assert "4 groups (slide)" in grouped["interval"]["method"]
    width = {name: one["interval"]["high"] - one["interval"]["low"] for name, one in (("a", alone), ("g", grouped))}
    assert width["g"] > 1.5 * width["a"]
    assert "did you mean 'slide'" in evaluate(*sides, "--groups", table, "--group-column", "slid", code=2)
    table.write_text("\n".join(lines[:-1]), encoding="utf-8")
    assert "1 images have no group, the first '23'" in evaluate(*sides, *groups, code=2)


def rle_csv(path, sides):
    rows = ["ImageId,EncodedPixels"]
    for name, labels in sides.items():
        rows += [f"{name},{text}" for text in encode_labels(labels)[1]] or [f"{name},"]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_run_length_codes_as_truth_and_prediction(folders, tmp_path):
    truth, pred = rle_csv(tmp_path / "truth.csv", TRUTH), rle_csv(tmp_path / "pred.csv", PRED)
    wanted = document(tmp_path, *folders, "--as", "instances")
    for pair in ((truth, folders[1]), (folders[0], pred)):
        assert document(tmp_path, *pair, "--as", "instances")["per_image"] == wanted["per_image"]
    found = document(tmp_path, truth, pred, "--as", "instances", "--images", folders[0])
    assert found["per_image"] == wanted["per_image"]
    text = evaluate(truth, pred, "--as", "instances", code=1)
    assert "give --images DIR" in text
    assert "objects have no pixel classes" in evaluate(truth, folders[1], "--as", "semantic", code=2)
    pred.write_text("ImageId,EncodedPixels\na,1 2 3\nb,\nc,\n", encoding="utf-8")
    found = document(tmp_path, folders[0], pred, "--as", "dsb2018", code=1)
    assert "no length" in found["failed"][0]["reason"]
    pred.write_text("name,area\na,1\n", encoding="utf-8")
    assert "wanted the columns ImageId" in evaluate(folders[0], pred, "--as", "dsb2018", code=2)


def test_the_codes_of_a_run_without_label_images(folders, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}", encoding="utf-8")
    lines = [f"{n},{folders[0] / n}.png,done,1,{a.shape[0]},{a.shape[1]}" for n, a in PRED.items()]
    (run / "images.csv").write_text("\n".join(["image,source,status,objects,height,width", *lines]), encoding="utf-8")
    rle_csv(run / "rle.csv", {"a": PRED["a"], "b": PRED["b"]})  # a table has no row for an image without objects
    assert document(tmp_path, folders[0], run, "--as", "dsb2018")["value"] == pytest.approx((1 + 0.2 + 1) / 3)


def coco_json(path, sides):
    from cellkit.formats.coco import encode_dataset
    from cellkit.formats.objects import ObjectSet

    sets = [ObjectSet.of_labels(labels, name=name) for name, labels in sides.items()]
    path.write_text(encode_dataset(sets), encoding="utf-8")
    return path


def test_coco_masks_as_labels(folders, tmp_path):
    truth, pred = coco_json(tmp_path / "truth.json", TRUTH), coco_json(tmp_path / "pred.json", PRED)
    wanted = document(tmp_path, *folders, "--as", "instances")["per_image"]
    assert document(tmp_path, truth, pred, "--as", "instances")["per_image"] == wanted
    assert document(tmp_path, truth, folders[1], "--as", "instances")["per_image"] == wanted


def test_coco_average_precision(tmp_path):
    pytest.importorskip("faster_coco_eval")
    truth, pred = coco_json(tmp_path / "truth.json", TRUTH), tmp_path / "pred.json"
    given = json.loads(truth.read_text(encoding="utf-8"))
    results = [{k: one[k] for k in ("image_id", "category_id", "bbox", "segmentation")} for one in given["annotations"]]
    pred.write_text(json.dumps(results), encoding="utf-8")
    assert "objects without scores have no AP" in evaluate(truth, pred, "--as", "coco", code=2)
    pred.write_text(json.dumps([one | {"score": 0.9} for one in results]), encoding="utf-8")
    for iou_type in ("bbox", "segm"):
        found = document(tmp_path, truth, pred, "--as", "coco", "--iou-type", iou_type, "--csv", tmp_path / "rows.csv")
        assert (found["value"], found["scores"]["AP_75"], found["scores"]["f1"]) == (1, 1, 1)
        assert found["iou_type"] == iou_type
    assert document(tmp_path, truth, pred, "--as", "coco", "--score-threshold", 0.95)["scores"]["recall"] == 0
    assert "compares COCO JSON files" in evaluate(truth, tmp_path, "--as", "coco", code=2)
    assert "is not for --as coco" in evaluate(truth, pred, "--as", "coco", "--variant", "v6", code=2)


def test_the_score_of_each_kind_of_image(tmp_path):
    truth, pred = tmp_path / "truth", tmp_path / "pred"
    for number in range(6):
        labels = np.zeros((20, 20), np.uint16)
        labels[2:8, 2:8] = 1
        found = labels if number % 2 else np.roll(labels, 2, axis=0)
        for folder, image in ((truth, labels), (pred, found)):
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    table = tmp_path / "kinds.csv"
    table.write_text("id,kind,slide\n" + "".join(f"{n}.png,{'good' if n % 2 else 'bad'},s{n // 2}\n" for n in range(6)))
    found = document(tmp_path, truth, pred, "--as", "dsb2018", "--groups", table, "--by", "kind")
    kinds = found["by"]["kind"]
    assert {name: part["images"] for name, part in kinds.items()} == {"bad": 3, "good": 3}
    assert kinds["good"]["value"] == 1 > kinds["bad"]["value"]
    assert found["value"] == pytest.approx((1 + kinds["bad"]["value"]) / 2)
    more = ("--as", "dsb2018", "--groups", table, "--by", "kind", "--group-column", "slide")
    both = document(tmp_path, truth, pred, *more)
    assert both["by"]["kind"]["bad"]["value"] == kinds["bad"]["value"]
    shown = evaluate(truth, pred, "--as", "dsb2018", "--groups", table, "--by", "kind")
    assert "kind good" in shown
    assert "did you mean 'kind'" in evaluate(truth, pred, "--as", "dsb2018", "--groups", table, "--by", "kin", code=2)
    table.write_text("id,kind\n0,x\n")
    assert "lacks 5 images, such as '1'" in evaluate(
        truth, pred, "--as", "dsb2018", "--groups", table, "--by", "kind", code=2
    )
