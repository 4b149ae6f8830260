"""Read and write files of objects, in every format that `cellkit.formats` knows; files appear whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellkit.core.errors import FormatError, ReadError, UsageError, suggest

if TYPE_CHECKING:
    from cellkit.formats.objects import ObjectSet

__all__ = ["FORMATS", "Format", "Images", "infer_format", "read_objects", "read_text", "sizes_of"]

_MOST_BYTES = 2**31
_HEAD = 2**16


@dataclass(frozen=True)
class Format:
    """A format of objects: its suffixes, whether one file holds a whole set, and what of an object it can hold."""

    name: str
    suffixes: tuple[str, ...]
    whole_set: bool
    holds: frozenset[str]
    meaning: str


def _holds(words: str) -> frozenset[str]:
    return frozenset(words.split())


FORMATS: Mapping[str, Format] = {
    f.name: f
    for f in (
        Format("labels", (".tif", ".tiff", ".png", ".npy"), False, _holds("masks ids pixel_size"), "label images"),
        Format("rle", (".csv",), True, _holds("masks"), "Kaggle submission"),
        Format(
            "coco", (".json",), True, _holds("masks boxes overlap ids classes scores crowd pixel_size"), "COCO data set"
        ),
        Format("coco-results", (), True, _holds("masks boxes overlap ids classes scores"), "COCO results"),
        Format(
            "geojson", (".geojson",), False, _holds("masks overlap ids classes scores pixel_size"), "GeoJSON for QuPath"
        ),
        Format("rois", (".zip", ".roi"), False, _holds("masks overlap ids classes scores pixel_size"), "ImageJ ROIs"),
        Format("yolo", (".txt",), False, _holds("boxes overlap classes scores"), "YOLO boxes"),
        Format("voc", (".xml",), False, _holds("boxes overlap classes scores"), "Pascal VOC boxes"),
    )
}
"""What can be converted, by name."""

_CLASS_FILES = ("classes.txt", "obj.names")


class Images:
    """The images that objects belong to, for formats that do not say their sizes: a folder, or a COCO data set."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.sets: dict[str, ObjectSet] = {}
        self._paths: dict[str, Path] = {}
        self._sizes: dict[str, tuple[tuple[int, int], tuple[float, float] | None]] = {}
        if self.path.is_file() and self.path.suffix.lower() == ".json":
            self.sets = {objects.name: objects for objects in read_objects(self.path, "coco")}
        else:
            from cellkit.io.sources import find

            self._paths = {source.name: source.paths[0] for source in find([self.path])}

    @property
    def names(self) -> list[str]:
        """Names of all images."""
        return [*self.sets, *self._paths]

    def get(self, name: str) -> tuple[tuple[int, int], tuple[float, float] | None] | None:
        """Return size and pixel size of an image, or None where there is no such image. Raises `ReadError`."""
        if name in self.sets:
            return self.sets[name].size, self.sets[name].pixel_size
        path = self._paths.get(name) or self._paths.get(Path(name).stem)
        if path is None:
            return None
        if name not in self._sizes:
            from cellkit.io.reader import probe

            info = probe(path)
            self._sizes[name] = info.shape[:2], info.pixel_size
        return self._sizes[name]


def sizes_of(images: Images) -> dict[str, tuple[int, int]]:
    """Return the (height, width) of every image."""
    found = ((name, images.get(name)) for name in images.names)
    return {name: known[0] for name, known in found if known is not None}


def infer_format(path: str | Path, *, to_write: bool = False) -> str:
    """Return the name of the format of a file or folder: by content where it is there, else by its suffix or name.

    Raises `UsageError` where that does not tell.
    """
    path = Path(path)
    if not to_write and path.is_dir():
        return _of_folder(path)
    suffix = path.suffix.lower()
    if not to_write and suffix in (".json", ".geojson") and path.is_file():
        return _of_json(path)
    for known in FORMATS.values():
        if suffix in known.suffixes:
            return known.name
    if to_write and path.name.lower() in FORMATS and not suffix:
        return path.name.lower()
    what = "--to" if to_write else "--from"
    raise UsageError(f"{path}: the name does not tell the format; say {what} {', '.join(FORMATS)}")


