"""TIFFs of every type and layout, channels, stacks, pyramids and pixel sizes."""

from __future__ import annotations

import logging

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
from test_io_formats import COLOUR, COLOUR16, GREY, GREY16, RNG, SMOOTH, same

DTYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8", ">u2", ">f4"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [{}, {"compression": "zlib", "predictor": True}, {"tile": (16, 32)}])
def test_tiff_types(tmp_path, dtype, layout):
    if layout.get("predictor") and dtype in ("f2", "i1", ">u2", ">f4"):
        layout = {"compression": "zlib"}
    kind = np.dtype(dtype)
    low, high = (-2.0, 3.0) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    array = RNG.uniform(low, high, (37, 53)).astype(kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, byteorder=dtype[0] if dtype[0] in "<>" else None, **layout)
    same(path, array)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "deflate", "zstd", "packbits", "lzma", "png", "webp"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_layouts(tmp_path, compression, tile, planar):
    if planar == "separate" and compression == "webp":
        pytest.skip("WebP has colours only")
    array = COLOUR if planar == "contig" else np.moveaxis(COLOUR, 2, 0)
    options = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        array,
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        tile=tile,
        rowsperstrip=7,
        **options,
    )
    assert same(path, COLOUR).layer("image").names == ("red", "green", "blue")
    crop = (5, 9, 30, 40)
    sample = ck.read(path, ReadOptions(crop=crop))
    np.testing.assert_array_equal(sample["image"], scale(COLOUR[5:30, 9:40])[0])


@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_tiff_jpeg(tmp_path, tile):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SMOOTH, photometric="rgb", compression="jpeg", compressionargs={"level": 95}, tile=tile)
    np.testing.assert_allclose(ck.read(path)["image"] * 255, SMOOTH, atol=13)
    part = ck.read(path, ReadOptions(crop=(3, 2, 38, 51)))["image"]
    np.testing.assert_array_equal(part, ck.read(path)["image"][3:38, 2:51])
    with pytest.raises(ReadError, match="with loss"):
        ck.read_labels(path)


def test_tiff_one_bit_and_white_is_zero(tmp_path):
    mask = GREY > 100
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    assert same(tmp_path / "a.tif", mask).notes == ()
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="miniswhite")
    assert "inverted" in same(tmp_path / "a.tif", ~mask).notes[0]
    np.testing.assert_array_equal(ck.read_labels(tmp_path / "a.tif"), mask)
    tifffile.imwrite(tmp_path / "b.tif", GREY, photometric="miniswhite")
    assert "inverted" in same(tmp_path / "b.tif", 255 - GREY).notes[0]
    if hasattr(imagecodecs, "CCITTFAX4"):
        Image.fromarray(mask).save(tmp_path / "c.tif", compression="group4")
        same(tmp_path / "c.tif", mask)
    tifffile.imwrite(tmp_path / "d.tif", GREY.astype(np.float32), photometric="miniswhite")
    assert "kept" in same(tmp_path / "d.tif", GREY.astype(np.float32)).notes[0]


def test_tiff_palette(tmp_path):
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, photometric="palette", colormap=colours)
    same(path, (colours >> 8).astype(np.uint8).T[GREY])
    np.testing.assert_array_equal(ck.read_labels(path), GREY)


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
def test_tiff_alpha(tmp_path, extra):
    path = tmp_path / "a.tif"
    alpha = np.full((37, 53, 1), 65535, np.uint16)
    tifffile.imwrite(path, np.concatenate([COLOUR16, alpha], axis=2), photometric="rgb", extrasamples=[extra])
    assert same(path, COLOUR16).notes == ()
    alpha[1, 1] = 9
    tifffile.imwrite(path, np.concatenate([COLOUR16, alpha], axis=2), photometric="rgb", extrasamples=[extra])
    assert "transparency" in same(path, COLOUR16).notes[0]


def test_tiff_many_samples_are_channels(tmp_path):
    array = RNG.random((12, 17, 7), np.float32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, planarconfig="contig", photometric="minisblack")
    same(path, array)
    same(path, array, ReadOptions(channels=tuple("abcdefg")))
    with pytest.raises(ReadError, match=r"2 channels are declared \(a, b\), but the image has 7"):
        ck.read(path, ReadOptions(channels=("a", "b")))


