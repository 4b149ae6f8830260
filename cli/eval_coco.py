"""`cellkit eval --as coco`: boxes and masks with scores, through COCO's evaluator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .eval_output import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["evaluated"]

_COUNTS = ("true_positives", "false_positives", "false_negatives")


def evaluated(
    truth: Path, pred: Path, iou_type: Literal["bbox", "segm"], score_threshold: float, groups: Mapping[str, str] | None
) -> Result:
    """Score COCO results against a COCO data set. Raises `UsageError` where predictions have no scores."""
    from cellkit.core import UsageError
    from cellkit.metrics import Report

    documents = [_document(path, what) for path, what in ((truth, "TRUTH"), (pred, "PRED"))]
    results = _results(documents[1], pred)
    by_id = None if groups is None else _groups_by_id(documents[0], groups)
    try:
        from cellkit.metrics import boxes

        found = boxes.evaluate(
            documents[0],
            results,
            iou_type=iou_type,
            score_threshold=score_threshold,
            groups=by_id,
        )
    except ModuleNotFoundError as error:
        if error.name != "faster_coco_eval":
            raise
        raise UsageError("--as coco needs the package faster-coco-eval: pip install faster-coco-eval") from None
    spans = {name: (ends[0], ends[1]) for name, ends in found["intervals"].items() if isinstance(ends, list)}
    at = found["at_threshold"]
    scores = {
        **found["scores"],
        **{name: at[name] for name in ("precision", "recall", "f1", *_COUNTS)},
        "score_threshold": at["score"],
        "iou_threshold": at["iou"],
        "truth_objects": found["truth_objects"],
        "results": found["results"],
        "per_class": {row["class"]: row for row in found["per_class"]},
        "confusion": found["confusion"],
        "max_dets": found["max_dets"],
    }
    draws = found["draws"] | ({"value": found["draws"]["AP"]} if found["draws"] else {})
    low, high = spans.get("AP", (math.nan, math.nan))
    empties = sum(not any(row[name] for name in _COUNTS) for row in found["per_image"])
    report = Report(
        found["value"], low, high, found["rule"], "detections of all images together", empties, scores,
        tuple(found["per_image"]), spans, draws=draws,
    )  # fmt: skip
    method = found["intervals"].get("method", "percentile bootstrap of images")
    given = {"iou_type": iou_type, "truth": str(truth), "pred": str(pred)}
    what = "boxes" if iou_type == "bbox" else "masks"
    return Result("coco", f"COCO AP of {what}", report, method, given)


def _document(path: Path, what: str) -> Any:
    import json

    from cellkit.core import FormatError, UsageError

    if not path.is_file() or path.suffix.lower() != ".json":
        raise UsageError(f"{what} {path}: --as coco compares COCO JSON files: a data set, and results with scores")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is no JSON: {error}") from error


def _results(document: Any, path: Path) -> Any:
    """Return the list of results that a results file is, or that a data set with scores holds."""
    from cellkit.core import UsageError

    results = document.get("annotations") if isinstance(document, dict) else document
    if isinstance(results, list) and any(isinstance(one, dict) and one.get("score") is None for one in results):
        raise UsageError(
            f"{path}: objects without scores have no AP, since it ranks them by score; "
            "score masks as objects instead: --as instances"
        )
    return results if isinstance(results, list) else []


def _groups_by_id(truth: Any, groups: Mapping[str, str]) -> dict[Any, str]:
    """Return the group of each image id of a data set, found by the name of its file."""
    from cellkit.core import UsageError
    from cellkit.formats.coco import stem

    made, missing = {}, []
    for image in truth.get("images", []) if isinstance(truth, dict) else []:
        name = stem(str(image.get("file_name", ""))) or str(image.get("id"))
        if name in groups:
            made[image.get("id")] = groups[name]
        else:
            missing.append(name)
    if missing:
        raise UsageError(f"{len(missing):,} images have no group, the first {missing[0]!r}")
    return made
