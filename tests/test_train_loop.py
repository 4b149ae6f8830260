"""Trainings of seconds on drawn cells: they learn, survive a kill, stop in time and on what is no number."""

from __future__ import annotations

import csv
import json
import math
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cellkit.core import StageError, UsageError
from cellkit.metrics import instance, semantic
from cellkit.models.store import find_model, load_network
from cellkit_cli.main import cli
from cells_to_learn import config_of, draw, text_of

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.train.dense import BATCH_FILE, Diverged, build_network  # noqa: E402
from cellkit.train.keeper import Silent  # noqa: E402
from cellkit.train.loop import train  # noqa: E402
from cellkit.train.parts import open_crops, open_parts  # noqa: E402
from cellkit.train.validate import Validator  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cells(tmp_path) -> Path:
    return draw(tmp_path / "cells")


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(run: Path) -> dict:
    return load_network(find_model(str(run / "model.safetensors"))).state_dict()


@pytest.mark.parametrize("head", ["sigmoid", "softmax", "border", "distance"])
def test_training_learns_and_the_model_runs_in_the_recipe(cells, tmp_path, head):
    config = config_of(cells, head, data={"folder": ".", "balance": "light"})
    report = train(config, tmp_path / "run", device="cpu")
    rows = rows_of(tmp_path / "run")
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert report.finished
    found = report.figures["validation"]["model"]
    assert found["low"] <= found["value"] <= found["high"]
    assert set(found["by_light"]) == {"dim", "bright"} if head != "softmax" else found["score"] == "mean IoU"

    located = find_model(str(tmp_path / "run" / "model.safetensors"))
    card = located.card
    assert (card.head, card.channels, card.divisor, [*card.recipe]) == (head, 1, 4, ["grayscale"])
    assert card.reach > 0
    assert card.halo >= card.reach
    assert "split.csv" in card.data
    assert config.digest in card.data

    parts = open_parts(config)
    with Validator(config, parts.val, parts.gives, card, torch.device("cpu")) as validator:
        before, _ = validator.score(build_network(config))
    assert found["value"] > before.value + 0.1

    # The same score, counted by hand on what the command writes.
    model = tmp_path / "run" / "model.safetensors"
    images = [str(pair.image) for pair in parts.val]
    arguments = [
        "run",
        str(cells / f"{head}.yaml"),
        *images,
        "-o",
        str(tmp_path / "out"),
        "--set",
        f"predict.model={model}",
    ]
    done = CliRunner().invoke(cli, [*arguments, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    layer, metric = ("classes", semantic) if head == "softmax" else ("labels", instance)
    counts = []
    for pair in parts.val:
        (path,) = (tmp_path / "out" / layer).glob(f"{pair.name}.*")
        from cellkit.io import read_labels

        truth = pair.classes() if layer == "classes" else pair.labels()
        counts.append(metric.count(truth.astype(np.int32), read_labels(path)))
    assert metric.score(sum(counts[1:], counts[0])) == pytest.approx(found["value"], abs=1e-3)


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from cellkit.train.config import read_config
from cellkit.train.keeper import Silent
from cellkit.train.loop import train

class Fatal(Silent):
    def step(self, epoch, step):
        if (epoch, step) == (3, 2):
            os.kill(os.getpid(), signal.SIGKILL)

train(read_config(sys.argv[1]), sys.argv[2], device="cpu", show=Fatal())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_run_killed_in_mid_epoch_ends_with_the_same_weights(cells, tmp_path):
    loop = {"epochs": 4, "steps": 5, "accumulate": 2, "validate": 2, "precision": "auto", "ema": 0.9}
    parameters = {"width": 8, "depth": 2, "most": 16}
    more = {"schedule": "one_cycle", "augment": "light"}
    config = config_of(cells, "sigmoid", loop, **more)
    path = cells / "config.yaml"
    path.write_text(config.text)
    assert config.model.parameters == parameters
    train(config, tmp_path / "whole", device="cpu")

    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(tmp_path / "killed")], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert [row["epoch"] for row in rows_of(tmp_path / "killed")] == ["1", "2"]
    with pytest.raises(UsageError, match="--resume"):
        train(config, tmp_path / "killed", device="cpu")
    report = train(config, tmp_path / "killed", resume=True, device="cpu")
    assert report.epochs == 4
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    columns = ("epoch", "step", "loss", "rate", "score")
    logs = [[[row[c] for c in columns] for row in rows_of(tmp_path / run)] for run in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert logs[0][-1][1] == "12"  # three steps of the optimiser an epoch
    assert not list((tmp_path / "killed").glob(".cellkit-*"))


class Slow(Silent):
    """Makes every step take a while."""

    def step(self, *_: int) -> None:
        time.sleep(0.05)


def test_the_time_limit_stops_between_epochs_and_resume_goes_on(cells, tmp_path):
    config = config_of(cells, "sigmoid", {"epochs": 400, "steps": 3, "validate": 1000})
    report = train(config, tmp_path / "run", time_limit=6.0, device="cpu", show=Slow())
    assert not report.finished
    assert report.reason == "time limit"
    assert 0 < report.epochs < 400
    assert len(rows_of(tmp_path / "run")) == report.epochs
    fewer = config_of(cells, "sigmoid", {"epochs": report.epochs + 1, "steps": 3, "validate": 1000})
    again = train(fewer, tmp_path / "run", resume=True, device="cpu")
    assert again.finished
    assert again.epochs == report.epochs + 1
    steps = [int(row["step"]) for row in rows_of(tmp_path / "run")]
    assert steps == [3 * (n + 1) for n in range(again.epochs)]
    other = config_of(cells, "sigmoid", {"epochs": 500, "steps": 3, "batch": 2, "validate": 1000})
    with pytest.raises(UsageError, match=r"loop\.batch changed"):
        train(other, tmp_path / "run", resume=True, device="cpu")


def test_too_little_time_for_an_epoch_is_told(cells, tmp_path):
    with pytest.raises(UsageError, match="not one epoch"):
        train(config_of(cells), tmp_path / "run", time_limit=0.01, device="cpu")
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_loss_that_is_no_number_stops_the_run(cells, tmp_path, monkeypatch):
    from cellkit.train import dense

    config = config_of(cells, "sigmoid", {"steps": 3, "validate": 10})
    calls = iter(range(100))
    honest = dense.DenseTask.training_step

    def poisoned(self, batch, index):
        if next(calls) == 4:  # in the second epoch
            batch["image"][1, 0, 0, 0] = math.nan
        return honest(self, batch, index)

    monkeypatch.setattr(dense.DenseTask, "training_step", poisoned)
    with pytest.raises(Diverged, match="not finite: c") as caught:
        train(config, tmp_path / "run", device="cpu")
    with np.load(tmp_path / "run" / BATCH_FILE, allow_pickle=False) as kept:
        names = kept["name"].tolist()
        assert kept["image"].shape == (4, 1, 32, 32)
        assert kept["maps"].shape == (4, 1, 32, 32)
        assert np.isnan(kept["image"]).sum(axis=(1, 2, 3)).tolist() == [0, 1, 0, 0]
    assert names[1] in str(caught.value)
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert len(state["cellkit"]["history"]) == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["state_dict"].values())


def test_the_command_trains_with_a_baseline_and_says_so(cells, tmp_path):
    path = cells / "config.yaml"
    path.write_text(text_of(cells, "border", {"epochs": 1, "steps": 2, "validate": 1}, baseline="nuclei-classical"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = CliRunner().invoke(cli, ["train", str(path), "-o", str(tmp_path / "run"), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["figures"]["validation"]
    assert found["baseline"]["recipe"] == "nuclei-classical"
    assert found["baseline"]["value"] > found["model"]["value"]
    assert "epoch 1 of 1: loss" in done.stderr
    files = {entry.name for entry in (tmp_path / "run").iterdir()}
    page = {"report.html", "curves.png", "run.json", "examples.npz", "audit.json"}
    assert files == {"model.safetensors", "config.yaml", "log.csv", "last.ckpt", "best.ckpt", ".lock", *page}
    assert (tmp_path / "run" / "config.yaml").read_text() == path.read_text()
    again = CliRunner().invoke(cli, ["train", str(path), "-o", str(tmp_path / "run")])
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    (tmp_path / "run" / "last.ckpt").write_bytes(b"no checkpoint")
    damaged = CliRunner().invoke(cli, ["train", str(path), "-o", str(tmp_path / "run"), "--resume"])
    assert damaged.exit_code == 2
    assert "cannot be read as a checkpoint" in damaged.stderr


def test_crops_say_what_does_not_fit(cells):
    config = config_of(cells)
    parts = open_parts(config)
    assert (len(parts.train), len(parts.val)) == (5, 3)
    crops = open_crops(config, parts)
    crops.channels = 3
    with pytest.raises(StageError, match=r"1 channels, model\.channels is 3"):
        crops[0, 0]
    two = config_of(cells, model={"architecture": "unet-compact", "head": "sigmoid", "classes": ["a", "b"]})
    item = open_crops(two, parts)[0, 0]  # class images follow from labels: all of the first class
    assert item["maps"].shape == (2, 32, 32)
    assert not item["maps"][1].any()


def test_a_folder_that_another_training_holds_is_refused(cells, tmp_path):
    from cellkit.engine.lock import held

    (tmp_path / "run").mkdir()
    config = config_of(cells, "sigmoid", {"epochs": 1})
    with held(tmp_path / "run" / ".lock", "taken"), pytest.raises(UsageError, match="another training is writing here"):
        train(config, tmp_path / "run", device="cpu")
    assert train(config, tmp_path / "run", device="cpu").finished


def test_resume_wants_something_to_go_on_with(cells, tmp_path):
    with pytest.raises(UsageError, match="no training to go on with"):
        train(config_of(cells), tmp_path / "run", resume=True, device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        train(config_of(cells), tmp_path / "file", device="cpu")


def test_parts_are_drawn_where_there_is_no_split(cells):
    (cells / "split.csv").unlink()
    parts = open_parts(config_of(cells))
    assert (len(parts.train), len(parts.val)) == (7, 1)
    assert "drawn" in parts.about
    assert open_parts(config_of(cells)).val == parts.val
    with pytest.raises(UsageError, match=r"split: there is no"):
        open_parts(config_of(cells, data={"folder": ".", "split": "nowhere.csv"}))
    with pytest.raises(UsageError, match="no column 'lihgt'"):
        open_parts(config_of(cells, data={"folder": ".", "balance": "lihgt"}))


def test_workers_and_interruption_change_nothing(cells, tmp_path, monkeypatch):
    few = {"epochs": 2, "steps": 3, "validate": 2}
    train(config_of(cells, "sigmoid", few), tmp_path / "alone", device="cpu")
    train(config_of(cells, "sigmoid", {**few, "workers": 2}), tmp_path / "workers", device="cpu")
    path = cells / "config.yaml"
    path.write_text(text_of(cells, "sigmoid", few))
    from cellkit_cli import train as command

    def stopped(self, epoch, step):
        if (epoch, step) == (2, 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command.Shown, "step", stopped)
        handler = signal.getsignal(signal.SIGINT)
        done = CliRunner().invoke(cli, ["train", str(path), "-o", str(tmp_path / "stopped"), "--device", "cpu"])
        assert done.exit_code == 130
        assert signal.getsignal(signal.SIGINT) is handler
    done = CliRunner().invoke(cli, ["train", str(path), "-o", str(tmp_path / "stopped"), "--device", "cpu", "--resume"])
    assert done.exit_code == 0, done.output
    alone = weights(tmp_path / "alone")
    for run in ("workers", "stopped"):
        other = weights(tmp_path / run)
        assert all(torch.equal(alone[name], other[name]) for name in alone)


def test_patience_ends_a_training_that_gains_nothing(cells, tmp_path):
    loop = {"epochs": 9, "steps": 1, "validate": 1, "patience": 2}
    still = {"name": "sgd", "rate": 1e-8}
    report = train(config_of(cells, "sigmoid", loop, optimiser=still), tmp_path / "run", device="cpu")
    assert (report.finished, report.reason, report.epochs) == (True, "patience", 3)
    again = train(config_of(cells, "sigmoid", loop, optimiser=still), tmp_path / "run", resume=True, device="cpu")
    assert (again.reason, again.epochs) == ("patience", 3)


def test_a_start_from_trained_weights_begins_where_they_end(cells, tmp_path):
    first = config_of(cells, "sigmoid", {"epochs": 2})
    train(first, tmp_path / "one", device="cpu")
    parameters = {"width": 8, "depth": 2, "most": 16}
    model = {"architecture": "unet-compact", "head": "sigmoid", "classes": ["cell"], "parameters": parameters}
    start = str(tmp_path / "one" / "model.safetensors")
    again = build_network(config_of(cells, "sigmoid", model={**model, "start": start})).state_dict()
    assert all(torch.equal(again[name], value) for name, value in weights(tmp_path / "one").items())
    other = {**model, "start": start, "parameters": {"width": 8, "depth": 2, "most": 32}}
    with pytest.raises(UsageError, match="not of the shape"):
        build_network(config_of(cells, "sigmoid", model=other))
    in_folder = config_of(cells, "sigmoid", model={**model, "start": str(tmp_path / "one")})
    assert all(torch.equal(again[name], value) for name, value in build_network(in_folder).state_dict().items())


@pytest.mark.parametrize("change", ["classes", "channels", "both"])
def test_a_start_from_other_classes_or_channels_draws_only_what_hangs_on_them_anew(cells, tmp_path, change):
    from cellkit.models import Card, build, save_model

    parameters = {"width": 8, "depth": 2, "most": 16}
    channels, classes = (1 if change == "classes" else 3), (1 if change == "channels" else 4)
    torch.manual_seed(5)
    before = build("unet-compact", channels, classes, parameters)
    names = ("cell", "a", "b", "c")[:classes]
    card = Card("old", "unet-compact", "dense", channels, names, "sigmoid", parameters=parameters)
    save_model(tmp_path / "old.safetensors", before, card)
    model = {"architecture": "unet-compact", "head": "sigmoid", "classes": ["cell"], "parameters": parameters}
    start = {**model, "start": str(tmp_path / "old.safetensors")}
    after = build_network(config_of(cells, "sigmoid", model=start)).state_dict()
    kept = {name for name, value in before.state_dict().items() if torch.equal(after[name], value)}
    shapes = {name: value.shape for name, value in before.state_dict().items()}
    differ = {name for name, value in after.items() if value.shape != shapes[name]}
    assert differ
    assert kept == after.keys() - differ


def test_narrow_networks_are_trained_on_a_cpu_without_the_layout_that_kills_the_process():
    """The backward pass of such a convolution, channels last, writes beyond its memory in torch 2.14.1."""
    code = (
        "import torch\n"
        "from cellkit.models import build\n"
        "from cellkit.train.task import layout_of\n"
        "network = build('unet-compact', 1, 3, {'width': 8, 'depth': 2})\n"
        "layout = layout_of(network, torch.device('cpu'))\n"
        "network.to(memory_format=layout)\n"
        "for _ in range(10):\n"
        "    network(torch.rand(4, 1, 128, 128).contiguous(memory_format=layout)).sum().backward()\n"
        "wide = build('unet-compact', 1, 3, {'width': 16, 'depth': 2})\n"
        "print(layout, layout_of(wide, torch.device('cpu')), layout_of(network, torch.device('cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch.contiguous_format", "torch.channels_last", "torch.channels_last"]
