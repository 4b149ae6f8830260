"""Label pyramids as OME-Zarr: written in windows by several processes, whole or not at all, as others read them."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import ReadError, UsageError, WriteError
from cellkit.grid.cover import Window, cover
from cellkit.io import find, open_slide, probe, read_labels
from cellkit.io.omezarr import LabelStore

RNG = np.random.default_rng(3)
LABELS = np.kron(RNG.integers(0, 2**31, (19, 15)), np.ones((37, 41), int)).astype(np.uint32)  # 703 x 615, odd
LABELS[:256, :256] = 0
CHUNK = (256, 192)
VERSIONS = ["0.4", "0.5"] if int(zarr.__version__.partition(".")[0]) >= 3 else ["0.4"]


def fill(store, labels, size=(512, 192)):
    for tile in cover(labels.shape, size, 0, clip=True):
        store.write(tile.core, labels[tile.core.slices])
    return store


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_pyramid_as_zarr_reads_it(tmp_path, version, dtype):
    labels = LABELS.astype(dtype)
    if dtype == np.uint64:
        labels[labels > 0] += np.uint64(2**40)
    store = LabelStore.create(tmp_path / "a.zarr", labels.shape, dtype, CHUNK, (0.5, 0.25), "nuclei", version)
    assert fill(store, labels).finish() == tmp_path / "a.zarr"
    assert store.levels == ((703, 615), (352, 308))
    for level in range(2):
        array = zarr.open_array(str(tmp_path / "a.zarr" / str(level)), mode="r")
        assert (array.dtype, array.chunks) == (np.dtype(dtype), CHUNK)
        np.testing.assert_array_equal(array[:], labels[:: 2**level, :: 2**level])
    window = Window(100, 50, 400, 333)
    np.testing.assert_array_equal(store.read(window), labels[window.slices])
    group = dict(zarr.open_group(str(tmp_path / "a.zarr"), mode="r").attrs)
    own = group["ome"] if version == "0.5" else group
    assert "image-label" in own
    assert own["multiscales"][0]["name"] == "nuclei"
    assert own["multiscales"][0]["datasets"][1]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 0.5]}]
    assert not list(tmp_path.glob(".*"))
    assert not list((tmp_path / "a.zarr").glob("cellkit*"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_metadata_are_valid(tmp_path, version):
    pytest.importorskip("ome_zarr_models")
    from ome_zarr_models import v04, v05

    for size in (None, (0.5, 0.25)):
        store = LabelStore.create(tmp_path / "a.zarr", LABELS.shape, chunk=CHUNK, pixel_size=size, version=version)
        fill(store, LABELS).finish()
        models = v05 if version == "0.5" else v04
        assert models.ImageLabel.from_zarr(zarr.open_group(str(tmp_path / "a.zarr"), mode="r"))


def test_read_back_as_any_image(tmp_path):
    path = tmp_path / "slide.ome.zarr"
    fill(LabelStore.create(path, LABELS.shape, chunk=CHUNK, pixel_size=(0.5, 0.25)), LABELS).finish()
    np.testing.assert_array_equal(read_labels(path), LABELS)
    assert probe(path).pixel_size == (0.5, 0.25)
    assert [source.name for source in find([tmp_path])] == ["slide"]
    with open_slide(path, level=1) as slide:
        assert slide.info.pixel_size == (1.0, 0.5)
    assert ck.read(path).shape == LABELS.shape


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path / "a.zarr"
    store = LabelStore.create(path, LABELS.shape, chunk=CHUNK)
    store.write(Window(256, 192, 512, 384), LABELS[256:512, 192:384])
    assert not path.exists()
    assert not store.finished
    again = LabelStore.create(path, LABELS.shape, chunk=CHUNK)  # as after a kill
    np.testing.assert_array_equal(again.read(Window(300, 200, 512, 384)), LABELS[300:512, 200:384])
    (tmp_path / ".a.zarr.partial" / "0" / "1" / "1.c0ffee.partial").write_bytes(b"left by a writer that was killed")
    fill(again, LABELS).finish()
    assert again.finished
    assert again.finish() == path
    assert sorted(file.name for file in path.rglob("*") if not file.name.isdecimal()) == [
        ".zarray", ".zarray", ".zattrs", ".zgroup",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="is finished"):
        store.write(Window(0, 0, 256, 192), LABELS[:256, :192])
    other = LabelStore.create(path, (50, 60), chunk=(50, 60))  # a new run: the old result stays until the end
    np.testing.assert_array_equal(read_labels(path), LABELS)
    other.finish()
    assert read_labels(path).shape == (50, 60)
    assert not list(tmp_path.glob(".*"))


def test_another_shape_starts_anew(tmp_path):
    path = tmp_path / "a.zarr"
    LabelStore.create(path, LABELS.shape, chunk=CHUNK).write(Window(0, 0, 256, 192), LABELS[:256, :192] + 1)
    for shape, dtype, chunk in ((LABELS.shape, np.uint32, (128, 192)), ((600, 600), np.uint32, CHUNK)):
        assert not LabelStore.create(path, shape, dtype, chunk).read(Window(0, 0, *shape)).any()
    (tmp_path / ".a.zarr.partial" / "cellkit.json").write_text("{")
    assert not LabelStore.create(path, (600, 600), np.uint32, CHUNK).read(Window(0, 0, 600, 600)).any()


def test_a_finish_that_was_killed_is_made_again(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    for step in ("_halve", "_describe"):
        store = fill(LabelStore.create(path, LABELS.shape, chunk=CHUNK), LABELS)

        def die(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(LabelStore, step, die)
            with pytest.raises(KeyboardInterrupt):
                store.finish()
        again = LabelStore.create(path, LABELS.shape, chunk=CHUNK)
        again.finish()
        np.testing.assert_array_equal(read_labels(path), LABELS)
        np.testing.assert_array_equal(zarr.open_array(str(path / "1"), mode="r")[:], LABELS[::2, ::2])


def test_several_processes_write_at_once(tmp_path):
    store = LabelStore.create(tmp_path / "a.zarr", LABELS.shape, chunk=CHUNK)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        cores = [tile.core for tile in cover(LABELS.shape, (512, 192), 0, clip=True)]
        done = [pool.submit(LabelStore.write, store, core, LABELS[core.slices]) for core in cores]
        for future in done:
            future.result()
    store.finish()
    np.testing.assert_array_equal(read_labels(tmp_path / "a.zarr"), LABELS)


@settings(max_examples=10)
@given(height=st.integers(1, 700), width=st.integers(1, 700), tall=st.integers(1, 3), wide=st.integers(1, 3))
def test_levels_keep_labels(tmp_path_factory, height, width, tall, wide):
    labels = np.random.default_rng(height).integers(0, 2**32, (height, width), np.uint32)
    path = tmp_path_factory.mktemp("a") / "a.zarr"
    store = LabelStore.create(path, labels.shape, chunk=(97 * tall, 113 * wide))
    fill(store, labels, (97 * tall * 2, 113 * wide)).finish()
    for level, shape in enumerate(store.levels):
        found = zarr.open_array(str(path / str(level)), mode="r")[:]
        assert found.shape == shape
        np.testing.assert_array_equal(found, labels[:: 2**level, :: 2**level])
    assert max(store.levels[-1]) <= 512


def test_a_zero_takes_back_what_was_written(tmp_path):
    store = LabelStore.create(tmp_path / "a.zarr", (60, 60), chunk=(30, 30))
    window = Window(0, 0, 30, 60)
    store.write(window, np.ones((30, 60), np.int32))
    store.write(window, np.zeros((30, 60), bool))
    assert not store.read(window).any()
    store.finish()
    assert not (tmp_path / "a.zarr" / "0" / "0").exists() or not list((tmp_path / "a.zarr" / "0" / "0").iterdir())


def test_what_does_not_fit_is_refused(tmp_path):
    store = LabelStore.create(tmp_path / "a.zarr", (60, 50), chunk=(30, 30))
    ones = np.ones((60, 60), np.int64)
    for window, words in (
        (Window(0, 0, 20, 30), "cuts through chunks"),
        (Window(5, 0, 30, 30), "cuts through chunks"),
        (Window(0, 0, 90, 30), "does not lie within the labels of 60 x 50 px"),
    ):
        with pytest.raises(UsageError, match=words):
            store.write(window, ones[: window.shape[0], : window.shape[1]])
    window = Window(30, 30, 60, 50)
    for array, words in (
        (ones[:30, :30], r"wanted integers \(30, 20\)"),
        (ones[:30, :20] * 1.5, "wanted integers"),
        (ones[:30, :20] * -1, "uint32 does not hold -1"),
        (ones[:30, :20] * 2**40, "uint32 does not hold 1099511627776"),
    ):
        with pytest.raises(UsageError, match=words):
            store.write(window, array)
    store.write(window, ones[:30, :20])
    for wrong in ({"dtype": np.int32}, {"shape": (0, 5)}, {"version": "0.3"}):
        with pytest.raises(UsageError):
            LabelStore.create(tmp_path / "b.zarr", **{"shape": (5, 5), **wrong})
    with pytest.raises(UsageError, match="was not made"):
        LabelStore(tmp_path / "c.zarr", (5, 5)).finish()
    with pytest.raises(ReadError, match="labels are not there"):
        LabelStore(tmp_path / "c.zarr", (5, 5)).read(Window(0, 0, 5, 5))
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"a\.zarr: cannot be written"):
        LabelStore.create(tmp_path / "file" / "a.zarr", (5, 5))


def test_damaged_labels_are_told(tmp_path):
    store = fill(LabelStore.create(tmp_path / "a.zarr", LABELS.shape, chunk=CHUNK), LABELS)
    store.finish()
    again = pickle.loads(pickle.dumps(store))
    (tmp_path / "a.zarr" / "0" / "2" / "3").write_bytes(b"")
    with pytest.raises(ReadError, match=r"a\.zarr: the store is damaged"):
        again.read(Window(0, 0, *LABELS.shape))
    with pytest.raises(ReadError, match="the chunk 0/2/3 is damaged"):
        read_labels(tmp_path / "a.zarr")
    assert json.loads((tmp_path / "a.zarr" / "0" / ".zarray").read_text())["compressor"]["id"] == "blosc"


def test_a_store_holds_the_same_bytes_every_time(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (1100, 1300)).astype(np.uint32).cumsum(axis=1, dtype=np.uint32)
    files = []
    for number in range(3):
        store = LabelStore.create(tmp_path / f"{number}.zarr", labels.shape, chunk=(512, 512))
        store.write(Window(0, 0, *labels.shape), labels)
        path = store.finish()
        files.append(
            {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.suffix == ""}
        )
    assert len(files[0]) > 9
    chunks = [{name: data for name, data in some.items() if name[0].isdecimal()} for some in files]
    assert chunks[0] == chunks[1] == chunks[2]
