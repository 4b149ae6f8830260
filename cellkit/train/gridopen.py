"""The cells of a grid with their images: everything that can be wrong is found before the first batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cellkit.core import UsageError
from cellkit.core.errors import CellkitError, Fault
from cellkit.train.auditing import look_through
from cellkit.train.config import ConfigError, TrainConfig
from cellkit.train.folds import Folds, open_folds
from cellkit.train.gridfile import Cell, Grid, GridError
from cellkit.train.keeper import Show
from cellkit.train.parts import Parts, open_crops, open_parts, with_classes
from cellkit.train.standin import faults_of, standing_in
from cellkit.train.targets import DENSE_HEADS
from cellkit.train.task import build_network
from cellkit.train.validate import _chosen

__all__ = ["Opened", "looked_through", "open_cells"]


@dataclass(frozen=True)
class Opened:
    """A cell with its images: `parts` one for each fold, or one. `config`: with the classes of the data set."""

    cell: Cell
    config: TrainConfig
    parts: tuple[Parts, ...]
    folds: Folds | None = None

    @property
    def images(self) -> str:
        """A digest of which images it trains on and is judged by."""
        if self.folds is None:
            return self.parts[0].digest
        return hashlib.sha256(json.dumps(self.folds.places, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def whole(self) -> Parts:
        """All its images."""
        return self.parts[0] if self.folds is None else self.folds.every


def open_cells(grid: Grid, data: str | Path | None = None) -> list[Opened]:
    """Open the images of all cells (in the folder `data`, where it is given) and look whether each can be trained.

    One crop of each is made, and its network built, but nothing is trained. Raises `GridError` with every fault.
    """
    faults: list[Fault] = []
    found: dict[str, Opened] = {}
    built: dict[str, str] = {}
    for cell in [*grid.trained, *(cell for cell in grid.cells if cell.of)]:
        try:
            if cell.of:
                if cell.of in found:
                    found[cell.name] = _behind(cell, found[cell.of])
                continue
            opened = _opened(cell, grid.folds, data)
            _scored_by(opened)
            _first_crop(opened)
            _network(opened.config, built)
            found[cell.name] = opened
        except ConfigError as error:
            faults += [Fault(f"cell {cell.name!r}: {one.where}", one.message, one.fix) for one in error.faults]
        except (CellkitError, ValueError, RuntimeError) as error:  # the last two are torch's, of a network that is none
            faults.append(Fault(f"cell {cell.name!r}", " ".join(str(error).split())))
    if faults:
        raise GridError(_once(faults))
    return [found[cell.name] for cell in grid.cells]


def _once(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults, those that many cells share (of the images, most often) told once."""
    cells: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        cells.setdefault((fault.message, fault.fix), []).append(fault)
    return [
        one[0] if len(one) == 1 else Fault(f"{one[0].where} and {len(one) - 1:,} more", one[0].message, one[0].fix)
        for one in cells.values()
    ]


def _opened(cell: Cell, count: int, data: str | Path | None) -> Opened:
    if not count:
        parts = open_parts(cell.config, data)
        return Opened(cell, with_classes(cell.config, parts), (parts,))
    folds = open_folds(cell.config, count, data)
    return Opened(cell, with_classes(cell.config, folds.every), folds.parts, folds)


def _behind(cell: Cell, of: Opened) -> Opened:
    """Return a cell that is scored on the images of another, behind steps of its own."""
    opened = Opened(cell, with_classes(cell.config, of.whole), of.parts, of.folds)
    _scored_by(opened)
    return opened


def _scored_by(opened: Opened) -> None:
    """Raise what is wrong with the steps behind the network, or with the score by which they are judged."""
    config, parts = opened.config, opened.whole
    with standing_in(config.recipe, config.trains, config.plain_card) as (bound, _):
        wrong = faults_of(bound)
        if wrong:
            raise ConfigError(tuple(wrong))
        _chosen(config, bound, parts.gives, parts.val or parts.train)


def _first_crop(opened: Opened) -> None:
    """Make one crop, which tells channels and truth that do not fit."""
    open_crops(opened.config, opened.parts[0])[0, 0]


def _network(config: TrainConfig, built: dict[str, str]) -> None:
    """Build the network of a config, unless one like it was: its parameters may not go together."""
    key = repr((config.model, config.folder if config.model.start else ""))
    if key not in built:
        with torch.random.fork_rng(devices=[]):
            build_network(config)
        built[key] = config.name


def looked_through(cells: Sequence[Opened], out: Path, show: Show, *, resume: bool) -> list[Opened]:
    """Look through the images and labels of all cells, those alike once; return the cells with that in their cards.

    What is found lies in audit.json in the folder of the first cell that has these images. Raises `UsageError` where
    there is something to refuse.
    """
    lines: dict[tuple[str, ...], str] = {}
    found = []
    for opened in cells:
        config, parts = opened.config, opened.whole
        kind = "" if config.model.head in DENSE_HEADS else config.model.head
        key = (opened.images, kind, config.data.audit, config.data.invalid, *parts.classes)
        if key not in lines and not opened.cell.of:
            folder = out / opened.cell.folder
            folder.mkdir(parents=True, exist_ok=True)
            seen = look_through(config, parts, folder, resume=resume)
            lines[key] = "" if seen is None else seen.line
            for text in () if seen is None else (seen.line, *(f"warning: {text}" for text in seen.warnings)):
                show.note(text)
        line = lines.get(key, "")
        config = replace(config, data=replace(config.data, audit="off"))  # it is done
        told = tuple(replace(one, about=f"{one.about}; {line}") for one in opened.parts) if line else opened.parts
        folds = None if opened.folds is None else replace(opened.folds, parts=told)
        found.append(replace(opened, config=config, parts=told, folds=folds))
    return found


def refuse_other_images(where: Path, before: str, now: Opened) -> None:
    """Raise `UsageError` where a training is about other images than before, or another split of them."""
    if before != now.images:
        raise UsageError(
            f"--resume: {where} is about other images or another split of them; now there are {now.whole.about}; "
            "another -o begins a new grid"
        )
