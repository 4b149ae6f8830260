"""A tiny data set of drawn cells, and configs that train on it in seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import yaml

from cellkit.train.config import TrainConfig, parse_config

INTERIOR = [{"channel": {"name": "interior"}, "in": "prob"}, {"threshold": {"value": 0.5}}, "components"]
RECIPES = {
    "sigmoid": [{"threshold": {"value": 0.5}}, "components"],
    "softmax": ["argmax"],
    "border": [*INTERIOR, {"expand": {"distance": 2}}],
    "distance": [*INTERIOR, {"expand": {"distance": 2}}],
}
CLASSES = {"sigmoid": ["cell"], "softmax": ["background", "cell"]}


def draw(folder: Path, images: int = 8, side: int = 48) -> Path:
    """Write images and labels of bright discs that do not touch, with a split."""
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    rows = [("id", "part", "group", "light")]
    for number in range(images):
        labels = np.zeros((side, side), np.uint8)
        for _ in range(12):
            y, x = random.integers(7, side - 7, 2).tolist()
            spot = np.zeros_like(labels)
            cv2.circle(spot, (x, y), 8, 1, -1)
            if not labels[spot > 0].any():
                cv2.circle(labels, (x, y), 6, int(labels.max()) + 1, -1)
        image = 60.0 + 110 * (labels > 0) + random.normal(0, 12, labels.shape)
        cv2.imwrite(str(folder / "images" / f"c{number}.png"), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "labels" / f"c{number}.png"), labels)
        rows.append((f"c{number}", "val" if number >= images - 3 else "train", f"g{number}", "dim" if number % 2 else "bright"))  # fmt: skip # noqa: E501
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def text_of(folder: Path, head: str = "sigmoid", loop: dict | None = None, **changes: object) -> str:
    """Return a config for `folder`, in which the recipe is written beside the data."""
    recipe = {
        "cellkit": 1, "name": "toy", "outputs": ["classes" if head == "softmax" else "labels"],
        "steps": ["grayscale", {"predict": {"model": "./nowhere.safetensors"}}, *RECIPES[head]],
    }  # fmt: skip
    (folder / f"{head}.yaml").write_text(yaml.safe_dump(recipe))
    model = {"architecture": "unet-compact", "head": head, "parameters": {"width": 8, "depth": 2, "most": 16}}
    if head in CLASSES:
        model["classes"] = CLASSES[head]
    short = {"epochs": 3, "steps": 16, "batch": 4, "crop": 32, "validate": 3, "ema": 0.8, "precision": "float32"}
    config = {
        "cellkit_train": 1, "name": "toy", "recipe": f"{head}.yaml", "data": {"folder": "."}, "model": model,
        "optimiser": {"name": "adamw", "rate": 0.01}, "augment": "flips", "loop": {**short, **(loop or {})},
    }  # fmt: skip
    return yaml.safe_dump({**config, **changes})


def config_of(folder: Path, head: str = "sigmoid", loop: dict | None = None, **changes: object) -> TrainConfig:
    """Return the checked config; see `text_of`."""
    config, faults = parse_config(text_of(folder, head, loop, **changes), folder)
    assert config is not None, faults
    return config
