"""Open a file or a store as a picture, whatever its format; say what is the matter where that cannot be."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cellkit.core.errors import ReadError, suggest
from cellkit.core.recipe import ReadOptions
from cellkit.io import magic
from cellkit.io.codecs import codec_of
from cellkit.io.info import Pixels
from cellkit.io.sources import is_store
from cellkit.io.tiles import Picture, Whole

__all__ = ["naming", "open_picture"]

_OTHERS = ("dzi", "mrxs", "dicom", "czi", "nd2", "lif")


def open_picture(path: str | Path, options: ReadOptions) -> Picture:
    """Open an image file or store; the format is told by the content.

    Raises `ReadError`, which does not name `path`.
    """
    first = options.projection == "first"
    if is_store(path):
        from cellkit.io.zarrstore import ZarrStore

        return ZarrStore(path, first=first)
    with contextlib.ExitStack() as held:
        file = held.enter_context(_open(path))
        kind = _kind(path, file)
        if kind == "tiff":
            picture = _tiff(path, file, options)
            held.pop_all()  # the picture closes it
            return picture
        if kind not in _OTHERS:
            return _whole(kind, file.read())
    return _other(kind, path, first)


def _tiff(path: str | Path, file: BinaryIO, options: ReadOptions) -> Picture:
    from cellkit.io.tiff import Tiff, listening

    try:
        return Tiff(file, options.channels, first=options.projection == "first")
    except ReadError as error:
        from cellkit.io.wsi import SUFFIXES, open_whole_slide

        if Path(path).suffix.lower() not in SUFFIXES:
            raise
        file.close()
        with listening([]):
            return open_whole_slide(path, str(error))


def _other(kind: str, path: str | Path, first: bool) -> Picture:
    """Open what lies in more than one file, and what another package reads."""
    if kind == "dzi":
        from cellkit.io.dzi import DeepZoom

        return DeepZoom(path)
    if kind in ("mrxs", "dicom"):
        from cellkit.io.wsi import open_whole_slide

        what = "a DICOM file" if kind == "dicom" else "a slide of 3DHISTECH (MRXS)"
        return open_whole_slide(path, f"is {what}")
    from cellkit.io.vendor import open_vendor

    return open_vendor(kind, path, first=first)


def _whole(kind: str, data: bytes) -> Picture:
    codec = codec_of(kind)
    header = codec.header(data)

    def decode(projection: str, indexed: bool) -> Pixels:
        pixels: Pixels = codec.decode(data, header, projection, indexed=indexed)
        return pixels

    return Whole(header, decode, lossy=kind == "jpeg" or (kind == "webp" and codec.lossy(data)))


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the path in front of what a decoder found."""
    try:
        yield
    except ReadError as error:
        raise ReadError(f"{path}: {error}") from error


def _open(path: str | Path) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            folder = stat.S_ISDIR(mode)
            fix = (
                "give `find` or `cellkit run` the folder, `read` a file in it" if folder else "copy it to a file first"
            )
            raise ReadError(f"is {'a folder' if folder else 'a device or pipe'}, not a file ({fix})")
        return open(path, "rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # a null character in the path
        raise ReadError(f"is no path: {error}") from error


def _kind(path: str | Path, file: BinaryIO) -> str:
    """Tell the format of a file; say what it looks like where it has none."""
    try:
        head = file.read(magic.HEAD)
        file.seek(0)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not head:
        raise ReadError("the file is empty (copy it again)")
    if Path(path).suffix.lower() == ".mrxs" and Path(path).with_suffix("").is_dir():
        return "mrxs"  # a JPEG by its content; the slide lies in the folder of its name
    kind = magic.sniff(head) or magic.vendor(head)
    if not kind:
        what, fix = magic.describe(head)
        raise ReadError(f"is no image that can be read: it looks like {what} ({fix})")
    return kind


def _unreadable(path: str | Path, error: OSError) -> ReadError:
    if isinstance(error, FileNotFoundError):
        if re.match(r"[A-Za-z]{2,}:/", str(path)):  # one letter is a drive
            return ReadError("is an address, not a file (download it first)")
        folder = Path(path).parent
        try:
            close = suggest(Path(path).name, os.listdir(folder))
        except OSError:
            return ReadError(f"no such file: there is no folder {folder}")
        return ReadError(f"no such file{f' ({close})' if close else ''}")
    if isinstance(error, PermissionError):
        return ReadError("no permission to read it (ask its owner, or copy it where you may)")
    return ReadError(f"cannot be opened: {error.strerror or error}")
