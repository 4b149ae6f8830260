"""Tuning: held-out gains, kills, the command."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import UsageError
from cellkit.core.recipe import dump, load
from cellkit.metrics import Settings
from cellkit.tune import scoring
from cellkit.tune.output import headline
from cellkit.tune.search import Trial, best
from cellkit.tune.space import space
from cellkit.tune.tuning import ALL, Fold, Gain, Options, Tuning, folds, gain, tune
from touching_discs import SPLITTING, pairs_of_discs, scorer_of, write_discs, written


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return write_discs(tmp_path_factory.mktemp("discs"))


# ---- folds and gains


@given(st.lists(st.sampled_from(["", "", "p", "q", "r", "s", "t"]), min_size=4, max_size=40), st.integers(0, 5))
def test_folds_cut_no_group_and_hold_every_image_once(groups, seed):
    names = [f"i{i}" for i in range(len(groups))]
    units = groups.count("") + len(set(groups) - {""})
    for count in (2, 3, 4):
        if units < count:
            with pytest.raises(UsageError, match="give fewer --folds"):
                folds(names, groups, count, seed)
            continue
        parts = folds(names, groups, count, seed)
        assert sorted(name for part in parts for name in part) == sorted(names)
        assert all(parts)
        where = {name: i for i, part in enumerate(parts) for name in part}
        for group in set(groups) - {""}:
            assert len({where[n] for n, g in zip(names, groups, strict=True) if g == group}) == 1
        largest = max([groups.count(group) for group in set(groups) - {""}], default=1)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= largest
        assert parts == folds(names, groups, count, seed)


def test_tuning_finds_a_known_optimum_and_reports_the_gain_of_images_it_has_not_seen(discs):
    vary = ["threshold.value=0.2..0.8", "maxima.min_distance=2..30"]
    told: list[str] = []
    with scorer_of(discs, vary=vary) as scorer:
        scorer.prepare()
        found = tune(scorer, Options(trials=25, folds=2, seed=1), on_trial=lambda name, _: told.append(name))
        values = found.best.values
        wanted = scorer.space.apply(values)
    # The halo has 115 / 255 = 0.451, the discs 0.863; their centres lie 15 px apart.
    assert 0.451 <= values["threshold.value"] < 0.863
    assert values["maxima.min_distance"] < 15
    assert found.tuned
    assert found.recipe == wanted == load(dump(found.recipe))
    assert found.gain.low > 0.3
    assert found.gain.value == pytest.approx(found.gain.tuned - found.gain.default)
    assert found.gain.tuned > 0.9
    assert found.failed == {}
    assert told == ["fold 1"] * 25 + ["fold 2"] * 25 + [ALL] * 25
    assert "gain on held-out images +" in headline(found)


def pure_noise(number):
    """Return an image of noise, and a truth that has nothing to do with it."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (48, 48), np.uint8), rng.integers(0, 2, (48, 48)).astype(np.int32)


def test_where_nothing_can_be_gained_the_tuning_says_so(tmp_path):
    folders = written(tmp_path, {f"n{i}": pure_noise(i) for i in range(12)})
    recipe = "steps: [{gaussian: {sigma: 2}}, otsu]\noutputs: [mask]"
    settings = Settings(pooling="images")
    vary = ["gaussian.sigma=0.5..8"]
    with scorer_of(folders, recipe, vary, "pixel", settings=settings) as scorer:
        found = tune(scorer, Options(trials=12, folds=3))
        # On the images that were tuned on it seems to gain; on those held out it does not.
        assert max(best(trials).score - trials[0].score for trials in found.searches.values()) > 0.002
        assert -0.02 < found.gain.value <= 0
        assert found.gain.low <= 0 <= found.gain.high
        assert not found.tuned
        assert ALL not in found.searches
        assert found.recipe == scorer.space.recipe
        assert headline(found).startswith("tuning does not help; the recipe is written unchanged")
        forced = tune(scorer, Options(trials=12, folds=3, force=True))
        assert forced.tuned
        assert forced.gain == found.gain
        assert "only because it was asked for" in headline(forced)


def test_a_gain_below_nothing_is_told_whatever_is_written():
    trial = Trial(0, {}, 0.5)
    lost = Gain(0.5, 0.4, -0.2, 0.1, "bootstrap")
    one = Tuning(load(SPLITTING), False, lost, (Fold(3, 5, trial, 0.5, 0.4),), {}, {}, 1.0)
    assert headline(one).startswith(
        "tuning does not help; the recipe is written unchanged: gain on held-out images -0.1"
    )
    assert "only because it was asked for" in headline(replace(one, tuned=True))
    chance = replace(one, tuned=True, gain=Gain(0.4, 0.5, -0.1, 0.2, "bootstrap"))
    assert "may be chance" in headline(chance)


