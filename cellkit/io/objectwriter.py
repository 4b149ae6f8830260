"""Write files of objects: a set streamed into one file, or a file an image; atomically, and telling what is lost."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from cellkit.core.errors import FormatError, UsageError, WriteError
from cellkit.io.naming import safe
from cellkit.io.objects import FORMATS
from cellkit.io.temporary import atomic, write_failure

if TYPE_CHECKING:
    from cellkit.formats.objects import ObjectSet

__all__ = ["Losses", "image_suffix", "write_image_objects", "write_objects"]

_LOST = {
    "masks": "the masks of {n:,} objects (their boxes remain)",
    "ids": "the numbers of {n:,} objects (they are counted from 1, or not at all)",
    "classes": "the classes of {n:,} objects",
    "scores": "the scores of {n:,} objects",
    "crowd": "the crowd flag of {n:,} objects",
    "pixel_size": "the pixel size of {n:,} images",
}


class Losses:
    """What a format could not hold of what was written, counted; its text is one line a kind."""

    def __init__(self, form: str) -> None:
        self.form = FORMATS[form]
        self.counts: dict[str, int] = {}
        self.notes: dict[str, int] = {}
        self.without_pixels = 0

    def add(self, objects: ObjectSet) -> None:
        """Count what is lost of one image."""
        n, holds = len(objects), self.form.holds
        there = {
            "masks": n if objects.runs is not None else 0,
            "ids": n if not np.array_equal(objects.ids, np.arange(1, n + 1)) else 0,
            "classes": sum(map(bool, objects.classes or ())),
            "scores": n if objects.scores is not None else 0,
            "crowd": int(objects.crowd.sum()) if objects.crowd is not None else 0,
            "pixel_size": int(objects.pixel_size is not None),
        }
        for what, count in there.items():
            if count and what not in holds:
                self.counts[what] = self.counts.get(what, 0) + count
        for note in objects.notes:
            self.notes[note] = self.notes.get(note, 0) + 1

    def lines(self) -> list[str]:
        """Return what was lost, and what the reader had to decide, as sentences."""
        lost = [_LOST[what].format(n=n) for what, n in self.counts.items()]
        if self.without_pixels:
            lost.append(f"{self.without_pixels:,} objects without a pixel (too small, or outside their image)")
        noted = [f"{note} ({n:,} image{'s' if n != 1 else ''})" for note, n in self.notes.items()]
        return [f"dropped, as {self.form.meaning} cannot hold it: {text}" for text in lost] + noted


def write_objects(
    path: str | Path, sets: Iterable[ObjectSet], form: str, *, scratch: str | Path | None = None
) -> tuple[int, Losses]:
    """Write the objects of images, one image at a time, and return how many images there were and what was lost.

    A format that holds a whole set makes the file `path`. Of the others `path` is a folder for a file an image, or,
    where it has a suffix, the file of the only image. Raises `WriteError`, `UsageError` and `FormatError`.
    """
    path = Path(path)
    losses = Losses(form)
    if "masks" in FORMATS[form].holds and form not in ("coco", "coco-results", "geojson"):
        sets = _with_pixels(sets, losses)
    if not FORMATS[form].whole_set:
        return _write_each(path, sets, form, losses), losses
    _make(path.parent)
    if form == "rle":
        return _write_rle(path, sets, losses, scratch), losses
    return _write_coco(path, sets, form == "coco-results", losses, scratch), losses


def _with_pixels(sets: Iterable[ObjectSet], losses: Losses) -> Iterator[ObjectSet]:
    """Leave out objects that are smaller than a pixel, or lie outside their image."""
    for objects in sets:
        there = np.ones(len(objects), bool) if objects.runs is None else objects.areas > 0
        if not there.all():
            losses.without_pixels += int((~there).sum())
            objects = objects.take(np.flatnonzero(there))
        yield objects


def image_suffix(form: str) -> str:
    """Return the suffix of the file of one image."""
    return FORMATS[form].suffixes[0]


def write_image_objects(path: str | Path, objects: ObjectSet, form: str, *, scratch: str | Path | None = None) -> None:
    """Write one image's objects as a file of a format that has one an image, YOLO excepted."""
    if form == "labels":
        from cellkit.io.writer import write_labels

        write_labels(path, objects.labels(), objects.pixel_size, scratch=scratch)
        return
    if form == "rois":
        from cellkit.formats import imagej

        data = imagej.encode(objects)
    elif form == "geojson":
        from cellkit.formats import geojson

        data = geojson.encode(objects).encode("utf-8")
    else:
        from cellkit.formats import voc

        data = voc.encode(objects).encode("utf-8")
    with atomic(path, scratch) as temporary:
        temporary.write_bytes(data)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failure(folder, error) from error


