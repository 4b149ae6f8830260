"""Layers side by side as a matplotlib figure, for scripts and notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.errors import KindError, UsageError, suggest
from cellkit.core.kinds import KINDS, Boxes, Instances, Kind
from cellkit.core.sample import Layer, Sample
from cellkit.report.display import display
from cellkit.report.overlay import draw, palette_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show"]

_INCHES = 3.4
_ACROSS = 4
_BAR = 0.2
"""Share of the width that a scale bar takes at most."""


def show(
    sample: Sample | Mapping[str, Any] | np.ndarray,
    layers: Sequence[str] = (),
    *,
    axes: Sequence[Any] = (),
    channels: Sequence[int | str] = (),
    pixel_size: float | None = None,
    contours: bool = True,
) -> Figure:
    """Return a figure with a panel for each layer: images as they are, objects as contours on the image.

    `sample`: a sample, layers by name, or one array; of arrays, bool (y, x) is a mask, integers (y, x) are labels,
    floats (y, x) a field, and what has channels an image. `layers` picks some by name, in that order. `axes`: draw into
    these instead of new ones, one for each layer. `channels`: those of an image that are shown, see `display`.
    `pixel_size` in micrometres, where the sample does not know it, gives a scale bar. `contours=False` fills objects
    with colours.

    The figure belongs to no window and is not shown by itself: a notebook shows what a cell ends with, a script calls
    ``savefig`` or gives `axes` of its own. Raises `UsageError` for unknown names, `KindError` for what is no layer.
    """
    held = _layers(sample)
    size = sample.pixel_size if isinstance(sample, Sample) else None
    across = pixel_size if pixel_size is not None else size[1] if size is not None else None
    names = list(layers) or _pictured(held)
    for name in names:
        if name not in held:
            hint = suggest(name, held) or f"there are {', '.join(held)}"
            raise UsageError(f"no layer is called {name!r}; {hint}")
    if len(axes) and len(np.ravel(np.asarray(axes, object))) < len(names):
        raise UsageError(f"{len(names)} layers need {len(names)} axes; got {np.size(np.asarray(axes, object))}")
    figure, drawn = _axes(len(names), axes)
    base = _base(held, channels)
    for ax, name in zip(drawn, names, strict=False):
        _panel(ax, held[name], base, channels, contours)
        ax.set_title(_titled(name, held[name]), fontsize=10, parse_math=False)
        if across is not None:
            _scale_bar(ax, across)
    return figure


def _layers(sample: Sample | Mapping[str, Any] | np.ndarray) -> dict[str, Layer]:
    if isinstance(sample, Sample):
        return dict(sample.layers)
    if isinstance(sample, Mapping):
        return {name: _layer(name, value) for name, value in sample.items()}
    return {"": _layer("the array", sample)}


def _layer(name: str, value: Any) -> Layer:
    if isinstance(value, Layer):
        return value
    if isinstance(value, (Boxes, Instances)):
        return Layer(KINDS["boxes" if isinstance(value, Boxes) else "instances"], value)
    if isinstance(value, np.ndarray) and value.ndim in (2, 3) and value.dtype.kind in "buif":
        if value.ndim == 3:
            return Layer(KINDS["image"], value)
        kind = {"b": "mask", "f": "field"}.get(value.dtype.kind, "labels")
        return Layer(KINDS[kind], value)
    if hasattr(value, "columns"):
        return Layer(KINDS["table"], value)
    raise KindError(f"{name}: wanted an array (y, x) or (y, x, c), boxes or instances, got {type(value).__name__}")


def _pictured(held: Mapping[str, Layer]) -> list[str]:
    """Return the layers that have a look; `image` where it is not `raw` once more."""
    found = [name for name, layer in held.items() if layer.kind.name not in ("table", "histogram")]
    if "raw" in found and "image" in found and held["raw"].value is held["image"].value:
        found.remove("image")
    if not found:
        raise UsageError("there is no layer that can be shown")
    return found


def _axes(count: int, given: Sequence[Any]) -> tuple[Any, list[Any]]:
    if len(given):
        flat = list(np.ravel(np.asarray(given, object)))
        return flat[0].figure, flat
    columns = min(count, _ACROSS)
    rows = -(-count // columns)
    figure = _figure((_INCHES * columns, (_INCHES + 0.3) * rows))
    flat = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax in flat[count:]:
        ax.set_axis_off()
    return figure, flat[:count]


def _figure(size: tuple[float, float]) -> Any:
    """Return a figure that pyplot does not know of, and that a notebook shows all the same."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            from cellkit.report.plots import png

            return png(self, 100)

    return Shown(figsize=size, layout="constrained")


def _base(held: Mapping[str, Layer], channels: Sequence[int | str]) -> np.ndarray | None:
    name = next((n for n in ("raw", "image") if n in held), None)
    name = name or next((n for n, layer in held.items() if layer.kind.name == "image"), None)
    return None if name is None else display(held[name].value, channels=channels, names=held[name].names)


def _panel(ax: Any, layer: Layer, base: np.ndarray | None, channels: Sequence[int | str], contours: bool) -> None:
    value, kind = layer.value, layer.kind.name
    if kind == "image":
        ax.imshow(display(value, channels=channels, names=layer.names))
    elif kind in ("field", "prob"):
        plane = value if value.ndim == 2 else value[..., 0]
        drawn = ax.imshow(plane, cmap="viridis", **({"vmin": 0, "vmax": 1} if kind == "prob" else {}))
        ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
    else:
        ax.imshow(_objects(layer.kind, value, base, contours))
    ax.set_xticks([])
    ax.set_yticks([])


def _objects(kind: Kind, value: Any, base: np.ndarray | None, contours: bool) -> np.ndarray:
    if isinstance(value, np.ndarray) and (base is None or not contours or base.shape[:2] != value.shape):
        from cellkit.report.views import views

        return views(kind, value, (), None)[-1].picture
    if base is None:
        x, y = (math.ceil(float(edge)) for edge in _extent(value))
        base = np.zeros((max(1, y), max(1, x), 3), np.uint8)
    picture = base.copy()
    draw(picture, value, palette_for(base))
    return picture


def _extent(value: Boxes | Instances) -> np.ndarray:
    boxes = value if isinstance(value, Boxes) else value.boxes
    return boxes.xyxy[:, 2:].max(axis=0) if len(boxes) else np.ones(2)


def _titled(name: str, layer: Layer) -> str:
    value, kind = layer.value, layer.kind.name
    count = None
    if kind == "labels":
        count = int(np.count_nonzero(np.unique(value)))
    elif isinstance(value, (Boxes, Instances)):
        count = len(value)
    return name if count is None else f"{name}: {count:,} object{'s' * (count != 1)}".removeprefix(": ")


def _scale_bar(ax: Any, pixel_size: float) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten micrometres into the lower right corner."""
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    width, height = right - left, bottom - top
    most = _BAR * width * pixel_size
    power = 10.0 ** math.floor(math.log10(most))
    length = next(times * power for times in (5, 2, 1) if times * power <= most * (1 + 1e-9))
    end, at = right - 0.04 * width, bottom - 0.05 * height
    for color, thick in (("black", 5), ("white", 3)):
        ax.plot([end - length / pixel_size, end], [at, at], color=color, linewidth=thick, solid_capstyle="butt")
    unit = f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm"
    text = ax.text(end - length / pixel_size / 2, at - 0.02 * height, unit, color="white", ha="center", va="bottom",
                   fontsize=8, fontweight="bold")  # fmt: skip
    text.set_bbox({"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0})
