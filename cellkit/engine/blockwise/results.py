"""What a block came to, as bytes that the run's state keeps: arrays by name, without pickle."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from cellkit.core.histogram import BINS, Histogram
from cellkit.engine.blockwise.joins import Open

__all__ = ["pack", "pack_histogram", "pack_open", "unpack", "unpack_histogram", "unpack_open"]


def pack(found: Mapping[str, np.ndarray | bytes]) -> bytes:
    """Return arrays, and bytes, as one piece of bytes."""
    sink = io.BytesIO()
    arrays: dict[str, Any] = {}
    for name, value in found.items():
        arrays[name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    np.savez(sink, **arrays)
    return sink.getvalue()


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Return what `pack` was given; bytes as uint8 arrays."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def pack_histogram(name: str, histogram: Histogram) -> dict[str, np.ndarray]:
    """Return the counts that are not 0."""
    channel, key = np.nonzero(histogram.counts)
    kept = histogram.counts[channel, key]
    return {
        f"{name}-at": np.stack([channel, key]).astype(np.int32),
        f"{name}-n": kept,
        f"{name}-c": np.array([histogram.channels]),
    }


def unpack_histogram(name: str, found: Mapping[str, np.ndarray]) -> Histogram:
    """Return what `pack_histogram` was given."""
    counts = np.zeros((int(found[f"{name}-c"][0]), BINS), np.int64)
    channel, key = found[f"{name}-at"]
    counts[channel, key] = found[f"{name}-n"]
    return Histogram(counts)


def pack_open(name: str, some: Open) -> dict[str, np.ndarray]:
    """Return the open pieces of a block as arrays."""
    sides = {f"{name}-s{i}": side for i, side in enumerate(some.sides)}
    return {**sides, f"{name}-m": some.marked, f"{name}-p": some.seed}


def unpack_open(name: str, found: Mapping[str, np.ndarray]) -> Open:
    """Return what `pack_open` was given."""
    top, bottom, left, right = (found[f"{name}-s{i}"] for i in range(4))
    return Open((top, bottom, left, right), found[f"{name}-m"], found[f"{name}-p"])
