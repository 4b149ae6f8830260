"""What a training keeps between its epochs: checkpoints, the log, the best score, and an eye on the clock."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning

from cellkit.io import atomic
from cellkit.train.logs import write_log
from cellkit.train.ranks import average, level, shared
from cellkit.train.record import RunPage
from cellkit.train.task import TrainingTask
from cellkit.train.validate import Validator

__all__ = ["BEST", "IMAGES", "LAST", "Clock", "Keeper", "Share", "Show", "Silent", "TimeUp"]

LAST, BEST = "last.ckpt", "best.ckpt"
IMAGES = "cellkit_images"
"""The key of a checkpoint under which stands the digest of the images it is about."""


class Show(Protocol):
    """Is told how the training goes."""

    def start(self, epochs: int, steps: int, done: int, seconds: float = math.inf) -> None:
        """So many epochs of so many steps lie ahead, some of which are done, and at most so many seconds."""

    def step(self, epoch: int, step: int) -> None:
        """Epoch and step, from 1, are done."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Take note of a finished epoch: the row of the log."""

    def note(self, text: str) -> None:
        """Say something else."""


class Silent:
    """A `Show` that shows nothing."""

    def start(self, epochs: int, steps: int, done: int, seconds: float = math.inf) -> None: ...  # noqa: D102
    def step(self, epoch: int, step: int) -> None: ...  # noqa: D102
    def epoch(self, row: Mapping[str, Any]) -> None: ...  # noqa: D102
    def note(self, text: str) -> None: ...  # noqa: D102


class TimeUp(Exception):
    """The time is over in mid-epoch; what the epoch has done so far is dropped."""


@dataclass(frozen=True)
class Share:
    """A part of the time that several trainings have: `seconds`, beyond which a first epoch may go, up to `most`."""

    seconds: float
    most: float


class Clock:
    """When to stop: the limit of this call, or the hours of the whole training."""

    def __init__(self, started: float, limit: float | Share | None, hours: float) -> None:
        self.started = started
        self.limit = self.most = math.inf
        if limit is not None:
            self.limit, self.most = (limit.seconds, limit.most) if isinstance(limit, Share) else (limit, limit)
        self.total = hours * 3600 if hours else math.inf
        self.first = True  # until this call has done an epoch

    def left(self) -> float:
        """Return the seconds left to this call."""
        return (self.most if self.first else self.limit) - (time.monotonic() - self.started)


class Keeper(lightning.Callback):
    """Keeps checkpoints, log and time. `reason` says why the run stopped before its last epoch, if it did.

    `leads`: whether this process is the one that writes and validates; `asks`: steps from one look at the clock, which
    it has to share with others, to the next; `images`: a digest of those it is about.
    """

    def __init__(self, task: TrainingTask, validator: Validator, show: Show, out: Path, clock: Clock) -> None:
        self.task, self.validator, self.show, self.out, self.clock = task, validator, show, out, clock
        self.leads, self.asks, self.images = True, 1, ""
        self.page = RunPage(out, show)
        self.reason = ""
        self._began = time.monotonic()
        self._longest = 0.0

    def over(self) -> bool:
        """Tell whether an earlier run had already come to its end."""
        self.reason = self._end()
        return bool(self.reason)

    def _end(self) -> str:
        """Return why the training as a whole ends before its last epoch, if it does."""
        loop = self.task.config.loop
        # A schedule over the hours ends within them, at its lowest rate.
        ahead = float(self.task.history[-1]["seconds"]) if loop.pace == "hours" and self.task.history else 0.0
        if self.taken() + ahead >= self.clock.total:
            return "hours"
        return "patience" if loop.patience and self.task.waited >= loop.patience else ""

    def taken(self) -> float:
        """Return the seconds that all epochs so far have taken, those of earlier runs among them."""
        return sum(float(row["seconds"]) for row in self.task.history)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Look at the clock, and stretch a schedule over the hours by the speed so far."""
        self._began = time.monotonic()
        schedule = self.task.schedule
        if schedule is not None and self.task.config.loop.pace == "hours" and self.task.history:
            done = schedule.last_epoch
            schedule.total = max(done + 1, round(done * self.clock.total / self.taken()))

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Tell of the step; stop where the time is over, dropping the epoch, unless this was its last step."""
        done = trainer.fit_loop.batch_idx + 1
        self.show.step(trainer.current_epoch + 1, done)
        if self.clock.limit == math.inf or done >= self.task.config.loop.steps or done % self.asks:
            return
        if shared(self.clock.left() <= 0):
            raise TimeUp

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Validate where it is time to, keep the checkpoint and the log, and see whether to go on."""
        task, loop = self.task, self.task.config.loop
        task.check()
        epoch = trainer.current_epoch + 1
        self._level()
        means = average(task.means(), task.device)
        row: dict[str, Any] = {"epoch": epoch, "step": trainer.global_step, **means}
        row["rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        better = False
        if epoch % loop.validate == 0 or epoch == loop.epochs:
            value, low, high = shared(self._validated() if self.leads else (math.nan,) * 3)
            row |= {"score": value, "low": low, "high": high}
            task.waited = 0 if value > task.best else task.waited + 1
            better = value >= task.best  # of equal ones the later, which has seen more
            task.best = value if better else task.best
            if task.schedule is not None:
                task.schedule.observe(value)
        seconds = shared(time.monotonic() - self._began)
        row["seconds"] = round(seconds, 3)
        task.history.append(row)
        self._save(trainer, better)
        if self.leads:
            write_log(self.out, task.history)
        self.show.epoch(row)
        if "score" in row and self.leads:
            self.page.update()
        self._longest = max(self._longest, seconds)
        self.clock.first = False
        self._stop(trainer, epoch)

    def _validated(self) -> tuple[float, float, float]:
        """Return the score of the weights that count, and its interval."""
        found, failed = self.validator.score(self.task.kept())
        for text in failed[:3]:
            self.show.note(f"validation: {text}")
        return found.value, found.low, found.high

    def _level(self) -> None:
        """Give what each process counts over its own share (the means of batch normalisation) one value for all."""
        task = self.task
        names = [name for name, _ in task.network.named_buffers()]
        level(task.network.buffers())
        if task.ema is not None:
            level(task.ema.mean[name] for name in names if name in task.ema.mean)

    def on_save_checkpoint(self, *given: Any) -> None:
        """Add which images the training is about to a checkpoint, the last that is given."""
        given[-1][IMAGES] = self.images

    def _stop(self, trainer: Any, epoch: int) -> None:
        loop = self.task.config.loop
        if epoch >= loop.epochs:
            return
        self.reason = shared(self._end() or ("time limit" if self.clock.left() < self._longest else ""))
        trainer.should_stop = bool(self.reason)

    def _save(self, trainer: Any, better: bool) -> None:
        """Write the checkpoint in one go; that of the best score is a copy."""
        if not self.leads:
            trainer.save_checkpoint(self.out / LAST)  # writes nothing here, but the first process waits for it
            return
        with atomic(self.out / LAST) as temporary:
            trainer.save_checkpoint(temporary)
        if better:
            with atomic(self.out / BEST) as temporary:
                shutil.copyfile(self.out / LAST, temporary)
