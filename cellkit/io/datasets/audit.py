"""Look through a data set for faults of its images and labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cellkit.core.errors import CellkitError, UsageError
from cellkit.io.datasets import copies
from cellkit.io.datasets.findings import CHECKS, Finding
from cellkit.io.datasets.objects import object_faults
from cellkit.io.datasets.pairs import Dataset, Pair
from cellkit.io.datasets.truth import SizeMismatch

__all__ = ["Audit", "audit"]

_ALIKE = 0.67  # fields taken twice reach 0.70 and more, different ones 0.64 (BBBC038, BCCD, darkfield bacteria)


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
    look: copies.Look | None = None


def audit(
    dataset: Dataset,
    *,
    tiny: int = 10,
    overlap: float = 0.8,
    alike: float = _ALIKE,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> Audit:
    """Look at every image and its truth, one at a time on each core, and return what is wrong with them.

    Objects of fewer than `tiny` px are tiny; boxes overlap from an IoU of `overlap` on. Images are near copies, of one
    field at another moment, focus or shift, where grey pictures of them correlate by `alike` or more. Not found are
    copies that were turned, mirrored, enlarged or shifted by more than a twelfth, and those of images of noise.
    `progress` is given what is iterated over and its length, and passes it on.

    Raises `UsageError` where a limit makes no sense.
    """
    if tiny < 0 or not 0 < overlap <= 1 or not 0 < alike <= 1:
        raise UsageError(
            f"audit: tiny {tiny}, overlap {overlap}, alike {alike}: wanted tiny >= 0, the others above 0 and at most 1"
        )
    findings = [Finding("missing", one.name, f"no {one.what}: {one.where}") for one in dataset.missing]
    findings += _cut_groups(dataset)
    objects = 0
    classes: Counter[int] = Counter()
    looks: list[copies.Look] = []
    pairs: list[Pair] = []
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        looked: Iterable[_Looked] = pool.map(lambda pair: _look(pair, tiny, overlap), dataset.pairs)
        looked = progress(looked, len(dataset)) if progress is not None else looked
        for pair, one in zip(dataset.pairs, looked, strict=True):
            objects += one.objects
            classes.update(one.classes)
            findings += one.findings
            if one.look is not None:
                pairs.append(pair)
                looks.append(one.look)
        for copy in copies.find_copies(pairs, looks, alike):
            findings += copies.copy_faults(copy)
    rank: Mapping[str, int] = {check: i for i, check in enumerate(CHECKS)}
    findings.sort(key=lambda finding: rank[finding.check])
    known = dict(enumerate(dataset.classes))
    present = {known.get(number, f"value {number}"): classes[number] for number in sorted({*classes, *known})}
    return Audit(dataset, len(dataset), objects, present if classes else {}, tuple(findings))


def _cut_groups(dataset: Dataset) -> Iterator[Finding]:
    """Yield a finding for each group of which some images are in one part of the split and some in another."""
    groups: dict[str, list[Pair]] = {}
    for pair in dataset:
        if pair.group and pair.split:
            groups.setdefault(pair.group, []).append(pair)
    for group, pairs in groups.items():
        parts = Counter(pair.split for pair in pairs)
        if len(parts) > 1:
            other = next(pair.name for pair in pairs if pair.split != pairs[0].split)
            sides = " and ".join(f"{count:,} in {part}" for part, count in parts.items())
            yield Finding("cut group", pairs[0].name, f"of the group {group}, {sides}", other=other)


def _look(pair: Pair, tiny: int, overlap: float) -> _Looked:
    """Look at one image and its truth; whatever cannot be read is a finding too."""
    findings: list[Finding] = []
    try:
        image = pair.sample().layers["image"].value
    except CellkitError as error:
        return _Looked(findings=(Finding("unreadable", pair.name, str(error)),))
    picture = copies.grey(image)
    noise = copies.noise_fault(pair.name, picture)
    findings += noise
    # Where nothing shows, a speck decides what an image resembles.
    look = None if noise else copies.Look.at(image, picture)
    try:
        found = object_faults(pair, tiny, overlap)
    except CellkitError as error:
        check = "size" if isinstance(error, SizeMismatch) else "unreadable"
        findings.append(Finding(check, pair.name, str(error)))
        return _Looked(findings=tuple(findings), look=look)
    if not found.objects:
        findings.append(Finding("empty", pair.name, "its truth holds no object"))
    return _Looked(found.objects, found.classes, (*findings, *found.faults), look)
