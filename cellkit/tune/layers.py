"""Layers of many images, kept in memory within a budget, beyond it in a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from cellkit.core.sample import Layer, Sample

__all__ = ["LayerStore"]

_SMALL = 4096
_DISK_SPEED = 50e6
"""Bytes a second that a disk reads at least, copies included."""
_SPARE = 2**30
"""Bytes of a disk that are never taken."""


@dataclass
class _Entry:
    """A sample whose arrays may lie in files, by layer."""

    sample: Sample
    size: int
    files: Mapping[str, Path] = field(default_factory=dict)


class LayerStore:
    """Samples by two keys: what was done to them, and of which image they are. Safe to use from many threads.

    `memory` and `disk` (None: half of what is free) bound the bytes of all arrays kept. Where there is no room, what
    was done longest ago without being asked for goes first, but nothing of the present round (see `begin`) and nothing
    `lasting`. The disk takes what is lasting, and what takes longer to make than to read. A sample that finds no room
    is not kept: whoever asks for it has to make it again. `close` removes the folder.
    """

    def __init__(self, memory: int, disk: int | None = None, folder: str | Path | None = None) -> None:
        self.memory, self._disk, self._given = memory, disk, folder
        self.used = self.used_on_disk = 0
        self.full = False
        self._kept: OrderedDict[str, dict[str, _Entry]] = OrderedDict()
        self._lasting: set[str] = set()
        self._present: set[str] = set()
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._files = 0

    def __enter__(self) -> LayerStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str, name: str) -> Sample | None:
        """Return what was kept, or None."""
        with self._lock:
            entry = self._kept.get(key, {}).get(name)
            if entry is not None:
                self._kept.move_to_end(key)
                self._present.add(key)
        if entry is None or not entry.files:
            return entry.sample if entry is not None else None
        try:
            layers = {n: self._load(entry, n, layer) for n, layer in entry.sample.layers.items()}
        except FileNotFoundError:  # given up for another since
            return None
        return replace(entry.sample, layers=MappingProxyType(layers))

    def begin(self) -> None:
        """Begin a round: what earlier ones have kept may be given up for it."""
        with self._lock:
            self._present.clear()

    def put(self, key: str, name: str, sample: Sample, *, lasting: bool = False, seconds: float = 0.0) -> None:
        """Keep a sample that took `seconds` to make, if there is or can be made room for it."""
        size = _bytes(sample)
        on_disk = lasting or seconds > size / _DISK_SPEED
        with self._lock:
            if name in self._kept.get(key, {}):
                return
            if lasting:
                self._lasting.add(key)
            self._present.add(key)
            where = self._room(size, on_disk)
            if where == "memory":
                self.used += size
                self._kept.setdefault(key, {})[name] = _Entry(sample, size)
            elif where == "disk":
                self.used_on_disk += size
        if where == "disk":
            self._put_on_disk(key, name, sample, size)
        elif not where:
            self.full = True

    def close(self) -> None:
        """Forget everything and remove the temporary folder."""
        with self._lock:
            self._kept.clear()
            self.used = self.used_on_disk = 0
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None

    def _room(self, size: int, on_disk: bool) -> str:
        """Return where `size` bytes find room, having given up what may be; empty where nowhere."""
        while True:
            if self.used + size <= self.memory:
                return "memory"
            if on_disk and self.used_on_disk + size <= self._most_on_disk():
                return "disk"
            old = next((k for k in self._kept if k not in self._lasting and k not in self._present), None)
            if old is None:
                return ""
            for entry in self._kept.pop(old).values():
                self._give_back(entry)

    def _give_back(self, entry: _Entry) -> None:
        if entry.files:
            self.used_on_disk -= entry.size
            for path in set(entry.files.values()):
                path.unlink(missing_ok=True)
        else:
            self.used -= entry.size

    def _most_on_disk(self) -> int:
        if self._disk is None:
            free = shutil.disk_usage(self._given or tempfile.gettempdir()).free
            self._disk = max(0, min(free // 2, free - _SPARE))
        return self._disk

    def _put_on_disk(self, key: str, name: str, sample: Sample, size: int) -> None:
        files: dict[str, Path] = {}
        by_place: dict[tuple[int, tuple[int, ...]], Path] = {}
        kept = dict(sample.layers)
        try:
            for layer_name, layer in sample.layers.items():
                value = layer.value
                if not isinstance(value, np.ndarray) or _array_bytes(value) < _SMALL:
                    continue
                place = _place(value)
                if place not in by_place:
                    path = self._new_file()
                    np.save(path, value)
                    by_place[place] = path
                files[layer_name] = by_place[place]
                kept[layer_name] = replace(layer, value=None)
        except OSError:  # the disk is full: what it would have held is made again
            for path in by_place.values():
                path.unlink(missing_ok=True)
            with self._lock:
                self.used_on_disk -= size
                self._disk = self.used_on_disk
                self.full = True
            return
        with self._lock:
            entry = _Entry(replace(sample, layers=MappingProxyType(kept)), size, files)
            self._kept.setdefault(key, {})[name] = entry

    def _new_file(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="cellkit-tune-", dir=self._given))
            self._files += 1
            return self._folder / f"{self._files}.npy"

    @staticmethod
    def _load(entry: _Entry, name: str, layer: Layer) -> Layer:
        if name not in entry.files:
            return layer
        value = np.load(entry.files[name])
        value.setflags(write=False)
        return replace(layer, value=value)


def _bytes(sample: Sample) -> int:
    """Return the bytes that a sample's layers take, arrays that are shared counted once."""
    arrays = {}
    rest = 0
    for layer in sample.layers.values():
        if isinstance(layer.value, np.ndarray):
            arrays[_place(layer.value)] = _array_bytes(layer.value)
        else:
            rest += _other_bytes(layer.value)
    return sum(arrays.values()) + rest


def _place(array: np.ndarray) -> tuple[int, tuple[int, ...]]:
    return array.__array_interface__["data"][0], array.shape


def _array_bytes(array: np.ndarray) -> int:
    return array.itemsize if not any(array.strides) else array.nbytes


def _other_bytes(value: Any) -> int:
    """Return about how many bytes boxes, instances or a table take."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (tuple, list)):
        return sum(_other_bytes(one) for one in value)
    if is_dataclass(value):
        return sum(_other_bytes(getattr(value, one.name)) for one in fields(value))
    usage = getattr(value, "memory_usage", None)
    return int(usage(deep=True).sum()) if callable(usage) else 64
