"""How the C library keeps memory between the arrays of one block and those of the next."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_LARGE, _KEPT = 2**28, 2**30


def keep_memory() -> None:
    """Let memory that is given back be taken again, instead of being fetched from the system and zeroed each time.

    Left to itself glibc gives back every array of more than some megabytes at once, and each thread has a place of its
    own for the rest; arrays of a block's size are then zeroed anew for every step. Changes nothing where the C library
    is another.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return
    for what, value in ((_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _KEPT), (_ARENA_MAX, 1)):
        mallopt(what, value)
