"""Tune a recipe, and measure on images that the tuning has not seen what that gains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.core.errors import UsageError
from cellkit.core.recipe import Recipe
from cellkit.metrics import Report
from cellkit.metrics.pooling import interval
from cellkit.tune.scoring import Scorer
from cellkit.tune.search import Draw, Outcome, Sampler, Store, Trial, best, search

__all__ = ["ALL", "Fold", "Gain", "Options", "Tuning", "between", "drawn_units", "folds", "gain", "tune"]

_LAST = 5
ALL = "all"
"""The name of the search on all images; those of the folds are ``fold 1``, ``fold 2`` and so on."""


@dataclass(frozen=True)
class Options:
    """How a recipe is tuned.

    `trials` of each search, `folds`, the `seed`, the `seconds` there are (None: no bound), whether the tuned recipe
    is wanted even where it gains nothing on held-out images (`force`), and the `sampler` (see `propose`).
    """

    trials: int = 40
    folds: int = 3
    seed: int = 0
    seconds: float | None = None
    force: bool = False
    sampler: Sampler = "tpe"


@dataclass(frozen=True)
class Fold:
    """One fold: images held out, trials done on the others, the best of them, and both scores on the held-out."""

    images: int
    trials: int
    best: Trial
    default: float
    tuned: float


@dataclass(frozen=True)
class Gain:
    """What tuning gains on images that it has not seen: `tuned` less `default`, with a 95 % interval (NaN: unknown).

    `method` says what the interval is drawn from.
    """

    default: float
    tuned: float
    low: float
    high: float
    method: str

    @property
    def value(self) -> float:
        """The gain."""
        return self.tuned - self.default


@dataclass(frozen=True)
class Tuning:
    """The outcome. `recipe` is the one to be written: `tuned`, or as it was where tuning does not help.

    `searches` holds the trials of every search by name; that of `ALL` is missing where it was not worth while.
    `failed` names the images on which a stage fails, with the recipe as written, and why.
    """

    recipe: Recipe
    tuned: bool
    gain: Gain
    folds: tuple[Fold, ...]
    searches: Mapping[str, Sequence[Trial]]
    failed: Mapping[str, str]
    seconds: float

    @property
    def best(self) -> Trial | None:
        """The best trial on all images, or None where there was no such search."""
        return best(self.searches[ALL]) if self.searches.get(ALL) else None


def tune(
    scorer: Scorer,
    options: Options,
    store: Store | None = None,
    on_trial: Callable[[str, Trial], object] | None = None,
) -> Tuning:
    """Tune the space of `scorer` as `options` say.

    For every fold a search on the other images; its best values and the defaults are then scored on the images held
    out, so that no image has a say in the values it is scored with. Where that gains, a last search on all images
    finds the values of the recipe. Searches begin with the same trials, which then cost nothing. The seconds are
    shared out evenly among the searches that are left; a search that runs out of time stands with the trials it has.

    Raises `UsageError` where there are fewer groups of images than folds.
    """
    started = time.perf_counter()
    names = scorer.names
    held = folds(names, [scorer.cases[name].group for name in names], options.folds, options.seed)
    clock = _Clock(options.seconds, started, options.folds + 1)

    def searched(label: str, images: Sequence[str]) -> list[Trial]:
        return search(
            scorer.space.dimensions,
            lambda values, _: Outcome(*scorer.score(values, images)),
            trials=options.trials,
            draw=Draw(options.seed, options.sampler),
            store=(store, label) if store is not None else None,
            enough=clock.share(),
            on_trial=(lambda trial: on_trial(label, trial)) if on_trial is not None else None,
        )

    searches: dict[str, Sequence[Trial]] = {}
    done: list[Fold] = []
    default: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    for number, out in enumerate(held, 1):
        label = f"fold {number}"
        searches[label] = searched(label, [name for name in names if name not in set(out)])
        found = best(searches[label])
        before, after = scorer.count(scorer.space.defaults, out).counts, scorer.count(found.values, out).counts
        default.update(before)
        tuned.update(after)
        scores = [scorer.report(counts).value for counts in (before, after)]
        done.append(Fold(len(out), len(searches[label]), found, *scores))
    honest = gain(scorer, default, tuned, done)
    values = scorer.space.defaults
    helps = honest.value > 0
    if helps or options.force:
        searches[ALL] = searched(ALL, names)
        values = dict(best(searches[ALL]).values)
    changed = values != scorer.space.defaults
    failed = scorer.count(values, names).failed
    recipe = scorer.space.apply(values) if changed else scorer.space.recipe
    return Tuning(recipe, changed, honest, tuple(done), searches, failed, time.perf_counter() - started)


def folds(names: Sequence[str], groups: Sequence[str], count: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Part images into `count` folds of about equal size, no group cut; an image without a group is one of its own.

    Groups are shuffled by the seed, then dealt, large ones first, each to the smallest fold. Raises `UsageError` where
    there are fewer groups than folds.
    """
    if count < 2:
        raise UsageError(f"folds: wanted at least 2, got {count}")
    members: dict[tuple[str, str], list[str]] = {}
    for name, group in zip(names, groups, strict=True):
        members.setdefault(("group", group) if group else ("image", name), []).append(name)
    if len(members) < count:
        what = "groups of images" if any(groups) else "images"
        raise UsageError(f"{count} folds need at least {count} {what}, there are {len(members)}; give fewer --folds")
    keys = list(members)
    order = [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]
    parts: list[set[str]] = [set() for _ in range(count)]
    for key in sorted(order, key=lambda key: -len(members[key])):  # sorting keeps the order of equals
        min(parts, key=len).update(members[key])
    return [tuple(name for name in names if name in part) for part in parts]


