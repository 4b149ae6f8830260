"""What every plot shares: colours and dashes that stay apart, axes, and figures as PNG and as SVG for a page.

matplotlib is imported by what draws, never by what lists, and its state of the whole process (pyplot) is left alone.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["DARK", "INK", "SERIES", "SOFT", "Style", "axes_of", "figure", "plain", "png", "style", "svg", "swatch"]

INK, SOFT, GRID = "#16212b", "#5a6874", "#dde3e8"
_PAPER = "#ffffff"

# At least 20 apart in CIELAB under normal, deutan and protan vision (Machado 2009), and 3 to 1 against their paper; a
# print without colour has the dashes and the marks.
SERIES: tuple[str, ...] = ("#1f4fd8", "#b88000", "#004a3c", "#83309a", "#1a90e0", "#8f3408")
"""Colours of lines and bars on white."""
DARK: tuple[str, ...] = ("#5f86f5", "#f5c443", "#2fb896", "#c583d0", "#a8e4ff", "#f0764a")
"""The same on a dark page."""
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (6, 2, 1.2, 2), (9, 3), (3, 1.5, 1, 1.5, 1, 1.5))
_MARKERS = "osD^vPX"
_LETTERS, _LINE = 32, 64
_SIZE = 9.0
LARGEST = 1e30
"""Beyond this there is no axis: steps between its ticks would leave the range of numbers."""


class Style:
    """How the i-th of several things looks: no two of the first 36 alike, nor of the first 6 without colour."""

    def __init__(self, place: int) -> None:
        self.color = SERIES[place % len(SERIES)]
        self.dash = _DASHES[(place + place // len(SERIES)) % len(_DASHES)]
        self.marker = _MARKERS[place % len(_MARKERS)]

    def line(self) -> dict[str, Any]:
        """Return what matplotlib's `plot` takes."""
        return {"color": self.color, "linestyle": (0, self.dash) if self.dash else "solid"}


def style(place: int) -> Style:
    """Return the look of the thing in `place`, from 0."""
    return Style(place)


def figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, inches, that belongs to nobody else."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    made.set_facecolor("none")
    return made


def axes_of(made: Any, rows: int = 1) -> list[Any]:
    """Return `rows` axes in a column."""
    return list(made.subplots(rows, 1, squeeze=False)[:, 0])


def dress(ax: Any, across: str, up: str, *, grid: str = "y") -> None:
    """Give axes their titles, with the colours of a page and no more lines than needed."""
    ax.set_facecolor("none")
    ax.set_xlabel(plain(across, _LINE), color=INK, fontsize=_SIZE, parse_math=False)
    ax.set_ylabel(plain(up, _LINE), color=INK, fontsize=_SIZE, parse_math=False)
    ax.tick_params(colors=SOFT, labelcolor=INK, labelsize=_SIZE - 1, which="both")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(SOFT)
    if grid:
        ax.grid(axis=grid, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_offset_text().set(color=INK, fontsize=_SIZE - 1)


def head(ax: Any, text: str, side: str = "left") -> None:
    """Write a line above axes."""
    ax.set_title(plain(text, _LINE), loc=side, color=INK, fontsize=_SIZE, parse_math=False)


def legend_above(ax: Any, names: Sequence[str], handles: Sequence[Any]) -> None:
    """Write the names of what is drawn above axes, where they cover nothing."""
    shown = ax.legend(list(handles), [_worded(name) for name in names], loc="lower left", bbox_to_anchor=(0, 1),
                      frameon=False, fontsize=_SIZE - 1.5, labelcolor=INK, handlelength=3.2, borderpad=0.1,
                      ncols=3 if len(names) > 4 else 2)  # fmt: skip
    _dress_legend(shown)


def legend_below(made: Any, names: Sequence[str], handles: Sequence[Any], columns: int) -> None:
    """Write the names of what is drawn below a figure."""
    shown = made.legend(list(handles), [_worded(name) for name in names], loc="outside lower left", frameon=False,
                        fontsize=_SIZE - 1.5, labelcolor=INK, handlelength=3.2, ncols=columns)  # fmt: skip
    _dress_legend(shown)


def _dress_legend(shown: Any) -> None:
    shown.get_frame().set_linewidth(0)
    for text in shown.get_texts():
        text.set_parse_math(False)


def _worded(name: str) -> str:
    """Return a name as a legend shows it; what begins with an underscore it would leave out."""
    text = plain(name)
    return f" {text}" if text.startswith("_") else text


@functools.lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    """Return the characters that matplotlib's font has; others would be warned of, and drawn as boxes."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())


def plain(text: str, most: int = _LETTERS) -> str:
    """Return a text in one line of at most `most` characters, each of which the font has; the end of a name stays."""
    known = _glyphs()
    line = " ".join(str(text).split())
    if len(line) > most:
        kept = most // 2
        line = f"{line[: most - kept - 1]}…{line[-kept:]}"
    return "".join(c if ord(c) in known and c.isprintable() else "?" for c in line)


def png(made: Any, dots: int = 150) -> bytes:
    """Return a figure as a PNG on white, `dots` an inch."""
    stream = io.BytesIO()
    made.savefig(stream, format="png", dpi=dots, facecolor=_PAPER)
    return stream.getvalue()


_OUTSIDE = re.compile(r"^.*?(?=<svg )", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_SIZED = re.compile(r' (?:width|height)="[\d.]+pt"')
_COLORS = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--line)",
    _PAPER: "var(--card)",
    **{color: f"var(--s{i})" for i, color in enumerate(SERIES)},
}


def svg(made: Any, text: str) -> str:
    """Return a figure as an element of a page, in the page's colours; `text` says it to those who cannot see it."""
    from html import escape

    stream = io.StringIO()
    made.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    drawn = _METADATA.sub("", _OUTSIDE.sub("", stream.getvalue(), count=1))
    opening, rest = drawn.split(">", 1)
    opening = _SIZED.sub("", opening)
    for color, name in _COLORS.items():
        rest = rest.replace(color, name)
    return f'{opening} role="img" aria-label="{escape(text)}">{rest.strip()}'


def palette_css() -> str:
    """Return the colours of series as CSS variables, on light and on dark pages."""
    light, dark = (";".join(f"--s{i}:{c}" for i, c in enumerate(colors)) for colors in (SERIES, DARK))
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def swatch(place: int) -> str:
    """Return the look of the line and the marks in `place` as a small picture for a legend in HTML."""
    look = style(place)
    dashes = " ".join(f"{1.5 * d:g}" for d in look.dash)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    color = f"var(--s{place % len(SERIES)})"
    return (
        f'<svg class="swatch" viewBox="0 0 36 12" aria-hidden="true"><line x1="0" y1="6" x2="36" y2="6" '
        f'style="stroke:{color};stroke-width:2"{dashed}/><path d="{_SHAPES[look.marker]}" style="fill:{color}"/></svg>'
    )


_SHAPES = {
    "o": "M13.5 6a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "s": "M14 2h8v8h-8z",
    "D": "M18 .5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
    "^": "M18 1l5 9.5h-10z",
    "v": "M18 11l5-9.5h-10z",
    "P": "M16 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
    "X": "M15 1l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3l-3-3z",
}
"""The marks of matplotlib as paths around (18, 6)."""


def drawable(values: Sequence[float]) -> list[float]:
    """Return those of `values` that a plot can show."""
    return [value for value in values if abs(value) < LARGEST]