def read_objects(path: str | Path, form: str | None = None, *, images: Images | None = None) -> Iterator[ObjectSet]:
    """Yield the objects of every image in a file or folder, image by image.

    `path` may be the output of a run, of which the labels are read, else its COCO data set. `form` is a name in
    `FORMATS`, else it is inferred. `images` gives the sizes where the format lacks them. Raises `UsageError`,
    `ReadError` and `FormatError`, which name the file.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if form is None and (path / "run.json").is_file() and not (path / "labels").is_dir():
        path = path / "coco.json" if (path / "coco.json").is_file() else path
    form = form or infer_format(path)
    if form not in FORMATS:
        raise UsageError(f"no format is called {form!r} {suggest(form, FORMATS)}".strip())
    if FORMATS[form].whole_set:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; {FORMATS[form].meaning} is one file")
        return _whole(path, form, images)
    return _each(path, form, images)


def read_text(path: str | Path) -> str:
    """Return a file's text, UTF-8 with or without its mark. Raises `ReadError` and `FormatError`."""
    with _opening(Path(path)):
        return _bytes(Path(path)).decode("utf-8-sig")


def _of_folder(path: Path) -> str:
    if (path / "run.json").is_file() or (path / "labels").is_dir():
        return "labels"
    counts: dict[str, int] = {}
    for file in path.iterdir():
        for known in FORMATS.values():
            if file.suffix.lower() in known.suffixes and not known.whole_set and not file.name.startswith("."):
                counts[known.name] = counts.get(known.name, 0) + (file.name not in _CLASS_FILES)
    if not any(counts.values()):
        raise UsageError(f"{path}: no files of objects here; wanted {', '.join(FORMATS)}")
    if len([c for c in counts.values() if c]) > 1:
        raise UsageError(f"{path}: files of several formats ({', '.join(counts)}); say which with --from")
    return max(counts, key=lambda name: counts[name])


def _of_json(path: Path) -> str:
    """Tell GeoJSON, a data set and results apart by what the file begins with, or else by all of it."""
    with _opening(path), path.open("rb") as stream:
        head = stream.read(_HEAD).lstrip().decode("utf-8", "replace")
    if re.search(r'"type"\s*:\s*"Feature(Collection)?"', head) or path.suffix.lower() == ".geojson":
        return "geojson"
    return "coco-results" if head.startswith("[") else "coco"


