"""The run-length codes of a run as label images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cellkit.core.errors import FormatError, ReadError
from cellkit.diff.runs import Run

__all__ = ["Codes"]


class Codes:
    """``rle.csv`` of a run, and the sizes of its images from ``images.csv``. Raises `ReadError`, `FormatError`."""

    def __init__(self, run: Run) -> None:
        self.path = run.folder / "rle.csv"
        self._codes: dict[str, list[str]] = {}
        for row in _rows(self.path, ("ImageId", "EncodedPixels")):
            self._codes.setdefault(row["ImageId"], []).append(row["EncodedPixels"])
        sizes = _rows(run.folder / "images.csv", ("image", "height", "width"))
        self._sizes = {r["image"]: (int(r["height"]), int(r["width"])) for r in sizes if r["height"].isdecimal()}

    def labels(self, image: str) -> np.ndarray:
        """Return the objects of an image as labels, int32 (y, x). Raises `FormatError`."""
        from cellkit.formats.rle import decode_labels

        if image not in self._sizes:
            raise FormatError(f"{self.path}: the size of {image!r} is not known")
        return decode_labels([code for code in self._codes.get(image, ()) if code], self._sizes[image], name=image)


def _rows(path: Path, wanted: tuple[str, ...]) -> list[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)  # one object's code may be long
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            rows = list(reader)
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: is no CSV: {error}") from error
    lacking = [name for name in wanted if name not in (reader.fieldnames or ())]
    if lacking:
        raise FormatError(f"{path}: lacks the column {', '.join(lacking)}")
    return rows
