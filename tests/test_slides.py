"""Slides: any window is that part of the whole image; levels, micrometres per pixel, faults, hostile files."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import pickle
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import ReadError, UsageError, WriteError
from cellkit.core.recipe import ReadOptions
from cellkit.grid.cover import Window
from cellkit.io import LabelStore, find, open_slide, probe, read_labels
from cellkit.io.medians import medians
from slides_to_read import (
    COLOUR,
    FLOATS,
    GREY,
    GREY16,
    KINDS,
    RNG,
    V3,
    WHOLE,
    deep_zoom,
    make,
    ome_zarr,
    plain_zarr,
    read_elsewhere,
    svs,
    zarr_array,
)

_made: dict[str, tuple] = {}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the path, the options and the whole image of one of the kinds, each written and read once."""
    folder = tmp_path_factory.mktemp("slides")

    def get(name):
        if name not in _made:
            path, options = make(folder, name)
            _made[name] = path, options, ck.read(path, options)
        return _made[name]

    yield get
    _made.clear()


def windows_of(shape, count=5):
    """Return windows of `shape`: all of it, its corners, and some at random."""
    height, width = shape
    found = [Window(0, 0, height, width), Window(0, 0, 1, 1), Window(height - 1, width - 1, height, width)]
    for _ in range(count):
        top, bottom = sorted(RNG.choice(height + 1, 2, replace=False)) if height > 1 else (0, 1)
        left, right = sorted(RNG.choice(width + 1, 2, replace=False)) if width > 1 else (0, 1)
        found.append(Window(int(top), int(left), int(bottom), int(right)))
    return found


@pytest.mark.parametrize("name", KINDS)
def test_any_window_is_that_part_of_the_whole(made, name):
    path, options, whole = made(name)
    with open_slide(path, options) as slide:
        assert slide.info.shape == whole["raw"].shape
        assert slide.info.channels == whole.layer("raw").names
        assert slide.info.dtype == probe(path, options).dtype
        assert slide.info.pixel_size == whole.pixel_size
        for window in windows_of(slide.shape):
            part = slide.read(window)
            np.testing.assert_array_equal(part["raw"], whole["raw"][window.slices])
            assert part["raw"].dtype == np.float32
            assert part.layer("image").names == whole.layer("image").names
            assert (part.name, part.pixel_size) == (whole.name, whole.pixel_size)
        everything = slide.read(Window(0, 0, *slide.shape))
        assert everything.missing == whole.missing
        assert any("read whole" in note for note in slide.notes) == (path.suffix in WHOLE)


NAMES = ["strips.tif", "planar.tif", "floats.tif", "pyramid.ome.tif", "v3.ome.zarr", "deep.dzi"]


@settings(max_examples=25)
@given(data=st.data())
def test_windows_property(made, data):
    name = data.draw(st.sampled_from(NAMES))
    path, options, whole = made(name)
    height, width = whole.shape
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
    with open_slide(path, options) as slide:
        np.testing.assert_array_equal(slide.read(window)["raw"], whole["raw"][window.slices])


# Only what meets the window is read


def test_tiff_reads_only_the_tiles_that_meet_the_window(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY16, tile=(16, 16), compression="zlib")
    window = Window(17, 33, 40, 64)  # rows 1 and 2, columns 2 and 3
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        places = [(page.dataoffsets[i], page.databytecounts[i]) for i in range(len(page.dataoffsets))]
    across = 7
    needed = {row * across + column for row in (1, 2) for column in (2, 3)}
    with open(path, "r+b") as file:
        for number, (offset, length) in enumerate(places):
            if number not in needed:
                file.seek(offset)
                file.write(b"\xee" * length)
    with open_slide(path) as slide:
        found = np.rint(slide.read(window)["raw"][..., 0] * 65535)
        np.testing.assert_array_equal(found, GREY16[window.slices])
        assert slide.decoded == 4
        slide.read(Window(20, 40, 30, 50))
        assert slide.decoded == 4  # at hand
        with pytest.raises(ReadError, match=r"a\.tif: the TIFF is damaged"):
            slide.read(Window(17, 33, 49, 64))