def test_tiff_depth_of_12_bits(tmp_path):
    path = tmp_path / "a.tif"
    array = GREY16 >> 4
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SignificantBits="12" SizeX="53" SizeY="37" '
        'SizeC="1" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/><TiffData/></Pixels></Image></OME>'
    )
    tifffile.imwrite(path, array, description=xml, metadata=None)
    same(path, array, bits=12)
    tifffile.imwrite(path, GREY16, description=xml, metadata=None)
    with pytest.raises(ReadError, match="12 bits are declared by the file, but the largest value is 65"):
        ck.read(path)
    tifffile.imwrite(path, array)
    same(path, array, ReadOptions(bits=12), bits=12)
    with pytest.raises(ReadError, match=r"a\.tif: 10 bits are declared, but the largest value is 40\d\d .*bits: 12"):
        ck.read(path, ReadOptions(bits=10))


def test_more_bits_than_are_stored_are_noted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    assert "12 bits are declared" in same(tmp_path / "a.tif", GREY, ReadOptions(bits=12), bits=12).notes[0]
    tifffile.imwrite(tmp_path / "b.tif", GREY.astype(np.uint32))
    assert "declare `bits`" in same(tmp_path / "b.tif", GREY.astype(np.uint32)).notes[0]


# Channels, stacks, pixel sizes


STACK = RNG.integers(0, 4096, (3, 12, 17), np.uint16)


def test_ome_channels_and_pixel_size(tmp_path):
    path = tmp_path / "a.ome.tif"
    meta = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "GFP", "GFP"]},
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
    }
    tifffile.imwrite(path, STACK, metadata=meta, photometric="minisblack")
    sample = same(path, np.moveaxis(STACK, 0, 2))
    assert sample.layer("image").names == ("DAPI", "GFP", "GFP_2")
    assert sample.pixel_size == (0.5, 0.25)
    assert sample.name == "a"
    sample = ck.read(path, ReadOptions(channels=("x", "y", "z"), pixel_size=(1.0, 2.0)))
    assert (sample.layer("image").names, sample.pixel_size) == (("x", "y", "z"), (1.0, 2.0))


def test_imagej_channels_and_pixel_size(tmp_path):
    path = tmp_path / "a.tif"
    meta = {"axes": "CYX", "unit": "micron", "Labels": ["one", "two", "three"]}
    tifffile.imwrite(path, STACK, imagej=True, resolution=(4.0, 2.0), metadata=meta)
    sample = same(path, np.moveaxis(STACK, 0, 2))
    assert sample.layer("image").names == ("one", "two", "three")
    assert sample.pixel_size == (0.5, 0.25)


def test_imagej_lookup_table_is_not_applied(tmp_path):
    path = tmp_path / "a.tif"
    lut = np.zeros((3, 256), np.uint8)
    lut[1] = np.arange(256)
    tifffile.imwrite(path, GREY, imagej=True, metadata={"axes": "YX", "LUTs": [lut]})
    same(path, GREY)


@pytest.mark.parametrize("writer", [{"imagej": True}, {"ome": True}])
@pytest.mark.parametrize(("axes", "word"), [("ZYX", "3 z"), ("TYX", "3 time")])
def test_stacks_need_a_word(tmp_path, writer, axes, word):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": axes}, **writer)
    with pytest.raises(ReadError, match=rf"a\.tif: is a stack of {word} .*projection: max"):
        ck.read(path)
    same(path, STACK.max(axis=0), ReadOptions(projection="max"))
    same(path, STACK.min(axis=0), ReadOptions(projection="min"))
    same(path, STACK[0], ReadOptions(projection="first"))
    for how in ("mean", "sum"):
        sample = ck.read(path, ReadOptions(projection=how))
        wanted = getattr(STACK.astype(float), how)(axis=0) / 65535
        np.testing.assert_allclose(sample["image"][..., 0], wanted, rtol=1e-6)
    crop = ck.read(path, ReadOptions(projection="max", crop=(1, 2, 9, 8)))
    np.testing.assert_array_equal(crop["image"], scale(STACK.max(axis=0)[1:9, 2:8])[0])


