"""A slider on the page of `explain`: the pictures of all steps behind a parameter, over a range of its values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cellkit.report.explain import Frame, Trace

__all__ = ["SWEEP_CSS", "SWEEP_SCRIPT", "Sweep", "counted", "panels", "payload"]

_WIDE, _TALL = 400, 90


@dataclass
class Sweep:
    """The values of one parameter, ``step.param``, as text; the recipe's own stands at `own`.

    Of each value the `counts` of objects (None where there are none to count), the `frames` of the steps behind by
    their number on the page, and its fault where it failed. Pictures that come again are held once; `size`
    is their bytes. `card`: the number of the step on the page.
    """

    target: str
    unit: str
    values: tuple[str, ...]
    own: int
    counts: list[int | None] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    frames: list[dict[int, dict[str, Any]]] = field(default_factory=list)
    pictures: dict[str, int] = field(default_factory=dict)
    card: int = 0
    size: int = 0

    def add(self, frames: Mapping[int, Frame], count: int | None) -> None:
        """Take in what the next value makes."""
        found = {}
        for number, frame in frames.items():
            named = {label: self._place(uri) for label, uri in frame.pictures.items()}
            found[number] = {"p": named, "f": frame.facts}
        self.frames.append(found)
        self.counts.append(count)
        self.faults.append("")

    def failed(self, reason: str) -> None:
        """Take note that the next value failed."""
        self.frames.append({})
        self.counts.append(None)
        self.faults.append(reason)

    def _place(self, uri: str) -> int:
        if uri not in self.pictures:
            self.pictures[uri] = len(self.pictures)
            self.size += len(uri)
        return self.pictures[uri]


def counted(traces: Sequence[Trace]) -> int | None:
    """Return the objects of the last layer that holds some, of seeds only where there is no other; else None."""
    kinds = ("labels", "boxes", "instances")
    holding = [trace for trace in traces if trace.kind is not None and trace.kind.name in kinds]
    last = [trace for trace in holding if trace.output != "seeds"] or holding
    if not last:
        return None
    value = last[-1].value
    return int(np.count_nonzero(np.unique(value))) if isinstance(value, np.ndarray) else len(value)


def payload(sweeps: Sequence[Sweep]) -> str:
    """Return what the page's script needs, as an element of the page."""
    told = [
        {
            "target": sweep.target, "param": sweep.target.partition(".")[2], "card": sweep.card, "unit": sweep.unit,
            "values": sweep.values, "own": sweep.own, "counts": sweep.counts, "faults": sweep.faults,
            "frames": sweep.frames, "pictures": list(sweep.pictures),
        }
        for sweep in sweeps
    ]  # fmt: skip
    text = json.dumps(told, ensure_ascii=False).replace("<", "\\u003c")  # nothing in it may end the element
    return f'<script type="application/json" id="sweeps">{text}</script>'


def panels(sweeps: Sequence[Sweep], titles: Sequence[str], pictured: Sequence[int]) -> str:
    """Return a panel for each sweep; `titles` are those of the page's steps, `pictured` the steps with pictures."""
    return "".join(_panel(i, len(sweeps) > 1, sweep, titles, pictured) for i, sweep in enumerate(sweeps))


def _panel(number: int, several: bool, sweep: Sweep, titles: Sequence[str], pictured: Sequence[int]) -> str:
    last = len(sweep.values) - 1
    behind = sorted({step for frame in sweep.frames for step in frame} & set(pictured))
    tabs = "".join(
        f'<button type="button" data-step="{step}" aria-pressed="{"true" if step == behind[-1] else "false"}">'
        f"{escape(titles[step])}</button>"
        for step in behind
    )
    name = escape(sweep.target)
    more = " Moving one slider puts the others back." if several else ""
    figure = (
        f'<figure><button type="button" class="open" aria-label="Open at full size"><img alt="" width="1" height="1">'
        f'</button><figcaption><span class="tabs" role="group" aria-label="Step shown">{tabs}</span></figcaption>'
        "</figure>"
        if behind
        else ""
    )
    return (
        f'<section class="step sweep" id="sweep{number}" data-sweep="{number}" aria-label="Sweep of {name}">{figure}'
        f'<div class="text"><h2>{name}</h2><p class="flow">Drag, or use the arrow keys: the steps from here on show '
        f"what each value makes.{more}</p>"
        f'<p class="value" aria-hidden="true"><output></output></p>'
        f'<input type="range" min="0" max="{last}" step="1" value="{sweep.own}" aria-label="{name}">'
        f'<p class="ends" aria-hidden="true"><span>{escape(sweep.values[0])}</span>'
        f"<span>{escape(sweep.values[-1])}</span></p>{_chart(sweep)}"
        f'<p class="fault note" role="status" hidden></p><p class="copy"><code></code>'
        '<button type="button" class="take">Copy</button><button type="button" class="reset">As the recipe has it'
        "</button></p></div></section>"
    )


