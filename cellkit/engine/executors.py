"""Where work is done: here, in threads, in processes, or by Dask's workers, behind one small protocol.

Everything that runs on more than one core goes through `Workplace.map`, whatever is behind it, so that a run on a
laptop and one on a cluster call the same functions.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from cellkit.core.errors import CellkitError, UsageError
from cellkit.engine.signals import end_with_parent, undisturbed

if TYPE_CHECKING:
    from cellkit.engine.cluster import Cluster

__all__ = ["PATIENCE", "Kept", "Kind", "Lost", "Workplace", "ready_worker", "worker_name"]

Kind = Literal["serial", "threads", "processes", "dask"]
T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 300.0
"""Seconds that a run waits for workers of Dask where there are none, unless somebody says otherwise."""
_TRIES = 3


class Lost(CellkitError):
    """A piece of work whose worker died time after time."""


class _Serial(Executor):
    def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **more))
        except BaseException as error:  # as any executor: the caller meets it in result()
            future.set_exception(error)
        return future


@dataclass
class Workplace:
    """Workers of one kind; a context manager.

    `workers`: how many pieces of work go on at once (None: all cores; for Dask, what its workers offer). `address`: of
    Dask's scheduler, e.g. ``tcp://host:8786``, or ``local`` for a cluster of processes on this machine. `patience`:
    seconds to wait for workers of Dask where there are none.

    Raises `UsageError` where Dask is missing or its scheduler cannot be reached.
    """

    kind: Kind = "threads"
    workers: int | None = None
    address: str = "local"
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        self._executor: Executor | None = None
        self._cluster: Cluster | None = None

    def __enter__(self) -> Workplace:
        if self.kind == "dask":
            from cellkit.engine.cluster import Cluster

            self._cluster = Cluster(self.address, self.workers, self.patience)
            self._executor = self._cluster.executor
        else:
            self.workers = self.workers or os.cpu_count() or 1
        self._open()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.close()
        elif self._executor is not None:
            if kind is not None:  # the run ends early; what processes have in work is not waited for, but done again
                for process in list((getattr(self._executor, "_processes", None) or {}).values()):
                    process.terminate()
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._cluster = None

    @property
    def shares_memory(self) -> bool:
        """Whether workers live in this process."""
        return self.kind in ("serial", "threads")

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with what `function` made of it, or the error it raised, as they come.

        `items` are taken as workers get free, so that they may be made as they are asked for. Where a worker dies, the
        work it had goes to another, three times at most; then `Lost` stands in place of a result.

        Raises `Gone` where Dask's scheduler, or all of its workers, are gone for good.
        """
        waiting = iter(items)
        again: deque[tuple[T, int]] = deque()
        pending: dict[Future[R], tuple[T, int]] = {}
        try:
            while True:
                while len(pending) < 2 * self._lanes():
                    # What was in work when a worker died goes alone, so that the next death is its own doing.
                    if again and pending:
                        break
                    turn = again.popleft() if again else next(((x, 1) for x in waiting), None)
                    if turn is None:
                        break
                    pending[self._submit(function, turn[0])] = turn
                    if turn[1] > 1:
                        break
                if not pending:
                    return
                pulse = None if self._cluster is None else self._cluster.pulse
                done, _ = wait(pending, pulse, FIRST_COMPLETED)
                for future in done:
                    item, tries = pending.pop(future)
                    try:
                        yield item, future.result()
                    except BaseException as error:
                        if not self._died(error):
                            if not isinstance(error, Exception):
                                raise
                            yield item, error
                        elif tries < _TRIES:
                            self._open()
                            again.append((item, tries + 1))
                        else:
                            yield item, Lost(f"its worker died {tries} times; last: {error}")
        finally:
            for future in pending:
                future.cancel()

    def _lanes(self) -> int:
        """Return how many pieces of work go on at once, as far as is known now."""
        if self._cluster is not None:
            self.workers = self._cluster.lanes()
        return self.workers or 1

    def _submit(self, function: Callable[[T], R], item: T) -> Future[R]:
        for _ in range(_TRIES):
            executor = self._executor
            if executor is None:
                raise UsageError("the workplace is closed")
            try:
                if self.kind != "processes":
                    return executor.submit(function, item)
                with undisturbed():  # processes are started here
                    return executor.submit(function, item)
            except BrokenProcessPool:
                self._open()
        raise Lost("processes die as soon as they are started; see the system's log for what kills them")

    def _open(self) -> None:
        """Start workers anew, in place of those that died."""
        before = self._executor
        if self.kind == "processes":
            import multiprocessing

            if before is not None and not getattr(before, "_broken", False):
                return
            # Not forked: threads of numba, OpenCV and torch do not survive it.
            spawned = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, spawned, end_with_parent)
        elif before is None:
            serial = self.kind == "serial"
            self._executor = _Serial() if serial else ThreadPoolExecutor(self.workers, "work")

    def _died(self, error: BaseException) -> bool:
        if self._cluster is not None:
            return self._cluster.died(error)
        return isinstance(error, BrokenProcessPool)


class Kept(Generic[R]):
    """What a worker has opened and keeps for the next piece of work: at most `most` things, the newest."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[Hashable, R] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, open_it: Callable[[], R]) -> R:
        """Return what is kept under `key`, opening it the first time."""
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= self.most:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[key] = open_it()
            return self._kept[key]

    def pop(self, key: Hashable) -> R | None:
        """Keep it no longer, and return it."""
        with self._lock:
            return self._kept.pop(key, None)


def ready_worker(plugins: Sequence[str]) -> None:
    """Make a process that may be one worker of several ready: stages from files, OpenCV with one thread of its own."""
    import multiprocessing

    from cellkit.core import registry

    for path in plugins:
        registry.load_file(path)
    if multiprocessing.parent_process() is None and _of_dask() is None:
        return
    import cv2

    from cellkit.engine.allocator import keep_memory

    cv2.setNumThreads(1)
    keep_memory()


def worker_name() -> str:
    """Return what to call the worker this runs on: process and thread, or Dask's name for it."""
    return _of_dask() or f"{os.getpid()}/{threading.current_thread().name}"


def _of_dask() -> str | None:
    """Return the name of the worker of Dask that this runs on."""
    if "distributed.worker" not in sys.modules:  # a second to import, and never imported where it is not used
        return None
    from distributed import get_worker

    try:
        return str(get_worker().name)
    except ValueError:
        return None
