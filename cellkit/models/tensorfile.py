"""Files of tensors (safetensors), read with the care that files from anywhere need. Nothing here needs torch.

A file is eight bytes, the length of a header, little-endian; the header, a JSON object that maps each tensor to its
type, shape and bytes; then the bytes. Nothing in it is ever executed, so that reading one cannot run anybody's code.

Source: https://github.com/huggingface/safetensors, README.md, "Format".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cellkit.core import FormatError

__all__ = [
    "CARD_KEY",
    "CARD_SHA_KEY",
    "ITEM_BYTES",
    "TensorFile",
    "TensorPlace",
    "digest",
    "file_kind",
    "read_header",
    "text_sha",
]

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes of one number, by the name of its type in the header."""

CARD_KEY = "cellkit_card"
"""The key of a file's metadata under which its card lies."""
CARD_SHA_KEY = "cellkit_card_sha256"
"""The key of a file's metadata that holds the sha256 of its card's text."""

_MOST_HEADER = 100_000_000  # what the reference implementation allows
_MOST_AXES = 16
_EXPORT = "load it where it comes from and save it again, as safetensors, with cellkit.models.save_model"

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", f"a zip archive, as torch.save writes: it holds pickles, which are never loaded; {_EXPORT}"),
    (b"\x80\x02", f"a pickle: pickles can run any code and are never loaded; {_EXPORT}"),
    (b"\x80\x03", f"a pickle: pickles can run any code and are never loaded; {_EXPORT}"),
    (b"\x80\x04", f"a pickle: pickles can run any code and are never loaded; {_EXPORT}"),
    (b"\x80\x05", f"a pickle: pickles can run any code and are never loaded; {_EXPORT}"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file that it points to; fetch it with `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"\x89HDF", f"an HDF5 file, as Keras writes; {_EXPORT}"),
    (b"\x93NUMPY", f"a numpy array; {_EXPORT}"),
    (b"GGUF", "a GGUF file, which holds no network for images"),
)


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of a file: type (a key of `ITEM_BYTES`), shape, and the first byte and the byte after the last."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorFile:
    """What the header of a file says: its metadata, and where each tensor lies, in bytes of the file."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorPlace]

    def read(self, file: BinaryIO, name: str) -> bytearray:
        """Return the bytes of one tensor, writable. Raises `FormatError` where the file ends before they do."""
        place = self.tensors[name]
        data = bytearray(place.end - place.begin)
        file.seek(place.begin)
        if file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise FormatError(f"{self.path}: ends within the tensor {name!r}: the file is cut off; fetch it again")
        return data


def read_header(path: Path) -> TensorFile:
    """Read and check the header of a safetensors file.

    Raises `FormatError` for any other file, saying what it is, and for one that breaks the rules of the format: it is
    cut off, its header is no JSON object, or its tensors overlap, leave gaps or do not have the size of their shape.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if size < 9 or length > min(size - 8, _MOST_HEADER) or length < 2:
                raise _no_safetensors(path, start + file.read(248), size)
            header = file.read(length)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if header[:1] != b"{":
        raise _no_safetensors(path, start + header[:248], size)
    try:
        values = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: a damaged safetensors file: its header is no JSON: {error}") from error
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: a damaged safetensors file: its metadata are not texts")
    places = {name: _place(path, name, value, 8 + length) for name, value in values.items()}
    _check_cover(path, places, 8 + length, size)
    return TensorFile(path, metadata, places)


def digest(tensors: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> str:
    """Return the sha256, as hexadecimal digits, of (name, type, shape, bytes) of tensors, in the order of their names.

    The order and padding within a file do not matter, nor do its metadata.
    """
    total = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda item: item[0]):
        total.update(json.dumps([name, dtype, list(shape)]).encode() + b"\n")
        total.update(data)
    return total.hexdigest()


def text_sha(text: str) -> str:
    """Return the sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_kind(start: bytes) -> str:
    """Return what the file that begins with `start` is and what to do about it, or an empty string where unknown."""
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page: the download gave a page (an error, or a form to sign in) in place of the file"
    return ""


def _no_safetensors(path: Path, start: bytes, size: int) -> FormatError:
    if size == 0:
        return FormatError(f"{path}: an empty file; fetch it again")
    kind = file_kind(start)
    if not kind and start[8:9] == b"{":
        kind = f"a safetensors file that is cut off after {size:,} bytes; fetch it again"
    return FormatError(f"{path}: not a safetensors file but {kind or 'something else, or damaged'}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _place(path: Path, name: str, value: Any, start: int) -> TensorPlace:
    """Return where a tensor lies; check that its bytes are as many as its shape says."""
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: a damaged safetensors file: no tensor: {name!r}") from error
    if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) > _MOST_AXES:
        raise FormatError(f"{path}: a damaged safetensors file: tensor {name!r}: shape or place are no whole numbers")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise FormatError(f"{path}: tensor {name!r}: unknown type {str(dtype)[:40]!r}")
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise FormatError(f"{path}: a damaged safetensors file: tensor {name!r}: its shape does not fit its bytes")
    return TensorPlace(dtype, tuple(shape), start + begin, start + end)


def _check_cover(path: Path, places: Mapping[str, TensorPlace], start: int, size: int) -> None:
    """Check that the tensors fill the file, without gap and overlap, as the format demands."""
    at = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != at:
            raise FormatError(f"{path}: a damaged safetensors file: gap or overlap before tensor {name!r}")
        at = place.end
    if at > size:
        raise FormatError(
            f"{path}: a safetensors file that is cut off: {size:,} of {at:,} bytes are there; fetch it again"
        )
    if at != size:
        raise FormatError(f"{path}: a damaged safetensors file: {size - at:,} bytes too many at its end")
