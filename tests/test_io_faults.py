"""Files that are missing, damaged or no images: each gets a `ReadError` that says so, and never anything else."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zlib
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import cellkit as ck
from cellkit.core import ReadError
from cellkit.core.recipe import ReadOptions
from cellkit.io import probe

PICTURE = np.add.outer(np.arange(40), np.arange(56))[..., None] * np.array([1, 2, 3])
PICTURE = (PICTURE + np.random.default_rng(0).integers(0, 20, PICTURE.shape)).astype(np.uint8)
FRAMES = [Image.fromarray(np.roll(PICTURE, shift, axis=0)) for shift in (0, 10, 20)]


def pillow(kind, mode="RGB", **options):
    data = BytesIO()
    FRAMES[0].convert(mode).save(data, kind, **options)
    return data.getvalue()


def tiff(array=PICTURE, **options):
    data = BytesIO()
    tifffile.imwrite(data, array, **options)
    return data.getvalue()


def pyramid():
    data = BytesIO()
    with tifffile.TiffWriter(data) as writer:
        writer.write(PICTURE, photometric="rgb", subifds=1, tile=(16, 16), compression="zlib")
        writer.write(PICTURE[::2, ::2], photometric="rgb", subfiletype=1, tile=(16, 16))
    return data.getvalue()


def npy():
    data = BytesIO()
    np.save(data, PICTURE)
    return data.getvalue()


PLANES = np.ascontiguousarray(np.moveaxis(PICTURE, 2, 0))
FILES = {
    "png": pillow("PNG"),
    "png-rgba": pillow("PNG", "RGBA"),
    "png-palette": pillow("PNG", "P"),
    "png-1": pillow("PNG", "1"),
    "png-16": imagecodecs.png_encode(PICTURE.astype(np.uint16) * 200),
    "png-animated": pillow("PNG", save_all=True, append_images=FRAMES[1:]),
    "jpeg": pillow("JPEG"),
    "jpeg-progressive": pillow("JPEG", progressive=True),
    "jpeg-grey": pillow("JPEG", "L"),
    "webp": pillow("WEBP"),
    "webp-lossless": pillow("WEBP", lossless=True),
    "webp-alpha": pillow("WEBP", "RGBA"),
    "webp-animated": pillow("WEBP", save_all=True, append_images=FRAMES[1:]),
    "gif": pillow("GIF", "P"),
    "gif-animated": pillow("GIF", "P", save_all=True, append_images=FRAMES[1:]),
    "bmp": pillow("BMP"),
    "bmp-palette": pillow("BMP", "P"),
    "bmp-1": pillow("BMP", "1"),
    "tiff": tiff(photometric="rgb", rowsperstrip=7),
    "tiff-big": tiff(photometric="rgb", bigtiff=True),
    "tiff-tiled": tiff(photometric="rgb", tile=(16, 16)),
    "tiff-zlib": tiff(photometric="rgb", compression="zlib", predictor=True),
    "tiff-lzw": tiff(photometric="rgb", compression="lzw", tile=(16, 16)),
    "tiff-zstd": tiff(photometric="rgb", compression="zstd"),
    "tiff-packbits": tiff(photometric="rgb", compression="packbits"),
    "tiff-jpeg": tiff(photometric="rgb", compression="jpeg", tile=(16, 16)),
    "tiff-planar": tiff(PLANES, photometric="rgb", planarconfig="separate"),
    "tiff-float": tiff(PICTURE[..., 0].astype(np.float32), compression="zlib", predictor=True),
    "tiff-bool": tiff(PICTURE[..., 0] > 60),
    "tiff-ome": tiff(PLANES, ome=True, photometric="minisblack", metadata={"axes": "CYX", "PhysicalSizeX": 0.5}),
    "tiff-imagej": tiff(PLANES, imagej=True, metadata={"axes": "CYX", "Labels": ["a", "b", "c"]}, resolution=(2, 2)),
    "tiff-imagej-z": tiff(PLANES, imagej=True, metadata={"axes": "ZYX"}),
    "tiff-pages": tiff(PLANES, photometric="minisblack"),
    "tiff-pyramid": pyramid(),
    "npy": npy(),
}
OPTIONS = [None, ReadOptions(projection="max"), ReadOptions(projection="first", crop=(1, 2, 30, 31))]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "file.tif"


def attempt(path, data, options):
    """Return the image that `data` give, or None where they are refused as they should be."""
    path.write_bytes(data)
    message = f"{path}: "
    try:
        return ck.read(path, options)["image"]
    except ReadError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return None


damage = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", FILES)
@damage
@given(data=st.data())
def test_truncated_files_are_detected(place, kind, data):
    whole = FILES[kind]
    options = data.draw(st.sampled_from(OPTIONS))
    length = data.draw(st.integers(0, len(whole) - 1) | st.integers(max(0, len(whole) - 40), len(whole) - 1))
    image = attempt(place, whole[:length], options)
    # What is missing may be no part of the picture: padding, a trailer, a lower resolution.
    if image is not None:
        np.testing.assert_array_equal(image, attempt(place, whole, options))


@pytest.mark.parametrize("kind", FILES)
@damage
@given(data=st.data())
def test_damaged_files_raise_read_errors_only(place, kind, data):
    damaged = bytearray(FILES[kind])
    last = len(damaged) - 1
    where = st.integers(0, last) | st.integers(0, min(last, 300)) | st.integers(max(0, last - 500), last)
    for at, value in data.draw(st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=4)):
        damaged[at] = value
    attempt(place, bytes(damaged), data.draw(st.sampled_from(OPTIONS)))


@damage
@given(start=st.sampled_from([data[:8] for data in FILES.values()]), rest=st.binary(max_size=400))
def test_garbage_behind_a_good_signature(place, start, rest):
    attempt(place, start + rest, None)


@damage
@given(data=st.binary(max_size=300))
def test_labels_and_probe_of_garbage(place, data):
    place.write_bytes(data)
    for function in (ck.read_labels, probe):
        with contextlib.suppress(ReadError):
            function(place)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "tiff-pyramid"])
def test_truncation_is_named(tmp_path, kind, cut):
    path = tmp_path / "a"
    path.write_bytes(FILES[kind][: int(len(FILES[kind]) * cut)])
    with pytest.raises(ReadError, match=r"truncated|damaged|fewer planes|missing|holds 2 pages|no image"):
        ck.read(path, ReadOptions(projection="max"))


CASES = [
    (b"", "the file is empty"),
    (b"ImageId,EncodedPixels\n1,2 3\n", r"looks like text \('ImageId,EncodedPixels 1,2 3'\)"),
    ("ä text in Latin letters".encode(), "looks like text"),
    ("text".encode("utf-16"), "looks like text"),
    (b"<!DOCTYPE html><html>", r"a web page \(HTML\).*fetch it again"),
    (b'<?xml version="1.0"?><svg/>', "SVG drawing"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer .*git lfs pull"),
    (bytes(500), "nothing but zeros"),
    (b"PK\x03\x04" + bytes(30), "ZIP archive.*unpack"),
    (b"%PDF-1.4\n", "PDF"),
    (b"ZISRAWFILE" + bytes(30), "Zeiss CZI.*OME-TIFF"),
    (bytes(128) + b"DICM\x01", "DICOM"),
    (b"\0\0\0\x1cftypheic" + bytes(9), "HEIC"),
    (b"\x01\x02\x80\x81\xff", "unknown format"),
    (b"BM, said the text", "text"),
]


@pytest.mark.parametrize(("data", "words"), CASES)
def test_what_is_no_image_is_told(tmp_path, data, words):
    path = tmp_path / "image.tif"
    path.write_bytes(data)
    for function in (ck.read, ck.read_labels, probe):
        with pytest.raises(ReadError, match=words) as caught:
            function(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_missing_files(tmp_path):
    (tmp_path / "nuclei_01.png").touch()
    with pytest.raises(ReadError, match=r"nuclei_1\.png: no such file \(did you mean 'nuclei_01\.png'\?\)"):
        ck.read(tmp_path / "nuclei_1.png")
    with pytest.raises(ReadError, match="there is no folder"):
        ck.read(tmp_path / "nowhere" / "a.png")
    with pytest.raises(ReadError, match=r"a\.png: is an address, not a file"):
        ck.read("https://example.org/a.png")
    with pytest.raises(ReadError, match="is no path"):
        ck.read("a\0b.png")


def test_folder(tmp_path):
    with pytest.raises(ReadError, match="is a folder, not a file"):
        ck.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ReadError, match="device or pipe"):
        ck.read(tmp_path / "a.png")


def test_permission(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png"])
    if os.name == "posix" and os.geteuid() != 0:
        path.chmod(0)
    else:  # root may read everything

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ReadError, match=r"a\.png: no permission to read it"):
        ck.read(path)
    monkeypatch.undo()
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    yield "png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends
    jpeg = bytearray(FILES["jpeg"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    yield "jpeg", bytes(jpeg)
    yield "gif", b"GIF89a" + struct.pack("<HH", 65000, 65000) + FILES["gif"][10:]
    bmp = bytearray(FILES["bmp"])
    bmp[18:26] = struct.pack("<ii", 90_000, 90_000)
    yield "bmp", bytes(bmp)
    tif = bytearray(tiff(PICTURE[..., 0], compression="zlib", metadata=None))
    for tag in (256, 257):
        at = tif.index(struct.pack("<HHI", tag, 4, 1))
        tif[at + 8 : at + 12] = struct.pack("<I", 60_000)
    yield "tiff", bytes(tif)


@pytest.mark.parametrize(("kind", "data"), list(bombs()), ids=lambda value: value if isinstance(value, str) else "")
def test_bombs_are_refused_before_they_are_decoded(tmp_path, kind, data):
    path = tmp_path / "bomb"
    path.write_bytes(data)
    for function in (ck.read, probe):
        with pytest.raises(ReadError, match=r"the header announces \d+ x \d+ px .*at most"):
            function(path)


def test_a_header_far_beyond_its_data_is_refused(tmp_path):
    path = tmp_path / "a"
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends)
    with pytest.raises(ReadError, match="far less data"):
        ck.read(path)


def test_no_pixels(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 5)))
    with pytest.raises(ReadError, match="no pixels: 0 x 5 px"):
        ck.read(tmp_path / "a.npy")


def test_checksums_of_png(tmp_path, capfd):
    damaged = bytearray(FILES["png"])
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(damaged)
    with pytest.raises(ReadError, match="the PNG is damaged: the checksum"):
        ck.read(tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


def test_tiff_pages_in_a_circle(tmp_path):
    data = bytearray(tiff(PICTURE[..., 0], metadata=None))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ReadError, match="circle"):
        ck.read(tmp_path / "a.tif")


def test_missing_planes_of_ome(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, PLANES, metadata={"axes": "CYX"}, photometric="minisblack")
    text = path.read_bytes()
    path.write_bytes(text.replace(b'SizeC="3"', b'SizeC="4"'))
    with pytest.raises(ReadError, match=r"missing|does not fit|damaged"):
        ck.read(path)


@pytest.mark.parametrize("photometric", ["separated", "cielab"])
def test_colours_that_are_no_light(tmp_path, photometric):
    path = tmp_path / "a.tif"
    array = np.zeros((5, 6, 4 if photometric == "separated" else 3), np.uint8)
    tifffile.imwrite(path, array, photometric=photometric)
    with pytest.raises(ReadError, match="convert it to RGB"):
        ck.read(path)


def test_complex_numbers(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6), np.complex64))
    with pytest.raises(ReadError, match="not plain numbers"):
        ck.read(tmp_path / "a.tif")


def test_file_stays_deletable_after_a_fault(tmp_path):
    for kind in ("tiff", "png", "jpeg"):
        path = Path(tmp_path / kind)
        path.write_bytes(FILES[kind][:-100])
        with pytest.raises(ReadError):
            ck.read(path)
        path.unlink()
