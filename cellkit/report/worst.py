"""One self-contained HTML page of the images that scored worst: truth, prediction, and what became of each object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from cellkit.metrics import faults, matching
from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.instance import overlaps
from cellkit.report.display import display
from cellkit.report.overlay import draw, palette_for
from cellkit.report.palette import edges
from cellkit.report.style import CSS, PAGE, SCRIPT
from cellkit.report.views import LARGEST, data_uri, fitted

__all__ = [
    "CASE_CSS",
    "OUTCOMES",
    "PIXELS",
    "By",
    "Case",
    "base_picture",
    "case_section",
    "case_thumb",
    "coded_fill",
    "legend_of",
    "outcomes",
    "picture_figure",
    "pixel_outcomes",
    "small",
    "thick",
    "worst_page",
]

By = Literal["objects", "foreground", "classes"]

# Of the palette for dark pictures, which colour-blind eyes tell apart; what is right stays the quietest.
OUTCOMES: dict[str, tuple[tuple[int, int, int], str]] = {
    "matched": ((23, 165, 110), "IoU of at least 0.50 with its partner"),
    "poor": ((196, 255, 165), "overlaps, but with an IoU below 0.50"),
    "missed": ((235, 108, 0), "a true object without prediction"),
    "extra": ((26, 246, 255), "a prediction without true object"),
    "split": ((171, 130, 246), "a true object in which several predictions lie"),
    "merged": ((255, 233, 0), "a prediction in which several true objects lie"),
}
"""Colour and meaning of what can become of an object, by name."""
PIXELS: dict[str, tuple[tuple[int, int, int], str]] = {
    "right": ((23, 165, 110), "foreground on both sides, of one class"),
    "missed": ((235, 108, 0), "true foreground, predicted background"),
    "extra": ((26, 246, 255), "predicted foreground, true background"),
    "confused": ((255, 233, 0), "foreground on both sides, of different classes"),
}
"""Colour and meaning of what can become of a pixel, by name."""
_FILL = 0.6
_SHRUNK = 700


@dataclass(frozen=True, eq=False)
class Case:
    """One image: its score `value`, labels (or classes, or a foreground) `truth` and `pred` of one shape (y, x).

    `image`: the picture they belong to, (y, x, c) of any dtype, where it is known. `note`: one more thing to know.
    """

    name: str
    value: float
    truth: np.ndarray
    pred: np.ndarray
    image: np.ndarray | None = None
    note: str = ""


def worst_page(cases: Sequence[Case], *, title: str, headline: str, rule: str, by: By = "objects") -> str:
    """Return an HTML page, complete in itself, of `cases` in the order given.

    `headline` names the score and `rule` how it is made. `by`: whether objects are coloured by what became of them, or
    the pixels of a foreground or of classes. Pictures over 1024 px are made smaller.
    """
    sections = [case_section(i, case, by) for i, case in enumerate(cases)]
    film = "".join(case_thumb(i, case) for i, case in enumerate(cases))
    count = f"{len(cases)} image{'s' if len(cases) != 1 else ''}, worst first · {headline}"
    rules = f"Colours: {escape(faults.RULES['majority'])}." if by == "objects" else ""
    slots = {"title": escape(title), "facts": escape(count), "film": film}
    cards = "".join(sections) or "<p>No image has a score.</p>"
    words = {"item": "picture", "items": "Images", "compare": "Truth"}
    help_text = _HELP.format(rule=escape(rule), rules=rules, legend=legend_of(by))
    return PAGE.format(css=CSS + CASE_CSS, script=SCRIPT, body="", cards=cards, help=help_text, **slots, **words)


def outcomes(truth: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Return what became of the object at each pixel, uint8 (y, x), and how many objects came to what.

    0 is background, i the i-th of `OUTCOMES`. Where several hold, the last of them counts.
    """
    table = contingency(truth, pred)
    found = overlaps(table)
    wrong = faults.find(found)
    matched = matching.match(found, 0.5)
    names = list(OUTCOMES)
    truth_code = np.full(len(found.truth_areas), 1 + names.index("poor"), np.uint8)
    pred_code = np.full(len(found.pred_areas), 1 + names.index("poor"), np.uint8)
    truth_code[found.truth[matched]] = pred_code[found.pred[matched]] = 1 + names.index("matched")
    truth_code[wrong.missed] = 1 + names.index("missed")
    truth_code[wrong.split] = 1 + names.index("split")
    pred_code[wrong.extra] = 1 + names.index("extra")
    pred_code[wrong.merged] = 1 + names.index("merged")
    counts = {
        "matched": int(np.count_nonzero(matched)),
        "missed": int(np.count_nonzero(wrong.missed)),
        "extra": int(np.count_nonzero(wrong.extra)),
        "split": int(np.count_nonzero(wrong.split)),
        "merged": int(np.count_nonzero(wrong.merged)),
    }
    return np.maximum(_coded(truth, table, truth_code, 0), _coded(pred, table, pred_code, 1)), counts


