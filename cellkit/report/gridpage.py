"""Bar charts and the page of a grid of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cellkit.report.bars import Bar, draw_bars, row_height, score_bars
from cellkit.report.comparison import curves_section, settings_section
from cellkit.report.gridtable import Marginal, Row, head_and_cells, marginal_cells, marginals
from cellkit.report.plots import figure, head, palette_css, svg
from cellkit.report.runpage import RUN_CSS, score_text, table
from cellkit.report.runs import Run, Score
from cellkit.report.style import CSS, PAGE, SCRIPT

__all__ = ["grid_page", "grid_picture"]

_LETTERS = 44
_KEY = """<p class="flow">Bars: the score and its 95 % interval over groups of images; hatched where a training is not
done; dots are the folds, or the cells of a value; a diamond is the baseline.</p>"""
_NAMES = "#cells td.word:first-child{min-width:11rem;overflow-wrap:break-word}"
_ALIKE = """<p class="flow">Each value over those combinations of the other keys of which every value has a score; gains
are paired.</p>"""


def grid_picture(rows: Sequence[Row], keys: Mapping[str, Sequence[str]], baseline: str = "") -> Any:
    """Return a figure: bars of all cells, and a panel for each varied key."""
    panels = _panels(rows, keys, baseline)
    heights = [row_height(len(bars)) + 0.2 for _, bars in panels]
    made = figure(7.2, sum(heights))
    axes = made.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, bars) in zip(axes, panels, strict=True):
        draw_bars(ax, bars, _LETTERS)
        head(ax, title)
    return made


def _bars(rows: Sequence[Row], baseline: str) -> list[Bar]:
    base = next((row.score.value for row in rows if row.name == baseline), float("nan"))
    name = next((row.score.name for row in rows if row.score.name), "score")
    made = []
    for row in rows:
        score = row.score if row.score.name else Score(name)
        other = float("nan") if row.name == baseline else base
        made.append(Bar(row.name, score, other, row.state != "done", row.folds))
    return made


def _panels(rows: Sequence[Row], keys: Mapping[str, Sequence[str]], baseline: str = "") -> list[tuple[str, list[Bar]]]:
    """Return titles and bars: of all cells, of their gains, and of each varied key that can be compared."""
    name = next((row.score.name for row in rows if row.score.name), "score")
    found = [("all cells", _bars(rows, baseline))]
    gains = [(row, row.gain) for row in rows if row.gain is not None]
    if gains:
        bars = [Bar(row.name, Score("gain", gain.value, gain.low, gain.high), open=row.state != "done")
                for row, gain in gains]  # fmt: skip
        found.append((f"gain over {baseline}, paired", bars))
    for key, labels in keys.items():
        every = marginals(rows, key, labels)
        if every:
            bars = [Bar(one.label, Score(name, one.mean.value, one.mean.low, one.mean.high), dots=_dots(one))
                    for one in every]  # fmt: skip
            found.append((f"by {every[0].over(key)}", bars))
    return found


def _dots(one: Marginal) -> tuple[float, ...]:
    return one.dots if len(one.dots) > 1 else ()


def grid_page(
    title: str,
    rows: Sequence[Row],
    runs: Sequence[tuple[str, Run]],
    keys: Mapping[str, Sequence[str]],
    baseline: str = "",
) -> str:
    """Return an HTML page, complete in itself, of a grid: its table, charts, and the curves of all `runs` by cell."""
    sections = [("cells", "Cells", _cells(rows, keys, baseline))]
    sections.append(("charts", "Scores", _charts(rows, keys, baseline)))
    names = [name for name, _ in runs]
    every = [run for _, run in runs]
    sections.append(("curves", "Curves", curves_section(every, names)))
    if len(every) > 1:
        sections.append(("settings", "What differs", settings_section(every, names)))
    links = "".join(f'<li class="word"><a href="#{key}"><span>{name}</span></a></li>' for key, name, _ in sections)
    cards = "".join(f'<section class="part" id="{key}" aria-label="{name}"><h2>{name}</h2>{body}</section>'
                    for key, name, body in sections)  # fmt: skip
    done = sum(row.state == "done" for row in rows)
    failed = sum(row.state == "failed" for row in rows)
    facts = f"{len(rows):,} cells, {done:,} done" + (f", {failed:,} failed" if failed else "")
    words = {"item": "picture", "items": "Parts of the page", "compare": "Truth", "help": ""}
    return PAGE.format(title=escape(title), css=CSS + palette_css() + RUN_CSS + _NAMES, script=SCRIPT, body="",
                       facts=escape(facts), film=links, cards=cards, **words)  # fmt: skip


def _cells(rows: Sequence[Row], keys: Mapping[str, Sequence[str]], baseline: str) -> str:
    parts = [table(*head_and_cells(rows, list(keys), baseline), words=1 + len(keys))]
    for key, labels in keys.items():
        found = marginals(rows, key, labels)
        if found:
            parts.append(f"<h3>By {escape(found[0].over(key))}</h3>{table(*marginal_cells(found))}")
    if len(parts) > 1:
        parts.append(_ALIKE)
    notes = [f"{row.name}: {note}" for row in rows for note in row.notes]
    rule = next((row.score.rule for row in rows if row.score.rule), "")
    if rule:
        parts.append(f'<p class="flow">{escape(rule)}</p>')
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        parts.append(f'<div class="note"><b>Notes</b><ul>{items}</ul></div>')
    return "".join(parts)


def _charts(rows: Sequence[Row], keys: Mapping[str, Sequence[str]], baseline: str) -> str:
    figures = []
    for title, bars in _panels(rows, keys, baseline):
        said = "; ".join(f"{bar.name} {score_text(bar.score.value)}" for bar in bars)
        drawn = svg(score_bars(bars, letters=_LETTERS), f"Scores as bars, {title}: {said}")
        figures.append(f'<figure class="plot"><h3>{escape(title)}</h3>{drawn}</figure>')
    return f'<div class="plots">{"".join(figures)}</div>{_KEY}'