def test_zarr_reads_only_the_chunks_that_meet_the_window(tmp_path):
    full = ome_zarr(tmp_path / "a.zarr", axes="yx")
    for chunk in (tmp_path / "a.zarr" / "0").rglob("*"):
        if chunk.is_file() and chunk.name.isdigit() and (chunk.parent.name, chunk.name) not in {("1", "1"), ("1", "2")}:
            chunk.write_bytes(b"\xee" * 30)
    with open_slide(tmp_path / "a.zarr") as slide:
        window = Window(16, 30, 32, 60)
        np.testing.assert_array_equal(np.rint(slide.read(window)["raw"][..., 0] * 65535), full[window.slices])
        assert slide.decoded == 2
        with pytest.raises(ReadError, match=r"a\.zarr: the chunk 0/0/0 is damaged"):
            slide.read(Window(0, 0, 5, 5))


def test_a_raw_tiff_is_read_row_by_row(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RNG.integers(0, 255, (3000, 2000), np.uint8))
    read: list[int] = []
    with open_slide(path) as slide:
        handle = slide._picture._tif.filehandle
        whole = handle.read
        monkeypatch.setattr(type(handle), "read", lambda _, n=-1: read.append(n) or whole(n))
        slide.read(Window(100, 500, 200, 600))
    assert sum(read) == 100 * 100


# Levels and micrometres per pixel


def test_levels(made):
    path, _, _ = made("pyramid.ome.tif")
    for level in range(3):
        with open_slide(path, level=level) as slide, tifffile.TiffFile(path) as file:
            expected = np.moveaxis(file.series[0].levels[level].asarray(), 0, 2)
            assert slide.levels == ((103, 97), (52, 49), (26, 25))
            assert slide.info.pixel_size == (0.5 * 2**level, 0.25 * 2**level)
            window = Window(3, 4, 20, 25)
            np.testing.assert_array_equal(np.rint(slide.read(window)["raw"] * 65535), expected[window.slices])
    with pytest.raises(ReadError, match=r"there is no level 3; the image has 0: 103 x 97 px, 1: 52 x 49 px, 2: 26"):
        open_slide(path, level=3)
    with pytest.raises(UsageError, match="give one"):
        open_slide(path, level=1, mpp=1.0)


