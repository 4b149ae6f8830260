"""Search for the values that score best: trial 0 has the defaults, Optuna proposes the others, and all are stored.

Nothing here knows of recipes: an objective maps values by name to a score.
"""

from __future__ import annotations

import json
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellkit.core.errors import UsageError
from cellkit.tune.dimension import Dimension

if TYPE_CHECKING:
    import optuna

__all__ = [
    "STARTUP",
    "Curve",
    "Draw",
    "OutOfTime",
    "Outcome",
    "Sampler",
    "Store",
    "Trial",
    "best",
    "propose",
    "quiet",
    "search",
]

STARTUP = 10
"""Trials before the model of good values is asked, the defaults among them."""
_ANEW_AT_FIRST = 1 / 3
_ANEW = 1 / 4
_ATTEMPTS = 20

Sampler = Literal["tpe", "random"]
Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Draw:
    """How values are drawn: by which `sampler` (see `propose`), from which `seed`."""

    seed: int = 0
    sampler: Sampler = "tpe"


class OutOfTime(Exception):
    """Raised by an objective whose time is over: the trial does not count, and the search ends with those before."""


@dataclass(frozen=True)
class Outcome:
    """What values came to: their score, and how many images failed. Where a network was trained, more.

    `curve`: (epoch, score) of its validations. `pruned`: the epoch after which it was given up as hopeless, or 0; its
    score is the best until then. `note` says what went wrong, if anything.
    """

    score: float
    failed: int = 0
    curve: Curve = ()
    pruned: int = 0
    note: str = ""


@dataclass(frozen=True)
class Trial:
    """What was tried: its number, values by ``step.param`` or dotted key, seconds, and what they came to."""

    number: int
    values: Mapping[str, Any]
    score: float
    failed: int = 0
    seconds: float = 0.0
    curve: Curve = ()
    pruned: int = 0
    note: str = ""


_DRAW = Draw()
Objective = Callable[[Mapping[str, Any], Sequence[Trial]], Outcome]


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the highest score, of equal ones the first: what does not gain changes nothing.

    One that was given up is the best only where all were.
    """
    return max(trials, key=lambda trial: (not trial.pruned, trial.score, -trial.number))


def search(
    dimensions: Sequence[Dimension],
    objective: Objective,
    *,
    trials: int,
    draw: Draw = _DRAW,
    store: tuple[Store, str] | None = None,
    enough: Callable[[Sequence[Trial]], bool] | None = None,
    on_trial: Callable[[Trial], object] | None = None,
) -> list[Trial]:
    """Return the trials of a search for the values of `dimensions` with the highest score.

    `objective` returns what values come to, given the trials before them. Trial 0 has the defaults. What is proposed
    hangs on the seed and the trials before alone: a search that is taken up again, from a `store` and the name of the
    search, ends as an undisturbed one. `enough` is asked before every trial but the first whether to stop. `on_trial`
    is told of every trial, those of the store first. There are none where the objective ran out of time in the first.
    """
    if trials < 1:
        raise UsageError(f"trials: wanted at least 1, got {trials}")
    done = store[0].trials(store[1]) if store is not None else []
    done = done[:trials]
    for trial in done if on_trial is not None else ():
        on_trial(trial)  # type: ignore[misc]
    while len(done) < trials and not (done and enough is not None and enough(done)):
        values = propose(dimensions, done, draw)
        started = time.perf_counter()
        try:
            found = objective(values, done)
        except OutOfTime:
            break
        trial = Trial(len(done), values, seconds=time.perf_counter() - started, **vars(found))
        if store is not None:
            store[0].add(store[1], dimensions, trial)
        done.append(trial)
        if on_trial is not None:
            on_trial(trial)
    return done


def propose(dimensions: Sequence[Dimension], done: Sequence[Trial], draw: Draw = _DRAW) -> dict[str, Any]:
    """Return the values of the next trial.

    First the defaults. Then, with the sampler ``random``, all values drawn anew. With ``tpe``, up to `STARTUP` trials,
    the defaults with about a third of the values drawn anew, since with all of them drawn hardly a recipe would work;
    from then on what Optuna's tree-structured Parzen estimator takes for better than the trials so far. Of that, every
    second trial takes about a quarter of the values only, and the others from the best trial so far: with many
    parameters and few trials this comes further. What was tried before is proposed again only where hardly anything
    else is left.

    Source: Bergstra et al. (2011), "Algorithms for hyper-parameter optimization", NeurIPS 24.
    """
    if not done:
        return {one.target: one.default for one in dimensions}
    values: dict[str, Any] = {}
    for attempt in range(_ATTEMPTS):  # what was tried before would teach nothing
        sampler = draw.sampler if attempt < _ATTEMPTS // 2 else "random"
        values = _proposed(dimensions, done, sampler, [draw.seed, len(done), *([attempt] if attempt else [])])
        if not any(values == trial.values for trial in done):
            break
    return values


def _proposed(
    dimensions: Sequence[Dimension], done: Sequence[Trial], sampler: Sampler, seed: list[int]
) -> dict[str, Any]:
    number = len(done)
    if sampler == "random":
        rng = np.random.default_rng(seed)
        return {one.target: one.tidy(_drawn(one, rng, one.choices)) for one in dimensions}
    if number < STARTUP:
        return _near_defaults(dimensions, np.random.default_rng(seed))
    import optuna

    with quiet():
        own = int(np.random.default_rng(seed).integers(2**31))
        tpe = optuna.samplers.TPESampler(seed=own, multivariate=True, n_startup_trials=1)
        study = optuna.create_study(direction="maximize", sampler=tpe)
        study.add_trials([_frozen(dimensions, trial) for trial in done if _inside(dimensions, trial.values)])
        drawn = study.ask({one.target: _distribution(one) for one in dimensions}).params
    values = {one.target: one.tidy(drawn[one.target]) for one in dimensions}
    return values if number % 2 else _near_best(dimensions, values, best(done).values, seed)


def _near_best(
    dimensions: Sequence[Dimension], values: Mapping[str, Any], good: Mapping[str, Any], seed: list[int]
) -> dict[str, Any]:
    anew = _some(np.random.default_rng([*seed, 1]), len(dimensions), _ANEW)
    return {
        one.target: values[one.target] if change or good[one.target] not in one else good[one.target]
        for one, change in zip(dimensions, anew, strict=True)
    }


def _some(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Return which of `count` are chosen, about a `share` of them and at least one."""
    chosen = rng.random(count) < share
    chosen[rng.integers(count)] = True
    return chosen