def _write_each(path: Path, sets: Iterable[ObjectSet], form: str, losses: Losses) -> int:
    single = path.suffix.lower() in FORMATS[form].suffixes and not path.is_dir()
    folder = path.parent if single else path
    _make(folder)
    written: set[str] = set()
    numbers: dict[str, int] = {}
    for objects in sets:
        if single and written:
            raise UsageError(f"{path}: there are several images; give a folder, and --to {form}")
        file = path if single else folder / f"{safe(objects.name)}{image_suffix(form)}"
        if file.name.casefold() in written:
            raise WriteError(f"{file}: two images have this name")
        written.add(file.name.casefold())
        losses.add(objects)
        if form == "yolo":
            _write_yolo(file, objects, numbers)
        else:
            write_image_objects(file, objects, form)
    if form == "yolo":
        names = sorted(numbers, key=lambda name: numbers[name])
        with atomic(folder / "classes.txt") as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="")
    return len(written)


def _write_yolo(file: Path, objects: ObjectSet, numbers: dict[str, int]) -> None:
    from cellkit.formats import yolo
    from cellkit.formats.objects import UNNAMED

    objects = objects.with_(classes=tuple(name or UNNAMED for name in objects.classes or [""] * len(objects)))
    # In the order of the data set's own numbers, so that from YOLO to YOLO they stay.
    for name in [*sorted(objects.categories, key=lambda name: objects.categories[name]), *(objects.classes or ())]:
        if name.splitlines() != [name]:
            raise FormatError(f"image {objects.name!r}: a list of classes cannot hold the name {name!r}")
        numbers.setdefault(name, len(numbers))
    text = yolo.encode(objects, numbers)
    with atomic(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _write_rle(path: Path, sets: Iterable[ObjectSet], losses: Losses, scratch: str | Path | None) -> int:
    from cellkit.formats import kaggle

    count = 0
    with atomic(path, scratch) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write(f"{kaggle.HEADER}\n")
        for objects in sets:
            stream.writelines(kaggle.encode(objects))
            losses.add(objects)
            count += 1
    return count


def _write_coco(
    path: Path, sets: Iterable[ObjectSet], results: bool, losses: Losses, scratch: str | Path | None
) -> int:
    """Write images as they come; annotations wait in temporary files, as they stand behind all images."""
    from cellkit.formats import coco

    numbering = coco.Numbering()
    count = 0
    with contextlib.ExitStack() as stack:
        folder = path.parent if scratch is None else Path(scratch)
        temporary = stack.enter_context(atomic(path, scratch))
        images, annotations = (stack.enter_context(_spool(folder)) for _ in range(2))
        for objects in sets:
            image, lines = coco.entries(objects, numbering, results=results)
            if not objects.continued:
                images.write(f"{coco.dumps(image)}\n")
                count += 1
            annotations.writelines(f"{line}\n" for line in lines)
            losses.add(objects)
        text = (
            coco.results_document(_lines(annotations))
            if results
            else coco.document(_lines(images), _lines(annotations), numbering)
        )
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            stream.writelines(text)
    return count


def _spool(folder: Path) -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=folder, prefix=".cellkit-")


def _lines(stream: IO[str]) -> Iterator[str]:
    stream.seek(0)
    for line in stream:
        yield line.rstrip("\n")