class _opening:  # noqa: N801 - reads as a word in a `with`
    """Name the file in what its codec refuses, and say why it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FormatError):
            raise FormatError(f"{self.path}: {error}") from error
        if isinstance(error, UnicodeDecodeError):
            raise FormatError(f"{self.path}: no text in UTF-8") from error
        if isinstance(error, OSError):
            raise ReadError(f"{self.path}: {error.strerror or error}") from error
        if isinstance(error, MemoryError):
            raise ReadError(f"{self.path}: needs more memory than there is") from error


def _bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise FormatError(f"{size} bytes are more than the {_MOST_BYTES} that are read at once")
    return path.read_bytes()


def _whole(path: Path, form: str, images: Images | None) -> Iterator[ObjectSet]:
    with _opening(path):
        if form == "rle":
            from cellkit.formats import kaggle

            text = _bytes(path).decode("utf-8-sig")
            names = kaggle.rows(text)
            sizes, pixel_sizes = {}, {}
            for name in names:
                known = _needed(path, images, name)
                sizes[name], pixel_sizes[name] = known
            sets = [o.with_(pixel_size=pixel_sizes[o.name]) for o in kaggle.decode(text, sizes)]
        else:
            from cellkit.formats import coco

            text = _bytes(path).decode("utf-8-sig")
            if form == "coco":
                sets = coco.decode_dataset(text)
            else:
                belong = {o.image_id: o for o in images.sets.values()} if images is not None else {}
                known_images = {number: o for number, o in belong.items() if number is not None}
                sets = coco.decode_results(text, known_images or None)
    yield from _named_apart(sets)


def _named_apart(sets: list[ObjectSet]) -> list[ObjectSet]:
    """Give images of one name in several folders different names."""
    from cellkit.io.naming import Named, unique

    if len({o.name.casefold() for o in sets}) == len(sets):
        return sets
    parts = [o.file_name.replace("\\", "/").split("/")[:-1] for o in sets]
    named = [Named(o.name, tuple(p for p in above if p)) for o, above in zip(sets, parts, strict=True)]
    return [o.with_(name=name) for o, name in zip(sets, unique(named), strict=True)]


def _needed(path: Path, images: Images | None, name: str) -> tuple[tuple[int, int], tuple[float, float] | None]:
    if images is None:
        raise UsageError(f"{path}: the format does not hold the images' sizes; give their folder with --images")
    found = images.get(name)
    if found is None:
        raise UsageError(f"{path}: there is no image {name!r} in {images.path}")
    return found


def _each(path: Path, form: str, images: Images | None) -> Iterator[ObjectSet]:
    names = _class_names(path if path.is_dir() else path.parent) if form == "yolo" else []
    for name, file in _files(path, form):
        known = images.get(name) if images is not None else None
        with _opening(file):
            if form == "yolo":
                known = known or _needed(file, images, name)
            objects = _DECODERS[form](file, name, None if known is None else known[0], names)
        if objects.pixel_size is None and known is not None:
            objects = objects.with_(pixel_size=known[1])
        yield objects


def _files(path: Path, form: str) -> list[tuple[str, Path]]:
    if path.is_file():
        from cellkit.io.naming import split

        return [(split(path)[0], path)]
    if form == "labels":
        from cellkit.io.sources import find

        if (path / "labels").is_dir():
            path = path / "labels"
        elif (path / "run.json").is_file():
            raise UsageError(f"{path}: the output of a run without labels; run again with --outputs labels or coco")
        return [(source.name, source.paths[0]) for source in find([path])]
    from cellkit.io.naming import natural

    found = [f for f in path.iterdir() if f.suffix.lower() in FORMATS[form].suffixes and not f.name.startswith(".")]
    found = [f for f in found if f.name not in _CLASS_FILES]
    if not found:
        raise UsageError(f"{path}: no {FORMATS[form].meaning} here ({', '.join(FORMATS[form].suffixes)})")
    return [(f.stem, f) for f in sorted(found, key=lambda f: natural(f.name))]


def _class_names(folder: Path) -> list[str]:
    for name in _CLASS_FILES:
        for place in (folder / name, folder.parent / name):
            if place.is_file():
                with _opening(place):
                    return _bytes(place).decode("utf-8-sig").rstrip().splitlines()
    return []


def _labels(file: Path, name: str, size: tuple[int, int] | None, names: list[str]) -> ObjectSet:  # noqa: ARG001
    from cellkit.formats.objects import ObjectSet
    from cellkit.io.reader import probe, read_labels

    made = ObjectSet.of_labels(read_labels(file), name=name, pixel_size=probe(file).pixel_size)
    if size is not None and size != made.size:
        raise FormatError(f"labels of {made.size[0]} x {made.size[1]} px, the image has {size[0]} x {size[1]}")
    return made


def _geojson(file: Path, name: str, size: tuple[int, int] | None, names: list[str]) -> ObjectSet:  # noqa: ARG001
    from cellkit.formats import geojson

    return geojson.decode(_bytes(file).decode("utf-8-sig"), size=size, name=name)


def _rois(file: Path, name: str, size: tuple[int, int] | None, names: list[str]) -> ObjectSet:  # noqa: ARG001
    from cellkit.formats import imagej

    return imagej.decode(_bytes(file), size=size, name=name)


def _yolo(file: Path, name: str, size: tuple[int, int] | None, names: list[str]) -> ObjectSet:
    from cellkit.formats import yolo

    return yolo.decode(_bytes(file).decode("utf-8-sig"), size or (1, 1), names=names, name=name)


def _voc(file: Path, name: str, size: tuple[int, int] | None, names: list[str]) -> ObjectSet:  # noqa: ARG001
    from cellkit.formats import voc

    made = voc.decode(_bytes(file), name=name)
    if size is not None and size != made.size:
        raise FormatError(f"boxes of {made.size[0]} x {made.size[1]} px, the image has {size[0]} x {size[1]}")
    return made


_DECODERS: Mapping[str, Callable[[Path, str, tuple[int, int] | None, list[str]], ObjectSet]] = {
    "labels": _labels,
    "geojson": _geojson,
    "rois": _rois,
    "yolo": _yolo,
    "voc": _voc,
}
