"""The pictures of one image for the page of a run, and the figures that are measured on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import CellkitError
from cellkit.core.kinds import Boxes
from cellkit.core.recipe import ReadOptions
from cellkit.engine.deepzoom import THUMB, deep_zoom
from cellkit.engine.files import Files
from cellkit.engine.gather import LayerFiles, source_of
from cellkit.engine.manifest import Record
from cellkit.report.display import display, nearest
from cellkit.report.overlay import overlay, palette_for
from cellkit.report.packed import Objects, label_part, objects_of
from cellkit.report.palette import BRIGHT, STRONG, colored
from cellkit.report.views import tones

__all__ = ["Drawn", "Illustrator"]

_LARGEST = 2048
"""Longer side of a picture that is one file, px; of larger ones it shows every second pixel, and so on."""
_DEEP = 4096
"""Images longer than this are shown from tiles."""
_MOST_CHANNELS = 6
_SATURATED = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn of an image: `entry`, as the page's script reads it, and its objects by labels layer.

    `noted`: something could not be drawn, and the entry's notes say what.
    `measured` has for each such layer ids, area, centroid and box, and where the image could be read, saturated and
    sharpness, (n,) or (n, k).
    """

    entry: dict[str, Any]
    measured: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    noted: bool = False


@dataclass(frozen=True)
class Illustrator:
    """Draws the images of a run, each by itself, so that several threads may share it."""

    files: Files
    folder: Path
    options: ReadOptions
    layers: Sequence[LayerFiles]

    def draw(self, number: int, record: Record, boxes: Boxes | None) -> Drawn:
        """Draw image `number`. What cannot be read or drawn is noted in the entry, and stops nothing."""
        notes: list[str] = [str(note) for note in record.facts.get("notes") or ()]
        entry = _entry(record)
        measured: dict[str, dict[str, np.ndarray]] = {}
        labels: list[tuple[LayerFiles, Path]] = []
        for layer in self.layers:
            path = layer.of(record.name) if record.status == "done" and layer.kind == "labels" else None
            if path is not None:
                labels.append((layer, path))
        if any(path.suffix == ".zarr" for _, path in labels) or max(_size(record, labels)) > _DEEP:
            with _noting(notes):
                deep_zoom(self.files, number, record, self.options, [(layer.name, p) for layer, p in labels], entry)
        else:
            with _noting(notes):
                measured = self._whole(number, record, labels, boxes, entry, notes)
        entry["notes"] = list(dict.fromkeys(notes))
        return Drawn(entry, measured, len(notes) > len(record.facts.get("notes") or ()))

    def _whole(
        self, number: int, record: Record, labels: Sequence[tuple[LayerFiles, Path]], boxes: Boxes | None,
        entry: dict[str, Any], notes: list[str],
    ) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
        from cellkit.io import read_labels

        raw, names = self._raw(record, notes)
        found: dict[str, tuple[np.ndarray, Objects]] = {}
        for layer, path in labels:
            with _noting(notes, f"{layer.name}: "):
                array = read_labels(path)
                found[layer.name] = (array, objects_of(array))
                self.files.data(f"labels/{layer.name}-{number}", label_part(*found[layer.name]))
                entry["labels"].append({"name": layer.name, "file": f"labels/{layer.name}-{number}"})
        shapes = [a.shape for a, _ in found.values()]
        own = _picture(raw, names, self.folder / "overlays" / f"{record.name}.png", shapes, notes)
        if own is not None:
            entry["height"], entry["width"] = (raw if raw is not None else own).shape[:2]
            self._base(number, entry, own, raw, names)
            entry["bright"] = palette_for(own) is STRONG
            drawn = [a for a, _ in found.values() if a.shape == (entry["height"], entry["width"])]
            self.files.picture(f"thumbs/{number}.jpg", _thumb(own, drawn, boxes))
            entry["thumb"] = f"thumbs/{number}.jpg"
        self._layers(number, record, entry, notes)
        if raw is not None:
            entry.update(_quality(raw))
        return {name: _measured(objects, raw, array) for name, (array, objects) in found.items()}

    def _raw(self, record: Record, notes: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
        from cellkit.io import read

        if not record.source:
            return None, ()
        try:
            sample = read(source_of(record, self.options), self.options)
        except (CellkitError, MemoryError) as error:
            if record.status == "done":  # of others the reason says it
                notes.append(f"the image cannot be read any more: {error}")
            return None, ()
        return np.asarray(sample["raw"]), tuple(sample.layer("raw").names)

    def _base(self, number: int, entry: dict[str, Any], own: np.ndarray, raw: np.ndarray | None, names: Any) -> None:
        pictures = [("image", own)]
        channels = 0 if raw is None else raw.shape[2]
        if raw is not None and (channels == 2 or channels > 3):
            for i in range(min(channels, _MOST_CHANNELS)):
                pictures.append((names[i] if names else f"channel {i}", display(raw[..., i])))
        for i, (name, picture) in enumerate(pictures):
            file = f"images/{number}-{i}.jpg" if i else f"images/{number}.jpg"
            self.files.picture(file, _limited(picture, _LARGEST))
            entry["images"].append({"name": name, "file": file})

    def _layers(self, number: int, record: Record, entry: dict[str, Any], notes: list[str]) -> None:
        for layer in self.layers if record.status == "done" else ():
            path = layer.of(record.name) if layer.kind != "labels" else None
            if path is None:
                continue
            with _noting(notes, f"{layer.name}: "):
                for i, (name, picture, legend) in enumerate(_layer_pictures(layer, path)):
                    file = f"layers/{layer.name}-{number}-{i}.png"
                    self.files.picture(file, _limited(picture, _LARGEST))
                    entry["layers"].append({"name": name, "kind": layer.kind, "file": file, "legend": legend})


@contextmanager
def _noting(notes: list[str], where: str = "") -> Iterator[None]:
    """Note what goes wrong with one picture; a page shows what it can."""
    import cv2

    try:
        yield
    except (CellkitError, cv2.error, MemoryError, OSError, ValueError) as error:
        from cellkit.core.errors import WriteError

        if isinstance(error, WriteError):  # of the page itself: the next picture would fail alike
            raise
        notes.append(f"{where}{' '.join(str(error).split()) or type(error).__name__}")


def _entry(record: Record) -> dict[str, Any]:
    facts = record.facts
    return {
        "name": record.name, "source": record.source, "status": record.status, "reason": record.reason,
        "seconds": round(record.seconds, 3), "objects": dict(facts.get("objects") or {}),
        "fields": {str(k): str(v) for k, v in (facts.get("fields") or {}).items()},
        "height": int(facts.get("height") or 0), "width": int(facts.get("width") or 0),
        "um": list(facts.get("pixel_size") or ()) or None, "seams": dict(facts.get("seams") or {}),
        "images": [], "layers": [], "labels": [], "thumb": "",
    }  # fmt: skip


def _size(record: Record, labels: Sequence[tuple[LayerFiles, Path]]) -> tuple[int, int]:
    """Return (y, x) as the run noted it, or as the labels' or the image's header says; (0, 0) where none does."""
    from cellkit.io import probe

    if record.facts.get("height"):
        return int(record.facts["height"]), int(record.facts["width"])
    for path in (*(p for _, p in labels), *([Path(record.source)] if record.source else [])):
        try:
            return probe(path).shape[:2]
        except CellkitError:
            continue
    return 0, 0


def _picture(
    raw: np.ndarray | None, names: Sequence[str], drawn: Path, shapes: Sequence[tuple[int, ...]], notes: list[str]
) -> np.ndarray | None:
    """Return the image for the screen; where it is gone, its overlay, or black where there are labels only."""
    if raw is not None:
        return display(raw, names=names)
    if drawn.is_file():
        from cellkit.io import read

        try:
            picture = read(drawn)["raw"]
            notes.append("the overlay is shown in place of the image: contours are part of it")
            return (np.asarray(picture) * 255 + 0.5).astype(np.uint8)
        except CellkitError as error:
            notes.append(str(error))
    return np.zeros((*shapes[0][:2], 3), np.uint8) if shapes else None


def _thumb(picture: np.ndarray, labels: Sequence[np.ndarray], boxes: Boxes | None) -> np.ndarray:
    """Return a small picture with contours, which are drawn after it was made smaller, so that they stay."""
    small = _limited(picture, THUMB)
    for array in labels:
        small = overlay(small, nearest(array, small.shape[:2]))
    if boxes is not None and len(boxes):
        times = np.array([small.shape[1] / picture.shape[1], small.shape[0] / picture.shape[0]] * 2, np.float32)
        small = overlay(small, Boxes(boxes.xyxy * times, boxes.scores, boxes.classes))
    return small


def _limited(picture: np.ndarray, most: int) -> np.ndarray:
    """Return a picture whose longer side is `most` pixels at the most."""
    import cv2

    height, width = picture.shape[:2]
    times = most / max(height, width)
    if times >= 1:
        return picture
    size = (max(1, round(width * times)), max(1, round(height * times)))
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)


