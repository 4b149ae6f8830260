"""Pages of systems: figures are those of `cellkit eval` on the files, and what is not there or fails is told."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import cellkit as ck
from cellkit.core import FormatError
from cellkit.io import read_labels
from conftest import ROOT
from systems_to_learn import draw

torch = pytest.importorskip("torch")

from cellkit.models import Card, save_model  # noqa: E402
from cellkit_cli.main import cli  # noqa: E402
from tiny_models import tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SYSTEMS = ROOT / "examples" / "systems"
PLAIN = ["grayscale", "otsu", "components"]
INFECTED = {"of": ["trophozoite"], "among": ["red blood cell"]}


@pytest.fixture(scope="module")
def show():
    sys.path.insert(0, str(SYSTEMS))
    try:
        yield importlib.import_module("show")
    finally:
        sys.path.remove(str(SYSTEMS))


def system(folder: Path, layout: str, recipes: dict[str, list], kinds=("a", "b"), **more) -> Path:
    """Write data, split, recipes and system.yaml; every recipe is a way."""
    names = draw(folder / "data", layout, kinds)
    rows = [
        f"{name},{'val' if i else 'train'},g{(i + 1) // 2},{'even' if i % 2 else 'odd'}\n"
        for i, name in enumerate(names)
    ]
    (folder / "split.csv").write_text("id,part,group,side\n" + "".join(rows))
    ways = []
    for name, (outputs, *steps) in recipes.items():
        recipe = {"cellkit": 1, "name": name, "steps": steps, "outputs": outputs}
        (folder / f"{name}.recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        ways.append({"name": name, "recipe": f"{name}.recipe.yaml", "train": f"cellkit train {name}.yaml"})
    told = {"title": "toy", "split": "split.csv", "ways": ways, **more}
    (folder / "system.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return folder


def shown(show, folder: Path, *more: str, code: int = 0) -> tuple[dict, Path, str]:
    """Run show.py as its command does; return the figures, the folder of the page, and what was printed."""
    out = folder / "page"
    given = ["--data", str(folder / "data"), "-o", str(out), "--system", str(folder / "system.yaml"), *more]
    done = CliRunner().invoke(show.main, given)
    assert done.exit_code == code, (done.output, done.exception)
    figures = json.loads((out / "figures.json").read_text()) if code < 2 else {}
    return figures, out, done.output


def evaluated(folder: Path, truth: Path, found: Path, protocol: str) -> dict:
    """Return what `cellkit eval` writes of the same files, intervals drawn over the same groups."""
    told = folder / f"{protocol}.json"
    given = ["eval", str(truth), str(found), "--as", protocol, "--json", str(told)]
    groups = ["--groups", str(folder / "split.csv"), "--group-column", "group"]
    done = CliRunner().invoke(cli, given + groups)
    assert done.exit_code == 0, done.output
    return json.loads(told.read_text())


def counts_of(out: Path) -> list[dict[str, str]]:
    with (out / "counts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def nuclei(show, tmp_path_factory):
    """A page of labels: two ways that run, one without network, one that does not check, one that fails in an image."""
    recipes = {
        "published": [["labels", "table", "overlay"], "grayscale", {"gaussian": {"sigma": 4}}, *PLAIN[1:], "measure"],
        "better": [["labels"], "grayscale", {"gaussian": {"sigma": 2.5}}, *PLAIN[1:]],
        "untrained": [["labels"], {"predict": {"model": "runs/untrained"}}, *PLAIN[1:]],
        "unsound": [["labels"], {"otsuu": None}],
        "colour": [["labels"], {"channel": {"name": 2}}, *PLAIN[1:]],
    }
    scores = [
        {"score": "dsb2018", "published": 0.5, "source": "elsewhere"},
        {"score": "dsb2018", "number": "pooled_f1_at_0.50", "label": "F1"},
        {"score": "glas", "number": "object_dice", "label": "Dice of objects"},
        {"score": "pixel"},
    ]
    folder = tmp_path_factory.mktemp("nuclei")
    more = {"scores": scores, "draw": "labels", "classes": ["nucleus"], "gain": ["better", "published"], "by": "side"}
    system(folder, "dsb2018", recipes, **more)
    gray = folder / "data" / "003" / "images" / "003.png"
    import cv2

    cv2.imwrite(str(gray), cv2.imread(str(gray))[..., 0])
    return folder, *shown(show, folder, code=1)


def test_figures_are_those_of_eval_on_the_same_files(nuclei):
    folder, figures, out, _ = nuclei
    by = {one["label"]: one for one in figures["figures"]}
    for way in ("published", "better"):
        dsb = evaluated(folder, out / "truth", out / way, "dsb2018")
        assert by["DSB2018 score"]["ways"][way] == {
            "value": dsb["value"], "low": dsb["interval"]["low"], "high": dsb["interval"]["high"]
        }  # fmt: skip
        assert by["F1"]["ways"][way]["value"] == dsb["scores"]["pooled_f1_at_0.50"]
        assert by["F1"]["ways"][way]["low"] == dsb["intervals"]["pooled_f1_at_0.50"]["low"]
        glas = evaluated(folder, out / "truth", out / way, "glas")
        assert by["Dice of objects"]["ways"][way]["value"] == glas["object_dice"]
        pixel = evaluated(folder, out / "truth", out / way, "pixel")
        assert by["Dice (F1)"]["ways"][way]["value"] == pixel["value"]


def test_the_gain_is_the_difference_with_the_interval_of_the_differences_of_images(nuclei):
    from cellkit.metrics.pooling import weights

    folder, figures, out, _ = nuclei
    rows = [evaluated(folder, out / "truth", out / way, "dsb2018")["per_image"] for way in ("better", "published")]
    apart = np.array([a["value"] - b["value"] for a, b in zip(*rows, strict=True)])
    times = np.concatenate(list(weights(4, ["g1", "g1", "g2", "g2"])))
    gain = figures["figures"][0]["gain"]
    assert gain["value"] == pytest.approx(apart.mean())
    assert gain["value"] > 0
    ends = np.quantile(times @ apart / times.sum(axis=1), [0.025, 0.975])
    assert (gain["low"], gain["high"]) == pytest.approx(tuple(ends))


def test_parts_hold_their_images_only(nuclei):
    folder, figures, out, _ = nuclei
    assert set(figures["by"]) == {"even", "odd"}
    names = {"even": ("002", "004"), "odd": ("003", "005")}
    rows = evaluated(folder, out / "truth", out / "better", "dsb2018")["per_image"]
    for side, images in names.items():
        own = [row["value"] for row in rows if row["image"] in images]
        assert figures["by"][side]["better"]["value"] == pytest.approx(np.mean(own))


def test_what_is_not_there_or_fails_is_told_and_never_drawn(nuclei):
    _, figures, out, _ = nuclei
    page, told = (out / "page.html").read_text(), (out / "figures.md").read_text()
    states = {name: way["state"] for name, way in figures["ways"].items()}
    assert states == {
        "published": "done", "better": "done", "untrained": "not trained", "unsound": "failed", "colour": "done"
    }  # fmt: skip
    assert "not trained: cellkit train untrained.yaml" in told
    row = next(line for line in told.splitlines() if line.startswith("| DSB2018 score |"))
    assert row.split("|")[6:8] == [" not trained ", " failed "]
    assert "did you mean &#x27;otsu&#x27;" in page
    assert set(figures["ways"]["colour"]["failed"]) == {"003"}
    assert "1 of 4 images failed, which count as all wrong" in told
    assert page.count("no result") == 1
    assert 'untrained"><figure' not in page
    assert set(figures["figures"][0]["ways"]) == {"published", "better", "colour"}
    assert figures["figures"][0]["ways"]["colour"]["value"] == 0.75  # all right in three images, all wrong in one


def test_counts_are_those_of_the_files(nuclei):
    _, figures, out, _ = nuclei
    rows = counts_of(out)
    for row in rows:
        assert row["class"] == "nucleus"
        for column, folder in (("truth", "truth"), ("better", "better")):
            labels = read_labels(out / folder / "labels" / f"{row['image']}.tif")
            assert int(row[column]) == len(np.unique(labels[labels > 0]))
    assert [row["colour"] == "" for row in rows] == [row["image"] == "003" for row in rows]
    off = [abs(int(row["truth"]) - int(row["better"])) for row in rows]
    assert figures["counts"]["nucleus"]["better"]["off_by"] == np.mean(off)


def test_the_same_command_again_keeps_what_is_done_and_other_folders_are_refused(show, nuclei, tmp_path):
    folder, figures, out, _ = nuclei
    before = (out / "better" / "labels" / "002.tif").stat().st_mtime_ns
    assert shown(show, folder, code=1)[0] == figures
    assert (out / "better" / "labels" / "002.tif").stat().st_mtime_ns == before
    alien = tmp_path / "page"
    alien.mkdir()
    (alien / "thesis.tex").write_text("mine")
    data = ["--data", str(folder / "data"), "--system", str(folder / "system.yaml"), "-o"]
    done = CliRunner().invoke(show.main, [*data, str(alien)])
    assert done.exit_code == 2
    assert "holds something else" in done.output
    assert [path.name for path in alien.iterdir()] == ["thesis.tex"]
    shutil.copy(out / "system.json", alien)
    marker = json.loads((alien / "system.json").read_text())
    (alien / "system.json").write_text(json.dumps({**marker, "title": "another"}))
    done = CliRunner().invoke(show.main, [*data, str(alien)])
    assert done.exit_code == 2
    assert "another system" in done.output


def test_classes_are_scored_as_eval_does_and_counted_by_their_pieces(show, tmp_path):
    names = ["background", "cell", "bacteria"]
    steps = [{"predict": {"model": "runs/better"}}, "argmax"]
    scores = [{"score": "semantic"}, {"score": "semantic", "number": "per_class.2.iou", "label": "bacteria"}]
    folder = system(tmp_path, "darkfield", {"better": [["classes"], *steps]}, scores=scores, draw="classes")
    card = Card("toy", "unet-compact", "dense", 3, tuple(names), head="softmax", parameters={"width": 8, "most": 16, "depth": 2})  # fmt: skip # noqa: E501
    save_model(tmp_path / "elsewhere" / "net.safetensors", tiny("unet-compact", 3, 3), card)
    figures, out, _ = shown(show, folder, "--way", f"better={tmp_path / 'elsewhere' / 'net.safetensors'}")
    truth = evaluated(folder, out / "truth", out / "better", "semantic")
    assert figures["figures"][0]["ways"]["better"] == {
        "value": truth["value"], "low": truth["interval"]["low"], "high": truth["interval"]["high"]
    }  # fmt: skip
    assert figures["figures"][1]["ways"]["better"]["value"] == truth["scores"]["per_class"]["2"]["iou"]
    from skimage.measure import label

    for row in counts_of(out):
        for column in ("truth", "better"):
            pixels = read_labels(out / column / "classes" / f"{row['image']}.png")
            wanted = label(pixels == ["background", "blood cell", "bacteria"].index(row["class"]), connectivity=2).max()
            assert int(row[column]) == wanted


def test_boxes_are_scored_as_eval_does_and_infected_cells_counted(show, tmp_path):
    malaria = ("trophozoite", "red blood cell")
    steps = [{"detect": {"model": "net.safetensors", "score": 0.3}}, {"proportion": INFECTED, "out": "parasitaemia"}]
    scores = [{"score": "coco", "number": "AP_50"}, {"score": "coco"}]
    recipes = {"better": [["parasitaemia"], *steps]}
    folder = system(tmp_path, "bbbc041", recipes, malaria, scores=scores, draw="boxes")
    from tiny_models import TINY

    card = Card("toy", "faster-rcnn", "boxes", 3, malaria, "boxes", parameters=TINY["faster-rcnn"])
    save_model(folder / "net.safetensors", tiny("faster-rcnn", 3, 2), card)
    path = folder / "better.recipe.yaml"
    recipe = ck.Recipe.read(path).set("detect.model", str(folder / "net.safetensors"))
    middle = float(np.median(ck.run(recipe, ck.read(folder / "data" / "images" / "002.png"))["boxes"].scores))
    path.write_text(path.read_text().replace("score: 0.3", f"score: {middle}"))
    recipe = recipe.set("detect.score", middle)
    figures, out, _ = shown(show, folder)
    # What the recipe asks for is what it gives by itself, though the network ran once for both.
    found = 0
    for row in csv.DictReader((out / "counts.csv").read_text().splitlines()):
        boxes = ck.run(recipe, ck.read(folder / "data" / "images" / f"{row['image']}.png"))["boxes"]
        assert int(row["better"]) == np.count_nonzero(boxes.classes == malaria.index(row["class"]))
        found += int(row["better"])
    results = json.loads((out / "better" / "results.json").read_text())
    assert 0 < found < len(results)
    truth = evaluated(folder, out / "truth" / "coco.json", out / "better" / "results.json", "coco")
    both = {"AP_50": figures["figures"][0], "AP": figures["figures"][1]}
    for name, figure in both.items():
        own = figure["ways"]["better"]
        assert own["value"] == truth["scores"][name]
        assert (own["low"], own["high"]) == tuple(truth["intervals"][name].values())
    with (out / "better" / "parasitaemia.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    whole = figures["parasitaemia"]
    assert whole["better"]["count"] == sum(int(row["count"]) for row in rows)
    assert whole["better"]["total"] == sum(int(row["total"]) for row in rows)
    infected, red = (sum(int(r["truth"]) for r in counts_of(out) if r["class"] == name) for name in malaria)
    assert whole["truth"]["proportion"] == infected / (infected + red)
    assert whole["truth"]["low"] < whole["truth"]["proportion"] < whole["truth"]["high"]
    assert f"{infected} of {infected + red}" in (out / "figures.md").read_text()


def test_a_system_without_any_network_shows_its_images(show, tmp_path):
    recipes = {"published": [["labels"], {"predict": {"model": "runs/published"}}, *PLAIN[1:]]}
    folder = system(tmp_path, "dsb2018", recipes, scores=[{"score": "pixel"}], draw="mask")
    figures, out, _ = shown(show, folder)
    assert figures["figures"][0]["ways"] == {}
    page = (out / "page.html").read_text()
    assert "not trained: cellkit train published.yaml" in page
    assert page.count('<section class="case"') == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scores": [{"score": "dsb18"}]}, "did you mean 'dsb2018'"),
        ({"darw": "labels"}, "did you mean 'draw'"),
        ({"gain": ["better", "worse"]}, "wanted the names of two ways"),
        ({"worst": "four"}, "worst: wanted a number"),
        ({"draw": "dots"}, "wanted one of labels"),
    ],
)
def test_a_wrong_system_is_refused_with_what_was_meant(show, tmp_path, changes, said):
    right = {"title": "toy", "draw": "labels", "split": "s.csv", "scores": [{"score": "pixel"}],
             "ways": [{"name": "better", "recipe": "nuclei"}]}  # fmt: skip
    (tmp_path / "system.yaml").write_text(yaml.safe_dump({**right, **changes}))
    with pytest.raises(FormatError, match=said):
        show.read_system(tmp_path / "system.yaml")


def test_classes_of_networks_go_by_name_or_by_place(show):
    ways = importlib.import_module("showing.ways")
    images = type("Images", (), {"classes": ("Platelets", "RBC", "WBC")})
    by_name = ways._numbers(images, ("rbc", "schizont", "Platelets"))
    assert by_name(np.array([0, 2, 0])).tolist() == [1, 0, 1]
    with pytest.raises(ways.UsageError, match="finds 'schizont'; the data set has Platelets, RBC, WBC"):
        by_name(np.array([1]))
    assert ways._numbers(images, ("a", "b", "c"))(np.array([2, 0])).tolist() == [2, 0]


@pytest.mark.parametrize("path", sorted(SYSTEMS.glob("*/*system.yaml")), ids=lambda path: path.parent.name + path.stem)
def test_every_system_is_sound_and_says_how_its_networks_are_trained(show, path):
    found = show.read_system(path)
    assert (path.parent / found.split).is_file()
    assert {way.name for way in found.ways} >= set(found.gain)
    for way in found.ways:
        recipe = importlib.import_module("showing.ways").recipe_of(found, way)
        assert recipe.steps
        if way.train.startswith("cellkit train"):
            assert (path.parent / way.train.split()[2]).is_file()
            assert f"-o runs/{way.name}" in way.train


def test_all_five_systems_have_a_page():
    folders = [path for path in SYSTEMS.iterdir() if path.is_dir() and list(path.glob("split.csv"))]
    assert len(folders) == 5
    assert all((path / "system.yaml").is_file() for path in folders)