def test_a_slide_as_a_scanner_writes_it(tmp_path):
    svs(tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide.levels == ((500, 601), (125, 151))
        assert slide.info.pixel_size == (0.499, 0.499)
        assert (slide.chunk, slide.info.channels) == ((64, 64), ("red", "green", "blue"))
        slide.read(Window(0, 0, 64, 65))
        assert slide.decoded == 2
    with open_slide(tmp_path / "a.svs", mpp=2.0) as slide:
        assert (slide.shape, slide.info.pixel_size, slide.notes) == ((125, 151), (1.996, 1.996), ())


def test_levels_of_zarr_and_deep_zoom(tmp_path):
    full = ome_zarr(tmp_path / "a.zarr", axes="cyx")
    with open_slide(tmp_path / "a.zarr", level=2) as slide:
        assert slide.info.pixel_size == (1.0, 1.0)
        found = np.rint(slide.read(Window(0, 0, *slide.shape))["raw"] * 65535)
        np.testing.assert_array_equal(found, np.moveaxis(full[:, ::4, ::4], 0, 2))
    deep_zoom(tmp_path / "b.dzi")
    with open_slide(tmp_path / "b.dzi", level=1) as slide:
        assert slide.levels == ((103, 97), (52, 49), (26, 25))
        found = np.rint(slide.read(Window(0, 0, *slide.shape))["raw"] * 255)
        np.testing.assert_array_equal(found, COLOUR[::2, ::2])


def test_mpp_averages_by_area(tmp_path):
    array = RNG.random((120, 90), np.float32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, tile=(16, 16))
    options = ReadOptions(pixel_size=(0.25, 0.25))
    with open_slide(path, options, mpp=0.75) as slide:
        found = slide.read(Window(0, 0, *slide.shape))["raw"][..., 0]
        np.testing.assert_allclose(found, array.reshape(40, 3, 30, 3).mean(axis=(1, 3)), atol=1e-6)
        assert slide.info.pixel_size == (0.75, 0.75)
        assert "averaged to 40 x 30 px" in slide.notes[0]
    with pytest.raises(ReadError, match=r"a\.tif: does not say its pixel size.*`read: \{pixel_size: 0\.25\}`"):
        open_slide(path, mpp=0.5)
    with pytest.raises(ReadError, match=r"has 0\.25 um per pixel at its finest; 0\.2 is finer"):
        open_slide(path, options, mpp=0.2)
    for near in (0.2476, 0.2524):  # within 1 %: taken as it is
        with open_slide(path, options, mpp=near) as slide:
            assert (slide.shape, slide.info.pixel_size) == ((120, 90), (0.25, 0.25))


@settings(max_examples=12)
@given(data=st.data(), mpp=st.floats(0.25, 4))
def test_windows_at_mpp_agree_bit_for_bit(made, data, mpp):
    path, _, _ = made(data.draw(st.sampled_from(["pages.tif", "v3.ome.zarr"])))
    with open_slide(path, mpp=mpp) as slide:
        height, width = slide.shape
        whole = slide.read(Window(0, 0, height, width))["raw"]
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        window = Window(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
        np.testing.assert_array_equal(slide.read(window)["raw"], whole[window.slices])
        size = slide.info.pixel_size
        level = slide.levels[slide._level]
        np.testing.assert_allclose(size[0] * height, level[0] * 0.25 * 2**slide._level, rtol=1e-6)


def test_mpp_takes_the_coarsest_level_that_is_fine_enough(made):
    path, _, _ = made("pages.tif")
    for mpp, level in ((0.25, 0), (0.49, 0), (0.5, 1), (0.9, 1), (1.0, 2), (3.0, 2)):
        with open_slide(path, mpp=mpp) as slide:
            assert slide._level == level


# Missing values


def test_missing_values_take_the_median_of_the_whole_image(made):
    path, _, whole = made("floats.tif")
    with open_slide(path) as slide:
        part = slide.read(Window(5, 7, 6, 8))
        assert part.missing == 2
        assert "2 missing values" in part.notes[-1]
        np.testing.assert_array_equal(part["raw"], whole["raw"][5:6, 7:8])
        fills = pickle.loads(pickle.dumps(slide)).spec.fills  # so that no other process looks again
        np.testing.assert_array_equal(np.float32(fills), [np.nanmedian(FLOATS[..., 0]), whole["raw"][90, 90, 1], 0])


@given(data=st.data(), channels=st.integers(1, 2))
@settings(max_examples=12)
def test_medians_are_those_of_numpy(data, channels):
    shape = (data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30)), channels)
    values = st.sampled_from([0.0, -0.0, 1.5, -2.0, 1e-30, 1e38, -1e38, float("nan"), float("inf"), 0.1, 7.0])
    array = np.array(data.draw(st.lists(values, min_size=7, max_size=7)), np.float32)[
        np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 7, shape)
    ]
    found = medians(lambda window: array[window.slices], Window(0, 0, *shape[:2]), (4, 5), channels)
    for channel in range(channels):
        finite = array[..., channel][np.isfinite(array[..., channel])]
        assert found[channel] == (np.median(finite) if finite.size else 0)


# Sources, options, processes


def test_channel_files_of_a_field(tmp_path):
    for channel, array in (("1", GREY16), ("2", GREY16[::-1])):
        tifffile.imwrite(tmp_path / f"f_w{channel}.tif", array, tile=(16, 16))
    options = ReadOptions(pattern="{field}_w{channel}")
    (source,) = find([tmp_path], options)
    whole = ck.io.read(source, options)
    with open_slide(source, options) as slide:
        assert slide.info.channels == ("1", "2")
        window = Window(10, 20, 70, 33)
        part = slide.read(window)
        np.testing.assert_array_equal(part["raw"], whole["raw"][window.slices])
        assert dict(part.fields) == {"field": "f"}
    tifffile.imwrite(tmp_path / "f_w2.tif", GREY16[:50])
    with pytest.raises(ReadError, match=r"f_w2\.tif: is 50 x 97 px, but f_w1\.tif of the same group is 103 x 97 px"):
        open_slide(source, options)


