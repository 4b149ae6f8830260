"""Batches: resume, change detection, names, tables, failures that stop nothing."""

from __future__ import annotations

import csv
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cellkit import io
from cellkit.core import ReadOptions, RecipeError, UsageError, registry
from cellkit.core.recipe import load
from cellkit.engine import run_batch
from cellkit.engine.batch import Settings

RECIPE = load("""
steps: [grayscale, gaussian, otsu, fill_holes, distance, maxima, watershed, measure, rle, tally]
outputs: [labels, mask, field, table, rle, tally, overlay]
""")


def picture(seed: int, objects: int = 5, shape=(48, 61)) -> np.ndarray:
    image = np.full(shape, 10, np.uint8)
    rng = np.random.default_rng(seed)
    for _ in range(objects):
        cv2.circle(image, (int(rng.integers(shape[1])), int(rng.integers(shape[0]))), 4, 200, -1)
    return image


@pytest.fixture
def folder(tmp_path) -> Path:
    source = tmp_path / "images"
    source.mkdir()
    for i in range(6):
        cv2.imwrite(str(source / f"im{i}.png"), picture(i, 0 if i == 3 else 5))
    return source


def files(out: Path) -> dict[str, bytes]:
    """Every result of a run but what holds times: run.json, images.csv and the state."""
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {k: v for k, v in found.items() if not k.startswith(".cellkit") and k not in ("run.json", "images.csv")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_what_a_run_writes(folder, tmp_path):
    out = tmp_path / "out"
    seen = []
    result = run_batch(RECIPE, [folder], out, on_image=seen.append)
    assert (result.done, result.kept, result.failed) == (6, 0, ())
    assert len(seen) == 6
    names = [f"im{i}" for i in range(6)]
    for kind, suffix in [("labels", ".tif"), ("mask", ".png"), ("field", ".tif"), ("overlays", ".png")]:
        assert sorted(p.name for p in (out / kind).iterdir()) == [n + suffix for n in names]
    images = rows(out / "images.csv")
    assert [r["image"] for r in images] == names
    assert [r["status"] for r in images] == ["done"] * 6
    assert images[3]["objects"] == "0"
    assert images[0]["height"] == "48"
    objects = pd.read_csv(out / "objects.csv")
    assert len(objects) == sum(int(r["objects"]) for r in images) == result.objects["labels"]
    pd.testing.assert_frame_equal(objects, pd.read_parquet(out / "objects.parquet"), check_dtype=False)
    for i, name in enumerate(names):
        labels = io.read_labels(out / "labels" / f"{name}.tif")
        assert labels.max() == int(images[i]["objects"])
        assert sorted(objects.label[objects.image == name]) == list(range(1, labels.max() + 1))
    codes = rows(out / "rle.csv")
    assert [r["EncodedPixels"] for r in codes if r["ImageId"] == "im3"] == [""]
    assert len(codes) == len(objects) + 1
    account = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert account["counts"] == {"images": 6, "done": 6, "kept": 0, "failed": 0}
    assert [i["name"] for i in account["images"]] == names
    assert account["recipe"]["steps"][1]["gaussian"]["sigma"] == 1.0
    assert account["versions"]["cellkit"]
    assert any("watershed" in where for where in account["step_seconds"])
    assert load((out / "recipe.yaml").read_text(encoding="utf-8")).outputs == RECIPE.outputs
    assert not list((out / ".cellkit" / "tmp").iterdir())


def test_objects_are_counted_whatever_is_written(folder, tmp_path):
    out = tmp_path / "out"
    result = run_batch(replace(RECIPE, outputs=("table",)), [folder], out)
    assert result.objects["labels"] == len(pd.read_csv(out / "objects.csv")) > 0
    assert not (out / "labels").exists()
    assert run_batch(replace(RECIPE, outputs=("mask",)), [folder], out).objects == {}


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_gives_the_same_bytes(folder, tmp_path, workers):
    run_batch(RECIPE, [folder], tmp_path / "one", settings=Settings(1))
    run_batch(RECIPE, [folder], tmp_path / "more", settings=Settings(workers))
    assert files(tmp_path / "one") == files(tmp_path / "more")


def test_a_second_run_redoes_exactly_what_changed(folder, tmp_path):
    out = tmp_path / "out"
    run_batch(RECIPE, [folder], out)
    before = files(out)
    stamps = {p: p.stat().st_mtime_ns for p in (out / "labels").iterdir()}
    result = run_batch(RECIPE, [folder], out)
    assert (result.done, result.kept) == (0, 6)
    assert files(out) == before
    assert {p: p.stat().st_mtime_ns for p in (out / "labels").iterdir()} == stamps

    cv2.imwrite(str(folder / "im1.png"), picture(99))
    (out / "labels" / "im2.tif").unlink()
    (out / "overlays" / "im4.png").write_bytes(b"cut")
    result = run_batch(RECIPE, [folder], out)
    assert (result.done, result.kept) == (3, 3)
    fresh = tmp_path / "fresh"
    run_batch(RECIPE, [folder], fresh)
    assert files(out) == files(fresh)

    assert run_batch(RECIPE.set("gaussian.sigma", 2.0), [folder], out).done == 6
    assert run_batch(RECIPE.set("gaussian.sigma", 2), [folder], out).kept == 6, "2 and 2.0 are one value"
    assert run_batch(RECIPE.set("gaussian.sigma", 2), [folder], out, settings=Settings(fresh=True)).done == 6


def test_a_changed_stage_file_redoes_all(folder, tmp_path, monkeypatch):
    registry.stages()
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    monkeypatch.setattr(registry, "_digests", {})
    mine = tmp_path / "mine.py"
    text = "import cellkit as ck\n\n\n@ck.stage(reach=0)\ndef mine_{}(image: ck.Image, /) -> ck.Image:\n"
    text += "    return image * {}\n"
    mine.write_text(text.format("a", 1))
    registry.load_file(mine)
    out = tmp_path / "out"
    assert run_batch(RECIPE, [folder], out).done == 6
    assert run_batch(RECIPE, [folder], out).kept == 6
    mine.write_text(text.format("b", 2))
    registry.load_file(mine)
    assert run_batch(RECIPE, [folder], out).done == 6


def test_outputs_of_an_earlier_recipe_do_not_linger(folder, tmp_path):
    out = tmp_path / "out"
    run_batch(RECIPE, [folder], out)
    fewer = load("steps: [grayscale, otsu, components]\noutputs: [labels]")
    run_batch(fewer, [folder], out)
    assert not list((out / "overlays").iterdir())
    assert len(list((out / "labels").iterdir())) == 6


def test_more_images_join_and_others_stay(folder, tmp_path):
    out = tmp_path / "out"
    run_batch(RECIPE, sorted(folder.iterdir())[:4], out)
    result = run_batch(RECIPE, [folder], out)
    assert (result.done, result.kept) == (2, 4)
    result = run_batch(RECIPE, [folder / "im5.png"], out)
    assert (result.images, result.others) == (1, 5)
    assert [r["image"] for r in rows(out / "images.csv")] == ["im5"]
    assert len(list((out / "labels").iterdir())) == 6


def test_equal_stems_do_not_overwrite_each_other(tmp_path):
    for plate in ("a", "b"):
        (tmp_path / plate).mkdir()
        cv2.imwrite(str(tmp_path / plate / "x.png"), picture(ord(plate)))
    cv2.imwrite(str(tmp_path / "a" / "x.tif"), picture(7))
    result = run_batch(RECIPE, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert result.done == 3
    names = [r["image"] for r in rows(tmp_path / "out" / "images.csv")]
    assert len(set(names)) == 3
    assert {p.stem for p in (tmp_path / "out" / "labels").iterdir()} == set(names)


def test_a_failed_image_stops_nothing_and_is_tried_again(folder, tmp_path):
    (folder / "im0.png").write_bytes(b"not an image")
    out = tmp_path / "out"
    result = run_batch(RECIPE, [folder], out)
    assert result.done == 5
    ((name, source, reason),) = result.failed
    assert (name, Path(source)) == ("im0", folder / "im0.png")
    assert "im0.png" in reason
    failed = rows(out / "images.csv")[0]
    assert (failed["status"], failed["objects"], failed["reason"]) == ("failed", "", reason)
    account = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert account["images"][0]["reason"] == reason
    cv2.imwrite(str(folder / "im0.png"), picture(0))
    result = run_batch(RECIPE, [folder], out)
    assert (result.done, result.kept, result.failed) == (1, 5, ())


def test_a_write_that_fails_is_named(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mask").write_text("a file where a folder is wanted")
    result = run_batch(RECIPE, [folder], out)
    assert len(result.failed) == 6
    assert "mask" in result.failed[0][2]


def test_nothing_is_written_where_the_request_is_wrong(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RecipeError):
        run_batch(load("steps: [otzu]"), [folder], out)
    with pytest.raises(UsageError):
        run_batch(RECIPE, [tmp_path / "nowhere"], out)
    with pytest.raises(UsageError, match="at least 1"):
        run_batch(RECIPE, [folder], out, settings=Settings(0))
    assert not out.exists()
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(UsageError, match="cannot be used as the output folder"):
        run_batch(RECIPE, [folder], taken)


def test_two_runs_do_not_share_a_folder(folder, tmp_path):
    out = tmp_path / "out"
    run_batch(RECIPE, [folder], out)
    holder = sqlite3.connect(out / ".cellkit" / "lock", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(UsageError, match="another run is writing here"):
            run_batch(RECIPE, [folder], out)
    finally:
        holder.close()
    assert run_batch(RECIPE, [folder], out).kept == 6


def test_a_damaged_state_costs_time_not_results(folder, tmp_path):
    out = tmp_path / "out"
    run_batch(RECIPE, [folder], out)
    before = files(out)
    (out / ".cellkit" / "state.sqlite").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    assert run_batch(RECIPE, [folder], out).done == 6
    assert files(out) == before


def test_an_interrupt_keeps_what_is_done(folder, tmp_path):
    out = tmp_path / "out"

    def stop(outcome):
        if outcome.record.name == "im2":
            raise KeyboardInterrupt

    run_batch(RECIPE.set("gaussian.sigma", 3), [folder], out)
    with pytest.raises(KeyboardInterrupt):
        run_batch(RECIPE, [folder], out, settings=Settings(1), on_image=stop)
    assert not (out / "run.json").exists()
    result = run_batch(RECIPE, [folder], out)
    assert result.kept >= 3
    assert result.done == 6 - result.kept
    run_batch(RECIPE, [folder], tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")


def test_images_without_any_object(tmp_path):
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((9, 9), np.uint8))
    out = tmp_path / "out"
    result = run_batch(RECIPE, [tmp_path / "black.png"], out)
    assert result.objects == {"labels": 0}
    objects = pd.read_csv(out / "objects.csv")
    assert len(objects) == 0
    assert {"image", "label", "area"} <= set(objects.columns)
    assert (out / "rle.csv").read_text().splitlines() == ["ImageId,EncodedPixels", "black,"]


def test_images_of_different_channels_share_one_table(tmp_path):
    gray, color = picture(1), np.dstack([picture(2)] * 3)
    cv2.imwrite(str(tmp_path / "a.png"), gray)
    cv2.imwrite(str(tmp_path / "b.png"), color)
    run_batch(RECIPE, [tmp_path], tmp_path / "out")
    objects = pd.read_csv(tmp_path / "out" / "objects.csv")
    mean = [c for c in objects.columns if c.startswith("mean_")]
    assert len(mean) == 4
    assert objects.loc[objects.image == "a", mean].notna().sum(axis=1).eq(1).all()
    assert objects.loc[objects.image == "b", mean].notna().sum(axis=1).eq(3).all()


def test_plate_and_well_go_into_the_tables(tmp_path):
    for well in ("A01", "B02"):
        cv2.imwrite(str(tmp_path / f"p7_{well}.png"), picture(len(well)))
    recipe = replace(RECIPE, read_options=ReadOptions(pattern="{plate}_{well}"))
    run_batch(recipe, [tmp_path], tmp_path / "out")
    assert [(r["plate"], r["well"]) for r in rows(tmp_path / "out" / "images.csv")] == [("p7", "A01"), ("p7", "B02")]
    objects = pd.read_csv(tmp_path / "out" / "objects.csv")
    assert set(objects.well) == {"A01", "B02"}
    assert "well" in pd.read_parquet(tmp_path / "out" / "objects.parquet").columns


def test_several_labels_each_with_its_table(tmp_path):
    root = Path(__file__).resolve().parent.parent
    image = np.zeros((64, 64, 2), np.uint8)
    for y, x in [(16, 16), (44, 40)]:
        image[..., 0] = cv2.circle(image[..., 0].copy(), (x, y), 5, 220, -1)
        image[..., 1] = cv2.circle(image[..., 1].copy(), (x, y), 11, 180, -1)
    import tifffile

    tifffile.imwrite(tmp_path / "two.ome.tif", np.moveaxis(image, 2, 0), metadata={"axes": "CYX"})
    recipe = load((root / "examples" / "cells-and-nuclei.yaml").read_text(encoding="utf-8"))
    out = tmp_path / "out"
    result = run_batch(recipe, [tmp_path / "two.ome.tif"], out)
    assert result.failed == ()
    assert result.objects == {"nuclei": 2, "cells": 2, "cytoplasm": 2}
    nuclei, cytoplasm = (pd.read_csv(out / f"{n}_table.csv") for n in ("nuclei", "cytoplasm"))
    assert sorted(nuclei.parent) == [1, 2]
    cells = io.read_labels(out / "cells" / "two.tif")
    assert np.array_equal(np.sort(cytoplasm.area + nuclei.area), np.sort(np.bincount(cells.ravel())[1:]))
