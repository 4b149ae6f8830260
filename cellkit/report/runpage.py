"""One self-contained HTML page of a training: scores beside the baseline, curves, images, settings, versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cellkit.report.bars import Bar, score_bars, scores_by
from cellkit.report.curves import panels
from cellkit.report.plots import palette_css, svg, swatch
from cellkit.report.runs import Run, Score
from cellkit.report.style import CSS, PAGE, SCRIPT
from cellkit.report.worst import CASE_CSS, case_section, case_thumb, legend_of

__all__ = ["RUN_CSS", "facts_list", "interval", "run_page", "score_text", "table", "time_text"]

_NAMES = {"model": "the network", "baseline": "baseline"}
_TITLES = {"loss": "Loss", "score": "Score on validation images", "rate": "Learning rate"}
_TEXTS = {
    "loss": "The loss and its parts, mean of each epoch.",
    "score": "The score of each validation with its 95 % interval; a ring marks the epoch whose weights are kept.",
    "rate": "The learning rate at the end of each epoch.",
}


def run_page(run: Run) -> str:
    """Return an HTML page, complete in itself, of one training that is no training in folds."""
    sections = [("scores", "Scores", _scores(run)), ("curves", "Curves", _curves(run))]
    if run.examples:
        sections.append(("images", "Images", _images(run)))
    sections += [("data", "Data", _data(run)), ("settings", "Settings", _settings(run))]
    links = "".join(f'<li class="word"><a href="#{key}"><span>{name}</span></a></li>' for key, name, _ in sections)
    cards = "".join(f'<section class="part" id="{key}" aria-label="{name}"><h2>{name}</h2>{body}</section>'
                    for key, name, body in sections)  # fmt: skip
    film = links + "".join(case_thumb(i, case) for i, case in enumerate(run.examples))
    words = {"item": "picture", "items": "Parts of the page", "compare": "Truth", "help": _warnings(run)}
    css = CSS + CASE_CSS + palette_css() + RUN_CSS
    return PAGE.format(
        title=escape(run.name), css=css, script=SCRIPT, body="", facts=escape(_facts(run)), film=film, cards=cards,
        **words,
    )  # fmt: skip


def _facts(run: Run) -> str:
    done = f"{run.epochs:,} epoch{'s' * (run.epochs != 1)}"
    if run.planned is not None and run.planned != run.epochs:
        done = f"{run.epochs:,} of {run.planned:,} epochs"
    found = [run.architecture, f"{run.parameters:,} parameters" if run.parameters else "", done, time_text(run.seconds)]
    return " · ".join(part for part in found if part)


def _warnings(run: Run) -> str:
    """Return what stands at the top because it matters most: that a run is not finished, and how it ended."""
    reason = str(run.about.get("reason", ""))
    if run.finished:
        return f'<p class="help">Finished: {escape(reason)}.</p>' if reason else '<p class="help">Finished.</p>'
    why = f" ({escape(reason)})" if reason else ""
    return f'<p class="note">Not finished{why}: there is no network with a card yet. --resume goes on.</p>'


def _scores(run: Run) -> str:
    if not run.figures:
        return "<p>No score yet.</p>"
    bars = [
        Bar(_named(key, score), score, open=key != "model" or not run.finished) for key, score in run.figures.items()
    ]
    head = ["", "score", "value", "95 % interval", "images"]
    rows = [
        [bar.name, bar.score.name, score_text(bar.score.value), interval(bar.score), f"{bar.score.images:,}"]
        for bar in bars
    ]
    rules = list(dict.fromkeys(score.rule for score in run.figures.values() if score.rule))
    parts = [table(head, rows, words=2), *(f'<p class="flow">{escape(rule)}</p>' for rule in rules)]
    drawn = svg(score_bars(bars), "Scores as bars: " + "; ".join(f"{row[0]} {row[2]}" for row in rows))
    plots = [f'<figure class="plot">{drawn}</figure>']
    for column in run.score.by:
        shown = [bar for bar in bars if column in bar.score.by]
        parts.append(_by_table(shown, column))
        plots.append(_by_plot(shown, column))
    return "".join(parts) + f'<div class="plots">{"".join(plots)}</div>'


def _by_table(bars: Sequence[Bar], column: str) -> str:
    """Return a table of the scores by the values of a column, those of the bars side by side."""
    kinds = sorted({kind for bar in bars for kind in bar.score.by[column]})
    head = [column, "images", *(name for bar in bars for name in (bar.name, "95 % interval"))]
    rows = []
    for kind in kinds:
        scores = [bar.score.by[column].get(kind, Score("")) for bar in bars]
        cells = [text for score in scores for text in (score_text(score.value), interval(score))]
        rows.append([kind, f"{max(score.images for score in scores):,}", *cells])
    return f"<h3>By {escape(column)}</h3>{table(head, rows)}"


def _by_plot(bars: Sequence[Bar], column: str) -> str:
    names = "".join(f"<li>{swatch(i)}{escape(bar.name)}</li>" for i, bar in enumerate(bars))
    said = "; ".join(f"{kind} {score_text(part.value)}" for kind, part in bars[0].score.by[column].items())
    drawn = svg(scores_by(bars, column, below=False), f"Scores by {column}, {bars[0].name}: {said}")
    return f'<figure class="plot">{drawn}<ul class="names">{names}</ul></figure>'


def _curves(run: Run) -> str:
    drawn = panels(run)
    if not drawn:
        return "<p>No epoch is done yet.</p>"
    figures = "".join(
        f'<figure class="plot"><h3>{_TITLES[name]}</h3>{svg(made, _TEXTS[name])}</figure>'
        for name, made in drawn.items()
    )
    return f'<div class="plots">{figures}</div><p class="flow">{" ".join(_TEXTS[name] for name in drawn)}</p>'


def _images(run: Run) -> str:
    sections = "".join(case_section(i, case, run.by) for i, case in enumerate(run.examples))
    legend = f'<ul class="legend">{legend_of(run.by)}<li>True outlines are white.</li></ul>'
    return (
        '<p class="flow">Images for validation: the worst, then the best. Click a picture to see it large; hold '
        f"<b>Truth</b> to compare.</p>{legend}{sections}"
    )


def _data(run: Run) -> str:
    about = run.about
    facts = [("data", run.data or str(about.get("data", ""))), ("device", str(about.get("device", "")))]
    facts += [("started", str(about.get("started", ""))), ("folder", run.folder)]
    parts = [facts_list([(name, text) for name, text in facts if text])]
    for title, key in (("Warnings", "warnings"), ("Notes", "notes")):
        lines = about.get(key)
        if isinstance(lines, (list, tuple)) and lines:
            items = "".join(f"<li>{escape(str(line))}</li>" for line in lines)
            parts.append(f"<h3>{title}</h3><ul>{items}</ul>")
    versions = about.get("versions")
    if isinstance(versions, Mapping) and versions:
        parts.append(f"<h3>Versions</h3>{facts_list([(str(k), str(v)) for k, v in versions.items()])}")
    return "".join(parts)


def _settings(run: Run) -> str:
    rows = [[key, setting_text(value)] for key, value in sorted((run.settings or run.config).items())]
    kind = "Every setting, defaults filled in" if run.settings else "The settings of the config"
    listed = f"<details><summary>{kind}</summary>{table(['setting', 'value'], rows, words=2)}</details>" if rows else ""
    text = f'<details open><summary>The config</summary><pre tabindex="0">{escape(run.text)}</pre></details>'
    return (text if run.text else "") + listed or "<p>The config is not there.</p>"


def setting_text(value: Any) -> str:
    """Return a setting as a page shows it, in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting_text(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(setting_text, value)) or "none"
    if value is None or value == "":
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Return a table in HTML that scrolls sideways where it is wide; the first `words` columns are texts."""
    looks = [' class="word"' if i < words else "" for i in range(len(head))]
    top = "".join(f'<th scope="col"{look}>{escape(name)}</th>' for name, look in zip(head, looks, strict=True))
    lines = []
    for row in rows:
        cells = [f"<td{look}>{escape(cell)}</td>" for cell, look in zip(row, looks, strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="rows" tabindex="0" role="region" aria-label="Table"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts_list(facts: Sequence[tuple[str, str]]) -> str:
    """Return names and texts as a list in HTML."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts)
    return f"<dl>{rows}</dl>" if rows else ""


