"""How many objects there are in each image and of each class, and proportions of them, beside the truth."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import cellkit as ck
from cellkit.core import Boxes
from cellkit.stages.proportion import wilson

from .system import System
from .ways import Ran, recipe_of

if TYPE_CHECKING:
    from cellkit.core.recipe import Step
    from cellkit.report.sides import Layer

    from .scoring import Images

__all__ = ["Counts", "Proportions", "counted", "proportion_of", "proportions"]

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True, eq=False)
class Counts:
    """The objects of each image and class: of the truth, and of each way (None where that failed)."""

    ways: tuple[str, ...]
    rows: Sequence[tuple[str, str, int, Mapping[str, int | None]]]

    def table(self) -> Table:
        """Return every image as a table."""
        body = [
            [image, kind, str(true), *(_text(found[w]) for w in self.ways)] for image, kind, true, found in self.rows
        ]
        return ["image", "class", "truth", *self.ways], body

    def csv(self) -> str:
        """Return every image as CSV; a way that failed in an image has no number there."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "class", "truth", *self.ways])
        writer.writerows([image, kind, true, *(found[w] for w in self.ways)] for image, kind, true, found in self.rows)
        return text.getvalue()

    def totals(self) -> dict[str, dict[str, Any]]:
        """Return for each class the objects of all images, and by how many each way is off in an image."""
        made: dict[str, dict[str, Any]] = {}
        for kind in dict.fromkeys(row[1] for row in self.rows):
            rows = [row for row in self.rows if row[1] == kind]
            made[kind] = {"truth": sum(row[2] for row in rows)}
            for way in self.ways:
                there = [(row[2], row[3][way]) for row in rows if row[3][way] is not None]
                off = [abs(found - true) for true, found in there]  # type: ignore[operator]
                made[kind][way] = {
                    "total": sum(found for _, found in there),  # type: ignore[misc]
                    "off_by": sum(off) / len(off) if off else None,
                }
        return made

    def summary(self) -> Table:
        """Return the totals as a table."""
        body = []
        for kind, found in self.totals().items():
            cells = [
                f"{found[way]['total']:,} (off by {found[way]['off_by']:.2f} an image)"
                if found[way]["off_by"] is not None
                else "–"
                for way in self.ways
            ]
            body.append([kind, f"{found['truth']:,}", *cells])
        return ["objects in all images", "truth", *self.ways], body


def counted(system: System, images: Images, ways: Mapping[str, Ran]) -> Counts:
    """Count the objects: of classes and masks their connected pieces."""
    rows: list[tuple[str, str, int, Mapping[str, int | None]]] = []
    for name in images.names:
        true = _count(system, images, images.truth[name])
        found = {way: _count(system, images, ran.found[name]) for way, ran in ways.items()}
        for kind in true or {}:
            rows.append((name, kind, true[kind], {w: None if one is None else one[kind] for w, one in found.items()}))  # type: ignore[index]
    return Counts(tuple(ways), rows)


def _count(system: System, images: Images, layer: Layer | None) -> dict[str, int] | None:
    if layer is None:
        return None
    if isinstance(layer, Boxes):
        numbers = np.bincount(layer.classes, minlength=len(images.classes))
        return {name: int(numbers[i]) for i, name in enumerate(images.classes)}
    if system.draw == "classes":
        return {name: _pieces(layer == i) for i, name in enumerate(images.classes) if i}
    if layer.dtype == bool:
        return {images.classes[0]: _pieces(layer)}
    return {images.classes[0]: len(np.setdiff1d(layer, [0]))}


def _pieces(mask: np.ndarray) -> int:
    return int(ck.stages.components(mask).max(initial=0))


@dataclass(frozen=True, eq=False)
class Proportions:
    """For each image, and in the end for all, count and total: of the truth, and of each way (None: it failed)."""

    ways: tuple[str, ...]
    rows: Sequence[tuple[str, Mapping[str, tuple[int, int] | None]]]

    def table(self) -> Table:
        """Return every image as a table, all of them together first."""
        rows = [("all images", {name: (one["count"], one["total"]) for name, one in self.totals().items()}), *self.rows]
        columns = ["truth", *self.ways]
        return ["image", *columns], [[image, *(_part(found[c]) for c in columns)] for image, found in rows]

    def totals(self) -> dict[str, dict[str, Any]]:
        """Return the proportion in all images together, with its interval."""
        made: dict[str, dict[str, Any]] = {}
        for column in ("truth", *self.ways):
            there = [found[column] for _, found in self.rows if found[column] is not None]
            count, total = (sum(one[i] for one in there if one is not None) for i in (0, 1))
            low, high = wilson(count, total) if total else (None, None)  # type: ignore[assignment]
            part = count / total if total else None
            made[column] = {"count": count, "total": total, "proportion": part, "low": low, "high": high}
        return made


def proportion_of(system: System) -> tuple[str, str]:
    """Return the name of the proportion that a recipe of the system makes, and what it is; empty without one."""
    step = _step(system)
    if step is None:
        return "", ""
    whole = [*step.params.get("among", ()), *step.params["of"]] if step.params.get("among") else ["all"]
    return step.out or "proportion", f"{', '.join(step.params['of'])} of {', '.join(whole)}"


def proportions(system: System, images: Images, ways: Mapping[str, Ran]) -> Proportions | None:
    """Return the proportions that the step `proportion` of a recipe tells, of truth and ways; None without one."""
    step = _step(system)
    if step is None:
        return None

    def part(layer: Layer | None) -> tuple[int, int] | None:
        if not isinstance(layer, Boxes):
            return None
        row = ck.stages.proportion(layer, **step.params, label_names=images.classes).iloc[0]
        return int(row["count"]), int(row["total"])

    rows = [
        (name, {"truth": part(images.truth[name]), **{way: part(ran.found[name]) for way, ran in ways.items()}})
        for name in images.names
    ]
    return Proportions(tuple(ways), rows)


def _step(system: System) -> Step | None:
    for way in system.ways:
        for step in recipe_of(system, way).steps:
            if step.stage == "proportion" and step.params.get("of"):
                return step
    return None


def _part(found: tuple[int, int] | None) -> str:
    if found is None:
        return "–"
    count, total = found
    low, high = wilson(count, total)
    if math.isnan(low):
        return "none"
    return f"{count:,} of {total:,}: {100 * count / total:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def _text(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"
