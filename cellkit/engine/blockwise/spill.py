"""What passes leave for later ones, on disk: of every value one file, in which each block's pixels lie together.

Plain bytes, as compressing pictures costs more than it saves: a block is written by one call, and of any window only
the rows that it meets are read. The objects of a block, which are read back whole and shrink to a hundredth, are
compressed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import WriteError
from cellkit.core.kinds import KINDS
from cellkit.core.sample import Layer
from cellkit.engine.blockwise.values import Value
from cellkit.grid.cover import Window

__all__ = ["Spill", "disk"]


class Spill:
    """The values that a run over blocks of side `side` keeps in `folder`, of an image of `shape`.

    Safe to use from many processes, where no two write the same block. Raises `WriteError` where the disk is full or
    cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], side: int) -> None:
        self.folder, self.shape, self.side = folder, shape, side
        self._told = cache(self._tell)

    def write(self, value: Value, core: Window, layer: Layer) -> None:
        """Write the pixels of one block."""
        path, array = self._path(value), np.ascontiguousarray(layer.value)
        with disk(self.folder):
            if not path.exists():
                self._begin(path, array, layer)
            with path.open("r+b", buffering=0) as file:
                file.seek(self._offset(core) * array.dtype.itemsize * int(np.prod(array.shape[2:])))
                left = memoryview(array.reshape(-1).view(np.uint8))
                while left:
                    left = left[file.write(left) :]

    def read(self, value: Value, window: Window) -> Layer:
        """Return a window of a value that every block has written."""
        kind, names, dtype, more = self._told(value)
        made = np.empty((*window.shape, *more), dtype)
        for core in self._blocks(window):
            offset = self._offset(core) * dtype.itemsize * int(np.prod(more))
            block = np.memmap(self._path(value), dtype, "r", offset, (*core.shape, *more))
            part = window.clipped(core)
            made[part.within(window).slices] = block[part.within(core).slices]
        return Layer(KINDS[kind], made, names)

    def write_ids(self, value: Value, core: Window, ids: np.ndarray) -> None:
        """Write the objects of one block, int32 (y, x)."""
        from cellkit.io import atomic

        path = self._ids(value, core)
        with disk(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as temporary:
                temporary.write_bytes(_blosc().encode(np.ascontiguousarray(ids, np.int32)))

    def read_ids(self, value: Value, core: Window) -> np.ndarray:
        """Return what `write_ids` was given."""
        ids = np.frombuffer(_blosc().decode(self._ids(value, core).read_bytes()), np.int32)
        return ids.reshape(core.shape)

    def _path(self, value: Value) -> Path:
        return self.folder / f"{value.key}.raw"

    def _ids(self, value: Value, core: Window) -> Path:
        return self.folder / f"ids-{value.key}" / f"{core.top}-{core.left}"

    def _offset(self, core: Window) -> int:
        """Return the pixels that lie before those of a block: all rows of blocks above it, and what is left of it."""
        return core.top * self.shape[1] + (core.bottom - core.top) * core.left

    def _blocks(self, window: Window) -> Iterator[Window]:
        side, (height, width) = self.side, self.shape
        for top in range(window.top // side * side, window.bottom, side):
            for left in range(window.left // side * side, window.right, side):
                yield Window(top, left, min(top + side, height), min(left + side, width))

    def _begin(self, path: Path, array: np.ndarray, layer: Layer) -> None:
        """Say what the file will hold, and make it."""
        from cellkit.io import atomic

        self.folder.mkdir(parents=True, exist_ok=True)
        told = {"kind": layer.kind.name, "names": layer.names, "dtype": array.dtype.str, "more": array.shape[2:]}
        with atomic(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(told), encoding="utf-8")
        path.touch()

    def _tell(self, value: Value) -> tuple[str, tuple[str, ...], np.dtype, tuple[int, ...]]:
        told = json.loads(self._path(value).with_suffix(".json").read_text(encoding="utf-8"))
        return told["kind"], tuple(told["names"]), np.dtype(told["dtype"]), tuple(told["more"])


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Say of what the disk does not take that it was `folder`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _blosc() -> Any:
    from numcodecs import Blosc

    return Blosc("lz4", 1, Blosc.NOSHUFFLE)
