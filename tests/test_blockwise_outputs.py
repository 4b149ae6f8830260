"""What an image done in blocks writes for other programs is what the whole image writes, but for numbers and order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellkit.formats import coco, imagej
from cellkit.io import fluorescence_field, write

pytest.importorskip("zarr")
OUTPUTS = "labels,coco,rois,overlay"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two pictures, the second without a nucleus."""
    folder = tmp_path_factory.mktemp("pictures")
    with tifffile.TiffWriter(folder / "slide.tif") as file:
        image = fluorescence_field(700, 150, seed=5)[0][:600]
        file.write(image, tile=(128, 128), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    write(folder / "void.png", np.zeros((300, 280), np.uint8))
    return folder


@pytest.fixture(scope="module")
def both(pictures, cellkit, tmp_path_factory) -> tuple[Path, Path]:
    """What the whole images give, and their blocks."""
    folder = tmp_path_factory.mktemp("both")
    for name, more in (("whole", ()), ("blocks", ("--blocks", 200))):
        cellkit("run", "nuclei-classical", pictures, "-o", folder / name, "--outputs", OUTPUTS, *more)
    return folder / "whole", folder / "blocks"


def test_coco_holds_the_same_objects_under_the_same_images(both):
    found = []
    for out in both:
        document = json.loads((out / "coco.json").read_text())
        ids = [line["id"] for line in document["annotations"]]
        assert len(set(ids)) == len(ids) > 80
        lines = [{k: v for k, v in line.items() if k not in ("id", "label")} for line in document["annotations"]]
        found.append((document["images"], document["categories"], sorted(map(json.dumps, lines))))
    assert found[0] == found[1]
    assert [image["file_name"] for image in found[0][0]] == ["slide.tif", "void.png"]


def test_rois_are_the_same_outlines(both):
    found = []
    for out in both:
        for name in ("slide", "void"):
            objects = imagej.decode((out / "rois" / f"{name}.zip").read_bytes())
            assert objects.ids.tolist() == list(range(1, len(objects) + 1))
            masks = sorted((tuple(box), float(area)) for box, area in zip(objects.boxes, objects.areas, strict=True))
            found.append((objects.name, objects.size, objects.pixel_size, masks))
    assert found[:2] == found[2:]
    assert len(found[0][3]) > 80


def test_numbers_are_taken_as_ranges_and_none_twice():
    taken = coco._Taken()
    chance = np.random.default_rng(0)
    given: set[int] = set()
    for wanted in [None if k % 7 == 0 else int(k) for k in chance.integers(1, 300, 600)]:
        number = taken.take(wanted)
        free = next(n for n in range(1, 1000) if n not in given)
        assert number == (wanted if wanted is not None and wanted not in given else free)
        given.add(number)
    for number in range(1000, 3000):
        taken.take(number)
    assert len(taken.starts) < 60
