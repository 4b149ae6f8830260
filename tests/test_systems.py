"""The five published systems end to end at a tiny size: their own configs and recipes, trained, run and scored."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import cellkit as ck
from conftest import ROOT
from systems_to_learn import draw, scene

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.train.config import read_config  # noqa: E402
from cellkit.train.loop import train  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SYSTEMS = ROOT / "examples" / "systems"
MALARIA = ("red blood cell", "trophozoite")
DETECTOR = {
    "encoder": "tu-test_resnet", "anchor_sizes": [12, 24], "aspect_ratios": [1.0], "proposals": 40,
    "pyramid_channels": 16, "head_channels": 32,
}  # fmt: skip
SMALL = {
    "unet": {"width": 4, "depth": 2},
    "unet-vgg16bn": {"width": 4, "bottom_convolutions": 1},
    "unet-compact": {"width": 8, "depth": 2, "most": 16, "blocks": 1},
    "linknet": {"encoder": "tu-test_resnet"},
    "faster-rcnn": DETECTOR,
    "mask-rcnn": DETECTOR,
}
"""What makes each network small enough; all else is the published network's."""
LAYOUTS = {"1": "dsb2018", "2": "dsb2018", "3": "glas", "4": "voc", "5": "darkfield"}
CONFIGS = sorted(SYSTEMS.glob("*/*.yaml"))
CONFIGS = [path for path in CONFIGS if "cellkit_train" in path.read_text()]
PUBLISHED = [path for path in CONFIGS if path.stem.startswith(("published", "malaria"))]


def shrunk(path: Path, folder: Path) -> Path:
    """Copy a system into `folder`, its data drawn beside it, and make one of its configs and its recipe small."""
    system = folder / "system"
    shutil.copytree(path.parent, system, ignore=shutil.ignore_patterns("runs"))
    layout = "bbbc041" if path.stem == "malaria" else LAYOUTS[path.parent.name[0]]
    names = draw(folder / "data", layout, MALARIA if layout == "bbbc041" else ("RBC", "WBC"))
    config = yaml.safe_load(path.read_text())
    rows = [f"{name},{'val' if name in names[3:] else 'train'},{name}\n" for name in names]
    (system / config["data"]["split"]).write_text("id,part,group\n" + "".join(rows))
    config["data"]["folder"] = "../data"
    model = config["model"]
    kept = {key: value for key, value in model.get("parameters", {}).items() if key in ("norm", "final_convolutions")}
    model["parameters"] = {**kept, **SMALL[model["architecture"]]}
    if layout == "voc":
        model.pop("classes", None)
    config["loop"] |= {"epochs": 1, "steps": 2, "batch": 2, "crop": 64, "validate": 1}
    config["loop"].pop("hours", None), config["loop"].pop("pace", None)
    (system / path.name).write_text(yaml.safe_dump(config))
    recipe = system / config["recipe"]
    recipe.write_text(re.sub(r"\b(256|288|512)\b", "64", recipe.read_text()))
    return system / path.name


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_published_way_is_trained_and_run(path, tmp_path, monkeypatch):
    config = read_config(shrunk(path, tmp_path))
    monkeypatch.chdir(tmp_path / "system")
    run = Path("runs") / path.stem
    report = train(config, run, device="cpu")
    found = report.figures["validation"]["model"]
    assert 0 <= found["value"] <= 1
    assert found["images"] == 2
    recipe = config.recipe
    assert [fault for fault in ck.check(recipe) if not fault.warning] == []
    image, _, _ = scene(2)
    result = ck.run(recipe, ck.Sample.of(image=image.astype(np.float32) / 255))
    made = [result[name] for name in recipe.outputs if name in result]
    assert made
    for value in made:
        if isinstance(value, np.ndarray):
            assert value.shape == image.shape[:2]


def test_every_config_is_sound_and_says_how_its_weights_may_be_used():
    assert len(CONFIGS) >= 10
    for path in CONFIGS:
        config = read_config(path)
        assert config.licence, path
        assert (path.parent / config.data.split).is_file(), path


@pytest.mark.parametrize("folder", sorted({path.parent for path in SYSTEMS.glob("*/split.csv")}), ids=lambda p: p.name)
def test_no_group_is_cut_by_a_split(folder):
    from cellkit.train.splits import read_split

    for path in folder.glob("*split.csv"):
        parts: dict[str, set[str]] = {}
        for row in read_split(path):
            parts.setdefault(row.group, set()).add(row.part)
        assert all(len(found) == 1 for found in parts.values())
        assert {part for found in parts.values() for part in found} == {"train", "val"}
