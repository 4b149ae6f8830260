"""A folder held by one process, which the system gives back however the process ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cellkit.core.errors import UsageError

__all__ = ["held"]


@contextmanager
def held(path: Path, message: str) -> Iterator[None]:
    """Hold the file `path`, made where it is not there, while the body runs: an open exclusive transaction.

    Raises `UsageError` with `message` where another process holds it, `sqlite3.Error` where it cannot be made.
    """
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise UsageError(message) from None
        yield