def gain(scorer: Scorer, default: Mapping[str, Any], tuned: Mapping[str, Any], done: Sequence[Fold]) -> Gain:
    """Return what the counts `tuned`, each with the values of its fold, gain over those of the defaults.

    Where the protocol averages images, the interval is a bootstrap of images, or of groups where there are some, each
    with both its scores. Where it pools counts, it is that of Student's t over the gains of the folds.
    """
    reports = [scorer.report(counts) for counts in (default, tuned)]
    values = [one.value for one in reports]
    pooling = scorer.settings.pooling or scorer.protocol.poolings[0]
    if pooling != "images":
        low, high = _spread([fold.tuned - fold.default for fold in done], values[1] - values[0])
        return Gain(values[0], values[1], low, high, f"Student's t over {len(done)} folds")
    return between(reports[0], reports[1], {name: scorer.cases[name].group for name in default})


def between(before: Report, after: Report, groups: Mapping[str, str]) -> Gain:
    """Return the gain of one report over another on the same images, each a mean of images.

    `groups` names the images in the order of the reports, each with what may not be cut (empty: nothing). The interval
    is a bootstrap of images, or of groups where there are some, each with both its scores.
    """
    each = np.array([[row["value"] for row in one.per_image] for one in (before, after)], np.float64)
    there = np.isfinite(each).all(axis=0)
    names = [name for name, ok in zip(groups, there, strict=True) if ok]
    rows = np.stack([np.diff(each, axis=0)[0], np.ones(len(there))], axis=1)[there]
    units, what = drawn_units({name: groups[name] for name in names})
    low, high = interval(rows, lambda sums: float(sums[0] / sums[1]), groups=units)
    return Gain(before.value, after.value, low, high, f"percentile bootstrap of {what}")


def drawn_units(groups: Mapping[str, str]) -> tuple[list[str] | None, str]:
    """Return what a bootstrap draws, one for each image (None: images), and what to call it."""
    if not any(groups.values()):
        return None, f"{len(groups):,} images"
    units = [group or f"image {name}" for name, group in groups.items()]
    return units, f"{len(set(units)):,} groups of {len(units):,} images"


def _spread(gains: Sequence[float], mean: float) -> tuple[float, float]:
    """Return the 95 % interval around `mean` by the spread of the gains of folds."""
    from scipy.stats import t

    if len(gains) < 2:
        return math.nan, math.nan
    half = float(t.ppf(0.975, len(gains) - 1)) * float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
    return mean - half, mean + half


class _Clock:
    """Shares the time there is among searches: each may take an even part of what is left when it begins."""

    def __init__(self, seconds: float | None, started: float, searches: int) -> None:
        self.end = None if seconds is None else started + seconds
        self.left = searches

    def share(self) -> Callable[[Sequence[Trial]], bool] | None:
        """Return what tells a search that begins now when its time is up: before a trial that would not end in it."""
        self.left, parts = self.left - 1, self.left
        if self.end is None:
            return None
        now = time.perf_counter()
        end = now + max(0.0, self.end - now) / max(1, parts)

        def enough(done: Sequence[Trial]) -> bool:
            # The slowest of the last few: the first trials of a search cost nothing where another has done them.
            return time.perf_counter() + max(trial.seconds for trial in done[-_LAST:]) > end

        return enough
