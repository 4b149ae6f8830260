"""Look through a data set for faults of its images and labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cellkit.core.errors import CellkitError, UsageError
from cellkit.io.datasets import copies
from cellkit.io.datasets.findings import CHECKS, Finding
from cellkit.io.datasets.objects import object_faults
from cellkit.io.datasets.pairs import Dataset, Pair
from cellkit.io.datasets.truth import SizeMismatch

__all__ = ["Audit", "audit"]

_ALIKE = 0.99


@dataclass(frozen=True)
class Audit:
    """What was looked at and what was found, the graver first.

    `present` tells how many images each class occurs in, empty where the truth holds no classes.
    """

    dataset: Dataset
    images: int
    objects: int
    present: Mapping[str, int]
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How often each check found something, every check of `CHECKS` included."""
        tally = dict.fromkeys(CHECKS, 0)
        for finding in self.findings:
            tally[finding.check] += 1
        return tally

    def document(self) -> dict[str, Any]:
        """Return everything as a dict ready for JSON."""
        dataset = self.dataset
        return {
            "folder": str(dataset.folder),
            "layout": dataset.layout,
            "kind": dataset.kind,
            "classes": list(dataset.classes),
            "images_with_class": dict(self.present),
            "images": self.images,
            "objects": self.objects,
            "groups": len({pair.group for pair in dataset if pair.group}),
            "parts": sorted({pair.split for pair in dataset if pair.split}),
            "notes": list(dataset.notes),
            "checks": self.counts,
            "findings": [
                {"check": f.check, "image": f.image, "object": f.object, "other": f.other, "message": f.message}
                for f in self.findings
            ],
        }


@dataclass(frozen=True)
class _Looked:
    objects: int = 0
    classes: frozenset[int] = frozenset()
    findings: tuple[Finding, ...] = ()
    thumbnail: np.ndarray | None = field(default=None, compare=False)


def audit(
    dataset: Dataset,
    *,
    tiny: int = 10,
    overlap: float = 0.8,
    alike: float = _ALIKE,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> Audit:
    """Look at every image and its truth, one at a time on each core, and return what is wrong with them.

    Objects of fewer than `tiny` px are tiny; boxes overlap from an IoU of `overlap` on; images are near copies from a
    correlation of `alike` on, of grey pictures of 128 x 128 px. Copies that were turned, mirrored or cropped are not
    found. `progress` is given what is iterated over and its length, and passes it on.

    Raises `UsageError` where a limit makes no sense.
    """
    if tiny < 0 or not 0 < overlap <= 1 or not 0 < alike <= 1:
        raise UsageError(
            f"audit: tiny {tiny}, overlap {overlap}, alike {alike}: wanted tiny >= 0, the others above 0 and at most 1"
        )
    findings = [Finding("missing", one.name, f"no {one.what}: {one.where}") for one in dataset.missing]
    objects = 0
    classes: Counter[int] = Counter()
    thumbnails: list[np.ndarray] = []
    pairs: list[Pair] = []
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        looked: Iterable[_Looked] = pool.map(lambda pair: _look(pair, tiny, overlap), dataset.pairs)
        looked = progress(looked, len(dataset)) if progress is not None else looked
        for pair, one in zip(dataset.pairs, looked, strict=True):
            objects += one.objects
            classes.update(one.classes)
            findings += one.findings
            if one.thumbnail is not None:
                pairs.append(pair)
                thumbnails.append(one.thumbnail)
        findings += _copied(pool, pairs, thumbnails, alike)
    rank: Mapping[str, int] = {check: i for i, check in enumerate(CHECKS)}
    findings.sort(key=lambda finding: rank[finding.check])
    known = dict(enumerate(dataset.classes))
    present = {known.get(number, f"value {number}"): classes[number] for number in sorted({*classes, *known})}
    return Audit(dataset, len(dataset), objects, present if classes else {}, tuple(findings))


def _look(pair: Pair, tiny: int, overlap: float) -> _Looked:
    """Look at one image and its truth; whatever cannot be read is a finding too."""
    findings: list[Finding] = []
    thumbnail = None
    try:
        picture = copies.grey(pair.sample().layers["image"].value)
        findings += copies.noise_fault(pair.name, picture)
        thumbnail = copies.thumbnail(picture)
        thumbnail = thumbnail if thumbnail.any() else None
    except CellkitError as error:
        return _Looked(findings=(Finding("unreadable", pair.name, str(error)),))
    try:
        found = object_faults(pair, tiny, overlap)
    except CellkitError as error:
        check = "size" if isinstance(error, SizeMismatch) else "unreadable"
        findings.append(Finding(check, pair.name, str(error)))
        return _Looked(findings=tuple(findings), thumbnail=thumbnail)
    if not found.objects:
        findings.append(Finding("empty", pair.name, "its truth holds no object"))
    return _Looked(found.objects, found.classes, (*findings, *found.faults), thumbnail)


def _copied(
    pool: ThreadPoolExecutor, pairs: list[Pair], thumbnails: list[np.ndarray], alike: float
) -> Iterable[Finding]:
    if not thumbnails:
        return []
    near = list(copies.candidates(np.stack(thumbnails)))
    compared = pool.map(lambda ij: copies.compared(pairs[ij[0]], pairs[ij[1]]), near)
    return [finding for copy in compared if copy.correlation >= alike for finding in copies.copy_faults(copy)]
