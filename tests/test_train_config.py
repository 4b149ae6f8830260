"""Configs of trainings: every fault in one pass, each with its place and a suggestion, and no other exception."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import UsageError
from cellkit_cli.main import cli
from cells_to_learn import RECIPES, config_of, draw, text_of

pytest.importorskip("torch")

from cellkit.train.config import ConfigError, parse_config, read_config

EXAMPLES = [
    path for path in sorted((Path(__file__).parent.parent / "examples").rglob("*.yaml"))
    if "cellkit_train:" in path.read_text(encoding="utf-8")
]  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    folder = draw(tmp_path_factory.mktemp("data") / "cells")
    for head in RECIPES:
        text_of(folder, head)
    return folder


def faults_of(cells: Path, change, head: str = "sigmoid") -> list[str]:
    data = yaml.safe_load(text_of(cells, head))
    change(data)
    config, faults = parse_config(yaml.safe_dump(data), cells)
    assert (config is None) == any(not fault.warning for fault in faults)
    return [str(fault) for fault in faults if not fault.warning]


@pytest.mark.parametrize("head", RECIPES)
def test_a_sound_config_is_complete(cells, head):
    config = config_of(cells, head)
    assert [step.label for step in config.prefix] == ["grayscale"]
    assert config.steps == 48
    assert config.plain_card.classes == config.model.outputs
    assert config.warnings == ()
    assert config.identity.keys() >= {"model", "loss", "loop.seed"}


def test_accumulated_steps_are_rounded_up(cells):
    assert config_of(cells, "sigmoid", {"epochs": 3, "steps": 5, "accumulate": 2}).steps == 9


def put(path: str, value):
    def change(data):
        *way, last = path.split(".")
        for key in way:
            data = data[key]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "place", "words"),
    [
        ("optimizer", "adam", "config", "optimiser"),
        ("recipe", "nuclei-clasical", "recipe", "nuclei-classical"),
        ("recipe", 3, "recipe", "wanted the recipe"),
        ("trains", "predikt", "trains", "predict"),
        ("trains", "threshold", "trains", "trains: predict"),
        ("model.head", "distanse", "model.head", "distance"),
        ("model.architecture", "unet-compcat", "model.architecture", "unet-compact"),
        ("model.architecture", "mask-rcnn", "model.architecture", "dense"),
        ("model.parameters", {"widht": 8}, "model.parameters", "width"),
        ("model.classes", [], "model.classes", "names"),
        ("model.start", "./none.safetensors", "model.start", "no such file"),
        ("targets", {"bordr": 2}, "targets", "border"),
        ("loss", [{"name": "dise"}], "loss[0]", "dice"),
        ("optimiser", {"name": "adamw", "rate": -1}, "optimiser.rate", "-1"),
        ("schedule", "cosin", "schedule", "cosine"),
        ("augment", [{"name": "flip_horizontl"}], "augment[0]", "flip_horizontal"),
        ("loop.crop", 30, "loop.crop", "multiple of 4"),
        ("loop.epochs", 0, "loop.epochs", "1 to"),
        ("loop.step", 3, "loop", "steps"),
        ("data.cache", "much", "data.cache", "2GB"),
        ("data.layout", "labls", "data.layout", "labels"),
        ("loop.pace", "hours", "loop.pace", "hours: 2"),
        ("loop", {"pace": "hours", "hours": 1, "devices": 2}, "loop.pace", "pace: epochs"),
        ("data.evenness", 2, "data.evenness", "0 to 1"),
        ("model.stored", "float8", "model.stored", "float16"),
        ("metric", "dsb", "metric", "dsb2018"),
        ("baseline", "nuclei-clasical", "baseline", "nuclei-classical"),
        ("cellkit_train", 2, "cellkit_train", "write 1"),
        ("name", 5, "name", "quotes"),
    ],
)
def test_one_fault_is_told_with_its_place_and_a_fix(cells, path, value, place, words):
    found = faults_of(cells, put(path, value))
    assert len(found) == 1, found
    assert found[0].startswith(f"{place}:"), found
    assert words in found[0]


def test_steps_behind_the_trained_one_are_checked_with_the_classes_it_will_have(cells):
    recipe = yaml.safe_load((cells / "border.yaml").read_text())
    recipe["steps"][2] = "watershed"
    (cells / "wrong.yaml").write_text(yaml.safe_dump(recipe))
    found = faults_of(cells, put("recipe", "wrong.yaml"), "border")
    assert found
    assert all(fault.startswith("recipe steps[2]") for fault in found)


def test_every_fault_is_told_in_one_pass(cells):
    def change(data):
        data["loop"]["epochs"] = "many"
        data["loop"]["patince"] = 2
        data["model"]["head"] = "bord"
        data["optimiser"]["rte"] = 1
        data["augment"] = "flps"

    found = faults_of(cells, change)
    places = {fault.split(":")[0] for fault in found}
    assert places == {"model.head", "optimiser", "loop.epochs", "loop", "augment"}
    data = yaml.safe_load(text_of(cells))
    change(data)
    path = cells / "all.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="5 faults") as caught:
        read_config(path)
    assert len(caught.value.faults) == len(found)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "cellkit_train: 1", "recipe: nuclei-classical", "{}", "\0"])
def test_what_is_no_config_is_told(text, tmp_path):
    config, faults = parse_config(text, tmp_path)
    assert config is None
    assert faults


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "latin.yaml")


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=True), st.text(max_size=5),
    st.lists(st.integers(-1, 1), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(-1, 1), max_size=2),
)  # fmt: skip


@settings(max_examples=60)
@given(data=st.data())
def test_no_value_anywhere_raises(cells, data):
    config = yaml.safe_load(text_of(cells))
    changed = copy.deepcopy(config)
    key = data.draw(st.sampled_from(sorted(config)))
    if isinstance(config[key], dict) and data.draw(st.booleans()):
        changed[key][data.draw(st.sampled_from(sorted(config[key])))] = data.draw(VALUES)
    else:
        changed[key] = data.draw(VALUES)
    found, faults = parse_config(yaml.safe_dump(changed), cells)
    assert (found is None) == any(not fault.warning for fault in faults)


def test_check_says_what_would_be_done_and_writes_nothing(cells, tmp_path):
    path = cells / "config.yaml"
    path.write_text(text_of(cells, "border"))
    before = sorted(entry.name for entry in cells.iterdir())
    done = CliRunner().invoke(cli, ["train", str(path), "--check"])
    assert done.exit_code == 0, done.output
    for words in ("unet-compact", "step predict, behind grayscale", "48 steps", "5 images to train on, 3", "is sound"):
        assert words in done.stdout
    assert sorted(entry.name for entry in cells.iterdir()) == before
    page = tmp_path / "page.html"
    done = CliRunner().invoke(cli, ["train", str(path), "--show-batch", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8").count("<img") >= 16
    path.write_text(path.read_text().replace("adamw", "adamq"))
    done = CliRunner().invoke(cli, ["train", str(path), "--check"])
    assert done.exit_code == 2
    assert "did you mean 'adam'" in done.stderr
    assert CliRunner().invoke(cli, ["train", str(path), "--time-limit", "soon"]).exit_code == 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_of_trainings_are_sound(path):
    config, faults = parse_config(path.read_text(encoding="utf-8"), path.parent)
    assert config is not None, faults
    assert faults == []
