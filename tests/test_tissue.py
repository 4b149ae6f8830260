"""Blocks without tissue are left out: what is kept is as of the whole image, and nothing is cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core.check import plan
from cellkit.core.recipe import dump, load
from cellkit.engine.blockwise.drive import run_passes
from cellkit.engine.blockwise.job import Bench, BlockJob, forget
from cellkit.engine.blockwise.outputs import rows
from cellkit.engine.blockwise.passes import plan_blocks
from cellkit.engine.blockwise.tissue import Region, begin, mask_of, region_of
from cellkit.engine.executors import Workplace
from cellkit.io import fluorescence_field, open_slide, write
from test_blockwise import assert_table, image_of, labels_of

ndimage = pytest.importorskip("scipy.ndimage")
zarr = pytest.importorskip("zarr")

SPLIT = "{open: {radius: 1.5}}, distance, {maxima: {h: 0.7}}, watershed, measure, rle]"
RECIPES = {
    "one pass": "[{threshold: {value: 0.55}}, components, measure, rle]",
    "holes": "[{gaussian: {sigma: 1}}, {threshold: {value: 0.5}}, fill_holes, components, measure, rle]",
    "weak": "[{hysteresis: {low: 0.4, high: 0.65}}, components, rle]",
    "split": "[{gaussian: {sigma: 1}}, {threshold: {value: 0.5}}, fill_holes, " + SPLIT,
}


def job_of(text: str, image: np.ndarray, side: int, folder: Path) -> BlockJob:
    np.save(folder / "x.npy", image)
    bound = plan(load(f"cellkit: 1\nname: t\nsteps: {text}\n"))
    align = plan_blocks(bound).align
    return BlockJob(
        dump(bound.resolved()), "x", (str(folder / "x.npy"),), str(folder / "scratch"), str(folder / "out"),
        image.shape, -(-side // align) * align, 10**9, digest=str(folder),
    )  # fmt: skip


def kept_of(job: BlockJob, tissue: np.ndarray) -> np.ndarray:
    kept = np.zeros(job.grid, bool)
    for at in np.ndindex(job.grid):
        kept[at] = tissue[job.core(at).slices].any()
    return kept


def run(job: BlockJob, kept: np.ndarray) -> Bench:
    some = plan_blocks(plan(load(job.recipe)))
    between = any(part.store or part.join for part in some.passes)
    done = ndimage.binary_dilation(kept, np.ones((3, 3))) if between else kept
    with Workplace("serial") as place:
        return run_passes(begin(job, lambda: Region(kept, done)), place, lambda _: None)


def assert_kept(some: Bench, whole: ck.Sample, kept: np.ndarray) -> None:
    """What is made is what the whole image gives of objects with a pixel in a kept block."""
    job = some.job
    inside = np.kron(kept, np.ones((job.side, job.side), bool))[: job.shape[0], : job.shape[1]]
    wanted = np.where(np.isin(whole["labels"], np.unique(whole["labels"][inside])), whole["labels"], 0)
    got = labels_of(some, "labels")
    pairs = np.unique(np.stack([got.ravel().astype(np.int64), wanted.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    names = {"labels": dict(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))}
    for number in some.plan.tables:
        name = some.plan.graph.steps[number].output
        frames = list(rows(some, number))
        here = whole[name][whole[name]["label"].isin(np.unique(wanted))].reset_index(drop=True)
        if frames:
            assert_table(pa.concat_tables(frames).to_pandas(), here, names)
        assert bool(frames) == bool(kept.any())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(RECIPES)), st.integers(0, 10**6), st.sampled_from([16, 24, 40]), st.sampled_from([1.5, 3.0]),
    st.floats(0, 0.5), st.integers(0, 12),
)  # fmt: skip
def test_objects_with_a_pixel_in_a_kept_block_are_whole(tmp_path_factory, name, seed, side, smooth, share, dust):
    """Tissue of random blobs on glass, with dust that lies across the cuts to blocks left out."""
    folder = tmp_path_factory.mktemp("tissue")
    chance = np.random.default_rng(seed)
    tissue = image_of(seed + 1, 150, 170, 12.0) > 1 - share
    image = image_of(seed, 150, 170, smooth) * tissue
    for y, x in chance.integers(0, 140, (dust, 2)).tolist():
        image[y : y + 5, x : x + 7] = np.maximum(image[y : y + 5, x : x + 7], np.float32(0.8))
    job = job_of(RECIPES[name], image.astype(np.float32), side, folder)
    kept = kept_of(job, tissue)
    some = run(job, kept)
    try:
        assert_kept(some, ck.run(some.plan.bound, ck.read(folder / "x.npy")), kept)
    finally:
        forget(some.job)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_fibre_that_leaves_tissue_far_behind_stays_whole(tmp_path, name):
    image = np.zeros((100, 300), np.float32)
    image[20:60, 10:50] = 0.9
    image[30:36, 40:290] = 0.8
    image[80:90, 200:220] = 0.8  # alone on the glass: left out
    job = job_of(RECIPES[name], image, 16, tmp_path)
    kept = kept_of(job, np.broadcast_to(np.arange(300) < 60, (100, 300)))
    some = run(job, kept)
    whole = ck.run(some.plan.bound, ck.read(tmp_path / "x.npy"))
    assert_kept(some, whole, kept)
    assert (labels_of(some, "labels")[32, 40:280] > 0).all()
    assert not labels_of(some, "labels")[80:90, 200:220].any()
    forget(some.job)


def test_what_is_measured_leaves_out_blocks_without_tissue(tmp_path):
    image = image_of(3, 96, 96, 2.0)
    image[:, 32:] = 0.05
    job = job_of("[otsu, components, rle]", image, 32, tmp_path)
    kept = np.zeros((3, 3), bool)
    kept[:, 0] = True
    some = run(job, kept)
    found = ck.stages.otsu(image[..., None], ck.stages.histogram(image[:, :32]))
    np.testing.assert_array_equal(labels_of(some, "labels") > 0, found & (np.arange(96) < 32))
    forget(some.job)


def test_tissue_is_told_from_glass_and_from_the_dark(tmp_path):
    chance = np.random.default_rng(0)
    disc = np.hypot(*np.mgrid[-60:60, -60:60]) < 30
    glass = np.full((120, 120, 3), 0.93, np.float32) + chance.normal(0, 0.01, (120, 120, 3)).astype(np.float32)
    stained = np.where(disc[..., None], np.float32([0.8, 0.5, 0.7]), glass)
    stained[:6] = 0.01  # the black rim of a scan
    dark = np.where(disc, 0.3, 0.02)[..., None].astype(np.float32) + chance.normal(0, 0.005, (120, 120, 1))
    pale = 1 - dark
    widened = ndimage.binary_dilation(disc, np.ones((5, 5)))
    for image in (stained, dark.astype(np.float32), pale.astype(np.float32)):
        np.testing.assert_array_equal(mask_of(np.clip(image, 0, 1)), widened)
    assert not mask_of(np.full((20, 20, 3), 0.9, np.float32)).any()


def test_a_mask_of_any_size_keeps_the_blocks_that_see_it(tmp_path):
    image = np.zeros((300, 400), np.float32)
    job = job_of("[{gaussian: {sigma: 2}}, {threshold: {value: 0.5}}, components]", image, 50, tmp_path)
    some = plan_blocks(plan(load(job.recipe)))
    mask = np.zeros((75, 100), np.uint8)
    mask[26:36, 51:61] = 7  # 104 to 144, 204 to 244 of the image
    write(tmp_path / "mask.png", mask)
    with open_slide(tmp_path / "x.npy") as slide:
        wanted = np.zeros((6, 8), bool)
        wanted[2, 4] = True
        found = region_of(job, some, slide, str(tmp_path / "mask.png"), -some.passes[0].reach)
        np.testing.assert_array_equal(found.kept, wanted)
        wanted[1:4, 3:6] = True  # seen from 20 px off: rows 100 to 150 lie 4 and 6 px from what is drawn
        found = region_of(job, some, slide, str(tmp_path / "mask.png"), 20 - some.passes[0].reach)
        np.testing.assert_array_equal(found.kept, wanted)


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """Nuclei in the left third of a picture with a pyramid, and nothing but noise elsewhere."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    image = np.random.default_rng(1).poisson(8, (900, 1200)).astype(np.uint8)
    image[:400, :400] = np.maximum(image[:400, :400], fluorescence_field(400, 60, seed=3)[0])
    with tifffile.TiffWriter(path) as file:
        more = {"tile": (128, 128), "compression": "deflate"}
        file.write(image, subifds=1, **more)
        file.write(image[::2, ::2], subfiletype=1, **more)
    return path


