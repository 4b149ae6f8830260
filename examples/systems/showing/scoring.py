"""The images of a system with their truth, and the scores of its ways, made as `cellkit eval` makes them."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core import Boxes, UsageError
from cellkit.formats import coco
from cellkit.formats.objects import ObjectSet
from cellkit.io import atomic, write, write_labels
from cellkit.io.datasets import Dataset, Pair, open_dataset
from cellkit.metrics import PROTOCOLS, Report, Settings, boxes
from cellkit.report.runs import Score
from cellkit.report.sides import Layer
from cellkit.train.splits import read_split

from .system import COCO, System, Wanted
from .ways import Ran

__all__ = ["Images", "Scored", "gain_of", "part_scores", "score_of", "scored"]


@dataclass(frozen=True, eq=False)
class Images:
    """The images for validation by name, their truth, and the names of what it holds: of classes from number 0."""

    where: str
    pairs: Mapping[str, Pair]
    truth: Mapping[str, Layer]
    classes: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all images, in their order."""
        return tuple(self.pairs)

    def told(self) -> str:
        """Return how many images there are."""
        return f"{len(self.pairs):,} image{'s' * (len(self.pairs) != 1)} for validation"

    @property
    def groups(self) -> dict[str, str]:
        """The group of each image: intervals are drawn over groups."""
        return {name: pair.group or name for name, pair in self.pairs.items()}

    @classmethod
    def open(cls, system: System, folder: Path) -> Images:
        """Read names and truth. Raises a `CellkitError` where data set, split or truth are not sound."""
        dataset = open_dataset(folder, layout=system.layout)
        pairs = read_split(system.folder / system.split).part(system.part).pairs(dataset)
        place = {pair.name: i for i, pair in enumerate(dataset)}
        pairs = tuple(sorted(pairs, key=lambda pair: place[pair.name]))  # resamples as `cellkit eval` draws them
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            truth = list(pool.map(lambda pair: _truth(system, pair), pairs))
        classes = system.classes or _classes(system, dataset)
        shown = {"classes": classes[1:], "boxes": classes}.get(system.draw, ())
        named = {pair.name: pair for pair in pairs}
        return cls(folder.resolve().name, named, dict(zip(named, truth, strict=True)), classes, shown)

    def write_truth(self, folder: Path) -> None:
        """Write the truth as `cellkit eval` reads it."""
        shutil.rmtree(folder, ignore_errors=True)
        first = next(iter(self.truth.values()))
        if isinstance(first, Boxes):
            folder.mkdir(parents=True)
            with atomic(folder / "coco.json") as path:
                path.write_text(coco.encode_dataset(self.boxes()), encoding="utf-8")
            return
        inner = folder / ("classes" if first.dtype == np.uint8 else "labels")
        inner.mkdir(parents=True)
        for name, truth in self.truth.items():
            if first.dtype == np.uint8:
                write(inner / f"{name}.png", truth)
            else:
                write_labels(inner / f"{name}.tif", truth)

    def boxes(self) -> list[ObjectSet]:
        """Return the true boxes of each image, numbered from 1 as images and classes are."""
        numbers = {name: i for i, name in enumerate(self.classes, 1)}
        sets = []
        for number, (name, pair) in enumerate(self.pairs.items(), 1):
            made = ObjectSet.of_instances(self.truth[name], pair.shape, name=name, names=self.classes)
            sets.append(made.with_(scores=None, categories=numbers, image_id=number, file_name=pair.image.name))
        return sets


def _truth(system: System, pair: Pair) -> Layer:
    if system.draw == "boxes":
        return pair.boxes(invalid=system.invalid)
    if system.draw == "classes":
        return np.ascontiguousarray(pair.classes(), np.uint8)
    return np.ascontiguousarray(pair.labels(), np.int32)


def _classes(system: System, dataset: Dataset) -> tuple[str, ...]:
    if dataset.classes and system.draw in ("classes", "boxes"):
        return tuple(dataset.classes)
    return ("object",)


@dataclass(frozen=True, eq=False)
class Scored:
    """The report on one way: numbers, their intervals and resamples, the score of each image, and what that is."""

    headline: str
    report: Report
    images: dict[str, float]
    counts: Mapping[str, Any]
    each: str = "score"

    @property
    def rule(self) -> str:
        """How the score is made."""
        return self.report.rule


def scored(system: System, images: Images, way: Ran) -> dict[str, Scored]:
    """Return the reports on a way by the key of what is wanted. An image that failed counts as all wrong."""
    made: dict[str, Scored] = {}
    for wanted in system.scores:
        if wanted.key not in made:
            made[wanted.key] = _coco(images, way) if wanted.score == COCO else _pixels(wanted, images, way)
    return made