def test_options_that_contradict_the_file(made):
    path, _, _ = made("tiled.tif")
    with pytest.raises(ReadError, match="2 channels are declared"):
        open_slide(path, ReadOptions(channels=("a", "b")))
    with pytest.raises(ReadError, match=r"crop \[0, 0, 104, 5\].* does not lie within the image of 103 x 97 px"):
        open_slide(path, ReadOptions(crop=(0, 0, 104, 5)))
    with pytest.raises(ReadError, match="is a stack of 5"):
        open_slide(made("stack_max.tif")[0])
    with open_slide(path, ReadOptions(bits=8)) as slide, pytest.raises(ReadError, match="8 bits are declared, but"):
        slide.read(Window(0, 0, 50, 50))
    with open_slide(path) as slide:
        for window in (Window(0, 0, 104, 97), Window(-1, 0, 5, 5), Window(5, 5, 5, 9)):
            with pytest.raises(ReadError, match=r"tiled\.tif: window \[.*103 x 97 px"):
                slide.read(window)


def test_threads_share_a_slide(made):
    for name in ("pyramid.ome.tif", "v2.ome.zarr", "deep.dzi", "grey.png"):
        path, options, whole = made(name)
        windows = windows_of(whole.shape, 40)
        with open_slide(path, options) as slide, concurrent.futures.ThreadPoolExecutor(4) as pool:
            for window, part in zip(windows, pool.map(slide.read, windows), strict=True):
                np.testing.assert_array_equal(part["raw"], whole["raw"][window.slices])


def test_processes_open_it_again(made):
    windows = windows_of((103, 97), 2)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for name in ("tiled.tif", "v3.ome.zarr"):
            path, options, whole = made(name)
            with open_slide(path, options, level=0) as slide:
                found = [pool.submit(read_elsewhere, slide, slide.spec, window) for window in windows]
                for window, future in zip(windows, found, strict=True):
                    for array in future.result():
                        np.testing.assert_array_equal(array, whole["raw"][window.slices])


# Finding


def test_a_store_is_one_image(tmp_path):
    ome_zarr(tmp_path / "slide.ome.zarr", axes="cyx")
    plain_zarr(tmp_path / "array.zarr", V3)
    ome_zarr(tmp_path / "unnamed", axes="yx")
    deep_zoom(tmp_path / "deep.dzi", tile=64)
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    (tmp_path / "folder").mkdir()
    names = ["a", "array", "deep", "slide", "unnamed"]
    for inputs in ([tmp_path], [tmp_path / "*"], [str(tmp_path / "**" / "*")], sorted(tmp_path.glob("[adsu]*[!s]"))):
        assert [source.name for source in find(inputs)] == names, inputs
    assert [source.paths[0].name for source in find([tmp_path / "*.zarr"])] == ["array.zarr", "slide.ome.zarr"]
    assert probe(tmp_path / "slide.ome.zarr").pixel_size == (0.25, 0.25)
    assert probe(tmp_path / "deep.dzi").shape == (103, 97, 3)
    assert ck.read(tmp_path / "slide.ome.zarr").layer("raw").names == ("DAPI", "GFP", "GFP_2")
    labels = zarr_array(tmp_path / "l.zarr", 2, shape=(9, 8), chunks=(4, 4), dtype="uint32")
    labels[:] = np.arange(72).reshape(9, 8)
    np.testing.assert_array_equal(read_labels(tmp_path / "l.zarr"), np.arange(72).reshape(9, 8))


# Zarr: incomplete, damaged, hostile


