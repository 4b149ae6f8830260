"""Layers that are no labels, as chunked arrays among the results of a run, written block by block."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.sample import Layer
from cellkit.engine.blockwise.spill import disk
from cellkit.engine.blockwise.values import Value
from cellkit.grid.cover import Window

__all__ = ["CHUNK", "Store"]

CHUNK = 512
"""Sides of a chunk, at most; those of a block are a multiple, so that no two blocks write into one chunk."""


class Store:
    """Arrays in `folder`, of an image of `shape`, in chunks of side `chunk`, one for each value.

    Safe to use from many processes, where no two write into one chunk.

    Raises `WriteError` where the disk is full or cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], chunk: int = CHUNK) -> None:
        self.folder, self.shape, self.chunk = folder, shape, chunk
        self._open: dict[str, Any] = {}

    def write(self, value: Value, core: Window, layer: Layer) -> None:
        """Write the pixels of one block."""
        with disk(self.folder):
            self._array(value.key, layer.value)[core.slices] = layer.value

    def _array(self, name: str, values: np.ndarray) -> Any:
        if name not in self._open:
            import zarr

            path = self.folder / name
            if not path.exists():
                self._make(path, values.dtype, values.shape[2:])
            self._open[name] = zarr.open_array(str(path), mode="r+")
        return self._open[name]

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