def _chart(sweep: Sweep) -> str:
    """Return the number of objects along the range as a line."""
    known = [count for count in sweep.counts if count is not None]
    if not known:
        return '<p class="flow">No step from here on makes objects to be counted.</p>'
    last, top = max(1, len(sweep.values) - 1), max(1, *known)
    points = [
        None if count is None else (_WIDE * i / last, _TALL - _TALL * count / top)
        for i, count in enumerate(sweep.counts)
    ]
    path, begun = [], False
    for point in points:
        if point is not None:
            path.append(f"{'L' if begun else 'M'}{point[0]:.1f} {point[1]:.1f}")
        begun = point is not None
    dots = "".join(f'<circle cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="2.5"/>' for p in points if p is not None)
    own = _WIDE * sweep.own / last
    text = "; ".join(f"{v}: {'failed' if c is None else c}" for v, c in zip(sweep.values, sweep.counts, strict=True))
    return (
        f'<div class="chart"><p><span>{top:,} objects</span></p>'
        f'<svg viewBox="-6 -6 {_WIDE + 12} {_TALL + 12}" preserveAspectRatio="none" role="img" '
        f'aria-label="Objects along the range: {escape(text)}"><path class="own" d="M{own:.1f} 0V{_TALL}"/>'
        f'<path class="line" d="{"".join(path)}"/>{dots}<path class="now" d="M{own:.1f} -4V{_TALL + 4}"/></svg>'
        f"<p><span>0</span><span>dashed: the recipe's own value</span></p></div>"
    )


SWEEP_CSS = """
.sweep{border-left:4px solid var(--accent)}
.sweep .value{font-size:1.5rem;font-weight:600;margin:.25rem 0 0;font-variant-numeric:tabular-nums}
.sweep .value small{font-size:1rem;font-weight:400;color:var(--soft)}
.sweep input[type=range]{width:100%;max-width:30rem;margin:.4rem 0 0;accent-color:var(--accent);height:1.5rem;
cursor:pointer}
.sweep .ends,.chart p{display:flex;justify-content:space-between;max-width:30rem;margin:0;color:var(--soft);
font-size:.75rem;font-variant-numeric:tabular-nums}
.chart{max-width:30rem;margin:.9rem 0}
.chart svg{display:block;width:100%;height:5.5rem;border-block:1px solid var(--line);cursor:pointer}
.chart path{fill:none;vector-effect:non-scaling-stroke}
.chart .line{stroke:var(--accent);stroke-width:2}
.chart circle{fill:var(--accent)}
.chart .own{stroke:var(--soft);stroke-dasharray:3 3}
.chart .now{stroke:var(--set);stroke-width:2.5}
.copy{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center;margin:0}
.copy button{border:1px solid var(--line);border-radius:7px;background:var(--tint);padding:.2rem .75rem;cursor:pointer;
font-size:.875rem}
.failed .open{opacity:.35}
.changed-by-sweep{box-shadow:0 0 0 2px var(--set)}
"""

