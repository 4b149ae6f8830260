"""One self-contained HTML page of what changed between two runs: tables, and pictures of the objects that did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from cellkit.metrics import changes
from cellkit.report.palette import BRIGHT, edges
from cellkit.report.runpage import RUN_CSS, facts_list, table
from cellkit.report.style import CSS, PAGE, SCRIPT
from cellkit.report.worst import CASE_CSS, base_picture, coded_fill, picture_figure, small, thick

__all__ = ["CHANGES", "Part", "Side", "View", "diff_page"]

CHANGES: dict[str, tuple[tuple[int, int, int], str]] = {
    "same": ((190, 200, 205), "no pixel differs"),
    "kept": (tuple(BRIGHT[5].tolist()), "the same object, with another edge"),
    "changed": (tuple(BRIGHT[3].tolist()), "the same object, with an IoU below the limit"),
    "lost": (tuple(BRIGHT[2].tolist()), "there before, not after"),
    "gained": (tuple(BRIGHT[1].tolist()), "there after, not before"),
    "split": (tuple(BRIGHT[4].tolist()), "one before, several after"),
    "merged": (tuple(BRIGHT[0].tolist()), "several before, one after"),
}
"""Colour and meaning of what can become of an object, in the order of `changes.OUTCOMES`."""
_COLORS = np.array([CHANGES[name][0] for name in changes.OUTCOMES], np.uint8)
_STRENGTH = np.array([{"same": 0.0, "kept": 0.0, "changed": 0.3}.get(name, 0.6) for name in changes.OUTCOMES])


@dataclass(frozen=True, eq=False)
class Side:
    """The objects of one run: labels int64 (y, x), and of each pixel the place in `CHANGES`, from 1, uint8 (y, x)."""

    labels: np.ndarray
    codes: np.ndarray

    def cut(self, rows: slice, columns: slice) -> Side:
        """Return a part of it."""
        return Side(self.labels[rows, columns], self.codes[rows, columns])


@dataclass(frozen=True, eq=False)
class View:
    """One layer of one image: `shape` (y, x), the `place` that is shown where it is not the whole, both runs' objects.

    `sides`: None where they cannot be read any more. `image`: the picture they lie on, float32 (y, x, c), if known.
    `counts`: objects before and after, and how many came to what; `iou` the median of pairs; `note`: what else to know.
    """

    name: str
    layer: str
    shape: tuple[int, int]
    place: str
    sides: tuple[Side, Side] | None
    image: np.ndarray | None
    counts: Mapping[str, int]
    iou: float
    note: str = ""


@dataclass(frozen=True)
class Part:
    """A table of the page: its heading, head and rows, how many of its columns are texts, and a line below it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    note: str = ""


def diff_page(title: str, facts: Sequence[str], parts: Sequence[Part], views: Sequence[View]) -> str:
    """Return an HTML page, complete in itself: `facts` under the title, tables, and pictures of `views` in order."""
    cards = "".join(
        f'<section class="part" id="part{i}" aria-label="{escape(part.title)}"><h2>{escape(part.title)}</h2>'
        f"{table(part.head, part.rows, words=part.words)}"
        f"{_note(part)}</section>"
        for i, part in enumerate(parts)
        if part.rows
    )
    film = "".join(
        f'<li class="word"><a href="#part{i}"><span>{escape(part.title)}</span></a></li>'
        for i, part in enumerate(parts)
        if part.rows
    )
    if views:
        top = f'<h2>Pictures</h2><p class="flow">{_READ}</p><ul class="legend">{_legend()}</ul>'
        cards += f'<section class="part" id="pictures" aria-label="Pictures">{top}</section>'
        cards += "".join(_case(i, view) for i, view in enumerate(views))
        film += "".join(
            f'<li><a href="#case{i}" data-of="case{i}-2"><span class="thumb" aria-hidden="true"></span>'
            f"<span>{escape(view.name)}</span></a></li>"
            for i, view in enumerate(views)
        )
    words = {"item": "picture", "items": "Parts of the page", "compare": "Before", "help": _HELP if views else ""}
    lines = "<br>".join(map(escape, facts))
    css = CSS + CASE_CSS + RUN_CSS + _CSS
    return PAGE.format(title=escape(title), css=css, script=SCRIPT, body="", facts=lines, film=film, cards=cards, **words)  # fmt: skip # noqa: E501


def _note(part: Part) -> str:
    return f'<p class="flow">{escape(part.note)}</p>' if part.note else ""


def drawn(view: View) -> dict[str, np.ndarray]:
    """Return the pictures of a view, uint8 (y, x, 3): before, after, and what changed. None where it cannot be read."""
    if view.sides is None:
        return {}
    base = base_picture(view.image, view.sides[0].labels.shape)
    codes = [small(side.codes) for side in view.sides]
    lines = [_lines(side, code) for side, code in zip(view.sides, codes, strict=True)]
    shown = {name: np.where(line > 0, line, base) for name, line in zip(("before", "after"), lines, strict=True)}
    # What was lost lies in the earlier labels alone; of the rest, the later ones say where it is now.
    gone = (codes[1] == 0) & (codes[0] > 0)
    both = np.where(gone, codes[0], codes[1])
    loud = codes[0] == 1 + changes.OUTCOMES.index("lost")
    line = np.where((lines[1] > 0) | ~loud[..., None], lines[1], lines[0])
    return {**shown, "what changed": np.where(line > 0, line, coded_fill(base, both, _COLORS, _STRENGTH))}


def _lines(side: Side, codes: np.ndarray) -> np.ndarray:
    """Return the outlines of objects in the colours of what became of them, on black, uint8 (y, x, 3)."""
    outline = edges(small(side.labels)) & (codes > 0)
    lines = np.zeros((*codes.shape, 3), np.uint8)
    lines[outline] = _COLORS[codes[outline] - 1]
    return thick(lines)


def _case(number: int, view: View) -> str:
    height, width = view.shape
    facts = [("layer", view.layer), ("size", f"{width:,} × {height:,} px")]
    facts += [("shown", view.place)] if view.place else []
    facts += [(name, f"{count:,}") for name, count in view.counts.items()]
    facts += [] if math.isnan(view.iou) else [("median IoU", f"{view.iou:.3f}")]
    note = f'<p class="note">{escape(view.note)}</p>' if view.note else ""
    figures = "".join(
        picture_figure(f"case{number}-{i}", (f"{view.name}: {name}", name), picture, f"case{number}-0" if i else "",
                       word="Before", lossy=True)
        for i, (name, picture) in enumerate(drawn(view).items())
    )  # fmt: skip
    return (
        f'<section class="case" id="case{number}" aria-label="{escape(view.name)}"><h2>{escape(view.name)}</h2>{note}'
        f'{facts_list(facts)}<div class="trio">{figures}</div></section>'
    )


def _legend() -> str:
    return "".join(
        f'<li><i style="background:rgb{color}" aria-hidden="true"></i><b>{name}</b> {escape(text)}</li>'
        for name, (color, text) in CHANGES.items()
    )


_READ = (
    "Outlines say what became of each object; in the third picture, objects that changed, were lost, gained, split or "
    "merged are filled."
)
_HELP = """<p class="help">Click a picture to see it large. Hold <b>Before</b> to compare. With a picture open:
<kbd>←</kbd> <kbd>→</kbd> step through, hold <kbd>B</kbd> for before, <kbd>Z</kbd> zooms.</p>"""
_CSS = """
.top,main,.film ol{max-width:88rem}
.part .rows+.flow{margin-top:.9rem}
.case dl{grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr))}
"""