def _coded(labels: np.ndarray, table: Contingency, codes: np.ndarray, side: int) -> np.ndarray:
    """Return the code of the object at each pixel, uint8 (y, x)."""
    ids = (table.truth_ids, table.pred_ids)[side]
    every = codes if not (len(ids) and ids[0] == 0) else np.concatenate([np.zeros(1, np.uint8), codes])
    ids = ids.astype(np.int64) if labels.dtype.kind == "i" else ids
    return every[np.searchsorted(ids, labels)] if len(ids) else np.zeros(labels.shape, np.uint8)


def pixel_outcomes(truth: np.ndarray, pred: np.ndarray, by: By) -> tuple[np.ndarray, dict[str, int]]:
    """Return the place of each pixel in `PIXELS`, from 1, uint8 (y, x), and how many there are of each."""
    true, found = truth > 0, pred > 0
    codes = np.zeros(truth.shape, np.uint8)
    codes[true & found] = 1
    codes[true & ~found] = 2
    codes[~true & found] = 3
    if by == "classes":
        codes[true & found & (truth != pred)] = 4
    counts = np.bincount(codes.ravel(), minlength=len(PIXELS) + 1)[1:]
    return codes, {f"{name} px": int(n) for name, n in zip(PIXELS, counts, strict=True) if by == "classes" or name != "confused"}  # fmt: skip # noqa: E501


def case_thumb(number: int, case: Case) -> str:
    """Return the place of a case in the row of thumbnails on top of a page."""
    return (
        f'<li><a href="#case{number}" data-of="case{number}-2"><span class="thumb" aria-hidden="true"></span>'
        f"<span>{_number(case.value)}</span></a></li>"
    )


def legend_of(by: By) -> str:
    """Return which colour stands for what, as items of a list in HTML."""
    return "".join(
        f'<li><i style="background:rgb{color}" aria-hidden="true"></i><b>{name}</b> {escape(text)}</li>'
        for name, (color, text) in (OUTCOMES if by == "objects" else PIXELS).items()
        if by != "foreground" or name != "confused"
    )


def case_section(number: int, case: Case, by: By) -> str:
    """Return the pictures and figures of a case as a section of a page; `number` is unique on it."""
    codes, counts = outcomes(case.truth, case.pred) if by == "objects" else pixel_outcomes(case.truth, case.pred, by)
    colors = np.array([color for color, _ in (OUTCOMES if by == "objects" else PIXELS).values()], np.uint8)
    base = base_picture(case.image, case.truth.shape)
    truth, pred, shown = (small(layer) for layer in (case.truth, case.pred, codes))
    kind = np.uint8 if by == "classes" else np.int32
    pictures = {
        "truth": _outlined(base, truth, kind),
        "prediction": _outlined(base, pred, kind),
        "outcome": _filled(base, shown, truth, colors),
    }
    height, width = case.truth.shape
    facts = [("score", _number(case.value)), ("size", f"{width:,} × {height:,} px")]
    if by == "objects":
        facts += [("true objects", _objects(case.truth)), ("predicted objects", _objects(case.pred))]
    facts += [(name, f"{value:,}") for name, value in counts.items()]
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts)
    note = f'<p class="note">{escape(case.note)}</p>' if case.note else ""
    figures = "".join(
        picture_figure(f"case{number}-{i}", (f"{case.name}: {name}", name), picture, f"case{number}-0" if i else "")
        for i, (name, picture) in enumerate(pictures.items())
    )
    return (
        f'<section class="case" id="case{number}" aria-label="{escape(case.name)}"><h2>{escape(case.name)}</h2>{note}'
        f'<dl>{rows}</dl><div class="trio">{figures}</div></section>'
    )


