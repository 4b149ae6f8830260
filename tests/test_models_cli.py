"""`cellkit models` and `cellkit export`: what is listed and shown, made, verified and exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cellkit.models import Card, architectures, find_model, load_network, save_model
from cellkit.models.store import ENVIRONMENT
from cellkit_cli.main import cli
from test_models_store import card_of, mix
from tiny_models import tiny

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A folder with a model, one whose weights are missing, one whose numbers differ, and a damaged one."""
    folder = tmp_path_factory.mktemp("shelf")
    card = card_of(
        licence="CC0-1.0", data="drawn by hand", weak="nothing [so far]", figures={"dice": {"cell": 0.91234}}
    )
    save_model(folder / "cells.safetensors", tiny("unet", 1, 2), card)
    save_model(folder / "others.safetensors", tiny("unet", 1, 2, seed=3), card)
    mix(folder / "cells.safetensors", folder / "others.safetensors", folder / "differs.safetensors")
    (folder / "far").mkdir()
    (folder / "far" / "card.json").write_text(replace(card, obtain="ask the authors").dump())
    (folder / "bad.safetensors").write_bytes(b"\x80\x04\x95" + bytes(64))
    return folder


@pytest.fixture
def run(shelf, monkeypatch):
    """Call the command in this process; returns its result."""
    monkeypatch.setenv(ENVIRONMENT, str(shelf))

    def call(*arguments: object, code: int = 0):
        done = CliRunner().invoke(cli, [str(a) for a in arguments])
        assert done.exit_code == code, done.output
        return done

    return call


def test_the_list_holds_every_architecture_and_model(cellkit, shelf):
    done = cellkit("models", env={**os.environ, ENVIRONMENT: str(shelf), "COLUMNS": "160"})
    lines = done.stdout.splitlines()
    for spec in architectures().values():
        assert any(line.split()[:2] == [spec.name, spec.task] for line in lines)
    by_name = {line.split()[0]: line for line in lines if line.strip()}
    assert by_name["cells"].split()[1:3] == ["dense", "unet"]
    assert "CC0-1.0" in by_name["cells"]
    assert by_name["cells"].rstrip().endswith("here")
    assert by_name["far"].rstrip().endswith("missing")
    assert "cannot be read" in by_name["bad"]
    assert "pickle" in done.stderr


def test_the_list_as_json(run):
    found = json.loads(run("models", "--json").stdout)
    assert [a["name"] for a in found["architectures"]] == list(architectures())
    unet = next(a for a in found["architectures"] if a["name"] == "unet")
    assert unet["parameters"]["width"]["default"] == 64
    assert (unet["divisor"], unet["task"]) == (16, "dense")
    by_name = {m["name"]: m for m in found["models"]}
    assert by_name["cells"]["card"]["licence"] == "CC0-1.0"
    assert by_name["far"]["weights"] is None
    assert "pickle" in by_name["bad"]["error"]


def test_an_architecture_is_shown_with_ranges_and_source(run):
    text = run("models", "unet").stdout
    for word in ("Ronneberger", "width", "1 to 1024 channels", "nearest | bilinear | transposed", "multiples of 16"):
        assert word in text
    assert json.loads(run("models", "unet", "--json").stdout) == json.loads(run("models", "--json", "unet").stdout)
    assert run("models", "show", "unet").stdout == text


