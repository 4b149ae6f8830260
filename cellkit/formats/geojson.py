"""GeoJSON as QuPath reads and writes it: objects as polygons in pixels, along the edges of their pixels.

Classes stand in ``properties.classification.name``, scores in ``properties.measurements.score``, an object's number in
``properties.name``. A member ``cellkit`` of the collection, which other programs pass over, keeps the image's name,
size and pixel size.

Source: RFC 7946; qupath.lib.io.GsonTools (QuPath 0.5).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats import _json
from cellkit.formats.objects import ObjectSet, named
from cellkit.formats.outlines import Polygon, of_outlines, outlines

__all__ = ["around", "decode", "encode", "feature", "geometries", "rings_of"]


def encode(objects: ObjectSet) -> str:
    """Return one image's objects as a FeatureCollection. An object without pixels is a feature without geometry."""
    begin, end = around(objects.name, objects.size, objects.pixel_size)
    return begin + ",\n".join(_json.dumps(feature) for feature in _features(objects)) + end


def around(name: str, size: tuple[int, int], pixel_size: tuple[float, float] | None) -> tuple[str, str]:
    """Return what stands before and behind the features of one image, which commas part."""
    head: dict[str, Any] = {"name": name, "size": list(size)}
    if pixel_size is not None:
        head["pixel_size_um"] = list(pixel_size)
    return f'{{"type":"FeatureCollection","cellkit":{_json.dumps(head)},"features":[\n', "\n]}\n"


def geometries(objects: ObjectSet, origin: tuple[int, int] = (0, 0)) -> list[str]:
    """Return the geometry of each object as text; `origin` (y, x) is where their part of the image begins."""
    shift = np.array([origin[1], origin[0]])
    moved = ([[ring + shift for ring in polygon] for polygon in polygons] for polygons in outlines(objects))
    return [_json.dumps(_geometry(polygons)) for polygons in moved]


def rings_of(geometry: str) -> list[list[np.ndarray]]:
    """Return the polygons whose text `geometries` has made: rings, int64 (k, 2) as x, y, not closed."""
    shape = json.loads(geometry)
    polygons = [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]
    return [[np.array(ring[:-1], np.int64) for ring in polygon] for polygon in polygons]


def feature(geometry: str, number: int) -> str:
    """Return one object, of which `geometry` is the text, as a feature."""
    properties = _json.dumps({"objectType": "detection", "name": str(number)})
    return f'{{"type":"Feature","geometry":{geometry},"properties":{properties}}}'


def decode(text: str | bytes, *, size: tuple[int, int] | None = None, name: str = "") -> ObjectSet:
    """Return the objects of a FeatureCollection, a list of features, or one feature.

    A pixel belongs to the polygons that hold its centre. `size` is needed where the file does not say it. Raises
    `FormatError` for geometries that are no polygons, rings that are not closed or cross themselves, and what is no
    GeoJSON.
    """
    document = _json.parse(text, name or "GeoJSON")
    if isinstance(document, list):
        document = {"type": "FeatureCollection", "features": document}
    elif isinstance(document, dict) and document.get("type") == "Feature":
        document = {"type": "FeatureCollection", "features": [document]}
    if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
        raise FormatError(f"{name or 'GeoJSON'}: wanted a FeatureCollection or a list of features")
    head = _json.entry(document.get("cellkit", {}), f"{name}: cellkit")
    own_name = head.get("name")
    name = name or (own_name if isinstance(own_name, str) else "") or "image"
    own = _json.sides(head["size"], f"image {name!r}: cellkit.size") if "size" in head else None
    if size is not None and own is not None and own != tuple(size):
        raise FormatError(
            f"image {name!r}: the GeoJSON is of {own[0]} x {own[1]} px, the image has {size[0]} x {size[1]}"
        )
    if size is None and own is None:
        raise FormatError(f"image {name!r}: GeoJSON of other programs does not say the image's size; give its image")
    features = _json.listed(document.get("features"), f"image {name!r}: features")
    read = [_feature(feature, f"image {name!r}, feature {i}") for i, feature in enumerate(features, 1)]
    made = of_outlines([r[0] for r in read], own or size, [f"feature {i}" for i in range(1, len(read) + 1)], name)  # type: ignore[arg-type]
    classes = [r[1] for r in read]
    ids, notes = _ids([r[3] for r in read])
    return made.with_(
        ids=ids,
        classes=named([c or "" for c in classes]),
        scores=_scores([r[2] for r in read], name),
        pixel_size=_json.pixel_size(head.get("pixel_size_um"), f"image {name!r}: cellkit.pixel_size_um"),
        notes=notes,
    )


