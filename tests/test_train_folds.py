"""Trainings in folds: what each sees, what is kept, and that a kill or a limit changes nothing in the end."""

from __future__ import annotations

import csv
import json
import math
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from cellkit.core import UsageError
from cellkit.models.store import find_model, load_network
from cellkit_cli.main import cli
from cells_to_learn import config_of, draw, text_of

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.models.inference import activate  # noqa: E402
from cellkit.train import crossing, keeper, loop  # noqa: E402
from cellkit.train.crossing import train_folds  # noqa: E402
from cellkit.train.ensemble import Ensemble  # noqa: E402
from cellkit.train.folds import open_folds  # noqa: E402
from cellkit.train.keeper import Silent  # noqa: E402
from cellkit.train.loop import TooShort, train  # noqa: E402
from cellkit.train.parts import open_parts  # noqa: E402
from cellkit.train.validate import Validator  # noqa: E402

SHORT = {"epochs": 2, "steps": 4, "validate": 1}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cells(tmp_path) -> Path:
    return draw(tmp_path / "cells", images=9)


def weights(run: Path) -> dict:
    return load_network(find_model(str(run / "model.safetensors"))).state_dict()


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def document(run: Path) -> dict:
    return json.loads((run / "folds.json").read_text())


def without_times(run: Path) -> dict:
    found = document(run)
    for fold in found["folds"]:
        del fold["seconds"]
    return {**found, "folder": ""}


