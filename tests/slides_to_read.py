"""Files and stores of every kind that a slide may be, written by libraries other than the code that reads them."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image

from cellkit.core.recipe import ReadOptions

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (103, 97), np.uint8)
GREY16 = RNG.integers(0, 65536, (103, 97), np.uint16)
COLOUR = RNG.integers(0, 256, (103, 97, 3), np.uint8)
FLOATS = RNG.normal(size=(103, 97, 3)).astype(np.float32)
FLOATS[5:60, 7, 0] = np.nan
FLOATS[90, 90, 1] = np.inf
FLOATS[..., 2] = np.nan
ALPHA = np.concatenate([COLOUR, RNG.integers(0, 256, (103, 97, 1), np.uint8)], axis=2)
STACK = RNG.integers(0, 4096, (5, 61, 67), np.uint16)
UM = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}


def tiff(array, **options):
    return lambda path: tifffile.imwrite(path, array, **options)


def picture(array, **options):
    return lambda path: Image.fromarray(array).save(path, **options)


def pyramid(path):
    """OME-TIFF: three channels in pages of their own, levels as SubIFDs, BigTIFF."""
    planes = np.stack([GREY16, GREY16[::-1], GREY16[:, ::-1]])
    meta = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "actin"]}, "SignificantBits": 16, **UM}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(planes, subifds=2, tile=(32, 16), metadata=meta, photometric="minisblack", compression="zlib")
        for step in (2, 4):
            file.write(planes[:, ::step, ::step], subfiletype=1, tile=(32, 16), compression="zlib")


def pages(path):
    """TIFF: RGB, levels as separate pages marked as reduced."""
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            file.write(
                COLOUR[::step, ::step],
                tile=(16, 32),
                photometric="rgb",
                subfiletype=int(step > 1),
                metadata=None,
                resolution=(40000, 40000),
                resolutionunit="CENTIMETER",
            )


def svs(path):
    """An Aperio slide as its scanner lays it out: full image, thumbnail, levels; tiled JPEG."""
    y, x = np.mgrid[:500, :601]
    image = np.stack([x % 256, y % 256, (x + y) // 5], axis=-1).astype(np.uint8)
    common = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
    with tifffile.TiffWriter(path) as file:
        text = "Aperio Image Library v12\r\n601x500 |AppMag = 20|MPP = 0.4990"
        file.write(image, tile=(64, 64), description=text, **common)
        file.write(image[::8, ::8], rowsperstrip=16, description="Aperio thumbnail", **common)
        file.write(image[::4, ::4], tile=(64, 64), description="Aperio level", **common)


THREE = int(zarr.__version__.partition(".")[0]) >= 3
V3 = 3 if THREE else 2  # Python 3.10 has no library that writes version 3


def zarr_array(path, version, separator=None, **options):
    """Make an array by either version of the library."""
    path.mkdir(parents=True, exist_ok=True)
    if not THREE:
        options.pop("shards", None)
        return zarr.open_array(str(path), mode="w", dimension_separator=separator, **options)
    encoding = {"name": "v2", "separator": separator or "."} if version == 2 else None
    return zarr.create_array(
        store=str(path), zarr_format=version, chunk_key_encoding=encoding, overwrite=True, **options
    )


def ome_zarr(path, version=2, axes="tczyx", unit="nanometer", separator="/", shards=None):
    """OME-Zarr 0.4 or 0.5 with three levels; the metadata of the group are written by hand."""
    full = RNG.integers(0, 60000, [{"t": 1, "c": 3, "z": 2}.get(axis, 103 if axis == "y" else 97) for axis in axes])
    full = full.astype(np.uint16)
    datasets = []
    for level in range(3):
        array = full[..., :: 2**level, :: 2**level]
        lead = (1,) * (len(axes) - 2)
        chunk = (16, 24) if axes == "yx" else (*lead, 40, 48)
        shard = {} if shards is None else {"shards": (*lead, *shards)}
        made = zarr_array(
            path / str(level),
            version,
            separator,
            shape=array.shape,
            chunks=chunk,
            dtype="uint16",
            fill_value=0,
            **shard,
        )
        made[:] = array
        scale = [250.0 * 2**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"t": "time", "c": "channel"}
    entries = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if a in "yx" and unit else {})} for a in axes
    ]
    image = {"axes": entries, "datasets": datasets}
    omero = {"channels": [{"label": name, "color": "00FF00"} for name in ("DAPI", "GFP", "GFP")]}
    if version == 2:
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({"multiscales": [{"version": "0.4", **image}], "omero": omero}))
    else:
        own = {"ome": {"version": "0.5", "multiscales": [image], "omero": omero}}
        group = {"zarr_format": 3, "node_type": "group", "attributes": own}
        (path / "zarr.json").write_text(json.dumps(group))
    return full


def plain_zarr(path, version=2, fill=7):
    """A Zarr array of floats, half of whose chunks were never written."""
    array = zarr_array(path, version, shape=(103, 97), chunks=(20, 30), dtype="float32", fill_value=fill)
    array[:50] = RNG.random((50, 97))


def deep_zoom(path, array=COLOUR, tile=32, overlap=1, suffix="png"):
    """A Deep Zoom picture, level by level with every second pixel."""
    height, width = array.shape[:2]
    top = (max(height, width) - 1).bit_length()
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<Image TileSize="{tile}" Overlap="{overlap}" Format="{suffix}" '
        'xmlns="http://schemas.microsoft.com/deepzoom/2008">'
        f'<Size Width="{width}" Height="{height}"/></Image>'
    )
    for level in range(top + 1):
        small = array[:: 2 ** (top - level), :: 2 ** (top - level)]
        folder = path.with_name(f"{path.stem}_files") / str(level)
        folder.mkdir(parents=True)
        for row in range(ceil(small.shape[0] / tile)):
            for column in range(ceil(small.shape[1] / tile)):
                rows = slice(max(0, row * tile - overlap), (row + 1) * tile + overlap)
                columns = slice(max(0, column * tile - overlap), (column + 1) * tile + overlap)
                Image.fromarray(small[rows, columns]).save(folder / f"{column}_{row}.{suffix}")


PALETTE = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
MAX, FIRST = ReadOptions(projection="max"), ReadOptions(projection="first")
KINDS = {
    "tiled.tif": (tiff(GREY16, tile=(16, 32)), None),
    "strips.tif": (tiff(GREY16, rowsperstrip=7, compression="zlib", predictor=True), None),
    "raw.tif": (tiff(COLOUR, photometric="rgb"), None),
    "big_endian.tif": (tiff(GREY16, byteorder=">"), None),
    "big_endian_tiled.tif": (tiff(GREY16, byteorder=">", tile=(16, 16)), None),
    "planar.tif": (
        tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate", tile=(32, 16)),
        None,
    ),
    "planar_raw.tif": (tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate"), None),
    "alpha.tif": (tiff(ALPHA, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16)), None),
    "palette.tif": (tiff(GREY, photometric="palette", colormap=PALETTE, tile=(16, 16)), None),
    "white_is_zero.tif": (tiff(GREY, photometric="miniswhite", tile=(16, 16)), None),
    "jpeg.tif": (tiff(COLOUR, photometric="rgb", compression="jpeg", tile=(32, 32)), None),
    "bits.tif": (tiff(GREY > 99, photometric="minisblack"), None),
    "floats.tif": (tiff(FLOATS, planarconfig="contig", photometric="minisblack", tile=(16, 16)), None),
    "doubles.tif": (tiff(FLOATS.astype(float), planarconfig="contig", photometric="minisblack"), None),
    "declared.tif": (tiff(GREY16 >> 4, tile=(16, 16)), ReadOptions(bits=12, pixel_size=(0.5, 0.4))),
    "cropped.tif": (tiff(FLOATS, planarconfig="contig", photometric="minisblack"), ReadOptions(crop=(3, 2, 90, 80))),
    "stack_max.tif": (tiff(STACK, imagej=True, metadata={"axes": "ZYX"}), MAX),
    "stack_mean.tif": (tiff(STACK, tile=(16, 16), compression="zlib"), ReadOptions(projection="mean")),
    "stack_first.tif": (tiff(STACK, imagej=True, metadata={"axes": "ZYX"}), FIRST),
    "hyperstack.tif": (
        tiff(np.stack([STACK, STACK // 2], 1), imagej=True, metadata={"axes": "ZCYX"}),
        ReadOptions(projection="max", channels=("a", "b")),
    ),
    "named_pages.tif": (tiff(STACK, compression="zlib"), ReadOptions(channels=tuple("abcde"))),
    "one_px_wide.tif": (tiff(GREY[:, :1], tile=(16, 16)), None),
    "one_px_high.tif": (tiff(GREY[:1], compression="zlib"), None),
    "pyramid.ome.tif": (pyramid, None),
    "pages.tif": (pages, None),
    "slide.svs": (svs, None),
    "grey.png": (picture(GREY), None),
    "alpha.png": (picture(ALPHA), None),
    "photo.jpg": (picture(COLOUR), None),
    "grey.bmp": (picture(GREY), None),
    "colours.gif": (picture(GREY), None),
    "colours.webp": (picture(COLOUR, lossless=True), None),
    "floats.npy": (lambda path: np.save(path, FLOATS), None),
    "v2.ome.zarr": (ome_zarr, MAX),
    "v2_first.ome.zarr": (ome_zarr, FIRST),
    "v2_dots.zarr": (lambda path: ome_zarr(path, axes="cyx", separator="."), None),
    "v3.ome.zarr": (lambda path: ome_zarr(path, V3, "cyx"), None),
    "v3_shards.ome.zarr": (lambda path: ome_zarr(path, V3, "yx", shards=(32, 48)), None),
    "array2.zarr": (plain_zarr, None),
    "array3.zarr": (lambda path: plain_zarr(path, V3), None),
    "deep.dzi": (deep_zoom, None),
    "deep_grey.dzi": (lambda path: deep_zoom(path, GREY, 25, 0), None),
    "deep_jpeg.dzi": (lambda path: deep_zoom(path, COLOUR, 40, 2, "jpg"), None),
}
WHOLE = {".png", ".jpg", ".bmp", ".gif", ".webp", ".npy"}


def make(folder: Path, name: str) -> tuple[Path, ReadOptions | None]:
    """Write one of `KINDS` and return its path and the options it is read with."""
    write, options = KINDS[name]
    path = folder / name
    write(path)
    return path, options


def read_elsewhere(slide, spec, window):
    """Read a window in this process, by a slide and by what one is opened by."""
    with slide, spec.open() as again:
        return np.array(slide.read(window)["raw"]), np.array(again.read(window)["raw"])