def test_zarr_units_and_axes(tmp_path):
    ome_zarr(tmp_path / "a.zarr", axes="tczyx")
    with pytest.raises(ReadError, match=r"a\.zarr: is a stack of 2 z \(say how to flatten it"):
        ck.read(tmp_path / "a.zarr")
    ome_zarr(tmp_path / "b.zarr", axes="yx", unit="")
    sample = ck.read(tmp_path / "b.zarr")
    assert sample.pixel_size is None
    assert "does not say in which unit" in sample.notes[0]
    ome_zarr(tmp_path / "c.zarr", axes="yx", unit="millimeter")
    assert ck.read(tmp_path / "c.zarr").pixel_size == (250000.0, 250000.0)


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_incomplete_stores(tmp_path):
    store = tmp_path / "a.zarr"
    full = ome_zarr(store, axes="yx")
    (store / "0" / "2" / "1").unlink()
    found = np.rint(ck.read(store)["raw"][..., 0] * 65535)
    expected = full.copy()
    expected[32:48, 24:48] = 0
    np.testing.assert_array_equal(found, expected)
    (store / "1" / ".zarray").unlink()
    with open_slide(store) as slide:
        assert slide.levels == ((103, 97),)
    assert "level 1 of the pyramid cannot be used" in ck.read(store).notes[0]
    chunk = store / "0" / "3" / "2"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(ReadError, match=r"a\.zarr: the chunk 0/3/2 is damaged.*copy the store again"):
        ck.read(store)
    chunk.write_bytes(b"")
    with pytest.raises(ReadError, match="the chunk 0/3/2 is damaged"):
        ck.read(store)
    (store / ".zattrs").unlink()
    with pytest.raises(ReadError, match=r"list no `multiscales`; .zattrs or zarr\.json may be missing.*a\.zarr.0"):
        ck.read(store)
    assert ck.read(store / "2").shape == (26, 25)
    (store / "0" / ".zarray").unlink()
    with pytest.raises(ReadError, match=r"0: is a (Zarr group that does not say|folder, not a file)"):
        ck.read(store / "0")
    (store / ".zgroup").unlink()
    with pytest.raises(ReadError, match=r"neither zarr\.json nor \.zgroup.*hidden files"):
        ck.read(store)


