"""What the README and the contributing guide show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cellkit import io
from cellkit.core import Recipe, check
from cellkit.train.config import parse_config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_recipes_check(cellkit, tmp_path, monkeypatch):
    steps, network, training, read = blocks(README, "yaml")
    assert check(Recipe.load(steps)) == []
    new = next(line for line in blocks(README, "sh")[-1].splitlines() if " new " in line).partition("#")[0]
    cellkit(*new.split()[1:], cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert check(Recipe.load(network.replace("my-unet", "./my-unet"))) == []
    config, faults = parse_config(training)
    assert config is not None, faults
    assert faults == []
    assert Recipe.load(f"{read}\nsteps: [grayscale]").read_options.bits == 12


def test_the_python_runs_where_the_samples_are(tmp_path):
    io.write_samples(tmp_path / "pictures")
    code = blocks(README, "python")[0]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert io.read_labels(tmp_path / "field1_labels.tif").max() > 50


@pytest.mark.parametrize(
    "text", [blocks(README, "python")[1], blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")[0]]
)
def test_the_stages_shown_are_stages(cellkit, tmp_path, text):
    path = tmp_path / "shown.py"
    path.write_text(text)
    name = re.search(r"\ndef (\w+)", text).group(1)
    assert name in cellkit("stages", name, "--with", path).stdout


def test_every_command_is_in_the_readme(cellkit):
    listed = re.findall(r"^  (\w+) ", cellkit("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    shown = set(re.findall(r"`cellkit (\w+)", README))
    assert set(listed) <= shown


def test_files_that_are_linked_exist():
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / target).exists(), target