def _pixels(wanted: Wanted, images: Images, way: Ran) -> Scored:
    protocol = PROTOCOLS[wanted.score]

    def count(name: str) -> Any:
        truth, found = images.truth[name], way.found[name]
        if found is None:
            found = (np.asarray(truth) == 0).astype(np.int32)  # shares no pixel with the truth
        return protocol.count(truth, found)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        counts = dict(zip(images.names, pool.map(count, images.names), strict=True))
    report = protocol.report(counts, _settings(wanted, images))
    return Scored(protocol.headline, report, {row["image"]: float(row["value"]) for row in report.per_image}, counts)


def _settings(wanted: Wanted, images: Images) -> Settings:
    return Settings(variant=wanted.variant or None, groups=images.groups, draws=True)


def _coco(images: Images, way: Ran) -> Scored:
    """Score boxes of any score, and write them beside the way as `cellkit eval` reads them."""
    truth = json.loads(coco.encode_dataset(images.boxes()))
    results = []
    for number, name in enumerate(images.names, 1):
        found = way.every.get(name)
        if found is None:
            continue
        corners = found.xyxy.astype(np.float64)
        sides = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
        for box, score, kind in zip(sides, found.scores.tolist(), found.classes.tolist(), strict=True):
            results.append({"image_id": number, "category_id": kind + 1, "bbox": box, "score": score})
    with atomic(way.folder / "results.json") as path:
        path.write_text(json.dumps(results) + "\n", encoding="utf-8")
    groups = dict(enumerate(images.groups.values(), 1))
    found = boxes.evaluate(truth, results, groups=groups)
    spans = {name: (ends[0], ends[1]) for name, ends in found["intervals"].items() if isinstance(ends, list)}
    numbers = {**found["scores"], **{name: found["at_threshold"][name] for name in ("precision", "recall", "f1")}}
    scores = {**numbers, "per_class": {row["class"]: row for row in found["per_class"]}}
    draws = found["draws"] | ({"value": found["draws"]["AP"]} if found["draws"] else {})
    low, high = spans.get("AP", (math.nan, math.nan))
    report = Report(found["value"], low, high, found["rule"], "", 0, scores, (), spans, draws=draws)
    values = {images.names[row["id"] - 1]: float(row["value"]) for row in found["per_image"]}
    return Scored("COCO AP of boxes", report, values, {}, "F1")


def score_of(scored: Scored, wanted: Wanted) -> Score:
    """Return a number of a report with its interval. Raises `UsageError` where there is none of that name."""
    report = scored.report
    label = wanted.label or scored.headline
    if wanted.number == "value":
        return Score(label, report.value, report.low, report.high)
    tree: Any = {**report.scores, **report.top}
    path = [wanted.number] if wanted.number in tree else wanted.number.split(".", 2)
    for part in path:
        if not isinstance(tree, Mapping) or part not in tree:
            known = ", ".join(name for name, one in {**report.scores, **report.top}.items() if not isinstance(one, str))
            raise UsageError(f"score {wanted.score}: has no number {wanted.number!r}; it has {known}")
        tree = tree[part]
    return Score(label, float(tree), *report.intervals.get(wanted.number, (math.nan, math.nan)))


def gain_of(better: Scored, published: Scored, wanted: Wanted) -> Score:
    """Return by how much one way is better on the same images, with the interval of that difference."""
    value = score_of(better, wanted).value - score_of(published, wanted).value
    draws = [one.report.draws.get(wanted.number) for one in (better, published)]
    if draws[0] is None or draws[1] is None:
        return Score("gain", value)
    apart = draws[0] - draws[1]
    apart = apart[np.isfinite(apart)]
    low, high = np.quantile(apart, [0.025, 0.975]).tolist() if len(apart) else (math.nan, math.nan)
    return Score("gain", value, low, high)


def part_scores(
    system: System, images: Images, reports: Mapping[str, Mapping[str, Scored]]
) -> dict[str, tuple[int, dict[str, Score]]]:
    """Return the first score of every way for each value of the column `by`, and how many images have it."""
    if not system.by:
        return {}
    wanted = system.scores[0]
    values = {name: pair.fields.get(system.by) or "none" for name, pair in images.pairs.items()}
    if set(values.values()) == {"none"}:
        raise UsageError(f"by: the split has no column {system.by!r}")
    made = {}
    for value in sorted(set(values.values())):
        found = {}
        for way, own in reports.items():
            scored = own[wanted.key]
            counts = {name: one for name, one in scored.counts.items() if values[name] == value}
            report = PROTOCOLS[wanted.score].report(counts, _settings(wanted, images))
            found[way] = score_of(Scored(scored.headline, report, {}, {}), wanted)
        made[value] = (sum(one == value for one in values.values()), found)
    return made
