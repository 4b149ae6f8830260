"""One self-contained HTML page of several ways to one answer: figures side by side, and pictures of the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np

from cellkit.core.kinds import Boxes
from cellkit.report.bars import Bar, score_bars
from cellkit.report.marked import Marks, legend, marked, plain, true_marks
from cellkit.report.plots import palette_css, svg
from cellkit.report.runpage import RUN_CSS, table
from cellkit.report.runs import Score
from cellkit.report.style import CSS, PAGE, SCRIPT
from cellkit.report.views import data_uri
from cellkit.report.worst import CASE_CSS

__all__ = ["Figure", "Layer", "Row", "chosen", "figures_table", "links_list", "sides_page", "value_text"]

Layer: TypeAlias = np.ndarray | Boxes
_Shown: TypeAlias = tuple[str, "np.ndarray | None", Sequence[tuple[str, str]]]
"""What a picture is called, the picture (None: it was never made), and what stands below it."""


@dataclass(frozen=True)
class Figure:
    """One score: what each way reached, and by how much the better way beats the published one (`gain`).

    `published` is what was said of the original, on images as `source` says; NaN where nothing was. A way without a
    number is not among `ways`.
    """

    label: str
    images: int
    ways: Mapping[str, Score]
    published: float = math.nan
    source: str = ""
    gain: Score | None = None
    rule: str = ""


@dataclass(frozen=True, eq=False)
class Row:
    """One image for the page, `why` it was chosen, its truth, and what each way found (None: it failed).

    `scores`: those of the image, by way, as (name, text).
    """

    name: str
    why: str
    image: np.ndarray
    truth: Layer
    found: Mapping[str, Layer | None]
    scores: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


def chosen(better: Mapping[str, float], other: Mapping[str, float], worst: int) -> list[tuple[str, str]]:
    """Return the images to show and why: the best, the median and the `worst`, and those where two ways differ most.

    `better`, `other`: the score of each image. Images without a score are passed over, each is shown once.
    """
    order = sorted((name for name in better if not math.isnan(better[name])), key=lambda name: better[name])
    if not order:
        return []
    reasons: dict[str, list[str]] = {}
    reasons.setdefault(order[-1], []).append("the best")
    reasons.setdefault(order[len(order) // 2], []).append("the median")
    for place, name in enumerate(order[:worst], 1):
        reasons.setdefault(name, []).append("the worst" if place == 1 else f"worst but {place - 1}")
    apart = {name: better[name] - other[name] for name in order if not math.isnan(other.get(name, math.nan))}
    for name in sorted(apart, key=lambda name: -abs(apart[name]))[: max(2, worst // 2)]:
        if apart[name]:
            reasons.setdefault(name, []).append(f"differs most: {apart[name]:+.4f}")
    return [(name, ", ".join(why)) for name, why in reasons.items()]


def figures_table(figures: Sequence[Figure], ways: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Return the head and rows of a table of `figures`, a column for each of `ways`.

    `ways`: what stands where a way has no number, such as ``not trained``, by its name.
    """
    gains = any(figure.gain is not None for figure in figures)
    head = ["score", "images", "published figure", *ways, *(["gain"] if gains else [])]
    rows = []
    for figure in figures:
        said = (
            ""
            if math.isnan(figure.published)
            else (f"{figure.published:.3f}" if abs(figure.published) < 1 else f"{figure.published:.4g}")
        )
        said += f" ({figure.source})" if said and figure.source else ""
        reached = [value_text(figure.ways[way]) if way in figure.ways else lacking for way, lacking in ways.items()]
        gain = ([value_text(figure.gain, "+") if figure.gain is not None else ""]) if gains else []
        rows.append([figure.label, f"{figure.images:,}", said or "–", *reached, *gain])
    return head, rows


