"""The chain of a TIFF's directories: whether all of it lies within the file.

Readers pass over what lies beyond the end without a word, and a file cut off there would lose pages or metadata.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from cellkit.core.errors import ReadError

__all__ = ["check_chain", "truncated"]

_SIZES = np.zeros(65536, np.uint64)
_SIZES[1:19] = [1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8]
# What the picture and its meaning hang on. Private tags of a camera's software may be broken and do no harm.
_TAGS = np.zeros(65536, bool)
_TAGS[[*range(254, 348), 50838, 50839]] = True
_MOST_PAGES = 1_000_000


def check_chain(file: Any, size: int) -> None:
    """Raise `ReadError` where a directory, or a value that a picture needs, lies beyond the end of `file`."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    if len(head) < (16 if big else 8):
        raise truncated("its header")
    if not big and size >= 2**32:
        return  # NDPI and others go beyond 32 bits in ways of their own
    count_code, offset_code = (f"{order}Q", f"{order}Q") if big else (f"{order}H", f"{order}I")
    count_size, offset_size = struct.calcsize(count_code), struct.calcsize(offset_code)
    fields = (("tag", "u2"), ("type", "u2"), ("count", f"u{offset_size}"), ("at", f"u{offset_size}"))
    entry = np.dtype([(name, order + code) for name, code in fields])
    at = struct.unpack_from(offset_code, head, 8 if big else 4)[0]
    seen: set[int] = set()
    while at and len(seen) < _MOST_PAGES:
        if at in seen:
            raise ReadError("the TIFF is damaged: its directories go round in a circle")
        seen.add(at)
        file.seek(at)
        start = file.read(count_size)
        if len(start) < count_size:
            raise truncated("a directory")
        length = struct.unpack(count_code, start)[0] * entry.itemsize
        if at + count_size + length + offset_size > size:
            raise truncated("a directory")
        data = file.read(length + offset_size)
        entries = np.frombuffer(data, entry, length // entry.itemsize)
        with np.errstate(over="ignore"):
            lengths = entries["count"].astype(np.uint64) * _SIZES[entries["type"]]
            beyond = (entries["at"] > size) | (lengths > size) | (entries["at"].astype(np.uint64) + lengths > size)
        if (beyond & (lengths > offset_size) & _TAGS[entries["tag"]]).any():
            raise truncated("a part of its metadata")
        at = struct.unpack_from(offset_code, data, length)[0]


def truncated(what: str) -> ReadError:
    """Return the error that says `what` of a TIFF is not there."""
    verb = "lie" if what.endswith("s") else "lies"
    return ReadError(f"the TIFF is truncated: {what} {verb} beyond the end of the file (copy it again)")
