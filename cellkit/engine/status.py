"""How far a run has come, read from its folder while it goes on or afterwards."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from cellkit.core.errors import UsageError
from cellkit.engine.lock import held
from cellkit.engine.manifest import looking

__all__ = ["Blocks", "Status", "read_status"]

_MOST_FAILURES = 1000


@dataclass(frozen=True)
class Blocks:
    """An image in work block by block: in which stage it is, and when that was written, in seconds before now."""

    image: str
    stage: str
    done: int
    total: int
    ago: float
    worker: str


@dataclass(frozen=True)
class Status:
    """Images by what became of them, objects, seconds of work, who failed why. `running`: a run holds the folder."""

    folder: Path
    running: bool
    ended: bool
    total: int
    done: int
    failed: int
    waiting: int
    objects: int
    seconds: float
    failures: tuple[tuple[str, str, str], ...] = ()
    blocks: tuple[Blocks, ...] = ()


def read_status(folder: str | Path) -> Status:
    """Return how far the run in `folder` has come. Never waits for the run, and never holds it up.

    Raises `UsageError` where the folder holds no run.
    """
    folder = Path(folder)
    with looking(folder) as db:
        return _read(db, folder)


def _read(db: sqlite3.Connection, folder: Path) -> Status:
    here = "FROM images WHERE position IS NOT NULL"
    counts = dict(db.execute(f"SELECT status, COUNT(*) {here} GROUP BY status"))
    (seconds,) = db.execute(f"SELECT COALESCE(SUM(seconds), 0) {here}").fetchone()
    objects = 0
    for (facts,) in db.execute(f"SELECT facts {here} AND status = 'done'"):
        objects += next(iter(json.loads(facts).get("objects", {}).values()), 0)
    failures = db.execute(
        f"SELECT name, source, reason {here} AND status = 'failed' ORDER BY position LIMIT {_MOST_FAILURES}"
    ).fetchall()
    now = time.time()
    blocks = [
        Blocks(image, stage, done, total, max(0.0, now - at), worker or "")
        for image, stage, done, total, worker, at in db.execute(
            "SELECT image, stage, done, total, worker, at FROM progress ORDER BY image"
        )
    ]
    return Status(
        folder,
        _held(folder),
        (folder / "run.json").is_file(),
        sum(counts.values()),
        counts.get("done", 0),
        counts.get("failed", 0),
        counts.get("waiting", 0),
        objects,
        seconds,
        tuple((name, source or "", reason or "") for name, source, reason in failures),
        tuple(blocks),
    )


def _held(folder: Path) -> bool:
    """Tell whether a run holds the folder now."""
    path = folder / ".cellkit" / "lock"
    if not path.is_file():
        return False
    try:
        with held(path, "held"):
            return False
    except UsageError:
        return True
