"""Folds of a training: which images each trains on and is judged by, and what all of them come to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cellkit.core import UsageError
from cellkit.io import atomic
from cellkit.io.datasets import Pair
from cellkit.train.config import TrainConfig
from cellkit.train.parts import Parts, open_split, parts_of, place_of
from cellkit.train.splits import Split, make_folds

__all__ = ["Fold", "Folds", "FoldsReport", "open_folds", "read_report", "spread", "write_report"]

State = Literal["waiting", "stopped", "failed", "done"]
_VERSION = 1


@dataclass(frozen=True)
class Folds:
    """What each fold trains on and is validated on, and the images `held` that none of them sees.

    `every`: all of them at once, each image in its fold as if that were its part.
    """

    parts: tuple[Parts, ...]
    held: tuple[Pair, ...]
    every: Parts

    @property
    def places(self) -> dict[str, int]:
        """The fold, from 1, in which each image judges; 0 for those held back."""
        places = {pair.name: number for number, parts in enumerate(self.parts, 1) for pair in parts.val}
        return {**places, **dict.fromkeys((pair.name for pair in self.held), 0)}


def open_folds(config: TrainConfig, count: int, folder: str | Path | None = None) -> Folds:
    """Deal the images of `config` (or those in `folder`) out to `count` folds: no group cut, `data.balance` spread.

    Where there is a split, the images of its part to train on take part, and those of its part for validation are held
    back; else all images take part. A column `fold` of the split file, from 0, is kept to. No pixel is read.

    Raises what `cellkit.train.parts.open_parts` raises, and `UsageError` where there are fewer groups than folds.
    """
    rules = config.data
    where = place_of(config, folder)
    dataset, split, told = open_split(config, where)
    parted = any(row.part for row in split)
    taking = split.part(rules.train) if parted else split
    held = split.part(rules.val).pairs(dataset) if parted and any(row.part == rules.val for row in split) else ()
    made, how = _made(taking, count, config)
    parts = []
    for number in range(count):
        one = made.fold(number)
        pairs = one.part("train").pairs(dataset), one.part("val").pairs(dataset)
        parts.append(parts_of(config, where, dataset, pairs, f"fold {number + 1} of {count} {how}; {told}"))
    named = replace(made, rows=tuple(replace(row, part=f"fold {row.fold + 1}") for row in made))
    return Folds(tuple(parts), held, parts_of(config, where, dataset, (named.pairs(dataset), held), told))


def _made(split: Split, count: int, config: TrainConfig) -> tuple[Split, str]:
    """Return the rows with their folds, and how these came about."""
    column, seed = config.data.balance, config.loop.seed
    if not split.folds:
        spread = f", {column} spread evenly" if column else ""
        return make_folds(split, count, stratify=column, seed=seed), f"drawn with seed {seed}{spread}"
    lacking = [row.name for row in split if row.fold < 0]
    if split.folds != count or lacking or {row.fold for row in split} != set(range(count)):
        what = f"no fold for {lacking[0]!r}" if lacking else f"the folds 0 to {split.folds - 1}"
        raise UsageError(
            f"{split.where}: its column `fold` has {what}, --folds asks for {count}, each image in one of 0 to "
            f"{count - 1}; mend the column, or leave it out to have folds drawn"
        )
    return split, "as the column `fold` says"


@dataclass(frozen=True)
class Fold:
    """How far one fold has come. `state`: waiting, stopped in time, failed (no number any more), or done.

    `score`: the figures of its model on the images it did not see, `held` on those that no fold sees, as in a card.
    `epochs` are those done, `until` what ended them, `seconds` the time they took.
    """

    number: int
    folder: str
    train: int
    val: int
    state: State = "waiting"
    reason: str = ""
    epochs: int = 0
    seconds: float = 0.0
    until: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)
    held: Mapping[str, Any] = field(default_factory=dict)

    def done(self, config: TrainConfig) -> bool:
        """Return whether nothing is left to do by `config`, which may ask for more epochs than it had."""
        return self.state == "done" and dict(self.until) == end_of(config)


def end_of(config: TrainConfig) -> dict[str, Any]:
    """Return what decides where a training ends."""
    return {name: getattr(config.loop, name) for name in ("epochs", "hours", "patience")}


@dataclass(frozen=True)
class FoldsReport:
    """What a training in folds came to: each fold, and on the images held back the mean of the scores of all models.

    `finished`: nothing is left to be done. `reason` says why not. `leads`: see `cellkit.train.loop.Report`.
    """

    folder: Path
    folds: tuple[Fold, ...]
    ensemble: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = False
    reason: str = ""
    notes: tuple[str, ...] = ()
    leads: bool = True

    def document(self) -> dict[str, Any]:
        """Return everything as a dict ready for JSON; numbers that are not known are None."""
        return {
            "cellkit_folds": _VERSION,
            "folder": self.folder.name,
            "finished": self.finished,
            "reason": self.reason,
            "folds": [asdict(fold) for fold in self.folds],
            "validation": spread([fold.score for fold in self.folds]),
            "held_out": {**spread([fold.held for fold in self.folds]), "ensemble": dict(self.ensemble)},
            "notes": list(self.notes),
        }


def spread(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return number, mean, variance and standard deviation (with n - 1) of the scores that there are, else None."""
    values = [float(one["value"]) for one in figures if one.get("value") is not None]
    variance = statistics.variance(values) if len(values) > 1 else None
    return {
        "models": len(values),
        "mean": round(statistics.fmean(values), 6) if values else None,
        "variance": None if variance is None else round(variance, 8),
        "deviation": None if variance is None else round(variance**0.5, 6),
    }


def write_report(path: Path, report: FoldsReport, folds: Folds, config: TrainConfig) -> None:
    """Write folds.json: the report, the fold of each image, and the config's identity, which must not change."""
    document = {**report.document(), "images": folds.places, "config": config.identity}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8", newline="")


def read_report(path: Path, folds: Folds, config: TrainConfig) -> FoldsReport:
    """Read folds.json to go on from. Raises `UsageError` where it is damaged, or about other images or a new config."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["cellkit_folds"] != _VERSION:
            raise ValueError(f"version {document['cellkit_folds']} is not known")
        done = tuple(Fold(**one) for one in document["folds"])
        images, before, ensemble = document["images"], document["config"], document["held_out"]["ensemble"]
        notes = tuple(document["notes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: cannot be gone on from: {type(error).__name__}: {error}; begin anew with -o") from error  # fmt: skip # noqa: E501
    if len(done) != len(folds.parts):
        raise UsageError(
            f"--resume: {path} is of {len(done)} folds, not of {len(folds.parts)}; say --folds {len(done)}"
        )
    now = config.identity
    differ = [key for key in now if before.get(key) != now[key]]
    if differ:
        raise UsageError(
            f"--resume: the config is not the one of {path}: {', '.join(differ)} changed; only epochs, hours, "
            "validation and patience may"
        )
    if images != folds.places:
        moved = [name for name in images.keys() | folds.places.keys() if images.get(name) != folds.places.get(name)]
        raise UsageError(
            f"--resume: {path} is about other images or another split: {len(moved):,} differ, such as {min(moved)}"
        )
    return FoldsReport(path.parent, done, ensemble, notes=notes)
