"""Scores of several runs side by side: bars with intervals, by the values of a column, and how folds lie."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cellkit.report.plots import (
    INK,
    LARGEST,
    SERIES,
    SOFT,
    axes_of,
    drawable,
    dress,
    figure,
    head,
    legend_below,
    plain,
    style,
)
from cellkit.report.runs import Run, Score, spread

__all__ = ["Bar", "bars_of", "columns_of", "draw_bars", "draw_folds", "row_height", "score_bars", "scores_by"]

_ROW, _MARGIN = 0.3, 0.75
_GROUP_ROW = 0.17
_HATCH = "////"
_LINE = 26


@dataclass(frozen=True)
class Bar:
    """One bar: its name, score, and what else is known; `open`: of a run that is not finished, or no run at all."""

    name: str
    score: Score
    baseline: float = math.nan
    open: bool = False
    dots: tuple[float, ...] = ()


def bars_of(runs: Sequence[Run], names: Sequence[str]) -> list[Bar]:
    """Return a bar for each run, with the scores of its folds as dots."""
    return [
        Bar(
            name,
            run.score,
            run.baseline.value if run.baseline is not None else math.nan,
            run.state != "finished",
            tuple(fold.score.value for fold in run.folds),
        )
        for run, name in zip(runs, names, strict=True)
    ]


def score_bars(bars: Sequence[Bar], width: float = 4.8, letters: int = _LINE) -> Any:
    """Return a figure of `bars`, the first on top; `letters`: see `draw_bars`."""
    made = figure(width, row_height(len(bars)))
    draw_bars(axes_of(made)[0], bars, letters)
    return made


def row_height(count: int) -> float:
    """Return the height of `count` bars with their axis, inches."""
    return max(1.4, _MARGIN + _ROW * max(1, count))


def draw_bars(ax: Any, bars: Sequence[Bar], letters: int = _LINE) -> None:
    """Draw lying bars with their intervals; hatched where a run is not finished; a dark tick is the baseline's.

    A name of more than so many `letters` is cut, one of more than a line goes over two.
    """
    values = [bar.score.value if abs(bar.score.value) < LARGEST else 0.0 for bar in bars]
    ends = drawable([v for bar in bars for v in (bar.score.low, bar.score.high, bar.baseline, *bar.dots)] + values)
    least, most = 1.08 * min([0.0, *ends]), max([*ends, 0.0])
    most = 1.0 if 0.4 < most <= 1.0 else most * 1.08 if most > 0 else 1.0
    for place, (bar, value) in enumerate(zip(bars, values, strict=True)):
        look: dict[str, Any] = {"color": SERIES[0], "edgecolor": SERIES[0]}
        if bar.open:
            look = {"facecolor": "none", "edgecolor": SERIES[0], "hatch": _HATCH}
        ax.barh(place, value, height=0.62, linewidth=1, **look)
        if abs(bar.score.low) < LARGEST and abs(bar.score.high) < LARGEST:
            ax.plot([bar.score.low, bar.score.high], [place, place], color=INK, linewidth=1.4, marker="|", markersize=6,
                    clip_on=False)  # fmt: skip
        if abs(bar.baseline) < LARGEST:
            ax.plot([bar.baseline], [place], color=SOFT, marker="D", markersize=4.5, linestyle="none", clip_on=False,
                    markeredgecolor=INK, markeredgewidth=0.8)  # fmt: skip
        ax.plot(list(bar.dots), [place + 0.2] * len(bar.dots), ".", color=INK, markersize=4)
        text = f"{bar.score.value:.4f}" if abs(bar.score.value) < LARGEST else "none"
        ax.annotate(text, (1.03, place), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=8)
    dress(ax, bars[0].score.name if bars and bars[0].score.name else "score", "", grid="x")
    _rows(ax, [bar.name for bar in bars], letters)
    ax.set_xlim(least, most)


def columns_of(runs: Sequence[Run]) -> list[str]:
    """Return the columns by which any of `runs` has scores."""
    return list(dict.fromkeys(column for run in runs for column in run.score.by))


def scores_by(bars: Sequence[Bar], column: str, *, looks: Sequence[int] = (), below: bool = True) -> Any:
    """Return a figure of the scores of `bars` by the values of `column`: a mark a bar, with its interval.

    `looks` and `below`: as in `cellkit.report.curves.laid_over`.
    """
    shown = [(bar, place) for bar, place in zip(bars, looks or range(len(bars)), strict=True) if column in bar.score.by]
    kinds = sorted({value for bar, _ in shown for value in bar.score.by[column]})
    room = max(0.42, _GROUP_ROW * len(shown) + 0.14)
    rows = -(-len(shown) // 3) if below else 0
    made = figure(7.2 if below else 4.8, max(1.4, _MARGIN + room * len(kinds) + 0.19 * rows))
    ax = axes_of(made)[0]
    handles: dict[str, Any] = {}
    for number, kind in enumerate(kinds):
        for i, (bar, place) in enumerate(shown):
            part = bar.score.by[column].get(kind)
            if part is None or not abs(part.value) < LARGEST:
                continue
            look = style(place)
            at = number + (i - (len(shown) - 1) / 2) * (_GROUP_ROW / room)
            if abs(part.low) < LARGEST and abs(part.high) < LARGEST:
                ax.plot([part.low, part.high], [at, at], color=look.color, linewidth=1.3, clip_on=False)
            (mark,) = ax.plot([part.value], [at], look.marker, color=look.color, markersize=5.5, clip_on=False,
                              markerfacecolor="none" if bar.open else look.color)  # fmt: skip
            handles.setdefault(bar.name, mark)
        if number:
            ax.axhline(number - 0.5, color=SOFT, linewidth=0.5, linestyle=(0, (1, 3)))
    name = next((bar.score.name for bar, _ in shown if bar.score.name), "score")
    dress(ax, f"{name} by {column}", "", grid="x")
    _rows(ax, kinds)
    ends = [v for bar, _ in shown for part in bar.score.by[column].values() for v in (part.low, part.value, part.high)]
    low, high = min([0.0, *drawable(ends)]), max([0.0, *drawable(ends)])
    ax.set_xlim(low, 1.0 if 0.4 < high <= 1.0 else high * 1.08 if high > 0 else 1.0)
    if below and handles:
        legend_below(made, list(handles), list(handles.values()), 3)
    return made


def draw_folds(runs: Sequence[Run], names: Sequence[str]) -> Any:
    """Return a figure of how the scores of folds lie: a number for each fold, their mean, and the mean ± 1 sd."""
    made = figure(4.8, max(1.6, _MARGIN + 0.5 * len(runs)))
    ax = axes_of(made)[0]
    for place, run in enumerate(runs):
        values = [fold.score.value for fold in run.folds]
        found = spread(values)
        if not found.folds:
            continue
        if abs(found.deviation) < LARGEST:
            ax.fill_betweenx([place - 0.28, place + 0.28], found.mean - found.deviation, found.mean + found.deviation,
                             color=SERIES[0], alpha=0.25, linewidth=0)  # fmt: skip
        ax.plot([found.mean, found.mean], [place - 0.28, place + 0.28], color=INK, linewidth=1.8)
        for fold, value in zip(run.folds, values, strict=True):
            if abs(value) < LARGEST:
                ax.plot([value], [place], "o", color=SERIES[0], markersize=6, markeredgecolor=INK, markeredgewidth=0.6)
                ax.annotate(plain(fold.name.removeprefix("fold-"), 4), (value, place), xytext=(0, 7), ha="center",
                            textcoords="offset points", color=INK, fontsize=7, parse_math=False)  # fmt: skip
    scores = {run.score.name for run in runs if run.score.name}
    dress(ax, f"{' and '.join(sorted(scores)) or 'score'}: folds, mean, mean ± 1 sd", "", grid="x")
    _rows(ax, names)
    if len(runs) == 1:
        head(ax, f"{spread(fold.score.value for fold in runs[0].folds).folds} folds")
    return made


def _rows(ax: Any, names: Sequence[str], letters: int = _LINE) -> None:
    """Write a name beside each row, the first on top."""
    shown = [textwrap.fill(plain(name, letters), _LINE) for name in names]
    ax.set_yticks(range(len(names)), shown, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(max(0, len(names) - 1) + 0.6, -0.6)
