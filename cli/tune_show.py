"""How far a tuning has come, on standard error: plain lines or a live bar."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cellkit.tune.search import Trial

__all__ = ["Bar", "Lines", "shown"]

_SECONDS_BETWEEN_LINES = 2.0


def shown(plain: bool) -> Lines:
    """Return what shows a tuning: plain lines where that is wanted or there is no terminal, else a bar."""
    return Lines() if plain or not sys.stderr.isatty() else Bar()


class Tally:
    """Images read and trials done so far, and how far the search that runs has come."""

    def __init__(self) -> None:
        self.total = self.trials = self.images = self.read = 0
        self.detail = ""
        self.best: dict[str, tuple[float, float]] = {}
        self.started = time.perf_counter()

    def count(self, search: str, trial: Trial) -> None:
        """Take note of a trial of the search called `search`."""
        self.trials += 1
        self.detail = ""
        first, best = self.best.get(search, (trial.score, trial.score))
        self.best[search] = first, max(best, trial.score)

    def text(self) -> str:
        """Return all of it on one line."""
        if not self.total:
            return f"{self.read:,} of {self.images:,} images read"
        parts = [f"{self.trials:,} of {self.total:,} trials"]
        if self.best:
            name, (first, best) = list(self.best.items())[-1]
            parts.append(f"{name}: {first:.4f} to {best:.4f}")
        if self.detail:
            parts.append(self.detail)
        return ", ".join(parts)


class Lines:
    """Plain lines on standard error, some seconds apart, where there is no terminal."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.last = time.perf_counter()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read(self, total: int) -> None:
        """So many images are to be read."""
        self.tally.images = total

    def one_read(self) -> None:
        """Take note of an image that was read."""
        self.tally.read += 1
        self._show(self.tally.read == self.tally.images)

    def start(self, total: int) -> None:
        """So many trials lie ahead."""
        self.tally.total = total

    def add(self, search: str, trial: Trial) -> None:
        """Take note of a trial."""
        self.tally.count(search, trial)
        self._show(self.tally.trials == self.tally.total)

    def tell(self, detail: str) -> None:
        """Say how far the present trial is."""
        self.tally.detail = detail
        self._show(False)

    def say(self, text: str) -> None:
        """Say something that stays."""
        click.echo(text, err=True)

    def _show(self, last: bool) -> None:
        now = time.perf_counter()
        if last or now - self.last >= _SECONDS_BETWEEN_LINES:
            self.last = now
            click.echo(self.tally.text(), err=True)


class Bar(Lines):
    """A live bar on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__()
        columns = (BarColumn(), TextColumn("{task.fields[text]}"))
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("trials", total=None, text="looking for images")

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _show(self, last: bool) -> None:
        tally = self.tally
        done, total = (tally.trials, tally.total) if tally.total else (tally.read, tally.images)
        self.progress.update(self.task, completed=done, total=total, text=tally.text())

    def say(self, text: str) -> None:
        """Say something that stays, above the bar."""
        from rich.markup import escape

        self.progress.console.print(escape(text), highlight=False)