def test_intervals_are_drawn_over_groups_or_over_folds_where_counts_are_pooled(discs):
    groups = {f"d{i}": f"g{i // 2}" for i in range(6)}
    values = {"threshold.value": 0.6, "maxima.min_distance": 8}
    vary = ["threshold.value=0.2..0.8", "maxima.min_distance=2..30"]
    done = [Fold(2, 1, Trial(0, {}, 0), 0.5, 0.7), Fold(2, 1, Trial(0, {}, 0), 0.5, 0.9)]
    with scorer_of(discs, vary=vary, groups=groups) as scorer:
        sides = scorer.count({}, scorer.names).counts, scorer.count(values, scorer.names).counts
        found = gain(scorer, *sides, done)
        assert "3 groups of 6 images" in found.method
        scores = [[row["value"] for row in scorer.report(side).per_image] for side in sides]
        differences = np.diff(scores, axis=0)[0]
        assert found.value == pytest.approx(differences.mean())
        means = differences.reshape(3, 2).mean(axis=1)
        assert means.min() <= found.low <= found.value <= found.high <= means.max()
    with scorer_of(discs, vary=vary, protocol="pixel", groups=groups) as scorer:
        sides = scorer.count({}, scorer.names).counts, scorer.count(values, scorer.names).counts
        found = gain(scorer, *sides, done)
        half = 12.706 * np.std([0.2, 0.4], ddof=1) / np.sqrt(2)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-3)
        assert "2 folds" in found.method


def test_time_that_is_up_ends_searches_with_the_trials_they_have(discs):
    with scorer_of(discs) as scorer:
        found = tune(scorer, Options(trials=30, folds=2, seconds=0.0))
    assert [len(trials) for trials in found.searches.values()] == [1, 1]
    assert not found.tuned


def test_no_bound_on_memory_is_guessed_beyond_what_is_free():
    assert 0 < scoring._free_memory() < 2**50


# ---- the command


def invoke(*arguments, code=0):
    from cellkit_cli.main import cli

    done = CliRunner().invoke(cli, ["tune", *map(str, arguments)])
    assert done.exit_code == code, done.output + str(done.exception or "")
    return done.output


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "splitting.yaml"
    path.write_text(SPLITTING)
    return path


VARY = ("--vary", "threshold.value=0.2..0.8", "--vary", "maxima.min_distance=2..30")


def test_the_command_writes_an_ordinary_recipe_and_its_trials(discs, recipe_file, tmp_path, cellkit):
    out = tmp_path / "tuned.yaml"
    done = cellkit(
        "tune", recipe_file, *discs, "--as", "dsb2018", *VARY, "--trials", 15, "--folds", 2, "-o", out, "--json"
    )
    found = json.loads(done.stdout)
    assert found["tuned"]
    assert found["held_out"]["gain"] > 0.3
    assert (found["image_count"], found["seed"], found["trials"]) == (6, 0, 15)
    text = out.read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    for word in (
        "gain on held-out images",
        str(discs[0]),
        "--as dsb2018",
        "15 trials",
        "2 folds",
        "seed 0",
        "0.35 -> ",
    ):
        assert any(word.lower() in line.lower() for line in head), word
    recipe = ck.Recipe.read(out)
    assert load(dump(recipe)) == recipe
    changed = {target: both["to"] for target, both in found["changed"].items()}
    assert recipe == space(load(SPLITTING), "dsb2018").apply({**changed})
    rows = rows_of(out.with_suffix(".csv"))
    assert [row["trial"] for row in rows] == [str(i) for i in range(15)] * 3
    assert {row["search"] for row in rows} == {"fold 1", "fold 2", ALL}
    assert rows[0]["threshold.value"] == "0.35"
    assert float(rows[0]["score"]) == pytest.approx(0, abs=0.2)
    # The recipe runs as any other, and scores what is told of it.
    cellkit("run", out, discs[0], "-o", tmp_path / "run")
    cellkit("eval", discs[1], tmp_path / "run", "--as", "dsb2018", "--json", tmp_path / "score.json")
    assert json.loads((tmp_path / "score.json").read_text())["value"] == pytest.approx(found["all_images"]["tuned"])


