"""One job at a time in a thread; a newer one takes the place of what is not done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Signal

from cellkit.core.errors import CellkitError
from cellkit.napari.preview import Stopped

__all__ = ["Latest", "Work"]

Work = Callable[[Callable[[], bool], Callable[[str], None]], Any]
"""A job: is given a function that says whether to stop, and one to tell how far it is."""


@dataclass
class _Job:
    work: Work
    stopped: bool = False


class Latest(QObject):
    """Carries out the newest job. `done` has its result, `failed` the reason in words, `told` how far it is."""

    done = Signal(object)
    failed = Signal(str)
    told = Signal(str)
    _ended = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._now: _Job | None = None
        self._next: _Job | None = None
        self._ended.connect(self._finish)

    @property
    def busy(self) -> bool:
        """Whether a job is in work or waits."""
        return self._now is not None

    def ask(self, work: Work) -> None:
        """Carry out `work`, as soon as what is in work has stopped."""
        job = _Job(work)
        if self._now is None:
            self._start(job)
            return
        self._now.stopped = True
        self._next = job

    def cancel(self) -> None:
        """Stop what is in work and forget what waits; no result of it comes."""
        self._next = None
        if self._now is not None:
            self._now.stopped = True

    def _start(self, job: _Job) -> None:
        from napari.qt.threading import create_worker

        self._now = job
        create_worker(self._carry_out, job, _start_thread=True)

    def _carry_out(self, job: _Job) -> None:
        result: Any = None
        try:
            result = job.work(lambda: job.stopped, lambda text: None if job.stopped else self.told.emit(text))
            error = ""
        except Stopped:
            error = ""
            job.stopped = True
        except CellkitError as failure:
            error = str(failure)
        except MemoryError:
            error = "does not fit in memory"
        except Exception as failure:  # whatever it is, it belongs into the widget and must not end the thread
            error = f"{type(failure).__name__}: {failure}"
        self._ended.emit((job, result, error))

    def _finish(self, outcome: tuple[_Job, Any, str]) -> None:
        job, result, error = outcome
        self._now, waiting, self._next = None, self._next, None
        if waiting is not None:
            self._start(waiting)
        if job.stopped:
            return
        if error:
            self.failed.emit(error)
        else:
            self.done.emit(result)