def _near_defaults(dimensions: Sequence[Dimension], rng: np.random.Generator) -> dict[str, Any]:
    anew = _some(rng, len(dimensions), _ANEW_AT_FIRST)
    values = {}
    for one, change in zip(dimensions, anew, strict=True):
        others = [choice for choice in one.choices if choice != one.default] or one.choices
        drawn = one.tidy(_drawn(one, rng, others))
        values[one.target] = drawn if change or one.default not in one else one.default
    return values


def _drawn(one: Dimension, rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    if one.choices:
        return choices[int(rng.integers(len(choices)))]
    if one.whole and not one.log:
        return int(rng.integers(int(one.low), int(one.high) + 1))
    if one.log:
        value = float(np.exp(rng.uniform(np.log(one.low), np.log(one.high))))
        return round(value) if one.whole else value
    return float(rng.uniform(one.low, one.high))


def _inside(dimensions: Sequence[Dimension], values: Mapping[str, Any]) -> bool:
    return all(values[one.target] in one for one in dimensions)


def _distribution(one: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _frozen(dimensions: Sequence[Dimension], trial: Trial) -> optuna.trial.FrozenTrial:
    import optuna

    attributes = {key: value for key, value in asdict(trial).items() if key not in ("values", "score")}
    return optuna.trial.create_trial(
        params={one.target: trial.values[one.target] for one in dimensions},
        distributions={one.target: _distribution(one) for one in dimensions},
        value=trial.score,
        user_attrs=attributes,
    )


class Store:
    """Keeps the trials of several searches in one SQLite file, readable with Optuna's own tools.

    `identity` says by name what results hang on. A file that is there already must be of the same identity, unless
    `fresh`; then it is replaced. Raises `UsageError` where it is not, or is no file of trials.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any], *, fresh: bool = False) -> None:
        import optuna

        self.path, self.identity = Path(path), json.loads(json.dumps(identity, sort_keys=True))
        if fresh:
            self.path.unlink(missing_ok=True)
        elif self.path.exists() and not _is_database(self.path):
            raise UsageError(f"{self.path}: holds no trials of a tuning; remove it, or start over with --fresh")
        if not self.path.parent.is_dir():
            raise UsageError(f"{self.path.parent}: no such folder; make it first")
        with quiet():
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{self.path}")
        self._studies: dict[str, optuna.Study] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def trials(self, name: str) -> list[Trial]:
        """Return the trials of a search so far, in order. Raises `UsageError` where they are of another tuning."""
        study = self._study(name)
        first = study.user_attrs.get("trial 0")
        if first is None:
            return []
        found = {0: _again(first)}
        for trial in study.get_trials(deepcopy=False):
            number = trial.user_attrs.get("number")
            if number and trial.value is not None:
                more = {key: value for key, value in trial.user_attrs.items() if key in _KEPT}
                found[number] = _again({**more, "values": dict(trial.params), "score": trial.value})
        return [found[number] for number in range(len(found)) if number in found]

    def add(self, name: str, dimensions: Sequence[Dimension], trial: Trial) -> None:
        """Keep a trial."""
        study = self._study(name)
        with quiet():
            if trial.number == 0:  # may lie outside the ranges, which Optuna has no place for
                study.set_user_attr("trial 0", asdict(trial))
            else:
                study.add_trial(_frozen(dimensions, trial))

    def _study(self, name: str) -> optuna.Study:
        import optuna

        if name not in self._studies:
            with quiet():
                study = optuna.create_study(
                    storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
                )
            held = study.user_attrs.get("identity")
            if held is None:
                study.set_user_attr("identity", self.identity)
            elif held != self.identity:
                other = [key for key in self.identity if held.get(key) != self.identity[key]]
                raise UsageError(
                    f"{self.path}: its trials are of another tuning: {', '.join(other) or 'the version'} differ; "
                    "give what was given then, or start over with --fresh"
                )
            self._studies[name] = study
        return self._studies[name]


_KEPT = {one.name for one in fields(Trial)}


def _again(kept: Mapping[str, Any]) -> Trial:
    """Return a trial from what JSON made of it."""
    return Trial(**{**kept, "curve": tuple((epoch, score) for epoch, score in kept.get("curve", ()))})


def _is_database(path: Path) -> bool:
    try:
        connection = sqlite3.connect(path)
    except sqlite3.Error:
        return False
    try:
        connection.execute("select count(*) from studies")
    except sqlite3.Error:
        return False
    finally:
        connection.close()
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling of every trial, and of features that it calls experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