def _layer_pictures(layer: LayerFiles, path: Path) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    from cellkit.io import read, read_labels

    if layer.kind in ("mask", "classes"):
        array = read_labels(path)
        if layer.kind == "mask":
            yield layer.name, (array > 0).astype(np.uint8) * np.uint8(255), []
        else:
            ids = np.arange(1, 256, dtype=np.uint64)
            yield layer.name, colored(array, ids, np.arange(255), BRIGHT), []
        return
    sample = read(path)
    values, names = np.asarray(sample["raw"]), sample.layer("raw").names
    if layer.kind == "image":
        yield layer.name, display(values, names=names), []
        return
    for i in range(min(values.shape[2], _MOST_CHANNELS)):
        low, high = (0.0, 1.0) if layer.kind == "prob" else (float(values[..., i].min()), float(values[..., i].max()))
        name = layer.name if values.shape[2] == 1 else f"{layer.name} {names[i] if i < len(names) else i}"
        yield name, tones(values[..., i], low, high), [f"{low:.3g}", f"{high:.3g}"]


def _quality(raw: np.ndarray) -> dict[str, float]:
    """Return how sharp an image is, and which share of its pixels is as bright as its format allows.

    Sharpness is the standard deviation of the Laplacian over that of the intensities, low where an image is blurred.
    Source: Pech-Pacheco et al. 2000, https://doi.org/10.1109/ICPR.2000.903548
    """
    gray = raw.mean(axis=2)
    spread = float(gray.std())
    sharp = float(_laplacian(gray).std()) / spread if spread > 0 else 0.0
    return {"sharpness": round(sharp, 5), "saturated": round(float(_top(raw).mean()), 6)}


def _laplacian(gray: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.Laplacian(np.ascontiguousarray(gray, np.float32), cv2.CV_32F)


def _top(raw: np.ndarray) -> np.ndarray:
    return raw.max(axis=2) >= _SATURATED


def _measured(objects: Objects, raw: np.ndarray | None, labels: np.ndarray) -> dict[str, np.ndarray]:
    found = {"ids": objects.ids, "area": objects.area, "centroid": objects.centroid, "box": objects.box}
    if raw is not None and raw.shape[:2] == labels.shape:
        gray = raw.mean(axis=2)
        edge, level = objects.mean(np.abs(_laplacian(gray))), objects.mean(gray)
        found["sharpness"] = edge / np.maximum(level, 1e-6)
        found["saturated"] = objects.mean(_top(raw))
    return found
