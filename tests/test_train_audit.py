"""The audit before a training: what stops it, what is told, and where it is kept."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cellkit.core import UsageError
from cellkit.models.store import find_model
from cellkit_cli.main import cli
from cells_to_learn import config_of, draw, text_of

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.train import auditing  # noqa: E402
from cellkit.train.auditing import look_through  # noqa: E402
from cellkit.train.folds import open_folds  # noqa: E402
from cellkit.train.loop import train  # noqa: E402
from cellkit.train.parts import open_parts  # noqa: E402

LITTLE = {"epochs": 1, "steps": 1, "validate": 1}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cells(tmp_path) -> Path:
    return draw(tmp_path / "cells")


def table(path: Path, *rows: tuple[str, ...]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def copied(cells: Path) -> None:
    """Make the last image, which is to validate on, that of the first, which is to train on."""
    for name in ("images", "labels"):
        shutil.copy(cells / name / "c0.png", cells / name / "c7.png")


def of(cells: Path, **data: object):
    return config_of(cells, "sigmoid", LITTLE, data={"folder": ".", **data})


def test_unusable_images_stop_a_training_all_at_once(cells, tmp_path):
    labels = cv2.imread(str(cells / "labels" / "c2.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(cells / "labels" / "c2.png"), labels[:-3])
    (cells / "images" / "c6.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    path = cells / "config.yaml"
    path.write_text(text_of(cells, "sigmoid", LITTLE))
    arguments = ["train", str(path), "-o", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert "1 unreadable (an image or its truth is damaged): c6: " in done.stderr
    assert "1 size (truth and image differ in size): c2: " in done.stderr
    assert "45 x 48 px" in done.stderr
    kept = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert {finding["image"] for finding in kept["findings"] if finding["check"] in ("size", "unreadable")} == {"c2", "c6"}  # fmt: skip # noqa: E501
    assert not (tmp_path / "run" / "last.ckpt").exists()
    rows = list(csv.reader((cells / "split.csv").read_text().splitlines()))
    table(cells / "split.csv", *(tuple(row) for row in rows if row[0] not in ("c2", "c6")))
    mended = CliRunner().invoke(cli, arguments)  # both are left out now
    assert mended.exit_code == 0, mended.output
    assert "audit of 6 images" in mended.stderr


def test_without_an_audit_the_training_meets_the_fault_itself(cells, tmp_path):
    labels = cv2.imread(str(cells / "labels" / "c2.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(cells / "labels" / "c2.png"), labels[:-3])
    with pytest.raises(Exception, match="45 x 48 px"):
        train(of(cells, audit="off"), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "audit.json").exists()


def test_a_copy_on_both_sides_is_told_kept_and_refused_on_demand(cells, tmp_path, monkeypatch):
    copied(cells)
    config, run = of(cells), tmp_path / "run"
    report = train(config, run, device="cpu")
    (note,) = [text for text in report.notes if text.startswith("audit:")]
    assert "1 leak (an image and its near copy are in different parts of the split): c0 and c7 (put" in note
    kept = json.loads((run / "audit.json").read_text())
    assert kept["warnings"] == [note]
    assert kept["checks"]["leak"] == 1
    assert f"; {kept['summary']}" in find_model(str(run / "model.safetensors")).card.data
    assert kept["summary"].startswith(f"audit of 8 images, {kept['objects']} objects: 1 leak")
    with pytest.raises(UsageError, match=r"(?s)audit: warn.*1 leak"):
        train(of(cells, audit="refuse"), tmp_path / "other", device="cpu")

    def never(*_: object) -> None:
        raise AssertionError("looked through again")

    monkeypatch.setattr(auditing, "audit", never)
    again = train(config_of(cells, "sigmoid", {**LITTLE, "epochs": 2}), run, resume=True, device="cpu")
    assert note in again.notes
    (run / "audit.json").write_text("damaged")
    with pytest.raises(AssertionError, match="again"):
        train(config_of(cells, "sigmoid", {**LITTLE, "epochs": 3}), run, resume=True, device="cpu")
    refusing = config_of(cells, "sigmoid", {**LITTLE, "epochs": 3}, data={"folder": ".", "audit": "off"})
    assert refusing.identity == config.identity  # how faults are met may change where a training goes on


def test_a_copy_in_another_fold_is_told(cells, tmp_path):
    for name in ("images", "labels"):
        shutil.copy(cells / name / "c0.png", cells / name / "c1.png")
    table(cells / "split.csv", ("id", "fold"), *((f"c{n}", str(n % 2)) for n in range(8)))
    config = of(cells)
    folds = open_folds(config, 2)
    found = look_through(config, folds.every, tmp_path)
    assert any("1 leak" in text and "c0" in text for text in found.warnings)
    document = json.loads((tmp_path / "audit.json").read_text())
    (leak,) = [finding for finding in document["findings"] if finding["check"] == "leak"]
    assert "one is in fold 1 and one in fold 2" in leak["message"]


def test_a_group_that_is_cut_is_told(cells, tmp_path):
    (cells / "split.csv").unlink()
    rows = ((f"c{n}", "train" if n < 5 else "val", f"p{n // 2}") for n in range(8))
    table(cells / "index.csv", ("id", "part", "patient"), *rows)
    config = of(cells)
    found = look_through(config, open_parts(config), tmp_path)
    assert [text.partition(" (")[0] for text in found.warnings] == ["audit: 1 cut group"]
    assert "c4 and c5 (give all of a group the same part" in found.warnings[0]
    document = json.loads((tmp_path / "audit.json").read_text())
    assert document["parts"] == ["train", "val"]


def test_images_without_truth_are_told(cells, tmp_path):
    (cells / "labels" / "c3.png").unlink()
    rows = list(csv.reader((cells / "split.csv").read_text().splitlines()))
    table(cells / "split.csv", *(tuple(row) for row in rows if row[0] != "c3"))
    config = of(cells)
    found = look_through(config, open_parts(config), tmp_path)
    assert any("1 missing (an image without truth" in text and "c3" in text for text in found.warnings)


def masks_of(cells: Path, overlap: bool) -> Path:
    """Write the cells once more with one file an object, two of which may share pixels."""
    folder = cells / "masks"
    for number in range(4):
        labels = cv2.imread(str(cells / "labels" / f"c{number}.png"), cv2.IMREAD_UNCHANGED)
        (folder / f"c{number}" / "images").mkdir(parents=True)
        (folder / f"c{number}" / "masks").mkdir()
        shutil.copy(cells / "images" / f"c{number}.png", folder / f"c{number}" / "images" / f"c{number}.png")
        for value in np.unique(labels[labels > 0]).tolist():
            mask = labels == value
            if overlap and number == 1 and value == 2:
                mask |= cv2.dilate((labels == 1).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            cv2.imwrite(str(folder / f"c{number}" / "masks" / f"{value}.png"), mask.astype(np.uint8) * 255)
    return folder


@pytest.mark.parametrize("overlap", [False, True])
def test_masks_that_overlap_cannot_become_labels(cells, tmp_path, overlap):
    config = config_of(cells, "sigmoid", LITTLE, data={"folder": "masks"})
    masks_of(cells, overlap)
    if not overlap:
        assert look_through(config, open_parts(config), tmp_path).warnings == ()
        return
    with pytest.raises(UsageError, match=r"1 overlap \(two objects share pixels.*c1"):
        look_through(config, open_parts(config), tmp_path)
