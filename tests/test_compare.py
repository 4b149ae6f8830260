"""Trainings side by side by the real command: finished, stopped, in folds and damaged ones, and what each page says."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cellkit_cli.main import cli
from cells_to_learn import config_of, draw
from test_report_page import Page

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.core import FormatError, UsageError  # noqa: E402
from cellkit.metrics.pooling import interval  # noqa: E402
from cellkit.train.examples import read_examples  # noqa: E402
from cellkit.train.keeper import Silent  # noqa: E402
from cellkit.train.loop import train  # noqa: E402
from cellkit.train.record import RunPage, digest_of, settings_of  # noqa: E402
from cellkit.train.runs import read_run  # noqa: E402

NASTY = "<img src=x onerror=alert(1)>$\\frac_"
LOG = "epoch,step,loss,rate,score,low,high,seconds\n1,2,0.9,0.01,,,,1.5\n2,4,0.5,0.01,0.25,0.2,0.3,1.5\n"


class Told(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "cells")


@pytest.fixture(scope="module")
def finished(cells) -> Path:
    """A run of two short epochs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = config_of(cells, "sigmoid", {"epochs": 2, "steps": 3, "validate": 1}, data={"folder": ".", "balance": "light"})  # fmt: skip # noqa: E501
    train(config, cells.parent / "whole", device="cpu")
    torch.set_num_threads(threads)
    return cells.parent / "whole"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "whole"))