HOSTILE = {
    "path outside": (".zattrs", lambda d: d["multiscales"][0]["datasets"][0].update(path="../b/0"), "no path within"),
    "absolute path": (".zattrs", lambda d: d["multiscales"][0]["datasets"][0].update(path="/etc"), "no path within it"),
    "no path": (".zattrs", lambda d: d["multiscales"][0]["datasets"][0].update(path=7), "no path within it"),
    "missing array": (".zattrs", lambda d: d["multiscales"][0]["datasets"][0].update(path="9"), "array 9 is missing"),
    "no datasets": (".zattrs", lambda d: d["multiscales"][0].update(datasets=[]), "list no datasets"),
    "axes": (".zattrs", lambda d: d["multiscales"][0].update(axes=["q", "x"]), "not y and x"),
    "three axes": (".zattrs", lambda d: d["multiscales"][0].update(axes=["c", "y", "x"]), "has 2 axes, but its"),
    "a plate": (".zattrs", lambda d: (d.clear(), d.update(plate={})), "is a plate of images"),
    "huge": ("0/.zarray", lambda d: d.update(shape=[10**15, 10**15]), "no image is that large"),
    "many chunks": ("0/.zarray", lambda d: d.update(shape=[10**6, 10**6], chunks=[1, 1]), "no image is that large"),
    "huge chunk": ("0/.zarray", lambda d: d.update(shape=[10**6, 10**6], chunks=[10**6, 10**6]), "decoded whole"),
    "no chunk": ("0/.zarray", lambda d: d.update(chunks=[0, 16]), "metadata of 0 are damaged"),
    "negative": ("0/.zarray", lambda d: d.update(shape=[-1, 16]), "metadata of 0 are damaged"),
    "text": ("0/.zarray", lambda d: d.update(dtype="<U8"), "not plain numbers|damaged"),
    "codec": ("0/.zarray", lambda d: d.update(compressor={"id": "no such"}), "cannot be decoded"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_zarr_metadata(tmp_path, what):
    file, change, words = HOSTILE[what]
    ome_zarr(tmp_path / "a.zarr", axes="yx")
    ome_zarr(tmp_path / "b.zarr", axes="yx")
    edit(tmp_path / "a.zarr" / file, change)
    for function in (ck.read, probe, open_slide):
        with pytest.raises(ReadError, match=words) as caught:
            function(tmp_path / "a.zarr")
        assert "a.zarr: " in str(caught.value)


HOSTILE_3 = {
    "kind of grid": (lambda d: d["chunk_grid"].update(name="rectilinear"), "not a regular grid"),
    "no grid": (lambda d: d.pop("chunk_grid"), "not a regular grid"),
    "huge": (lambda d: d.update(shape=[10**15, 10**15]), "no image is that large"),
    "codec": (lambda d: d.update(codecs=[{"name": "no such"}]), "cannot be decoded"),
    "type": (lambda d: d.update(data_type="string"), "not plain numbers|cannot be decoded"),
    "node": (lambda d: d.update(node_type="group"), "the array 0 is missing"),
    "other": (lambda d: d.update(node_type="table"), "not an array or a group"),
}


@pytest.mark.skipif(V3 == 2, reason="the library reads version 2 only")
@pytest.mark.parametrize("what", HOSTILE_3)
def test_hostile_zarr_metadata_of_version_3(tmp_path, what):
    change, words = HOSTILE_3[what]
    ome_zarr(tmp_path / "a.zarr", 3, "yx")
    edit(tmp_path / "a.zarr" / "0" / "zarr.json", change)
    with pytest.raises(ReadError, match=words):
        open_slide(tmp_path / "a.zarr")


def test_version_3_needs_its_library(tmp_path, monkeypatch):
    import zarr

    ome_zarr(tmp_path / "a.zarr", 2, "yx")
    monkeypatch.setattr(zarr, "__version__", "2.18.3")
    assert ck.read(tmp_path / "a.zarr").shape == (103, 97)
    if V3 == 3:
        monkeypatch.undo()
        ome_zarr(tmp_path / "b.zarr", 3, "yx")
        monkeypatch.setattr(zarr, "__version__", "2.18.3")
        with pytest.raises(ReadError, match=r"b\.zarr: is Zarr version 3, .*Python 3\.11"):
            ck.read(tmp_path / "b.zarr")
        with pytest.raises(WriteError, match=r"or write 0\.4"):
            LabelStore.create(tmp_path / "c.zarr", (5, 5), version="0.5")


def test_damaged_json(tmp_path):
    for version, file in ((2, ".zattrs"), (V3, "zarr.json"), (V3, "0/zarr.json")):
        if version == 2 and "json" in file:
            continue
        store = tmp_path / f"{version}{file[0]}.zarr"
        ome_zarr(store, version, "yx")
        for text in ("{", "[]", "[" * 100_000, "null", ""):
            (store / file).write_text(text)
            with pytest.raises(ReadError, match="is damaged"):
                ck.read(store)


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_links_that_leave_the_store(tmp_path):
    full = ome_zarr(tmp_path / "a.zarr", axes="yx")
    ome_zarr(tmp_path / "b.zarr", axes="yx")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    assert ck.read(tmp_path / "link.zarr").shape == full.shape  # the store itself may be one
    chunk = tmp_path / "a.zarr" / "0" / "1" / "1"
    for target in (tmp_path / "b.zarr" / "0" / "1" / "1", "/dev/zero", tmp_path / "gone"):
        chunk.unlink()
        chunk.symlink_to(target)
        with pytest.raises(ReadError, match=r"the chunk 0/1/1 is (no file of this store|a link to nothing)"):
            ck.read(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "3").symlink_to(tmp_path / "b.zarr" / "0")
    edit(tmp_path / "a.zarr" / ".zattrs", lambda d: d["multiscales"][0]["datasets"][0].update(path="3"))
    with pytest.raises(ReadError, match="3 is a link that leaves the store"):
        ck.read(tmp_path / "a.zarr")


def test_zarr_of_several_images(tmp_path):
    store = tmp_path / "a.zarr"
    store.mkdir()
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    first = ome_zarr(store / "0", axes="yx")
    assert ck.read(store).shape == first.shape
    ome_zarr(store / "1", axes="yx")
    with pytest.raises(ReadError, match="holds 2 images; which one is meant"):
        ck.read(store)
    assert ck.read(store, ReadOptions(projection="first")).shape == first.shape


# Deep Zoom: incomplete, damaged, hostile


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('Format="png"', 'Format="../../x"', "tiles of the format"),
        ('Format="png"', 'Format="jpg"', "tile 7/0_0.jpg is missing"),
        ('TileSize="32"', 'TileSize="0"', "in tiles of 0 px"),
        ('TileSize="32"', 'TileSize="33"', "wanted 34 x 34 x 3"),
        ('Overlap="1"', 'Overlap="40"', "overlap by 40"),
        ('Width="97"', 'Width="99999999999"', "is damaged"),
        ('Width="97"', "", "wanted whole numbers"),
        ("<Size", "<Sise", "is damaged"),
        ("<Image", '<!DOCTYPE a [<!ENTITY b "c">]><Image', "more than a few lines"),
    ],
)
def test_hostile_deep_zoom(tmp_path, old, new, words):
    deep_zoom(tmp_path / "a.dzi")
    text = (tmp_path / "a.dzi").read_text()
    assert old in text
    (tmp_path / "a.dzi").write_text(text.replace(old, new))
    with pytest.raises(ReadError, match=words):
        ck.read(tmp_path / "a.dzi")


