"""Tuning the config of a training: what may be varied, trials that are trainings, hopeless ones, kills, the gain."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cellkit.core import UsageError
from cellkit.metrics import PROTOCOLS
from cells_to_learn import config_of, draw, text_of

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.train.config import parse_config, read_config  # noqa: E402
from cellkit.train.parts import open_parts  # noqa: E402
from cellkit.tune.config_space import config_space, written  # noqa: E402
from cellkit.tune.config_tuning import _gain, _Scored  # noqa: E402
from cellkit.tune.pruning import hopeless  # noqa: E402
from cellkit.tune.search import Trial  # noqa: E402
from cellkit.tune.trainings import Plan, Trainings  # noqa: E402
from cellkit_cli.main import cli  # noqa: E402

SHORT = {"epochs": 3, "steps": 8, "validate": 1}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "cells", images=10)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def invoke(*arguments, code=0):
    done = CliRunner().invoke(cli, ["tune", *map(str, arguments)])
    assert done.exit_code == code, done.output + str(done.exception or "")
    return done


# ---- what is varied


def test_by_default_the_learning_rate_is_varied_a_decade_up_and_down(cells):
    (one,) = config_space(config_of(cells)).dimensions
    assert (one.target, one.default, one.low, one.high, one.log) == ("optimiser.rate", 0.01, 0.001, 0.1, True)
    (one,) = config_space(config_of(cells, optimiser="sgd")).dimensions
    assert one.default == 0.01  # that of sgd, as the config says none
    many = config_space(
        config_of(cells),
        ["optimiser.rate=1e-4..1e-2", "loss=bce|dice|{name: focal, gamma: 3}", "model.architecture=unet-compact|unet",
         "schedule.name=one_cycle|cosine", "optimiser", "augment", "loop.batch=2..8", "loop.ema=0.9..0.99",
         "data.objects", "targets.border=1..3", "model.parameters.width=8,16", "loop.steps=10..5000"],
    )  # fmt: skip
    found = {one.target: one for one in many.dimensions}
    assert (found["optimiser.rate"].low, found["optimiser.rate"].log) == (1e-4, True)
    assert found["loss"].choices == ("bce", "dice", "{name: focal, gamma: 3}")
    assert found["loss"].default == "[bce, dice]"
    assert found["schedule.name"].choices == ("one_cycle", "cosine")
    assert found["optimiser.name"].choices == ("sgd", "rmsprop", "adam", "adamw")
    assert found["augment"].choices == ("none", "flips", "light", "full")
    assert (found["loop.batch"].whole, found["loop.batch"].log) == (True, False)
    assert (found["loop.ema"].log, found["loop.steps"].log) == (False, True)
    assert (found["data.objects"].low, found["data.objects"].high) == (0.25, 0.75)
    assert found["model.parameters.width"].choices == (8, 16)


@pytest.mark.parametrize(
    ("vary", "text"),
    [
        ("optimizer.rate", r"did you mean 'optimiser\.rate'"),
        ("optimiser.rat=1..2", r"did you mean 'optimiser\.rate'"),
        ("augmentation", "did you mean 'augment'"),
        ("loop.bach=1..4", r"did you mean 'loop\.batch'"),
        ("schedule=one_cycl|cosine", "did you mean 'one_cycle'"),
        ("loss=bce|dics", "did you mean 'dice'"),
        ("loss=bce|cross_entropy", "cross_entropy is for classes that exclude one another"),
        ("loss=bce|[dice", "no YAML"),
        ("loss=bce", "at least two different values"),
        ("loss", "name the choices"),
        ("model.architecture=unet-compact|unett", "did you mean 'unet'"),
        ("model.architecture", "name the choices"),
        ("model.head=sigmoid|distance", "head distance has its own"),
        ("loop.crop=16..64", "name some"),
        ("loop.crop=32|34", "no multiple of 4"),
        ("optimiser.rate=1e-9..1", "outside 1e-08 to 100"),
        ("optimiser.rate=1..0.1", "low below high"),
        ("augment.elastic.p=0.1..0.5", "no key"),
        ("optimiser.momentum", "no key"),
        ("loop.seed=1|2", "lucky seed"),
        ("data.split=a|b", "no longer be judged alike"),
        ("metric=pixel|dsb2018", "no longer be judged alike"),
        ("=1", r"wanted section\.key"),
        ("optimiser.rate=", r"wanted section\.key"),
    ],
)
def test_what_cannot_be_varied_is_told_with_the_fix(cells, vary, text):
    with pytest.raises(UsageError, match=text):
        config_space(config_of(cells), [vary])


def test_whole_and_part_or_twice_the_same_are_refused(cells):
    with pytest.raises(UsageError, match="varied as a whole"):
        config_space(config_of(cells), ["loss=bce|[bce, dice]", "loss.bce.weight=0.5..2"])
    with pytest.raises(UsageError, match="given twice"):
        config_space(config_of(cells), ["schedule=cosine|constant", "schedule.name=cosine|constant"])


def test_another_optimiser_keeps_what_it_can_have_and_what_is_varied(cells):
    optimiser = {"name": "adamw", "beta1": 0.8, "weight_decay": 0.02}
    config = config_of(cells, optimiser=optimiser, schedule={"name": "constant", "warmup": 5})
    vary = [
        "optimiser=adamw|sgd",
        "optimiser.rate=1e-4..1",
        "optimiser.momentum=0.5..0.95",
        "schedule=cosine|one_cycle",
    ]
    space = config_space(config, vary)
    assert space.apply(space.defaults) == yaml.safe_load(config.text)
    # 0.001 is what adamw has by default; sgd would have another.
    values = {**space.defaults, "optimiser.name": "sgd", "schedule.name": "one_cycle"}
    data = space.apply(values)
    assert data["optimiser"] == {"name": "sgd", "weight_decay": 0.02, "rate": 0.001, "momentum": 0.9}
    assert data["schedule"]["name"] == "one_cycle"
    data = space.apply({**space.defaults, "optimiser.rate": 0.5, "optimiser.momentum": 0.6})
    assert data["optimiser"] == {**optimiser, "rate": 0.5}  # adamw has no momentum
    assert space.checked(values)[1] == []


def test_parts_of_a_loss_and_of_a_preset_are_varied_by_name(cells):
    space = config_space(config_of(cells, augment="light"), ["loss.dice.weight=0.1..2", "augment.noise.p", "augment.scale.high=1.1..1.5"])  # fmt: skip # noqa: E501
    assert space.defaults == {"loss.dice.weight": 1.0, "augment.noise.p": 0.2, "augment.scale.high": 1.25}
    data = space.apply({"loss.dice.weight": 0.5, "augment.noise.p": 0.3, "augment.scale.high": 1.25})
    assert data["loss"] == [{"name": "bce"}, {"name": "dice", "weight": 0.5}]
    changed = {one["name"]: one for one in data["augment"]}
    assert changed["noise"] == {"name": "noise", "p": 0.3}
    assert changed["scale"] == {"name": "scale", "p": 0.5, "low": 0.8, "high": 1.25}
    config, faults = parse_config(written(data), cells)
    assert config is not None, faults


def test_another_architecture_keeps_the_parameters_it_has_and_begins_without_the_weights(cells, tmp_path):
    model = {"architecture": "unet-compact", "head": "sigmoid", "classes": ["cell"], "start": "first.safetensors"}
    parameters = {"width": 8, "depth": 2, "most": 16}
    done = CliRunner().invoke(cli, ["models", "new", "unet-compact", "-o", str(cells / "first.safetensors"), "--classes", "cell", "--head", "sigmoid", *(f"--set={k}={v}" for k, v in parameters.items())])  # fmt: skip # noqa: E501
    assert done.exit_code == 0, done.output
    config = config_of(cells, model={**model, "parameters": parameters})
    space = config_space(config, ["model.architecture=unet-compact|unet", "optimiser.rate"])
    assert any("model.start" in note for note in space.notes)
    data = space.apply({**space.defaults, "model.architecture": "unet"})
    assert data["model"]["parameters"] == {"width": 8, "depth": 2}
    assert "start" not in data["model"]
    assert space.apply({"optimiser.rate": 0.02})["model"]["start"] == "first.safetensors"


# ---- trials


def curves(*scores, **more):
    every = [tuple(enumerate(one, 1)) for one in scores]
    return [Trial(i, {}, max(s for _, s in curve), curve=curve, **more) for i, curve in enumerate(every)]


def test_the_median_gives_up_what_is_below_half_of_the_others_at_the_same_epoch():
    done = curves([0.1, 0.4, 0.8, 0.9], [0.1, 0.5, 0.6, 0.7], [0.2, 0.3, 0.7, 0.8], [0.0, 0.6, 0.6, 0.7])
    # At epoch 2 the others had 0.3, 0.4, 0.5, 0.6: the median is 0.45.
    assert not hopeless(done, ((1, 0.9), (2, 0.0)), "median", 4)  # its best counts
    assert hopeless(done, ((1, 0.1), (2, 0.44)), "median", 4)
    assert not hopeless(done, ((1, 0.1), (2, 0.46)), "median", 4)
    assert not hopeless(done[:3], ((1, 0.0), (2, 0.0)), "median", 4)  # too few to say
    assert not hopeless(done, ((1, 0.0),), "median", 8)  # in the first quarter
    assert hopeless(done, ((1, 0.0), (2, float("nan"))), "median", 4)
    assert not hopeless(done, (), "median", 4)
    assert not hopeless(done, ((1, 0.0), (2, 0.0)), "none", 4)
    failed = curves(*[[0.9, 0.9]] * 4, failed=1)
    assert not hopeless(failed, ((1, 0.0), (2, 0.0)), "median", 4)  # what could not be trained says nothing


def test_halving_keeps_the_better_half_at_every_doubling():
    done = curves([0.5, 0.5, 0.5, 0.5], [0.6, 0.6, 0.6, 0.6], [0.1])
    assert hopeless(done, ((1, 0.2),), "halving", 8)
    assert not hopeless(done, ((1, 0.7),), "halving", 8)
    assert not hopeless(done, ((1, 0.7), (2, 0.7)), "halving", 8)
    assert not hopeless(done, ((1, 0.7), (2, 0.7), (3, 0.1), (4, 0.1)), "halving", 8)  # its best counts


def test_a_pooled_score_has_an_interval_of_both_scores_on_the_same_images():
    rng = np.random.default_rng(0)
    truths = {name: (rng.random((30, 30)) > 0.6).astype(np.int32) for name in ("a", "b")}
    protocol = PROTOCOLS["pixel"]

    def side(wrong):
        counts = {n: protocol.count(t, np.where(rng.random(t.shape) < wrong[n], 1 - t, t)) for n, t in truths.items()}
        return _Scored(protocol.report(counts), counts, protocol)

    before, after = side({"a": 0.3, "b": 0.3}), side({"a": 0.05, "b": 0.25})
    found = _gain(before, after, {"a": "", "b": ""})
    assert found.value == pytest.approx(after.report.value - before.report.value)
    # Of two images a bootstrap draws either twice, or both.
    alone = [protocol.report({n: after.counts[n]}).value - protocol.report({n: before.counts[n]}).value for n in truths]
    assert (found.low, found.high) == (pytest.approx(min(alone)), pytest.approx(max(alone)))
    assert found.method == "percentile bootstrap of 2 images"
    assert np.isnan(_gain(before, after, {"a": "one", "b": "one"}).low)


def command(cells, out, *more, rate=1e-7, loop=None, **changes):
    path = cells / f"{out.stem}-train.yaml"
    path.write_text(text_of(cells, "sigmoid", {**SHORT, **(loop or {})}, optimiser={"name": "adamw", "rate": rate}, **changes))  # fmt: skip # noqa: E501
    return [path, "--device", "cpu", "-o", out, *more]


def test_a_rate_that_learns_is_found_and_its_gain_measured_on_images_that_no_trial_has_seen(cells, tmp_path):
    out = tmp_path / "new" / "tuned.yaml"
    out.parent.mkdir()
    given = command(cells, out, "--vary", "optimiser.rate=1e-8..0.1", "--trials", 5, "--json", baseline="nuclei-classical")  # fmt: skip # noqa: E501
    done = invoke(*given)
    found = json.loads(done.stdout)
    assert "5 of 5 trials, search: 0.0000 to" in done.stderr
    assert "scored on 1 of the images" in done.stderr
    assert found["tuned"]
    assert found["changed"]["optimiser.rate"]["from"] == 1e-7
    assert found["changed"]["optimiser.rate"]["to"] > 1e-3
    held = found["held_out"]
    assert held["default"] == 0
    assert held["tuned"] == held["gain"] > 0.3
    assert held["low"] <= held["gain"] <= held["high"]
    assert "3 groups of 3 images" in held["method"]
    # The parts: those of the trials and of the end, as the trainings name them.
    search, final = (rows_of(tmp_path / "new" / "tuned.trials" / name) for name in ("search.csv", "final.csv"))
    given_parts = {row["id"]: row["part"] for row in rows_of(cells / "split.csv")}
    assert {row["id"]: row["part"] for row in final} == given_parts
    assert {row["id"] for row in search} == {name for name, part in given_parts.items() if part == "train"}
    assert found["images"] == {"trained": 6, "scored": 1, "held_out": 3}
    # The model beside it is the one that was scored, trained on all images to train on.
    from cellkit.models.store import find_model

    card = find_model(found["model"]).card
    assert "7 images to train on, 3 to validate on" in card.data
    assert card.figures["validation"]["model"]["value"] == pytest.approx(held["tuned"], abs=1e-3)
    # An ordinary config, its paths as seen from where it lies, with what was found on top.
    text = out.read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("gain on held-out images", "5 trials", "prune median", "1e-07 -> ", "which no trial has seen"):
        assert any(word.lower() in line.lower() for line in head), word
    config = read_config(out)
    assert config.optimiser[1]["rate"] == found["changed"]["optimiser.rate"]["to"]
    assert config.baseline is not None
    checked = CliRunner().invoke(cli, ["train", str(out), "--check"])
    assert checked.exit_code == 0, checked.output
    assert "7 images to train on, 3 to validate on" in checked.output
    rows = rows_of(out.with_suffix(".csv"))
    assert [row["trial"] for row in rows] == [str(i) for i in range(5)]
    assert len({row["optimiser.rate"] for row in rows}) == 5
    folders = sorted(path.name for path in out.with_suffix(".trials").iterdir() if path.is_dir())
    assert folders == [*(f"{i:03d}" for i in range(5)), "final-000", f"final-{found['search']['best']:03d}"]
    assert not list((out.with_suffix(".trials") / "000").glob("*.ckpt"))
    # The same command goes no further than it has, and says the same.
    assert "--resume goes on" in invoke(*given, code=2).output
    again = json.loads(invoke(*given, "--resume").stdout)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
    assert "--prune differ" in invoke(*given, "--resume", "--prune", "none", code=2).output


def test_hopeless_trials_are_given_up_and_told_and_without_a_gain_the_config_stays(cells, tmp_path):
    out = tmp_path / "tuned.yaml"
    more = ("--vary", "optimiser.rate=1e-8..1e-7", "--trials", 3, "--prune", "halving", "--sampler", "random")
    done = invoke(*command(cells, out, *more, rate=0.03, loop={"epochs": 4}))
    rows = rows_of(out.with_suffix(".csv"))
    assert [row["pruned"] for row in rows] == ["0", "2", "2"]
    assert "trial 1: given up after epoch 2, score 0.0000" in done.stderr
    assert "given up after epoch 2" in done.stdout
    assert "the config is written unchanged: no trial is better than the config as it is, of 2 others" in done.stdout
    head = [line for line in out.read_text().splitlines() if line.startswith("#")]
    assert any("3 trials, 2 given up early" in line for line in head)
    assert len(rows_of(out.with_suffix(".trials") / "001" / "log.csv")) == 2
    config = read_config(out)
    assert config.optimiser[1]["rate"] == 0.03
    assert not list(out.with_suffix(".trials").glob("final-*"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_search_goes_on_with_the_trial_in_flight_and_ends_as_an_undisturbed_one(cells, tmp_path, cellkit, monkeypatch):  # fmt: skip # noqa: E501
    # Other tests may have loaded plug-ins into this process; the one to be killed has none.
    monkeypatch.setattr("cellkit.core.registry._digests", {})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    more = ("--vary", "optimiser.rate=0.01..0.1", "--vary", "loss=bce|dice", "--trials", 3, "--search-only")
    whole, killed = tmp_path / "whole.yaml", tmp_path / "killed.yaml"
    invoke(*command(cells, whole, *more))
    given = command(cells, killed, *more)
    log = killed.with_suffix(".trials") / "001" / "log.csv"
    with subprocess.Popen([str(cellkit.script), "tune", *map(str, given)], stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < end and not log.exists():
            time.sleep(0.005)
        process.kill()
    assert not killed.exists()
    epochs = len(rows_of(log))
    assert epochs >= 1
    started = time.time()
    done = invoke(*given, "--resume")
    assert "was not measured (left out with --search-only)" in done.stdout
    trials = killed.with_suffix(".trials")
    assert (trials / "000" / "log.csv").stat().st_mtime < started < (trials / "002" / "log.csv").stat().st_mtime
    logs = [rows_of(path.with_suffix(".trials") / "001" / "log.csv") for path in (whole, killed)]
    losses = [[row["loss"] for row in rows] for rows in logs]
    assert losses[0] == losses[1]
    tables = [rows_of(path.with_suffix(".csv")) for path in (whole, killed)]
    assert [{**row, "seconds": ""} for row in tables[0]] == [{**row, "seconds": ""} for row in tables[1]]
    texts = [path.read_text().splitlines() for path in (whole, killed)]
    assert texts[0][1:] == texts[1][1:]


def test_what_cannot_be_trained_scores_nothing_and_says_why(cells, tmp_path):
    config = config_of(cells, "sigmoid", {**SHORT, "epochs": 1, "steps": 2})
    vary = ["model.parameters.depth=2|4", "loop.crop=32|40", "optimiser.rate=1e-4..100"]
    space = config_space(config, vary)
    trainings = Trainings(space, open_parts(config), tmp_path / "trials", Plan(device="cpu"))
    trainings.begin()
    before = [Trial(0, space.defaults, 0.5)]
    unfit = trainings({**space.defaults, "model.parameters.depth": 4, "loop.crop": 40}, before)
    assert (unfit.score, unfit.failed) == (0, 1)
    assert "40 is no multiple of 16" in unfit.note
    same = trainings(space.defaults, before)
    assert (same.score, same.note) == (0.5, "as trial 0")
    assert not list((tmp_path / "trials").glob("0*"))
    # Where a training stops being one, the search goes on; where the config itself is at fault, it does not.
    (tmp_path / "trials" / "001").write_text("in the way")
    other = trainings({**space.defaults, "optimiser.rate": 0.02}, before)
    assert (other.score, other.failed) == (0, 1)
    assert "is a file" in other.note
    (tmp_path / "trials" / "000").write_text("in the way")
    with pytest.raises(UsageError, match=r"the config as it is cannot be trained: .*is a file"):
        trainings(space.defaults, [])


def test_a_config_that_diverges_may_be_tuned_to_one_that_does_not(cells, tmp_path, monkeypatch):
    from cellkit.train import dense

    honest = dense.DenseTask.training_step

    def exploding(self, batch, index):
        if self.config.optimiser[1]["rate"] > 0.05:
            raise dense.Diverged("the loss is nan")
        return honest(self, batch, index)

    monkeypatch.setattr(dense.DenseTask, "training_step", exploding)
    out = tmp_path / "tuned.yaml"
    more = ("--vary", "optimiser.rate=0.01..0.04", "--trials", 2)
    done = invoke(*command(cells, out, *more, rate=0.09, loop={"epochs": 1}))
    assert "trial 0: diverged: the loss is nan" in done.stderr
    rows = rows_of(out.with_suffix(".csv"))
    assert [(row["failed_images"], row["note"]) for row in rows] == [("1", "diverged: the loss is nan"), ("0", "")]
    assert "not measured (the config as it was diverges" in done.stdout
    assert read_config(out).optimiser[1]["rate"] == float(rows[1]["optimiser.rate"])


def test_the_config_of_a_detector_is_tuned_as_well(tmp_path):
    import objects_to_learn

    folder = objects_to_learn.draw(tmp_path / "cells", images=6)
    config = objects_to_learn.config_of(folder, "boxes", {"epochs": 1, "steps": 2, "validate": 1})
    with pytest.raises(UsageError, match="losses of its own"):
        config_space(config, ["loss=dice|bce"])
    space = config_space(config, ["optimiser.rate", "model.parameters.proposals=40..80"])
    trainings = Trainings(space, open_parts(config), tmp_path / "trials", Plan(device="cpu"))
    trainings.begin()
    found = trainings({**space.defaults, "model.parameters.proposals": 50}, [Trial(0, space.defaults, 0.5)])
    assert (found.failed, found.note, found.pruned) == (0, "", 0)
    assert [epoch for epoch, _ in found.curve] == [1]
    data = yaml.safe_load((tmp_path / "trials" / "001" / "config.yaml").read_text())
    assert data["model"]["parameters"]["proposals"] == 50


def test_a_folder_of_other_values_is_begun_anew(cells, tmp_path):
    config = config_of(cells, "sigmoid", {**SHORT, "epochs": 1, "steps": 2})
    space = config_space(config)
    trainings = Trainings(space, open_parts(config), tmp_path / "trials", Plan(device="cpu"))
    trainings.begin()
    before = [Trial(0, space.defaults, 0.5)]
    for rate in (0.02, 0.03):
        assert trainings({"optimiser.rate": rate}, before).failed == 0
        data = yaml.safe_load((tmp_path / "trials" / "001" / "config.yaml").read_text())
        assert data["optimiser"]["rate"] == rate
    trainings.begin(fresh=True)
    assert sorted(path.name for path in (tmp_path / "trials").iterdir()) == ["final.csv", "search.csv"]


def test_time_that_is_up_in_the_first_trial_keeps_what_was_trained(cells, tmp_path, monkeypatch):
    from cellkit.train.keeper import Clock

    out = tmp_path / "tuned.yaml"
    given = command(cells, out, "--trials", 3, "--time-limit", "1h")
    looks = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(Clock, "left", lambda _: 1e6 if next(looks) < 2 * 8 else 0.0)  # about two epochs of eight steps
        text = invoke(*given, code=2).output
    assert "not one trial was done in that time" in text
    assert not out.exists()
    before = rows_of(out.with_suffix(".trials") / "000" / "log.csv")
    assert 1 <= len(before) < 3
    assert "--resume goes on" in invoke(*given, code=2).output
    out.with_suffix(".sqlite").unlink()
    assert "holds the trainings of an earlier tuning" in invoke(*given, code=2).output


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["--as", "pixel"], "--as: not with a config of a training"),
        (["--folds", "3"], "--folds: not with a config"),
        (["--set", "a.b=1"], "--set: not with a config"),
        (["--vary", "optimizer.rate"], "did you mean 'optimiser.rate'"),
        (["--data", "{cells}/images"], "images"),
        (["--time-limit", "soon"], "wanted a time such as 9m"),
        (["-o", "tuned.txt"], "ends in .yaml"),
        (["--resume"], "no trials to go on from"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_trained(cells, tmp_path, change, text):
    out = tmp_path / "tuned.yaml"
    given = [one.format(cells=cells) for one in change]
    assert text in invoke(*command(cells, out), *given, code=2).output
    assert not out.exists()
    assert not out.with_suffix(".trials").exists()


def test_what_is_for_configs_is_refused_with_a_recipe(cells, tmp_path):
    more = ("nuclei-classical", cells / "images", cells / "labels", "--as", "dsb2018", "-o", tmp_path / "t.yaml")
    assert "--search-only: not with a recipe" in invoke(*more, "--search-only", code=2).output
    assert "Missing argument 'IMAGES'" in invoke("nuclei-classical", "-o", tmp_path / "t.yaml", code=2).output
    assert "Missing option '--as'" in invoke(*more[:3], "-o", tmp_path / "t.yaml", code=2).output
