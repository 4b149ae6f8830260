"""Train in folds: a model for each, judged by the images that it did not see."""

from __future__ import annotations

import csv
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cellkit.core import UsageError
from cellkit.models import find_model, load_network
from cellkit.models.device import choose_device
from cellkit.train.auditing import look_through
from cellkit.train.config import TrainConfig
from cellkit.train.ensemble import Ensemble
from cellkit.train.folds import Fold, Folds, FoldsReport, end_of, read_report, write_report
from cellkit.train.keeper import LAST, Share, Show, Silent
from cellkit.train.loop import CONFIG, FOLDS, MODEL, TooShort, train
from cellkit.train.parts import Parts, with_classes
from cellkit.train.ranks import Ranks, choose_ranks, shared
from cellkit.train.targets import DENSE_HEADS
from cellkit.train.task import Diverged
from cellkit.train.validate import Validator, figures

__all__ = ["train_folds"]


def train_folds(
    config: TrainConfig,
    folds: Folds,
    out: str | Path,
    *,
    resume: bool = False,
    time_limit: float | Share | None = None,
    device: str = "auto",
    show: Show | None = None,
) -> FoldsReport:
    """Train a model on all images but those of each fold in turn, into fold-1, fold-2 ... of the folder `out`.

    Each is a whole run as `train` makes one, from the same seed, so that models differ by their images alone. Images
    and labels are looked through once (`cellkit.train.auditing`), a near copy in another fold being a fault. What the
    models come to is kept in folds.json. At the end, every model and the mean of their scores (dense networks) are
    judged by the images that are held back, if there are any.

    `time_limit`, in seconds, is shared evenly among the folds that are left, and what a fold leaves goes to those
    after it; `resume` goes on wherever a run was stopped or killed, and does no finished fold again. A fold whose loss
    is no longer a number fails by itself, and the others are trained.

    Raises `UsageError` where `out` holds a training and `resume` is not asked for (or it holds another one), and what
    else `train` raises but `Diverged`; `TooShort` where no fold got as far as one epoch.
    """
    started = time.monotonic()
    end = None if time_limit is None else started + (time_limit.most if isinstance(time_limit, Share) else time_limit)
    place = choose_device(device)
    config = with_classes(config, folds.every)
    run = _Run(config, folds, Path(out), choose_ranks(config.loop, place), place, show)
    report = run.begin(resume)
    every = run.looked_through(resume)
    run.keep(report)
    for index, parts in enumerate(every):
        if report.folds[index].done(config):
            continue
        left = sum(not fold.done(config) for fold in report.folds[index:])
        if shared(end is not None and time.monotonic() >= end):
            break
        share = _share(time_limit, time.monotonic() - started, left)
        fold = shared(run.one(report.folds[index], parts, resume, share))
        report = replace(report, folds=(*report.folds[:index], fold, *report.folds[index + 1 :]), ensemble={})
        run.keep(report)
        gc.collect()  # a trainer is a ring of references, which would hold on to the images of this fold
    report = run.ended(report, end)
    run.keep(report)
    if run.ranks.leads and not any(fold.epochs for fold in report.folds) and report.reason == "time limit":
        raise TooShort(
            f"--time-limit: no fold got as far as one epoch, so nothing is kept; give more time, or make epochs "
            f"shorter (loop.steps, now {config.loop.steps})"
        )
    return report