def test_damaged_deep_zoom(tmp_path):
    deep_zoom(tmp_path / "a.dzi")
    tile = tmp_path / "a_files" / "7" / "1_2.png"
    whole = tile.read_bytes()
    for data, words in ((whole[:-30], "the tile 7/1_2.png: the PNG is"), (b"text", "looks like text"), (b"", "empty")):
        tile.write_bytes(data)
        with pytest.raises(ReadError, match=words):
            ck.read(tmp_path / "a.dzi")
    with open_slide(tmp_path / "a.dzi") as slide:
        slide.read(Window(0, 0, 60, 90))  # which the damage does not meet
    tile.unlink()
    with pytest.raises(ReadError, match=r"tile 7/1_2\.png is missing \(copy a_files again\)"):
        ck.read(tmp_path / "a.dzi")
    if os.name != "nt":
        tile.symlink_to("/dev/zero")
        with pytest.raises(ReadError, match="no file of this picture"):
            ck.read(tmp_path / "a.dzi")
    (tmp_path / "a_files").rename(tmp_path / "other")
    with pytest.raises(ReadError, match="there is no folder a_files beside it"):
        ck.read(tmp_path / "a.dzi")


def test_truncated_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY16, tile=(16, 16))
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-100])
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(ReadError, match="the TIFF is truncated"):
        slide.read(Window(0, 0, 5, 5))


# Other packages


@pytest.mark.parametrize("module", ["openslide", "tiffslide"])
def test_whole_slide_packages(tmp_path, module):
    package = pytest.importorskip(module)
    from cellkit.io.wsi import WholeSlide

    y, x = np.mgrid[:700, :901]
    image = np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (1, 2, 4):
            small = image[::step, ::step]
            file.write(small, tile=(256, 256), photometric="rgb", subfiletype=int(step > 1), metadata=None)
    reader = getattr(package, {"openslide": "OpenSlide", "tiffslide": "TiffSlide"}[module])
    slide = WholeSlide(reader(tmp_path / "a.tif"))
    assert slide.levels[2].shape == (175, 226)
    for level, crop in ((0, (100, 90, 650, 850)), (1, (0, 0, 350, 451)), (2, (10, 9, 150, 151))):
        found = slide.decode("none", crop, level=level).array
        expected = image[:: 2**level, :: 2**level][crop[0] : crop[2], crop[1] : crop[3]]
        np.testing.assert_array_equal(found, expected)
    assert slide.decoded == 6
    slide.close()


