"""Tiny data sets of drawn cells in the layouts that five systems were published on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from objects_to_learn import voc

SIDE = 80
NAMES = ("001", "002", "003", "004", "005")
"""Of the images, for those layouts that leave it free; the last two are for validation."""


def scene(number: int) -> tuple[np.ndarray, np.ndarray, list[tuple[str, int, int, int, int]]]:
    """Return a picture of bright discs, uint8 (y, x, 3), their labels, uint8, and their boxes with a class each."""
    random = np.random.default_rng(number)
    labels = np.zeros((SIDE, SIDE + 8 * number), np.uint8)
    boxes = []
    for _ in range(14):
        y, x = random.integers(10, SIDE - 10, 2).tolist()
        spot = np.zeros_like(labels)
        cv2.circle(spot, (x, y), 10, 1, -1)
        if labels[spot > 0].any():
            continue
        cv2.circle(labels, (x, y), 8, len(boxes) + 1, -1)
        boxes.append(("first" if len(boxes) % 2 else "second", x - 8, y - 8, x + 9, y + 9))
    image = 60.0 + 110 * (labels > 0)[..., None] + random.normal(0, 10, (*labels.shape, 3))
    return image.clip(0, 255).astype(np.uint8), labels, boxes


def draw(folder: Path, layout: str, classes: tuple[str, str] = ("RBC", "WBC")) -> tuple[str, ...]:
    """Write the images and their truth as `layout` has them; return their names."""
    names = tuple(f"train_{n}" for n in range(1, 6)) if layout == "glas" else NAMES
    entries = []
    for number, name in enumerate(names):
        image, labels, boxes = scene(number)
        boxes = [(classes[one == "first"], *corners) for one, *corners in boxes]
        if layout == "dsb2018":
            _save(folder / name / "images" / f"{name}.png", image)
            for label in range(1, int(labels.max()) + 1):
                _save(folder / name / "masks" / f"{label}.png", np.where(labels == label, 255, 0).astype(np.uint8))
        elif layout == "glas":
            _save(folder / f"{name}.bmp", image)
            _save(folder / f"{name}_anno.bmp", labels)
        elif layout == "darkfield":
            _save(folder / "images" / f"{name}.png", image)
            _save(folder / "masks" / f"{name}.png", np.where(labels > 3, 2, labels > 0).astype(np.uint8))
        else:
            _save(folder / "images" / f"{name}.png", image)
            entries.append((name, image.shape, boxes))
    if layout == "glas":
        (folder / "Grade.csv").write_text("name,patient ID,grade\n" + "".join(f"{n},{n},benign\n" for n in names))
    if layout == "voc":
        (folder / "annotations").mkdir()
        for name, shape, boxes in entries:
            text = voc(f"{name}.png", SIDE, boxes).replace(f"<width>{SIDE}<", f"<width>{shape[1]}<")
            (folder / "annotations" / f"{name}.xml").write_text(text)
    if layout == "bbbc041":
        (folder / "training.json").write_text(json.dumps([_malaria(*entry) for entry in entries]))
    return names


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _malaria(name: str, shape: tuple[int, ...], boxes: list[tuple[str, int, int, int, int]]) -> dict:
    objects = [
        {"bounding_box": {"minimum": {"r": y0, "c": x0}, "maximum": {"r": y1, "c": x1}}, "category": what}
        for what, x0, y0, x1, y1 in boxes
    ]
    size = {"r": shape[0], "c": shape[1], "channels": 3}
    return {"image": {"checksum": "0", "pathname": f"/images/{name}.png", "shape": size}, "objects": objects}