def stopped(folder: Path, finished: Path, **changes) -> Path:
    """Make a run that was stopped after two epochs, its record as `changes` say."""
    folder.mkdir(parents=True)
    shutil.copy(finished / "config.yaml", folder)
    (folder / "log.csv").write_text(LOG)
    record = json.loads((finished / "run.json").read_text()) | {"state": "stopped", "reason": "time limit"}
    for key, value in changes.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def compare(*arguments, code: int = 0):
    done = CliRunner().invoke(cli, ["compare", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_a_training_leaves_a_page_and_a_record(run, cells):
    files = {entry.name for entry in run.iterdir()}
    assert {"report.html", "curves.png", "run.json", "examples.npz"} <= files
    record = json.loads((run / "run.json").read_text())
    assert (record["state"], record["reason"]) == ("finished", "all epochs")
    assert record["settings"]["loop.batch"] == 4
    assert record["settings"]["loop.accumulate"] == 1  # a default
    assert record["settings"]["optimiser.rate"] == 0.01
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["validation"]["digest"] == digest_of(["c5", "c6", "c7"])
    found = read_run(run)
    assert found.finished
    assert found.parameters == record["parameters"] > 1000
    score = found.score
    assert score.key == (record["validation"]["score"], record["validation"]["rule"], 3, digest_of(["c7", "c6", "c5"]))
    text = (run / "report.html").read_text(encoding="utf-8")
    for part in (
        f"{score.value:.4f}",
        "unet-compact",
        "loop.accumulate",
        "bright",
        "dim",
        "all epochs",
        record["data"],
    ):
        assert part in text, part
    assert len(Page(text).all("img")) == 3 * 3
    picture = Image.open(run / "curves.png")
    picture.load()
    assert picture.size == (1080, 1125)
    cases, by = read_examples(run, found.best_epoch)
    assert by == "objects"
    assert [case.value for case in cases][:1] == [min(case.value for case in cases)]
    assert read_examples(run, 77) == ((), "objects")  # of other weights


def test_intervals_by_column_are_those_of_the_images(finished):
    from cellkit.metrics import PROTOCOLS
    from cellkit.train.parts import open_parts
    from cellkit.train.validate import figures

    parts = open_parts(config_of(finished.parent / "cells", data={"folder": ".", "balance": "light"}))
    protocol, rng = PROTOCOLS["dsb2018"], np.random.default_rng(0)
    counts = {pair.name: protocol.count(pair.labels(), pair.labels() * (rng.random(pair.shape) < 0.9)) for pair in parts.train}  # fmt: skip # noqa: E501
    report = protocol.report(counts)
    found = figures(report, protocol, parts.train, "light")["by_light"]
    for kind in ("bright", "dim"):
        values = [row["value"] for row in report.per_image
                  if next(p for p in parts.train if p.name == row["image"]).fields["light"] == kind]  # fmt: skip
        low, high = interval(np.array(values)[:, None] / len(values), lambda sums: float(sums[0]), groups=range(len(values)))  # fmt: skip # noqa: E501
        assert found[kind]["value"] == pytest.approx(np.mean(values), abs=1e-4)
        assert (found[kind]["low"], found[kind]["high"]) == pytest.approx((low, high), abs=1e-4)


def test_the_command_shows_runs_and_names_broken_ones(cellkit, run, finished, tmp_path):
    """One process for each exit code; the rest runs in this one."""
    stopped(tmp_path / NASTY, finished, settings={"loop.batch": 16, NASTY: NASTY})
    (tmp_path / "file").write_text("")
    page = tmp_path / "pages" / "all.html"
    done = cellkit("compare", run, tmp_path / NASTY, run, tmp_path / "nowhere", tmp_path / "file", "-o", page, code=1)
    assert "no such folder" in done.stderr
    assert "is a file" in done.stderr
    assert "finished" in done.stdout
    assert "unfinished" in done.stdout
    assert "2 of 2" not in done.stdout
    assert "0.2500" in done.stdout
    assert "loop.batch" in done.stdout
    assert "loop.steps" not in done.stdout
    assert done.stdout.count("0.2000 to 0.3000") == 1
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert len(Page(text).all("script")) == 1
    for part in ("0.2500", f"{read_run(run).score.value:.4f}", "nowhere", "2 trainings compared", "loop.batch"):
        assert part in text, part
    picture = Image.open(page.with_suffix(".png"))
    picture.load()
    assert picture.size == (1080, 210)  # two bars
    none = cellkit("compare", tmp_path / "nowhere", code=2)
    assert "no run to show" in none.stderr
    cellkit("compare", code=2)


def test_json_holds_everything(run, finished, tmp_path):
    other = stopped(tmp_path / "other", finished, settings={"loop.batch": 16}, validation={"digest": "f" * 16})
    (tmp_path / "empty").mkdir()
    found = json.loads(compare(run, other, tmp_path / "empty", "--json", code=1).stdout)
    one, two = found["runs"]
    card = read_run(run).figures["model"]
    assert one["figures"]["model"]["value"] == card.value
    assert one["figures"]["model"]["by_light"]["dim"]["images"] == 2
    assert (one["state"], two["state"]) == ("finished", "unfinished")
    assert (two["best_epoch"], two["epochs"], two["seconds"]) == (2, 2, 3.0)
    assert (two["figures"]["model"]["value"], two["figures"]["model"]["low"]) == (0.25, 0.2)
    assert found["comparable"] == [["whole"], ["other"]]  # other images
    assert found["differing"] == {"loop.batch": {"whole": 4, "other": 16}}
    assert "holds no config.yaml" in found["broken"][0]["reason"]


@pytest.mark.parametrize("change", [{"digest": "f" * 16}, {"images": 4}, {"rule": "another"}])
def test_scores_that_do_not_compare_are_told(run, finished, tmp_path, change):
    other = stopped(tmp_path / "other", finished, validation=change)
    done = compare(run, other)
    assert "cannot all be compared" in done.output
    assert "B: other" in done.output
    same = stopped(tmp_path / "same", finished)
    assert "cannot" not in compare(run, same).output


def test_a_run_that_was_stopped_gets_its_page(finished, tmp_path):
    folder = stopped(tmp_path / "run", finished)
    done = compare(folder)
    assert str(folder / "report.html") in done.output.replace("\n", "")
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "Not finished (time limit)" in text
    assert "0.2500" in text
    (folder / "log.csv").unlink()  # stopped in its first epoch
    assert "no epoch done" in compare(folder).output
    assert "No epoch is done yet" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_resumed_after_its_end_is_not_finished(run):
    with (run / "log.csv").open("a") as file:
        file.write(f"3,9,0.1,0.01,0.1{',' * (file_columns(run) - 5)}\n")
    found = read_run(run)
    assert found.state == "unfinished"
    assert found.epochs == 3
    assert found.score.value == max(v for v in found.log["score"] if not math.isnan(v))


def file_columns(run: Path) -> int:
    return len((run / "log.csv").read_text().splitlines()[0].split(","))


def test_folds_show_mean_variance_and_spread(finished, tmp_path):
    scores = [0.25, 0.5, 0.9]
    for i, value in enumerate(scores, 1):
        fold = stopped(tmp_path / "cv" / f"fold-{i}", finished, validation={"digest": str(i)})
        (fold / "log.csv").write_text(LOG.replace("0.25", str(value)))
    (tmp_path / "cv" / "fold-10").mkdir()  # begun, nothing written
    held = {"ensemble": {"score": "AP", "value": 0.875, "low": 0.8, "high": 0.9, "images": 7}}
    (tmp_path / "cv" / "folds.json").write_text(json.dumps({"folds": [{}] * 5, "held_out": held}))
    done = compare(tmp_path / "cv", "--json", code=1)
    (run,) = json.loads(done.stdout)["runs"]
    assert run["spread"]["mean"] == pytest.approx(statistics.fmean(scores))
    assert run["spread"]["variance"] == pytest.approx(statistics.variance(scores))
    assert [fold["name"] for fold in run["folds"]] == ["fold-1", "fold-2", "fold-3"]
    assert run["state"] == "0 of 5 folds"
    assert "fold-10" in done.stderr
    text = (tmp_path / "cv" / "report.html").read_text(encoding="utf-8")
    assert f"{statistics.variance(scores):.3g}" in text
    assert "0.8750 (0.8000 to 0.9000) on 7 images" in text
    shutil.rmtree(tmp_path / "cv" / "fold-10")
    both = compare(tmp_path / "cv", stopped(tmp_path / "one", finished))
    assert "in 3 folds" in both.output
    assert f"{statistics.fmean(scores):.4f}" in both.output
    (tmp_path / "cv" / "folds.json").write_text("[]")
    assert "folds.json: cannot be read" in compare(tmp_path / "cv", code=2).stderr


def test_a_folder_of_runs_stands_for_them(finished, tmp_path):
    for name in ("b", "a"):
        stopped(tmp_path / "runs" / name, finished)
    (tmp_path / "runs" / "notes").mkdir()
    shutil.copytree(finished.parent / "cells", tmp_path / "runs" / "cells")
    found = json.loads(compare(tmp_path / "runs", tmp_path / "runs" / "a", "--json").stdout)
    assert [run["name"] for run in found["runs"]] == ["a", "b"]


DAMAGE = {
    "log.csv": [
        (b"nonsense\n1\n", "is no log"), (b"", "is no log"), (b"epoch,loss\n1,2\n2\n", "line 3: wanted 2 values"),
        (b"epoch,loss\n1,much\n", "line 2: loss: wanted a number, got 'much'"), (b"\xff\xfe", "read as a log"),
        (b"epoch,loss\n,1\n", "no epoch"),
    ],
    "config.yaml": [(b"a: [", "cannot be read as a config"), (b"- 1\n", "wanted a mapping"), (b"\xff", "config")],
    "run.json": [(b"{", "cannot be read as JSON"), (b"{}", "no record of a training")],
    "model.safetensors": [(b"PK\x03\x04" + b"0" * 99, "zip archive"), (b"", "model.safetensors")],
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(run, name):
    for data, reason in DAMAGE[name]:
        (run / name).write_bytes(data)
        with pytest.raises(FormatError, match="(?s)" + reason.replace("(", r"\(")) as caught:
            read_run(run)
        assert name in str(caught.value)
    done = compare(run, code=2)
    assert name in done.stderr


def test_damaged_pictures_are_named_and_the_run_is_shown(run):
    for data in (b"PK\x03\x04" + b"0" * 99, b"", (run / "examples.npz").read_bytes()[:-200]):
        (run / "examples.npz").write_bytes(data)
        found = read_run(run)
        assert found.finished
        assert "cannot be read" in dict(found.faults)["examples.npz"]
    done = compare(run, code=1)
    assert "examples.npz" in done.stderr
    assert "finished" in done.stdout


def test_what_cellkit_run_wrote_is_no_training(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="it is what `cellkit run` wrote"):
        read_run(tmp_path)


def test_nothing_that_fails_to_be_drawn_stops_a_training(cells, tmp_path, monkeypatch):
    from cellkit.report import curves
    from cellkit.train import examples

    def broken(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(curves, "of_run", broken)
    monkeypatch.setattr(examples, "display", broken)
    told = Told()
    report = train(config_of(cells, "sigmoid", {"epochs": 1, "steps": 1, "validate": 1}), tmp_path / "run", device="cpu", show=told)  # fmt: skip # noqa: E501
    assert report.finished
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert "report.html could not be drawn: RuntimeError: no ink" in told.notes
    assert report.notes == ("examples.npz: not written: RuntimeError: no ink",)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["notes"] == list(report.notes)


def test_drawing_in_between_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    from cellkit.train import record

    now, drawn = [100.0], []
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    page = RunPage(tmp_path, Told())

    def draw():
        drawn.append(now[0])
        now[0] += 2.0

    monkeypatch.setattr(page, "draw", draw)
    while now[0] < 1000:
        page.update()
        now[0] += 1.0
    assert drawn[0] == 130  # not before it is worth while
    assert 2.0 * len(drawn) <= 0.025 * 900
    assert len(drawn) > 5


def test_settings_are_plain_and_whole(cells):
    loss = [{"name": "dice", "weight": 2.0}, "bce"]
    found = settings_of(
        config_of(cells, "distance", loss=[{"name": "dice", "channels": ["interior", "border"]}, "bce"])
    )
    assert json.loads(json.dumps(found)) == found
    assert found["loss"] == ["dice (channels interior border)", "bce"]
    assert found["recipe"].startswith("toy, sha256 ")
    assert found["model.parameters.width"] == 8
    assert found["schedule.name"] == "constant"
    changed = settings_of(config_of(cells, "distance", loss=loss))
    assert {key for key in found if found[key] != changed[key]} == {"loss"}
