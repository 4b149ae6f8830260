"""COCO's AP as a protocol of validation: boxes or instances of one image counted, all of them reported together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.core import Boxes, Instances, UsageError
from cellkit.core.errors import suggest
from cellkit.formats.coco_rle import encode_runs
from cellkit.formats.objects import ObjectSet
from cellkit.io.datasets import Pair
from cellkit.metrics import Protocol, Report, Settings

__all__ = ["FIFTY", "Objects", "coco_protocol", "documents", "figures_of_objects", "objects_of", "renamed"]

FIFTY = "coco50"
"""The name of the protocol whose score is the AP at an IoU of 0.5."""
_COUNTS = ("true_positives", "false_positives", "false_negatives")


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of an image of `size`, as COCO's entries without ids: of the truth, or found, with `score`."""

    size: tuple[int, int]
    entries: tuple[Mapping[str, Any], ...]


def objects_of(layer: Boxes | Instances, size: tuple[int, int]) -> Objects:
    """Return a layer as COCO's entries: `bbox`, `score`, `category_id` from 1 and, of instances, `segmentation`."""
    found = ObjectSet.of_instances(layer, size)
    boxes = layer.boxes if isinstance(layer, Instances) else layer
    corners = found.boxes
    sides = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
    texts: Sequence[str | None] = [None] * len(boxes)
    if isinstance(layer, Instances) and found.runs is not None:
        texts = encode_runs(found.runs, len(found), size)
    entries = []
    for box, score, kind, text in zip(sides, boxes.scores.tolist(), boxes.classes.tolist(), texts, strict=True):
        entry: dict[str, Any] = {"bbox": box, "score": score, "category_id": int(kind) + 1}
        if text is not None:
            entry["segmentation"] = {"size": list(size), "counts": text}
        entries.append(entry)
    return Objects(size, tuple(entries))


def renamed(layer: Any, names: Sequence[str], classes: Sequence[str]) -> Any:
    """Return boxes or instances whose classes are called `names` (empty: all are of one), numbered as in `classes`.

    Raises `UsageError` where one is of a class that is not among them.
    """
    boxes = layer.boxes if isinstance(layer, Instances) else layer
    if tuple(names) == tuple(classes) or not len(boxes) or (not names and len(classes) == 1):
        return layer
    there = {int(kind) for kind in np.unique(boxes.classes)}
    given = {kind: names[kind] if 0 <= kind < len(names) else str(kind) for kind in there}
    strange = sorted(name for name in given.values() if name not in classes)
    if strange:
        hint = suggest(strange[0], classes) or f"the truth has {', '.join(classes)}"
        raise UsageError(f"found objects of class {', '.join(strange)}, which the truth does not have; {hint}")
    kinds = np.array([classes.index(given[int(kind)]) for kind in boxes.classes], np.int32)
    boxes = Boxes(boxes.xyxy, boxes.scores, kinds)
    return Instances(boxes, layer.masks, layer.probs) if isinstance(layer, Instances) else boxes


def coco_protocol(name: str, layer: str, classes: Sequence[str], threshold: float) -> Protocol:
    """Return the protocol ``coco`` or ``coco50`` for the layer ``boxes`` or ``instances`` with these classes.

    `threshold` is the score from which on objects count for precision, recall and F1. Its `count` takes the truth and
    what was found as `Objects`; the rows of its report are F1 by image, and hold these counts.

    Source: `cellkit.metrics.boxes`, the evaluator of ``cellkit eval --as coco``.
    """
    what, iou_type = ("masks", "segm") if layer == "instances" else ("boxes", "bbox")
    headline = f"AP at IoU 0.5 ({what})" if name == FIFTY else f"AP over IoU 0.50:0.95 ({what})"

    def make(counts: Mapping[str, Any], settings: Settings) -> Report:
        return _report(counts, settings, {"name": name, "iou_type": iou_type, "classes": classes, "score": threshold})

    return Protocol(name, headline, lambda truth, found: (truth, found), make, ("set",))


def documents(
    counts: Mapping[str, tuple[Objects, Objects]], classes: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return truth and results as COCO's documents, from what the protocol counts by image."""
    images, truth, results = [], [], []
    for name, (real, seen) in counts.items():
        images.append({"id": name, "file_name": name, "height": real.size[0], "width": real.size[1]})
        truth += [{**one, "image_id": name} for one in real.entries]
        results += [{**one, "image_id": name} for one in seen.entries]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return {"images": images, "annotations": truth, "categories": categories}, results


def _report(counts: Mapping[str, tuple[Objects, Objects]], settings: Settings, how: Mapping[str, Any]) -> Report:
    from cellkit.metrics import boxes

    document, results = documents(counts, how["classes"])
    groups = None if settings.groups is None else {name: str(settings.groups[name]) for name in counts}
    found = boxes.evaluate(document, results, iou_type=how["iou_type"], score_threshold=how["score"], groups=groups)
    at, key = found["at_threshold"], "AP_50" if how["name"] == FIFTY else "AP"
    spans = {one: (ends[0], ends[1]) for one, ends in found["intervals"].items() if isinstance(ends, list)}
    scores = {
        **found["scores"],
        **{one: at[one] for one in ("precision", "recall", "f1", *_COUNTS)},
        "per_class": {row["class"]: {"AP": row["AP"], "AP_50": row["AP_50"], "objects": row["truth_objects"]}
                      for row in found["per_class"]},
    }  # fmt: skip
    rows = tuple({**row, "counts": counts[row["image"]]} for row in found["per_image"])
    empties = sum(not any(row[one] for one in _COUNTS) for row in found["per_image"])
    low, high = spans.get(key, (math.nan, math.nan))
    rule = found["rule"] if key == "AP" else f"at the IoU threshold 0.50 alone; {found['rule']}"
    return Report(found["scores"][key], low, high, rule, "set", empties, scores, rows, spans)


def figures_of_objects(report: Report, protocol: Protocol, pairs: Sequence[Pair], column: str = "") -> dict[str, Any]:
    """Return the further scores of a report by ``coco`` or ``coco50``, and its headline by the values of a column."""
    out: dict[str, Any] = {"scores": _plain(report.scores)}
    if not column:
        return out
    known = {pair.name: pair for pair in pairs}
    parts: dict[str, dict[str, Any]] = {}
    for row in report.per_image:
        value = known[row["image"]].fields.get(column, "") or "none"
        parts.setdefault(value, {})[row["image"]] = row["counts"]
    out[f"by_{column}"] = {}
    for value, counts in sorted(parts.items()):
        own = protocol.report(counts, Settings(groups={name: known[name].group or name for name in counts}))
        ends = {"low": own.low, "high": own.high}
        out[f"by_{column}"][value] = {**_plain({"value": own.value, **ends}), "images": len(counts)}
    return out


def _plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores as a card holds them: rounded, None for those that nothing counts towards."""
    plain: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            plain[name] = _plain(value)
        elif isinstance(value, int):
            plain[name] = value
        else:
            plain[name] = round(float(value), 4) if math.isfinite(value) else None
    return plain
