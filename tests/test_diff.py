"""What changed between two runs: objects, measurements, images, settings; the command, its tables and its page."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit import io
from cellkit.core.errors import KindError, ReadError, UsageError
from cellkit.diff import labels as labelled
from cellkit.diff.boxes import compare_boxes
from cellkit.diff.compare import compare_runs
from cellkit.diff.labels import coded, compare_arrays, compare_files
from cellkit.diff.pictures import views_of
from cellkit.diff.runs import open_run
from cellkit.diff.tables import Pool, TableFile, shifts
from cellkit.grid.cover import Window
from cellkit.io.labelfile import LabelFile
from cellkit.io.omezarr import LabelStore
from cellkit.metrics import changes
from cellkit.metrics.contingency import added, contingency
from cellkit.report.diffpage import CHANGES, Part, diff_page, drawn
from strategies import label_images
from test_batch import picture

QUICK = settings(deadline=None, max_examples=60)


def field(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for i, (top, left, bottom, right) in enumerate(boxes, 1):
        labels[top:bottom, left:right] = i
    return labels


BEFORE = field((2, 2, 12, 12), (2, 20, 12, 40), (20, 2, 30, 12), (20, 14, 30, 24), (40, 2, 50, 12), (40, 20, 50, 30))
AFTER = field((2, 2, 12, 12), (2, 20, 12, 29), (2, 30, 12, 40), (20, 2, 30, 24), (40, 2, 50, 8), (40, 60, 50, 70))
COUNTS = {"same": 1, "kept": 0, "changed": 1, "lost": 1, "gained": 1, "split": 1, "merged": 1}


def test_every_outcome_by_hand():
    found = compare_arrays(BEFORE, AFTER, 0.9)
    assert found.changes.counts() == COUNTS
    names = [changes.OUTCOMES[code] for code in found.changes.before]
    assert names == ["same", "split", "merged", "merged", "changed", "lost"]
    assert [changes.OUTCOMES[c] for c in found.changes.after] == [
        "same",
        "split",
        "split",
        "merged",
        "changed",
        "gained",
    ]
    assert [ids.tolist() for ids in found.pairs] == [[1, 5], [1, 5]]
    assert found.iou.tolist() == [1.0, 0.6]
    assert compare_arrays(BEFORE, AFTER, 0.6).changes.counts() == {**COUNTS, "kept": 1, "changed": 0}


@QUICK
@given(label_images(), st.integers(0, 2**32 - 1))
def test_renumbering_is_no_change(image, seed):
    ids = np.unique(image[image > 0])
    table = np.zeros(int(image.max()) + 1, np.int64)
    table[ids] = np.random.default_rng(seed).permutation(len(ids)) + 7
    counts = compare_arrays(image, table[image], 1.0).changes.counts()
    assert counts == {"same": len(ids), **dict.fromkeys(("kept", "changed", "lost", "gained", "split", "merged"), 0)}


@QUICK
@given(st.data())
def test_looking_from_the_other_side_swaps_what_is_lost_and_gained(data):
    shape = (7, 9)
    draw = st.lists(st.integers(0, 4), min_size=63, max_size=63)
    one, two = (np.array(data.draw(draw), np.int32).reshape(shape) for _ in range(2))
    there, back = compare_arrays(one, two, 0.8).changes, compare_arrays(two, one, 0.8).changes
    counts, other = there.counts(), back.counts()
    assert (counts["lost"], counts["split"]) == (other["gained"], other["merged"])
    assert (counts["gained"], counts["merged"]) == (other["lost"], other["split"])
    assert sum(counts[n] for n in ("same", "kept", "changed")) == np.count_nonzero(there.pairs)
    for side, codes in ((one, there.before), (two, there.after)):
        assert len(codes) == len(np.unique(side[side > 0]))


@QUICK
@given(label_images(), label_images(), st.integers(1, 5))
def test_tables_of_parts_add_up_to_the_whole(one, two, rows):
    height, width = (min(a, b) for a, b in zip(one.shape, two.shape, strict=True))
    one, two = one[:height, :width], two[:height, :width]
    parts = (contingency(one[top : top + rows], two[top : top + rows]) for top in range(0, height, rows))
    assert added(parts) == contingency(one, two)


def test_many_parts_are_added_as_they_come(monkeypatch):
    monkeypatch.setattr(sys.modules["cellkit.metrics.contingency"], "_BLOCK", 8)
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 9, (2, 64, 8))
    assert added(contingency(one[i : i + 1], two[i : i + 1]) for i in range(64)) == contingency(one, two)
    assert len(added([]).pixels) == 0


def test_codes_of_pixels():
    found = compare_arrays(BEFORE, AFTER, 0.9)
    codes = coded(BEFORE, found.before_ids, found.changes.before)
    assert codes[0, 0] == 0
    assert changes.OUTCOMES[codes[45, 25] - 1] == "lost"
    assert not coded(np.zeros((3, 3), np.int32), np.zeros(0, np.uint64), np.zeros(0, np.uint8)).any()


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_stores_and_tiffs_are_compared_window_by_window(tmp_path, monkeypatch, dtype):
    rng = np.random.default_rng(1)
    labels = np.kron(np.arange(1, 1 + 24 * 32).reshape(24, 32), np.ones((16, 16), int))
    labels[rng.random(labels.shape) < 0.1] = 0
    big = labels.astype(np.uint64) + np.where(labels > 0, 2**40 if dtype == np.uint64 else 0, 0).astype(np.uint64)
    store = LabelStore.create(tmp_path / "a.zarr", labels.shape, dtype, (64, 64))
    for top in range(0, 384, 64):
        for left in range(0, 512, 64):
            window = Window(top, left, top + 64, left + 64)
            store.write(window, big[window.slices])
    store.finish()
    changed = np.where((labels == 700) | (labels == 701), 0, labels)
    tifffile.imwrite(tmp_path / "b.tif", changed.astype(np.uint16), tile=(64, 64))
    monkeypatch.setattr("cellkit.io.labelfile._SIDE", 64)
    asked = []
    read = LabelFile.read
    monkeypatch.setattr(LabelFile, "read", lambda self, window: (asked.append(window), read(self, window))[1])
    found = compare_files(tmp_path / "a.zarr", tmp_path / "b.tif", 0.9)
    assert found.changes.counts()["lost"] == 2
    assert found.changes.counts()["same"] == 24 * 32 - 2
    assert len(asked) > 2
    assert max(w.shape[0] * w.shape[1] for w in asked) < labels.size
    row, column = divmod(700 - 1, 32)
    assert found.busiest.top <= 16 * row < found.busiest.bottom
    assert found.busiest.left <= 16 * column < found.busiest.right
    with LabelFile(tmp_path / "a.zarr") as file:
        assert np.array_equal(file.read(Window(0, 0, 384, 512)), big)


def test_label_files_that_are_none(tmp_path):
    io.write_labels(tmp_path / "a.tif", BEFORE)
    io.write_labels(tmp_path / "b.tif", BEFORE[:50])
    with pytest.raises(KindError, match="is 60 x 80 px but was 50 x 80 px"):
        compare_files(tmp_path / "a.tif", tmp_path / "b.tif", 0.9)
    cv2.imwrite(str(tmp_path / "c.jpg"), BEFORE.astype(np.uint8))
    with pytest.raises(ReadError, match="compressed with loss"):
        LabelFile(tmp_path / "c.jpg")
    io.write(tmp_path / "d.tif", np.full((4, 4), 0.5, np.float32))
    with LabelFile(tmp_path / "d.tif") as file, pytest.raises(ReadError, match="whole numbers"):
        file.read(Window(0, 0, 4, 4))


def test_boxes_are_paired_by_overlap():
    one = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]], float)
    two = np.array([[20, 0, 30, 8], [0, 0, 10, 10], [80, 80, 90, 90]], float)
    found, i, j = compare_boxes(one, two, 0.9)
    assert found.counts() == {"same": 1, "kept": 0, "changed": 1, "lost": 1, "gained": 1, "split": 0, "merged": 0}
    assert sorted(zip(i[found.pairs].tolist(), j[found.pairs].tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert compare_boxes(one, np.zeros((0, 4)), 0.9)[0].counts()["lost"] == 3


def test_shifts_are_those_of_numpy():
    rng = np.random.default_rng(2)
    one = rng.random(99)
    two = one + rng.random(99)
    one[3] = two[3] = np.nan
    (found,) = shifts({"area": (one, two)})
    moved = np.delete(two - one, 3)
    assert (found.objects, found.differing) == (99, 98)
    assert found.median == pytest.approx(np.median(moved))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(moved, (25, 75))))
    (words,) = shifts({"class": (np.array(["a", None], object), np.array(["b", None], object))})
    assert (words.objects, words.differing) == (2, 1)
    assert np.isnan(words.median)


def test_a_pool_counts_all_and_holds_some(monkeypatch):
    monkeypatch.setattr("cellkit.diff.tables._MOST", 50)
    pool = Pool()
    values = np.arange(1000.0)
    for part in np.split(values, 20):
        pool.add({"area": (part, part + 2)})
    (found,) = pool.shifts()
    assert (found.objects, found.differing, found.median) == (1000, 1000, 2.0)
    assert found.thinned > 1
    assert found.before == pytest.approx(500, abs=30)


def test_rows_of_an_image_lie_over_row_groups(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["a"] * 5 + ["c"] * 4 + ["d"] * 3
    pq.write_table(pa.table({"image": names, "label": list(range(12))}), tmp_path / "t.parquet", row_group_size=3)
    table = TableFile(tmp_path / "t.parquet")
    assert table.rows("a")["label"].tolist() == [0, 1, 2, 3, 4]
    assert table.rows("c")["label"].tolist() == [5, 6, 7, 8]
    assert table.rows("d")["label"].tolist() == [9, 10, 11]
    assert len(table.rows("b")) == 0
    (tmp_path / "x.parquet").write_bytes(b"none")
    with pytest.raises(ReadError, match="cannot be read as a table"):
        TableFile(tmp_path / "x.parquet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cellkit) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "images").mkdir()
    for i in range(3):
        blurred = cv2.GaussianBlur(picture(i, 12, (96, 120)), (0, 0), 2)  # edges that a threshold moves
        cv2.imwrite(str(folder / "images" / f"im{i}.png"), blurred)
    (folder / "images" / "bad.png").write_bytes(b"no image")
    done = {"images": folder / "images"}
    for name, more in {
        "a": (),
        "b": ("--set", "otsu.scale=1.3", "--outputs", "labels,table,mask"),
        "rle": ("--outputs", "rle"),
        "rle2": ("--outputs", "rle", "--set", "otsu.scale=1.3"),
        "table": ("--outputs", "table"),
        "table2": ("--outputs", "table", "--set", "otsu.scale=1.3"),
        "blocks": ("--outputs", "labels,table", "--blocks", "64"),
    }.items():
        cellkit("run", "nuclei-classical", done["images"], "-o", folder / name, *more, code=1)
        done[name] = folder / name
    return done


def test_equal_runs_show_no_difference(cellkit, runs, tmp_path):
    shutil.copytree(runs["a"], tmp_path / "again")
    said = cellkit("diff", runs["a"], tmp_path / "again", "--json", tmp_path / "d.json").stdout
    assert "no difference: 4 images" in said
    assert json.loads((tmp_path / "d.json").read_text())["differs"] is False
    path = tmp_path / "again" / "labels" / "im0.tif"
    labels = io.read_labels(path)
    io.write_labels(path, np.where(labels > 0, labels.max() + 1 - labels, 0))
    again = compare_runs(open_run(runs["a"]), open_run(tmp_path / "again"))
    # The numbers of one image's labels alone were turned round: its rows are now those of other objects.
    (image,) = again.images
    assert not image.layers[0].differs
    assert image.moves


def test_another_threshold_is_told(cellkit, runs, tmp_path):
    files = {name: tmp_path / f"d.{name}" for name in ("json", "csv", "html")}
    options = [text for name, path in files.items() for text in (f"--{name}", path)]
    said = cellkit("diff", runs["a"], runs["b"], *options, code=1).stdout
    for text in ("3 of 4 images differ", "otsu.scale", "area", "outputs"):
        assert text in said
    told = json.loads(files["json"].read_text(encoding="utf-8"))
    assert told["settings"]["otsu.scale"] == {"before": 0.9, "after": 1.3}
    assert told["measurements"]["table"][0]["measurement"] == "area"
    assert told["measurements"]["table"][0]["median_shift"] < 0
    layer = told["per_image"][0]["layers"][0]
    one, two = (io.read_labels(runs[n] / "labels" / f"{told['per_image'][0]['image']}.tif") for n in "ab")
    assert (layer["before"], layer["after"]) == (len(np.unique(one)) - 1, len(np.unique(two)) - 1)
    rows = list(csv.DictReader(files["csv"].read_text(encoding="utf-8").splitlines()))
    assert sorted(row["image"] for row in rows) == ["im0", "im1", "im2"]
    page = files["html"].read_text(encoding="utf-8")
    assert page.count('data-of="case') == 3
    assert page.count("<img src=") == 9
    assert 'src="http' not in page
    assert cellkit("diff", runs["a"], runs["b"], "--tolerant", code=1).stdout == said


def test_edges_alone_are_tolerated_where_asked(cellkit, runs, tmp_path):
    one = tmp_path / "edges"
    shutil.copytree(runs["a"], one)
    path = one / "labels" / "im1.tif"
    labels = io.read_labels(path)
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    top = np.argwhere(labels == ids[areas.argmax()])[0]
    labels[tuple(top)] = 0
    io.write_labels(path, labels)
    assert "only in the edges" in cellkit("diff", runs["a"], one, code=1).stdout
    cellkit("diff", runs["a"], one, "--tolerant")
    cellkit("diff", runs["a"], one, "--tolerant", "--iou", "1", code=1)


@pytest.mark.parametrize("kind", ["rle", "table"])
def test_runs_without_label_images(cellkit, runs, tmp_path, kind):
    cellkit("diff", runs[kind], runs[f"{kind}2"], "--json", tmp_path / "d.json", code=1)
    counts = json.loads((tmp_path / "d.json").read_text())["objects"]
    assert counts["changed"] > 3
    if kind == "rle":
        cellkit("diff", runs["a"], runs["b"], "--json", tmp_path / "l.json", code=1)
        assert counts == json.loads((tmp_path / "l.json").read_text())["objects"]
    cellkit("diff", runs[kind], runs[kind])


def test_a_run_in_blocks_is_the_same_as_on_the_whole(runs):
    found = compare_runs(open_run(runs["a"]), open_run(runs["blocks"]))
    assert not [layer for image in found.images for layer in image.layers if layer.differs]
    assert (runs["blocks"] / "labels" / "im0.zarr").is_dir()


def test_what_only_one_run_has_and_what_cannot_be_compared(cellkit, runs, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    for i in (0, 1):
        shutil.copy(runs["images"] / f"im{i}.png", more)
    cv2.imwrite(str(more / "bad.png"), picture(9, 12, (96, 120)))
    cellkit("run", "nuclei-classical", more, "-o", tmp_path / "out")
    (tmp_path / "out" / "labels" / "im0.tif").write_bytes(b"broken")
    (tmp_path / "out" / "labels" / "im1.tif").unlink()
    said = cellkit("diff", runs["a"], tmp_path / "out", "--html", tmp_path / "d.html", code=1).stdout
    for text in ("only before", "failed before", "im0.tif", "was it moved"):
        assert text in said
    states = {image.name: image.state for image in compare_runs(open_run(runs["a"]), open_run(tmp_path / "out")).images}
    assert states == {"im2": "only before", "bad": "failed before", "im0": "", "im1": ""}


def test_what_is_no_run_is_refused(cellkit, runs, tmp_path):
    said = cellkit("diff", runs["table"], runs["rle"], code=2).stderr
    assert "have written no labels, masks, tables or rle in common" in said
    assert "holds no run" in cellkit("diff", runs["a"], runs["images"], code=2).stderr
    assert "no such folder" in cellkit("diff", runs["a"], tmp_path / "none", code=2).stderr
    (tmp_path / ".cellkit").mkdir()
    with pytest.raises(UsageError, match="has not ended"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(UsageError, match="is no account"):
        open_run(tmp_path)


def test_pictures_of_large_images_show_the_part_that_changed(runs, monkeypatch):
    monkeypatch.setattr("cellkit.diff.pictures._WHOLE", 64)
    monkeypatch.setattr("cellkit.diff.pictures._SIDE", 64)
    found = compare_runs(open_run(runs["a"]), open_run(runs["b"]), keep=2)
    views = views_of(found)
    assert len(views) == 2
    for view in views:
        assert view.sides is not None
        assert view.image is not None
        assert view.sides[0].labels.shape == view.image.shape[:2] == (64, 64)
        assert (view.sides[1].codes > 1 + labelled.QUIET).any()
        assert "rows" in view.place
        shown = drawn(view)
        assert list(shown) == ["before", "after", "what changed"]
        assert (shown["after"] == np.array(CHANGES["changed"][0], np.uint8)).all(axis=2).any()


def test_a_page_escapes_and_goes_without_pictures():
    page = diff_page("<a>", ["<b>"], [Part("<c>", ["h"], [["<d>"]], note="<e>"), Part("none", ["h"], [])], [])
    for name in "abcde":
        assert f"&lt;{name}&gt;" in page
    assert "none" not in page.split("<main>")[1].split("</main>")[0]
