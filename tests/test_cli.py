"""The real `cellkit` in a subprocess: exit codes, faults in files, a kill in the middle, pages, plug-ins."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from cellkit import io
from test_batch import files, picture, rows

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def nuclei(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"im{i}.png"), picture(i, 12, (96, 120)))
    return folder


def test_help_shows_every_command_with_an_example(cellkit):
    text = cellkit("--help").stdout
    for command in ("run", "check", "stages", "recipes", "samples", "explain", "eval"):
        assert f"  {command} " in text
        assert f"cellkit {command}" in cellkit(command, "--help").stdout
    assert "did you mean 'run'" in cellkit("rnu", code=2).stderr.lower().replace('"', "'")


def test_run_ends_with_a_summary_and_exit_0(cellkit, nuclei, tmp_path):
    done = cellkit("run", "nuclei-classical", nuclei, "-o", tmp_path / "out")
    assert "3 of 3 images" in done.stderr
    assert re.search(r"images +3\b", done.stdout)
    assert re.search(r"objects +\d+", done.stdout)
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 3
    again = cellkit("run", "nuclei-classical", nuclei, "-o", tmp_path / "out")
    assert "3 kept from an earlier run" in again.stdout


def test_json_is_json(cellkit, nuclei, tmp_path):
    done = cellkit("run", "nuclei-classical", nuclei, "-o", tmp_path / "out", "--json", "--outputs", "labels")
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["done"], summary["failed"]) == (3, 3, [])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".cellkit",
        "images.csv",
        "labels",
        "recipe.yaml",
        "run.json",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-recipe", "IMAGES"], "no such file, and no shipped recipe"),
        (["nuclei-clasical", "IMAGES"], "did you mean 'nuclei-classical'"),
        (["nuclei-classical", "nowhere"], "nowhere"),
        (["nuclei-classical", "IMAGES", "--set", "otsu"], "wanted step.param=value"),
        (["nuclei-classical", "IMAGES", "--set", "nothing.at=1"], "no step is called 'nothing'"),
        (["nuclei-classical", "IMAGES", "--set", "grayscale.at=1"], "no parameter 'at'"),
        (["nuclei-classical", "IMAGES", "--outputs", "lables"], "did you mean 'labels'"),
        (["nuclei-classical", "IMAGES", "--outputs", ","], "wanted names"),
        (["nuclei-classical", "IMAGES", "--device", "cuda"], "cuda"),
        (["nuclei-classical", "IMAGES", "--with", "none.py"], "no such file"),
        (["nuclei-classical", "IMAGES", "--workers", "0"], "0"),
        (["nuclei-classical", "IMAGES", "--pixel-size", "-1"], "positive"),
        (["nuclei-classical"], "IMAGES"),
    ],
)
def test_wrong_usage_is_exit_2_and_writes_nothing(cellkit, nuclei, tmp_path, arguments, said):
    arguments = [nuclei if a == "IMAGES" else a for a in arguments]
    done = cellkit("run", *arguments, "-o", tmp_path / "out", code=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def faulty(folder: Path) -> dict[str, bool]:
    """Write a folder of odd files; return stem -> whether labels are wanted."""
    folder.mkdir()
    good = picture(1, 8, (80, 90))
    whole = cv2.imencode(".png", good)[1].tobytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.tif").write_text("this is no image\n" * 20)
    (folder / "empty.png").write_bytes(b"")
    cv2.imwrite(str(folder / "one.png"), np.full((1, 1), 99, np.uint8))
    cv2.imwrite(str(folder / "strip.png"), np.random.default_rng(0).integers(0, 255, (1, 997)).astype(np.uint8))
    cv2.imwrite(str(folder / "rgba.png"), np.dstack([good, good, good, np.full_like(good, 255)]))
    cv2.imwrite(str(folder / "deep.png"), good.astype(np.uint16) * 16)
    real = good.astype(np.float32) / 255
    real[3:5, 3:9] = np.nan
    tifffile.imwrite(folder / "float.tif", real)
    cv2.imwrite(str(folder / "black.png"), np.zeros((50, 50), np.uint8))
    cv2.imwrite(str(folder / "long.png"), np.tile(good, (2, 112))[:, :10_000])
    cv2.imwrite(str(folder / "fine.png"), good)
    return {p.stem: p.stem not in ("truncated", "text", "empty") for p in folder.iterdir()}


def test_bad_files_are_named_and_the_rest_is_complete(cellkit, tmp_path):
    wanted = faulty(tmp_path / "images")
    outs = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        done = cellkit("run", "nuclei-classical", tmp_path / "images", "-o", out, "--workers", workers, code=1)
        outs.append(files(out))
        for name in ("truncated.png", "text.tif", "empty.png"):
            assert name in done.stdout
    assert outs[0] == outs[1]
    status = {r["image"]: r for r in rows(out / "images.csv")}
    assert {name: row["status"] == "done" for name, row in status.items()} == wanted
    assert all(row["reason"] for name, row in status.items() if not wanted[name])
    assert status["float"]["missing_values"] == "12"
    assert {p.stem for p in (out / "labels").iterdir()} == {name for name, fine in wanted.items() if fine}
    assert io.read_labels(out / "labels" / "long.tif").shape == (160, 10_000)
    assert io.read_labels(out / "labels" / "strip.tif").shape == (1, 997)
    assert status["black"]["objects"] == "0"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_and_started_again_equals_undisturbed(cellkit, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(40):
        cv2.imwrite(str(images / f"im{i:02}.png"), picture(i, 150, (700, 700)))
    command = ["run", "nuclei-classical", images, "--workers", 2]
    cellkit(*command, "-o", tmp_path / "whole")
    out = tmp_path / "killed"
    for wanted in (3, 12):
        process = subprocess.Popen(
            [str(a) for a in (cellkit.script, *command, "-o", out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 120
        while len(list(out.glob("labels/*.tif"))) < wanted and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("labels/*.tif")}
    assert 12 <= len(stamps) < 40
    assert not (out / "run.json").exists()
    summary = json.loads(cellkit(*command, "-o", out, "--json").stdout)
    assert summary["kept"] >= len(stamps) - 4, "at most the images in flight are done again"
    again = [p for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp]
    assert len(again) <= 4
    assert summary["kept"] + summary["done"] == 40
    assert files(out) == files(tmp_path / "whole")
    leftovers = [p for p in out.rglob("*") if p.is_file() and "tmp" in p.relative_to(out).as_posix()]
    assert leftovers == []


def listen() -> None:
    """Take Ctrl-C again: a shell's background jobs, and what they start, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent differently")