def command(slide: Path, out: Path, *more: object) -> list[object]:
    return ["run", "nuclei-classical", slide, "-o", out, "--outputs", "labels,table,rle,geojson", *more]


def notes_of(out: Path) -> str:
    return " ".join(json.loads((out / "run.json").read_text())["images"][0]["notes"])


def test_a_mask_that_is_all_tissue_changes_nothing(slide, cellkit, tmp_path):
    write(tmp_path / "all.png", np.full((90, 120), 255, np.uint8))
    cellkit(*command(slide, tmp_path / "a", "--blocks", 256))
    cellkit(*command(slide, tmp_path / "b", "--blocks", 256, "--tissue", tmp_path / "all.png"))
    for name in ("objects.csv", "rle.csv", "geojson/slide.geojson"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "0 of 20 blocks hold none" in notes_of(tmp_path / "b")


def test_glass_is_left_out_by_itself_and_the_same_by_all_workers(slide, cellkit, tmp_path):
    done = json.loads(cellkit(*command(slide, tmp_path / "a", "--blocks", 256, "--tissue", "auto"), "--json").stdout)
    assert "of 20 blocks hold none and were left out" in notes_of(tmp_path / "a")
    table = pd.read_parquet(tmp_path / "a" / "objects.parquet")
    assert done["objects"]["labels"] == len(table) > 40
    store = zarr.open(str(tmp_path / "a" / "labels" / "slide.zarr"), mode="r")["0"]
    assert not np.asarray(store)[:, 800:].any()
    cellkit(*command(slide, tmp_path / "b", "--blocks", 256, "--tissue", "auto", "--pool", "processes", "--workers", 2))
    for name in ("objects.csv", "rle.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = cellkit(*command(slide, tmp_path / "a", "--blocks", 256, "--tissue", "auto"), "--json")
    assert json.loads(again.stdout)["kept"] == 1
    other = cellkit(*command(slide, tmp_path / "a", "--blocks", 256), "--json")
    assert json.loads(other.stdout)["kept"] == 0  # another mask, another result


def test_an_empty_mask_is_a_result_and_a_wrong_one_is_refused(slide, cellkit, tmp_path):
    write(tmp_path / "none.png", np.zeros((90, 120), np.uint8))
    write(tmp_path / "long.png", np.zeros((90, 220), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    done = cellkit(*command(slide, tmp_path / "a", "--tissue", tmp_path / "none.png", "--json"))
    assert json.loads(done.stdout)["objects"] == {"labels": 0}
    assert "hold none and were left out" in notes_of(tmp_path / "a")
    assert not np.asarray(zarr.open(str(tmp_path / "a" / "labels" / "slide.zarr"), mode="r")["0"]).any()
    assert json.loads((tmp_path / "a" / "geojson" / "slide.geojson").read_text())["features"] == []
    wrong = cellkit(*command(slide, tmp_path / "b", "--tissue", tmp_path / "long.png"), code=1)
    assert "90 x 220 px, which is not in proportion to the image of 900 x 1200 px" in wrong.stdout
    assert "broken.png" in cellkit(*command(slide, tmp_path / "c", "--tissue", tmp_path / "broken.png"), code=1).stdout
    missing = cellkit(*command(slide, tmp_path / "d", "--tissue", tmp_path / "nowhere.png"), code=2)
    assert "nowhere.png: cannot be read" in missing.stderr
    assert not (tmp_path / "d").exists()