def score_text(value: float) -> str:
    """Return a score as pages and tables show it."""
    return "none" if math.isnan(value) else f"{value:.4f}"


def interval(score: Score) -> str:
    """Return the interval of a score in words, empty where it has none."""
    known = not math.isnan(score.low) and not math.isnan(score.high)
    return f"{score.low:.4f} to {score.high:.4f}" if known else ""


def time_text(seconds: float) -> str:
    """Return a duration in its two largest units, empty where it is not known."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _named(key: str, score: Score) -> str:
    if key == "baseline" and score.recipe:
        return f"baseline {score.recipe}"
    return _NAMES.get(key, f"in {key}")


RUN_CSS = """
.film .word a{width:auto;padding:.25rem .7rem;font-size:.875rem}
.film .word span{display:block}
.film ol{align-items:center}
.part{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.25rem;margin:0 0 1.25rem;
scroll-margin-top:5rem}
.part .case{padding:1rem 0;border:0;border-top:1px solid var(--line);border-radius:0;margin:0}
h3{font-size:.9375rem;margin:.75rem 0 .35rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem 1.5rem;
align-items:start;margin:.75rem 0}
.plot{min-width:0}
.plot svg{display:block;width:100%;height:auto;max-width:44rem}
.plot .swatch,.names .swatch,.rows .swatch{display:inline-block;width:2.25rem;height:.75rem;margin-right:.45rem;
vertical-align:middle}
.names{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.25rem;margin:.5rem 0;padding:0;font-size:.8125rem}
.names li{overflow-wrap:anywhere}
.rows td.word{white-space:normal;overflow-wrap:break-word;max-width:28rem}
.rows td.word:first-child{overflow-wrap:anywhere;min-width:6.5rem}
details .rows{max-height:32rem;overflow:auto}
.facts{margin-bottom:.75rem}
.part .note{margin:.75rem 0}
details{margin:0 0 .75rem}
summary{cursor:pointer;font-weight:600;padding:.25rem 0}
pre{margin:.35rem 0;padding:.75rem 1rem;background:var(--tint);border-radius:8px;overflow-x:auto;
font:.8125rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
ul{margin:.25rem 0 .75rem;padding-left:1.25rem}
.legend{padding-left:0}
"""
