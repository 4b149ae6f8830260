"""Where work is done: here, in threads, in processes, or by Dask's workers, behind one small protocol.

Everything that runs on more than one core goes through `Workplace.map`, whatever is behind it, so that a run on a
laptop and one on a cluster call the same functions.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from cellkit.core.errors import CellkitError, UsageError

__all__ = ["Kept", "Kind", "Lost", "Workplace", "ready_worker", "worker_name"]

Kind = Literal["serial", "threads", "processes", "dask"]
T = TypeVar("T")
R = TypeVar("R")

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
    Dask's scheduler, e.g. ``tcp://host:8786``, or ``local`` for a cluster of processes on this machine.

    Raises `UsageError` where Dask is missing or its scheduler cannot be reached.
    """

    kind: Kind = "threads"
    workers: int | None = None
    address: str = "local"

    def __post_init__(self) -> None:
        self._executor: Executor | None = None
        self._client: Any = None
        self._cluster: Any = None

    def __enter__(self) -> Workplace:
        if self.kind == "dask":
            self._connect()
        else:
            self.workers = self.workers or os.cpu_count() or 1
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None and self.kind != "dask":
            self._executor.shutdown(wait=True, cancel_futures=True)
        for some in (self._client, self._cluster):
            if some is not None:
                some.close()
        self._executor = self._client = self._cluster = None

    @property
    def shares_memory(self) -> bool:
        """Whether workers live in this process."""
        return self.kind in ("serial", "threads")

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with what `function` made of it, or the error it raised, as they come.

        `items` are taken as workers get free, so that they may be made as they are asked for. Where a worker dies, the
        work it had goes to another, three times at most; then `Lost` stands in place of a result.
        """
        waiting = iter(items)
        again: deque[tuple[T, int]] = deque()
        pending: dict[Future[R], tuple[T, int]] = {}
        try:
            while True:
                while len(pending) < 2 * (self.workers or 1):
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
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
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

    def _submit(self, function: Callable[[T], R], item: T) -> Future[R]:
        for _ in range(_TRIES):
            executor = self._executor
            if executor is None:
                raise UsageError("the workplace is closed")
            try:
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
            self._executor = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"))
        elif before is None:
            serial = self.kind == "serial"
            self._executor = _Serial() if serial else ThreadPoolExecutor(self.workers, "work")

    def _died(self, error: BaseException) -> bool:
        return isinstance(error, BrokenProcessPool) or type(error).__name__ in ("KilledWorker", "CancelledError")

    def _connect(self) -> None:
        try:
            from distributed import Client, LocalCluster
        except ImportError:
            raise UsageError("--scheduler: Dask is not installed; pip install 'cellkit[dask]'") from None
        if self.address == "local":
            self._cluster = LocalCluster(
                n_workers=self.workers or os.cpu_count() or 1, threads_per_worker=1, dashboard_address=None,
                processes=True, silence_logs=40,
            )  # fmt: skip
            self._client = Client(self._cluster)
        else:
            try:
                self._client = Client(self.address, timeout=10)
            except (OSError, TimeoutError, ValueError) as error:
                raise UsageError(f"--scheduler {self.address}: cannot be reached: {error}") from error
        self.workers = sum(self._client.nthreads().values()) or self.workers or 1
        self._executor = self._client.get_executor(pure=False, retries=0)


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
    if multiprocessing.parent_process() is None:
        return
    import cv2

    cv2.setNumThreads(1)


def worker_name() -> str:
    """Return what to call the worker this runs on: process and thread, or Dask's name for it."""
    try:
        from distributed import get_worker

        return str(get_worker().name)
    except (ImportError, ValueError):
        return f"{os.getpid()}/{threading.current_thread().name}"
