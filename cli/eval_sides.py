"""What stands for the truth or the prediction of `cellkit eval`: folders, runs, RLE tables, COCO JSON, single files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Pairs", "Side", "paired", "read_groups", "source_images", "truth_side"]

_LAYERS = {"pixel": ("labels", "mask"), "semantic": ("classes", "labels")}
_IMAGE_COLUMNS = ("imageid", "image_id", "image", "id", "name", "stem", "file_name")
_TEXT_COLUMNS = ("encodedpixels", "encoded_pixels", "rle", "rle_mask", "pixels")
_SHOWN = 10

Size = tuple[int, int]


@dataclass(frozen=True)
class Side:
    """Label images by name: `read(name, size)` makes one.

    `sized`: the size must be given, since what is read does not hold it. `sizes` are those it knows of, `images` the
    pictures that belong to it. `single`: one label image, whatever it is called.
    """

    where: str
    names: tuple[str, ...]
    read: Callable[[str, Size | None], np.ndarray]
    sized: bool = False
    single: bool = False
    sizes: Mapping[str, Size] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """Two sides, the names they share, and those that only one has."""

    truth: Side
    pred: Side
    names: Mapping[str, tuple[str, str]]
    without_prediction: Sequence[str]
    without_truth: Sequence[str]
    images: Mapping[str, Path]

    def read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return truth and prediction of one image; raises a `CellkitError` that says which side is at fault."""
        from cellkit.core import UsageError

        first, second = self.names[name]
        size = self._size(name)
        if self.truth.sized and self.pred.sized and size is None:
            raise UsageError(f"image {name!r}: run-length codes do not hold the size of an image; give --images DIR")
        if self.truth.sized and size is None:
            pred = self.pred.read(second, None)
            return self.truth.read(first, pred.shape), pred
        truth = self.truth.read(first, size)
        return truth, self.pred.read(second, size or truth.shape)

    def _size(self, name: str) -> Size | None:
        for sizes in (self.truth.sizes, self.pred.sizes):
            if name in sizes:
                return sizes[name]
        if not (self.truth.sized and self.pred.sized) or name not in self.images:
            return None
        from cellkit.io import probe

        return probe(self.images[name]).shape[:2]


def paired(truth: Path, pred: Path, protocol: str, images: Path | None, allow_missing: bool) -> Pairs:
    """Open both sides and match their names. Raises `UsageError` where some have no partner and may not."""
    from cellkit.core import UsageError

    sides = [_side(path, protocol, what, other) for path, what, other in ((truth, "TRUTH", pred), (pred, "PRED", truth))]  # fmt: skip # noqa: E501
    one, two = sides
    pictures = {**one.images, **two.images, **source_images(images)}
    if one.single and two.single:
        name = truth.name
        return Pairs(
            one,
            two,
            {name: (one.names[0], two.names[0])},
            (),
            (),
            dict.fromkeys([name], next(iter(pictures.values()))) if pictures else {},
        )
    for side, path, what in ((one, truth, "TRUTH"), (two, pred, "PRED")):
        if side.single and not (two if side is one else one).sized and len((two if side is one else one).names) > 1:
            raise UsageError(f"{what} {path} is a file but the other side is a folder; give two folders or two files")
    there = set(two.names)
    both = {name: (name, name) for name in one.names if name in there}
    known = set(one.names)
    missing = [name for name in one.names if name not in there], [name for name in two.names if name not in known]
    if not both:
        raise UsageError(
            f"no file of {one.where} has a partner of the same name in {two.where} "
            f"(for instance {one.names[0]!r} and {two.names[0]!r})"
            if one.names and two.names
            else f"{one.where if not one.names else two.where} holds no image"
        )
    if any(missing) and not allow_missing:
        parts = [
            f"in {here} but not in {other}: {_some(names)}"
            for names, here, other in ((missing[0], one.where, two.where), (missing[1], two.where, one.where))
            if names
        ]
        raise UsageError("\n  ".join(["images without partner (--allow-missing leaves them out)", *parts]))
    return Pairs(one, two, both, *missing, pictures)


def truth_side(path: Path, protocol: str) -> Side:
    """Open the truth alone. Raises `UsageError` or `FormatError` where it is none."""
    return _side(path, protocol, "TRUTH", path)


def source_images(folder: Path | None) -> dict[str, Path]:
    """Return the images of a folder by name, none without one."""
    from cellkit.io import find

    return {} if folder is None else {source.name: source.paths[0] for source in find([folder])}


def read_groups(path: Path, column: str, option: str) -> dict[str, str]:
    """Return what `column`, which `option` named, says of each image in a CSV whose first column names the image."""
    from cellkit.core import UsageError
    from cellkit.core.errors import suggest

    header, rows = _table(path)
    if column not in header[1:]:
        hint = suggest(column, header[1:]) or f"it has {', '.join(header[1:]) or 'one column only'}"
        raise UsageError(f"{option} {column}: {path} has no such column; {hint}")
    return {_stem(row[header[0]]): row[column] for row in rows}


