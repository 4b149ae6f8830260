"""Tune the config of a training, and measure on images that no trial has seen what that gains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import CellkitError, UsageError
from cellkit.metrics import PROTOCOLS, Protocol, Report
from cellkit.metrics.pooling import ends, total, weights
from cellkit.models import find_model, load_network
from cellkit.models.device import choose_device
from cellkit.train.config import TrainConfig
from cellkit.train.dense import Diverged
from cellkit.train.parts import Parts
from cellkit.train.validate import Validator
from cellkit.tune.search import Draw, Store, Trial, best, search
from cellkit.tune.trainings import Trainings, model_of
from cellkit.tune.tuning import Gain, between, drawn_units

__all__ = ["SEARCH", "ConfigTuning", "Wanted", "tune_config"]

SEARCH = "search"
"""The name of the search."""
_RESAMPLES = 300


@dataclass(frozen=True)
class Wanted:
    """What is wanted: so many `trials`, drawn as `draw` says; `force`: the tuned config even where it gains nothing."""

    trials: int = 20
    draw: Draw = field(default_factory=Draw)
    force: bool = False


@dataclass(frozen=True)
class ConfigTuning:
    """The outcome. `data`: the config to be written; `tuned`: whether it is another than it was.

    `gain` is None where none was measured, for the reason `why`. `metric`: what trials are scored by. `model`: weights
    trained with the config as it is written, where there are some. `images`: how many the trials train on and are
    scored on, and how many the gain is measured on.
    """

    data: Mapping[str, Any]
    tuned: bool
    trials: Sequence[Trial]
    gain: Gain | None
    why: str
    metric: str
    model: Path | None
    images: tuple[int, int, int]
    seconds: float

    @property
    def best(self) -> Trial:
        """The best trial."""
        return best(self.trials)


def tune_config(
    trainings: Trainings,
    wanted: Wanted,
    store: Store | None = None,
    on_trial: Callable[[str, Trial], object] | None = None,
) -> ConfigTuning:
    """Search for the values of the space of `trainings` that score best, and measure what they gain.

    The search sees the images to train on alone. Its best config and the one as it was are then both trained on all of
    these and scored on the images for validation. Where the best is trial 0, or gains nothing, the config stays as it
    was.

    Raises `UsageError` where not one trial was done in time, or the config as it is cannot be trained.
    """
    started = time.perf_counter()
    space = trainings.space

    def told(trial: Trial) -> None:
        trainings.tidy(trial)
        if on_trial is not None:
            on_trial(SEARCH, trial)

    trials = search(
        space.dimensions,
        trainings,
        trials=wanted.trials,
        draw=wanted.draw,
        store=(store, SEARCH) if store is not None else None,
        enough=trainings.enough,
        on_trial=told,
    )
    if not trials:
        raise UsageError(
            "--time-limit: not one trial was done in that time; give more, or make trainings shorter (loop.epochs, "
            "loop.steps); what was trained so far is kept, and --resume goes on with it"
        )
    found = best(trials)
    device = choose_device(trainings.plan.device)
    measured = _measured(trainings, found, device, len(trials) - 1)
    helps = found.number != 0 and (wanted.force or measured.stands)
    inner = [row.part for row in trainings.inner]
    return ConfigTuning(
        data=space.apply(found.values) if helps else space.data,
        tuned=helps,
        trials=trials,
        gain=measured.gain,
        why=measured.why,
        metric=_metric(space.config, trainings.parts, device),
        model=measured.models.get(found.number if helps else 0),
        images=(inner.count("train"), inner.count("val"), len(trainings.parts.val)),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Measured:
    """The gain, or why there is none; whether the best trial is to be written; the models trained, by trial."""

    gain: Gain | None = None
    why: str = ""
    stands: bool = True
    models: Mapping[int, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class _Scored:
    """What a trained model scores on the images for validation."""

    report: Report
    counts: Mapping[str, Any]
    protocol: Protocol


def _measured(trainings: Trainings, found: Trial, device: Any, tried: int) -> _Measured:
    """Train the config as it was and that of the trial `found` on all images to train on, and compare them."""
    if not tried:
        return _Measured(why="there was no trial but that of the config as it is")
    if found.number == 0:
        return _Measured(why=f"no trial is better than the config as it is, of {tried:,} others")
    if trainings.plan.search_only:
        return _Measured(why="left out with --search-only")
    sides: list[_Scored] = []
    models: dict[int, Path] = {}
    for number, values in ((0, trainings.space.defaults), (found.number, found.values)):
        try:
            final = trainings.final(number, values)
        except CellkitError as error:
            if not number and not isinstance(error, Diverged):
                raise
            if not number:
                return _Measured(why="the config as it was diverges, so that there is nothing to compare with")
            why = f"trial {number} cannot be trained on all images: {' '.join(str(error).split())}"
            return _Measured(why=why, stands=False, models=models)
        if final is None:
            return _Measured(why="the time was over before the last trainings were through; --resume goes on")
        config, folder = final
        models[number] = model_of(folder)
        sides.append(_scored(config, trainings.parts, models[number], device))
    gain = _gain(sides[0], sides[1], {pair.name: pair.group for pair in trainings.parts.val})
    return _Measured(gain, "", gain.value > 0, models)


def _scored(config: TrainConfig, parts: Parts, model: Path, device: Any) -> _Scored:
    located = find_model(str(model))
    with Validator(config, parts.val, parts.gives, located.card, device) as validator:
        report, _, kept = validator.counted(load_network(located))
        return _Scored(report, kept, validator.protocol)


def _metric(config: TrainConfig, parts: Parts, device: Any) -> str:
    """Return what trials are scored by."""
    with Validator(config, parts.val, parts.gives, config.plain_card, device) as validator:
        return validator.protocol.headline


def _gain(before: _Scored, after: _Scored, groups: Mapping[str, str]) -> Gain:
    """Return the gain of one model over another on the same images, with a paired interval."""
    if before.report.pooling == "images":
        return between(before.report, after.report, groups)
    if before.protocol.name not in PROTOCOLS:  # its counts need not add up
        return Gain(before.report.value, after.report.value, math.nan, math.nan, "none, as images cannot be told apart")
    units, what = drawn_units(groups)
    low, high = _redrawn(before, after, groups, units)
    return Gain(before.report.value, after.report.value, low, high, f"percentile bootstrap of {what}")


def _redrawn(
    before: _Scored, after: _Scored, names: Mapping[str, str], units: Sequence[Hashable] | None
) -> tuple[float, float]:
    """Return the interval of the gain where the counts of images are pooled."""
    if len(names) < 2 or (units is not None and len(set(units)) < 2):
        return math.nan, math.nan
    gains = []
    for block in weights(len(names), units, resamples=_RESAMPLES):
        for times in block:
            drawn = [name for name, count in zip(names, times, strict=True) for _ in range(int(count))]
            values = [_pooled(side, drawn) for side in (before, after)]
            gains.append(values[1] - values[0])
    return ends(np.array(gains))


def _pooled(side: _Scored, names: Sequence[str]) -> float:
    counts = [side.counts[name] for name in names]
    return side.protocol.report({"all": total(counts, None)}).value
