"""Scores of the networks of a grid, with the resamples by which two of them are compared pair by pair."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellkit.core import FormatError
from cellkit.io import atomic
from cellkit.io.datasets import Pair
from cellkit.metrics import PROTOCOLS, Protocol, Report, Settings
from cellkit.metrics.pooling import image_means, total, weights
from cellkit.metrics.report import finite
from cellkit.models import Card, find_model, load_network, measure_context
from cellkit.train._objectscore import FIFTY, documents
from cellkit.train.config import TrainConfig
from cellkit.train.keeper import BEST, LAST
from cellkit.train.loop import MODEL, build_task, kept_weights
from cellkit.train.parts import Parts
from cellkit.train.runs import read_run
from cellkit.train.validate import Validator, figures

__all__ = ["PartScore", "Weights", "find_weights", "read_scores", "score_part", "write_scores"]

_VERSION = 1
_POOLED_RESAMPLES = 300
"""Resamples where the counts of images are pooled, each of which makes a report of its own."""


@dataclass(frozen=True)
class PartScore:
    """The score of one network on its images, with its 95 % interval; NaN where undefined.

    `source`: which weights and steps it is of. `digest`: of the images and their groups. `figures`: as a card holds
    them. `classes`: the score by class where the protocol has it. `draws`: the score of every resample of the groups of
    images; those of two networks on the same images are alike drawn. `failed`: why images failed that did.
    """

    source: str
    name: str
    value: float
    low: float
    high: float
    digest: str
    epoch: int
    parameters: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)
    draws: tuple[float, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """The weights that a training has kept: of `epoch`, and whether they are those of its end."""

    config: TrainConfig
    folder: Path
    epoch: int
    final: bool

    def load(self) -> tuple[torch.nn.Module, Card]:
        """Return the network and its card."""
        if self.final:
            located = find_model(str((self.folder / MODEL).absolute()))
            return load_network(located), located.card
        network, _ = kept_weights(build_task(self.config, self.folder))
        return network, measure_context(network, self.config.plain_card)


def find_weights(config: TrainConfig, folder: Path) -> Weights | None:
    """Return the weights that lie in the folder of a training; None where there are none yet.

    Raises `FormatError` where its files are damaged.
    """
    if not any((folder / name).is_file() for name in (MODEL, BEST, LAST)):
        return None
    run = read_run(folder)
    if run.finished and run.best_epoch is not None:
        return Weights(config, folder, run.best_epoch, True)
    if not (folder / LAST).is_file():
        return None
    epoch = run.best_epoch if (folder / BEST).is_file() and run.best_epoch is not None else run.epochs
    return Weights(config, folder, epoch, False)


def score_part(config: TrainConfig, parts: Parts, found: Weights, device: torch.device, place: int) -> PartScore:
    """Return the score of the network `found` on the images for validation of `parts`, by the recipe of `config`.

    `place`: of the fold, from 0, so that the resamples of two folds are drawn apart.
    """
    network, card = found.load()
    count = sum(int(one.numel()) for one in network.parameters())
    card = replace(card, recipe=config.plain_card.recipe)
    pairs = sorted(parts.val, key=lambda pair: pair.name)  # so that all cells draw the same images
    with Validator(replace(config, baseline=None), pairs, parts.gives, card, device) as validator:
        protocol = validator.protocol
        report, failed, kept = validator.counted(network)
        draws = _draws(validator, report, kept, place)
    return PartScore(
        source=source_of(config, found),
        name=protocol.headline,
        value=report.value,
        low=report.low,
        high=report.high,
        digest=_digest(pairs),
        epoch=found.epoch,
        parameters=count,
        figures=figures(report, protocol, pairs, config.data.balance),
        classes=_classes(report, protocol, card),
        draws=tuple(np.round(draws, 6).tolist()),
        failed=tuple(failed),
    )


def source_of(config: TrainConfig, found: Weights) -> str:
    """Return what a score is of: the weights, and the steps and the rule that make it."""
    from cellkit.train.gridfile import identity_of

    about = repr(sorted(identity_of(config).items()))
    kind = "model" if found.final else "checkpoint"
    return f"{kind} of epoch {found.epoch}, {hashlib.sha256(about.encode()).hexdigest()[:16]}"


def _digest(pairs: Sequence[Pair]) -> str:
    text = "".join(f"{pair.name}\t{pair.group}\n" for pair in pairs)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _draws(validator: Validator, report: Report, counts: Mapping[str, Any], seed: int) -> np.ndarray:
    """Return the score of every resample of the groups of images; none where there are fewer than two groups."""
    protocol, names = validator.protocol, list(counts)
    groups = {pair.name: pair.group or pair.name for pair in validator.pairs}
    if len(set(groups.values())) < 2:
        return np.zeros(0)
    if protocol.name not in PROTOCOLS:
        from cellkit.metrics.boxes import resampled

        document, results = documents(counts, validator.card.classes)
        iou_type: Any = "segm" if validator.layer == "instances" else "bbox"
        found = resampled(document, results, iou_type=iou_type, groups=groups, seed=seed)
        return found.get("AP_50" if protocol.name == FIFTY else "AP", np.zeros(0))
    units = [groups[name] for name in names]
    if protocol.poolings[0] == "images":
        rows = {row["image"]: float(row["value"]) for row in report.per_image}
        values = np.array([rows[name] for name in names])
        return np.concatenate([image_means(values, times) for times in weights(len(names), units, seed=seed)])
    pooled = []
    for block in weights(len(names), units, resamples=_POOLED_RESAMPLES, seed=seed):
        for times in block:
            drawn = [counts[name] for name, count in zip(names, times, strict=True) for _ in range(int(count))]
            pooled.append(protocol.make({"all": total(drawn, None)}, Settings(pooling="set")).value)
    return np.array(pooled)


def _classes(report: Report, protocol: Protocol, card: Card) -> dict[str, float]:
    """Return the score of each class: its IoU, or its AP."""
    every = report.scores.get("per_class")
    if not isinstance(every, Mapping):
        return {}
    key = {"semantic": "iou", FIFTY: "AP_50"}.get(protocol.name, "AP")
    found = {str(name): float(one[key]) for name, one in every.items() if key in one}
    if protocol.name == "semantic":
        names = card.classes
        known = all(name.isdecimal() and int(name) < len(names) for name in found)
        found = {names[int(name)]: value for name, value in found.items()} if known and len(names) > 1 else found
    return found


def write_scores(path: Path, scores: Sequence[PartScore | None]) -> None:
    """Write the scores of a cell, one for each fold, None where there is none yet."""
    plain = [None if one is None else finite(asdict(one)) for one in scores]
    with atomic(path) as temporary:
        text = json.dumps({"cellkit_scores": _VERSION, "parts": plain}, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8", newline="")


def read_scores(path: Path, count: int) -> list[PartScore | None]:
    """Read the scores of a cell of so many parts; None for each where there are none, or of another number.

    Raises `FormatError` where the file is damaged.
    """
    if not path.is_file():
        return [None] * count
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        parts = document["parts"] if document["cellkit_scores"] == _VERSION else []
        found = [None if one is None else PartScore(**_numbers(one)) for one in parts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: cannot be read as scores: {type(error).__name__}: {error}; remove it") from error
    return found if len(found) == count else [None] * count


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for name in ("value", "low", "high"):
        found[name] = math.nan if found[name] is None else float(found[name])
    found["classes"] = {key: math.nan if one is None else one for key, one in found["classes"].items()}
    found["draws"] = tuple(math.nan if one is None else float(one) for one in found["draws"])
    found["failed"] = tuple(found["failed"])
    return found
