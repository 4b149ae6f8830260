"""Layers between two passes, on disk: one chunked array a value, of which any window can be read."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import WriteError
from cellkit.core.kinds import KINDS
from cellkit.core.sample import Layer
from cellkit.engine.blockwise.values import Value
from cellkit.grid.cover import Window

__all__ = ["CHUNK", "Store"]

CHUNK = 512
"""Sides of a chunk, at most; those of a block are a multiple, so that no two blocks write into one chunk."""


class Store:
    """The values that a run of blocks keeps in `folder`, of an image of `shape`, in chunks of side `chunk`.

    Safe to use from many processes, where no two write into one chunk.

    Raises `WriteError` where the disk is full or cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], chunk: int = CHUNK) -> None:
        self.folder, self.shape, self.chunk = folder, shape, chunk
        self._open: dict[str, Any] = {}
        self._told: dict[str, dict[str, Any]] = {}

    def write(self, value: Value, core: Window, layer: Layer) -> None:
        """Write the pixels of one block."""
        with _disk(self.folder):
            self._array(value, layer)[core.slices] = layer.value

    def write_array(self, name: str, core: Window, array: np.ndarray) -> None:
        """Write the pixels of one block of an array that is no layer of a recipe, under `name`."""
        with _disk(self.folder):
            self._create(name, array.dtype, array.shape[2:])[core.slices] = array

    def read_array(self, name: str, window: Window) -> np.ndarray:
        """Return part of what `write_array` has written."""
        return np.ascontiguousarray(self._existing(name)[window.slices])

    def read(self, value: Value, window: Window) -> Layer:
        """Return a window of a value that every block has written."""
        array = self._existing(value.key)
        if value.key not in self._told:
            self._told[value.key] = json.loads((self.folder / f"{value.key}.json").read_text(encoding="utf-8"))
        told = self._told[value.key]
        return Layer(KINDS[told["kind"]], np.ascontiguousarray(array[window.slices]), tuple(told["names"]))

    def _array(self, value: Value, layer: Layer) -> Any:
        told = self.folder / f"{value.key}.json"
        if value.key not in self._open and not told.exists():
            from cellkit.io import atomic

            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic(told) as path:
                path.write_text(json.dumps({"kind": layer.kind.name, "names": layer.names}), encoding="utf-8")
        return self._create(value.key, layer.value.dtype, layer.value.shape[2:])

    def _existing(self, name: str) -> Any:
        if name not in self._open:
            import zarr

            self._open[name] = zarr.open_array(str(self.folder / name), mode="r+")
        return self._open[name]

    def _create(self, name: str, dtype: Any, more: tuple[int, ...]) -> Any:
        if name in self._open:
            return self._open[name]
        path = self.folder / name
        if not path.exists():
            self._make(path, dtype, more)
        return self._existing(name)

    def _make(self, path: Path, dtype: Any, more: tuple[int, ...]) -> None:
        """Create an array beside its place and move it there, so that of several makers the first one counts."""
        import zarr
        from numcodecs import Blosc

        self.folder.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        zarr.create(
            (*self.shape, *more), store=str(own), chunks=(self.chunk, self.chunk, *more), dtype=dtype, fill_value=0,
            compressor=Blosc("lz4", 1, Blosc.BITSHUFFLE), zarr_format=2, overwrite=True,
        )  # fmt: skip
        try:
            own.rename(path)
        except OSError:
            shutil.rmtree(own, ignore_errors=True)
            if not path.exists():
                raise


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error
