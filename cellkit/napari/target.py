"""The image that a recipe is to be run on, as a layer of the viewer shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import CellkitError, UsageError
from cellkit.core.recipe import ReadOptions
from cellkit.grid.cover import Window
from cellkit.io.naming import safe
from cellkit.napari.pixels import ArrayPixels, FilePixels
from cellkit.napari.results import Frame

__all__ = ["Target", "path_of", "plane_of", "target_of", "visible"]


@dataclass(frozen=True, eq=False)
class Target:
    """An image to run a recipe on: the file where the layer shows one as a run reads it, else what is in memory.

    `path` is empty for what is in memory. `note` says which plane of a stack it is, and why a file is not taken.
    """

    pixels: FilePixels | ArrayPixels
    path: str
    frame: Frame
    note: str = ""

    @property
    def name(self) -> str:
        """What a run calls it."""
        return self.pixels.name

    def lies(self, window: Window | None = None) -> Frame:
        """Return where a result of the image, or of a window of it, lies in the viewer."""
        top, left = self.pixels.origin
        if window is not None:
            top, left = top + window.top, left + window.left
        return _moved(self.frame, top, left)


def target_of(layer: Any, options: ReadOptions, step: Sequence[int] = ()) -> Target:
    """Return what `layer`, an image layer of napari, shows, read under `options`; `step` is where its sliders stand.

    Raises `CellkitError` where that is no image.
    """
    array, note = plane_of(layer, step)
    file, said = _file_of(layer, array, options, bool(note))
    frame = _frame_of(layer)
    if file is not None:
        return Target(file, path_of(layer), frame)
    rgb = bool(getattr(layer, "rgb", False))
    pixels = ArrayPixels(array, options, name=safe(str(layer.name)), rgb=rgb, pixel_size=_micrometres(layer))
    return Target(pixels, "", frame, "; ".join(filter(None, (note, said))))


def plane_of(layer: Any, step: Sequence[int] = ()) -> tuple[Any, str]:
    """Return the plane, (y, x) or (y, x, c), of full resolution that a layer shows, and which one of a stack it is.

    Nothing is computed. Raises `UsageError` where a stack is not looked at along its last two axes.
    """
    array = layer.data[0] if layer.multiscale else layer.data
    rgb = bool(getattr(layer, "rgb", False))
    above = array.ndim - (3 if rgb else 2)
    if above < 0:
        raise UsageError(f"{layer.name}: has {array.ndim} axis; an image has two")
    if not above:
        return array, ""
    displayed = tuple(getattr(layer, "_slice_input").displayed)  # noqa: B009 - napari has no public word for it
    if displayed != tuple(range(above, above + 2)):
        raise UsageError(f"{layer.name}: is looked at from the side, or in 3-D; show it in 2-D along its last two axes")
    sizes = array.shape[:above]
    at = [0] * above
    given = list(step)[-(above + 2) :][:above] if len(step) >= above + 2 else []
    for axis, value in enumerate(given):
        at[axis] = min(max(int(value), 0), sizes[axis] - 1)
    where = ", ".join(f"{value + 1} of {size}" for value, size in zip(at, sizes, strict=True))
    return array[tuple(at)], f"only plane {where} of the stack"


def visible(viewer: Any, layer: Any, target: Target, most: int) -> tuple[Window, bool]:
    """Return the pixels of `target` that the canvas shows, and whether all of them: at most `most`, of the middle.

    Raises `UsageError` where the canvas shows nothing of it.
    """
    height, width = target.pixels.shape
    everything = Window(0, 0, height, width)
    canvas = getattr(viewer, "canvas", None)
    size = canvas.size if canvas is not None else getattr(viewer, "_canvas_size")  # noqa: B009 - before napari 0.8
    half = np.asarray(size, float) / float(viewer.camera.zoom) / 2
    centre = np.asarray(viewer.camera.center, float)[-2:]
    current = np.asarray(viewer.dims.point, float)
    corners = []
    for y in (-1, 1):
        for x in (-1, 1):
            world = current.copy()
            world[-2:] = centre + np.array([y, x]) * half
            corners.append(np.asarray(layer.world_to_data(world))[-2:])
    low, high = np.floor(np.min(corners, axis=0) + 0.5), np.ceil(np.max(corners, axis=0) + 0.5)
    top, left = target.pixels.origin
    seen = Window(*(int(v) for v in (low[0] - top, low[1] - left, high[0] - top, high[1] - left))).clipped(everything)
    if seen.bottom <= seen.top or seen.right <= seen.left:
        raise UsageError("the image lies outside of what the canvas shows (View > Reset view)")
    tall, wide = seen.shape
    if tall * wide <= most:
        return seen, True
    side = int(most**0.5)
    tall = min(tall, max(side, most // wide))
    wide = min(wide, most // tall)
    y, x = (seen.top + seen.bottom - tall) // 2, (seen.left + seen.right - wide) // 2
    return Window(y, x, y + tall, x + wide), False


def _file_of(layer: Any, plane: Any, options: ReadOptions, stack: bool) -> tuple[FilePixels | None, str]:
    """Return the file of a layer, where a run would read from it what the layer shows; else why not."""
    path = path_of(layer)
    if not path:
        return None, ""
    try:
        file = FilePixels(path, options)
    except CellkitError as error:
        return None, f"not from its file: {error}"
    height, width = plane.shape[:2]
    whole = file.shape == (height, width) if options.crop is None else _inside(options.crop, (height, width))
    array = layer.data[0] if layer.multiscale else layer.data
    if whole and (not stack or options.projection != "none" or file.channels == np.prod(array.shape[:-2])):
        return file, ""
    file.close()
    return None, f"not from its file: {Path(path).name} holds another picture than the layer"


def _inside(crop: Sequence[int], shape: tuple[int, int]) -> bool:
    return crop[2] <= shape[0] and crop[3] <= shape[1]


def path_of(layer: Any) -> str:
    """Return the file of the image that a layer was made of, or an empty text."""
    own = layer.metadata.get("cellkit")
    if own is not None:
        return str(own.get("source", ""))
    return str(layer.source.path or "")


def _micrometres(layer: Any) -> tuple[float, float] | None:
    """Return the pixel size (y, x) of a layer whose units are lengths, in micrometres."""
    sizes = []
    for scale, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True):
        if not unit.is_compatible_with("micrometer"):
            return None
        sizes.append(float((abs(float(scale)) * unit).to("micrometer").magnitude))
    return sizes[0], sizes[1]


def _frame_of(layer: Any) -> Frame:
    """Return where the last two axes of a layer lie."""
    more: dict[str, Any] = {}
    if layer.ndim == 2:
        more = {"rotate": layer.rotate, "shear": layer.shear, "affine": layer.affine.affine_matrix}
    scale, translate = (tuple(float(v) for v in vector[-2:]) for vector in (layer.scale, layer.translate))
    return Frame((scale[0], scale[1]), (translate[0], translate[1]), str(layer.units[-1]), more)


def _moved(frame: Frame, top: int, left: int) -> Frame:
    """Return the frame of what begins at a pixel of the layer that has `frame`."""
    offset = np.array([top * frame.scale[0], left * frame.scale[1]])
    if "rotate" in frame.more:
        shear = np.array([[1.0, float(np.ravel(frame.more["shear"])[0])], [0.0, 1.0]])
        offset = np.asarray(frame.more["rotate"]) @ shear @ offset
    return replace(frame, translate=(frame.translate[0] + float(offset[0]), frame.translate[1] + float(offset[1])))