def _features(objects: ObjectSet) -> Iterator[dict[str, Any]]:
    for i, polygons in enumerate(outlines(objects)):
        properties: dict[str, Any] = {"objectType": "detection", "name": str(objects.ids[i])}
        if objects.classes is not None and objects.classes[i]:
            properties["classification"] = {"name": objects.classes[i]}
        if objects.scores is not None:
            properties["measurements"] = {"score": float(objects.scores[i])}
        yield {"type": "Feature", "geometry": _geometry(polygons), "properties": properties}


def _geometry(polygons: list[Polygon]) -> dict[str, Any] | None:
    closed = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in polygons]
    if not closed:
        return None
    if len(closed) == 1:
        return {"type": "Polygon", "coordinates": closed[0]}
    return {"type": "MultiPolygon", "coordinates": closed}


def _feature(value: Any, where: str) -> tuple[list[list[np.ndarray]], str | None, float | None, int | None]:
    """Return polygons, class, score and number of one feature."""
    feature = _json.entry(value, where)
    properties = _json.entry(feature.get("properties") or {}, f"{where}: properties")
    classification = properties.get("classification")
    label = classification.get("name") if isinstance(classification, dict) else classification
    measurements = properties.get("measurements")
    score = measurements.get("score") if isinstance(measurements, dict) else None
    if isinstance(measurements, list):  # as QuPath before 0.4 wrote them
        score = next((m.get("value") for m in measurements if isinstance(m, dict) and m.get("name") == "score"), None)
    name = properties.get("name")
    number = int(name) if isinstance(name, str) and name.isascii() and name.isdecimal() and len(name) < 10 else None
    return (
        _polygons(feature.get("geometry"), where),
        label if isinstance(label, str) else None,
        None if score is None else _json.number(score, f"{where}: score"),
        number or None,
    )


def _polygons(geometry: Any, where: str) -> list[list[np.ndarray]]:
    if geometry is None:
        return []
    kind = _json.entry(geometry, f"{where}: geometry").get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        raise FormatError(f"{where}: wanted a Polygon or MultiPolygon, got {str(kind)[:40]!r}")
    given = _json.listed(geometry.get("coordinates"), f"{where}: coordinates")
    return [_rings(part, where) for part in (given if kind == "MultiPolygon" else [given])]


def _rings(polygon: Any, where: str) -> list[np.ndarray]:
    rings = []
    for i, ring in enumerate(_json.listed(polygon, f"{where}: polygon")):
        points = _json.numbers(ring, f"{where}, ring {i + 1}", 2)
        if len(points) < 4 or (points[0] != points[-1]).any():
            raise FormatError(
                f"{where}, ring {i + 1}: wanted 4 points or more, the last equal to the first; got {len(points)}"
                f"{'' if len(points) < 4 else ', not closed'}"
            )
        rings.append(points[:-1])
    if not rings:
        raise FormatError(f"{where}: a polygon without rings")
    return rings


def _ids(numbers: list[int | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    if None not in numbers and len(set(numbers)) == len(numbers):
        return np.array(numbers, np.int64), ()
    notes = ("objects were numbered anew: their names are no different numbers",) if numbers else ()
    return np.arange(1, len(numbers) + 1, dtype=np.int64), notes


def _scores(scores: list[float | None], name: str) -> np.ndarray | None:
    given = [s for s in scores if s is not None]
    if given and len(given) != len(scores):
        raise FormatError(f"image {name!r}: feature {scores.index(None) + 1} has no score, others have")
    return np.array(given, np.float64) if given else None
