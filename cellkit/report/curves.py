"""Curves of trainings: loss with its parts, rate and score over epochs, of one run or of several together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cellkit.report.plots import (
    INK,
    LARGEST,
    SOFT,
    axes_of,
    dress,
    figure,
    head,
    legend_above,
    legend_below,
    plain,
    style,
)
from cellkit.report.runs import Run

__all__ = ["draw_loss", "draw_rate", "draw_score", "laid_over", "of_run", "panels", "parts"]

_OWN = ("epoch", "step", "loss", "rate", "score", "low", "high", "seconds")
_DOTS_UP_TO = 60
"""Points are marked one by one where there are no more of them."""
_LOG_FROM = 30.0
"""A loss that falls by more than this factor is drawn on a logarithmic scale."""
_WIDTH, _HEIGHT = 4.8, 2.7
_LEGEND_COLUMNS, _LEGEND_ROW = 3, 0.19


def parts(log: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the columns that hold parts of the loss."""
    return [name for name in log if name not in _OWN]


def panels(run: Run) -> dict[str, Any]:
    """Return the curves that the log of `run` has data for, by name, each a figure of its own for a page."""
    found = {}
    for name, draw in _PANELS.items():
        if _has(run.log, name):
            found[name] = figure(_WIDTH, _HEIGHT)
            draw(axes_of(found[name])[0], run)
    return found


def of_run(run: Run) -> Any:
    """Return one figure of all curves of `run`, one below another; it says so where there are none yet."""
    names = [name for name in _PANELS if _has(run.log, name)]
    made = figure(7.2, max(2.0, 2.5 * len(names)))
    for ax, name in zip(axes_of(made, max(1, len(names))), names or [""], strict=True):
        if name:
            _PANELS[name](ax, run)
        else:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "no epoch is done yet", ha="center", color=SOFT)
    return made


def draw_loss(ax: Any, run: Run) -> None:
    """Draw the mean loss of each epoch and its parts."""
    at, handles, names = _epochs(run.log), [], []
    for place, name in enumerate(["loss", *parts(run.log)]):
        values = _column(run.log, name)
        if np.isfinite(values).any():
            look = style(place).line() | {"linewidth": 1.8 if name == "loss" else 1.2}
            handles += ax.plot(at, values, **look, **_dots(values, place))
            names.append(name if name == "loss" else name.replace("_", " "))
    every = np.concatenate([_column(run.log, name) for name in ("loss", *parts(run.log))])
    dress(ax, "epoch", f"mean loss{_scaled(ax, every)}")
    _span(ax, at)
    if len(names) > 1:
        legend_above(ax, names, handles)


def draw_rate(ax: Any, run: Run) -> None:
    """Draw the learning rate at the end of each epoch."""
    at, values = _epochs(run.log), _column(run.log, "rate")
    ax.plot(at, values, **style(0).line(), linewidth=1.5, **_dots(values, 0))
    dress(ax, "epoch", "learning rate, end of epoch")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    _span(ax, at)
    ax.set_ylim(bottom=0)


