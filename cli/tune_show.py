"""How far a tuning has come, on standard error: plain lines or a live bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .progress import Lines, surface

if TYPE_CHECKING:
    from cellkit.tune.search import Trial

__all__ = ["Shown", "shown"]


def shown(plain: bool) -> Shown:
    """Return what shows a tuning: plain lines where that is wanted or there is no terminal, else a bar."""
    return Shown(surface(plain, "looking for images"))


class Tally:
    """Images read and trials done so far, and how far the search that runs has come."""

    def __init__(self) -> None:
        self.total = self.trials = self.images = self.read = 0
        self.detail = ""
        self.best: dict[str, tuple[float, float]] = {}

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


class Shown:
    """Images read, and trials done, on lines or a bar."""

    def __init__(self, on: Lines) -> None:
        self.on = on
        self.tally = Tally()

    def __enter__(self) -> Shown:
        self.on.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.on.__exit__(*error)

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
        self.on.say(text)

    def _show(self, last: bool) -> None:
        tally = self.tally
        done, total = (tally.trials, tally.total) if tally.total else (tally.read, tally.images)
        self.on.move(tally.text(), done, total, last=last)
