"""The page of a run over many images: what came out, picture by picture and object by object."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from cellkit.report.palette import BRIGHT, STRONG
from cellkit.report.runpage import RUN_CSS, facts_list, table, time_text
from cellkit.report.style import CSS, THEMES

__all__ = ["RunReport", "bundled", "report_page"]

_ORDERS = (
    ("place", "as in the run"), ("name", "name"), ("most objects", "most objects"),
    ("fewest objects", "fewest objects"), ("most brushed", "most brushed"),
    ("least sharp", "out of focus first"), ("most saturated", "most saturated"),
    ("largest image", "largest"), ("slowest", "slowest"),
)  # fmt: skip
_MOST_LISTED = 500


@dataclass(frozen=True)
class RunReport:
    """What the page shows.

    `entries`: an image each, as the page's script reads them; `sets`: the tables, whose columns are files; `account`:
    the run's run.json, empty while it is not finished; `recipe`: its text. `inside`: every picture and file of data by
    name, to be part of the page; None where they lie in the folder ``report`` beside it.
    """

    title: str
    entries: Sequence[Mapping[str, Any]]
    sets: Sequence[Mapping[str, Any]] = ()
    account: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    notes: Sequence[str] = ()
    running: bool = False
    inside: Mapping[str, str] | None = None


@cache
def bundled(name: str) -> str:
    """Return a file of the bundle that `npm run build` in ``web`` makes: ``report.js`` or ``report.css``."""
    return files("cellkit.report").joinpath("bundle").joinpath(name).read_text(encoding="utf-8")


def report_page(report: RunReport) -> str:
    """Return the page as HTML.

    It runs one script, which its Content-Security-Policy names by digest, beside those of the folder it lies in. The
    mark on its style tells OpenSeadragon, which would add a style that the policy forbids, that it is there. What
    comes from outside (names, reasons, notes) is escaped, and the script writes it as text only.
    """
    sections = [("summary", "Summary", _summary(report)), ("images", "Images", _images(report))]
    if report.sets:
        sections.append(("measurements", "Measurements", _measurements(report)))
    seams = _seams(report.entries)
    if seams:
        sections.append(("seams", "Seams", seams))
    sections.append(("run", "Run", _run(report)))
    links = "".join(f'<li class="word"><a href="#{key}"><span>{name}</span></a></li>' for key, name, _ in sections)
    cards = "".join(
        f'<section class="part" id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{name}</h2>'
        f"{body}</section>"
        for key, name, body in sections
    )
    script = bundled("report.js")
    css = "\n".join([CSS, RUN_CSS, THEMES, bundled("report.css")])
    return _PAGE.format(
        title=escape(report.title), facts=escape(_facts(report)), links=links, cards=cards, css=css, script=script,
        policy=_policy(script, css, report.inside is None), data=_blocks(report),
    )  # fmt: skip


def _policy(script: str, css: str, beside: bool) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (script, css)]
    own = " 'self'" if beside else ""
    return (
        f"default-src 'none'; img-src data: blob:{own}; style-src 'sha256-{digests[1]}'; "
        f"script-src 'sha256-{digests[0]}'{own}; base-uri 'none'; form-action 'none'"
    )


def _blocks(report: RunReport) -> str:
    known = {
        "images": list(report.entries), "sets": list(report.sets), "palettes": [BRIGHT.tolist(), STRONG.tolist()],
    }  # fmt: skip
    blocks = [f'<script type="application/json" id="data">{_json(known)}</script>']
    for name, text in (report.inside or {}).items():
        if not name.startswith("thumbs/"):
            kind = "text/plain" if text.startswith("data:") else "application/json"
            blocks.append(f'<script type="{kind}" data-file="{escape(name)}">{_inert(text)}</script>')
    return "\n".join(blocks)


def _json(value: Any) -> str:
    return _inert(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).replace("NaN", "null"))


def _inert(text: str) -> str:
    """Return JSON in which nothing can end its element."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _facts(report: RunReport) -> str:
    counts = Counter(str(entry["status"]) for entry in report.entries)
    parts = [f"{len(report.entries):,} images"]
    parts += [f"{counts[key]:,} {key}" for key in ("failed", "waiting") if counts[key]]
    parts += [f"{n:,} {'objects' if name == 'labels' else name}" for name, n in _objects(report.entries).items()]
    seconds = report.account.get("seconds")
    return " · ".join([*parts, *([time_text(float(seconds))] if isinstance(seconds, (int, float)) else [])])


