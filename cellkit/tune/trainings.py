"""Trials that are trainings, each in a folder of its own, and how far the best of them is better on other images."""

from __future__ import annotations

import csv
import gc
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellkit.core.errors import CellkitError, Fault, UsageError
from cellkit.io.datasets import Pair
from cellkit.train.config import TrainConfig
from cellkit.train.dense import Diverged
from cellkit.train.keeper import BEST, LAST, Silent
from cellkit.train.loop import CONFIG, MODEL, Report, train
from cellkit.train.parts import Parts
from cellkit.train.splits import Row, Split, hold_out, write_split
from cellkit.tune.config_space import ConfigSpace
from cellkit.tune.pruning import Prune, hopeless
from cellkit.tune.search import Curve, Outcome, OutOfTime, Trial

__all__ = ["Plan", "Trainings", "model_of"]

_OWN = ("id", "name", "part", "group", "fold")
_SEARCH, _FINAL = "search.csv", "final.csv"
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """How trainings are searched: the `seed` of the inner parts, the `prune` rule, and the `device`.

    `seconds`: there are for everything (None: no bound). `search_only`: without trainings at the end that measure the
    gain.
    """

    seed: int = 0
    prune: Prune = "median"
    device: str = "auto"
    seconds: float | None = None
    search_only: bool = False


class Ended(Exception):
    """A training that is through, or has no hope left: it need not write a model and score it once more."""


