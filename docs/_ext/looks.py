"""What a layer looks like on a page: pictures and tables, made while the pages are built."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from docutils import nodes

from cellkit.core.kinds import KINDS, Boxes, Instances, Kind
from cellkit.report.palette import BRIGHT, colored
from cellkit.report.views import Base, fitted, thicken, views

ROOT = Path(__file__).resolve().parents[2]
_SIDE = 360  # of a small picture, px: what a page shows without blurring it
_ROWS, _COLUMNS = 5, 6
_LINE = 4  # px of a picture that a page shows at a quarter of its size
_SPECK = 40  # objects of fewer pixels on average are seeds, and drawn larger


def kind_of_value(value: Any, kinds: Sequence[Kind]) -> Kind | None:
    """Return which of the kinds that a stage may take or make this value is."""
    if isinstance(value, (Boxes, Instances)):
        return KINDS["instances" if isinstance(value, Instances) else "boxes"]
    if not isinstance(value, np.ndarray):
        return KINDS["table"] if any(kind.name == "table" for kind in kinds) else None
    for kind in kinds:
        if kind.axes and len(kind.axes) == value.ndim and kind.dtype == str(value.dtype):
            return kind
    return None


def span(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return one range of grey for several images, so that brighter looks brighter."""
    ends = [np.percentile(value, [0.2, 99.8]) for value in values]
    low, high = min(float(e[0]) for e in ends), max(float(e[1]) for e in ends)
    return (low, high) if high > low else (low, low + 1)


def picture(kind: Kind, value: Any, grey: tuple[float, float], base: np.ndarray | None) -> np.ndarray | None:
    """Return a layer as a picture, uint8 (y, x, 3), or None for a table; `base` is the image under detections."""
    if kind.name == "image" and value.shape[2] in (1, 3):
        low, high = grey
        tones = np.clip((value - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(tones, 3, axis=2) if value.shape[2] == 1 else tones
    if kind.name == "labels":
        # By number, not by neighbourhood: an object keeps its colour from one picture to the next.
        ids = np.arange(1, int(value.max(initial=0)) + 1, dtype=np.uint64)
        shown = colored(value, ids, (ids - 1).astype(np.intp), BRIGHT)
        if len(ids) and np.count_nonzero(value) < _SPECK * len(ids):
            shown = enlarged(shown)
            thicken(shown, 6)
        return shown
    if isinstance(value, (Boxes, Instances)):
        ground = np.zeros((96, 96, 1), np.float32) if base is None else base
        return views(kind, value, (), Base.of(ground, (), False))[0].picture
    found = views(kind, value, (), None)
    return None if not found else _colour(found[0].picture)


def enlarged(shown: np.ndarray) -> np.ndarray:
    """Return a small picture with every pixel repeated, so that a screen does not blur it."""
    times = max(1, round(_SIDE / max(shown.shape[:2])))
    return shown.repeat(times, axis=0).repeat(times, axis=1)


def outlined(image: np.ndarray, objects: Any) -> np.ndarray:
    """Return the image with the outline of every object, uint8 (y, x, 3): thick enough for a small picture."""
    kind = kind_of_value(objects, [KINDS["labels"]])
    assert kind is not None
    base = Base.of(image, (), True)
    lines = views(kind, objects, (), base)[0].picture
    thicken(lines, _LINE)
    return np.where(lines[..., 3:] > 0, lines[..., :3], base.picture)


def shown_image(image: np.ndarray) -> np.ndarray:
    """Return an image as a picture of the same size as `outlined` gives."""
    return Base.of(fitted(image), (), False).picture


def store(folder: Path, shown: np.ndarray) -> Path:
    """Write a picture below `folder`, named by its content, and return its path."""
    shown = enlarged(shown)
    done, data = cv2.imencode(".png", np.ascontiguousarray(shown[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise ValueError(f"a picture of shape {shown.shape} cannot be written")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data.tobytes()).hexdigest()[:16]}.png"
    if not path.exists():
        path.write_bytes(data.tobytes())
    return path


def figure(uri: str, caption: str, alt: str) -> nodes.figure:
    """Return a picture with a line below it."""
    return nodes.figure("", nodes.image(uri=uri, alt=alt), nodes.caption("", "", *_words(caption)), classes=["layer"])


def beside(*parts: nodes.Node) -> nodes.container:
    """Return figures that stand side by side where the screen is wide enough."""
    return nodes.container("", *parts, classes=["beside"])


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> nodes.container:
    """Return a table; a cell is text, in which `...` is code, or a node. It scrolls on a narrow screen."""
    columns = len(head or rows[0])
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in range(columns)), cols=columns)
    if head:
        group += nodes.thead("", _row(head))
    group += nodes.tbody("", *(_row(row) for row in rows))
    return nodes.container("", nodes.table("", group, classes=["docutils", "plain"]), classes=["scrolled"])


def frame_table(frame: Any) -> nodes.container:
    """Return the first rows and columns of a DataFrame."""
    few = frame.iloc[:_ROWS, :_COLUMNS]
    rows = [[_value(value) for value in row] for row in few.itertuples(index=False, name=None)]
    return table([str(name) for name in few.columns], rows)


def _value(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _row(cells: Sequence[Any]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", _paragraph(cell)) for cell in cells))


def _paragraph(cell: Any) -> nodes.Node:
    return cell if isinstance(cell, nodes.Node) else nodes.paragraph("", "", *_words(str(cell)))


def _words(text: str) -> list[nodes.Node]:
    parts = text.split("`")
    return [nodes.literal(part, part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]


def _colour(shown: np.ndarray) -> np.ndarray:
    return np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown[..., :3]
