"""Augmentation: the crops that a network trains on, varied as microscopes, stains and specimens vary.

Acts on image, labels and boxes together. All movements (flips, turns, scaling, deformation) are composed into one
resampling of the whole image, so that nothing is blurred twice and a crop that is made smaller sees more of the image;
then the changes of values follow in the order they are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from cellkit.core import Boxes, KindError, Span, UsageError
from cellkit.core.errors import Fault
from cellkit.core.stage import read_parameters
from cellkit.train._geometry import MOVEMENTS, Frame
from cellkit.train._looks import LOOKS
from cellkit.train._named import Named
from cellkit.train._warp import Mirrored, Warp

__all__ = [
    "AUGMENTATIONS",
    "PRESETS",
    "Augmentation",
    "AugmentationStep",
    "Augmented",
    "augment_faults",
    "augment_steps",
]

AUGMENTATIONS = Named("augmentation", {**MOVEMENTS, **LOOKS})
"""Movements and changes of values by name, with typed parameters."""

_MOVES: tuple[Mapping[str, Any], ...] = (
    {"name": "flip_horizontal"},
    {"name": "flip_vertical"},
    {"name": "quarter_turn", "p": 0.75},
)

PRESETS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "none": (),
    "flips": _MOVES,
    "light": (
        *_MOVES,
        {"name": "scale", "p": 0.5, "low": 0.8, "high": 1.25},
        {"name": "brightness", "p": 0.3, "amount": 0.1},
        {"name": "contrast", "p": 0.3},
        {"name": "noise", "p": 0.2},
    ),
    "full": (
        *_MOVES,
        {"name": "rotate", "p": 0.3},
        {"name": "scale", "p": 0.5},
        {"name": "shift", "p": 0.3},
        {"name": "crop", "p": 0.2},
        {"name": "elastic", "p": 0.2},
        {"name": "piecewise_affine", "p": 0.1},
        {"name": "stain_jitter", "p": 0.3},
        {"name": "hue", "p": 0.2},
        {"name": "saturation", "p": 0.2},
        {"name": "grayscale", "p": 0.1},
        {"name": "channel_drop", "p": 0.05},
        {"name": "invert", "p": 0.1},
        {"name": "brightness", "p": 0.3},
        {"name": "contrast", "p": 0.3},
        {"name": "gamma", "p": 0.3},
        {"name": "blur", "p": 0.15},
        {"name": "median_blur", "p": 0.05},
        {"name": "sharpen", "p": 0.15},
        {"name": "noise", "p": 0.2},
    ),
}
"""Lists that have a name."""


@dataclass(frozen=True)
class AugmentationStep:
    """One augmentation of a list: its name, how often it is applied (0 to 1), its parameters, complete."""

    name: str
    p: float = 0.5
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Augmented:
    """A crop: `image` float32 (y, x, c), `labels` int32 (y, x) or (l, y, x), `boxes`; None where none were given.

    `origins`: the number that each new number in `labels` had before (see `Augmentation`). `applied`: the names of
    what was done. `zoom`: how much larger objects are, along a side.
    """

    image: np.ndarray
    labels: np.ndarray | None = None
    boxes: Boxes | None = None
    origins: Mapping[int, int] = field(default_factory=dict)
    applied: tuple[str, ...] = ()
    zoom: float = 1.0


class Augmentation:
    """Crops of images with what belongs to them, varied by chance.

    `spec`: the name of an augmentation or of one of `PRESETS`, a mapping of `name`, `p` (0.5) and the augmentation's
    own parameters, or a list of those; None for nothing. `interpolation` is that of images; labels take the nearest
    value. `mirrored`: what lies beyond an image's edge is mirrored, and so are its labels: as objects of their own,
    which get new numbers (``"objects"``), with the same numbers (``"same"``, for labels that are classes) or as -1
    (``"unknown"``), which targets leave out. `visible`: the least share of a box that a crop must hold for the box to
    stay. `value_range`: of the images; changes of values take its ends for 0 and 1, and bring none beyond it but those
    that were before.

    Raises `UsageError` with every fault of `spec`.
    """

    def __init__(
        self,
        spec: Any = (),
        *,
        interpolation: Literal["linear", "cubic"] = "linear",
        mirrored: Mirrored = "objects",
        visible: float = 0.25,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not value_range[0] < value_range[1]:
            raise UsageError(f"augmentation: value_range: wanted the lower end first, got {value_range}")
        if interpolation not in ("linear", "cubic"):
            raise UsageError(f"augmentation: interpolation: wanted linear or cubic, got {interpolation!r}")
        if mirrored not in ("objects", "same", "unknown"):
            raise UsageError(f"augmentation: mirrored: wanted objects, same or unknown, got {mirrored!r}")
        self.steps = augment_steps(spec)
        self.interpolation = interpolation
        self.mirrored: Mirrored = mirrored
        self.visible = visible
        self.value_range = value_range

    def __call__(
        self,
        image: np.ndarray,
        labels: np.ndarray | None = None,
        boxes: Boxes | None = None,
        *,
        rng: np.random.Generator,
        size: tuple[int, int] | None = None,
        corner: tuple[int, int] = (0, 0),
    ) -> Augmented:
        """Return a crop of `size` (height, width; the whole image without it), the same for the same state of `rng`.

        `image`: (y, x, c), float32 or float16, or uint8 or uint16 that stand for shares of 255 or 65,535. `labels`:
        whole numbers (y, x), or (l, y, x) for objects that overlap; numbers differ between layers. `corner`: the row
        and column in the image of the first pixel of the crop before it is moved; it may lie outside.

        Raises `KindError` where arrays do not fit one another.
        """
        layers = _checked(image, labels)
        size = image.shape[:2] if size is None else size
        if min(size) < 1:
            raise UsageError(f"augmentation: wanted a crop of at least 1 x 1 px, got {size[0]} x {size[1]}")
        chosen = [step for step in self.steps if rng.random() < step.p]
        matrix, moved = _movement(chosen, Frame(rng, *size))
        warp = Warp(image.shape[:2], size, corner, matrix, moved)
        out = self._changed(warp.image(image, cubic=self.interpolation == "cubic"), chosen, rng)
        found: list[np.ndarray] = []
        origins: dict[int, int] = {}
        for layer in layers:
            one, new = warp.labels(layer, self.mirrored, max(origins, default=_top(layers)))
            found.append(one)
            origins |= new
        crop = None if labels is None else (found[0] if labels.ndim == 2 else np.stack(found))
        inside = None if boxes is None else warp.boxes(boxes, self.visible)
        zoom = float(abs(np.linalg.det(matrix[:2, :2])) ** -0.5)
        return Augmented(out, crop, inside, origins, tuple(step.name for step in chosen), zoom)

    def _changed(self, image: np.ndarray, chosen: Sequence[AugmentationStep], rng: np.random.Generator) -> np.ndarray:
        steps = [step for step in chosen if step.name in LOOKS]
        if not steps:
            return image
        low, high = self.value_range
        least, most = min(low, float(image.min())), max(high, float(image.max()))
        if (low, high) != (0, 1):
            image = (image - np.float32(low)) / np.float32(high - low)
        for step in steps:
            image = LOOKS[step.name](image, rng, **step.parameters)
        if (low, high) != (0, 1):
            image = image * np.float32(high - low) + np.float32(low)
        return np.clip(image, np.float32(least), np.float32(most))


def augment_faults(spec: Any, where: str = "augment") -> list[Fault]:
    """Return all that is wrong with `spec` (see `Augmentation`); `where` begins the place of each fault."""
    return _read(spec, where)[1]


def augment_steps(spec: Any) -> tuple[AugmentationStep, ...]:
    """Return the steps that `spec` (see `Augmentation`) stands for. Raises `UsageError` with every fault of it."""
    steps, found = _read(spec, "augment")
    if found:
        raise UsageError("; ".join(map(str, found)))
    return tuple(steps)


def _of_every_step(*, p: Annotated[float, Span(0, 1)] = 0.5) -> None:
    """Beside an augmentation's own parameters; read by its signature alone."""


