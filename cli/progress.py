"""How far a command has come, on standard error: a live bar on a terminal, else plain lines some seconds apart."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import click

__all__ = ["Bar", "Lines", "Pace", "passed_on", "span", "surface"]

_LEAST = 8
"""Events that a pace looks back on at least, however long ago they were."""
_CLOSE = 0.1
"""Events within so many seconds are held as one."""


class Lines:
    """Plain lines where there is no terminal, at least `between` seconds apart. A context manager, as `Bar` is."""

    def __init__(self, between: float) -> None:
        self.between = between
        self.last = time.perf_counter()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def move(self, text: str, done: float = 0, total: float | None = None, *, last: bool = False) -> None:
        """Say how far it is: `done` of `total`, None where that is not known; `last`: say it in any case."""
        if last or time.perf_counter() - self.last >= self.between:
            self.say(text)

    def say(self, text: str, look: str = "") -> None:
        """Say something that stays; where a bar is, its first word in the `look`."""
        self.last = time.perf_counter()
        click.echo(text, err=True)


class Bar(Lines):
    """A live bar, and above it what stays."""

    def __init__(self, first: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(0.0)
        columns = (BarColumn(), TextColumn("{task.fields[text]}"))
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("", total=None, text=first)

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def move(self, text: str, done: float = 0, total: float | None = None, *, last: bool = False) -> None:
        """Move the bar."""
        from rich.markup import escape

        self.progress.update(self.task, completed=done, total=total, text=escape(text))

    def say(self, text: str, look: str = "") -> None:
        """Say something above the bar."""
        from rich.text import Text

        word, blank, rest = text.partition(" ") if look else ("", "", text)
        self.progress.console.print(Text.assemble((word, look), blank, rest), highlight=False)


def surface(plain: bool, first: str, between: float = 2.0) -> Lines:
    """Return what is written on: plain lines where those are wanted or there is no terminal, else a bar.

    `first` stands beside the bar until something is done.
    """
    return Lines(between) if plain or not sys.stderr.isatty() else Bar(first)


class Pace:
    """How fast work goes of late: over the last `window` seconds, the time since the last event included."""

    def __init__(self, window: float = 60.0) -> None:
        self.window = window
        self._events: deque[tuple[float, float]] = deque([(time.perf_counter(), 0.0)])

    def add(self, work: float) -> None:
        """Take note that so much more work is done."""
        now, total = time.perf_counter(), self._events[-1][1] + work
        if len(self._events) > 1 and now - self._events[-2][0] < _CLOSE:
            self._events[-1] = (now, total)
        else:
            self._events.append((now, total))
        while len(self._events) > _LEAST + 1 and now - self._events[1][0] > self.window:
            self._events.popleft()

    def left(self, work: float) -> float | None:
        """Return the seconds that so much more work takes; None where nothing tells."""
        began, before = self._events[0]
        done = self._events[-1][1] - before
        return (time.perf_counter() - began) / done * work if done > 0 else None


def span(seconds: float | None, what: str = "left") -> str:
    """Return the time that is left as the end of a line, such as ``, 12 min left``; nothing where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 100:
        return f", {seconds:,.0f} s {what}"
    return f", {seconds / 60:,.0f} min {what}" if seconds < 6000 else f", {seconds / 3600:,.1f} h {what}"


def passed_on(results: Iterable[Any], total: int, doing: str) -> Iterable[Any]:
    """Pass `results`, so many, on, with a bar that says what it is `doing` on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return results
    return track(results, doing, total=total, console=console, transient=True)
