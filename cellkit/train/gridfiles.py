"""What a grid writes: its table as CSV, Markdown and JSON, bar charts, and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellkit.metrics.report import finite
from cellkit.report.gridtable import STATES, Row, csv_text, marginals, markdown
from cellkit.report.runs import Run, spread
from cellkit.train.gridfile import Grid
from cellkit.train.runs import write_bytes, write_text

__all__ = ["FILES", "GridReport", "grid_name", "write_grid"]

FILES = ("grid.csv", "grid.md", "grid.png", "grid.json", "report.html")
_VERSION = 1


@dataclass(frozen=True)
class GridReport:
    """What a grid came to: a row for each cell, in the order of its file, and `notes` on what a user should know."""

    grid: Grid
    folder: Path
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return all(row.state == "done" for row in self.rows)

    @property
    def failed(self) -> tuple[Row, ...]:
        """The cells that failed."""
        return tuple(row for row in self.rows if row.state == "failed")

    def document(self) -> dict[str, Any]:
        """Return everything as a dict ready for JSON; numbers that are not known are None."""
        grid = self.grid
        every = {key: marginals(self.rows, key, labels) for key, labels in grid.keys.items()}
        found = {
            "cellkit_grid_results": _VERSION,
            "grid": grid.path.name,
            "folder": str(self.folder),
            "finished": self.finished,
            "baseline": grid.baseline or None,
            "folds": grid.folds or None,
            "vary": {key: list(labels) for key, labels in grid.keys.items()},
            "cells": [_row(row) for row in self.rows],
            "by": {key: [asdict(one) for one in some] for key, some in every.items()},
            "notes": list(self.notes),
        }
        return dict(finite(found))


def _row(row: Row) -> dict[str, Any]:
    found = spread(row.folds)
    score = row.score
    return {
        "name": row.name,
        "folder": row.folder,
        "of": row.of or None,
        "values": dict(row.values),
        "status": STATES[row.state],
        "reason": row.reason,
        "metric": score.name,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "rule": score.rule,
        "images": score.images,
        "gain": None if row.gain is None else asdict(row.gain),
        "folds": list(row.folds),
        "mean": found.mean,
        "variance": found.variance,
        "best": found.most,
        "classes": dict(row.classes),
        "by": {
            column: {
                kind: {"value": one.value, "low": one.low, "high": one.high, "images": one.images}
                for kind, one in parts.items()
            }
            for column, parts in score.by.items()
        },
        "epochs": row.epochs,
        "planned_epochs": row.planned,
        "best_epoch": row.best_epoch,
        "seconds": row.seconds,
        "parameters": row.parameters,
        "notes": list(row.notes),
    }


def write_grid(report: GridReport, runs: Sequence[tuple[str, Run]]) -> list[str]:
    """Write the files of a grid, each whole or not at all; return notes on those that could not be drawn.

    `runs`: the trainings by cell, for the curves. Raises `WriteError` where the table cannot be written.
    """
    grid, rows, out = report.grid, report.rows, report.folder
    write_text(out / "grid.json", json.dumps(report.document(), indent=2, allow_nan=False) + "\n")
    write_text(out / "grid.csv", csv_text(rows, list(grid.keys), grid.baseline))
    write_text(out / "grid.md", markdown(rows, grid.keys, grid.baseline, _about(rows)))
    try:
        from cellkit.report.gridpage import grid_page, grid_picture
        from cellkit.report.plots import png

        write_text(out / "report.html", grid_page(grid.path.stem, rows, runs, grid.keys, grid.baseline))
        write_bytes(out / "grid.png", png(grid_picture(rows, grid.keys, grid.baseline)))
    except Exception as error:  # a plot is no reason to lose trainings, whatever it is that went wrong
        return [f"the charts could not be drawn: {type(error).__name__}: {error}"]
    return []


def grid_name(folder: Path) -> str:
    """Return the name of the grid file that a folder is of; empty where none is known."""
    try:
        return str(json.loads((folder / "grid.json").read_text(encoding="utf-8"))["grid"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _about(rows: Sequence[Row]) -> str:
    """Return in a sentence what the scores are."""
    row = next((row for row in rows if row.known), None)
    if row is None:
        return ""
    where = f"the images of {len(row.parts)} folds" if len(row.parts) > 1 else "images for validation"
    name, images, rule = row.score.name, row.score.images, row.score.rule
    return f"{name} on {images:,} {where}; 95 % intervals over groups of images. {rule}".strip()