def test_a_model_is_shown_with_its_card(run, shelf):
    text = run("models", "cells").stdout
    for word in ("drawn by hand", "nothing [so far]", "CC0-1.0", "width=4", "background, cell", "cell 0.9123"):
        assert word in text
    assert "missing: ask the authors" in run("models", "far").stdout
    shown = json.loads(run("models", shelf / "cells.safetensors", "--json").stdout)
    assert shown["card"] == json.loads(find_model(str(shelf / "cells.safetensors")).card.dump())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unett"], "did you mean 'unet'"),
        (["cels"], "did you mean 'cells'"),
        (["verfy"], "did you mean 'verify'"),
        (["xyzzy"], "no model is called 'xyzzy'"),
        (["./nowhere"], "no such file"),
        (["bad"], "pickle"),
        (["verify", "far"], "ask the authors"),
        (["verify", "unet"], "an architecture, not a trained model"),
        (["verify", "cells", "--device", "gpu"], "device"),
        (["new", "unett", "-o", "x"], "did you mean 'unet'"),
        (["new", "unet", "-o", "x", "--set", "width=0"], "outside 1 to 1024"),
        (["new", "unet", "-o", "x", "--set", "width"], "wanted param=value"),
        (["new", "unet", "-o", "x", "--head", "boxes"], "head"),
        (["new", "unet", "-o", "x", "--head", "border", "--classes", "a"], "classes"),
    ],
)
def test_wrong_usage_is_exit_2(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = run("models", *arguments, code=2)
    assert said in done.output
    assert list(tmp_path.iterdir()) == []


def test_verify_ends_with_1_where_the_numbers_differ(run):
    assert "the same numbers" in run("models", "verify", "cells", "--device", "cpu").stdout
    done = run("models", "verify", "cells", "differs", "--device", "cpu", code=1)
    assert "cells: cpu, float32: the same numbers" in done.stdout
    assert "differs: this device's numbers differ" in done.stderr


def test_verify_goes_on_behind_a_model_that_cannot_be_read(run):
    done = run("models", "verify", "bad", "differs", "cells", "--device", "cpu", code=2)
    assert "a pickle" in done.stderr
    assert "differs: this device's numbers differ" in done.stderr
    assert "cells: cpu, float32: the same numbers" in done.stdout


def test_a_model_whose_architecture_is_not_installed_passes_check_but_not_run(run, tmp_path):
    folder = tmp_path / "odd"
    card = save_model(folder, tiny("unet", 1, 2), card_of())
    (folder / "card.json").write_text(replace(card, architecture="from-a-plugin").dump(), encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"cellkit: 1\nname: r\nsteps:\n  - predict: {{model: {folder}}}\noutputs: [prob]\n")
    done = run("check", recipe)
    assert "warning: steps[0] predict.model" in done.output
    assert "no architecture is called 'from-a-plugin'" in done.output
    (tmp_path / "x.png").write_bytes(b"never read")
    assert "install the plug-in" in run("run", recipe, tmp_path / "x.png", "-o", tmp_path / "out", code=2).output
    assert not (tmp_path / "out").exists()


def test_new_exported_and_verified_by_the_real_command(cellkit, tmp_path):
    path, graph = tmp_path / "try.safetensors", tmp_path / "try.onnx"
    said = cellkit(
        "models", "new", "unet", "-o", path, "--set", "width=2", "--set", "depth=1", "--channels", 3,
        "--classes", "a, b", "--seed", 5,
    ).stdout  # fmt: skip
    card = find_model(str(path)).card
    assert (card.architecture, card.channels, card.classes, card.head) == ("unet", 3, ("a", "b"), "sigmoid")
    assert (card.name, card.divisor, card.parameters["width"]) == ("try", 2, 2)
    assert card.reach is not None
    assert card.reach <= card.halo < card.reach + 2
    assert "untrained" in said
    assert "untrained" in card.weak
    assert "untrained" in card.data
    assert "differ by at most" in cellkit("export", path, "--onnx", graph).stdout
    assert find_model(str(graph)).card == card
    assert cellkit("models", "verify", path, graph).stdout.count("the same numbers") == 2


def test_new_hangs_on_the_seed_alone(run, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(7)
        run("models", "new", "unet", "-o", tmp_path / name, "--set", "width=2", "--set", "depth=1", "--seed", seed)
    cards = {name: find_model(str(tmp_path / name)).card for name in "abc"}
    assert cards["a"].sha256 == cards["b"].sha256 != cards["c"].sha256
    assert load_network(find_model(str(tmp_path / "a"))) is not None


@pytest.mark.parametrize("name", ["pspnet", "faster-rcnn"])
def test_new_of_networks_that_see_everything(run, tmp_path, name):
    out = run("models", "new", name, "-o", tmp_path / "x.safetensors", "--set", "encoder=tu-test_resnet").stdout
    card = find_model(str(tmp_path / "x.safetensors")).card
    assert (card.reach, card.halo) == (None, 0)
    assert "the whole input" in out
    assert isinstance(card, Card)


def test_export_of_what_is_no_dense_network_is_named(run, shelf, tmp_path):
    card = card_of("faster-rcnn")
    save_model(tmp_path / "b.safetensors", tiny("faster-rcnn", 1, 2), card, golden=False)
    done = run("export", tmp_path / "b.safetensors", "--onnx", tmp_path / "b.onnx", code=2)
    assert "only dense networks" in done.stderr
    assert "an architecture" in run("export", "unet", "--onnx", tmp_path / "b.onnx", code=2).stderr
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("arguments", [["models"], ["models", "unet"], ["models", "cells"], ["models", "--json"]])
def test_listing_and_showing_need_no_torch(shelf, arguments):
    code = (
        "import sys; from cellkit_cli.main import cli\n"
        f"try: cli({arguments!r}, standalone_mode=False)\n"
        "finally: print([m for m in ('torch', 'onnx', 'onnxruntime', 'timm') if m in sys.modules])"
    )
    env = {**os.environ, ENVIRONMENT: str(shelf)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip().splitlines()[-1] == "[]"