def test_channels_within_stacks(tmp_path):
    path = tmp_path / "a.tif"
    array = RNG.integers(0, 255, (2, 4, 3, 12, 17)).astype(np.uint8)
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(ReadError, match="2 time and 4 z"):
        ck.read(path)
    same(path, np.moveaxis(array.max(axis=(0, 1)), 0, 2), ReadOptions(projection="max"))
    assert probe(path, ReadOptions(projection="max")).samples == array.size


def test_pages_that_nothing_explains(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in STACK:
            writer.write(plane, metadata=None)
    with pytest.raises(ReadError, match=r"holds 3 pages and does not say .*channels: \[\.\.\.\].*projection: max"):
        ck.read(path)
    same(path, STACK.max(axis=0), ReadOptions(projection="max"))
    sample = same(path, np.moveaxis(STACK, 0, 2), ReadOptions(channels=("a", "b", "c")))
    assert sample.layer("image").names == ("a", "b", "c")


def test_different_images_in_a_file(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY, metadata=None)
        writer.write(COLOUR16, photometric="rgb", metadata=None)
    with pytest.raises(ReadError, match=r"2 images of different kinds \(37x53, 37x53x3\).*projection: first"):
        ck.read(path)
    same(path, GREY, ReadOptions(projection="first"))


@pytest.mark.parametrize("subifds", [True, False])
def test_full_resolution_of_a_pyramid(tmp_path, subifds):
    path = tmp_path / "a.tif"
    big = RNG.integers(0, 255, (128, 160, 3)).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(big, photometric="rgb", tile=(32, 32), subifds=2 if subifds else 0, metadata=None)
        for step in (2, 4):
            writer.write(big[::step, ::step], photometric="rgb", tile=(32, 32), subfiletype=1, metadata=None)
    same(path, big)
    np.testing.assert_array_equal(
        ck.read(path, ReadOptions(crop=(30, 1, 70, 159)))["image"], scale(big[30:70, 1:159])[0]
    )


@pytest.mark.parametrize(
    ("resolution", "unit", "size"),
    [
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((96 / 2.54, 96 / 2.54), "CENTIMETER", None),
        ((40000, 20000), "CENTIMETER", (0.5, 0.25)),
        ((4, 4), "NONE", None),
    ],
)
def test_resolution_tags_are_trusted_where_they_can_be(tmp_path, resolution, unit, size):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, resolution=resolution, resolutionunit=unit, metadata=None)
    assert same(path, GREY).pixel_size == size


def test_aperio_pixel_size(tmp_path):
    path = tmp_path / "a.svs"
    text = "Aperio Image Library v1\r\n37x53 |AppMag = 20|MPP = 0.4990|Left = 1"
    tifffile.imwrite(path, COLOUR, photometric="rgb", tile=(16, 16), description=text, metadata=None)
    assert ck.read(path).pixel_size == pytest.approx((0.499, 0.499))


def test_part_of_an_ome_set_says_so(tmp_path):
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="53" SizeY="37" SizeC="2" '
        'SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="Channel:0:0"/>'
        '<Channel ID="Channel:0:1"/>'
        '<TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, GREY, description=xml, metadata=None)
    sample = same(path, GREY)
    assert "several files" in sample.notes[0]
    assert sample.pixel_size == (0.5, 0.5)


def test_what_tifffile_logs_becomes_a_note(tmp_path, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, metadata=None, extratags=[(65000, 2, None, "private", True)])
    with caplog.at_level(logging.DEBUG):
        ck.read(path)
    assert not caplog.records
    logging.getLogger("tifffile").warning("somebody else's")
    assert [record.getMessage() for record in caplog.records] == ["somebody else's"]


def test_nan_is_missing_and_counted(tmp_path):
    array = RNG.random((9, 9), np.float32)
    array[2, 3] = np.nan
    array[4, 5] = np.inf
    tifffile.imwrite(tmp_path / "a.tif", array)
    sample = same(tmp_path / "a.tif", array)
    assert sample.missing == 2
    assert "2 missing" in sample.notes[-1]
