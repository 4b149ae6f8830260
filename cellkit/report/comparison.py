"""One self-contained HTML page, and one picture, of several trainings side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cellkit.report.bars import bars_of, columns_of, draw_bars, draw_folds, row_height, score_bars, scores_by
from cellkit.report.curves import laid_over
from cellkit.report.plots import figure, head, palette_css, svg, swatch
from cellkit.report.runpage import RUN_CSS, facts_list, interval, score_text, setting_text, table, time_text
from cellkit.report.runs import Run, differing, groups, labels, spread
from cellkit.report.style import CSS, PAGE, SCRIPT

__all__ = [
    "apart",
    "columns_by",
    "comparison_page",
    "curves_section",
    "picture_of",
    "plain_of",
    "rows_of",
    "settings_section",
    "settings_table",
]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TITLES = {"score": "Score on validation images", "loss": "Loss"}
_SIDE_BY_SIDE = 6
Broken = Sequence[tuple[str, str]]


def comparison_page(runs: Sequence[Run], broken: Broken = ()) -> str:
    """Return an HTML page, complete in itself, of `runs` side by side, and of what could not be read and why.

    Of one training in folds, the page is of its folds: their spread, and the curves of each.
    """
    alone = len(runs) == 1 and bool(runs[0].folds)
    shown = list(runs[0].folds) if alone else list(runs)
    names = [fold.name for fold in shown] if alone else labels(shown)
    sections = [("runs", "Folds" if alone else "Runs", _table(shown, names, broken, alone))]
    if alone:
        sections.insert(0, ("spread", "Spread", _spread(list(runs), [runs[0].name])))
    else:
        sections.append(("scores", "Scores", _scores(shown, names)))
    sections.append(("curves", "Curves", curves_section(shown, names)))
    if not alone:
        sections.append(("settings", "What differs", settings_section(shown, names)))
    folded = [(run, name) for run, name in zip(shown, names, strict=True) if run.folds]
    if folded:
        sections.append(("spread", "Folds", _spread([run for run, _ in folded], [name for _, name in folded])))
    links = "".join(f'<li class="word"><a href="#{key}"><span>{name}</span></a></li>' for key, name, _ in sections)
    cards = "".join(f'<section class="part" id="{key}" aria-label="{name}"><h2>{name}</h2>{body}</section>'
                    for key, name, body in sections)  # fmt: skip
    title = runs[0].name if len(runs) == 1 else f"{len(runs):,} trainings compared"
    best = [run for run in shown if not math.isnan(run.score.value)]
    facts = f"{len(shown):,} {'fold' if alone else 'run'}{'s' * (len(shown) != 1)}, {len(best):,} with a score"
    words = {"item": "picture", "items": "Parts of the page", "compare": "Truth", "help": ""}
    return PAGE.format(title=escape(title), css=CSS + palette_css() + RUN_CSS, script=SCRIPT, body="",
                       facts=escape(facts), film=links, cards=cards, **words)  # fmt: skip


def rows_of(runs: Sequence[Run], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of `runs`: what is known of them, and how they score."""
    head_row = ["run", "state", "architecture", "parameters", "epochs", "time", "best epoch", "score", "interval",
                "images", "baseline"]  # fmt: skip
    rows = []
    for run, name in zip(runs, names, strict=True):
        epochs = f"{run.epochs:,}"
        if run.planned is not None and run.planned != run.epochs:
            epochs += f" of {run.planned:,}"
        score, baseline = run.score, run.baseline
        span = interval(score)
        if run.folds and not math.isnan(score.low):
            span = f"± {score.high - score.value:.4f} (sd)"
        rows.append([
            name, run.state, run.architecture, f"{run.parameters:,}" if run.parameters else "", epochs,
            time_text(run.seconds), "" if run.best_epoch is None else f"{run.best_epoch:,}", score_text(score.value),
            span, f"{score.images:,}" if score.images else "",
            "" if baseline is None else score_text(baseline.value),
        ])  # fmt: skip
    kept = [i for i in range(len(head_row)) if any(row[i] for row in rows)]
    return [head_row[i] for i in kept], [[row[i] for i in kept] for row in rows]


