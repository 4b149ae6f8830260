"""A cell of a grid as it is under way: what lies in its folder, and whether that is still what is asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellkit.core import FormatError, UsageError, registry
from cellkit.io import atomic
from cellkit.train.folds import end_of, read_report
from cellkit.train.gridfile import identity_of
from cellkit.train.gridopen import Opened
from cellkit.train.gridscore import PartScore
from cellkit.train.loop import FOLDS, MODEL

__all__ = [
    "CELL",
    "CellRun",
    "complete",
    "differs",
    "identity",
    "open_folds",
    "planned",
    "put_away",
    "read_cell",
    "write_cell",
]

CELL = "cell.json"
_VERSION = 1


@dataclass
class CellRun:
    """A cell as it is under way. `state`: waiting, stopped, failed or done."""

    opened: Opened
    folder: Path
    state: str = "waiting"
    reason: str = ""
    scores: list[PartScore | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the cell."""
        return self.opened.cell.name

    @property
    def of(self) -> str:
        """The cell whose network it is; empty where it is trained itself."""
        return self.opened.cell.of

    def part(self, place: int) -> Path:
        """Return the folder of a fold, from 0, or of the only training."""
        return self.folder if self.opened.folds is None else self.folder / f"fold-{place + 1}"

    def seconds(self) -> list[float]:
        """Return how long each epoch took that is done, of all folds."""
        found: list[float] = []
        for place in range(len(self.opened.parts)):
            try:
                with (self.part(place) / "log.csv").open(newline="", encoding="utf-8") as file:
                    found += [float(row["seconds"]) for row in csv.DictReader(file)]
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found


def planned(cell: CellRun) -> int:
    """Return how many epochs a cell is to have, over all folds."""
    return cell.opened.config.loop.epochs * len(cell.opened.parts)


def identity(cell: CellRun) -> dict[str, str]:
    """Return what makes a cell's training this one: its config, and plug-ins."""
    return {**identity_of(cell.opened.config), "plug-ins": repr(sorted(registry.plugin_digests().items()))}


def differs(cell: CellRun, before: Mapping[str, Any]) -> list[str]:
    """Return which keys of a cell's config are others than before."""
    now = identity(cell)
    found = [key for key in now if before["identity"].get(key) != now[key]]
    return found + (["folds"] if before["folds"] != len(cell.opened.parts) else [])


def read_cell(path: Path) -> dict[str, Any]:
    """Return what cell.json says. Raises `FormatError` where it is damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sound = found["cellkit_cell"] == _VERSION and isinstance(found["identity"], dict)
        if not sound or not {"state", "reason", "until", "folds", "images"} <= found.keys():
            raise ValueError("it lacks keys")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: cannot be gone on from: {error}; another -o begins a new grid") from error
    return dict(found)


def complete(cell: CellRun, before: Mapping[str, Any]) -> bool:
    """Tell whether a cell that was done is so by its config of now, with all its files."""
    parts = range(len(cell.opened.parts))
    return before["until"] == end_of(cell.opened.config) and all((cell.part(i) / MODEL).is_file() for i in parts)


def open_folds(cell: CellRun) -> int:
    """Return how many trainings of a cell are still to be done."""
    opened = cell.opened
    if opened.folds is None or not (cell.folder / FOLDS).is_file():
        return len(opened.parts)
    try:
        report = read_report(cell.folder / FOLDS, opened.folds, opened.config)
    except UsageError:
        return len(opened.parts)
    return max(1, sum(not fold.done(opened.config) for fold in report.folds))


def put_away(folder: Path, to: Path) -> str:
    """Move a folder to one of a name that is free in `to`; return that name."""
    to.mkdir(parents=True, exist_ok=True)
    number = 1
    while (to / f"{folder.name}-{number}").exists():
        number += 1
    folder.rename(to / f"{folder.name}-{number}")
    return f"{folder.name}-{number}"


def write_cell(cell: CellRun) -> None:
    """Write cell.json."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    found = {
        "cellkit_cell": _VERSION,
        "name": cell.name,
        "state": cell.state,
        "reason": cell.reason,
        "until": end_of(cell.opened.config),
        "folds": len(cell.opened.parts),
        "images": cell.opened.images,
        "identity": identity(cell),
    }
    with atomic(cell.folder / CELL) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8", newline="")
