"""Grids of trainings: what is told before the first batch, a whole table, cells of others, and going on."""

from __future__ import annotations

import csv

import pytest
import yaml
from click.testing import CliRunner

from cellkit_cli.main import cli
from cells_to_learn import draw, text_of

pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.train.gridfile import GridError, read_grid

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def grid(tmp_path):
    cells = draw(tmp_path / "cells", images=9)
    (cells / "base.yaml").write_text(text_of(cells, loop={"epochs": 2, "steps": 2, "validate": 1}))

    def write(**changes):
        path = cells / "g.yaml"
        path.write_text(yaml.safe_dump({"config": "base.yaml", **changes}, sort_keys=False))
        return path

    return write


def test_faults_are_told_together(grid):
    one = {"name": "a", "set": {"loop.epoch": 3}}
    with pytest.raises(GridError) as error:
        read_grid(grid(cells=[{"name": "base"}, {"name": "again"}, one, {"name": "w", "of": "bas"}], bseline="base"))
    text = str(error.value)
    for part in ("did you mean 'epochs'", "is the same as 'base'", "did you mean 'base'", "did you mean 'baseline'"):
        assert part in text


def test_folds_and_cells_of_others_and_resume(grid, tmp_path):
    recipe = yaml.safe_load((tmp_path / "cells" / "sigmoid.yaml").read_text())
    recipe["steps"][2] = {"threshold": {"value": 0.3}}
    (tmp_path / "cells" / "low.yaml").write_text(yaml.safe_dump(recipe))
    cells = [{"name": "<b>base"}, {"name": "low", "of": "<b>base", "recipe": "low.yaml"}]
    path, out = grid(cells=cells, folds=2, baseline="<b>base"), tmp_path / "out"
    given = ["grid", str(path), "-o", str(out), "--device", "cpu"]
    done = CliRunner().invoke(cli, given)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((out / "grid.csv").read_text().splitlines()))
    assert [(row["name"], row["status"]) for row in rows] == [("<b>base", "done"), ("low", "done")]
    assert "<b>base" not in (out / "report.html").read_text()
    before = (out / "grid.csv").read_text()
    assert CliRunner().invoke(cli, given).exit_code == 2
    again = CliRunner().invoke(cli, [*given, "--resume"])
    assert again.exit_code == 0, again.output
    assert (out / "grid.csv").read_text() == before