def value_text(score: Score, sign: str = "") -> str:
    """Return a number with its interval as tables show it; with `sign` ``+``, its sign too."""
    if math.isnan(score.value):
        return "none"
    form = f"{sign}.{4 if abs(score.value) < 10 else 1}f"
    ends = "" if math.isnan(score.low) else f" ({score.low:{form}} to {score.high:{form}})"
    return f"{score.value:{form}}{ends}"


def sides_page(
    title: str,
    facts: Sequence[str],
    figures: Sequence[Figure],
    ways: Mapping[str, str],
    rows: Sequence[Row],
    *,
    draw: tuple[Marks, Sequence[str]],
    parts: Mapping[str, str],
) -> str:
    """Return an HTML page, complete in itself.

    `facts`: lines under the title. `ways`: see `figures_table`; pictures are of those that `rows` have. `draw`:
    what is drawn, and the names of the classes. `parts`: further parts, heading to HTML, behind the figures.
    """
    shown = [way for way in ways if any(way in row.found for row in rows)]
    sections = {"Figures": _figures(figures, ways), **parts}
    cards = "".join(
        f'<section class="part" id="part{i}" aria-label="{escape(name)}"><h2>{escape(name)}</h2>{body}</section>'
        for i, (name, body) in enumerate(sections.items())
    )
    links = "".join(
        f'<li class="word"><a href="#part{i}"><span>{escape(name)}</span></a></li>' for i, name in enumerate(sections)
    )
    if rows:
        top = f'<h2>Images</h2><ul class="legend">{legend(draw[0], draw[1])}</ul><p class="flow">{_READ[draw[0]]}</p>'
        cards += f'<section class="part" id="images" aria-label="Images">{top}</section>'
        cards += "".join(_row(i, row, shown, draw[0]) for i, row in enumerate(rows))
        links += '<li class="word"><a href="#images"><span>Images</span></a></li>'
    words = {"item": "picture", "items": "Parts of the page", "compare": "Truth", "help": _HELP if rows else ""}
    css = CSS + palette_css() + CASE_CSS + RUN_CSS + _CSS.replace("COLUMNS", str(2 + len(shown)))
    lines = "<br>".join(map(escape, facts))
    return PAGE.format(title=escape(title), css=css, script=SCRIPT, body="", facts=lines, film=links, cards=cards, **words)  # fmt: skip # noqa: E501


def links_list(files: Sequence[tuple[str, str]]) -> str:
    """Return (path relative to the page, what it is) as a list of links in HTML."""
    items = "".join(
        f'<li><a href="{escape(quote(path))}">{escape(path)}</a> {escape(what)}</li>' for path, what in files
    )
    return f"<ul>{items}</ul>" if items else ""


def _figures(figures: Sequence[Figure], ways: Mapping[str, str]) -> str:
    drawn = []
    for figure in figures:
        named = [way for way in ways if way in figure.ways and not math.isnan(figure.ways[way].value)]
        if not named:
            continue
        bars = [Bar(way, _named(figure, figure.ways[way]), figure.published) for way in named]
        said = "; ".join(f"{way} {value_text(figure.ways[way])}" for way in named)
        picture = svg(score_bars(bars), f"{figure.label}: {said}")
        drawn.append(f'<figure class="plot"><h3>{escape(figure.label)}</h3>{picture}</figure>')
    rules = "".join(f"<li><b>{escape(f.label)}</b>: {escape(f.rule)}</li>" for f in figures if f.rule)
    key = "Bars: the score and its 95 % interval"
    if any(not math.isnan(figure.published) for figure in figures):
        key += "; a diamond: the published figure, of other images"
    plots = f'<div class="plots">{"".join(drawn)}</div><p class="flow">{key}.</p>' if drawn else ""
    said = f"<details><summary>Rules</summary><ul>{rules}</ul></details>" if rules else ""
    return f"{table(*figures_table(figures, ways))}{plots}{said}"


def _named(figure: Figure, score: Score) -> Any:
    return Score(figure.label, score.value, score.low, score.high, score.images)


