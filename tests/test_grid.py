"""Grids of trainings: what is told before the first batch, a whole table, cells of others, and going on."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from cellkit_cli.main import cli
from cells_to_learn import draw, text_of

pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.core import UsageError
from cellkit.report import gridpage, plots
from cellkit.train import dense, gridrun
from cellkit.train.gridfile import GridError, read_grid, safe_name
from cellkit.train.gridopen import open_cells
from cellkit.train.keeper import Clock
from cellkit.train.loop import Report
from cellkit.train.record import RunPage
from cellkit.train.task import Diverged

pytestmark = pytest.mark.usefixtures("one_thread")

SLOWER = {"name": "slower", "set": {"optimiser.rate": 0.001}}


@pytest.fixture
def grid(tmp_path):
    cells = draw(tmp_path / "cells", images=9)
    (cells / "base.yaml").write_text(text_of(cells, loop={"epochs": 2, "steps": 2, "validate": 1}))

    def write(**changes):
        path = cells / "g.yaml"
        path.write_text(yaml.safe_dump({"config": "base.yaml", **changes}, sort_keys=False))
        return path

    return write


@pytest.fixture
def undrawn(monkeypatch):
    """Pages and charts take longer than these trainings."""
    monkeypatch.setattr(RunPage, "draw", lambda _: None)
    monkeypatch.setattr(gridpage, "grid_page", lambda *_: "")
    monkeypatch.setattr(plots, "png", lambda _: b"")
    monkeypatch.setattr(gridpage, "grid_picture", lambda *_: None)


def run(path, out, *more):
    return CliRunner().invoke(cli, ["grid", str(path), "-o", str(out), "--device", "cpu", *more])


def table(out):
    return {row["name"]: row for row in csv.DictReader((out / "grid.csv").read_text().splitlines())}


def faults_of(path):
    with pytest.raises(GridError) as error:
        read_grid(path)
    return str(error.value)


def test_faults_are_told_together(grid):
    one = {"name": "a", "set": {"loop.epoch": 3}}
    cells = [{"name": "base"}, {"name": "again"}, one, {"name": "w", "of": "bas"}]
    cells += [{"name": "s", "set": {"recipe.treshold.value": 0.3}}, {"name": "o", "of": "base", "set": {"loss": "bce"}}]
    text = faults_of(grid(cells=cells, bseline="base"))
    for part in ("did you mean 'epochs'", "is the same as 'base'", "did you mean 'base'", "did you mean 'baseline'",
                 "did you mean 'threshold'", "loss: not with `of`"):  # fmt: skip
        assert part in text


def test_what_is_hostile_is_refused(grid):
    path = grid(cells=[{"name": "../../up"}, {"name": "Cell"}, {"name": "cell", "set": {"optimiser.rate": 0.1}}])
    assert "has the folder of 'Cell'" in faults_of(path)
    assert "in one line" in faults_of(grid(cells=[{"name": "a\x1b[31m"}, {"name": "b\nc"}, {"name": "x" * 300}]))
    assert "combinations; at most" in faults_of(grid(vary={f"k{i}": list(range(10)) for i in range(5)}))
    for name in ("../../up", "..", "con", "a/b", "fold-1", "é" * 80, "\x00"):
        made = safe_name(name)
        assert made != name
        assert made.isascii()
        assert not {"/", "\\", "\0"} & set(made)
        assert not made.startswith(".")
    path.write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    with pytest.raises(UsageError, match="aliases"):
        read_grid(path)
    path.write_text("[" * 10_000)
    with pytest.raises(UsageError, match="nested too deeply"):
        read_grid(path)


def test_one_factor_at_a_time(grid):
    low = {"name": "low", "set": {"recipe.threshold.value": 0.3, "loop.crop": 16}}
    high = {"name": "high", "set": {"recipe.threshold.value": 0.5}}
    found = read_grid(grid(each={"loss": ["bce", "dice"], "cut": [high, low], "augment": ["flips", "light"]}))
    assert [cell.name for cell in found.cells] == ["base", "dice", "low", "light"]
    assert found.baseline == "base"
    assert [(*cell.values.values(),) for cell in found.cells][::2] == [
        ("bce", "high", "flips"),
        ("bce", "low", "flips"),
    ]
    steps = [step for step in found.cells[2].config.recipe.steps if step.stage == "threshold"]
    assert steps[0].params["value"] == 0.3
    assert found.cells[2].config.loop.crop == 16
    assert found.cells[1].config.loss == "dice"
    assert found.cells[2].config.loss == "bce"
    assert "not beside `vary`" in faults_of(grid(each={"loss": ["bce", "dice"]}, vary={"augment": ["flips", "light"]}))


@pytest.mark.parametrize(
    ("name", "cells", "trained"),
    [("1-dsb2018-unet/proposals", 14, 10), ("2-dsb2018-vgg/grid", 8, 8), ("5-darkfield-bacteria/grid", 13, 13)],
)
def test_the_grids_of_the_examples_are_sound(name, cells, trained):
    found = read_grid(Path(__file__).parents[1] / "examples" / "systems" / f"{name}.yaml")
    assert (len(found.cells), len(found.trained)) == (cells, trained)


def test_folds_and_cells_of_others_and_resume(grid, tmp_path):
    cells = [{"name": "<b>base"}, {"name": "low", "of": "<b>base", "set": {"recipe.threshold.value": 0.3}}]
    path, out = grid(cells=cells, folds=2, baseline="<b>base"), tmp_path / "out"
    done = run(path, out)
    assert done.exit_code == 0, done.output
    assert [(name, row["status"]) for name, row in table(out).items()] == [("<b>base", "done"), ("low", "done")]
    assert table(out)["low"]["gain_low"] != ""
    page = (out / "report.html").read_text()
    assert "<b>base" not in page
    assert "gain over &lt;b&gt;base" in page
    assert (out / "grid.png").stat().st_size > 10_000
    before = (out / "grid.csv").read_text()
    assert run(path, out).exit_code == 2
    again = run(path, out, "--resume")
    assert again.exit_code == 0, again.output
    assert (out / "grid.csv").read_text() == before


KILLED = """
import os, signal, sys
from cellkit_cli.grid import GridShown
from cellkit_cli.main import main