def picture_figure(
    identity: str,
    names: tuple[str, str],
    picture: np.ndarray,
    before: str = "",
    *,
    word: str = "Truth",
    lossy: bool = False,
) -> str:
    """Return a picture that opens at full size, as a figure in HTML.

    `names`: its title, and what stands below it. `before`: the figure that is shown instead while a button called
    `word` is held; none without it.
    """
    title, label = names
    height, width = picture.shape[:2]
    coarse = ' class="coarse"' if max(height, width) <= 400 else ""
    hold = f'<button type="button" class="before" data-before="{before}">{escape(word)}</button>' if before else ""
    return (
        f'<div class="step" id="{identity}" aria-label="{escape(title)}"><figure>'
        f'<button type="button" class="open" aria-label="{escape(f"Open {title} at full size")}">'
        f'<img src="{data_uri(picture, lossy=lossy)}" width="{width}" height="{height}"{coarse} alt="{escape(title)}">'
        f"</button><figcaption>{escape(label)}{hold}</figcaption></figure></div>"
    )


def base_picture(image: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return the picture that objects (y, x) of `shape` are drawn on, uint8 (y, x, 3); black where there is none."""
    if image is None or image.shape[:2] != tuple(shape):
        return np.zeros((*small(np.zeros(shape, np.uint8)).shape, 3), np.uint8)
    if image.dtype not in (np.uint8, np.float32):
        image = image.astype(np.float32)
    return display(fitted(image))


def small(labels: np.ndarray) -> np.ndarray:
    """Return labels (y, x) of the size that `fitted` gives their image."""
    step = max(1, -(-max(labels.shape) // LARGEST))
    times = min(4, max(1, LARGEST // max(1, *labels.shape)))
    if step == 1:
        return labels.repeat(times, axis=0).repeat(times, axis=1)
    rows, columns = (np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in labels.shape)
    return labels[np.ix_(rows, columns)]


def _outlined(base: np.ndarray, labels: np.ndarray, kind: type) -> np.ndarray:
    lines = np.zeros_like(base)
    draw(lines, labels.astype(kind), palette_for(base))
    lines = thick(lines)
    return np.where(lines.any(axis=2, keepdims=True), lines, base)


def thick(lines: np.ndarray) -> np.ndarray:
    """Return lines on black, uint8, wider where the picture is shown smaller than it is."""
    import cv2

    return cv2.dilate(lines, np.ones((3, 3), np.uint8)) if max(lines.shape) >= _SHRUNK else lines


def _filled(base: np.ndarray, codes: np.ndarray, truth: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Return the picture in grey with every outcome in its colour and true outlines in white."""
    picture = coded_fill(base, codes, colors, np.full(len(colors), _FILL))
    picture[thick(edges(truth).view(np.uint8)) > 0] = 255
    return picture


def coded_fill(base: np.ndarray, codes: np.ndarray, colors: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return a picture in grey with the i-th colour, from 1, laid on pixels of code i as strongly as `strength` says.

    `base` uint8 (y, x, 3), `codes` uint8 (y, x), 0 nothing; `colors` uint8 (n, 3), `strength` float (n,) in [0, 1].
    """
    grey = (base.mean(axis=2, keepdims=True) * 0.7).astype(np.uint8)
    picture = np.repeat(grey, 3, axis=2)
    for code, (color, share) in enumerate(zip(colors, strength, strict=True), 1):
        at = codes == code
        picture[at] = ((1 - share) * picture[at] + share * color.astype(np.float64)).astype(np.uint8)
    return picture


def _objects(labels: np.ndarray) -> str:
    return f"{len(np.unique(labels[labels > 0])):,}"


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


CASE_CSS = """
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.25rem;margin:0 0 1rem;padding:0;font-size:.875rem}
.legend i{display:inline-block;width:.9rem;height:.9rem;border-radius:3px;margin-right:.4rem;vertical-align:-.1rem;
border:1px solid var(--ink)}
.case{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.25rem;margin:0 0 1.25rem}
.case h2{overflow-wrap:anywhere}
.trio{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:1rem}
.trio .step{display:block;padding:0;border:0;margin:0;background:none}
@media (max-width:52rem){.trio{grid-template-columns:minmax(0,1fr)}}
"""
"""How the sections of cases look, behind the style of every page."""

_HELP = """<p class="help">{rule}. {rules}</p>
<ul class="legend">{legend}<li>True outlines are white.</li></ul>
<p class="help">Click a picture to see it large. Hold <b>Truth</b> to compare. With a picture open:
<kbd>←</kbd> <kbd>→</kbd> step through, hold <kbd>B</kbd> for the truth, <kbd>Z</kbd> zooms.</p>"""
