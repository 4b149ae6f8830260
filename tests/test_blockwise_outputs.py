"""What an image done in blocks writes for other programs is what the whole image writes, but for numbers and order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import cellkit as ck
from cellkit.core import UsageError
from cellkit.core.check import plan
from cellkit.core.recipe import dump, load
from cellkit.engine.blockwise.drive import run_passes
from cellkit.engine.blockwise.job import Bench, BlockJob, forget
from cellkit.engine.blockwise.overlay import strips
from cellkit.engine.executors import Workplace
from cellkit.formats import coco, imagej
from cellkit.io import fluorescence_field, open_slide, write
from cellkit.io.pyramid import write_pyramid
from cellkit.report.display import display
from cellkit.report.overlay import overlay, palette_for
from cellkit.report.palette import edges

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


def in_blocks(text: str, image: np.ndarray, side: int, folder: Path, outputs: str) -> Bench:
    np.save(folder / "x.npy", image)
    bound = plan(load(f"cellkit: 1\nname: t\nsteps: {text}\noutputs: {outputs}\n"))
    job = BlockJob(
        dump(bound.resolved()), "x", (str(folder / "x.npy"),), str(folder / "s"), str(folder / "o"), image.shape[:2],
        side, 10**9, digest=str(folder),
    )  # fmt: skip
    with Workplace("serial") as place:
        return run_passes(job, place, lambda _: None)


@pytest.mark.parametrize(("channels", "bright"), [(1, False), (2, False), (3, True), (5, False), (1, True)])
def test_the_overlay_is_that_of_the_whole_image_but_for_which_colour_of_the_palette(tmp_path, channels, bright):
    chance = np.random.default_rng(channels)
    field = fluorescence_field(600, 120, seed=7)[0][:530].astype(np.float32) / 255
    image = np.stack([field * (1 - 0.1 * i) for i in range(channels)], axis=2) + chance.normal(0, 0.01, (530, 600, 1))
    image = (1 - image if bright else image).astype(np.float32)
    steps = "[{channel: {name: 0}}, otsu, {drop_small: {area: 20}}, distance, {maxima: {h: 0.5}}, watershed]"
    some = in_blocks(steps, image, 128, tmp_path, "[overlay]")
    got = np.concatenate(list(strips(some)))
    whole = ck.run(some.plan.bound, ck.read(tmp_path / "x.npy"))
    wanted = overlay(whole["raw"], whole["labels"])
    edge = edges(whole["labels"])
    assert edge.sum() > 1000
    np.testing.assert_array_equal(got[~edge], wanted[~edge])
    colors = palette_for(display(whole["raw"]))
    assert (got[edge][:, None] == colors).all(axis=2).any(axis=1).all()
    for number in range(1, int(whole["labels"].max()) + 1):  # one colour an object, wherever it was drawn
        assert len(np.unique(got[edge & (whole["labels"] == number)], axis=0)) == 1
    touching = (whole["labels"][:, 1:] != whole["labels"][:, :-1]) & edge[:, 1:] & edge[:, :-1]
    same = (got[:, 1:][touching] == got[:, :-1][touching]).all(axis=1)
    assert touching.sum() > 10
    assert same.mean() < 0.1
    forget(some.job)


def test_a_mask_is_drawn_where_there_are_no_objects(tmp_path):
    image = fluorescence_field(300, 40, seed=2)[0].astype(np.float32) / 255
    some = in_blocks("[otsu]", image, 128, tmp_path, "[overlay]")
    whole = ck.run(some.plan.bound, ck.read(tmp_path / "x.npy"))
    np.testing.assert_array_equal(np.concatenate(list(strips(some))), overlay(whole["raw"], whole["mask"]))
    forget(some.job)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (256, 300), (1500, 2100), (1025, 257)])
def test_a_pyramid_holds_what_it_is_given_and_its_halves(tmp_path, height, width):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    given = [picture[top : top + 256] for top in range(0, height, 256)]
    write_pyramid(tmp_path / "a.tif", (height, width), given, (0.5, 0.25), lossless=True)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        levels = file.series[0].levels
        np.testing.assert_array_equal(levels[0].asarray(), picture)
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge").astype(int)
        half = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4
        assert len(levels) == {1: 1, 256: 1, 1500: 3, 1025: 2}[height]
        if len(levels) > 1:
            np.testing.assert_array_equal(levels[1].asarray(), half)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.info.pixel_size == (0.5, 0.25)
    with pytest.raises(UsageError, match="strip"):
        write_pyramid(tmp_path / "b.tif", (height + 1, width), given)
    assert not (tmp_path / "b.tif").exists()


def test_the_overlay_of_a_run_is_a_picture_with_a_pyramid(both):
    with tifffile.TiffFile(both[1] / "overlays" / "slide.tif") as file:
        page = file.pages[0]
        assert page.is_tiled
        got = page.asarray()
    wanted = ck.read(both[0] / "overlays" / "slide.png")["raw"] * 255
    labels = tifffile.imread(both[0] / "labels" / "slide.tif")
    far = np.abs(got.astype(float) - wanted).max(axis=2) > 40  # JPEG, and other colours of the palette
    assert far.mean() < 0.03 + edges(labels).mean()


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