def step(self, epoch, step):
    if self.where.startswith("cell 2") and epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

GridShown.step = step
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.usefixtures("undrawn")
def test_a_killed_grid_goes_on_where_it_was(grid, tmp_path, monkeypatch):
    from cellkit.core import registry

    monkeypatch.setattr(registry, "_digests", {})  # what other tests have loaded into this process
    path, out = grid(cells=[{"name": "base"}, SLOWER], baseline="base"), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "grid", str(path), "-o", str(out), "--device", "cpu"]
    assert subprocess.run(command, timeout=300, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert [row["status"] for row in table(out).values()] == ["done", "not begun"]
    model = out / "cells" / "base" / "model.safetensors"
    made = model.stat().st_mtime_ns
    again = run(path, out, "--resume")
    assert again.exit_code == 0, again.output
    assert model.stat().st_mtime_ns == made
    assert "cell 1 of 2" not in again.output
    whole = run(path, tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    rows = [[{**row, "seconds": ""} for row in table(one).values()] for one in (out, tmp_path / "whole")]
    assert rows[0] == rows[1]
    assert all(row["score"] for row in rows[0])


@pytest.mark.usefixtures("undrawn")
def test_what_fails_is_a_row_and_a_changed_cell_alone_is_trained_anew(grid, tmp_path, monkeypatch):
    def loss(self, batch, step):
        if self.config.optimiser[1]["rate"] == 100:
            raise Diverged("the loss is nan")
        return real(self, batch, step)

    real = dense.DenseTask.training_step
    monkeypatch.setattr(dense.DenseTask, "training_step", loss)
    cells = [{"name": "wild", "set": {"optimiser.rate": 100}}, {"name": "base"}]
    path, out = grid(cells=cells), tmp_path / "out"
    done = run(path, out)
    assert done.exit_code == 1, done.output
    rows = table(out)
    assert rows["wild"]["status"] == "failed"
    assert rows["wild"]["reason"] == "diverged: the loss is nan"
    assert rows["base"]["score"]
    made = (out / "cells" / "base" / "model.safetensors").stat().st_mtime_ns

    other = path.with_name("other.yaml")
    other.write_text(yaml.safe_dump({"config": "base.yaml", "cells": [SLOWER]}))
    refused = run(other, out, "--resume")
    assert refused.exit_code == 2
    assert "is of the grid g.yaml" in refused.output
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "model.safetensors").touch()
    assert "is of something else" in run(path, tmp_path / "training").output

    again = run(grid(cells=[{"name": "wild", "set": {"optimiser.rate": 1}}, {"name": "base"}]), out, "--resume")
    assert again.exit_code == 0, again.output
    assert "wild: its config changed: optimiser; trained anew" in again.output
    assert (out / "replaced" / "wild-1" / "cell.json").is_file()
    assert table(out)["wild"]["score"]
    assert (out / "cells" / "base" / "model.safetensors").stat().st_mtime_ns == made


@pytest.mark.usefixtures("undrawn")
def test_what_time_stops_is_scored_as_it_is_and_goes_on(grid, tmp_path, monkeypatch):
    path, out = grid(cells=[{"name": "base"}, SLOWER], baseline="base"), tmp_path / "out"
    monkeypatch.setattr(Clock, "left", lambda self: 1e9 if self.first else 0.0)  # one epoch, then over
    done = run(path, out, "--time-limit", "1h")
    assert done.exit_code == 0, done.output
    assert "--resume" in done.output
    rows = table(out)
    assert [(row["status"], row["epochs"], row["planned_epochs"]) for row in rows.values()] == [
        ("stopped", "1", "2")
    ] * 2
    assert all(row["score"] and row["seconds"] for row in rows.values())
    assert rows["slower"]["gain"]
    assert not json.loads((out / "grid.json").read_text())["finished"]
    monkeypatch.undo()
    assert run(path, out, "--resume").exit_code == 0
    assert {row["status"] for row in table(out).values()} == {"done"}


@pytest.mark.usefixtures("undrawn")
def test_time_is_shared_evenly_among_what_is_left(grid, tmp_path, monkeypatch):
    cells = [{"name": str(rate), "set": {"optimiser.rate": rate}} for rate in (0.1, 0.2, 0.3, 0.4)]
    found = read_grid(grid(cells=cells))
    now, shares = [1000.0], []

    def train(config, folder, *, time_limit, **_):
        shares.append(time_limit.seconds)
        now[0] += 10 if len(shares) == 1 else time_limit.seconds  # the first ends early, what it leaves is shared
        return Report(folder, 1, len(shares) == 1, "time limit", None)

    monkeypatch.setattr(gridrun, "train", train)
    monkeypatch.setattr(gridrun, "time", SimpleNamespace(monotonic=lambda: now[0]))
    report = gridrun.run_grid(found, open_cells(found), tmp_path / "out", time_limit=100.0, device="cpu")
    assert shares == pytest.approx([25, 30, 30, 30])
    assert now[0] == pytest.approx(1100)
    assert [row.state for row in report.rows] == ["done", "stopped", "stopped", "stopped"]