_P = read_parameters(_of_every_step)["p"]


def _read(spec: Any, where: str) -> tuple[list[AugmentationStep], list[Fault]]:
    if isinstance(spec, (list, tuple)):
        read = [_read(item, f"{where}[{number}]") for number, item in enumerate(spec)]
        return [step for steps, _ in read for step in steps], [fault for _, found in read for fault in found]
    if spec is None:
        return [], []
    if isinstance(spec, str) and spec in PRESETS:
        return _read(PRESETS[spec], where)
    values = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(values, Mapping) or "name" not in values:
        wanted = "wanted the name of an augmentation, or a mapping with `name`"
        return [], [Fault(where, f"{wanted}, got {spec!r}", f"lists with a name: {', '.join(PRESETS)}")]
    rest = {key: value for key, value in values.items() if key not in ("name", "p")}
    found, p = [], _P.default
    if "p" in values:
        try:
            p = _P.coerce(values["p"])
        except ValueError as error:
            found.append(Fault(f"{where}.p", str(error)))
    found += AUGMENTATIONS.faults(values["name"], rest, where)
    if found:
        return [], found
    return [AugmentationStep(values["name"], p, AUGMENTATIONS.complete(values["name"], rest))], []


def _movement(chosen: Sequence[AugmentationStep], frame: Frame) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the movements of `chosen` as one: the matrices in their order, and the sum of the deformations before."""
    matrix, moved = np.eye(3), None
    for step in chosen:
        if step.name in MOVEMENTS:
            drawn = MOVEMENTS[step.name](frame, **step.parameters)
            if drawn.ndim == 2:
                matrix = matrix @ drawn
            else:
                moved = drawn if moved is None else moved + drawn
    return matrix, moved


def _checked(image: np.ndarray, labels: np.ndarray | None) -> Sequence[np.ndarray]:
    kinds = (np.float32, np.float16, np.uint8, np.uint16)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype not in kinds or image.size == 0:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise KindError(f"augmentation: wanted an image, float32 (y, x, c) with at least a pixel, got {given}")
    if labels is None:
        return ()
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim not in (2, 3):
        given = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise KindError(f"augmentation: wanted labels, int32 (y, x), got {given}")
    if labels.shape[-2:] != image.shape[:2]:
        raise KindError(f"augmentation: the image is {image.shape[:2]} (y, x) but the labels are {labels.shape}")
    return (labels,) if labels.ndim == 2 else tuple(labels)


def _top(layers: Sequence[np.ndarray]) -> int:
    """Return a number above which new ones do not meet another layer's; one layer sees to that by itself."""
    return max((int(layer.max()) for layer in layers), default=0) if len(layers) > 1 else 0