def test_packages_that_are_missing(tmp_path, monkeypatch):
    for module in ("openslide", "tiffslide", "bioio", "bioio_nd2", "bioio_lif", "pylibCZIrw", "pylibCZIrw.czi"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, head, words in (
        ("a.czi", b"ZISRAWFILE", r"Zeiss CZI.*pip install 'cellkit\[bioio\]'"),
        ("a.nd2", b"\xda\xce\xbe\x0a", r"Nikon ND2.*pip install 'cellkit\[bioio\]'"),
        ("a.lif", b"\x70\x00\x00\x00", r"Leica LIF.*pip install 'cellkit\[bioio\]'"),
        ("a.dcm", bytes(128) + b"DICM", r"DICOM.*pip install 'cellkit\[slides\]'"),
        ("a.svs", b"II*\0" + bytes(9), r"the TIFF is.*pip install 'cellkit\[slides\]'"),
    ):
        (tmp_path / name).write_bytes(head + bytes(50))
        with pytest.raises(ReadError, match=words):
            ck.read(tmp_path / name)
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff" + bytes(50))
    (tmp_path / "a").mkdir()
    with pytest.raises(ReadError, match=r"MRXS.*pip install 'cellkit\[slides\]'"):
        ck.read(tmp_path / "a.mrxs")


def test_czi(tmp_path):
    czi = pytest.importorskip("pylibCZIrw.czi")
    array = RNG.integers(0, 60000, (2, 3, 300, 401)).astype(np.uint16)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for channel, z in np.ndindex(2, 3):
            file.write(data=array[channel, z, ..., None], plane={"C": channel, "Z": z, "T": 0})
        names = {0: "DAPI", 1: "GFP"}
        file.write_metadata("a", channel_names=names, scale_x=0.25e-6, scale_y=0.5e-6)
    with pytest.raises(ReadError, match="is a stack of 3 z"):
        open_slide(tmp_path / "a.czi")
    with open_slide(tmp_path / "a.czi", ReadOptions(projection="max")) as slide:
        assert (slide.info.channels, slide.info.pixel_size) == (("DAPI", "GFP"), (0.5, 0.25))
        window = Window(20, 30, 200, 390)
        found = np.rint(slide.read(window)["raw"] * 65535)
        np.testing.assert_array_equal(found, np.moveaxis(array.max(axis=1), 0, 2)[window.slices])


@pytest.mark.parametrize("kind", ["nd2", "lif"])
def test_bioio(tmp_path, monkeypatch, kind):
    """The contract with BioIO only: no ND2 or LIF file can be written here, so its classes are played by doubles."""
    array = RNG.integers(0, 60000, (1, 2, 3, 40, 50)).astype(np.uint16)
    names, head = ["a", "b"], {"nd2": b"\xda\xce\xbe\x0a", "lif": b"\x70\x00\x00\x00"}[kind]

    class Lazy(np.ndarray):
        chunks = ((1,), (1, 1), (1, 1, 1), (16, 16, 8), (50,))

        def compute(self, scheduler):
            assert scheduler == "synchronous"
            return np.asarray(self)

    class BioImage:
        scenes = ("one",)
        dask_data = array.view(Lazy)
        dims = types.SimpleNamespace(order="TCZYX")
        channel_names = names
        physical_pixel_sizes = types.SimpleNamespace(Z=None, Y=0.5, X=0.25)

        def __init__(self, image, reader):
            assert (image, reader) == (str(tmp_path / f"a.{kind}"), "the reader")

    monkeypatch.setitem(sys.modules, "bioio", types.SimpleNamespace(BioImage=BioImage))
    monkeypatch.setitem(sys.modules, f"bioio_{kind}", types.SimpleNamespace(Reader="the reader"))
    (tmp_path / f"a.{kind}").write_bytes(head + bytes(50))
    options = ReadOptions(projection="max")
    with open_slide(tmp_path / f"a.{kind}", options) as slide:
        assert slide.info == replace(slide.info, channels=("a", "b"), pixel_size=(0.5, 0.25), shape=(40, 50, 2))
        assert slide.chunk == (16, 50)
        window = Window(10, 3, 35, 44)
        found = np.rint(slide.read(window)["raw"] * 65535)
        np.testing.assert_array_equal(found, np.moveaxis(array.max(axis=2)[0], 0, 2)[window.slices])
    BioImage.scenes = ("one", "two")
    with pytest.raises(ReadError, match=r"holds 2 images \(one, two\)"):
        open_slide(tmp_path / f"a.{kind}", options)


def test_the_large_image_of_the_benchmarks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import scale_image

    images = [RNG.integers(0, 256, (256, 256), np.uint8) for _ in range(3)]
    monkeypatch.setattr(scale_image, "pieces", lambda: (images, [5, 6, 7]))
    nuclei = scale_image.make_image(tmp_path / "a.tif", 1111)
    assert nuclei == scale_image.make_image(tmp_path / "a.zarr", 1111, as_zarr=True)
    assert 25 * 5 <= nuclei <= 25 * 7
    for level in range(3):
        with open_slide(tmp_path / "a.tif", level=level) as one, open_slide(tmp_path / "a.zarr", level=level) as two:
            assert one.levels == two.levels == ((1111, 1111), (555, 555), (277, 277))
            assert one.info.pixel_size == two.info.pixel_size == (0.5 * 2**level, 0.5 * 2**level)
            window = Window(0, 0, *one.shape)
            np.testing.assert_array_equal(one.read(window)["raw"], two.read(window)["raw"])