def _side(path: Path, protocol: str, what: str, other: Path) -> Side:
    from cellkit.core import UsageError

    suffix = path.suffix.lower()
    if path.is_file() and suffix in (".csv", ".json"):
        if protocol == "semantic":
            raise UsageError(f"{what} {path}: objects have no pixel classes; semantic scores need images of classes")
        return _rle_side(path) if suffix == ".csv" else _coco_side(path, other)
    if path.is_file():
        from cellkit.io import read_labels
        from cellkit.io.sources import safe_stem

        return Side(str(path), (safe_stem(path),), lambda _, __: read_labels(path), single=True)
    layers = _LAYERS.get(protocol, ("labels",))
    held = [path / layer for layer in layers if (path / layer).is_dir()]
    if held or not (path / "run.json").is_file():
        return _folder_side(held[0] if held else path, path)
    if protocol != "semantic" and (path / "rle.csv").is_file():
        return _rle_side(path / "rle.csv", *_run_images(path))
    wanted = " or ".join(layers)
    raise UsageError(f"{path}: the output of a run without {wanted}; run again with --outputs {layers[0]}")


def _folder_side(folder: Path, run: Path) -> Side:
    from cellkit.io import find, read_labels

    files = {source.name: source.paths[0] for source in find([folder])}
    return Side(str(folder), tuple(files), lambda name, _: read_labels(files[name]), images=_run_images(run)[1])


def _run_images(run: Path) -> tuple[dict[str, Size], dict[str, Path]]:
    """Return the sizes and files of the images of a run, as far as its account tells."""
    if not (run / "images.csv").is_file() or not (run / "run.json").is_file():
        return {}, {}
    rows = _table(run / "images.csv")[1]
    sizes = {
        row["image"]: (int(row["height"]), int(row["width"]))
        for row in rows
        if row.get("height", "").isdecimal() and row.get("width", "").isdecimal()
    }
    return sizes, {row["image"]: Path(row["source"]) for row in rows if row.get("source")}


def _rle_side(path: Path, sizes: Mapping[str, Size] | None = None, images: Mapping[str, Path] | None = None) -> Side:
    from cellkit.core import FormatError
    from cellkit.formats.rle import decode_labels

    header, rows = _table(path)
    lower = {name.strip().lower(): name for name in reversed(header)}
    image = next((lower[name] for name in _IMAGE_COLUMNS if name in lower), None)
    text = next((lower[name] for name in _TEXT_COLUMNS if name in lower), None)
    if image is None or text is None:
        raise FormatError(f"{path}: wanted the columns ImageId and EncodedPixels, got {', '.join(header) or 'none'}")
    codes: dict[str, list[str]] = {}
    for row in rows:
        codes.setdefault(_stem(row[image]), []).append(row[text].strip())
    if sizes:  # a run lists images without objects in its account only
        codes = {name: codes.get(name, []) for name in {**dict.fromkeys(sizes), **codes}}

    def read(name: str, size: Size | None) -> np.ndarray:
        if size is None:
            raise FormatError(f"{path}: image {name!r} needs a size")
        return decode_labels([code for code in codes[name] if code], size, name=name)

    return Side(str(path), tuple(codes), read, True, sizes=sizes or {}, images=images or {})


def _coco_side(path: Path, other: Path) -> Side:
    from cellkit.core import UsageError
    from cellkit.formats import coco

    text = path.read_bytes()
    if text.lstrip()[:1] == b"[":
        if other.suffix.lower() != ".json":
            raise UsageError(f"{path}: COCO results do not name their images; the other side must be their data set")
        frame = {int(one.image_id or 0): one for one in coco.decode_dataset(other.read_bytes(), str(other))}
        sets = coco.decode_results(text, frame, str(path))
    else:
        sets = coco.decode_dataset(text, str(path))
    named = {one.name: one for one in sets}
    if len(named) < len(sets):
        raise UsageError(f"{path}: several images have the same file name without its suffix")
    sizes = {name: one.size for name, one in named.items()}
    return Side(str(path), tuple(named), lambda name, _: named[name].labels(), sizes=sizes)


def _table(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return header and rows of a CSV; missing cells are empty."""
    import csv

    from cellkit.core import FormatError, ReadError

    csv.field_size_limit(2**31 - 1)  # one object's code may be long
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", restkey="")
            rows = list(reader)
            return list(reader.fieldnames or []), rows
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: is no CSV: {error}") from error


def _stem(name: str) -> str:
    """Return an image's name without folders and without the suffix of an image."""
    from cellkit.io.sources import safe_stem

    base = name.replace("\\", "/").rsplit("/", 1)[-1].strip()
    suffixes = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy")
    return safe_stem(base) if base.lower().endswith(suffixes) else base


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} ({', '.join(names[:_SHOWN])}{more})"
