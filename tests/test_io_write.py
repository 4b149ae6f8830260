"""What is written comes back, loses nothing, is the same bytes every time, and is whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import cellkit as ck
from cellkit import io
from cellkit.core import ReadError, UsageError, WriteError
from cellkit.io import atomic
from strategies import images, label_images, masks

RNG = np.random.default_rng(3)
once = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SUFFIXES = [".tif", ".tiff", ".png", ".npy"]
SIZE = (0.5, 0.3251)


@once
@given(label_images(), st.sampled_from(SUFFIXES), st.sampled_from([1, 5000]), st.booleans())
def test_labels_come_back(tmp_path, labels, suffix, factor, sized):
    if suffix == ".png" and (labels * factor).max() > 65535:
        factor = 1
    path = tmp_path / f"labels{suffix}"
    io.write_labels(path, labels * factor, SIZE if sized else None)
    back = io.read_labels(path)
    np.testing.assert_array_equal(back, labels * factor)
    assert back.dtype == np.int32
    assert ck.read(path).pixel_size == (SIZE if sized and suffix != ".npy" else None)


@once
@given(images(channels=st.integers(1, 5)), st.sampled_from([".tif", ".npy"]))
def test_floats_come_back_bit_by_bit(tmp_path, image, suffix):
    path = tmp_path / f"image{suffix}"
    names = [f"ä<{i}>\"&'" for i in range(image.shape[2])]
    io.write_prob(path, image, SIZE, names=names)
    sample = ck.read(path)
    np.testing.assert_array_equal(sample["image"], image)
    if suffix == ".tif":
        assert sample.layer("image").names == tuple(names)
        assert sample.pixel_size == SIZE
        assert sample.notes == ()


@once
@given(masks(), st.sampled_from(SUFFIXES))
def test_masks_come_back(tmp_path, mask, suffix):
    path = tmp_path / f"mask{suffix}"
    io.write_mask(path, mask, SIZE)
    np.testing.assert_array_equal(ck.read(path)["image"][..., 0], mask)
    np.testing.assert_array_equal(io.read_labels(path) > 0, mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 1), (9, 11, 3), (1, 1), (1, 997), (997, 1, 3)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_integer_images_come_back(tmp_path, dtype, shape, suffix):
    array = RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = tmp_path / f"image{suffix}"
    ck.write(path, array, pixel_size=SIZE)
    first = ck.read(path)["image"]
    np.testing.assert_array_equal(first, ck.Sample.of(array)["image"])
    again = tmp_path / "again.png"
    ck.write(again, first)
    np.testing.assert_array_equal(ck.read(again)["image"], first)
    assert imagecodecs.png_decode(again.read_bytes()).dtype == dtype


def test_write_goes_by_dtype(tmp_path):
    labels = np.array([[0, 1], [2, 70000]], np.int32)
    ck.write(tmp_path / "l.tif", labels)
    assert tifffile.imread(tmp_path / "l.tif").dtype == np.uint32
    ck.write(tmp_path / "s.tif", np.minimum(labels, 9))
    assert tifffile.imread(tmp_path / "s.tif").dtype == np.uint16
    ck.write(tmp_path / "m.png", labels > 0)
    with Image.open(tmp_path / "m.png") as image:
        np.testing.assert_array_equal(np.asarray(image), [[0, 255], [255, 255]])
    ck.write(tmp_path / "f.tif", labels / 70000)
    assert tifffile.imread(tmp_path / "f.tif").dtype == np.float32


def test_label_tiff_is_compressed_and_says_its_pixel_size(tmp_path):
    labels = np.zeros((3000, 700), np.int32)
    labels[100:200, 100:200] = 7
    io.write_labels(tmp_path / "a.tif", labels, (0.5, 0.25))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        page = tif.pages[0]
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert len(page.dataoffsets) > 1
        assert page.resolutionunit == 3
        np.testing.assert_allclose([v[0] / v[1] for v in (page.tags[282].value, page.tags[283].value)], [4e4, 2e4])
        np.testing.assert_array_equal(tif.asarray(), labels)
    assert os.path.getsize(tmp_path / "a.tif") < 50_000
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_png_says_its_pixel_size_to_others(tmp_path):
    ck.write(tmp_path / "a.png", np.zeros((4, 5), np.uint8), pixel_size=(0.5, 0.25))
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["dpi"] == pytest.approx((25400 / 0.25, 25400 / 0.5))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_bytes_every_time(tmp_path, suffix, monkeypatch):
    labels = RNG.integers(0, 300, (40, 50)).astype(np.int32)
    prob = RNG.random((40, 50, 2)).astype(np.float32)
    written = []
    for name, now in (("a", 1e9), ("b", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        folder = tmp_path / name
        folder.mkdir()
        io.write_labels(folder / f"x{suffix}", labels, SIZE)
        if suffix != ".png":
            io.write_prob(folder / f"y{suffix}", prob, SIZE, names=["a", "b"])
        written.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert written[0] == written[1]


def test_lossy_wishes_are_refused(tmp_path):
    with pytest.raises(WriteError, match=r"a\.png: PNG holds labels to 65535; got 70000 \(write \.tif\)"):
        io.write_labels(tmp_path / "a.png", np.array([[70000]]))
    with pytest.raises(WriteError, match="labels lie in 0 to 4294967295; got -1"):
        io.write_labels(tmp_path / "a.tif", np.array([[-1]]))
    with pytest.raises(WriteError, match="got 4294967296"):
        io.write_labels(tmp_path / "a.tif", np.array([[2**32]]))
    for value in (0.123456, np.nan, 1.5):
        with pytest.raises(WriteError, match="PNG would lose what float values hold"):
            io.write_image(tmp_path / "a.png", np.array([[value]], np.float32))
    with pytest.raises(WriteError, match="PNG holds 1 or 3 channels; got 4"):
        io.write_image(tmp_path / "a.png", np.zeros((2, 2, 4), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write \.jpg \(use \.tif, \.png or \.npy\)"):
        ck.write(tmp_path / "a.jpg", np.zeros((2, 2), np.uint8))
    with pytest.raises(UsageError, match="a file without suffix"):
        ck.write(tmp_path / "a", np.zeros((2, 2), np.uint8))
    for array in (np.zeros((2, 2, 2, 2)), np.zeros((0, 3)), np.zeros((2, 2), complex), np.array([["a"]])):
        with pytest.raises(UsageError, match=r"a\.tif: an image"):
            ck.write(tmp_path / "a.tif", array)
    with pytest.raises(UsageError, match="labels are integers"):
        io.write_labels(tmp_path / "a.tif", np.zeros((2, 2)))
    with pytest.raises(UsageError, match="a mask is bool"):
        io.write_mask(tmp_path / "a.tif", np.zeros((2, 2), np.uint8))
    with pytest.raises(UsageError, match="probabilities are floats"):
        io.write_prob(tmp_path / "a.tif", np.zeros((2, 2), np.uint8))
    with pytest.raises(UsageError, match=r"1 names \(a\) for an image of shape \(2, 2, 2\)"):
        io.write_prob(tmp_path / "a.tif", np.zeros((2, 2, 2)), names=["a"])
    for size in ((0, 1), (1, 2, 3), (float("nan"), 1)):
        with pytest.raises(UsageError, match="pixel_size is"):
            ck.write(tmp_path / "a.tif", np.zeros((2, 2)), pixel_size=size)


def test_non_contiguous_and_read_only_arrays(tmp_path):
    labels = np.arange(60, dtype=np.int32).reshape(6, 10)[::2, ::-1]
    labels.flags.writeable = False
    for suffix in SUFFIXES:
        io.write_labels(tmp_path / f"a{suffix}", labels)
        np.testing.assert_array_equal(io.read_labels(tmp_path / f"a{suffix}"), labels)


# Label images of others


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16, np.int32, np.float32, np.float64])
def test_read_labels_of_any_number_type(tmp_path, dtype):
    labels = RNG.integers(0, 120, (9, 13))
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(dtype))
    np.testing.assert_array_equal(io.read_labels(tmp_path / "a.tif"), labels)
    np.save(tmp_path / "a.npy", labels.astype(dtype))
    np.testing.assert_array_equal(io.read_labels(tmp_path / "a.npy"), labels)


def test_read_labels_coded_as_grey_colours(tmp_path):
    labels = RNG.integers(0, 120, (9, 13, 1)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.repeat(labels, 3, axis=2)))
    np.testing.assert_array_equal(io.read_labels(tmp_path / "a.png"), labels[..., 0])
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(np.concatenate([labels, labels, labels + 1], axis=2)))
    with pytest.raises(ReadError, match=r"b\.png: the colours of this picture are no label numbers"):
        io.read_labels(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0.5]]), "labels are whole numbers, but the file holds 0.5"),
        (np.array([[np.nan]]), "holds nan"),
        (np.array([[-3]], np.int16), "holds -3"),
        (np.array([[2**31]], np.uint32), "holds 2147483648"),
        (np.array([[1e12]]), r"holds 1e\+12|holds 1000000000000"),
    ],
)
def test_read_labels_refuses_what_is_none(tmp_path, values, words):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ReadError, match=words):
        io.read_labels(tmp_path / "a.npy")


def test_read_labels_refuses_loss(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(ReadError, match=r"a\.jpg: a JPEG compressed with loss .*PNG or TIFF"):
        io.read_labels(tmp_path / "a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp")
    with pytest.raises(ReadError, match="a WEBP compressed with loss"):
        io.read_labels(tmp_path / "a.webp")
    Image.new("RGB", (8, 8), (5, 5, 5)).save(tmp_path / "b.webp", lossless=True)
    assert (io.read_labels(tmp_path / "b.webp") == 5).all()


# Atomic files


def test_atomic_replaces_only_on_success(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".txt"
            temporary.write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_in_a_scratch_folder(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with atomic(tmp_path / "a.txt", scratch) as temporary:
        assert temporary.parent == scratch
        temporary.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"
    io.write_labels(tmp_path / "a.tif", np.zeros((2, 2), int), scratch=scratch)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, r"a\.tif: cannot be written: the disk is full \(free some space"),
        (errno.EACCES, "no permission to write there"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EXDEV, "the scratch folder lies on another disk"),
        (errno.EIO, r"a\.tif: cannot be written: (Input/output|I/O) error"),
    ],
)
def test_reasons_of_the_system(tmp_path, monkeypatch, code, words):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WriteError, match=words):
        io.write_labels(tmp_path / "a.tif", np.zeros((2, 2), int))
    assert list(tmp_path.iterdir()) == []


def test_failures_of_a_real_disk(tmp_path):
    labels = np.zeros((2, 2), int)
    with pytest.raises(WriteError, match=r"a\.tif: cannot be written: the folder does not exist"):
        io.write_labels(tmp_path / "nowhere" / "a.tif", labels)
    with pytest.raises(WriteError, match=r"cannot be written: the name is too long|cannot be written: "):
        io.write_labels(tmp_path / f"{'a' * 300}.tif", labels)
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(WriteError, match="there is a folder of that name"):
        io.write_labels(tmp_path / "folder.tif", labels)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.tif"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_while_writing(tmp_path):
    def fill():
        with atomic(tmp_path / "a"):
            Path("/dev/full").write_bytes(bytes(10))

    with pytest.raises(WriteError, match="the disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


# Samples


@pytest.mark.parametrize("bits", [8, 16])
def test_fluorescence_field(bits):
    from scipy import ndimage

    image, labels = io.fluorescence_field(200, seed=4, bits=bits)
    again = io.fluorescence_field(200, seed=4, bits=bits)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert (image.dtype, labels.dtype) == (np.dtype(f"uint{bits}"), np.int32)
    assert image.shape == labels.shape == (200, 200)
    count = labels.max()
    assert list(np.unique(labels)) == list(range(count + 1))
    assert 10 <= count <= 17
    pieces = [ndimage.label(labels == i, np.ones((3, 3)))[1] for i in range(1, count + 1)]
    assert pieces == [1] * count
    assert ndimage.label(labels > 0, np.ones((3, 3)))[1] < count
    assert image[labels > 0].mean() > 3 * image[labels == 0].mean()
    assert (image == np.iinfo(image.dtype).max).mean() < 0.001
    assert not np.array_equal(image, io.fluorescence_field(200, seed=5, bits=bits)[0])


def test_fluorescence_field_of_any_size():
    for size in (1, 2, 7):
        assert io.fluorescence_field(size)[0].shape == (size, size)
    image, labels = io.fluorescence_field(64, 0)
    assert labels.max() == 0
    assert image.max() < 100
    assert io.fluorescence_field(64, 1)[1].max() == 1
    with pytest.raises(UsageError, match="size 0"):
        io.fluorescence_field(0)


def test_samples(tmp_path):
    folder = tmp_path / "samples"
    written = io.write_samples(folder)
    assert sorted(written) == sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in written}
    assert {"README.txt", "histology/ihc.png", "coins/coins.png", "cells/cell.png", "nuclei/field1.png"} <= names
    for path in written:
        if path.suffix != ".txt":
            assert min(ck.read(path).shape) >= 100
    fields = io.find([folder / "nuclei"])
    assert len(fields) == 3
    for field in fields:
        labels = io.read_labels(folder / "nuclei_truth" / f"{field.name}.png")
        sample = ck.read(field)
        assert sample.shape == labels.shape
        assert sample.pixel_size == (0.5, 0.5)
        assert labels.max() > 40
    readme = (folder / "README.txt").read_text(encoding="utf-8")
    for word in ("nuclei/", "histology/ihc.png", "CC0", "scikit-image"):
        assert word in readme
    own = folder / "nuclei" / "mine.png"
    own.write_bytes(b"mine")
    before = {path: path.read_bytes() for path in written}
    io.write_samples(folder)
    assert {path: path.read_bytes() for path in written} == before
    assert own.read_bytes() == b"mine"


def test_samples_where_a_file_is_in_the_way(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="cannot be written"):
        io.write_samples(tmp_path / "file")


def test_importing_io_is_cheap():
    import subprocess
    import sys

    code = (
        "import sys, cellkit.io; print([m for m in ('PIL', 'tifffile', 'imagecodecs', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["stained_section", "blood_smear", "darkfield"])
def test_made_pictures_in_colour(name):
    make = getattr(io, name)
    image, truth = make(160, seed=3)
    assert image.dtype == np.uint8
    assert image.shape == (160, 160, 3)
    assert truth.shape == (160, 160)
    assert np.array_equal(image, make(160, seed=3)[0])
    assert not np.array_equal(image, make(160, seed=4)[0])
    # What the truth says stands out in the picture.
    inside, outside = image[truth > 0].mean(), image[truth == 0].mean()
    assert inside > outside + 10 if name == "darkfield" else inside < outside - 10
    with pytest.raises(UsageError, match="size"):
        make(0)
