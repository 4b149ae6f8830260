"""What a run has done so far, in one SQLite file: a killed run continues where it stopped."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellkit.core.errors import UsageError, WriteError
from cellkit.engine.lock import held

__all__ = ["Manifest", "Record", "looking", "records_of", "tables_of"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    name TEXT PRIMARY KEY, position INTEGER, source TEXT, recipe TEXT, digest TEXT, status TEXT, reason TEXT,
    seconds REAL, facts TEXT, files TEXT);
CREATE INDEX IF NOT EXISTS by_position ON images (position);
CREATE TABLE IF NOT EXISTS tables (
    image TEXT, output TEXT, part INTEGER, rows BLOB, PRIMARY KEY (image, output, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (
    image TEXT PRIMARY KEY, stage TEXT, done INTEGER, total INTEGER, seconds REAL, worker TEXT, at REAL);
"""
_COLUMNS = "name, source, recipe, digest, status, reason, seconds, facts, files"
_VERSION = 2


@dataclass(frozen=True)
class Record:
    """One image's line: where it came from, digests of recipe and file, how it ended, and what was written.

    `facts` are counts, sizes and notes for the report; `files` maps each file written, relative to the run's folder,
    to its size in bytes; `tables` holds, per table output, one Arrow stream or several.
    """

    name: str
    source: str
    recipe: str = ""
    digest: str = ""
    status: str = "failed"
    reason: str = ""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, bytes | Iterable[bytes]] = field(default_factory=dict, repr=False, compare=False)


class Manifest:
    """The state of one run folder, held open and locked against a second run; a context manager.

    Raises `UsageError` where another run holds the folder, `WriteError` where it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder / "tmp"
        self._lock = ExitStack()
        self._db: sqlite3.Connection | None = None

    def __enter__(self) -> Manifest:
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            text = f"{self.folder.parent}: another run is writing here; wait for it or choose another -o"
            self._lock.enter_context(held(self.folder / "lock", text))
            for leftover in self.scratch.iterdir():  # of a run that was killed
                leftover.unlink()
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            self.__exit__()
            raise WriteError(f"{self.folder}: the run's state cannot be written: {error}") from error
        except UsageError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None
        self._lock.close()

    def _open(self) -> sqlite3.Connection:
        path = self.folder / "state.sqlite"
        try:
            return self._connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            # A state that a power cut damaged costs time, not results: everything is done again.
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return self._connect(path)

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise UsageError(
                    f"{path.parent.parent}: written by another version of cellkit; choose another -o or --fresh"
                )
            if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("damaged")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version={_VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    @property
    def db(self) -> sqlite3.Connection:
        """The open connection."""
        if self._db is None:
            raise UsageError("the manifest is not open")
        return self._db

    def begin(self, names: Sequence[str], *, fresh: bool) -> None:
        """Set the images of this run and their order; with `fresh`, forget what was done."""
        with self._transaction():
            if fresh:
                self.db.execute("UPDATE images SET recipe = ''")
            self.db.execute("UPDATE images SET position = NULL")
            rows = ((name, i) for i, name in enumerate(names))
            self.db.executemany(
                "INSERT INTO images (name, position, status, files, facts) VALUES (?, ?, 'waiting', '{}', '{}') "
                "ON CONFLICT (name) DO UPDATE SET position = excluded.position",
                rows,
            )

    def get(self, name: str) -> Record | None:
        """Return the record of an image that ended, well or not, in this run or an earlier one."""
        row = self.db.execute(
            f"SELECT {_COLUMNS} FROM images WHERE name = ? AND status != 'waiting'", (name,)
        ).fetchone()
        return None if row is None else _record(row)

    def put(self, record: Record) -> None:
        """Store how an image ended, in one transaction."""
        facts, files = json.dumps(dict(record.facts)), json.dumps(dict(record.files))
        values = (
            record.source,
            record.recipe,
            record.digest,
            record.status,
            record.reason,
            record.seconds,
            facts,
            files,
        )
        with self._transaction():
            self.db.execute(
                "UPDATE images SET source=?, recipe=?, digest=?, status=?, reason=?, seconds=?, facts=?, files=? "
                "WHERE name=?",
                (*values, record.name),
            )
            self.db.execute("DELETE FROM tables WHERE image = ?", (record.name,))
            for output, rows in record.tables.items():
                parts = enumerate([rows] if isinstance(rows, bytes) else rows)
                self.db.executemany(
                    "INSERT INTO tables VALUES (?, ?, ?, ?)", ((record.name, output, i, part) for i, part in parts)
                )
            self.db.execute("DELETE FROM progress WHERE image = ?", (record.name,))

    def records(self) -> Iterator[Record]:
        """Yield this run's records, in the order of the images."""
        return records_of(self.db)

    def tables(self, output: str) -> Iterator[tuple[Record, bytes | None]]:
        """Yield each image of this run that ended well with its rows of one table output, in one part or several."""
        return tables_of(self.db, output)

    def progress(self, image: str, told: Sequence[Any]) -> None:
        """Note how far an image done in blocks has come: stage, blocks done, of how many, seconds, worker."""
        with self._transaction():
            self.db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?, ?, ?)", (image, *told, time.time()))

    def others(self) -> int:
        """Count images of earlier runs, not of this one, whose results still lie in the folder."""
        query = "SELECT COUNT(*) FROM images WHERE position IS NULL AND status = 'done'"
        return int(self.db.execute(query).fetchone()[0])

    def _transaction(self) -> _Transaction:
        return _Transaction(self.db, self.folder)


class _Transaction:
    def __init__(self, db: sqlite3.Connection, folder: Path) -> None:
        self.db, self.folder = db, folder

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.db.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.Error as failed:
            raise WriteError(f"{self.folder}: the run's state cannot be written: {failed}") from failed
        if isinstance(error, sqlite3.Error):
            raise WriteError(f"{self.folder}: the run's state cannot be written: {error}") from error


@contextmanager
def looking(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the state of the run in `folder` to read from; never waits for the run, and never holds it up.

    Raises `UsageError` where the folder holds no run, or its state cannot be read.
    """
    path = folder / ".cellkit" / "state.sqlite"
    if not path.is_file():
        raise UsageError(f"{folder}: holds no run of cellkit (no {path.relative_to(folder)})")
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    except sqlite3.Error as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        yield db
    except sqlite3.Error as error:
        raise UsageError(f"{path}: cannot be read: {error}; was it written by another version of cellkit?") from error
    finally:
        db.close()


def records_of(db: sqlite3.Connection) -> Iterator[Record]:
    """Yield the records of a run, those of waiting images too, in the order of the images."""
    query = f"SELECT {_COLUMNS} FROM images WHERE position IS NOT NULL ORDER BY position"
    yield from map(_record, db.execute(query))


def tables_of(db: sqlite3.Connection, output: str) -> Iterator[tuple[Record, bytes | None]]:
    """Yield each image of a run that ended well with its rows of one table output, in one part or several."""
    columns = ", ".join(f"images.{c}" for c in _COLUMNS.split(", "))
    query = (
        f"SELECT {columns}, rows FROM images LEFT JOIN tables ON image = name AND output = ? "
        "WHERE position IS NOT NULL AND status = 'done' ORDER BY position, part"
    )
    for *row, rows in db.execute(query, (output,)):
        yield _record(row), rows


def _record(row: Sequence[Any]) -> Record:
    name, source, recipe, digest, status, reason, seconds, facts, files = row
    return Record(
        name,
        source or "",
        recipe or "",
        digest or "",
        status,
        reason or "",
        seconds or 0.0,
        json.loads(facts),
        json.loads(files),
    )
