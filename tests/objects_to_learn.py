"""A tiny data set of drawn cells of two classes, boxed or labelled, and configs that train detectors in seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import yaml

from cellkit.train.config import TrainConfig, parse_config

PARAMETERS = {
    "encoder": "tu-test_resnet", "anchor_sizes": [8, 16], "aspect_ratios": [1.0], "proposals": 60,
    "boxes_per_image": 40, "pyramid_channels": 16, "head_channels": 32,
}  # fmt: skip
STEPS = {"boxes": ["detect"], "masks": ["detect_masks", {"to_labels": {"score": 0.3}}]}
ARCHITECTURES = {"boxes": "faster-rcnn", "masks": "mask-rcnn"}
CLASSES = ("disc", "ring")


def draw(folder: Path, kind: str = "boxes", images: int = 8, side: int = 64) -> Path:
    """Write images of discs and rings, the first of them empty, with VOC boxes or label images, and a split."""
    random = np.random.default_rng(0)
    for name in ("images", "annotations" if kind == "boxes" else "labels"):
        (folder / name).mkdir(parents=True)
    rows = [("id", "part", "group")]
    for number in range(images):
        image = np.full((side, side), 50.0)
        labels = np.zeros((side, side), np.uint8)
        objects = []
        for _ in range(14 if number else 0):
            y, x = random.integers(9, side - 9, 2).tolist()
            spot = np.zeros_like(labels)
            cv2.circle(spot, (x, y), 9, 1, -1)
            if labels[spot > 0].any():
                continue
            cv2.circle(labels, (x, y), 7, len(objects) + 1, -1)
            what = CLASSES[len(objects) % 2]
            cv2.circle(image, (x, y), 7, 180, -1)
            if what == "ring":
                cv2.circle(image, (x, y), 4, 50, -1)
            objects.append((what, x - 7, y - 7, x + 8, y + 8))
        image += random.normal(0, 8, image.shape)
        cv2.imwrite(str(folder / "images" / f"c{number}.png"), image.clip(0, 255).astype(np.uint8))
        if kind == "boxes":
            (folder / "annotations" / f"c{number}.xml").write_text(voc(f"c{number}.png", side, objects))
        else:
            cv2.imwrite(str(folder / "labels" / f"c{number}.png"), labels)
        rows.append((f"c{number}", "val" if number >= images - 2 else "train", f"g{number}"))
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def voc(name: str, side: int, objects: list[tuple[str, int, int, int, int]]) -> str:
    """Return the Pascal VOC annotation of an image; boxes are x0, y0, x1, y1, half-open in pixels from 0."""
    listed = "".join(
        f"<object><name>{what}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for what, x0, y0, x1, y1 in objects
    )
    size = f"<size><width>{side}</width><height>{side}</height><depth>1</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{listed}</annotation>"


def text_of(folder: Path, kind: str = "boxes", loop: dict | None = None, **changes: object) -> str:
    """Return a config for `folder`, in which the recipe is written beside the data."""
    first, *rest = STEPS[kind]
    recipe = {
        "cellkit": 1, "name": "toy", "outputs": ["labels" if kind == "masks" else "boxes"],
        "steps": ["grayscale", {first: {"model": "./nowhere.safetensors"}}, *rest],
    }  # fmt: skip
    (folder / f"{kind}.yaml").write_text(yaml.safe_dump(recipe))
    short = {"epochs": 4, "steps": 20, "batch": 4, "crop": 64, "validate": 4, "ema": 0.8, "precision": "float32"}
    config = {
        "cellkit_train": 1, "name": "toy", "recipe": f"{kind}.yaml", "trains": first, "data": {"folder": "."},
        "model": {"architecture": ARCHITECTURES[kind], "parameters": PARAMETERS}, "augment": "flips",
        "optimiser": {"name": "adamw", "rate": 0.002}, "loop": {**short, **(loop or {})},
    }  # fmt: skip
    return yaml.safe_dump({**config, **changes})


def config_of(folder: Path, kind: str = "boxes", loop: dict | None = None, **changes: object) -> TrainConfig:
    """Return the checked config; see `text_of`."""
    config, faults = parse_config(text_of(folder, kind, loop, **changes), folder)
    assert config is not None, faults
    return config