def _objects(entries: Sequence[Mapping[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in entries:
        if entry["status"] == "done":
            found.update({str(name): int(count) for name, count in entry["objects"].items()})
    return found


def _summary(report: RunReport) -> str:
    account, entries = report.account, report.entries
    counts = Counter(str(entry["status"]) for entry in entries)
    parts = []
    if counts["waiting"] or not account:
        state = "is still going on" if report.running else "stopped before its end; the same command goes on"
        parts.append(f'<p class="note">This run {state}: {counts["waiting"]:,} images are waiting.</p>')
    parts += [f'<p class="note">{escape(str(note))}</p>' for note in [*report.notes, *(account.get("notes") or ())]]
    facts = [("images done", f"{counts['done']:,}"), ("images failed", f"{counts['failed']:,}")]
    facts += [("objects" if name == "labels" else name, f"{n:,}") for name, n in _objects(entries).items()]
    if account:
        facts += [("device", str(account.get("device", ""))), ("seconds", f"{float(account.get('seconds', 0)):,.1f}")]
        if account.get("peak_memory"):
            facts.append(("memory at most", _bytes(account["peak_memory"])))
    parts.append(facts_list(facts))
    failed = [entry for entry in entries if entry["status"] == "failed"]
    if failed:
        rows = [[str(e["name"]), str(e["reason"]), str(e["source"])] for e in failed[:_MOST_LISTED]]
        more = f"<p>and {len(failed) - _MOST_LISTED:,} more below</p>" if len(failed) > _MOST_LISTED else ""
        parts.append(f"<h3>Failed</h3>{table(['image', 'reason', 'file'], rows, words=3)}{more}")
    if not entries:
        parts.append("<p>This run has no images.</p>")
    return "".join(parts)


def _images(report: RunReport) -> str:
    statuses = list(dict.fromkeys(str(entry["status"]) for entry in report.entries))
    options = "".join(f'<option value="{escape(s)}">{escape(s)}</option>' for s in statuses)
    orders = "".join(f'<option value="{key}">{text}</option>' for key, text in _ORDERS)
    cards = "".join(_card(i, entry, report.inside) for i, entry in enumerate(report.entries))
    return (
        '<div class="controls" role="search"><label>find by name, plate, reason<input type="search" id="find" '
        f'autocomplete="off"></label><label>status<select id="status"><option value="">all</option>{options}</select>'
        f'</label><label>order<select id="order">{orders}</select></label><label class="row"><input type="checkbox" '
        'id="only" disabled> only brushed</label><p class="count" id="shown">'
        f"{len(report.entries):,} of {len(report.entries):,} images</p></div>"
        f'<ol class="cards" id="cards" tabindex="0" aria-label="Images">{cards}</ol>'
    )


def _card(number: int, entry: Mapping[str, Any], inside: Mapping[str, str] | None) -> str:
    name = escape(str(entry["name"]))
    count = next(iter(entry["objects"].values()), None)
    objects = "" if count is None else f"{int(count):,} object{'s' * (count != 1)}"
    picture = '<span aria-hidden="true">no picture</span>'
    if entry["thumb"]:
        address = inside[entry["thumb"]] if inside is not None else f"report/{entry['thumb']}"
        picture = f'<img src="{address}" alt="" loading="lazy" decoding="async" width="208" height="208">'
    said = [objects, f"{entry['width']:,} × {entry['height']:,} px" if entry["width"] else ""]
    fields = " · ".join(escape(f"{k} {v}") for k, v in entry["fields"].items())
    status = str(entry["status"])
    bad = f'<p class="bad">{escape(status)}{": " * bool(entry["reason"])}{escape(str(entry["reason"]))}</p>'
    return (
        f'<li class="card" data-i="{number}"><button type="button" class="pic" aria-label="Open {name}'
        f'{", " * bool(objects)}{objects}">{picture}</button><p class="name" title="{name}">{name}</p>'
        f"<p>{' · '.join(filter(None, said))}</p>{f'<p>{fields}</p>' if fields else ''}"
        f'{bad if status != "done" else ""}<span class="badge" hidden></span></li>'
    )


def _measurements(report: RunReport) -> str:
    choice = ""
    if len(report.sets) > 1:
        options = "".join(f'<option value="{i}">{escape(str(s["name"]))}</option>' for i, s in enumerate(report.sets))
        choice = f'<label>table<select id="set">{options}</select></label>'
    return (
        '<h3 id="outlier-title">What stands out</h3>'
        '<div id="outliers" role="group" aria-labelledby="outlier-title"></div>'
        '<ol id="strip" aria-label="Objects that stand out"></ol>'
        '<h3>Plots</h3><p class="soft">Drag over a plot, or fill in its fields, to brush objects: they are marked in '
        "the images, in the other plots and in the table.</p>"
        f'<div class="controls">{choice}<button type="button" id="clear">Clear</button>'
        '<p class="count" id="brushed"></p></div><div id="charts"></div>'
        '<h3>Objects</h3><p class="soft">A click opens the object\'s image. Columns marked * were measured '
        'for this page.</p><div id="rows" aria-label="Objects"></div>'
    )


def _seams(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        for layer, seam in entry["seams"].items():
            figures = [seam.get(key, "") for key in ("cuts_px", "touching", "straight", "expected")]
            rows.append(
                [str(entry["name"]), str(layer), *(f"{f:,}" if isinstance(f, (int, float)) else "" for f in figures)]
            )
    if not rows:
        return ""
    head = ["image", "labels", "cuts, px", "objects at cuts", "straight outline at cuts, px", "expected by chance, px"]
    return (
        '<p class="soft">Images done in blocks: do outlines run along the cuts between blocks more than along lines '
        f"beside them? Where they did, the image would have failed.</p>{table(head, rows, words=2)}"
    )


def _run(report: RunReport) -> str:
    account = report.account
    parts = []
    steps = account.get("step_seconds")
    if isinstance(steps, Mapping) and steps:
        memory = account.get("step_memory")
        memory = memory if isinstance(memory, Mapping) else {}
        total = sum(map(float, steps.values())) or 1.0
        rows = []
        for where in sorted(steps, key=_place):
            held = _bytes(memory[where]) if where in memory else ""
            share = f"{100 * float(steps[where]) / total:.1f} %"
            rows.append([str(where), f"{float(steps[where]):,.2f}", share, held])
        parts.append(
            '<h3>Steps</h3><p class="soft">Seconds of all images together, of every worker; memory is the most that a '
            "process held when the step ended, other images in work included.</p>"
            + table(["step", "seconds", "share", "memory"], rows)
        )
    if report.recipe:
        parts.append(
            '<details open><summary>The recipe as it ran</summary><pre tabindex="0">'
            f"{escape(report.recipe)}</pre></details>"
        )
    digests = account.get("digests")
    facts = [(str(k), str(v)) for k, v in (account.get("versions") or {}).items()]
    if account.get("platform"):
        facts.append(("platform", str(account["platform"])))
    if facts:
        parts.append(f"<h3>Versions</h3>{facts_list(facts)}")
    if isinstance(digests, Mapping):
        networks = digests.get("networks") or {}
        lines = [("recipe", str(digests.get("recipe", "")))]
        lines += [(str(k), str(v)) for k, v in networks.items()] if isinstance(networks, Mapping) else []
        parts.append(f"<h3>Digests</h3>{facts_list(lines)}")
    return "".join(parts) or "<p>The run has not written its account yet.</p>"


def _place(where: object) -> tuple[list[int], str]:
    """Return what sorts ``steps[10]`` behind ``steps[9]``."""
    return [int(n) for n in re.findall(r"\[(\d+)\]", str(where))], str(where)


def _bytes(count: Any) -> str:
    size = float(count)
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style data-openseadragon-mobile-css>{css}</style>
</head>
<body>
<a class="skip" href="#images">Skip to the images</a>
<a class="skip" href="#run">Skip to the run</a>
<header class="top"><div><h1>{title}</h1><p class="facts">{facts}</p></div>
<button type="button" class="plain-button" id="theme" aria-label="Switch between light and dark">Dark</button></header>
<nav class="film" aria-label="Parts of the page"><ol>{links}</ol></nav>
<main>{cards}</main>
<p id="said" role="status" aria-live="polite" class="skip"></p>
<dialog id="viewer" aria-labelledby="viewer-title">
<div class="bar"><h2 id="viewer-title"></h2><span class="spacer"></span>
<button type="button" data-part="previous" aria-label="Previous object" title="Previous object (p)">◂ object</button>
<button type="button" data-part="next" aria-label="Next object" title="Next object (n)">object ▸</button>
<button type="button" data-part="out" aria-label="Zoom out" title="Zoom out (-)">−</button>
<span class="zoom" data-part="zoom"></span>
<button type="button" data-part="in" aria-label="Zoom in" title="Zoom in (+)">+</button>
<button type="button" data-part="home" title="Show the whole image (0)">Fit</button>
<button type="button" data-part="back" aria-label="Previous image" title="Previous image ([)">←</button>
<button type="button" data-part="on" aria-label="Next image" title="Next image (])">→</button>
<button type="button" data-part="close">Close</button></div>
<div class="body"><div class="stage"><div data-part="stage"></div>
<p class="nothing" data-part="nothing" hidden></p></div>
<aside aria-label="About the image"><h3>Layers</h3><div data-part="layers"></div><h3>Object</h3>
<div data-part="object" aria-live="polite"></div><h3>Image</h3><div data-part="about"></div></aside></div>
</dialog>
{data}
<script>{script}</script>
</body>
</html>
"""
