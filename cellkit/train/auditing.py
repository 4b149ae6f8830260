"""The audit before a training: what is wrong with the images and labels it is about to learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellkit.core import UsageError
from cellkit.io import atomic
from cellkit.io.datasets import Audit, Dataset, Finding, audit
from cellkit.io.datasets.findings import CHECKS
from cellkit.train.config import TrainConfig
from cellkit.train.parts import Parts
from cellkit.train.targets import DENSE_HEADS

__all__ = ["AUDIT", "Audited", "look_through"]

AUDIT = "audit.json"
_UNUSABLE = ("unreadable", "size")
_MISLEADING = ("missing", "leak", "cut group", "other truth", "invalid box", "unknown class")
_NAMED = 3
_FIXES = {
    "leak": "put an image and its copy into one group of the split file",
    "cut group": "give all of a group the same part in the split file",
}


@dataclass(frozen=True)
class Audited:
    """What an audit came to: in one line, for terminal and card, and the faults that deserve a line of their own."""

    line: str
    warnings: tuple[str, ...] = ()


def look_through(config: TrainConfig, parts: Parts, out: Path, *, resume: bool = False) -> Audited | None:
    """Look through the images and labels of `parts` and write what is found to audit.json in `out`.

    What training would stumble over in any case stops it here, all of it at once: images and labels that cannot be
    read or differ in size, objects that overlap where they are to be labels, values of no known class. What makes it
    or its score wrong is a warning, or with ``data: {audit: refuse}`` an error: images or truth that are missing, near
    copies of one image in two parts of the split (or in two folds), a group in two parts, near copies with different
    truth, invalid boxes. Everything else (specks, empty images, noise ...) is counted. With ``off`` nothing is
    looked at, and None returned. A training that goes on with the same images (`resume`) is not looked through again.

    Raises `UsageError`, after audit.json is written, where there is something to refuse.
    """
    if config.data.audit == "off":
        return None
    known = _known(out / AUDIT, parts) if resume else None
    if known is None:
        found = audit(_dataset(parts))
        known = _document(found, parts, config)
        with atomic(out / AUDIT) as temporary:
            temporary.write_text(json.dumps(known, indent=2, allow_nan=False) + "\n", encoding="utf-8", newline="")
    result = Audited(known["summary"], tuple(known["warnings"]))
    refused = [*known["errors"], *(result.warnings if config.data.audit == "refuse" else ())]
    if refused:
        way = "mend them, leave their images out of the split file"
        if not known["errors"]:
            way += ", or go on nevertheless with `data: {audit: warn}`"
        raise UsageError("\n  - ".join([f"audit: {out / AUDIT} lists faults to {way}:", *refused]))
    return result


def _dataset(parts: Parts) -> Dataset:
    """Return the data set with those images alone that take part, each in the part of the split that it has here."""
    pairs = (*parts.train, *parts.val)
    if parts.dataset is None:
        return Dataset(parts.folder, "", pairs[0].truth.kind, pairs)
    taking = {pair.name for pair in pairs}
    every = {pair.name for pair in parts.dataset}
    missing = tuple(one for one in parts.dataset.missing if one.name in taking or one.name not in every)
    classes = parts.classes or parts.dataset.classes  # a detector's own numbers
    return replace(parts.dataset, pairs=pairs, classes=classes, missing=missing)


def _document(found: Audit, parts: Parts, config: TrainConfig) -> dict[str, Any]:
    unusable = _unusable(found.dataset.kind, config)
    by_check: dict[str, list[Finding]] = {check: [] for check in CHECKS}
    for finding in found.findings:
        by_check[finding.check].append(finding)
    there = {check: own for check, own in by_check.items() if own}
    counts = ", ".join(f"{len(own):,} {check}" for check, own in there.items())
    what = "pieces" if found.dataset.kind == "classes" else "objects"
    return {
        "summary": f"audit of {found.images:,} images, {found.objects:,} {what}: {counts or 'no fault found'}",
        "errors": [_told(check, own, True) for check, own in there.items() if check in unusable],
        "warnings": [
            _told(check, own, False) for check, own in there.items() if check in _MISLEADING and check not in unusable
        ],
        "taking_part": parts.digest,
        **found.document(),
    }


def _unusable(kind: str, config: TrainConfig) -> tuple[str, ...]:
    """Return the checks of faults that the truth, of `kind`, cannot be read with for this network."""
    if config.model.head not in DENSE_HEADS:
        refused = kind == "boxes" and config.data.invalid == "refuse"
        return (*_UNUSABLE, "invalid box") if refused else _UNUSABLE
    if kind == "instances":  # masks become labels, which do not overlap
        return (*_UNUSABLE, "overlap", "duplicate")
    return (*_UNUSABLE, "unknown class") if kind == "classes" else _UNUSABLE


def _told(check: str, findings: Sequence[Finding], whole: bool) -> str:
    """Return a line on the findings of one check: how many, what it means, and the first of them by name."""
    if whole:
        named = [f"{one.image}: {one.message}" for one in findings]
    else:  # two images where it takes two
        both = (one.image + (f" and {one.other}" if one.other and not one.object else "") for one in findings)
        named = list(dict.fromkeys(both))
    more = f"; and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    fix = f" ({_FIXES[check]})" if check in _FIXES else ""
    return f"audit: {len(findings):,} {check} ({CHECKS[check]}): {'; '.join(named[:_NAMED])}{more}{fix}"


def _known(path: Path, parts: Parts) -> Mapping[str, Any] | None:
    """Return what an earlier audit of the same images found; None where there was none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sound = isinstance(document, dict) and {"summary", "errors", "warnings"} <= document.keys()
    return document if sound and document.get("taking_part") == parts.digest else None