SWEEP_SCRIPT = """
(() => {
  const sweeps = JSON.parse(document.getElementById('sweeps').textContent);
  const none = 'data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7';
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const card = number => document.getElementById(`step${number}`);
  const images = number => all('.open img:not(.was)', card(number));
  const labels = number => {
    const tabs = all('[data-view]', card(number)).map(tab => tab.textContent);
    return tabs.length ? tabs : null;
  };
  const numbers = [...new Set(sweeps.flatMap(sweep => sweep.frames.flatMap(frame => Object.keys(frame))))];
  const first = new Map(numbers.map(number => [number, {
    sources: images(number).map(image => image.src), facts: (card(number).querySelector('dl') || {}).innerHTML}]));
  const thumb = number => {
    const small = document.querySelector(`.film a[data-of=step${number}] .thumb img`);
    const now = images(number).find(image => !image.hidden);
    if (small && now) small.src = now.src;
  };
  const fill = (sweep, number, frame) => {
    const names = labels(number);
    images(number).forEach((image, i) => {
      const place = names ? frame.p[names[i]] : Object.values(frame.p)[0];
      image.src = place === undefined ? none : sweep.pictures[place];
    });
    const list = card(number).querySelector('dl');
    if (list && frame.f) list.innerHTML = frame.f;
  };
  const restore = number => {
    const was = first.get(number);
    images(number).forEach((image, i) => { image.src = was.sources[i]; });
    if (was.facts !== undefined) card(number).querySelector('dl').innerHTML = was.facts;
  };
  const panels = all('[data-sweep]');
  const mirror = panel => {
    const tab = panel.querySelector('[data-step][aria-pressed=true]');
    if (!tab) return;
    const from = images(tab.dataset.step).find(image => !image.hidden);
    const to = panel.querySelector('.open img');
    to.src = from.src;
    to.className = from.className;
    to.width = from.width;
    to.height = from.height;
    to.alt = `${tab.textContent} at ${panel.querySelector('output').textContent}`;
  };
  const say = (panel, sweep, at) => {
    const slider = panel.querySelector('input');
    const count = sweep.counts[at];
    const value = sweep.values[at] + (sweep.unit ? ` ${sweep.unit}` : '');
    const objects = count === null ? '' : `${count.toLocaleString('en')} object${count === 1 ? '' : 's'}`;
    const own = at === sweep.own ? ', as the recipe has it' : '';
    slider.value = at;
    slider.setAttribute('aria-valuetext', [value, objects].filter(Boolean).join(', ') + own);
    const small = document.createElement('small');
    small.textContent = [objects, own.slice(2)].filter(Boolean).join(', ');
    panel.querySelector('output').replaceChildren(value, objects || own ? ' ' : '', small);
    panel.querySelector('.copy code').textContent = `--set ${sweep.target}=${sweep.values[at]}`;
    const fault = panel.querySelector('.fault');
    fault.hidden = !sweep.faults[at];
    fault.textContent = sweep.faults[at];
    panel.classList.toggle('failed', Boolean(sweep.faults[at]));
    const now = panel.querySelector('.now');
    const step = 400 / Math.max(1, sweep.values.length - 1);
    if (now) now.setAttribute('transform', `translate(${(at - sweep.own) * step})`);
    const row = all('.params tr', card(sweep.card)).find(one => one.querySelector('th').textContent === sweep.param);
    if (row) row.querySelector('td').textContent = value;
  };
  const show = (which, at) => {
    const sweep = sweeps[which];
    const frame = at === sweep.own ? {} : sweep.frames[at];
    numbers.forEach(number => {
      if (frame[number]) fill(sweep, number, frame[number]); else restore(number);
      card(number).classList.toggle('changed-by-sweep', Boolean(frame[number]));
      thumb(number);
    });
    panels.forEach((panel, i) => { say(panel, sweeps[i], i === which ? at : sweeps[i].own); });
    panels.forEach(mirror);
  };
  panels.forEach((panel, which) => {
    const sweep = sweeps[which];
    const slider = panel.querySelector('input');
    slider.addEventListener('input', () => show(which, Number(slider.value)));
    all('[data-step]', panel).forEach((tab, _, tabs) => tab.addEventListener('click', () => {
      tabs.forEach(other => other.setAttribute('aria-pressed', other === tab));
      mirror(panel);
    }));
    panel.querySelector('.reset').addEventListener('click', () => show(which, sweep.own));
    const take = panel.querySelector('.take');
    take.addEventListener('click', () => {
      const code = panel.querySelector('.copy code');
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      const done = () => { take.textContent = 'Copied'; setTimeout(() => { take.textContent = 'Copy'; }, 1500); };
      if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, () => {});
      else if (document.execCommand('copy')) done();
    });
    const chart = panel.querySelector('.chart svg');
    if (chart) chart.addEventListener('click', event => {
      const box = chart.getBoundingClientRect();
      const share = ((event.clientX - box.left) / box.width * 412 - 6) / 400;
      show(which, Math.round(Math.min(1, Math.max(0, share)) * (sweep.values.length - 1)));
    });
  });
  if (panels.length) show(0, sweeps[0].own);
})();
"""
