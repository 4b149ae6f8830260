"""Every format, depth and layout that `read` knows, written by an independent encoder and compared value by value."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import cellkit as ck
from cellkit.core import ReadError
from cellkit.core.recipe import ReadOptions
from cellkit.core.sample import scale
from cellkit.io import probe

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (37, 53), np.uint8)
GREY16 = RNG.integers(0, 65536, (37, 53), np.uint16)
COLOUR = RNG.integers(0, 256, (37, 53, 3), np.uint8)
COLOUR16 = RNG.integers(0, 65536, (37, 53, 3), np.uint16)
SMOOTH = np.stack([np.add.outer(np.arange(40), np.arange(56)) + 20 * c for c in range(3)], axis=2).astype(np.uint8)


def pil(path, array, kind, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, kind, **options)
    return path


def seen_by_pillow(path, mode=None):
    with Image.open(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


def same(path, array, options=None, bits=None):
    """Read `path`; it must hold `array`, scaled as `Sample.of` would, and `probe` must have said so."""
    sample = ck.read(path, options)
    np.testing.assert_array_equal(sample["image"], scale(array, bits)[0])
    info = probe(path, options)
    assert info.shape == sample["image"].shape
    assert info.channels == sample.layer("image").names
    assert info.pixel_size == sample.pixel_size
    assert info.image_bytes == sample["image"].nbytes
    assert info.peak_bytes > info.image_bytes
    return sample


@pytest.mark.parametrize("array", [GREY, GREY16, COLOUR, COLOUR16], ids=["8", "16", "rgb8", "rgb16"])
@pytest.mark.parametrize("suffix", ["png", "txt", ""])
def test_png_keeps_its_depth_whatever_it_is_called(tmp_path, array, suffix):
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(imagecodecs.png_encode(array))
    sample = same(path, array)
    assert sample.notes == ()
    assert sample.layer("image").names == (("red", "green", "blue") if array.ndim == 3 else ())


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, depth, colour, rows, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    ("depth", "row", "values"),
    [(1, b"\0\xa0", [1, 0, 1]), (2, b"\0\x1b", [0, 1, 2, 3]), (4, b"\0\x01\xf3", [0, 1, 15, 3])],
)
def test_png_of_fewer_than_8_bits_gives_the_stored_values(tmp_path, depth, row, values):
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(len(values), 1, depth, 0, row))
    same(path, np.array([values], np.uint8), bits=depth)
    assert probe(path).bits == depth
    np.testing.assert_array_equal(ck.read_labels(path), [values])


def test_flawed_colour_profile_is_no_matter(tmp_path, capfd):
    path = tmp_path / "a.png"
    extra = chunk(b"iCCP", b"bad") + chunk(b"tEXt", b"no separator") + chunk(b"gAMA", struct.pack(">I", 1))
    path.write_bytes(raw_png(2, 1, 8, 0, b"\0\x05\x06", extra))
    same(path, np.array([[5, 6]], np.uint8))
    assert capfd.readouterr() == ("", "")


def test_png_palette_is_rgb_for_images_and_indices_for_labels(tmp_path):
    path = tmp_path / "a.png"
    palette = bytes([0, 0, 0, 200, 10, 10, 10, 200, 10])
    path.write_bytes(raw_png(3, 1, 8, 3, b"\0\x00\x01\x02", chunk(b"PLTE", palette)))
    same(path, np.array([[[0, 0, 0], [200, 10, 10], [10, 200, 10]]], np.uint8))
    np.testing.assert_array_equal(ck.read_labels(path), [[0, 1, 2]])
    grey = bytes([7, 7, 7, 0, 0, 0, 9, 9, 9])
    path.write_bytes(raw_png(3, 1, 8, 3, b"\0\x00\x01\x02", chunk(b"PLTE", grey)))
    np.testing.assert_array_equal(ck.read_labels(path), [[7, 0, 9]])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("clear", [False, True])
def test_alpha_is_dropped_with_a_note_where_it_mattered(tmp_path, kind, clear):
    alpha = np.full((*GREY.shape, 1), 255, np.uint8)
    alpha[3, 4] = 0 if clear else 255
    path = tmp_path / "a"
    Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(path, kind, lossless=True, exact=True)
    sample = same(path, COLOUR)
    assert any("transparency" in note for note in sample.notes) == clear


def test_grey_with_alpha(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(np.stack([GREY16, GREY16 // 2], axis=2)))
    assert "transparency" in same(path, GREY16).notes[0]


def test_png_with_a_transparent_colour(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(2, 1, 8, 0, b"\0\x05\x06", chunk(b"tRNS", b"\0\5")))
    assert "transparent" in same(path, np.array([[5, 6]], np.uint8)).notes[0]


@pytest.mark.parametrize("array", [GREY, COLOUR])
def test_bmp(tmp_path, array):
    same(pil(tmp_path / "a.bmp", array, "BMP"), array)


def test_bmp_palette_and_one_bit(tmp_path):
    two = np.where(GREY > 128, 255, 0).astype(np.uint8)
    path = pil(tmp_path / "a.bmp", two, "BMP", mode="1")
    same(path, two > 0)
    path = pil(tmp_path / "b.bmp", SMOOTH, "BMP", mode="P")
    same(path, seen_by_pillow(path, "RGB"))


def test_gif(tmp_path):
    path = pil(tmp_path / "a.gif", SMOOTH, "GIF", mode="P")
    same(path, seen_by_pillow(path, "RGB"))
    same(pil(tmp_path / "g.gif", GREY, "GIF"), GREY)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("array", [SMOOTH, SMOOTH[..., 0]], ids=["rgb", "grey"])
def test_jpeg(tmp_path, array, progressive):
    path = pil(tmp_path / "a.jpg", np.ascontiguousarray(array), "JPEG", quality=95, progressive=progressive)
    sample = ck.read(path)
    reference = seen_by_pillow(path).reshape(sample["image"].shape)
    np.testing.assert_allclose(sample["image"] * 255, reference, atol=1.01)
    assert probe(path).shape == sample["image"].shape


def test_jpeg_orientation_is_left_as_stored(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = pil(tmp_path / "a.jpg", SMOOTH, "JPEG", exif=exif)
    assert ck.read(path)["image"].shape == SMOOTH.shape


def test_cmyk_jpeg_is_refused(tmp_path):
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(ReadError, match=r"a\.jpg: .*CMYK.*convert it to RGB"):
        ck.read(tmp_path / "a.jpg")


def test_webp(tmp_path):
    same(pil(tmp_path / "a.webp", COLOUR, "WEBP", lossless=True), COLOUR)
    path = pil(tmp_path / "b.webp", SMOOTH, "WEBP")
    np.testing.assert_allclose(ck.read(path)["image"] * 255, seen_by_pillow(path), atol=1.01)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_animation_needs_a_word(tmp_path, kind):
    frames = [np.full((9, 11, 3), value, np.uint8) for value in (10, 200, 90)]
    first, *rest = [Image.fromarray(frame) for frame in frames]
    path = tmp_path / "a"
    first.save(path, kind, save_all=True, append_images=rest, **({"lossless": True} if kind == "WEBP" else {}))
    with pytest.raises(ReadError, match=r"animation of 3 frames .*projection: max"):
        ck.read(path)
    with pytest.raises(ReadError, match="3 frames"):
        probe(path)
    for how, value in (("max", 200), ("min", 10), ("first", 10), ("mean", 100)):
        sample = ck.read(path, ReadOptions(projection=how))
        np.testing.assert_allclose(sample["image"], np.full((9, 11, 3), value / 255), atol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint32, np.float16, np.float64, ">u2"])
def test_npy(tmp_path, dtype):
    array = (RNG.random((5, 7)) * 100).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    same(tmp_path / "a.npy", array)


def test_npy_with_objects_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[None]], object), allow_pickle=True)
    with pytest.raises(ReadError, match="not numbers"):
        ck.read(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((2, 2, 2, 2)))
    with pytest.raises(ReadError, match="shape"):
        ck.read(tmp_path / "b.npy")


@pytest.mark.parametrize("shape", [(1, 1), (1, 997), (997, 1), (1, 1, 3)])
def test_smallest_images(tmp_path, shape):
    array = RNG.integers(0, 255, shape).astype(np.uint8)
    for name in ("a.png", "a.tif", "a.bmp", "a.npy"):
        path = tmp_path / name
        if name.endswith("tif"):
            tifffile.imwrite(path, array)
        elif name.endswith("npy"):
            np.save(path, array)
        else:
            Image.fromarray(array).save(path)
        same(path, array)


def test_huge_but_honest_image_fires_no_bomb_warning(tmp_path):
    data = BytesIO()
    Image.new("1", (10_000, 10_000)).save(data, "PNG")
    (tmp_path / "a.png").write_bytes(data.getvalue())
    assert probe(tmp_path / "a.png").shape == (10_000, 10_000, 1)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "a.bmp")
    assert probe(tmp_path / "a.bmp").shape == (10_000, 10_000, 1)
    assert ck.read(tmp_path / "a.bmp", ReadOptions(crop=(0, 0, 5, 5)))["image"].shape == (5, 5, 1)


def test_crop(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(COLOUR))
    np.testing.assert_array_equal(
        ck.read(path, ReadOptions(crop=(1, 2, 30, 40)))["image"], scale(COLOUR[1:30, 2:40])[0]
    )
    assert probe(path, ReadOptions(crop=(1, 2, 30, 40))).samples == COLOUR.size
    with pytest.raises(ReadError, match=r"crop \[0, 0, 38, 10\] .*within the image of 37 x 53 px"):
        ck.read(path, ReadOptions(crop=(0, 0, 38, 10)))
