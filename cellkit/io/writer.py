"""Write labels, masks, probabilities and images: without loss, atomically, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from cellkit.core.errors import UsageError, WriteError
from cellkit.core.sample import scale
from cellkit.io.pixelsize import to_json
from cellkit.io.temporary import atomic

__all__ = ["write", "write_image", "write_labels", "write_mask", "write_prob"]

PixelSize = Sequence[float] | None

_STRIP = 2**20
_TIFF = (".tif", ".tiff")


def write(
    path: str | Path, array: np.ndarray, *, pixel_size: PixelSize = None, scratch: str | Path | None = None
) -> None:
    """Write an array as what its dtype and shape say it is.

    Bool is a mask; int32 and wider integers (y, x) are labels; floats, uint8 and uint16 are an image. The suffix
    chooses TIFF, PNG or .npy. `pixel_size` is (y, x) in micrometres; `scratch` is that of `atomic`. Raises `UsageError`
    for what is none of these, `WriteError` where the format would lose something or the file cannot be written.
    """
    array = np.asarray(array)
    if array.dtype.kind == "b":
        write_mask(path, array, pixel_size, scratch=scratch)
    elif array.dtype.kind in "iu" and array.dtype not in (np.uint8, np.uint16):
        write_labels(path, array, pixel_size, scratch=scratch)
    else:
        write_image(path, array, pixel_size, scratch=scratch)


def write_labels(
    path: str | Path, labels: np.ndarray, pixel_size: PixelSize = None, *, scratch: str | Path | None = None
) -> None:
    """Write a label image, integers (y, x): TIFF in 16 bits where every label fits, else in 32; 16-bit PNG; .npy."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 2 or not labels.size:
        raise UsageError(f"{path}: labels are integers (y, x); got {labels.dtype} {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 2**32 - 1:
        raise WriteError(f"{path}: labels lie in 0 to 4294967295; got {low if low < 0 else high}")
    suffix = _suffix(path)
    if suffix == ".png" and high > 65535:
        raise WriteError(f"{path}: PNG holds labels to 65535; got {high} (write .tif)")
    if suffix != ".npy":
        labels = labels.astype(np.uint16 if high <= 65535 else np.uint32, copy=False)
    _WRITERS[suffix](path, labels, _size(path, pixel_size), (), scratch)


def write_mask(
    path: str | Path, mask: np.ndarray, pixel_size: PixelSize = None, *, scratch: str | Path | None = None
) -> None:
    """Write a mask, bool (y, x), as 0 and 255: TIFF or PNG; .npy keeps bool."""
    mask = np.asarray(mask)
    if mask.dtype.kind != "b" or mask.ndim != 2 or not mask.size:
        raise UsageError(f"{path}: a mask is bool (y, x); got {mask.dtype} {mask.shape}")
    suffix = _suffix(path)
    if suffix != ".npy":
        mask = mask.view(np.uint8) * np.uint8(255)
    _WRITERS[suffix](path, mask, _size(path, pixel_size), (), scratch)


def write_prob(
    path: str | Path,
    prob: np.ndarray,
    pixel_size: PixelSize = None,
    *,
    names: Sequence[str] = (),
    scratch: str | Path | None = None,
) -> None:
    """Write probabilities or any other floats, (y, x) or (y, x, c), as float32: TIFF with class names, or .npy."""
    prob = np.asarray(prob)
    if prob.dtype.kind != "f":
        raise UsageError(f"{path}: probabilities are floats; got {prob.dtype}")
    write_image(path, prob, pixel_size, names=names, scratch=scratch)


def write_image(
    path: str | Path,
    image: np.ndarray,
    pixel_size: PixelSize = None,
    *,
    names: Sequence[str] = (),
    scratch: str | Path | None = None,
) -> None:
    """Write an image, (y, x) or (y, x, c), float, uint8 or uint16.

    TIFF holds float32 (wider floats are narrowed to it) and integers as they are; several channels that are not 8- or
    16-bit RGB become OME planes with `names`. PNG holds 1 or 3 channels of 8 or 16 bits, and a float image only where
    that loses nothing, as it does for one read from such a file.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise UsageError(f"{path}: an image has axes (y, x) or (y, x, c) and at least one pixel; got {image.shape}")
    if image.dtype.kind != "f" and image.dtype not in (np.uint8, np.uint16):
        raise UsageError(f"{path}: an image is float, uint8 or uint16; got {image.dtype}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype.kind == "f":
        image = image.astype(np.float32, copy=False)
    if names and len(names) != (1 if image.ndim == 2 else image.shape[2]):
        raise UsageError(f"{path}: {len(names)} names ({', '.join(names)}) for an image of shape {image.shape}")
    suffix = _suffix(path)
    if suffix == ".png" and image.dtype.kind == "f":
        image = _quantised(path, image)
    _WRITERS[suffix](path, image, _size(path, pixel_size), names, scratch)


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    suffix = ".tif" if suffix in _TIFF else suffix
    if suffix not in _WRITERS:
        raise UsageError(f"{path}: cannot write {suffix or 'a file without suffix'} (use .tif, .png or .npy)")
    return suffix


def _size(path: str | Path, pixel_size: PixelSize) -> tuple[float, float] | None:
    if pixel_size is None:
        return None
    if len(pixel_size) != 2 or not all(0 < s < float("inf") for s in pixel_size):
        raise UsageError(f"{path}: pixel_size is (y, x) in micrometres, both positive; got {pixel_size!r}")
    return float(pixel_size[0]), float(pixel_size[1])


def _quantised(path: str | Path, image: np.ndarray) -> np.ndarray:
    """Return a float image as the 8- or 16-bit integers it was made of; raise `WriteError` where it was not."""
    for dtype in (np.uint8, np.uint16):
        top = np.iinfo(dtype).max
        with np.errstate(invalid="ignore"):
            integers = np.clip(np.rint(image * np.float32(top)), 0, top).astype(dtype)
        if np.array_equal(scale(integers)[0].reshape(image.shape), image):
            return integers
    raise WriteError(f"{path}: PNG would lose what float values hold (write .tif)")


def _write_png(
    path: str | Path,
    array: np.ndarray,
    pixel_size: tuple[float, float] | None,
    names: Sequence[str],  # noqa: ARG001
    scratch: str | Path | None,
) -> None:
    from cellkit.io import png

    if array.ndim == 3 and array.shape[2] != 3:
        raise WriteError(f"{path}: PNG holds 1 or 3 channels; got {array.shape[2]} (write .tif)")
    data = png.encode(array, pixel_size)
    with atomic(path, scratch) as temporary:
        temporary.write_bytes(data)


def _write_npy(
    path: str | Path,
    array: np.ndarray,
    pixel_size: tuple[float, float] | None,  # noqa: ARG001
    names: Sequence[str],  # noqa: ARG001
    scratch: str | Path | None,
) -> None:
    with atomic(path, scratch) as temporary, open(temporary, "wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def _write_tiff(
    path: str | Path,
    array: np.ndarray,
    pixel_size: tuple[float, float] | None,
    names: Sequence[str],
    scratch: str | Path | None,
) -> None:
    import tifffile

    rgb = array.ndim == 3 and array.shape[2] == 3 and array.dtype.kind == "u" and not names
    planes = array.ndim == 3 and not rgb
    if planes:
        array = np.moveaxis(array, 2, 0)
    height = array.shape[1 if planes else 0]
    row = array[(0,) * (1 + planes)]
    rows = min(height, max(1, _STRIP // row.nbytes))
    settings: dict[str, Any] = {
        "description": _ome(array, pixel_size, names) if planes or names else to_json(pixel_size),
        "photometric": "rgb" if rgb else "minisblack",
        "compression": "zlib",
        "rowsperstrip": rows,
        "metadata": None,
        "software": "cellkit",
    }
    if pixel_size is not None:
        # Pixels per centimetre: the unit that plain TIFF readers know; ImageJ turns it into micrometres by itself.
        settings |= {"resolution": (1e4 / pixel_size[1], 1e4 / pixel_size[0]), "resolutionunit": "CENTIMETER"}
    with atomic(path, scratch) as temporary:
        strips = _strips(array if planes else array[None], rows)
        tifffile.imwrite(temporary, strips, shape=array.shape, dtype=array.dtype, **settings)


def _strips(planes: np.ndarray, rows: int) -> Iterator[bytes]:
    """Yield the compressed strips of every plane. zlib-ng is three times as fast here as what tifffile would use."""
    import imagecodecs

    for plane in planes:
        for start in range(0, len(plane), rows):
            yield bytes(imagecodecs.zlibng_encode(plane[start : start + rows].tobytes(), level=2))


def _ome(planes: np.ndarray, pixel_size: tuple[float, float] | None, names: Sequence[str]) -> bytes:
    """Return minimal OME-XML. tifffile's own holds a random identifier, and so other bytes every time."""
    count = len(planes) if planes.ndim == 3 else 1
    height, width = planes.shape[-2:]
    kind = {"float32": "float"}.get(planes.dtype.name, planes.dtype.name)
    size = ""
    if pixel_size is not None:
        y, x = pixel_size
        size = f' PhysicalSizeX="{x!r}" PhysicalSizeXUnit="µm" PhysicalSizeY="{y!r}" PhysicalSizeYUnit="µm"'
    channels = "".join(
        f'<Channel ID="Channel:0:{i}"{f" Name={quoteattr(names[i])}" if names else ""} SamplesPerPixel="1"/>'
        for i in range(count)
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{kind}" SizeX="{width}" '
        f'SizeY="{height}" SizeC="{count}" SizeZ="1" SizeT="1"{size}>{channels}'
        f'<TiffData IFD="0" PlaneCount="{count}"/></Pixels></Image></OME>'
    )
    return xml.encode("ascii", "xmlcharrefreplace")


_WRITERS: dict[str, Callable[..., None]] = {".tif": _write_tiff, ".png": _write_png, ".npy": _write_npy}
