"""One self-contained HTML page that shows what every step of a recipe did to an image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from cellkit.core import registry
from cellkit.core.kinds import Kind
from cellkit.core.stage import StageSpec
from cellkit.report.style import CSS, PAGE, SCRIPT
from cellkit.report.sweep import SWEEP_CSS, SWEEP_SCRIPT, Sweep, panels, payload
from cellkit.report.views import Base, View, data_uri, facts, spread, views

__all__ = ["Frame", "Trace", "explain_page", "frames"]

_CODE = re.compile(r"`([^`]+)`")
_ROWS, _COLUMNS, _LETTERS = 8, 40, 64


@dataclass(frozen=True, eq=False)
class Trace:
    """What one step did.

    `title` as the page shows it ("3 otsu"); `stage` its name in the registry, empty for the image as read; `summary`
    one sentence; `params` every parameter by name; `inputs` argument to layer name; `output` the layer written, with
    its `kind`, `value` and the `names` of its channels or classes. A bracket has kind and value None, and the steps in
    it follow with a larger `depth`. `note` is one more thing to know, `where` its place in
    the recipe.
    """

    title: str
    stage: str
    summary: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    output: str
    kind: Kind | None
    value: Any
    seconds: float
    depth: int = 0
    note: str = ""
    names: tuple[str, ...] = field(default=())
    where: str = ""


@dataclass(frozen=True)
class Frame:
    """What a card shows at another value of a parameter: pictures as ``data:`` addresses by view, and its facts."""

    pictures: Mapping[str, str]
    facts: str


def explain_page(traces: Sequence[Trace], *, title: str, sweeps: Sequence[Sweep] = ()) -> str:
    """Return an HTML page, complete in itself, of `traces` in the order of the steps, the image as read first.

    Pictures of layers over 1024 px are made smaller. Objects are drawn on the first image; inside a bracket, where the
    frame is another, on the newest image of the same size. `sweeps`: parameters that get a slider.
    """
    cards, film, pictured = [], [], []
    base: Base | None = None
    for number, (trace, layer_base, before) in enumerate(_framed(traces)):
        shown = _views(trace, layer_base)
        if base is None and trace.kind is not None and trace.kind.name == "image":
            base = layer_base
            first = number
        cards.append(_card(number, trace, shown, before, traces))
        film.append(_frame(number, trace, shown))
        pictured += [number] if shown else []
    total = sum(trace.seconds for trace in traces if trace.depth == 0)
    size = "" if base is None else f"{base.shape[1]:,} × {base.shape[0]:,} px · "
    steps = sum(1 for trace in traces if trace.stage)
    facts_line = f"{size}{steps} step{'s' if steps != 1 else ''} · {_time(total)}"
    at = "" if base is None else f' data-base="step{first}"'
    slots = {"title": escape(title), "facts": facts_line, "film": "".join(film), "cards": "".join(cards)}
    words = {"item": "step", "items": "Steps", "compare": "Before", "help": _HELP}
    css, script = CSS, SCRIPT
    if sweeps:
        slots["cards"] = panels(sweeps, [trace.title for trace in traces], pictured) + slots["cards"]
        slots["cards"] += payload(sweeps)
        css, script = CSS + SWEEP_CSS, SCRIPT + SWEEP_SCRIPT
    return PAGE.format(css=css, script=script, body=at, **slots, **words)


def frames(traces: Sequence[Trace], first: int) -> dict[int, Frame]:
    """Return what the cards of all steps from the number `first` on would show, by number; brackets show nothing."""
    found = {}
    for number, (trace, base, _) in enumerate(_framed(traces)):
        if number >= first and trace.kind is not None:
            # Smooth pictures are many bytes as PNG; contours and masks few.
            lossy = trace.kind.name in ("image", "prob", "field")
            pictures = {view.label: data_uri(view.picture, lossy=lossy) for view in _views(trace, base)}
            found[number] = Frame(pictures, _fact_rows(trace))
    return found


_HELP = """<p class="help">Click a picture to see it large. Hold <b>Before</b> to see what the step started from.
With a picture open: <kbd>←</kbd> <kbd>→</kbd> step through, hold <kbd>B</kbd> for before, <kbd>Z</kbd> zooms.</p>"""


def _framed(traces: Sequence[Trace]) -> Iterator[tuple[Trace, Base | None, int | None]]:
    """Yield each trace with the image its objects lie on, and the number of the trace it started from."""
    bases: dict[tuple[int, ...], Base] = {}
    written: dict[str, int] = {}
    shared: tuple[int, ...] | None = None
    for number, trace in enumerate(traces):
        if trace.kind is not None and trace.kind.name == "image":
            shape = trace.value.shape[:2]
            if shared is None:
                shared = shape
            # The frame of the page keeps its first image: what was read, not what a step made of it.
            if shape not in bases or shape != shared:
                bases[shape] = Base.of(trace.value, trace.names, shape == shared)
        base = bases.get(trace.value.shape[:2]) if isinstance(trace.value, np.ndarray) else None
        if base is None and shared is not None and trace.kind is not None and not isinstance(trace.value, np.ndarray):
            base = bases[shared]
        read = [written[name] for name in trace.inputs.values() if name in written]
        before = read[0] if read else (0 if trace.inputs and number else None)
        if before is not None and not _one_frame(trace.value, traces[before].value):
            before = None
        yield trace, base, before
        if trace.kind is not None and trace.output:
            written[trace.output] = number
            if not number:
                written.setdefault("image", number)


def _one_frame(one: Any, other: Any) -> bool:
    """Return whether two layers can be compared place by place."""
    both = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return not both or one.shape[:2] == other.shape[:2]


def _views(trace: Trace, base: Base | None) -> list[View]:
    return [] if trace.kind is None else views(trace.kind, trace.value, trace.names, base)


def _frame(number: int, trace: Trace, shown: Sequence[View]) -> str:
    kind = "bracket" if trace.kind is None else trace.kind.name
    return (
        f'<li class="depth{min(trace.depth, 3)}"><a href="#step{number}" data-of="step{number}">'
        f'<span class="thumb {"" if shown else "none"}" aria-hidden="true">{"" if shown else escape(kind)}</span>'
        f"<span>{escape(trace.title)}</span></a></li>"
    )


def _card(number: int, trace: Trace, shown: Sequence[View], before: int | None, traces: Sequence[Trace]) -> str:
    total = sum(t.seconds for t in traces if t.depth == 0)
    spec = registry.stages().get(trace.stage)
    summary = _CODE.sub(r"<code>\1</code>", escape(trace.summary))
    parts = [f"<h2>{escape(trace.title)}</h2>", f'<p class="summary">{summary}</p>']
    if trace.note:
        parts.append(f'<p class="note">{escape(trace.note)}</p>')
    parts += [_flow(trace, spec), _params(trace, spec), _facts(trace), _spread(trace), _seconds(trace.seconds, total)]
    title = "" if before is None else traces[before].title
    picture = _figure(trace, shown, before, title)
    table = _table(trace.value) if trace.kind is not None and trace.kind.name == "table" else ""
    look = "step bracket" if trace.kind is None else "step" if picture else "step plain"
    return (
        f'<section class="{look} depth{min(trace.depth, 3)}" id="step{number}" aria-label="{escape(trace.title)}">'
        f'{picture}<div class="text">{"".join(parts)}</div>{table}</section>'
    )


def _figure(trace: Trace, shown: Sequence[View], before: int | None, before_title: str) -> str:
    if not shown:
        return ""
    pictures, scales = [], []
    for i, view in enumerate(shown):
        height, width = view.picture.shape[:2]
        look = ["on-base"] if view.picture.ndim == 3 and view.picture.shape[2] == 4 else []
        look += ["coarse"] if max(height, width) <= 400 else []
        hidden = "" if i == 0 else " hidden"
        pictures.append(
            f'<img src="{data_uri(view.picture)}" width="{width}" height="{height}" class="{" ".join(look)}"'
            f' alt="{escape(f"{trace.title}: {view.text}")}"{hidden}>'
        )
        scales.append(_scale(view, bool(hidden)))
    tabs = "".join(
        f'<button type="button" data-view="{i}" aria-pressed="{"false" if i else "true"}">{escape(view.label)}</button>'
        for i, view in enumerate(shown)
    )
    tabs = f'<span class="tabs" role="group" aria-label="Views">{tabs}</span>' if len(shown) > 1 else ""
    hold = ""
    if before is not None:
        label = escape(f"Hold to see {before_title}, which this step started from")
        hold = f'<button type="button" class="before" data-before="step{before}" aria-label="{label}">Before</button>'
    legend = "".join(scales) if any(view.scale for view in shown) else ""
    caption = f"<figcaption>{tabs}{legend}{hold}</figcaption>" if tabs or legend or hold else ""
    name = escape(f"Open {trace.title} at full size")
    return (
        f'<figure><button type="button" class="open" aria-label="{name}">{"".join(pictures)}</button>{caption}</figure>'
    )


def _scale(view: View, hidden: bool) -> str:
    off = " hidden" if hidden else ""
    if view.scale is None:
        return f'<span class="scale"{off}></span>'
    tones, low, high = (escape(part) for part in view.scale)
    return f'<span class="scale"{off}>{low}<i class="{tones}" aria-hidden="true"></i>{high}</span>'


def _flow(trace: Trace, spec: StageSpec | None) -> str:
    if not trace.stage or not (trace.inputs or trace.output):
        return ""
    measured = {a.name for a in spec.arguments if a.kinds[0].name == "histogram"} if spec is not None else set()
    reads = ", ".join(
        f"the histogram of <code>{escape(layer)}</code>"
        if name in measured
        else f"<code>{escape(layer)}</code>" + (f" as {escape(name)}" if name != layer else "")
        for name, layer in trace.inputs.items()
    )
    kind = "" if trace.kind is None or trace.kind.name == trace.output else f" ({escape(str(trace.kind))})"
    writes = f"writes <code>{escape(trace.output)}</code>{kind}" if trace.output else ""
    return f'<p class="flow">{"; ".join(filter(None, [f"reads {reads}" if reads else "", writes]))}</p>'


def _params(trace: Trace, spec: StageSpec | None) -> str:
    if not trace.params:
        return ""
    rows = []
    for name, value in trace.params.items():
        known = spec.parameters.get(name) if spec is not None else None
        unit = known.span.unit if known is not None and known.span is not None else ""
        is_set = known is not None and value != known.default
        origin = "" if known is None else "set" if is_set else "default"
        unit = f' <span class="unit">{escape(unit)}</span>' if unit else ""
        mark = f'<td class="{origin}">{origin}</td>'
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td>{escape(_value(value))}{unit}</td>{mark}</tr>')
    return f'<table class="params"><caption>Parameters</caption><tbody>{"".join(rows)}</tbody></table>'


def _facts(trace: Trace) -> str:
    if trace.kind is None:
        return ""
    rows = _fact_rows(trace)
    return f"<dl>{rows}</dl>" if rows else ""


def _fact_rows(trace: Trace) -> str:
    found = [] if trace.kind is None else facts(trace.kind, trace.value)
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in found)


def _spread(trace: Trace) -> str:
    found = None if trace.kind is None else spread(trace.kind, trace.value)
    if found is None:
        return ""
    counts, low, high = found
    # Square roots keep a small population of bright pixels visible beside a large background.
    heights = np.sqrt(counts / counts.max()) * 100
    bars = "".join(
        f'<rect x="{i}" y="{100 - h:.1f}" width=".9" height="{h:.1f}"/>' for i, h in enumerate(heights) if h >= 0.05
    )
    return (
        '<div class="spread"><svg viewBox="0 0 64 100" preserveAspectRatio="none" role="img" '
        f'aria-label="How often values occur, from smallest to largest">{bars}</svg>'
        f"<p><span>{escape(low)}</span><span>values</span><span>{escape(high)}</span></p></div>"
    )


def _seconds(seconds: float, total: float) -> str:
    if not seconds:
        return ""
    share = min(1.0, seconds / total) if total else 0.0
    return (
        f'<p class="time"><span>{_time(seconds)}</span>'
        f'<i aria-hidden="true"><b style="width:{100 * share:.1f}%"></b></i>'
        f"<span>{'under 1' if share < 0.01 else f'{100 * share:.0f}'} % of the run</span></p>"
    )


def _table(frame: Any) -> str:
    columns = list(frame.columns)[:_COLUMNS]
    shown = list(frame[columns].head(_ROWS).itertuples(index=False, name=None))
    looks = [' class="word"' if isinstance(value, str) else "" for value in (shown[0] if shown else columns)]
    head = "".join(f'<th scope="col"{w}>{escape(str(n))}</th>' for n, w in zip(columns, looks, strict=True))
    rows = [
        "<tr>" + "".join(f"<td{w}>{escape(_value(v))}</td>" for v, w in zip(row, looks, strict=True)) + "</tr>"
        for row in shown
    ]
    left = len(frame) - len(rows)
    more = f"<p>and {left:,} more row{'s' if left != 1 else ''}</p>" if left > 0 else ""
    return (
        f'<div class="rows" tabindex="0" role="region" aria-label="First rows"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{more}</div>"
    )


def _value(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else f"{value:.5g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_value, value))
    text = str(value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"