def test_ctrl_c_says_how_to_go_on(cellkit, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(40):
        cv2.imwrite(str(images / f"im{i:02}.png"), picture(i, 150, (700, 700)))
    command = [str(a) for a in (cellkit.script, "run", "nuclei-classical", images, "-o", tmp_path / "out")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,  # noqa: PLW1509 - no threads here
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "out").glob("labels/*.tif")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in error
    assert "Traceback" not in error


def test_check_lists_every_fault(cellkit, tmp_path, nuclei):
    path = tmp_path / "r.yaml"
    path.write_text("steps: [grayscal, otsu: {foo: 1}]\noutputz: [labels]")
    done = cellkit("check", path, code=2)
    for word in ("did you mean 'grayscale'", "no parameter 'foo'", "did you mean 'outputs'"):
        assert word in done.stderr
    done = cellkit("check", "nuclei-classical", nuclei)
    assert "image" in done.stdout
    assert "96 x 120 px, 1 channel" in done.stdout
    path.write_text("steps: [otsu]")
    cv2.imwrite(str(nuclei / "colour.png"), np.zeros((5, 5, 3), np.uint8))
    (nuclei / "broken.png").write_bytes(b"x")
    done = cellkit("check", path, nuclei, code=1)
    assert "grayscale" in done.stderr
    assert "broken" in done.stderr


def test_stages_and_recipes(cellkit):
    listed = cellkit("stages").stdout
    for name in ("grayscale", "watershed", "tile", "measure"):
        assert name in listed
    shown = cellkit("stages", "gaussian").stdout
    for word in ("sigma", "px", "Image"):
        assert word in shown
    assert "did you mean" in cellkit("stages", "gausian", code=2).stderr
    assert "nuclei-classical:" in cellkit("recipes").stdout
    printed = cellkit("recipes", "nuclei-classical").stdout
    assert printed == (ROOT / "cellkit" / "recipes" / "nuclei-classical.yaml").read_text(encoding="utf-8")


def test_a_stage_of_ones_own(cellkit, tmp_path, nuclei):
    mine = ROOT / "examples" / "my_stage.py"
    path = tmp_path / "r.yaml"
    path.write_text("steps: [brighten: {gain: 1.5}, otsu, components]")
    assert "no stage is called 'brighten'" in cellkit("check", path, code=2).stderr
    assert "brighten" in cellkit("check", path, "--with", mine).stdout
    assert "Multiply the intensities" in cellkit("stages", "brighten", "--with", mine).stdout
    assert "brighten" in cellkit("stages", "--with", mine).stdout
    cellkit("run", path, nuclei, "-o", tmp_path / "out", "--with", mine)
    account = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert account["digests"]["plugins"].keys() == {"my_stage.py"}
    done = cellkit("run", path, nuclei, "-o", tmp_path / "out2", "--with", mine, "--set", "brighten.gain=99", code=2)
    assert "outside 0.1 to 10" in done.stderr


def test_samples_are_real_and_segmented(cellkit, tmp_path):
    pictures = tmp_path / "pictures"
    cellkit("samples", pictures)
    for recipe, folder in [("nuclei-classical", "nuclei"), ("histology-classical", "histology"), ("coins", "coins")]:
        out = tmp_path / recipe
        summary = json.loads(cellkit("run", recipe, pictures / folder, "-o", out, "--json").stdout)
        assert summary["failed"] == []
        assert all(int(r["objects"]) >= 10 for r in rows(out / "images.csv"))


def test_explain_writes_one_page(cellkit, tmp_path, nuclei):
    page = tmp_path / "page.html"
    cellkit("explain", "nuclei-classical", nuclei / "im0.png", "-o", page)
    text = page.read_text(encoding="utf-8")
    for word in ("grayscale", "watershed", "data:image/png;base64,"):
        assert word in text
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "page.html" not in cellkit("explain", "nuclei-classical", tmp_path / "no.png", "-o", page, code=2).stdout


def test_quickstart_runs(tmp_path, nuclei):
    target = tmp_path / "labels.tif"
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), str(nuclei / "im0.png"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = int(re.search(r"(\d+) nuclei", done.stdout).group(1))
    assert io.read_labels(target).max() == found > 5


@pytest.mark.parametrize("name", ["nuclei.yaml"])
def test_example_recipes_run(cellkit, tmp_path, nuclei, name):
    cellkit("check", ROOT / "examples" / name)
    cellkit("run", ROOT / "examples" / name, nuclei, "-o", tmp_path / "out")
    assert (tmp_path / "out" / "objects.parquet").exists()
