"""Blocks that fail: tried again, then named, while what the others have done is kept."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from cellkit.io import fluorescence_field, write

pytest.importorskip("zarr")

STAGE = """
import os
from pathlib import Path
import numpy as np
from cellkit.core import Image, stage

@stage(reach=0)
def brittle(image: Image, /) -> Image:
    \"\"\"Fail where the picture is white, as often as a file says.\"\"\"
    folder = Path(os.environ["BRITTLE"])
    with open(folder / "calls", "a") as calls:
        calls.write("x")
    left = int((folder / "left").read_text())
    if image.max() > 0.99 and left:
        (folder / "left").write_text(str(left - 1))
        raise ValueError("too white")
    return image * np.float32(0.5)
"""


@pytest.fixture
def brittle(tmp_path, monkeypatch) -> list[object]:
    """The arguments of a run over 4 x 4 blocks, one of which holds a white pixel."""
    image = np.minimum(fluorescence_field(1216, 300, seed=1)[0], 200)
    image[456, 760] = 255
    write(tmp_path / "x.png", image)
    (tmp_path / "brittle.py").write_text(STAGE)
    (tmp_path / "r.yaml").write_text("steps: [brittle, {threshold: {value: 0.2}}, components]\noutputs: [labels]\n")
    monkeypatch.setenv("BRITTLE", str(tmp_path))
    out = ["-o", tmp_path / "out", "--with", tmp_path / "brittle.py", "--blocks", 304, "--workers", 1]
    return ["run", tmp_path / "r.yaml", tmp_path / "x.png", *out]


def calls(folder: Path) -> int:
    count = len((folder / "calls").read_text())
    (folder / "calls").unlink()
    return count


def test_a_block_that_fails_once_is_tried_again(brittle, cellkit, tmp_path):
    (tmp_path / "left").write_text("1")
    cellkit(*brittle)
    assert calls(tmp_path) == 16 + 1


def test_one_that_fails_for_good_is_named_and_alone_done_again(brittle, cellkit, tmp_path):
    (tmp_path / "left").write_text("1000")
    failed = cellkit(*brittle, code=1)
    where = "1 of 16 blocks failed in pass 0 (the same command tries them again): rows 304 to 608, columns 608 to 912"
    assert where in failed.stdout
    assert "too white" in failed.stdout
    assert calls(tmp_path) == 16 + 1
    (image,) = json.loads((tmp_path / "out" / "run.json").read_text())["images"]
    (block,) = image["failed_blocks"]
    assert (block["block"], block["rows"], block["columns"]) == ([1, 2], [304, 608], [608, 912])
    assert (block["stage"], "too white" in block["reason"]) == ("pass 0", True)
    assert where in pd.read_csv(tmp_path / "out" / "images.csv")["reason"].iloc[0]
    assert where in cellkit("status", tmp_path / "out", code=1).stdout
    with sqlite3.connect(tmp_path / "out" / ".cellkit" / "state.sqlite") as db:
        assert "failed_blocks" in db.execute("SELECT facts FROM images").fetchone()[0]
    (tmp_path / "left").write_text("0")
    cellkit(*brittle)
    assert calls(tmp_path) == 1
    assert "failed_blocks" not in (tmp_path / "out" / "run.json").read_text()


def test_where_every_block_fails_not_all_are_tried(brittle, cellkit, tmp_path):
    write(tmp_path / "x.png", np.full((3040, 3040), 255, np.uint8))
    (tmp_path / "left").write_text("1000")
    failed = cellkit(*brittle, code=1)
    assert "and " in failed.stdout
    assert 16 <= calls(tmp_path) < 60  # of 100


def test_the_memory_of_all_processes_is_said(cellkit, tmp_path):
    write(tmp_path / "a.png", fluorescence_field(64, 4, seed=1)[0])
    run = ["run", "nuclei-classical", tmp_path / "a.png", "--outputs", "labels", "--pool", "processes", "--workers", 2]
    assert "2 processes of 1.5 GB: 3.0 GB together" in cellkit(*run, "-o", tmp_path / "o", "--memory", "1500MB").stderr
    much = psutil.virtual_memory().total // 10**9
    assert "warning: this machine has" in cellkit(*run, "-o", tmp_path / "p", "--memory", f"{much}GB").stderr
    assert "together" not in cellkit(*run[:-4], "-o", tmp_path / "q", "--memory", "1500MB").stderr