class Trainings:
    """Trains the configs of a `ConfigSpace` and scores them. `parts`: of the config as it is. `folder`: of the trials.

    Trials are trained on four fifths of the groups to train on and scored on the last fifth; `final` trains on all of
    them and leaves the images for validation, which no trial has seen, to be scored.
    """

    def __init__(self, space: ConfigSpace, parts: Parts, folder: Path, plan: Plan, tell: Tell = lambda _: None) -> None:
        self.space, self.parts, self.folder, self.plan, self.tell = space, parts, folder, plan, tell
        self.end = math.inf if plan.seconds is None else time.monotonic() + plan.seconds
        whole = Split(tuple(_row(pair, "train") for pair in parts.train), f"{parts.folder}: the images to train on")
        column = space.config.data.balance
        self.inner = hold_out(whole, stratify=column, seed=plan.seed)
        self.outer = replace(whole, rows=(*whole.rows, *(_row(pair, "val") for pair in parts.val)))

    def begin(self, *, fresh: bool = False) -> None:
        """Make the folder with the tables of the parts; `fresh` removes the trainings of an earlier search.

        Raises `UsageError` where it is no folder.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is a file; wanted a folder for the trainings")
        self.folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            _remove(self.folder)
        write_split(self.folder / _SEARCH, self.inner)
        write_split(self.folder / _FINAL, self.outer)

    def __call__(self, values: Mapping[str, Any], done: Sequence[Trial]) -> Outcome:
        """Train with `values` and return the best score of a validation.

        What cannot be trained scores nothing, with a note why; where it is the config as it was, and not for its loss
        alone, it raises `UsageError`. Raises `OutOfTime` where the time is over; the next call with the same values
        goes on.
        """
        before = next((trial for trial in done if trial.values == values), None)
        if before is not None:
            return Outcome(before.score, before.failed, before.curve, before.pruned, f"as trial {before.number}")
        config, faults = self._config(values, _SEARCH, audit=not done)
        if config is None:
            return Outcome(0.0, 1, note="; ".join(map(str, faults)))
        folder = self.folder / f"{len(done):03d}"
        _clear(folder, config)
        watch = _Watch(folder, done, self.plan.prune, config.loop.epochs, self.tell)
        try:
            watch.look()  # a kill may have come between the last score and what follows from it
            report = self._train(config, folder, self._left(done), watch)
        except Ended:
            curve = watch.curve()
            last = curve[-1][0]
            return Outcome(_highest(curve), curve=curve, pruned=last if last < config.loop.epochs else 0)
        except (CellkitError, MemoryError, RuntimeError) as error:
            if time.monotonic() >= self.end - self._reserve(done) and isinstance(error, UsageError):
                raise OutOfTime from error  # not one epoch was done
            note = _note(error)
            if not done and not isinstance(error, Diverged):
                raise UsageError(f"the config as it is cannot be trained: {note}") from error
            return Outcome(0.0, 1, watch.curve(), note=note)
        if not report.finished:
            raise OutOfTime
        curve = watch.curve()  # ended by loop.hours or loop.patience
        return Outcome(_highest(curve), curve=curve)

    def enough(self, done: Sequence[Trial]) -> bool:
        """Tell whether no trial more would end in time, with the two final trainings behind it."""
        longest = max(trial.seconds for trial in done[-5:])
        return time.monotonic() + longest > self.end - self._reserve(done)

    def tidy(self, trial: Trial) -> None:
        """Remove what a finished trial leaves for going on; its log and its config stay."""
        for name in (LAST, BEST):
            (self.folder / f"{trial.number:03d}" / name).unlink(missing_ok=True)

    def final(self, number: int, values: Mapping[str, Any]) -> tuple[TrainConfig, Path] | None:
        """Train with the `values` of a trial on all images to train on; return config and folder.

        None where the time is over; the next call goes on. Raises `CellkitError` where it cannot be trained.
        """
        config, faults = self._config(values, _FINAL, audit=not number)
        if config is None:
            raise UsageError("; ".join(map(str, faults)))
        folder = self.folder / f"final-{number:03d}"
        _clear(folder, config)
        if model_of(folder).is_file():  # through, before a kill
            return config, folder
        left = self.end - time.monotonic()
        if left <= 0:
            return None
        what = f"{f'trial {number}' if number else 'the config as it was'}, on all images"
        watch = _Watch(folder, None, "none", config.loop.epochs, self.tell, what)
        try:
            report = self._train(config, folder, left, watch)
        except UsageError:
            if time.monotonic() >= self.end:
                return None
            raise
        return (config, folder) if report.finished else None

    def _config(self, values: Mapping[str, Any], table: str, *, audit: bool) -> tuple[TrainConfig | None, list[Fault]]:
        """Return the config of a training; the same images need no second `audit`."""
        path = (self.folder / table).resolve()
        try:
            split = Path(os.path.relpath(path, self.space.config.folder.resolve())).as_posix()
        except ValueError:  # on another drive
            split = str(path)
        data = {"split": split, "train": "train", "val": "val"}
        return self.space.checked(values, data if audit else {**data, "audit": "off"})

    def _train(self, config: TrainConfig, folder: Path, left: float, show: Silent) -> Report:
        limit = None if math.isinf(left) else max(left, 0.0)
        there = (folder / CONFIG).exists()
        data, device = self.parts.folder, self.plan.device
        try:
            return train(config, folder, data=data, resume=there, time_limit=limit, device=device, show=show)
        finally:
            if device != "cpu":
                gc.collect()  # a network and its trainer hold one another, and the memory of the device

    def _reserve(self, done: Sequence[Trial]) -> float:
        """Return the seconds that the trainings on all images are likely to take."""
        return 0.0 if self.plan.search_only else 2 * max((trial.seconds for trial in done), default=0.0)

    def _left(self, done: Sequence[Trial]) -> float:
        return self.end - self._reserve(done) - time.monotonic()


class _Watch(Silent):
    """Tells of the epochs of a training, and ends one that is a trial, after those that are `done` (None: no trial)."""

    def __init__(
        self, folder: Path, done: Sequence[Trial] | None, rule: Prune, epochs: int, tell: Tell, what: str = ""
    ) -> None:
        self.folder, self.done, self.rule, self.epochs, self.tell = folder, done, rule, epochs, tell
        self.what = what or f"trial {len(done or ())}"

    def epoch(self, row: Mapping[str, Any]) -> None:
        score = f", score {row['score']:.4f}" if "score" in row else ""
        self.tell(f"{self.what}: epoch {row['epoch']:,} of {self.epochs:,}{score}")
        if "score" in row:
            self.look()

    def look(self) -> None:
        """Raise `Ended` where a trial is through, or there is no hope."""
        curve = self.curve()
        if self.done is None or not curve:
            return
        if curve[-1][0] >= self.epochs or hopeless(self.done, curve, self.rule, self.epochs):
            raise Ended

    def curve(self) -> Curve:
        """Return (epoch, score) of every validation so far, those before a kill too."""
        path = self.folder / "log.csv"
        if not path.exists():
            return ()
        with path.open(newline="", encoding="utf-8") as file:
            return tuple((int(r["epoch"]), float(r["score"])) for r in csv.DictReader(file) if r.get("score"))


def model_of(folder: Path) -> Path:
    """Return the file of the weights that a training has written to `folder`."""
    return folder / MODEL


def _row(pair: Pair, part: str) -> Row:
    fields = {key: value for key, value in pair.fields.items() if key.lower() not in _OWN}
    return Row(pair.name, part, pair.group, -1, fields)


def _highest(curve: Curve) -> float:
    return max((score for _, score in curve if math.isfinite(score)), default=0.0)


def _note(error: BaseException) -> str:
    """Return in one line why a training failed. Raises what is no fault of the values."""
    if isinstance(error, CellkitError):
        kind = "diverged: " if isinstance(error, Diverged) else ""
        return kind + " ".join(str(error).split())
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return "does not fit in memory; a smaller batch or crop may"
    raise error


def _clear(folder: Path, config: TrainConfig) -> None:
    """Remove a training of other values, which was in flight when the search went another way."""
    path = folder / CONFIG
    if path.is_file() and path.read_text(encoding="utf-8") != config.text:
        shutil.rmtree(folder)


def _remove(folder: Path) -> None:
    """Remove the folders of trainings, told by their names and the config in each."""
    for path in folder.iterdir():
        if path.name.removeprefix("final-").isdecimal() and (path / CONFIG).is_file():
            shutil.rmtree(path)