def columns_by(runs: Sequence[Run], names: Sequence[str], column: str) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of the scores of `runs` by the values of `column`."""
    kinds = sorted({kind for run in runs for kind in run.score.by.get(column, {})})
    rows = []
    for run, name in zip(runs, names, strict=True):
        parts = run.score.by.get(column)
        if parts:
            rows.append([name, *(score_text(parts[kind].value) if kind in parts else "" for kind in kinds)])
    return ["run", *kinds], rows


def apart(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return why the scores of `runs` cannot all be compared, a line for each group; empty where they can."""
    found = groups(runs)
    if len(found) < 2:
        return []
    known = dict(zip(map(id, runs), names, strict=True))
    lines = []
    for letter, group in zip(_letters(len(found)), found, strict=True):
        score = group[0].score
        images = f"{score.images:,} images" if score.images else "images that are not recorded"
        which = f" ({score.digest[:8]})" if score.digest and not group[0].folds else ""
        unknown = "" if score.digest else ", which ones is not recorded"
        rule = f"; {score.rule}" if len({one[0].score.rule for one in found}) > 1 else ""
        folds = f" in {len(group[0].folds)} folds" if group[0].folds else ""
        who = ", ".join(known[id(run)] for run in group)
        lines.append(f"{letter}: {who}: {score.name or 'score'} on {images}{which}{unknown}{folds}{rule}")
    return lines


def _letters(count: int) -> list[str]:
    return [_LETTERS[i] if i < len(_LETTERS) else str(i + 1) for i in range(count)]


def picture_of(runs: Sequence[Run]) -> Any:
    """Return a figure of the scores of `runs` as bars, those that can be compared together; of one in folds, these."""
    if len(runs) == 1 and runs[0].folds:
        return draw_folds(runs, [runs[0].name])
    known = dict(zip(map(id, runs), labels(runs), strict=True))
    found = groups(runs)
    heights = [row_height(len(group)) for group in found] or [1.4]
    made = figure(7.2, sum(heights))
    axes = made.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, group, letter in zip(axes, found, _letters(len(found)), strict=False):
        draw_bars(ax, bars_of(group, [known[id(run)] for run in group]))
        if len(found) > 1:
            head(ax, f"{letter}: not to be compared with the others")
    if not found:
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, "no run has a score yet", ha="center")
    return made


def _table(runs: Sequence[Run], names: Sequence[str], broken: Broken, alone: bool) -> str:
    head_row, rows = rows_of(runs, names)
    parts = []
    lines = [] if alone else apart(runs, names)
    if lines:
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f'<div class="note"><b>These scores cannot all be compared</b><ul>{items}</ul></div>')
    parts.append(table(head_row, rows, words=3))
    for column in columns_of(runs):
        parts.append(f"<h3>By {escape(column)}</h3>{table(*columns_by(runs, names, column))}")
    if broken:
        items = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in broken)
        parts.append(f'<div class="note"><b>Could not be read</b><ul>{items}</ul></div>')
    return "".join(parts)


def _scores(runs: Sequence[Run], names: Sequence[str]) -> str:
    known = dict(zip(map(id, runs), zip(names, range(len(runs)), strict=True), strict=True))
    parts = []
    found = groups(runs)
    for letter, group in zip(_letters(len(found)), found, strict=True):
        mine = [known[id(run)] for run in group]
        bars = bars_of(group, [name for name, _ in mine])
        said = "; ".join(f"{bar.name} {score_text(bar.score.value)}" for bar in bars)
        drawn = f'<figure class="plot">{svg(score_bars(bars), f"Scores as bars: {said}")}</figure>'
        by = "".join(
            f'<figure class="plot">{svg(scores_by(bars, column, looks=[i for _, i in mine], below=False), f"Scores by {column}")}'  # noqa: E501
            f"{_legend(*_having(group, mine, column))}</figure>"
            for column in columns_of(group)
        )
        title = f"<h3>{letter}: {escape(group[0].score.name)}</h3>" if len(found) > 1 else ""
        parts.append(f'{title}<div class="plots">{drawn}{by}</div>')
        parts.append(f'<p class="flow">{escape(group[0].score.rule)}</p>' if group[0].score.rule else "")
    return ("".join(parts) + _KEY) if parts else "<p>No run has a score yet.</p>"


def _having(runs: Sequence[Run], known: Sequence[tuple[str, int]], column: str) -> tuple[list[str], list[int]]:
    """Return names and places of those runs that have scores by `column`."""
    kept = [one for run, one in zip(runs, known, strict=True) if column in run.score.by]
    return [name for name, _ in kept], [place for _, place in kept]


_KEY = """<p class="flow">Bars: the score and its 95 % interval (of folds: mean ± 1 sd, a dot for each fold); hatched
where a run is not finished; a diamond is the baseline.</p>"""


