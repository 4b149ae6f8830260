"""Workers of Dask: a cluster of processes on this machine, or one that somebody else has started."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Executor
from time import monotonic, sleep
from typing import Any

from cellkit.core.errors import CellkitError, UsageError
from cellkit.engine.signals import undisturbed

__all__ = ["Cluster", "Gone"]

_CONNECTING = 10.0
"""Seconds that a scheduler has to answer at first, and to come back after the connection was lost."""
_ANSWER = 10.0
_QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
"""Of a cluster of our own nobody looks at profiles, taken 100 times a second, nor at ticks, 50 times a second."""


class Gone(CellkitError):
    """Dask's scheduler, or all of its workers, are gone for good; what is done stays done."""


class Cluster:
    """The workers of the scheduler at `address` (``local``: so many `workers` of a cluster of its own).

    `patience`: seconds to wait for workers where there are none. `executor` takes work. `pulse`: seconds between two
    looks at who is there.

    Raises `UsageError` where Dask is missing or the scheduler cannot be reached.
    """

    pulse = 1.0

    def __init__(self, address: str, workers: int | None, patience: float) -> None:
        self.address, self.patience = address, patience
        self._own: Any = None
        try:
            import dask.config
            from distributed import Client, LocalCluster
        except ImportError:
            raise UsageError("--scheduler: Dask is not installed; pip install 'cellkit[dask]'") from None
        # What work raises comes with its result, and `Gone` says the rest: no pages of lost connections beside it.
        for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with undisturbed():
            if address == "local":
                with dask.config.set(_QUIET):
                    self._own = LocalCluster(
                        n_workers=workers or os.cpu_count() or 1, threads_per_worker=1, dashboard_address=None,
                        processes=True, silence_logs=logging.CRITICAL,
                    )  # fmt: skip
                self._client = Client(self._own)
            else:
                try:
                    self._client = Client(address, timeout=_CONNECTING)
                except (OSError, TimeoutError, ValueError) as error:
                    raise UsageError(f"--scheduler {address}: cannot be reached: {error}") from error
        self.executor: Executor = self._client.get_executor(pure=False, retries=0)
        self._lanes = workers or 1
        self._looked, self._seen = -self.pulse, monotonic()

    def close(self) -> None:
        """Leave the cluster, and end it where it is one of its own."""
        for some in (self._client, self._own):
            if some is not None:
                some.close()

    def lanes(self) -> int:
        """Return how many threads all workers have that are there now; as many as there were last where none is.

        Raises `Gone` where there has been none for too long.
        """
        now = monotonic()
        if now - self._looked < self.pulse:
            return self._lanes
        threads = sum(self._threads().values())
        self._looked = monotonic()
        if threads:
            self._lanes, self._seen = threads, self._looked
        elif self._looked - self._seen > self.patience:
            raise Gone(
                f"the scheduler {self.address} has had no worker for {self.patience:,.0f} s; start workers and give "
                "the same command: it goes on from here"
            )
        return self._lanes

    def died(self, error: BaseException) -> bool:
        """Tell whether work failed because its worker died, or the scheduler forgot it and has come back since.

        Raises `Gone` where the scheduler does not come back.
        """
        if type(error).__name__ == "KilledWorker":
            return True
        if type(error).__name__ not in ("CancelledError", "FutureCancelledError"):
            return False
        self._wait()
        return True

    def _threads(self) -> dict[str, int]:
        self._wait()
        try:
            return self._client.sync(self._client.scheduler.ncores, workers=None, callback_timeout=_ANSWER)
        except (OSError, TimeoutError):  # does not answer, which is as good as having no workers
            return {}

    def _wait(self) -> None:
        """Wait while the client looks for a scheduler that it has lost."""
        while self._client.status == "connecting":
            sleep(0.05)
        if self._client.status != "running":
            raise Gone(
                f"the scheduler {self.address} is gone; start it again and give the same command: it goes on from here"
            )