def test_a_killed_tuning_goes_on_and_ends_as_an_undisturbed_one(discs, recipe_file, tmp_path, cellkit, monkeypatch):
    # Other tests may have loaded plug-ins into this process; the one to be killed has none.
    monkeypatch.setattr("cellkit.core.registry._digests", {})

    def arguments(out):
        return [
            recipe_file, *discs, "--as", "dsb2018", *VARY, "--trials", 14, "--folds", 2, "--seed", 5, "-o", out
        ]  # fmt: skip

    whole, killed = tmp_path / "whole.yaml", tmp_path / "killed.yaml"
    invoke(*arguments(whole))
    command = [str(cellkit.script), "tune", *map(str, arguments(killed))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        state = killed.with_suffix(".sqlite")
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end and trials_in(state) < 3:
            time.sleep(0.02)
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    assert not killed.exists()
    there = trials_in(state)
    assert there >= 3
    assert "--resume goes on" in invoke(*arguments(killed), code=2)
    invoke(*arguments(killed), "--resume")
    plain = [line for line in whole.read_text().splitlines() if "Tuned by" not in line]
    assert [line for line in killed.read_text().splitlines() if "Tuned by" not in line] == plain
    rows = [rows_of(path.with_suffix(".csv")) for path in (whole, killed)]
    timeless = [[{**row, "seconds": ""} for row in found] for found in rows]
    assert timeless[0] == timeless[1]
    other = [a if a != 5 else 6 for a in arguments(killed)]
    assert "--seed differ" in invoke(*other, "--resume", code=2)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trials_in(path):
    import sqlite3

    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        return connection.execute("select count(*) from trials").fetchone()[0]
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def test_parts_and_groups_of_a_table_or_of_the_data_set(discs, recipe_file, tmp_path):
    table = tmp_path / "split.csv"
    rows = [f"d{i},{'train' if i < 4 else 'val'},g{i // 2}" for i in range(6)]
    table.write_text("\n".join(["id,part,group", *rows]))
    more = ("--as", "dsb2018", *VARY, "--trials", 2, "--folds", 2, "--json")
    out = tmp_path / "t.yaml"
    text = invoke(recipe_file, *discs, *more, "--split", table, "--part", "train", "-o", out)
    found = json.loads(text[text.index("{") :])
    assert found["image_count"] == 4
    assert "2 groups of 4 images" in found["held_out"]["method"]
    assert "part train" in out.read_text()
    folder = discs[0].parent
    (folder / "split.csv").write_text(table.read_text())
    try:
        text = invoke(recipe_file, folder, folder, *more, "--part", "val", "-o", out, "--fresh", "--folds", 2, code=2)
        assert "2 folds need at least 2 groups" in text
        text = invoke(recipe_file, folder, folder, *more, "--part", "train", "-o", out, "--fresh")
        assert json.loads(text[text.index("{") :])["image_count"] == 4
    finally:
        (folder / "split.csv").unlink()
    table.write_text("id,part,group\nd0,train,g")
    text = invoke(recipe_file, *discs, *more, "--split", table, "-o", out, "--fresh", code=2)
    assert "has no row for 5 (d1, d2, d3, d4, d5)" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["--vary", "threshold.val"], "did you mean 'value'"),
        (["--trials", "0"], "0 is not in the range"),
        (["--folds", "1"], "1 is not in the range"),
        (["--folds", "7"], "7 folds need at least 7 images"),
        (["--part", "train"], "no parts are known; give --split"),
        (["--group-column", "field"], "needs --split"),
        (["--resume"], "no trials to go on from"),
        (["--resume", "--fresh"], "contradict"),
        (["--time-limit", "soon"], "wanted a time such as 9m"),
        (["--time-limit", "0s"], "more than no time"),
        (["--pooling", "set"], "leave the pooling out"),
        (["-o", "tuned.txt"], "ends in .yaml"),
        (["--set", "otsu.scale=1"], "no step is called 'otsu'"),
        (["--memory", "much"], "wanted a size"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_written(discs, recipe_file, tmp_path, change, text):
    out = ["-o", tmp_path / "new.yaml"] if "-o" not in change else []
    before = set(tmp_path.iterdir())
    assert text in invoke(recipe_file, *discs, "--as", "dsb2018", "--trials", 3, *out, *change, code=2)
    assert {path.suffix for path in set(tmp_path.iterdir()) - before} <= {".sqlite"}


def test_images_without_truth_are_named_or_left_out(tmp_path, recipe_file):
    images, labels = written(tmp_path, {f"d{i}": pairs_of_discs(i, 96) for i in range(3)})
    more = (recipe_file, images, labels, "--as", "dsb2018", "--trials", 1, "--folds", 2, "-o", tmp_path / "t.yaml")
    (labels / "d1.png").unlink()
    assert "(--allow-missing leaves them out): 1 (d1)" in invoke(*more, code=2)
    text = invoke(*more, "--allow-missing", "--json")
    assert json.loads(text[text.index("{") :])["image_count"] == 2
    for path in labels.iterdir():
        path.rename(path.with_name(f"other-{path.name}"))
    assert "no image of" in invoke(*more, "--allow-missing", "--fresh", code=2)


def test_on_real_nuclei(data_folder, tmp_path):
    folder = data_folder / "dsb2018"
    with (folder / "split.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "train" and row["modality"] == "fluor_small"]
    images = tmp_path / "images"
    images.mkdir()
    for row in rows[:12]:
        (images / f"{row['id']}.png").write_bytes((folder / "images" / f"{row['id']}.png").read_bytes())
    out = tmp_path / "tuned.yaml"
    text = invoke(
        "nuclei-classical", images, folder / "labels", "--as", "dsb2018", "--split", folder / "split.csv",
        "--trials", 5, "--folds", 2, "-o", out, "--json",
    )  # fmt: skip
    found = json.loads(text[text.index("{") :])
    assert found["image_count"] == 12
    assert found["failed"] == []
    assert found["held_out"]["default"] > 0.4
    assert ck.Recipe.read(out).outputs == ck.Recipe.read("nuclei-classical").outputs
    assert Path(out).with_suffix(".csv").read_text().count("\n") in (11, 16)