def draw_score(ax: Any, run: Run) -> None:
    """Draw the scores of the validations with their 95 % interval; a ring marks the epoch whose weights are kept."""
    at, values = _validated(run.log)
    low, high = (_column(run.log, name)[np.isfinite(_column(run.log, "score"))] for name in ("low", "high"))
    ax.fill_between(at, low, high, color=style(0).color, alpha=0.18, linewidth=0)
    for edge in (low, high):  # seen in black and white too, and where there is one validation only
        ax.plot(at, edge, color=style(0).color, linewidth=0.6, linestyle=(0, (1, 2)))
    ax.plot(at, values, **style(0).line(), linewidth=1.8, **_dots(values, 0))
    if len(at) == 1:
        ax.vlines(at, low, high, color=style(0).color, linewidth=1.5)
    dress(ax, "epoch", f"{_name(run)}, 95 % interval")
    best, said = run.best_epoch, []
    there = np.flatnonzero(at == best) if best is not None else np.zeros(0, int)
    if len(there):
        value = values[there[0]]
        ax.axvline(best, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.plot([best], [value], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.5)
        said.append(f"best: {value:.4f} after epoch {best:,}")
    baseline = run.baseline
    if baseline is not None and abs(baseline.value) < LARGEST:
        ax.axhline(baseline.value, color=SOFT, linewidth=1.2, linestyle=(0, (1, 1)))
        said.append(f"dotted: baseline {baseline.value:.4f}")
    head(ax, "; ".join(said))
    _span(ax, _epochs(run.log))


_PANELS = {"loss": draw_loss, "score": draw_score, "rate": draw_rate}


def laid_over(
    runs: Sequence[Run], names: Sequence[str], column: str, *, looks: Sequence[int] = (), below: bool = True
) -> Any:
    """Return a figure of one `column` of the logs of several runs, "score" or "loss", over epochs.

    Of a training in folds, the mean of those folds that have the epoch, in a band from the least to the largest.
    `looks`: the place of each run in the order of colours. `below`: with the names below, else they are the page's
    matter.
    """
    shown = [(run, name, place) for run, name, place in zip(runs, names, looks or range(len(runs)), strict=True)
             if any(_has(one.log, column) for one in (run.folds or (run,)))]  # fmt: skip
    rows = -(-len(shown) // _LEGEND_COLUMNS) if below else 0
    made = figure(7.2 if below else _WIDTH, 3.2 + _LEGEND_ROW * rows if below else _HEIGHT + 0.3)
    ax = axes_of(made)[0]
    handles, every, last = [], [np.zeros(0)], [np.zeros(0)]
    for run, _, place in shown:
        look, width = style(place).line(), 1.6 if len(shown) < 10 else 1.1
        at, values = _mean_over(run, column, ax, place) if run.folds else _points(run.log, column)
        handles += ax.plot(at, values, **look, linewidth=width, **_dots(values, place))
        every.append(values)
        last.append(at)
    scaled = _scaled(ax, np.concatenate(every)) if column == "loss" else ""
    title = "mean loss" if column == "loss" else " and ".join(sorted({_name(run) for run, _, _ in shown}))
    dress(ax, "epoch", f"{title or column}{scaled}")
    _span(ax, np.concatenate(last))
    if below and handles:
        legend_below(made, [name for _, name, _ in shown], handles, _LEGEND_COLUMNS)
    return made


def _mean_over(run: Run, column: str, ax: Any, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the band of the folds of `run`, and return epochs and means."""
    found: dict[float, list[float]] = {}
    for fold in run.folds:
        for epoch, value in zip(*_points(fold.log, column), strict=True):
            if math.isfinite(value):
                found.setdefault(float(epoch), []).append(float(value))
    at = np.array(sorted(found))
    ends = [(min(found[e]), max(found[e])) for e in at]
    if len(at):
        ax.fill_between(at, [low for low, _ in ends], [high for _, high in ends], color=style(place).color, alpha=0.15,
                        linewidth=0)  # fmt: skip
    return at, np.array([np.mean(found[e]) for e in at])


def _points(log: Mapping[str, Sequence[float]], column: str) -> tuple[np.ndarray, np.ndarray]:
    return _validated(log) if column == "score" else (_epochs(log), _column(log, column))


def _validated(log: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs that were validated, and their scores: between them there is nothing to leave a gap for."""
    values = _column(log, "score")
    known = np.isfinite(values)
    return _epochs(log)[known], values[known]


def _has(log: Mapping[str, Sequence[float]], column: str) -> bool:
    return bool(np.isfinite(_column(log, column)).any())


def _epochs(log: Mapping[str, Sequence[float]]) -> np.ndarray:
    return _column(log, "epoch")


def _column(log: Mapping[str, Sequence[float]], name: str) -> np.ndarray:
    """Return a column, what no plot can show (infinite, or nearly) as NaN; all NaN where there is no such column."""
    values = np.array(log.get(name, [math.nan] * len(log.get("epoch", ()))), np.float64)
    values[~(np.abs(values) < LARGEST)] = np.nan
    values[np.abs(values) < 1 / LARGEST] = 0
    return values


def _dots(values: np.ndarray, place: int) -> dict[str, Any]:
    return {"marker": style(place).marker, "markersize": 3.5} if len(values) <= _DOTS_UP_TO else {}


def _name(run: Run) -> str:
    return plain(run.score.name or "score")


def _span(ax: Any, at: np.ndarray) -> None:
    """Let the axis run from the first to the last epoch, with whole numbers on it."""
    from matplotlib.ticker import MaxNLocator

    known = at[np.isfinite(at)]
    first, last = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    room = max(0.5, 0.02 * (last - first))
    ax.set_xlim(first - room, last + room)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _scaled(ax: Any, values: np.ndarray) -> str:
    """Choose a logarithmic scale where values span orders of magnitude, and return what to say of it."""
    known = values[np.isfinite(values)]
    if known.size and known.min() > 0 and known.max() > _LOG_FROM * known.min():
        ax.set_yscale("log")
        return " (log scale)"
    return ""