@dataclass
class _Run:
    """A training in folds as it is under way."""

    config: TrainConfig
    folds: Folds
    out: Path
    ranks: Ranks
    place: torch.device
    told: Show | None

    def __post_init__(self) -> None:
        self.show: Show = self.told if self.told is not None and self.ranks.leads else Silent()

    def begin(self, resume: bool) -> FoldsReport:
        """Return what there is to go on from, or what is to be done. Raises `UsageError` where `out` is unfit."""
        path = self.out / FOLDS
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out}: is a file; wanted a folder for the run")
        for name in (LAST, MODEL):
            if (self.out / name).exists():
                raise UsageError(f"{self.out / name}: holds a training without folds; another -o begins a new one")
        # Lightning starts the other processes by the same command, when the first has written the file already.
        if path.exists() and (resume or not self.ranks.leads):
            return read_report(path, self.folds, self.config)
        if path.exists():
            raise UsageError(
                f"{path}: holds an earlier training; --resume goes on with it, another -o begins a new one"
            )
        if resume and self.ranks.leads:
            raise UsageError(f"--resume: there is no training in folds to go on with in {self.out}")
        self.out.mkdir(parents=True, exist_ok=True)
        waiting = [
            Fold(number, f"fold-{number}", len(parts.train), len(parts.val))
            for number, parts in enumerate(self.folds.parts, 1)
        ]
        return FoldsReport(self.out, tuple(waiting))

    def looked_through(self, resume: bool) -> Sequence[Parts]:
        """Look through images and labels; return the parts of each fold, with what was found for the card."""
        if not self.ranks.leads:
            return self.folds.parts
        found = look_through(self.config, self.folds.every, self.out, resume=resume)
        with_text = self.folds.parts
        if found is not None:
            self.show.note(found.line)
            for text in found.warnings:
                self.show.note(f"warning: {text}")
            with_text = tuple(replace(parts, about=f"{parts.about}; {found.line}") for parts in self.folds.parts)
        return with_text

    def one(self, fold: Fold, parts: Parts, resume: bool, share: float | Share | None) -> Fold:
        """Train a fold for as long as it may, and return how far it has come."""
        folder = self.out / fold.folder
        there = (folder / CONFIG).exists() or (folder / LAST).exists()
        of = f"fold {fold.number} of {len(self.folds.parts)}"
        self.show.note(f"{of}: {fold.train:,} images to train on, {fold.val:,} to judge by")
        try:
            report = train(
                self.config, folder, data=parts, resume=there and (resume or not self.ranks.leads),
                time_limit=share, device=str(self.place), show=self.show,
            )  # fmt: skip
        except TooShort:
            return replace(fold, state="stopped", reason="time limit")
        except Diverged as error:
            self.show.note(f"fold {fold.number}: {error}")
            return replace(fold, state="failed", reason=str(error), **_logged(folder))
        if not report.finished:
            return replace(fold, state="stopped", reason=report.reason, **_logged(folder))
        score = report.figures.get("validation", {}).get("model", {})
        held = self.judged([folder]) if report.leads else {}
        return replace(
            fold, state="done", reason=report.reason, until=end_of(self.config), score=score, held=held,
            **_logged(folder),
        )  # fmt: skip

    def judged(self, folders: Sequence[Path]) -> Mapping[str, Any]:
        """Return the figures of the model of a fold, or of all of them together, on the images held back."""
        if not self.folds.held:
            return {}
        located = [find_model(str(folder.absolute() / MODEL)) for folder in folders]
        cards = [one.card for one in located]
        networks = [load_network(one) for one in located]
        network = networks[0] if len(networks) == 1 else Ensemble(networks, cards[0].head)
        what = "the model" if len(networks) == 1 else f"{len(networks)} models together"
        self.show.note(f"scoring {what} on the {len(self.folds.held):,} images held back")
        card = replace(cards[0], halo=max(card.halo for card in cards))
        with Validator(self.config, self.folds.held, self.folds.every.gives, card, self.place) as validator:
            found, failed = validator.score(network)
            for text in failed[:3]:
                self.show.note(f"images held back: {text}")
            return figures(found, validator.protocol, validator.pairs, self.config.data.balance)

    def ended(self, report: FoldsReport, end: float | None) -> FoldsReport:
        """Judge all models together where all are there, and say what is left to do."""
        if not self.ranks.leads:
            return replace(report, leads=False)
        failed = [fold for fold in report.folds if fold.state == "failed"]
        notes = tuple(f"fold {fold.number} failed: {fold.reason}" for fold in failed)
        if failed:
            return replace(report, reason="failed", notes=notes)
        if not all(fold.done(self.config) for fold in report.folds):
            return replace(report, reason="time limit", notes=notes)
        if self.folds.held and self.config.model.head not in DENSE_HEADS:
            return replace(report, finished=True, notes=("scores of detectors have no mean; no ensemble is judged",))
        if self.folds.held and not report.ensemble:
            if end is not None and time.monotonic() >= end:
                return replace(report, reason="time limit", notes=("the models are yet to be judged together",))
            together = self.judged([self.out / fold.folder for fold in report.folds])
            report = replace(report, ensemble=together)
        return replace(report, finished=True, reason="", notes=notes)

    def keep(self, report: FoldsReport) -> None:
        """Write folds.json."""
        if self.ranks.leads:
            write_report(self.out / FOLDS, report, self.folds, self.config)


def _share(limit: float | Share | None, gone: float, folds: int) -> float | Share | None:
    """Return an even share for each of so many `folds` of the time that is left."""
    if isinstance(limit, Share):
        return Share(max(0.0, limit.seconds - gone) / folds, limit.most - gone)
    return None if limit is None else (limit - gone) / folds


def _logged(folder: Path) -> dict[str, Any]:
    """Return how many epochs a run has done and how long they took, by its log, over however many calls."""
    try:
        with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    except OSError:
        seconds = []
    return {"epochs": len(seconds), "seconds": round(sum(seconds), 3)}
