"""Read images ahead of the work on them, within bounds, and tell which earlier results still stand."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from cellkit.core.check import Plan
from cellkit.core.errors import CellkitError
from cellkit.core.sample import Sample
from cellkit.engine.footprint import Room, bytes_per_pixel
from cellkit.engine.manifest import Record
from cellkit.engine.outputs import layers_for
from cellkit.grid.cover import Window

if TYPE_CHECKING:
    from cellkit.io import Slide, Source

__all__ = ["Ahead", "Reader", "Reading", "digest_files", "size_of"]

_READ_AHEAD_BYTES = 512 * 2**20
_SMALL = 4 * 2**20
"""Bytes of a file whose pixels are taken to fit in memory."""


@dataclass(frozen=True)
class Reading:
    """A decoded image, or an earlier record that still holds, or the reason why there is neither.

    `size` is what the image itself takes in memory, `room` what was taken of the `Room` for it and its layers. `large`:
    why it does not fit in memory as a whole, and must be done block by block.
    """

    digest: str = ""
    sample: Sample | None = None
    kept: Record | None = None
    reason: str = ""
    size: int = 0
    room: int = 0
    large: str = ""
    seconds: float = 0.0


class Ahead:
    """Bounds how much is read but not yet worked on.

    Readers wait while more than `limit` bytes lie ready, unless a worker has nothing to do but wait for them.
    """

    def __init__(self, limit: int = _READ_AHEAD_BYTES) -> None:
        self.limit, self.held, self.hungry, self.stopped = limit, 0, 0, False
        self.changed = threading.Condition()

    def wait_for_room(self) -> None:
        """Wait until little enough lies ready."""
        with self.changed:
            self.changed.wait_for(lambda: self.held < self.limit or self.hungry > 0 or self.stopped)

    def put(self, size: int) -> None:
        """Count what a reader has made ready."""
        with self.changed:
            self.held += size

    def take(self, reading: Future[Reading]) -> Reading:
        """Return what a reader has made ready, waiting for it."""
        with self.changed:
            self.hungry += 1
            self.changed.notify_all()
        try:
            result = reading.result()
        finally:
            with self.changed:
                self.hungry -= 1
        with self.changed:
            self.held -= result.size
            self.changed.notify_all()
        return result

    def stop(self) -> None:
        """Let every reader go on, because the run is ending."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


class TooLarge(CellkitError):
    """An image and its layers do not fit in the memory there is for them."""


@dataclass(frozen=True)
class Reader:
    """Reads the images of one run. `digest` is that of its recipe; `room` bounds the memory of images in work.

    `most`: bytes that one image and its layers may take. `level`, `mpp`: resolution, see `cellkit.io.open_slide`.
    """

    plan: Plan
    folder: Path
    digest: str
    room: Room
    most: int
    level: int | None = None
    mpp: float | None = None
    ahead: Ahead = field(default_factory=Ahead)

    def read(self, source: Source, before: Record | None) -> Reading:
        """Return the image, or the earlier result where that still stands, or why there is neither."""
        self.ahead.wait_for_room()
        started = perf_counter()
        digest, taken = "", 0
        try:
            if all(path.exists() for path in source.paths):  # read() names what is missing better than open() does
                digest = digest_files(source.paths)
            if before is not None and self._holds(before, digest):
                return Reading(digest, kept=before)
            taken = self._enter(source)
            sample = replace(self._decode(source), name=source.name)
        except TooLarge as error:
            return Reading(digest, large=str(error), seconds=perf_counter() - started)
        except (CellkitError, OSError, MemoryError) as error:
            self.room.leave(taken)
            return Reading(digest, reason=_reason(source, error), seconds=perf_counter() - started)
        size = sample["raw"].nbytes
        self.ahead.put(size)
        return Reading(digest, sample, size=size, room=taken, seconds=perf_counter() - started)

    def _decode(self, source: Source) -> Sample:
        from cellkit.io import read

        if self.level is None and self.mpp is None:
            return read(source, self.plan.recipe.read_options)
        with self.open(source) as slide:
            return slide.read(Window(0, 0, *slide.shape))

    def open(self, source: Source) -> Slide:
        """Open an image, at the level or the resolution that the run wants."""
        from cellkit.io import open_slide

        return open_slide(source, self.plan.recipe.read_options, level=self.level, mpp=self.mpp)

    def _shape(self, source: Source) -> tuple[int, int, int]:
        from cellkit.io.reader import probe

        if self.level is None and self.mpp is None:
            return probe(source, self.plan.recipe.read_options).shape
        with self.open(source) as slide:
            return slide.info.shape

    def _enter(self, source: Source) -> int:
        """Wait until there is memory for the image and all its layers. Raises `TooLarge` where there never is."""
        if self.room.limit is None and self.most and not _may_be_large(source.paths):
            return 0
        height, width, channels = self._shape(source)
        size = height * width * bytes_per_pixel(self.plan, layers_for(self.plan), channels)
        if not self.most:
            raise TooLarge(f"{source.paths[0]}: is to be done in blocks")
        if size > self.most:
            where = "--memory leaves" if self.room.limit is not None else "half of this machine's memory is"
            raise TooLarge(
                f"{source.paths[0]}: {height} x {width} px need about {_megabytes(size)} for their layers, and "
                f"{where} {_megabytes(self.most)}"
            )
        if self.room.limit is None:
            return 0
        self.room.enter(size)
        return size

    def _holds(self, before: Record, digest: str) -> bool:
        """Tell whether an earlier result still stands: same recipe, same file, every output still as written."""
        if before.status != "done" or before.recipe != self.digest or before.digest != digest or not digest:
            return False
        return all(size_of(self.folder / name) == size for name, size in before.files.items())


def _reason(source: Source, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{source.paths[0]}: {error.strerror or error}"
    return f"{source.paths[0]}: does not fit in memory" if isinstance(error, MemoryError) else str(error)


def _megabytes(size: int) -> str:
    return f"{max(size, 0) / 1e6:,.0f} MB"


def digest_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of files; of a folder, that of the names, sizes and times of what lies in it."""
    total = hashlib.sha256()
    stores = [path.with_name(f"{path.stem}_files") for path in paths if path.suffix.lower() == ".dzi"]
    for path in (*paths, *stores):
        if path.is_dir():  # a store of many files: reading all of them would take as long as the run
            for inner in sorted(path.rglob("*")):
                told = inner.stat()
                total.update(f"{inner.relative_to(path)} {told.st_size} {told.st_mtime_ns}".encode())
            continue
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
        total.update(b"\0")
    return total.hexdigest()


def _may_be_large(paths: Sequence[Path]) -> bool:
    """Tell whether it is worth looking into the header, before all of the file is read and decoded."""
    return any(path.is_dir() or size_of(path) > _SMALL for path in paths)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; -1 where there is none."""
    try:
        if path.is_dir():
            return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
        return path.stat().st_size
    except OSError:
        return -1
