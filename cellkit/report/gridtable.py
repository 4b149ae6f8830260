"""The table of a grid of trainings: what each cell scores, gains over another, and what each varied value comes to."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cellkit.report.runpage import score_text, time_text
from cellkit.report.runs import Score, spread

__all__ = ["Marginal", "Part", "Row", "Span", "csv_text", "head_and_cells", "marginals", "markdown", "mean_of", "with_gains"]  # fmt: skip # noqa: E501

_LEVEL = (0.025, 0.975)


@dataclass(frozen=True)
class Span:
    """A number and its 95 % interval, NaN where undefined."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def text(self, signed: bool = False) -> str:
        """Return it in words."""
        if math.isnan(self.value):
            return ""
        sign = "+" if signed else ""
        ends = "" if math.isnan(self.low) else f" ({self.low:{sign}.4f} to {self.high:{sign}.4f})"
        return f"{self.value:{sign}.4f}{ends}"


@dataclass(frozen=True)
class Part:
    """The score of one network, on the images that `digest` tells, and of each resample of their groups."""

    value: float
    digest: str
    draws: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """One cell. `values`: the labels of what is varied. `of`: the cell whose network it is. `parts`: one for each fold.

    `state`: waiting, stopped, failed or done, and `reason` why. `score`: of folds the mean, with an interval over
    groups of images. `classes`: the score by class. `epochs` of `planned` were done in `seconds`. `gain`: over the
    baseline; None where there is no baseline, or nothing to compare.
    """

    name: str
    folder: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    of: str = ""
    state: str = "waiting"
    reason: str = ""
    score: Score = field(default_factory=lambda: Score(""))
    parts: tuple[Part | None, ...] = (None,)
    classes: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    planned: int = 0
    best_epoch: int | None = None
    seconds: float = math.nan
    parameters: int | None = None
    gain: Span | None = None
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there is a score."""
        return not math.isnan(self.score.value)

    @property
    def folds(self) -> tuple[float, ...]:
        """The scores of the folds; none without cross-validation."""
        return tuple(math.nan if one is None else one.value for one in self.parts) if len(self.parts) > 1 else ()

    @property
    def status(self) -> str:
        """How far it came, in words."""
        done = f"{self.epochs:,} of {self.planned:,} epochs"
        if self.state == "failed":
            return f"failed: {self.reason}"
        if self.state == "done":
            ended = self.reason not in ("", "all epochs", "time limit") and self.epochs < self.planned
            return f"done: {self.reason} after {done}" if ended else "done"
        if self.of:
            return "not scored" if not self.known else f"of {done}"
        why = f" ({self.reason})" if self.reason else ""
        return "not begun" if not self.epochs else f"stopped{why}: {done}"


@dataclass(frozen=True)
class Marginal:
    """What a value of a varied key comes to, over so many `cells`: their mean, and its gain over the first value."""

    label: str
    cells: int
    mean: Span
    gain: Span | None
    dots: tuple[float, ...] = ()

    def over(self, key: str) -> str:
        """Return what a mean by `key` is over, in words."""
        return f"{key}, the mean over {self.cells:,} cells each" if self.cells > 1 else f"{key}, all else alike"


def mean_of(parts: Sequence[Part]) -> Span:
    """Return the mean of the scores of several networks, with the interval of the mean of their resamples."""
    values = [part.value for part in parts]
    if not values or any(map(math.isnan, values)):
        return Span()
    return Span(math.fsum(values) / len(values), *_ends(_mean_draws(parts)))


def _mean_draws(parts: Sequence[Part]) -> np.ndarray:
    lengths = {len(part.draws) for part in parts}
    if len(lengths) != 1 or lengths == {0}:
        return np.zeros(0)
    return np.mean([part.draws for part in parts], axis=0)


def _ends(draws: np.ndarray) -> tuple[float, float]:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return math.nan, math.nan
    low, high = np.quantile(draws, _LEVEL)
    return float(low), float(high)


def with_gains(rows: Sequence[Row], baseline: str) -> list[Row]:
    """Return `rows` with what each gained over the row called `baseline`, on the folds that both have.

    The interval is that of the difference, resample by resample, both being drawn alike.
    """
    base = next((row for row in rows if row.name == baseline), None)
    if base is None:
        return list(rows)
    return [row if row is base else replace(row, gain=_gain(base, row)) for row in rows]


def _gain(base: Row, row: Row) -> Span | None:
    both = [
        (one, two)
        for one, two in zip(base.parts, row.parts, strict=False)
        if one is not None and two is not None and one.digest == two.digest
    ]
    if not both or base.score.name != row.score.name:
        return None
    befores, afters = ([pair[i] for pair in both] for i in range(2))
    return _difference(befores, afters)


def _difference(befores: Sequence[Part], afters: Sequence[Part]) -> Span | None:
    before, after = mean_of(befores), mean_of(afters)
    value = after.value - before.value
    if math.isnan(value):
        return None
    one, two = _mean_draws(befores), _mean_draws(afters)
    ends = _ends(two - one) if len(one) == len(two) else (math.nan, math.nan)
    return Span(value, *ends)


def marginals(rows: Sequence[Row], key: str, labels: Sequence[str]) -> list[Marginal]:
    """Return what each of the `labels` of a varied key comes to, the other keys alike.

    Only those combinations of the other keys count of which all labels have a score on the same images, so that no
    label is compared by easier company. Labels of which no cell has a score are left out. Empty where there is nothing
    to compare.
    """
    blocks: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if key in row.values and not row.of:
            others = tuple(value for name, value in row.values.items() if name != key)
            blocks.setdefault(others, {})[row.values[key]] = row
    some = {label for block in blocks.values() for label, row in block.items() if row.known}
    labels = [label for label in labels if label in some]
    whole = [block for block in blocks.values() if all(label in block and block[label].known for label in labels)]
    whole = [block for block in whole if len({_images(row) for row in block.values()}) == 1]
    if not whole or len(labels) < 2:
        return []
    found, first = [], labels[0]
    for label in labels:
        parts = [part for block in whole for part in block[label].parts if part is not None]
        firsts = [part for block in whole for part in block[first].parts if part is not None]
        dots = tuple(block[label].score.value for block in whole)
        gain = None if label == first else _difference(firsts, parts)
        found.append(Marginal(label, len(whole), mean_of(parts), gain, dots))
    return found


def _images(row: Row) -> tuple[str, ...]:
    return row.score.name, *("" if part is None else part.digest for part in row.parts)


def csv_text(rows: Sequence[Row], keys: Sequence[str], baseline: str) -> str:
    """Return the table as CSV, a row for each cell; what is not known is empty."""
    folds = max((len(row.folds) for row in rows), default=0)
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.classes))
    head = ["name", "of", *keys, "metric", "score", "low", "high"]
    head += ["gain", "gain_low", "gain_high"] if baseline else []
    head += [f"fold_{number}" for number in range(1, folds + 1)]
    head += ["mean", "variance", "best"] if folds else []
    head += [f"class {kind}" for kind in kinds]
    head += ["epochs", "planned_epochs", "best_epoch", "seconds", "parameters", "status", "reason", "folder"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        score, gain = row.score, row.gain or Span()
        cells: list[Any] = [row.name, row.of, *(row.values.get(key, "") for key in keys), score.name]
        cells += [score.value, score.low, score.high]
        cells += [gain.value, gain.low, gain.high] if baseline else []
        if folds:
            found = spread(row.folds)
            cells += [*row.folds, found.mean, found.variance, found.most]
        cells += [row.classes.get(kind, math.nan) for kind in kinds]
        cells += [row.epochs, row.planned, row.best_epoch, row.seconds, row.parameters]
        cells += [STATES[row.state], row.reason, row.folder]
        writer.writerow([_cell(one) for one in cells])
    return text.getvalue()


STATES = {"waiting": "not begun", "stopped": "stopped", "failed": "failed", "done": "done"}


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def head_and_cells(rows: Sequence[Row], keys: Sequence[str], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table as it is shown; columns in which nothing stands are left out."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.classes))
    name = next((row.score.name for row in rows if row.score.name), "score")
    head = ["cell", *keys, name, "95 % interval", f"gain over {baseline}", "folds", "mean ± sd", "best", *kinds]
    head += ["epochs", "time", "parameters", "status"]
    table = []
    for row in rows:
        folds, score = spread(row.folds), row.score
        sure = "" if math.isnan(score.low) else f"{score.low:.4f} to {score.high:.4f}"
        spreads = f"{folds.mean:.4f} ± {folds.deviation:.4f}" if folds.folds > 1 else ""
        gain = "baseline" if row.name == baseline else row.gain.text(signed=True) if row.gain is not None else ""
        epochs = f"{row.epochs:,}" if row.epochs == row.planned else f"{row.epochs:,} of {row.planned:,}"
        table.append([
            row.name, *(row.values.get(key, "") for key in keys), score_text(score.value) if row.known else "",
            sure, gain, " ".join(score_text(one) for one in row.folds) if row.known else "", spreads,
            f"{folds.most:.4f}" if folds.folds else "",
            *(score_text(row.classes[kind]) if kind in row.classes else "" for kind in kinds),
            "" if row.of else epochs, time_text(row.seconds), f"{row.parameters:,}" if row.parameters else "",
            row.status,
        ])  # fmt: skip
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in table)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in table]


def markdown(rows: Sequence[Row], keys: Mapping[str, Sequence[str]], baseline: str, about: str = "") -> str:
    """Return the table, and one for each varied key, as Markdown to be pasted into a document."""
    parts = [_lines(*head_and_cells(rows, list(keys), baseline))]
    for key, labels in keys.items():
        found = marginals(rows, key, labels)
        if found:
            parts.append(f"By {_safe(found[0].over(key))}:\n\n{_lines(*marginal_cells(found))}")
    if about:
        parts.append(_safe(about))
    return "\n\n".join(parts) + "\n"


def marginal_cells(found: Sequence[Marginal]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of a varied key."""
    head = ["value", "mean", "95 % interval", f"gain over {found[0].label}"]
    rows = []
    for one in found:
        sure = "" if math.isnan(one.mean.low) else f"{one.mean.low:.4f} to {one.mean.high:.4f}"
        rows.append([one.label, score_text(one.mean.value), sure, "" if one.gain is None else one.gain.text(True)])
    return head, rows


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_safe, line))} |" for line in lines)


def _safe(text: str) -> str:
    """Return a text that stays within its cell, and is no markup."""
    line = " ".join(text.split()).replace("\\", "\\\\")
    for sign in "|*_`<>[]":
        line = line.replace(sign, f"\\{sign}")
    return line
