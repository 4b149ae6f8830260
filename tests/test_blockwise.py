"""Blocks give what the whole image gives, label for label up to renumbering, whatever their size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import StageError, UsageError
from cellkit.core.check import plan
from cellkit.core.recipe import dump, load
from cellkit.engine.blockwise.drive import run_passes
from cellkit.engine.blockwise.job import Bench, BlockJob, forget
from cellkit.engine.blockwise.outputs import label_store, rows
from cellkit.engine.blockwise.passes import plan_blocks
from cellkit.engine.executors import Workplace
from cellkit.grid.cover import Window

ndimage = pytest.importorskip("scipy.ndimage")

RECIPES = {
    "components": "[{threshold: {value: 0.55}}, components, measure, rle]",
    "four neighbours": "[otsu, {components: {connectivity: 4}}, {drop_small: {area: 5}, in: labels}, measure, rle]",
    "holes": "[otsu, fill_holes, components, measure, rle]",
    "hysteresis": "[{hysteresis: {low: 0.5, high: 0.65}}, fill_holes, components, rle]",
    "hysteresis along sides": "[{hysteresis: {low: 0.52, high: 0.7, connectivity: 4}}, components, tally]",
    "watershed": "[{gaussian: {sigma: 1.5}}, otsu, fill_holes, {open: {radius: 1.5}}, {drop_small: {area: 8}}, "
    "distance, {maxima: {h: 0.7}}, watershed, {smooth_labels: {radius: 2}}, measure, rle]",
    "seeds by distance": "[otsu, distance, {gaussian: {sigma: 1}, in: field}, {maxima: {min_distance: 3}}, watershed, "
    "{expand: {distance: 2}}, {clear_border: {}, in: labels}, measure, rle]",
    "tiles": "[{tile: {size: 16, halo: 8}, steps: [{gaussian: {sigma: 1}, out: soft}]}, "
    "{otsu: {}, in: soft}, components, rle]",
    "blended tiles": "[{tile: {size: 20, halo: 6, pad: reflect, blend: weighted}, steps: [{gaussian: {sigma: 1}, "
    "out: soft}]}, {threshold: {value: 0.52}, in: soft}, components, rle]",
    "labels of tiles": "[{tile: {size: 24, halo: 12}, steps: [{threshold: {value: 0.55}}, components]}, measure, rle]",
    "nuclei of cells": "[{threshold: {value: 0.6}, out: inner}, {components: {}, in: inner, out: nuclei}, "
    "{threshold: {value: 0.5}, out: outer}, {components: {}, in: outer, out: cells}, "
    "{measure: {}, in: {objects: nuclei, raw: raw}}, {relate: {}, in: {table: table, child: nuclei, parent: cells}}]",
    "nothing": "[{threshold: {value: 2.0}}, components, measure, rle]",
    "smaller": "[{resize: {factor: 0.4}, steps: [{gaussian: {sigma: 1}, out: soft}]}, "
    "{threshold: {value: 0.5}, in: soft}, {drop_small: {area: 9}}, components, measure, rle]",
    "larger": "[{resize: {standard: 30, diameter: 18}, steps: [{gaussian: {sigma: 1.5}}, {threshold: {value: 0.52}}]}, "
    "fill_holes, components, rle]",
    "measured when smaller": "[{resize: {factor: 0.7}, steps: [{median: {radius: 2}, out: soft}]}, "
    "{otsu: {}, in: soft}, distance, {maxima: {h: 0.5}}, watershed, measure, rle]",
    "still": "[{resize: {standard: 28}, steps: [{gaussian: {sigma: 1}, out: soft}]}, {otsu: {}, in: soft}, "
    "components, rle]",
}


def image_of(seed: int, height: int, width: int, smooth: float) -> np.ndarray:
    image = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), smooth)
    return ((image - image.min()) / (np.ptp(image) + 1e-9)).astype(np.float32)


def in_blocks(text: str, image: np.ndarray, side: int, folder: Path, place: Workplace) -> tuple[Bench, BlockJob]:
    np.save(folder / "x.npy", image)
    bound = plan(load(f"cellkit: 1\nname: t\nsteps: {text}\n"))
    align = plan_blocks(bound).align
    job = BlockJob(
        dump(bound.resolved()), "x", (str(folder / "x.npy"),), str(folder / "scratch"), str(folder / "out"),
        image.shape, -(-side // align) * align, 10**9, digest=str(folder),
    )  # fmt: skip
    return run_passes(job, place, lambda _: None), job


def labels_of(some: Bench, name: str) -> np.ndarray:
    store = label_store(some, some.plan.graph.ends[name], 1)
    return store.read(Window(0, 0, *some.job.shape))


def assert_equal(some: Bench, whole: ck.Sample) -> None:
    """Labels are those of the whole but for their numbers, which are 1 to n; tables are equal but for them."""
    names: dict[str, dict[int, int]] = {}
    for name in [name for name in some.plan.bound.outputs if some.plan.bound.layers[name].name == "labels"]:
        got, wanted = labels_of(some, name), whole[name]
        pairs = np.unique(np.stack([got.ravel().astype(np.int64), wanted.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
        assert int(got.max()) == len(np.setdiff1d(got, [0]))
        names[name] = dict(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)) | {0: 0}
    for number in some.plan.tables:
        name = some.plan.graph.steps[number].output
        if some.plan.graph.ends[name].step == number:
            assert_table(pa.concat_tables(rows(some, number)).to_pandas(), whole[name], names)


def assert_table(got: pd.DataFrame, wanted: pd.DataFrame, names: dict[str, dict[int, int]]) -> None:
    own = names.get("nuclei") or names["labels"]
    if "label" in got:
        got["label"] = [own[label] for label in got["label"]]
        got = got.sort_values("label").reset_index(drop=True)
    if "parent" in got:
        got["parent"] = [names["cells"][parent] for parent in got["parent"]]
    assert list(got) == list(wanted)
    pd.testing.assert_frame_equal(got, wanted, check_dtype=False, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(RECIPES)),
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 3, 17, 31, 64, 97, 151]),
    st.sampled_from([1, 5, 23, 64, 89, 131, 160]),
    st.sampled_from([7, 16, 24, 33, 48, 64, 200]),
    st.sampled_from([0.7, 1.5, 3.0, 6.0]),
)
def test_blocks_equal_the_whole(tmp_path_factory, name, seed, height, width, side, smooth):
    folder = tmp_path_factory.mktemp("blocks")
    image = image_of(seed, height, width, smooth)
    with Workplace("serial") as place:
        some, job = in_blocks(RECIPES[name], image, side, folder, place)
    try:
        assert_equal(some, ck.run(some.plan.bound, ck.read(folder / "x.npy")))
    finally:
        forget(job)


def test_one_object_larger_than_many_blocks_and_a_hole_over_many(tmp_path):
    y, x = np.mgrid[:150, :140]
    ring = np.abs(np.hypot(y - 75, x - 70) - 50) < 6
    image = (ring | (np.hypot(y - 75, x - 70) < 8) | ((y > 140) & (x % 9 < 4))).astype(np.float32)
    for number, text in enumerate((RECIPES["components"], RECIPES["holes"], RECIPES["watershed"])):
        (tmp_path / str(number)).mkdir()
        with Workplace("threads", 2) as place:
            some, job = in_blocks(text, image, 16, tmp_path / str(number), place)
        whole = ck.run(some.plan.bound, ck.read(tmp_path / str(number) / "x.npy"))
        assert_equal(some, whole)
        assert np.bincount(whole["labels"].ravel())[1:].max() > 3000
        forget(job)


def test_an_object_too_large_for_the_memory_is_named(tmp_path):
    image = np.zeros((200, 200), np.float32)
    image[20:180, 90:110] = 1
    np.save(tmp_path / "x.npy", image)
    bound = plan(load("cellkit: 1\nname: t\nsteps: [{threshold: {value: 0.5}}, components]\n"))
    job = BlockJob(
        dump(bound.resolved()), "x", (str(tmp_path / "x.npy"),), str(tmp_path / "s"), str(tmp_path / "o"), (200, 200),
        32, 128 * 128, digest="x",
    )  # fmt: skip
    with Workplace("serial") as place, pytest.raises(StageError, match=r"reaches more than .* px farther.*memory"):
        run_passes(job, place, lambda _: None)
    forget(job)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[clahe, otsu, components]", r"clahe: needs the whole image at once.*tile: \{size: 2048"),
        ("[{resize: {longest: 90}, steps: [{gaussian: {}, out: soft}]}, {otsu: {}, in: soft}, components]", "`factor`"),
        ("[{resize: {factor: 0.5}, steps: [{threshold: {value: 0.5}}, components]}]", r"whole objects.*--mpp"),
        ("[{resize: {factor: 0.5}, steps: [otsu]}, components]", r"from inside a bracket; move it before"),
        (
            "[{pad: {square: true}, steps: [{gaussian: {}, out: soft}]}, {otsu: {}, in: soft}, components]",
            "leave it out",
        ),
        ("[{tile: {}, steps: [otsu]}, components]", r"from inside a bracket; move it before"),
    ],
)
def test_what_cannot_be_done_in_blocks_is_refused_with_the_fix(steps, words):
    with pytest.raises(UsageError, match=words):
        plan_blocks(plan(load(f"cellkit: 1\nname: t\nsteps: {steps}\n")))


def test_passes_wait_for_histograms_and_joins_alone_and_keep_what_costs():
    bound = plan(replace(ck.Recipe.read("nuclei-classical"), outputs=("labels", "table")))
    passes = plan_blocks(bound).passes
    graph = plan_blocks(bound).graph
    names = [[graph.steps[i].step.label for i in some.steps] for some in passes]
    assert names[0] == ["grayscale", "gamma"]
    assert names[2] == ["otsu"]  # of what the pass before has kept
    assert [len(some.store) for some in passes] == [0, 1, 1, 0]
    assert passes[2].join
    assert passes[3].objects
    network = plan_blocks(plan(replace(ck.Recipe.read("nuclei"), outputs=("labels", "table"))))
    calls = [i for some in network.passes for i in some.steps if network.graph.steps[i].spec.name == "predict"]
    assert len(calls) == 1  # no block calls the network twice
