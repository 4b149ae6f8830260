"""What is known of trainings, as plain data: their logs, scores and settings, and which of them can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Run", "Score", "Spread", "differing", "groups", "labels", "spread"]

UNSAID = "–"
"""What stands for a setting that a run's config does not hold."""


@dataclass(frozen=True)
class Score:
    """A score on the images for validation, in what the card of a network says of it.

    `low` to `high`: its 95 % interval; NaN where undefined, as `value` is. `rule` says how the score is made, `digest`
    which images it is of (empty: not recorded). `by`: the score by column and value, such as
    ``{"modality": {"tissue": Score}}``. `recipe`: whose score it is, where that is another recipe.
    """

    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    images: int = 0
    rule: str = ""
    digest: str = ""
    by: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    recipe: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Score:
        """Return the score that a card holds as `values`; what is missing or no number is NaN."""
        by = {
            column.removeprefix("by_"): {
                str(name): cls.of({"score": values.get("score", ""), **part})
                for name, part in parts.items()
                if isinstance(part, Mapping)
            }
            for column, parts in values.items()
            if column.startswith("by_") and isinstance(parts, Mapping)
        }
        return cls(
            name=str(values.get("score", "")),
            value=number(values.get("value")),
            low=number(values.get("low")),
            high=number(values.get("high")),
            images=int(values.get("images") or 0),
            rule=str(values.get("rule", "")),
            digest=str(values.get("digest", "")),
            by=by,
            recipe=str(values.get("recipe", "")),
        )

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What must be alike for two scores to be compared."""
        return self.name, self.rule, self.images, self.digest


@dataclass(frozen=True, eq=False)
class Run:
    """One training, or one of several folds.

    `log`: column to values, one an epoch, NaN where there is none. `settings`: every setting by its dotted name,
    defaults filled in, as the training recorded them (empty where it did not); `config`: those its config holds, and
    `text` that config. `figures`: scores by what they are of ("model", "baseline", "bfloat16"). `about`: what else the
    training recorded of itself. `folds`: the runs of a training in folds, whose own `log` is empty, of as many as were
    `asked` for. `faults`: what could not be read, as (name, reason), without which the rest is whole. `examples`:
    images of the validation, coloured `by` what; see `cellkit.report.worst.worst_page`.
    """

    name: str
    folder: str
    log: Mapping[str, Sequence[float]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    figures: Mapping[str, Score] = field(default_factory=dict)
    best_epoch: int | None = None
    finished: bool = False
    architecture: str = ""
    parameters: int | None = None
    data: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    folds: tuple[Run, ...] = ()
    asked: int = 0
    faults: tuple[tuple[str, str], ...] = ()
    examples: tuple[Any, ...] = ()
    by: Any = "objects"

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return sum(fold.epochs for fold in self.folds) if self.folds else len(self.log.get("epoch", ()))

    @property
    def planned(self) -> int | None:
        """How many epochs were asked for, where that is known."""
        if self.folds:
            known = [fold.planned for fold in self.folds]
            return None if None in known else sum(one for one in known if one is not None)
        value = self.settings.get("loop.epochs", self.config.get("loop.epochs"))
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def seconds(self) -> float:
        """How long its epochs took together; NaN where the log does not say."""
        if self.folds:
            return math.fsum(fold.seconds for fold in self.folds)
        known = [one for one in self.log.get("seconds", ()) if not math.isnan(one)]
        return math.fsum(known) if known else math.nan

    @property
    def score(self) -> Score:
        """The score of the model, or of the best epoch so far; of folds the mean, with the range of its folds' sd."""
        return _of_folds(self.folds) if self.folds else self.figures.get("model", Score(""))

    @property
    def baseline(self) -> Score | None:
        """The score of the baseline, where one was asked for."""
        if self.folds:
            known = [fold.baseline for fold in self.folds]
            return None if not known or None in known else _mean([one for one in known if one is not None])
        return self.figures.get("baseline")

    @property
    def state(self) -> str:
        """In a word or two: finished, or how far it came."""
        if self.folds:
            done = sum(fold.finished for fold in self.folds)
            every = max(len(self.folds) + len(self.faults), self.asked)
            return "finished" if done == every else f"{done} of {every} folds"
        if self.finished:
            return "finished"
        return "unfinished" if self.epochs else "no epoch done"


@dataclass(frozen=True)
class Spread:
    """How the scores of folds lie: their number, mean, sample variance, standard deviation, and ends."""

    folds: int
    mean: float
    variance: float
    deviation: float
    least: float
    most: float


def spread(values: Iterable[float]) -> Spread:
    """Return how `values` lie; NaN does not count, and the variance of fewer than two is NaN."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(0, math.nan, math.nan, math.nan, math.nan, math.nan)
    mean = math.fsum(known) / len(known)
    variance = math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1) if len(known) > 1 else math.nan
    return Spread(len(known), mean, variance, math.sqrt(variance), min(known), max(known))


def _mean(scores: Sequence[Score], deviation: bool = False) -> Score:
    """Return the mean of scores, each fold once, and of what they are by column; of a `deviation`, mean ± it."""
    if not scores:
        return Score("")
    found = spread(score.value for score in scores)
    columns = dict.fromkeys(column for score in scores for column in score.by)
    by = {}
    for column in columns:
        values = sorted({value for score in scores for value in score.by.get(column, {})})
        by[column] = {
            value: _mean([s.by[column][value] for s in scores if value in s.by.get(column, {})], deviation)
            for value in values
        }
    rules, names = {score.rule for score in scores}, {score.name for score in scores}
    return Score(
        name=" and ".join(sorted(names)),
        value=found.mean,
        low=found.mean - found.deviation if deviation else math.nan,
        high=found.mean + found.deviation if deviation else math.nan,
        images=sum(score.images for score in scores),
        rule="; ".join(sorted(rules)),
        digest="+".join(sorted(score.digest for score in scores)) if all(score.digest for score in scores) else "",
        by=by,
        recipe=scores[0].recipe,
    )


def _of_folds(folds: Sequence[Run]) -> Score:
    return _mean([fold.score for fold in folds if not math.isnan(fold.score.value)], deviation=True)


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs whose scores can be compared, group by group: one score, one rule, the same images.

    Runs without a score stand in no group. Where it is not recorded which images were scored, runs are kept apart
    from those where it is.
    """
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if not math.isnan(run.score.value):
            found.setdefault((*run.score.key, len(run.folds)), []).append(run)
    return list(found.values())


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings in which `runs` differ, with the value of each, `UNSAID` where a config does not hold one.

    Defaults count where all runs recorded theirs; else only what the configs say is compared.
    """
    held = [run.settings if all(other.settings for other in runs) else run.config for run in runs]
    found = {}
    for key in sorted({key for one in held for key in one}):
        values = [one.get(key, UNSAID) for one in held]
        if any(value != values[0] for value in values[1:]):
            found[key] = values
    return found


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, unlike all others: that of its folder, with as many parents as it takes."""
    parts = [[part for part in run.folder.replace("\\", "/").split("/") if part] or [run.name] for run in runs]
    depth = [1] * len(runs)
    while True:
        names = ["/".join(part[-d:]) for part, d in zip(parts, depth, strict=True)]
        again = [names.count(name) > 1 and d < len(part) for name, d, part in zip(names, depth, parts, strict=True)]
        if not any(again):
            return names
        depth = [d + more for d, more in zip(depth, again, strict=True)]


def number(value: Any) -> float:
    """Return a number as float, NaN for anything else."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain else math.nan
