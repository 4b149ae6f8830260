"""Trainings as they lie on the disk: read without torch, whether finished, stopped or damaged."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cellkit.core import FormatError, UsageError
from cellkit.core.errors import CellkitError
from cellkit.core.recipe import YamlFault, load_yaml
from cellkit.io import atomic
from cellkit.models.store import RUN_FILE
from cellkit.report.runs import Run, Score, number
from cellkit.train.examples import EXAMPLES, read_examples

__all__ = ["find_runs", "read_run", "write_page"]

_MODEL, _CONFIG, _LOG, _RECORD = RUN_FILE, "config.yaml", "log.csv", "run.json"
_FOLDS = "folds.json"
_FOLD = re.compile(r"fold-(\d+)")
_NO_WEIGHTS = ("running_mean", "running_var", "num_batches_tracked")


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[tuple[str, str]]]:
    """Return the runs at `paths`, and what cannot be read as (path, reason).

    A path is the folder of a run, of a training in folds, or a folder of those; the same run counts once.
    """
    runs, broken, seen = [], [], set()
    for path in [inner for given in paths for inner in _expanded(given)]:
        where = path.resolve()
        if where in seen:
            continue
        seen.add(where)
        try:
            run = read_run(path)
        except CellkitError as error:
            broken.append((str(path), _reason(error, path)))
            continue
        runs.append(run)
        broken += [(f"{path}/{name}", reason) for name, reason in run.faults]
    return runs, broken


def _reason(error: CellkitError, path: Path) -> str:
    """Return what an error says, without the path that stands before it already."""
    return str(error).removeprefix(f"{path}: ").removeprefix(str(path / "x")[:-1])


def _expanded(path: Path) -> list[Path]:
    """Return `path`, or the runs in it where it is no run itself but a folder of some."""
    if not path.is_dir() or _is_run(path) or _folds(path):
        return [path]
    inner = sorted(one for one in path.iterdir() if one.is_dir() and (_has_begun(one) or _folds(one)))
    return inner or [path]


def _has_begun(folder: Path) -> bool:
    """Tell a run from a data set with a config beside it, and from what `cellkit run` wrote."""
    there = {name for name in (_CONFIG, _LOG, _MODEL, _RECORD) if (folder / name).is_file()}
    return bool(there & {_LOG, _MODEL}) or {_CONFIG, _RECORD} <= there


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_CONFIG, _LOG, _MODEL))


def _folds(folder: Path) -> list[Path]:
    found = [(int(m[1]), path) for path in folder.iterdir() if path.is_dir() and (m := _FOLD.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def read_run(folder: str | Path) -> Run:
    """Read a training, or one in folds.

    Raises `UsageError` where `folder` holds none, `FormatError` where one of its files is damaged. Of a training in
    folds, those that cannot be read are its `faults`; where none can, `FormatError`.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UsageError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file; wanted the folder of a run, as `cellkit train -o` writes it")
    try:
        inner = _folds(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if inner and not (folder / _LOG).is_file():
        return _in_folds(folder, inner)
    if not _is_run(folder):
        other = "; it is what `cellkit run` wrote" if (folder / _RECORD).is_file() else ""
        raise UsageError(f"{folder}: no training: it holds no {_CONFIG}, {_LOG} or {_MODEL}{other}")
    return _single(folder)


def _in_folds(folder: Path, inner: Sequence[Path]) -> Run:
    folds, faults = [], []
    for path in inner:
        try:
            folds.append(read_run(path))
        except CellkitError as error:
            faults.append((path.name, _reason(error, path)))
    if not folds:
        raise FormatError(f"{folder}: none of its {len(faults)} folds can be read; {faults[0][0]}: {faults[0][1]}")
    first, asked, ensemble = folds[0], *_told(folder / _FOLDS)
    same = {fold.architecture for fold in folds}
    return Run(
        name=folder.resolve().name,
        folder=str(folder),
        settings=first.settings,
        config=first.config,
        text=first.text,
        figures={"ensemble": ensemble} if ensemble is not None else {},
        finished=all(fold.finished for fold in folds) and not faults,
        architecture=" and ".join(sorted(same)),
        parameters=first.parameters,
        data=first.data,
        about=first.about,
        folds=tuple(folds),
        asked=asked,
        faults=tuple(faults),
    )


def _told(path: Path) -> tuple[int, Score | None]:
    """Return how many folds were asked for, and the score of all models together on images held back from all."""
    if not path.is_file():
        return 0, None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        asked, held = len(found.get("folds", ())), found.get("held_out") or {}
        ensemble = held.get("ensemble") or {}
        return asked, Score.of(ensemble) if ensemble.get("value") is not None else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def _single(folder: Path) -> Run:
    about = _record(folder / _RECORD)
    text, config = _config(folder / _CONFIG)
    log = _log(folder / _LOG)
    card, parameters = _card(folder / _MODEL)
    raw = dict(_flat(config))
    settings = about.get("settings")
    epochs = len(log.get("epoch", ()))
    figures = card.figures if card is not None else {}
    finished = card is not None and (not epochs or figures.get("epochs") == epochs)
    scores = {str(k): Score.of(v) for k, v in figures.get("validation", {}).items() if isinstance(v, Mapping)}
    best = figures.get("epoch") if finished else _best(log)
    if not finished:
        scores = {"model": _logged(log, best, about)} if best is not None else {}
    count = about.get("parameters", parameters)
    run = Run(
        name=folder.resolve().name,
        folder=str(folder),
        log=log,
        settings=settings if isinstance(settings, dict) else {},
        config=raw,
        text=text,
        figures=scores,
        best_epoch=best if isinstance(best, int) else None,
        finished=finished,
        architecture=str(
            about.get("architecture") or (card.architecture if card else raw.get("model.architecture", ""))
        ),
        parameters=count if isinstance(count, int) else None,
        data=card.data if card is not None else "",
        about=about,
    )
    try:
        examples, by = read_examples(folder, run.best_epoch if finished else None)
    except FormatError as error:  # pictures alone: the run is whole without them
        return replace(run, faults=((EXAMPLES, _reason(error, folder)),))
    return replace(run, examples=examples, by=by)


def _record(path: Path) -> dict[str, Any]:
    """Return what a training recorded of itself; runs of before it did have nothing."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict) or "cellkit_training" not in found:
        raise FormatError(f"{path}: is no record of a training: it has no cellkit_training")
    return found


def _config(path: Path) -> tuple[str, Mapping[str, Any]]:
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        found = load_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as a config: {error}") from error
    except YamlFault as error:
        raise FormatError(f"{path}: cannot be read as a config: {error.where}: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path}: cannot be read as a config: wanted a mapping")
    return text, found


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _log(path: Path) -> dict[str, list[float]]:
    """Return the columns of a log; empty cells are NaN. Raises `FormatError` with the line that is wrong."""
    if not path.is_file():
        return {}
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: cannot be read as a log: {error}") from error
    head = lines[0] if lines else []
    if "epoch" not in head or len(set(head)) != len(head):
        raise FormatError(f"{path}: is no log of a training: wanted a first line with epoch, step, loss ...")
    columns: dict[str, list[float]] = {name: [] for name in head}
    for place, line in enumerate(lines[1:], 2):
        if len(line) != len(head):
            raise FormatError(f"{path}: line {place}: wanted {len(head)} values, got {len(line)}")
        for name, cell in zip(head, line, strict=True):
            try:
                columns[name].append(float(cell) if cell else math.nan)
            except ValueError:
                raise FormatError(f"{path}: line {place}: {name}: wanted a number, got {cell[:40]!r}") from None
    if not all(math.isfinite(epoch) for epoch in columns["epoch"]):
        raise FormatError(f"{path}: a line has no epoch")
    return columns


def _card(path: Path) -> tuple[Any, int | None]:
    """Return the card of a model and its number of weights; None where there is no model yet."""
    from cellkit.models.store import find_model
    from cellkit.models.tensorfile import read_header

    if not path.is_file():
        return None, None
    located = find_model(str(path))
    tensors = read_header(path).tensors
    shapes = [place.shape for name, place in tensors.items() if not name.endswith(_NO_WEIGHTS)]
    return located.card, sum(map(math.prod, shapes))


def _best(log: Mapping[str, Sequence[float]]) -> int | None:
    """Return the epoch of the best score; of equal ones the later, as a training keeps it."""
    known = [(score, int(epoch)) for score, epoch in zip(log.get("score", ()), log.get("epoch", ()), strict=False)
             if not math.isnan(score)]  # fmt: skip
    return max(known)[1] if known else None


def _logged(log: Mapping[str, Sequence[float]], epoch: int, about: Mapping[str, Any]) -> Score:
    """Return the score of an epoch by the log; what it is of, the training has recorded at its start."""
    at = log["epoch"].index(epoch) if isinstance(log["epoch"], list) else 0
    of = about.get("validation")
    row = {name: number(log[name][at]) if name in log else math.nan for name in ("score", "low", "high")}
    score = Score.of(of) if isinstance(of, Mapping) else Score("score")
    return replace(score, value=row["score"], low=row["low"], high=row["high"])


def write_page(run: Run, out: Path, *, page: str = "report.html", picture: str = "curves.png") -> list[Path]:
    """Write the page of `run` and its curves to the folder `out`, and return both paths."""
    from cellkit.report.comparison import comparison_page, picture_of
    from cellkit.report.curves import of_run
    from cellkit.report.plots import png
    from cellkit.report.runpage import run_page

    if run.folds:
        text, drawn = comparison_page([run], run.faults), picture_of([run])
    else:
        text, drawn = run_page(run), of_run(run)
    return [write_text(out / page, text), write_bytes(out / picture, png(drawn))]


def write_text(path: Path, text: str) -> Path:
    """Write a page, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a picture, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path
