"""Train the cells of a grid one after the other, within a time limit, going on wherever it was stopped or killed."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from cellkit.core import UsageError
from cellkit.core.errors import CellkitError
from cellkit.models.device import choose_device, choose_precision
from cellkit.train.crossing import train_folds
from cellkit.train.gridcell import (
    CELL,
    CellRun,
    complete,
    differs,
    open_folds,
    planned,
    put_away,
    read_cell,
    write_cell,
)
from cellkit.train.gridfile import Grid
from cellkit.train.gridfiles import FILES, GridReport, grid_name, write_grid
from cellkit.train.gridopen import Opened, looked_through, refuse_other_images
from cellkit.train.gridrows import row_of, rows_of
from cellkit.train.gridscore import find_weights, read_scores, score_part, source_of, write_scores
from cellkit.train.keeper import LAST, Share, Show, Silent
from cellkit.train.loop import CONFIG, FOLDS, MODEL, TooShort, train
from cellkit.train.task import Diverged

__all__ = ["CELLS", "GridShow", "SilentGrid", "run_grid"]

CELLS, REPLACED = "cells", "replaced"
SCORES = "scores.json"


class GridShow(Show, Protocol):
    """Is told how a grid goes."""

    def cell(self, number: int, count: int, name: str) -> None:
        """Say which cell what follows is about, from 1, of so many; 0 for none."""


class SilentGrid(Silent):
    """A `GridShow` that shows nothing."""

    def cell(self, number: int, count: int, name: str) -> None: ...  # noqa: D102


def run_grid(
    grid: Grid,
    cells: Sequence[Opened],
    out: str | Path,
    *,
    resume: bool = False,
    time_limit: float | None = None,
    device: str = "auto",
    show: GridShow | None = None,
) -> GridReport:
    """Train the `cells` of `grid` into the folder `out`, and score them; see `cellkit grid`.

    `time_limit`, in seconds: every training (of a fold, where there are some) that is not done has an even share of the
    time that is left, those first that have come least far. Where a share is too short for an epoch, a first one may go
    on beyond it, so that some get one rather than none. What a cell has kept so far is scored. The files of the grid
    are written anew after each cell.

    A cell that fails is a row that says so, and is tried again with `resume`. A cell whose config is another one than
    before is trained anew, what was there being moved to the folder ``replaced``.

    Raises `UsageError` where `out` holds a grid and `resume` is not asked for (or it is about other images), or images
    or labels are no good.
    """
    started = time.monotonic()
    place = choose_device(device)
    run = _Run(grid, Path(out), place, show if show is not None else SilentGrid())
    run.begin(cells, resume)
    run.end = math.inf if time_limit is None else started + time_limit
    try:
        return run.all()
    except KeyboardInterrupt:
        for cell in run.cells:
            if cell.state == "waiting" and cell.seconds() and not cell.of:
                cell.state, cell.reason = "stopped", "interrupted"
        run.write()
        raise


class _Run:
    """A grid as it is under way."""

    def __init__(self, grid: Grid, out: Path, device: torch.device, show: GridShow) -> None:
        self.grid, self.out, self.device, self.show = grid, out, device, show
        self.end = math.inf
        self.cells: list[CellRun] = []
        self.notes: list[str] = []
        self.scoring = 0.0  # how long the longest score took

    def begin(self, cells: Sequence[Opened], resume: bool) -> None:
        """Look what is there to go on from, and put away what is of another config."""
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out}: is a file; wanted a folder for the grid")
        there = any((self.out / name).exists() for name in (CELLS, "grid.json"))
        if there and not resume:
            raise UsageError(
                f"{self.out}: holds an earlier grid; --resume goes on with it, another -o begins a new one"
            )
        if resume and not there:
            raise UsageError(f"--resume: there is no grid to go on with in {self.out}")
        runs = (LAST, MODEL, FOLDS, CONFIG, *(name for name in FILES if not there))
        held = next((name for name in runs if (self.out / name).exists()), None)
        if held:
            raise UsageError(f"{self.out / held}: is of something else; another -o begins a new grid")
        for opened in cells:  # a precision that the device has not is told before anything is read
            choose_precision(opened.config.loop.precision, self.device, _any_card())
        self.cells = [CellRun(one, self.out / CELLS / one.cell.folder) for one in cells]
        stored = {cell.name: read_cell(cell.folder / CELL) for cell in self.cells}
        for cell in self.cells:  # all are looked at before anything is moved
            before = stored[cell.name]
            if before and not cell.of and not differs(cell, before):
                refuse_other_images(cell.folder, str(before["images"]), cell.opened)
        if resume:
            self._refuse_other_grid(stored)
        (self.out / CELLS).mkdir(parents=True, exist_ok=True)
        for cell in self.cells:
            self._gone_on_from(cell, stored[cell.name])
        strange = {path.name for path in (self.out / CELLS).iterdir()} - {cell.folder.name for cell in self.cells}
        self._say(*(f"{CELLS}/{name}: of no cell of the grid any more; left as it is" for name in sorted(strange)))
        self.write()
        every = looked_through(cells, self.out / CELLS, self.show, resume=resume)
        for cell, opened in zip(self.cells, every, strict=True):
            cell.opened = opened

    def _refuse_other_grid(self, stored: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise `UsageError` where the folder is of a grid of another name that has none of the cells as they are."""
        name = grid_name(self.out)
        alike = any(before and not differs(cell, before) for cell in self.cells if (before := stored[cell.name]))
        if name and name != self.grid.path.name and not alike:
            raise UsageError(
                f"--resume: {self.out} is of the grid {name}, which has no cell of {self.grid.path.name}; another -o "
                "begins a new grid"
            )

    def _say(self, *notes: str) -> None:
        for note in notes:
            self.notes.append(note)
            self.show.note(note)

    def _gone_on_from(self, cell: CellRun, before: Mapping[str, Any]) -> None:
        """Take up what a cell has come to, or put it away where its config is another one now."""
        why = differs(cell, before) if before else []
        if before and not why and not cell.of and len(cell.seconds()) > planned(cell):
            why = ["loop.epochs (it has had more)"]
        if cell.of:
            why = ["it was trained itself"] if before else []
        if not before and not cell.of and any((cell.folder / name).exists() for name in (LAST, MODEL, FOLDS)):
            raise UsageError(f"{cell.folder}: holds a training that is not of this grid; another -o begins a new one")
        if why:
            to = put_away(cell.folder, self.out / REPLACED)
            anew = "" if cell.of else "; trained anew"
            self._say(f"{cell.name}: its config changed: {', '.join(why)}{anew}; what was there is in {REPLACED}/{to}")
            before = {}
        cell.notes += [f"left out {text}" for text in cell.opened.cell.left_out]
        cell.scores = read_scores(cell.folder / SCORES, len(cell.opened.parts))
        if cell.of:
            return
        if before:
            cell.state, cell.reason = str(before["state"]), str(before["reason"])
            if cell.state == "done" and not complete(cell, before):
                cell.state = "stopped"
            if cell.state == "waiting" and cell.seconds():
                cell.state = "stopped"
        write_cell(cell)

    def all(self) -> GridReport:
        """Train and score every cell."""
        todo = [cell for cell in self.cells if not cell.of and cell.state != "done"]
        if self.end < math.inf:
            todo.sort(key=lambda cell: len(cell.seconds()) / planned(cell))
        for cell in self.cells:  # of those done before, what a kill or another recipe left unscored
            if not cell.of and cell not in todo:
                self._scored(cell)
        for index, cell in enumerate(todo):
            self._trained(cell, todo[index:])
            write_cell(cell)
            self._scored(cell)
            write_cell(cell)
            self.write()
            gc.collect()  # a trainer is a ring of references, which would hold on to images and memory of the device
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        for cell in self.cells:
            if cell.of and not any(cell.scores):
                cell.state = "failed" if cell.state == "failed" else "waiting"
        self.show.cell(0, len(self.cells), "")
        return self.write()

    def _trained(self, cell: CellRun, left: Sequence[CellRun]) -> None:
        """Train a cell for as long as it may, the first of those that are `left`; what goes wrong becomes its state."""
        limit = self._share(left)
        known = cell.seconds()
        if limit is not None and (limit.most <= 0 or (known and min(known) > limit.most)):
            if cell.state != "failed":
                cell.state, cell.reason = ("stopped" if known else "waiting"), "time limit"
            return
        self.show.cell(self.cells.index(cell) + 1, len(self.cells), cell.name)
        try:
            cell.state, cell.reason, notes = self._train(cell, limit)
            cell.notes = [note for note in cell.notes if note.startswith("left out")] + notes
        except TooShort:
            cell.state, cell.reason = "waiting", "time limit"
        except Exception as error:  # whatever it is that goes wrong in one cell, the others go on
            cell.state, cell.reason = "failed", _why(error)
            self.show.note(f"failed: {cell.reason}")
        if cell.state == "waiting" and cell.seconds():
            cell.state = "stopped"

    def _share(self, left: Sequence[CellRun]) -> Share | None:
        """Return the share of the first of the cells that are `left`: a part for each training still to be done."""
        if self.end == math.inf:
            return None
        scores = self.scoring * sum(len(one.opened.parts) for one in left)
        now = self.end - time.monotonic()
        trainings = [open_folds(one) for one in left]
        share = max(0.0, now - scores) * trainings[0] / sum(trainings)
        return Share(share, now)

    def _train(self, cell: CellRun, limit: Share | None) -> tuple[str, str, list[str]]:
        opened, folder, device = cell.opened, cell.folder, str(self.device)
        if opened.folds is None:
            there = (folder / CONFIG).exists() or (folder / LAST).exists()
            report = train(opened.config, folder, data=opened.parts[0], resume=there, time_limit=limit, device=device,
                           show=self.show)  # fmt: skip
            return "done" if report.finished else "stopped", report.reason, list(report.notes)
        whole = train_folds(opened.config, opened.folds, folder, resume=(folder / FOLDS).exists(), time_limit=limit,
                            device=device, show=self.show)  # fmt: skip
        if whole.finished:
            return "done", "", [note for note in whole.notes if not note.startswith("fold")]
        return ("failed", "; ".join(whole.notes), []) if whole.reason == "failed" else ("stopped", whole.reason, [])

    def _scored(self, cell: CellRun) -> None:
        """Score what a cell has kept, and what cells it is the network of, unless that is done."""
        for one in [cell, *(other for other in self.cells if other.of == cell.name)]:
            try:
                changed = self._score(one, cell)
            except Exception as error:  # one that cannot be scored is no reason to lose the others
                one.state, one.reason = "failed", f"cannot be scored: {_why(error)}"
                self.show.note(f"{one.name}: failed: {one.reason}")
                continue
            if one is not cell:
                one.state, one.reason = cell.state if any(one.scores) else "waiting", ""
                if one.state == "failed":
                    one.reason = f"as {cell.name}"
            if changed:
                one.folder.mkdir(parents=True, exist_ok=True)
                write_scores(one.folder / SCORES, one.scores)

    def _score(self, one: CellRun, trained: CellRun) -> bool:
        """Score each fold of `one` whose weights, those of `trained`, are others than before; tell whether any was."""
        config, changed = one.opened.config, False
        for place, parts in enumerate(one.opened.parts):
            found = find_weights(trained.opened.config, trained.part(place))
            before = one.scores[place]
            if found is None:
                changed |= before is not None
                one.scores[place] = None
            elif before is None or before.source != source_of(config, found):
                began = time.monotonic()
                self.show.cell(self.cells.index(one) + 1, len(self.cells), one.name)
                which = f"fold {place + 1}, " if len(one.opened.parts) > 1 else ""
                self.show.note(f"scoring {which}the weights of epoch {found.epoch:,}")
                one.scores[place] = score_part(config, parts, found, self.device, place)
                self.scoring = max(self.scoring, time.monotonic() - began)
                changed = True
        failed = [text for score in one.scores if score is not None for text in score.failed]
        one.notes = [note for note in one.notes if not note.startswith("not counted")]
        one.notes += [f"not counted as anything but wrong: {text}" for text in failed[:3]]
        return changed

    def write(self) -> GridReport:
        """Write the files of the grid as it stands."""
        rows = rows_of(self.grid, [row_of(cell, self.cells) for cell in self.cells])
        report = GridReport(self.grid, self.out, tuple(rows), tuple(self.notes))
        from cellkit.train.runs import read_run

        runs = []
        for cell in self.cells:
            if not cell.of and cell.seconds():
                try:
                    runs.append((cell.name, read_run(cell.folder)))
                except CellkitError:
                    continue  # its row says what is wrong
        for note in write_grid(report, runs):
            self.show.note(note)
        return report


def _any_card() -> Any:
    from cellkit.models import Card

    return Card("any", "any", "dense", 1, ("any",), "sigmoid", precision=("float32", "bfloat16", "float16"))


def _why(error: BaseException) -> str:
    """Return in one line why a cell failed."""
    if isinstance(error, Diverged):
        return "diverged: " + " ".join(str(error).split())
    if isinstance(error, CellkitError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return "does not fit in memory; a smaller batch or crop may"
    return " ".join(f"{type(error).__name__}: {error}".split())
