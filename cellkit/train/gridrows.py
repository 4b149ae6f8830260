"""Rows of the table of a grid, from what lies in the folders of its cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cellkit.core.errors import CellkitError
from cellkit.report.gridtable import Part, Row, mean_of, with_gains
from cellkit.report.runs import Run, Score
from cellkit.train.gridfile import Grid
from cellkit.train.runs import read_run

if TYPE_CHECKING:
    from cellkit.train.gridcell import CellRun
    from cellkit.train.gridscore import PartScore

__all__ = ["row_of", "rows_of"]


def rows_of(grid: Grid, rows: Sequence[Row]) -> list[Row]:
    """Return the rows with what each gained over the baseline of the grid."""
    return with_gains(rows, grid.baseline)


def row_of(cell: CellRun, cells: Sequence[CellRun]) -> Row:
    """Return the row of a cell among all `cells`."""
    trained = next((one for one in cells if one.name == cell.of), cell)
    run, fault = _run(trained)
    scores = [score for score in cell.scores if score is not None]
    epochs = len(trained.seconds())
    notes = [*cell.notes, *([f"its folder cannot be read: {fault}"] if fault else [])]
    return Row(
        name=cell.name,
        folder=f"{cell.folder.parent.name}/{cell.folder.name}",
        values=cell.opened.cell.values,
        of=cell.of,
        state=cell.state,
        reason=cell.reason,
        score=_score(scores),
        parts=tuple(None if one is None else Part(one.value, one.digest, one.draws) for one in cell.scores),
        classes=_classes(scores),
        epochs=epochs,
        planned=trained.opened.config.loop.epochs * len(trained.opened.parts),
        best_epoch=scores[0].epoch if len(cell.scores) == 1 and scores else None,
        seconds=math.fsum(trained.seconds()) if not cell.of and epochs else math.nan,
        parameters=scores[0].parameters if scores else run.parameters if run is not None else None,
        notes=tuple(notes),
    )


def _run(cell: CellRun) -> tuple[Run | None, str]:
    if not cell.seconds():
        return None, ""
    try:
        return read_run(cell.folder), ""
    except CellkitError as error:
        return None, str(error)


def _score(scores: Sequence[PartScore]) -> Score:
    """Return the score of a cell: of its only training, or the mean of its folds."""
    if not scores:
        return Score("")
    plain = [Score.of(one.figures) for one in scores]
    if len(scores) == 1:
        one = scores[0]
        return replace(plain[0], name=one.name, value=one.value, low=one.low, high=one.high, digest=one.digest)
    span = mean_of([Part(one.value, one.digest, one.draws) for one in scores])
    images = sum(one.images for one in plain)
    digest = "+".join(one.digest for one in scores)
    rule = plain[0].rule
    return Score(scores[0].name, span.value, span.low, span.high, images=images, rule=rule, digest=digest)


def _classes(scores: Sequence[PartScore]) -> dict[str, float]:
    """Return the mean of each class over the folds in which it has a score."""
    found = {}
    for kind in dict.fromkeys(kind for one in scores for kind in one.classes):
        values = [one.classes[kind] for one in scores if not math.isnan(one.classes.get(kind, math.nan))]
        found[kind] = math.fsum(values) / len(values) if values else math.nan
    return found