def curves_section(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Return the curves of `runs` laid over one another, in HTML."""
    figures = []
    for column, title in _TITLES.items():
        if any(_any(run, column) for run in runs):
            said = f"{title} over epochs of {', '.join(names)}"
            drawn = svg(laid_over(runs, names, column, below=False), said)
            figures.append(f'<figure class="plot"><h3>{title}</h3>{drawn}</figure>')
    if not figures:
        return "<p>No epoch is done yet.</p>"
    note = '<p class="flow">Of folds: the mean, in a band from the least to the largest.</p>'
    folds = note if any(run.folds for run in runs) else ""
    return f'{_legend(names, range(len(names)))}<div class="plots">{"".join(figures)}</div>{folds}'


def _any(run: Run, column: str) -> bool:
    return any(any(map(math.isfinite, one.log.get(column, ()))) for one in (run.folds or (run,)))


def _legend(names: Sequence[str], looks: Sequence[int]) -> str:
    items = "".join(f"<li>{swatch(i)}{escape(name)}</li>" for name, i in zip(names, looks, strict=True))
    return f'<ul class="names">{items}</ul>'


def settings_section(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Return a table in HTML of the settings in which `runs` differ."""
    found = differing(runs)
    if not found:
        return "<p>Nothing in their settings differs.</p>" if len(runs) > 1 else "<p>There is one run.</p>"
    head_row, rows = settings_table(found, names)
    return table(head_row, rows, words=len(head_row))


def settings_table(found: Mapping[str, Sequence[Any]], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of what `cellkit.report.runs.differing` found.

    A column for each run, or, where that would be too many, a row for each value with the runs that have it.
    """
    if len(names) <= _SIDE_BY_SIDE:
        return ["setting", *names], [[key, *map(setting_text, values)] for key, values in found.items()]
    rows = []
    for key, values in found.items():
        texts = list(map(setting_text, values))
        for place, text in enumerate(dict.fromkeys(texts)):
            having = [name for name, one in zip(names, texts, strict=True) if one == text]
            rows.append([key if place == 0 else "", text, ", ".join(having)])
    return ["setting", "value", "runs"], rows


def _spread(runs: Sequence[Run], names: Sequence[str]) -> str:
    parts = []
    for run, name in zip(runs, names, strict=True):
        found = spread(fold.score.value for fold in run.folds)
        facts = [("folds", f"{found.folds:,} of {max(run.asked, len(run.folds) + len(run.faults)):,} with a score"),
                 ("mean", score_text(found.mean)), ("variance", _small(found.variance)),
                 ("standard deviation", score_text(found.deviation)),
                 ("least to largest", f"{score_text(found.least)} to {score_text(found.most)}")]  # fmt: skip
        if "ensemble" in run.figures:
            whole = run.figures["ensemble"]
            text = f"{score_text(whole.value)} ({interval(whole)}) on {whole.images:,} images"
            facts.append(("all models together, on images held back", text.replace(" ()", "")))
        parts.append((f"<h3>{escape(name)}</h3>" if len(runs) > 1 else "") + facts_list(facts))
    said = "Scores of folds: " + "; ".join(f"{name} {score_text(run.score.value)}" for run, name in zip(runs, names, strict=True))  # fmt: skip # noqa: E501
    return (
        f'{"".join(parts)}<div class="plots"><figure class="plot">{svg(draw_folds(runs, names), said)}</figure></div>'
    )


def _small(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3g}"


def plain_of(run: Run, name: str) -> Mapping[str, Any]:
    """Return what is known of a run as plain data for JSON."""
    score, found = run.score, spread(fold.score.value for fold in run.folds)
    data: dict[str, Any] = {
        "name": name,
        "folder": run.folder,
        "state": run.state,
        "architecture": run.architecture or None,
        "parameters": run.parameters,
        "epochs": run.epochs,
        "planned": run.planned,
        "seconds": _known(run.seconds),
        "best_epoch": run.best_epoch,
        "figures": {key: _figures(one) for key, one in run.figures.items()},
    }
    if run.folds:
        data["figures"] |= {"model": _figures(score)}
        if run.baseline is not None:
            data["figures"]["baseline"] = _figures(run.baseline)
        data["spread"] = {
            "folds": found.folds, "mean": _known(found.mean), "variance": _known(found.variance),
            "deviation": _known(found.deviation), "least": _known(found.least), "most": _known(found.most),
        }  # fmt: skip
        data["folds"] = [plain_of(fold, fold.name) for fold in run.folds]
    return data


def _figures(score: Any) -> dict[str, Any]:
    values = {name: _known(getattr(score, name)) for name in ("value", "low", "high")}
    found = {"score": score.name, **values, "images": score.images, "rule": score.rule, "digest": score.digest}
    if score.recipe:
        found["recipe"] = score.recipe
    for column, parts in score.by.items():
        found[f"by_{column}"] = {
            kind: {**{name: _known(getattr(part, name)) for name in ("value", "low", "high")}, "images": part.images}
            for kind, part in parts.items()
        }
    return found


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
