"""Files of objects, `cellkit convert`, and the outputs of a run that use the same code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from cellkit.core import FormatError, UsageError, WriteError
from cellkit.core.check import bind
from cellkit.core.recipe import parse
from cellkit.formats.objects import ObjectSet
from cellkit.io import read_labels, write_image, write_labels
from cellkit.io.objects import FORMATS, Images, infer_format, read_objects
from cellkit.io.objectwriter import write_objects
from cellkit_cli.convert import _FORMATS, convert_command
from cellkit_cli.main import cli


def convert(*arguments, code=0):
    done = CliRunner().invoke(cli, ["convert", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def labels():
    """Two images: objects that touch, a hole, a fragment, a corner touch; and one without objects."""
    first = np.zeros((20, 30), np.int32)
    first[2:9, 2:9], first[4:6, 4:6] = 1, 0
    first[2:9, 9:12], first[15, 20] = 3, 3
    first[9, 12], first[10, 13] = 7, 7
    return {"a1": first, "a2": np.zeros((5, 7), np.int32)}


@pytest.fixture
def folder(tmp_path, labels):
    for name, array in labels.items():
        (tmp_path / "truth").mkdir(exist_ok=True)
        (tmp_path / "images").mkdir(exist_ok=True)
        write_labels(tmp_path / "truth" / f"{name}.tif", array, (0.5, 0.25))
        write_image(tmp_path / "images" / f"{name}.png", np.zeros(array.shape, np.uint8), (0.5, 0.25))
    return tmp_path


def same_labels(path, labels):
    assert sorted(p.stem for p in path.iterdir()) == sorted(labels)
    for name, array in labels.items():
        np.testing.assert_array_equal(read_labels(path / f"{name}.tif"), array)


def test_the_command_knows_every_format():
    assert tuple(FORMATS) == _FORMATS
    assert convert_command.name == "convert"


@pytest.mark.parametrize(("middle", "form"), [("m.json", "coco"), ("m", "geojson"), ("m", "rois"), ("m", "labels")])
def test_labels_to_any_exact_format_and_back(folder, labels, middle, form):
    done = convert(folder / "truth", folder / middle, "--to", form)
    assert "2 images, 3 objects" in done.output
    assert "dropped" not in done.stderr
    assert infer_format(folder / middle) == form
    assert "dropped" not in convert(folder / middle, folder / "back", "--to", "labels").stderr
    same_labels(folder / "back", labels)
    assert all(o.pixel_size == (0.5, 0.25) for o in read_objects(folder / "back"))
    before = (folder / middle).read_bytes() if form == "coco" else None
    convert(folder / "truth", folder / middle, "--to", form)
    assert before is None or (folder / middle).read_bytes() == before


def test_kaggle_needs_the_images_and_says_what_it_drops(folder, labels):
    done = convert(folder / "truth", folder / "s.csv")
    assert "cannot hold it: the numbers of 3 objects" in done.stderr
    assert "cannot hold it: the pixel size of 2 images" in done.stderr
    assert (folder / "s.csv").read_text().splitlines()[0] == "ImageId,EncodedPixels"
    assert "--images" in convert(folder / "s.csv", folder / "back", "--to", "labels", code=2).stderr
    convert(folder / "s.csv", folder / "back", "--to", "labels", "--images", folder / "images")
    same_labels(folder / "back", {n: np.searchsorted([0, 1, 3, 7], a) for n, a in labels.items()})
    assert "fit for 2 images" in convert(folder / "s.csv", "--check", "--images", folder / "images").output
    (folder / "s.csv").write_text("ImageId,EncodedPixels\na1,601 1\n")
    done = convert(folder / "s.csv", "--check", "--images", folder / "images", code=1)
    assert "1 of 2 images are missing: a2" in done.stderr
    assert "starts at 601, beyond the image" in done.stderr
    assert "2 faults" in done.output


def test_classes_and_scores_survive(folder):
    boxes = np.array([[1, 2, 5, 9], [0.5, 0, 30, 20]])
    objects = ObjectSet.of_boxes(boxes, (20, 30), "a1").with_(
        classes=("RBC", "WBC"), scores=np.array([0.9, 1 / 3]), categories={"WBC": 4, "RBC": 9}
    )
    write_objects(folder / "a.json", [objects], "coco")
    convert(folder / "a.json", folder / "yolo")
    assert (folder / "yolo" / "classes.txt").read_text() == "WBC\nRBC\n"
    convert(folder / "yolo", folder / "voc", "--images", folder / "images")
    convert(folder / "voc", folder / "b.json")
    convert(folder / "b.json", folder / "r.json", "--to", "coco-results")
    convert(folder / "r.json", folder / "c.json", "--to", "coco", "--images", folder / "b.json")
    (found,) = read_objects(folder / "c.json")
    assert found.boxes.tolist() == boxes.tolist()
    assert found.classes == ("RBC", "WBC")
    assert found.scores.tolist() == [0.9, 1 / 3]
    assert "wanted" not in convert(folder / "a.json", folder / "d.json").stderr
    assert (folder / "d.json").read_bytes() == (folder / "a.json").read_bytes()
    assert "labels need masks" in convert(folder / "a.json", folder / "l", "--to", "labels", code=2).stderr


def test_masks_to_boxes_says_so(folder):
    done = convert(folder / "truth", folder / "v", "--to", "voc")
    assert "the masks of 3 objects (their boxes remain)" in done.stderr
    (found, _) = read_objects(folder / "v")
    assert found.boxes.tolist() == [[2, 2, 9, 9], [9, 2, 21, 16], [12, 9, 14, 11]]


def test_single_files_and_suffixes(folder, labels):
    convert(folder / "truth" / "a1.tif", folder / "x.geojson")
    convert(folder / "x.geojson", folder / "x.zip")
    convert(folder / "x.zip", folder / "x.tif")
    np.testing.assert_array_equal(read_labels(folder / "x.tif"), labels["a1"])
    assert "several images" in convert(folder / "truth", folder / "y.geojson", code=2).stderr
    assert "say --to" in convert(folder / "truth", folder / "y", code=2).stderr
    assert "give DST" in convert(folder / "truth", code=2).stderr
    assert not list(folder.glob(".cellkit*"))


def test_damage_is_named_and_leaves_nothing_behind(folder):
    (folder / "bad.json").write_text('{"images":[{"id":1}]}')
    done = convert(folder / "bad.json", folder / "o.json", code=2)
    assert f"{folder / 'bad.json'}: COCO JSON: images, entry 1, height" in done.stderr.replace("\n", "")
    assert not (folder / "o.json").exists()
    (folder / "bad.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="no text in UTF-8"):
        list(read_objects(folder / "bad.csv"))
    (folder / "z.csv").write_text("ImageId,EncodedPixels\nzz,\n")
    with pytest.raises(UsageError, match="no image 'zz'"):
        list(read_objects(folder / "z.csv", images=Images(folder / "images")))


def test_images_of_one_name(folder, labels):
    sets = [ObjectSet.of_labels(labels["a1"], name="a1").with_(file_name=f"{p}/a1.png") for p in ("p1", "p2")]
    write_objects(folder / "two.json", sets, "coco")
    assert [o.name for o in read_objects(folder / "two.json")] == ["p1__a1", "p2__a1"]
    with pytest.raises(WriteError, match="two images have this name"):
        write_objects(folder / "two", sets, "rois")
    hostile = ObjectSet.of_labels(labels["a1"], name="../../a1")
    write_objects(folder / "safe", [hostile], "geojson")
    assert [p.suffix for p in (folder / "safe").iterdir()] == [".geojson"]


def test_a_run_writes_them_and_can_be_converted(tmp_path):
    import cellkit as ck
    from cellkit.engine.batch import Settings, run_batch

    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        image = np.kron(rng.random((6, 7)) > 0.6, np.ones((5, 5))).astype(np.uint8) * 200
        write_image(tmp_path / "in" / f"{name}.png", image, (0.5, 0.5))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "cellkit: 1\nname: t\nsteps: [grayscale, otsu, components, measure]\n"
        "outputs: [labels, rle, coco, geojson, rois, table]\n"
    )
    out = tmp_path / "out"
    run_batch(ck.Recipe.read(str(recipe)), [tmp_path / "in"], out, settings=Settings(workers=2))
    wanted = {n: read_labels(out / "labels" / f"{n}.tif") for n in "ab"}
    images = Images(tmp_path / "in")
    for source in ("labels", "geojson", "rois", "coco.json", "rle.csv"):
        for objects in read_objects(out / source, images=images):
            np.testing.assert_array_equal(objects.labels() > 0, wanted[objects.name] > 0)
            assert len(objects) == len(np.unique(wanted[objects.name])) - 1
            assert objects.pixel_size == (0.5, 0.5)
            if source != "rle.csv":
                np.testing.assert_array_equal(objects.labels(), wanted[objects.name])
    first = (out / "coco.json").read_bytes()
    assert [i["file_name"] for i in json.loads(first)["images"]] == ["a.png", "b.png"]
    run_batch(ck.Recipe.read(str(recipe)), [tmp_path / "in"], out, settings=Settings(workers=1, fresh=True))
    assert (out / "coco.json").read_bytes() == first
    run_batch(ck.Recipe.read(str(recipe)), [tmp_path / "in"], out)  # everything kept, the tables made again
    assert (out / "coco.json").read_bytes() == first
    assert "2 images" in convert(out, tmp_path / "again.json").output


def test_objects_without_a_pixel_are_told_of(folder):
    points = [[1.6, 1.6], [1.9, 1.6], [1.9, 1.9], [1.6, 1.6]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [points]}, "properties": {}}
    (folder / "a1.geojson").write_text(json.dumps([feature]))
    done = convert(folder / "a1.geojson", folder / "a1.zip", "--images", folder / "images")
    assert "1 objects without a pixel" in done.stderr
    (found,) = read_objects(folder / "a1.zip")
    assert len(found) == 0


@pytest.mark.parametrize("output", ["rle", "coco", "geojson", "rois"])
def test_check_wants_objects_for_them(output):
    recipe, faults = parse(f"cellkit: 1\nname: t\nsteps: [grayscale]\noutputs: [{output}]\n")
    assert not faults
    assert any("needs a layer of kind" in str(fault) for fault in bind(recipe).faults)
