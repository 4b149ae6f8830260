"""Large images and other processes by the real command: killed, with workers that die, over Dask, at other levels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile

import cellkit as ck
from cellkit.engine.batch import Settings
from cellkit.io import fluorescence_field, open_slide, write

zarr = pytest.importorskip("zarr")
OUTPUTS = "labels,table,rle,geojson"


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """A tiled TIFF of 900 x 1,100 px with a pyramid."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    image = fluorescence_field(1100, 260, seed=3)[0][:900]
    with tifffile.TiffWriter(path) as file:
        more = {"tile": (128, 128), "compression": "deflate", "resolutionunit": "CENTIMETER"}
        file.write(image, subifds=1, resolution=(20000, 20000), **more)
        file.write(image[::2, ::2], subfiletype=1, resolution=(10000, 10000), **more)
    return path


@pytest.fixture(scope="module")
def whole(slide, cellkit, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    cellkit("run", "nuclei-classical", slide, "-o", out, "--outputs", OUTPUTS)
    return out


def results(out: Path) -> dict[str, object]:
    """What a run has made, but for the numbers of objects: geometries, codes, measurements in the order of places."""
    features = json.loads((out / "geojson" / "slide.geojson").read_text())["features"]
    table = pd.read_parquet(out / "objects.parquet").sort_values(["centroid_y", "centroid_x"]).round(6)
    return {
        "outlines": sorted(json.dumps(feature["geometry"]) for feature in features),
        "codes": sorted(pd.read_csv(out / "rle.csv")["EncodedPixels"]),
        "areas": table["area"].tolist(),
        "means": table["mean_intensity"].tolist() if "mean_intensity" in table else table.iloc[:, -1].tolist(),
    }


def labels(out: Path) -> np.ndarray:
    return np.asarray(zarr.open(str(out / "labels" / "slide.zarr"), mode="r")["0"])


def in_blocks(slide: Path, out: Path, *more: object) -> list[object]:
    return ["run", "nuclei-classical", slide, "-o", out, "--outputs", OUTPUTS, "--blocks", 256, *more]


def test_a_run_in_blocks_equals_one_of_the_whole(slide, whole, cellkit, tmp_path):
    done = cellkit(*in_blocks(slide, tmp_path / "out"))
    assert "blocks" in done.stderr
    assert results(tmp_path / "out") == results(whole)
    single = tifffile.imread(whole / "labels" / "slide.tif")
    pairs = np.unique(np.stack([labels(tmp_path / "out").ravel(), single.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    account = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "4 x 5 blocks of 256 px" in account["images"][0]["notes"][0]
    assert account["images"][0]["seams"]["labels"]["touching"] > 0
    assert not list((tmp_path / "out" / ".cellkit" / "blocks").glob("*"))  # what lay between passes is gone
    kept = cellkit(*in_blocks(slide, tmp_path / "out"), "--json")
    assert json.loads(kept.stdout)["kept"] == 1


def test_killed_again_and_again_it_ends_as_if_undisturbed(slide, cellkit, tmp_path):
    cellkit(*in_blocks(slide, tmp_path / "calm"))
    command = [str(cellkit.script), *map(str, in_blocks(slide, tmp_path / "out"))]
    scratch, kills = tmp_path / "out" / ".cellkit" / "blocks", 0
    for wanted in (3, 30, 55, 75):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if len(list(scratch.glob("*/*/*.npz"))) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        process.wait()
    assert kills >= 3
    assert not (tmp_path / "out" / "run.json").exists()
    status = cellkit("status", tmp_path / "out", "--json", code=3)
    assert json.loads(status.stdout)["blocks"][0]["image"] == "slide"
    assert not json.loads(status.stdout)["running"]
    cellkit(*in_blocks(slide, tmp_path / "out"))
    assert results(tmp_path / "out") == results(tmp_path / "calm")
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(tmp_path / "calm"))
    for name in ("objects.csv", "rle.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    ended = cellkit("status", tmp_path / "out", "--json")
    assert json.loads(ended.stdout)["done"] == 1


def test_a_worker_that_is_killed_has_its_work_done_by_another(slide, cellkit, tmp_path):
    calm = tmp_path / "calm"
    cellkit(*in_blocks(slide, calm))
    command = [
        str(cellkit.script),
        *map(str, in_blocks(slide, tmp_path / "out", "--pool", "processes", "--workers", 2)),
    ]
    scratch, killed = tmp_path / "out" / ".cellkit" / "blocks", False
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            if not killed and len(list(scratch.glob("*/pass-*/*.npz"))) >= 4:
                workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
                if workers:
                    os.kill(workers[0].pid, signal.SIGKILL)
                    killed = True
            time.sleep(0.01)
    assert killed
    assert process.returncode == 0, (tmp_path / "said").read_text()
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(calm))


def test_dask_gives_the_same_bytes_for_blocks_and_for_many_images(slide, cellkit, tmp_path):
    pytest.importorskip("distributed")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(9):
        write(pictures / f"{seed}.png", fluorescence_field(96, 6, seed=seed)[0])
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    one, two = tmp_path / "one", tmp_path / "two"
    for out, more in ((one, ()), (two, ("--scheduler", "local", "--workers", 2))):
        images = [pictures, slide]
        cellkit(
            "run", "nuclei-classical", *images, "-o", out, "--outputs", OUTPUTS, "--blocks", 300, *more, code=1
        )  # fmt: skip
    for name in ("objects.csv", "rle.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    np.testing.assert_array_equal(labels(one), labels(two))
    plain, spread = tmp_path / "plain", tmp_path / "spread"
    cellkit("run", "nuclei-classical", pictures, "-o", plain, code=1)
    done = cellkit("run", "nuclei-classical", pictures, "-o", spread, "--pool", "processes", "--workers", 2, code=1)
    assert "broken" in done.stdout
    assert (plain / "objects.csv").read_bytes() == (spread / "objects.csv").read_bytes()


def test_a_level_and_micrometres_per_pixel(slide, cellkit, tmp_path):
    for number, more in enumerate((("--level", 1), ("--mpp", 1.0), ("--mpp", 1.0, "--blocks", 200))):
        out = tmp_path / str(number)
        cellkit("run", "nuclei-classical", slide, "-o", out, "--outputs", "labels,table,rle", *more)
        row = pd.read_csv(out / "images.csv").iloc[0]
        assert (row["height"], row["width"], row["pixel_size_y_um"]) == (450, 550, 1.0)
    codes = [sorted(pd.read_csv(tmp_path / str(i) / "rle.csv")["EncodedPixels"]) for i in (0, 1, 2)]
    assert codes[0] == codes[1] == codes[2]
    assert open_slide(slide, level=1).shape == (450, 550)
    wrong = cellkit("run", "nuclei-classical", slide, "-o", tmp_path / "wrong", "--level", 7, code=1)
    assert "level" in wrong.stdout


def test_status_of_no_run_and_a_scheduler_that_is_not_there(cellkit, tmp_path):
    assert "holds no run" in cellkit("status", tmp_path, code=2).stderr
    write(tmp_path / "a.png", np.zeros((20, 20), np.uint8))
    pytest.importorskip("distributed")
    done = cellkit(
        "run", "nuclei-classical", tmp_path / "a.png", "-o", tmp_path / "o", "--scheduler", "tcp://127.0.0.1:9", code=2
    )
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize("diameter", [28, 20])
def test_a_network_in_blocks_tells_what_it_tells_of_the_whole(slide, cellkit, tmp_path, diameter):
    """Within the rounding of its numbers: nearly every object is the same to the pixel, and none is missing."""
    found = []
    for number, more in enumerate(((), ("--blocks", 512))):
        out = tmp_path / str(number)
        more += ("--set", f"resize.diameter={diameter}", "--device", "cpu")
        cellkit("run", "nuclei", slide, "-o", out, "--outputs", "labels,rle", *more)
        found.append(pd.read_csv(out / "rle.csv")["EncodedPixels"])
    assert len(found[0]) == len(found[1]) > 100
    assert len(set(found[0]) & set(found[1])) > 0.98 * len(found[0])


def test_a_run_killed_behind_the_end_of_its_labels_writes_them_again(tmp_path, monkeypatch):
    from cellkit.engine.blockwise import run
    from cellkit.io import LabelStore

    image, _ = fluorescence_field(300, 40, seed=5)
    ck.write(tmp_path / "field.png", image)
    recipe = ck.Recipe.load("steps: [otsu, components, measure]\noutputs: [labels, table, overlay]")
    settings = Settings(workers=1, blocks=128, pool="serial")
    ck.run_batch(recipe, [tmp_path / "field.png"], tmp_path / "whole", settings=settings)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_tables", killed)  # the labels are finished, the record is not there yet
    with pytest.raises(KeyboardInterrupt):
        ck.run_batch(recipe, [tmp_path / "field.png"], tmp_path / "out", settings=settings)
    monkeypatch.undo()
    ck.run_batch(recipe, [tmp_path / "field.png"], tmp_path / "out", settings=settings)
    labels = [LabelStore.open(tmp_path / name / "labels" / "field.zarr") for name in ("whole", "out")]
    whole, again = (store.read_level(0, slice(0, 300), slice(0, 300)) for store in labels)
    assert whole.max() > 10
    assert np.array_equal(whole, again)
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["field.zarr"]
    overlays = [(tmp_path / name / "overlays" / "field.tif").read_bytes() for name in ("whole", "out")]
    assert overlays[0] == overlays[1]
    with_contours = ck.read(tmp_path / "out" / "overlays" / "field.tif")["raw"]
    assert len(np.unique(with_contours.max(axis=2) - with_contours.min(axis=2) > 0.2)) == 2  # coloured ones