def rewrite(cells: Path, rows: list[tuple[str, ...]]) -> None:
    with (cells / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_folds_cut_no_group_and_spread_the_strata(tmp_path):
    cells = draw(tmp_path / "cells", images=24, side=32)
    head = ("id", "part", "patient", "light")
    rows = [(f"c{n}", "train" if n < 20 else "val", f"p{n // 2}", "dim" if n % 4 < 2 else "bright") for n in range(24)]
    rewrite(cells, [head, *rows])
    config = config_of(cells, data={"folder": ".", "balance": "light"})
    folds = open_folds(config, 5)
    assert [pair.name for pair in folds.held] == [f"c{n}" for n in range(20, 24)]
    judged = Counter()
    sides = defaultdict(set)
    for number, parts in enumerate(folds.parts):
        train_names, val_names = ({pair.name for pair in part} for part in (parts.train, parts.val))
        assert not train_names & val_names
        assert len(train_names | val_names) == 20
        assert Counter(pair.fields["light"] for pair in parts.val) == {"dim": 2, "bright": 2}
        judged.update(val_names)
        for pair in parts.val:
            sides[pair.group].add(number)
    assert set(judged.values()) == {1}
    assert all(len(found) == 1 for found in sides.values())
    assert len(sides) == 10
    assert folds.places["c20"] == 0
    with pytest.raises(UsageError, match="10 groups cannot be dealt out to 11"):
        open_folds(config, 11)


def test_all_images_take_part_where_there_is_no_split_and_a_column_of_folds_is_kept_to(cells):
    rewrite(cells, [("id", "fold"), *((f"c{n}", str(n % 3)) for n in range(9))])
    folds = open_folds(config_of(cells), 3)
    assert folds.held == ()
    assert [[pair.name for pair in parts.val] for parts in folds.parts] == [
        ["c0", "c3", "c6"],
        ["c1", "c4", "c7"],
        ["c2", "c5", "c8"],
    ]
    with pytest.raises(UsageError, match="--folds asks for 4"):
        open_folds(config_of(cells), 4)
    (cells / "split.csv").unlink()
    assert sum(len(parts.val) for parts in open_folds(config_of(cells), 4).parts) == 9


def test_groups_of_the_data_set_hold_where_the_split_file_names_none(cells):
    groups = [("id", "patient"), *((f"c{n}", f"p{n // 3}") for n in range(9))]
    (cells / "split.csv").unlink()
    with (cells / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows(groups)
    with (cells / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id",), *((f"c{n}",) for n in range(9))])
    folds = open_folds(config_of(cells, data={"folder": ".", "split": "mine.csv"}), 3)
    assert [len({pair.group for pair in parts.val}) for parts in folds.parts] == [1, 1, 1]


def test_the_command_trains_folds_and_an_ensemble(cells, tmp_path):
    path, run = cells / "config.yaml", tmp_path / "run"
    text = text_of(cells, "sigmoid", {"epochs": 3, "steps": 10, "validate": 3})
    path.write_text(text)
    arguments = ["train", str(path), "-o", str(run), "--folds", "2", "--device", "cpu"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    found = document(run)
    assert found["finished"]
    assert found["images"] == open_folds(config_of(cells, loop={"epochs": 3}), 2).places
    values = [fold["score"]["value"] for fold in found["folds"]]
    assert found["validation"]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["validation"]["variance"] == pytest.approx(np.var(values, ddof=1), abs=1e-8)
    assert found["validation"]["deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert f"mean {np.mean(values):.4f} of 2 models, variance {np.var(values, ddof=1):.2e}" in done.stdout
    assert f"{values[0]:.4f} (" in done.stdout
    for number in (1, 2):
        files = {entry.name for entry in (run / f"fold-{number}").iterdir()}
        page = {"report.html", "curves.png", "run.json", "examples.npz"}
        assert files == {"model.safetensors", "config.yaml", "log.csv", "last.ckpt", "best.ckpt", ".lock", *page}
        card = find_model(str(run / f"fold-{number}" / "model.safetensors")).card
        assert f"fold {number} of 2" in card.data
        assert "audit of 9 images" in card.data
        assert card.figures["validation"]["model"]["value"] == values[number - 1]

    # What is held back is scored again here, by each model and by a network that was averaged by hand.
    config = config_of(cells, "sigmoid", {"epochs": 3, "steps": 10, "validate": 3})
    held = open_parts(config).val
    networks = [load_network(find_model(str(run / f"fold-{n}" / "model.safetensors"))).eval() for n in (1, 2)]

    class Mean(torch.nn.Module):
        def forward(self, images):
            odds = sum(network(images).sigmoid() for network in networks) / 2
            return torch.log(odds / (1 - odds))

    card = find_model(str(run / "fold-1" / "model.safetensors")).card
    with Validator(config, held, ("labels", "classes"), card, torch.device("cpu")) as validator:
        together = validator.score(Mean())[0].value
        alone = [validator.score(network)[0].value for network in networks]
    assert found["held_out"]["ensemble"]["value"] == pytest.approx(together, abs=2e-3)
    assert [fold["held"]["value"] for fold in found["folds"]] == pytest.approx(alone, abs=1e-3)
    assert found["held_out"]["ensemble"]["images"] == 3

    again = CliRunner().invoke(cli, [*arguments, "--resume", "--json"])  # nothing is left to do
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["validation"] == found["validation"]
    assert "epochs of" not in again.stderr
    assert CliRunner().invoke(cli, arguments).exit_code == 2
    assert "--folds as well" in CliRunner().invoke(cli, [*arguments[:4], "--resume"]).stderr
    third = CliRunner().invoke(cli, [*arguments[:5], "3", "--resume"])
    assert third.exit_code == 2
    assert "say --folds 2" in third.stderr


@pytest.mark.parametrize("head", ["sigmoid", "softmax", "border", "distance"])
def test_an_ensemble_gives_the_mean_of_the_scores(head):
    torch.manual_seed(0)
    networks = [torch.nn.Conv2d(1, 3, 3, padding=1) for _ in range(3)]
    images = torch.randn(2, 1, 8, 8) * 4
    scores = [torch.softmax(n(images), 1) if head in ("softmax", "border") else torch.sigmoid(n(images)) for n in networks]  # fmt: skip # noqa: E501
    found = activate(Ensemble(networks, head)(images), head)
    torch.testing.assert_close(found, sum(scores) / 3, atol=2e-6, rtol=1e-5)


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from cellkit.train.config import read_config
from cellkit.train.crossing import train_folds
from cellkit.train.folds import open_folds
from cellkit.train.keeper import Silent

class Fatal(Silent):
    fold = 0
    def start(self, *_):
        self.fold += 1
    def step(self, epoch, step):
        if (self.fold, epoch, step) == (2, 2, 3):
            os.kill(os.getpid(), signal.SIGKILL)

config = read_config(sys.argv[1])
train_folds(config, open_folds(config, 3), sys.argv[2], device="cpu", show=Fatal())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_run_killed_in_its_second_fold_ends_with_the_same_bits(cells, tmp_path):
    path, whole, killed = cells / "config.yaml", tmp_path / "whole", tmp_path / "killed"
    config = config_of(cells, "sigmoid", SHORT, augment="light", schedule="one_cycle")
    path.write_text(config.text)
    folds = open_folds(config, 3)
    assert train_folds(config, folds, whole, device="cpu").finished
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(killed)], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [fold["state"] for fold in document(killed)["folds"]] == ["done", "waiting", "waiting"]
    assert (killed / "fold-2" / "last.ckpt").exists()
    before = (killed / "fold-1" / "last.ckpt").stat().st_mtime_ns
    with pytest.raises(UsageError, match="--resume goes on"):
        train_folds(config, folds, killed, device="cpu")
    shown = Noted()
    assert train_folds(config, folds, killed, resume=True, device="cpu", show=shown).finished
    assert shown.begun == [1, 0]  # epochs done already in the second fold, and in the third
    assert (killed / "fold-1" / "last.ckpt").stat().st_mtime_ns == before
    assert all(same(whole / f"fold-{n}", killed / f"fold-{n}") for n in (1, 2, 3))
    assert without_times(whole) == without_times(killed)
    assert not same(whole / "fold-1", whole / "fold-2")
    assert not list(killed.rglob(".cellkit-*"))


class Noted(Silent):
    """Takes note of how many epochs were done where a fold begins; every step takes a second of `now`."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.now = 0.0

    def start(self, _epochs: int, _steps: int, done: int, _seconds: float = math.inf) -> None:
        self.begun.append(done)

    def step(self, *_: int) -> None:
        self.now += 1


def test_a_time_limit_is_shared_and_resume_goes_on(cells, tmp_path, monkeypatch):
    config, run = config_of(cells, "sigmoid", {"epochs": 6, "steps": 2, "validate": 6}), tmp_path / "run"
    folds, shown = open_folds(config, 2), Noted()
    with monkeypatch.context() as patch:
        for module in (crossing, keeper, loop):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: shown.now))
        report = train_folds(config, folds, run, time_limit=17.0, device="cpu", show=shown)
        assert (report.finished, report.reason) == (False, "time limit")
        assert shown.begun == [0, 0]  # both had their turn
        # 8.5 s hold four epochs of 2 s; so do the 9 s that are left then.
        assert [(fold.state, fold.epochs) for fold in report.folds] == [("stopped", 4), ("stopped", 4)]
        with pytest.raises(TooShort, match="no fold got as far"):
            train_folds(config, folds, tmp_path / "short", time_limit=1.0, device="cpu", show=shown)
    again = train_folds(config, folds, run, resume=True, device="cpu")
    assert again.finished
    assert [fold.epochs for fold in again.folds] == [6, 6]
    assert again.ensemble["images"] == 3
    whole = train_folds(config, folds, tmp_path / "whole", device="cpu")
    assert all(same(run / f"fold-{n}", tmp_path / "whole" / f"fold-{n}") for n in (1, 2))
    assert [fold.score for fold in whole.folds] == [fold.score for fold in again.folds]


def test_a_fold_that_fails_leaves_the_others_alone(cells, tmp_path, monkeypatch):
    from cellkit.train import dense

    honest = dense.DenseTask.training_step

    def poisoned(self, batch, index):
        if self.folder.name == "fold-1" and self.current_epoch == 1:
            batch["image"][0] = float("nan")
        return honest(self, batch, index)

    path, run = cells / "config.yaml", tmp_path / "run"
    path.write_text(text_of(cells, "sigmoid", SHORT))
    arguments = ["train", str(path), "-o", str(run), "--folds", "2", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(dense.DenseTask, "training_step", poisoned)
        done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1, done.output
    assert "note: fold 1 failed: the loss is nan" in done.stdout
    assert [fold["state"] for fold in document(run)["folds"]] == ["failed", "done"]
    assert document(run)["folds"][0]["epochs"] == 1
    assert not document(run)["held_out"]["ensemble"]
    mended = CliRunner().invoke(cli, [*arguments, "--resume"])
    assert mended.exit_code == 0, mended.output
    assert document(run)["held_out"]["ensemble"]["images"] == 3


def test_other_images_or_configs_are_refused(cells, tmp_path):
    config = config_of(cells, "sigmoid", {"epochs": 1, "steps": 1})
    folds, run = open_folds(config, 2), tmp_path / "run"
    train_folds(config, folds, run, device="cpu")
    with pytest.raises(UsageError, match=r"loop\.batch changed"):
        train_folds(config_of(cells, "sigmoid", {"epochs": 1, "steps": 1, "batch": 2}), folds, run, resume=True)
    with pytest.raises(UsageError, match="about other images or another split of them"):
        train(config, run / "fold-1", resume=True, device="cpu")  # by itself, on other images
    rewrite(cells, [("id", "part"), *((f"c{n}", "train" if 0 < n < 6 else "val") for n in range(9))])
    with pytest.raises(UsageError, match=r"about other images or another split: . differ, such as c0"):
        train_folds(config, open_folds(config, 2), run, resume=True)
    with pytest.raises(UsageError, match="no training in folds"):
        train_folds(config, folds, tmp_path / "nowhere", resume=True)
    train(config, tmp_path / "plain", device="cpu")
    with pytest.raises(UsageError, match="without folds"):
        train_folds(config, folds, tmp_path / "plain")
    (run / "folds.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be gone on from"):
        train_folds(config, folds, run, resume=True)
