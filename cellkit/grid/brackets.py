"""The brackets `pad`, `tile` and `resize`: from the outer shape and parameters to a frame."""

from __future__ import annotations

from typing import Annotated, Literal

from cellkit.core import Span, StageError
from cellkit.core.stage import bracket
from cellkit.grid.cover import Tile, Window, cover
from cellkit.grid.fill import Fill
from cellkit.grid.frame import Frame, ScaledFrame, WindowFrame, WindowPart
from cellkit.grid.windows import padded

__all__ = ["pad", "resize", "tile"]

_LONGEST = 100_000


@bracket
def tile(
    shape: tuple[int, int],
    /,
    *,
    size: Annotated[int | tuple[int, int], Span(1, 100_000, "px")] = 512,
    halo: Annotated[int, Span(0, 10_000, "px")] = 0,
    pad: Literal["none", "zero", "reflect", "symmetric", "edge"] = "none",
    blend: Literal["crop", "weighted"] = "crop",
) -> Frame:
    """Run the inner steps tile by tile and put their layers together.

    `size` is the kept core (one number for both sides, or height and width) on a grid anchored at (0, 0); `halo` adds
    real neighbouring pixels around it. `pad` applies only beyond the image's edge: with `none` a tile ends there, so
    that an edge stays an edge and steps without a network give what they give on the whole image; any other value
    fills up every tile to ``size + 2 * halo``, as most networks want. `blend: weighted` fades overlapping tiles of an
    image, probability or field into one another; all other kinds are cropped, joined at the seams (labels) or kept by
    the tile that holds their centre (boxes, instances).

    Raises `StageError` where tiles to be blended do not overlap.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> recipe = ck.Recipe.load("steps: [{tile: {size: 48}, steps: [{clahe: {tiles: 1, clip_limit: 8}}]}]")
    >>> result = ck.run(recipe, ck.Sample.of(image=picture))
    >>> result["image"].shape
    (128, 128, 1)
    """
    _refuse_empty("tile", shape)
    if blend == "weighted" and halo == 0:
        raise StageError("tile: blend: weighted needs tiles that overlap, got halo: 0; set a halo or blend: crop")
    tiles = cover(shape, _both(size), halo, clip=pad == "none")
    fill: Fill = "zero" if pad == "none" else pad
    return WindowFrame(shape, tuple(WindowPart(shape, t, fill) for t in tiles), halo, blend)


@bracket
def pad(
    shape: tuple[int, int],
    /,
    *,
    size: Annotated[int | tuple[int, int] | None, Span(1, 100_000, "px")] = None,
    multiple: Annotated[int, Span(1, 4096, "px")] = 1,
    square: bool = False,
    mode: Literal["zero", "reflect", "symmetric", "edge"] = "zero",
    align: Literal["center", "corner"] = "center",
) -> Frame:
    """Run the inner steps on a larger picture, padded to a size, a square or a multiple, and cut it back.

    The rules apply in that order and may be combined: `size` (one number for both sides, or height and width), then
    `square` (both sides as long as the longer), then up to the next `multiple`. `mode` fills the new pixels; mirrors
    repeat where the picture is smaller than its padding. The picture stands in the middle or, with `align: corner`,
    at the top left.

    Raises `StageError` where no rule is given or the picture is larger than `size`.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> recipe = ck.Recipe.load("steps: [{pad: {size: 128, mode: reflect}, steps: [{gaussian: {sigma: 4}}]}]")
    >>> result = ck.run(recipe, ck.Sample.of(image=picture))
    >>> result["image"].shape
    (128, 128, 1)
    """
    _refuse_empty("pad", shape)
    if size is None and multiple == 1 and not square:
        raise StageError("pad: nothing says how far; give size, multiple or square: true")
    height, width = shape if size is None else _both(size)
    if height < shape[0] or width < shape[1]:
        raise StageError(
            f"pad: the picture, {shape[0]} x {shape[1]}, is larger than size {height} x {width}; "
            "give a larger size or a multiple, or put the pad into a tile"
        )
    if square:
        height = width = max(height, width)
    height, width = (padded(side, multiple) for side in (height, width))
    top, left = ((height - shape[0]) // 2, (width - shape[1]) // 2) if align == "center" else (0, 0)
    window = Window(-top, -left, height - top, width - left)
    part = WindowPart(shape, Tile(Window(0, 0, *shape), window), mode)
    return WindowFrame(shape, (part,))


@bracket
def resize(
    shape: tuple[int, int],
    /,
    *,
    size: Annotated[int | tuple[int, int] | None, Span(1, 100_000, "px")] = None,
    factor: Annotated[float | None, Span(0.001, 100)] = None,
    longest: Annotated[int | None, Span(1, 100_000, "px")] = None,
    standard: Annotated[float | None, Span(1, 10_000, "px")] = None,
    diameter: Annotated[float | None, Span(1, 10_000, "px")] = None,
) -> Frame:
    """Run the inner steps on a smaller or larger picture, and bring their layers back to the outer size.

    `size` is height and width, or one number for both (which changes the proportions of a picture that is no square);
    `factor` multiplies both sides; `longest` is what the longer side becomes; `standard` is how wide objects should be
    inside, and `diameter` how wide they are in the picture, which keeps its size where nobody says. Images,
    probabilities and fields are averaged by area on an axis that shrinks and interpolated linearly on one that grows;
    masks, classes and labels take the nearest value; boxes are scaled. The values of a field (a distance, say) are
    not.

    Raises `StageError` unless exactly one of `size`, `factor`, `longest` and `standard` is given, for `diameter`
    without `standard`, and where the picture would have sides of more than 100,000 px.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> recipe = ck.Recipe.load("steps: [{resize: {factor: 0.25}, steps: [{gamma: {gamma: 0.8}}]}]")
    >>> result = ck.run(recipe, ck.Sample.of(image=picture))
    >>> result["image"].shape
    (128, 128, 1)
    """
    _refuse_empty("resize", shape)
    rules = {"size": size, "factor": factor, "longest": longest, "standard": standard}
    given = [name for name, value in rules.items() if value is not None]
    if len(given) != 1:
        raise StageError(
            f"resize: wanted one of {', '.join(rules)}, got {' and '.join(given) or 'none of them'}; give one"
        )
    if diameter is not None and standard is None:
        raise StageError(f"resize: a diameter of {diameter:g} px needs `standard`, how wide objects should be inside")
    if size is not None:
        return ScaledFrame(shape, _both(size))
    if longest is not None:
        factor = longest / max(shape)
    if standard is not None:
        factor = standard / diameter if diameter is not None else 1.0
    inner = tuple(max(1, round(side * (factor or 1.0))) for side in shape)
    if max(inner) > _LONGEST:
        raise StageError(f"resize: {shape[0]} x {shape[1]} px would become {inner[0]:,} x {inner[1]:,}; too large")
    return ScaledFrame(shape, (inner[0], inner[1]))


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _refuse_empty(name: str, shape: tuple[int, int]) -> None:
    if min(shape) < 1:
        raise StageError(f"{name}: wanted a picture of at least 1 x 1 px, got {shape[0]} x {shape[1]}")