def _row(number: int, row: Row, ways: Sequence[str], by: Marks) -> str:
    true = true_marks(row.image, row.truth, by)
    pictures: list[_Shown] = [("input", plain(row.image), []), ("truth", true, _size(row.image))]
    for way in ways:
        found = row.found.get(way)
        if found is None:
            pictures.append((way, None, [("", "It failed in this image; see Ways.")]))
            continue
        picture, counts = marked(row.image, row.truth, found, by)
        told = [(name, f"{count:,}") for name, count in counts.items()]
        pictures.append((way, picture, [*row.scores.get(way, ()), *told]))
    figures = "".join(_figure(number, i, row.name, *one) for i, one in enumerate(pictures))
    return (
        f'<section class="case" id="case{number}" aria-label="{escape(row.name)}"><h2>{escape(row.name)}</h2>'
        f'<p class="flow">{escape(row.why)}</p><div class="sides">{figures}</div></section>'
    )


def _figure(number: int, place: int, image: str, label: str, picture: np.ndarray | None, told: Any) -> str:
    facts = " · ".join(f"{escape(name)} <b>{escape(text)}</b>" if name else escape(text) for name, text in told)
    if picture is None:
        return (
            f'<div class="lacking"><p aria-hidden="true">no result</p>'
            f'<div><span class="way">{escape(label)}</span> <span class="told">{facts}</span></div></div>'
        )
    height, width = picture.shape[:2]
    title = escape(f"{image}: {label}")
    hold = f'<button type="button" class="before" data-before="case{number}-1">Truth</button>' if place > 1 else ""
    return (
        f'<div class="step" id="case{number}-{place}" aria-label="{title}"><figure>'
        f'<button type="button" class="open" aria-label="Open {title} at full size">'
        f'<img src="{data_uri(picture, lossy=True)}" width="{width}" height="{height}" alt="{title}"></button>'
        f'<figcaption><span class="way">{escape(label)}</span>{hold}<span class="told">{facts}</span></figcaption>'
        "</figure></div>"
    )


def _size(image: np.ndarray) -> list[tuple[str, str]]:
    return [("", f"{image.shape[1]:,} × {image.shape[0]:,} px")]


_READ: Mapping[Marks, str] = {
    "labels": "Truth: its outlines, blue. Ways: the outline of each predicted object says what became "
    "of it; missed and extra objects are filled.",
    "mask": "Truth: its outline, blue. Ways: the outline of what was predicted; missed and extra pixels are filled.",
    "classes": "Truth and ways: each class in its colour. Ways: pixels that are wrong are laid over it, strongly.",
    "boxes": "Truth and ways: each class in its colour. Ways: missed, extra and confused boxes in the colours of "
    "errors; missed ones are filled.",
}
_HELP = """<p class="help">Click a picture to see it large. Hold <b>Truth</b> to compare. With a picture open:
<kbd>←</kbd> <kbd>→</kbd> step through, hold <kbd>B</kbd> for the truth, <kbd>Z</kbd> zooms.</p>"""
_CSS = """
.top,main,.film ol{max-width:98rem}
.sides{display:grid;grid-template-columns:repeat(COLUMNS,minmax(0,1fr));gap:1rem}
.sides .step{display:block;padding:0;border:0;margin:0;background:none}
.sides .way{font-weight:600;color:var(--ink);overflow-wrap:anywhere;min-width:0}
.sides .told{flex-basis:100%;overflow-wrap:anywhere}
.sides .told b{font-weight:600;color:var(--ink)}
.sides figcaption{gap:.25rem .5rem;min-height:1.75rem}
.sides .before{padding:.05rem .55rem}
.lacking{font-size:.8125rem;color:var(--soft)}
.lacking p{display:grid;place-items:center;aspect-ratio:4/3;margin:0 0 .6rem;border:1px dashed var(--line);
border-radius:8px;background:var(--tint)}
.lacking .told{display:block}
a{color:var(--accent)}
code{overflow-wrap:anywhere}
@media (max-width:52rem){.sides{grid-template-columns:repeat(2,minmax(0,1fr));gap:.75rem}}
"""
