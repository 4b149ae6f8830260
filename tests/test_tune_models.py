"""Tuning which network a recipe runs, and how: each choice once an image, whatever is tried behind it."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import cellkit as ck
from cellkit.core import FormatError, UsageError
from cellkit.core.recipe import load
from cellkit.io import find, read_labels
from cellkit.metrics import PROTOCOLS
from cellkit.tune import prefix
from cellkit.tune.dimension import parts_of
from cellkit.tune.scoring import Case, Means, Scorer
from cellkit.tune.search import Draw, Outcome, search
from cellkit.tune.space import space
from cellkit_cli.main import cli

pytest.importorskip("torch")

RECIPE = """
steps:
  - grayscale
  - predict
  - channel: {name: nucleus}
  - threshold: {value: 0.5}
  - components
outputs: [labels]
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(4):
        labels = np.zeros((40, 48), np.uint8)
        cv2.circle(labels, (12 + number, 14), 7, 1, -1)
        cv2.circle(labels, (34, 26 - number), 8, 2, -1)
        cv2.imwrite(str(folder / "images" / f"p{number}.png"), np.where(labels > 0, 200, 40).astype(np.uint8))
        cv2.imwrite(str(folder / "labels" / f"p{number}.png"), labels)
    return folder / "images", folder / "labels"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return two untrained networks, and one that finds boxes, as the command writes them."""
    folder = tmp_path_factory.mktemp("models")
    small = ["--set", "width=8", "--set", "depth=2", "--set", "most=16"]
    for seed in (0, 1):
        name = str(folder / f"m{seed}.safetensors")
        made = ["models", "new", "unet-compact", "-o", name, "--classes", "nucleus", "--head", "sigmoid", *small]
        done = CliRunner().invoke(cli, [*made, "--seed", str(seed)])
        assert done.exit_code == 0, done.output
    return folder / "m0.safetensors", folder / "m1.safetensors"


def scorer_of(pictures, vary, recipe=RECIPE):
    images, labels = pictures
    cases = [Case(s.name, s, lambda _, n=s.name: read_labels(labels / f"{n}.png")) for s in find([images])]
    return Scorer(space(load(recipe), "dsb2018", vary), cases, PROTOCOLS["dsb2018"], means=Means(workers=2))


def test_networks_run_once_for_each_model_and_augmentation_that_is_tried(pictures, models, monkeypatch):
    ran: list[tuple[str, str]] = []
    real = prefix.execute

    def execute(plan, *rest, **more):
        ran.extend((step.params["model"], step.params["tta"]) for step in plan.steps if step.spec.name == "predict")
        return real(plan, *rest, **more)

    monkeypatch.setattr(prefix, "execute", execute)
    vary = [f"predict.model={models[0]}|{models[1]}", "predict.tta=none|flips", "threshold.value=0.1..0.9"]
    with scorer_of(pictures, vary) as scorer:
        assert [one.at for one in scorer.space.dimensions] == [1, 1, 3]
        scorer.prepare()

        def score(values, _):
            return Outcome(*scorer.score(values, scorer.names))

        found = search(scorer.space.dimensions, score, trials=24, draw=Draw(2))
        tried = {(trial.values["predict.model"], trial.values["predict.tta"]) for trial in found}
        assert len(tried) >= 3
        assert sorted(ran) == sorted([*tried] * len(scorer.names))
        ran.clear()
        scorer.score({"threshold.value": 0.123}, scorer.names)
        assert ran == []
        # What comes from kept layers is what the whole recipe gives.
        values = {"predict.model": str(models[1]), "predict.tta": "flips", "threshold.value": 0.47}
        way = scorer._route(values)
        for name, case in scorer.cases.items():
            wanted = ck.run(scorer.space.apply(values), ck.read(case.source))["labels"]
            np.testing.assert_array_equal(scorer._runner.run(way, name, lambda n=name: scorer._read(n)), wanted)


def test_all_ways_of_augmentation_are_tried_without_naming_them(models):
    searched = space(
        load(RECIPE.replace("- predict", f"- predict: {{model: '{models[0]}'}}")), "dsb2018", ["predict.tta"]
    )
    assert searched.dimensions[0].choices == ("none", "flips", "d4")
    assert searched.with_models == ()


def test_tiles_and_models_are_left_out_unless_named(models):
    recipe = load(
        f"steps: [{{tile: {{size: 32, halo: 16}}, steps: [{{predict: {{model: '{models[0]}'}}}}]}}, "
        "{channel: {name: nucleus}}, {threshold: {value: 0.5}}, components]"
    )
    targets = [one.target for one in space(recipe, "dsb2018").dimensions]
    assert targets == ["predict.tta", "threshold.value", "components.connectivity"]
    named = space(recipe, "dsb2018", ["tile.size=32,64", "predict.precision"])
    assert [one.target for one in named.dimensions] == ["tile.size", "predict.precision"]
    assert [one.at for one in named.dimensions] == [0, 0]


def test_a_model_that_is_not_there_or_of_another_kind_is_told_before_the_first_trial(pictures, models, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.safetensors: no such file"):
        space(load(RECIPE), "dsb2018", [f"predict.model={models[0]}|{tmp_path / 'nowhere.safetensors'}"])
    with pytest.raises(UsageError, match="faster-rcnn"):
        space(load(RECIPE), "dsb2018", [f"predict.model={models[0]},faster-rcnn"])
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(models[1].read_bytes()[:-50])
    with pytest.raises((FormatError, UsageError), match="damaged"), scorer_of(pictures, [f"predict.model={models[0]}|{damaged}"]):  # fmt: skip # noqa: E501
        pass


def test_choices_are_parted_by_bars_or_commas_outside_of_brackets():
    assert parts_of("a,b") == ["a", "b"]
    assert parts_of("bce|[bce, dice]|{name: focal, gamma: 2}") == ["bce", "[bce, dice]", "{name: focal, gamma: 2}"]
    assert parts_of("[1,2],[3,4]") == ["[1,2]", "[3,4]"]
    assert parts_of("a, b|c") == ["a, b", "c"]
    assert parts_of("a,,") == ["a"]


def test_the_command_chooses_between_networks_and_notices_when_one_has_changed(pictures, models, tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "tuned.yaml"
    recipe.write_text(RECIPE)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one.write_bytes(models[0].read_bytes())
    two.write_bytes(models[1].read_bytes())
    command = [
        "tune", recipe, *pictures, "--as", "dsb2018", "--vary", f"predict.model={one}|{two}",
        "--vary", "predict.tta=none|d4", "--vary", "threshold.value=0.3..0.7",
        "--trials", 4, "--folds", 2, "--device", "cpu", "-o", out, "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, [*map(str, command), "--force"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["space"][:2] == [f"predict.model: {one}, {two}", "predict.tta: none, d4"]
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["predict.model"] for row in rows} == {str(one), str(two)}
    assert ck.Recipe.read(out).steps[1].params["model"] in (str(one), str(two))
    # Weights under the same name that are others: the trials so far are no longer of this tuning.
    two.write_bytes(models[0].read_bytes())
    again = CliRunner().invoke(cli, [*map(str, command), "--resume"])
    assert again.exit_code == 2
    assert "the networks differ" in again.output
