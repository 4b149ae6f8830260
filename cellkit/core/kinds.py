"""The kinds of layer: what an array in a sample means, and what it must look like.

Every kind is an annotation for a stage's signature (``image: Image``) and carries a `Kind`. The set is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.histogram import Histogram

__all__ = [
    "KINDS",
    "Boxes",
    "Classes",
    "Field",
    "Histogram",
    "Image",
    "Instances",
    "Kind",
    "Labels",
    "Mask",
    "Prob",
    "Table",
    "kind_of",
    "validate",
]


@dataclass(frozen=True)
class Kind:
    """What a layer holds: its name (also the default layer name), dtype and axes (``yx``, ``yxc`` or none)."""

    name: str
    meaning: str
    dtype: str = ""
    axes: str = ""

    def __str__(self) -> str:
        return self.name.capitalize()


if TYPE_CHECKING:
    import pandas as pd

    Image: TypeAlias = np.ndarray
    Prob: TypeAlias = np.ndarray
    Field: TypeAlias = np.ndarray
    Mask: TypeAlias = np.ndarray
    Classes: TypeAlias = np.ndarray
    Labels: TypeAlias = np.ndarray
    Table: TypeAlias = pd.DataFrame
else:
    _IMAGE = Kind("image", "intensities, nominal [0, 1]", "float32", "yxc")
    _PROB = Kind("prob", "per-class probability in [0, 1]", "float32", "yxc")
    _FIELD = Kind("field", "any scalar map: distance, gradient", "float32", "yx")
    _MASK = Kind("mask", "foreground", "bool", "yx")
    _CLASSES = Kind("classes", "semantic class per pixel", "uint8", "yx")
    _LABELS = Kind("labels", "objects that do not overlap, 0 = background", "int32", "yx")
    Image = Annotated[np.ndarray, _IMAGE]
    Prob = Annotated[np.ndarray, _PROB]
    Field = Annotated[np.ndarray, _FIELD]
    Mask = Annotated[np.ndarray, _MASK]
    Classes = Annotated[np.ndarray, _CLASSES]
    Labels = Annotated[np.ndarray, _LABELS]
    # pandas is not imported for the sake of an annotation.
    Table = Annotated[object, Kind("table", "one row per object: a pandas DataFrame")]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Detections: `xyxy` float32 (n, 4), half-open in pixels; `scores` float32 (n,); `classes` int32 (n,)."""

    xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        if self.xyxy.shape != (n, 4) or self.scores.shape != (n,) or self.classes.shape != (n,):
            raise KindError(
                "Boxes: wanted xyxy (n, 4), scores (n,), classes (n,); got "
                f"{self.xyxy.shape}, {self.scores.shape}, {self.classes.shape}"
            )

    def __len__(self) -> int:
        return len(self.xyxy)

    def take(self, index: np.ndarray) -> Boxes:
        """Return the boxes at the places `index`, in that order."""
        return Boxes(self.xyxy[index], self.scores[index], self.classes[index])


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects that may overlap: `boxes` and, for each, one bool mask cropped to its box rounded outwards.

    `probs`, where a network gave them, are the probabilities behind the masks: float32 in [0, 1], of a mask's shape.
    """

    boxes: Boxes
    masks: tuple[np.ndarray, ...]
    probs: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.boxes) != len(self.masks):
            raise KindError(f"Instances: {len(self.boxes)} boxes but {len(self.masks)} masks")
        if self.probs is None:
            return
        if len(self.probs) != len(self.masks):
            raise KindError(f"Instances: {len(self.masks)} masks but {len(self.probs)} probs")
        for i, (mask, prob) in enumerate(zip(self.masks, self.probs, strict=True)):
            if prob.dtype != np.float32 or prob.shape != mask.shape:
                raise KindError(
                    f"Instances: probs of object {i}: wanted float32 {mask.shape}, got {prob.dtype} {prob.shape}"
                )

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, index: np.ndarray) -> Instances:
        """Return the objects at the places `index`, in that order."""
        boxes = self.boxes.take(index)
        probs = None if self.probs is None else tuple(self.probs[i] for i in index)
        return Instances(boxes, tuple(self.masks[i] for i in index), probs)


_CLASS_KINDS: dict[type, Kind] = {
    Boxes: Kind("boxes", "detections"),
    Instances: Kind("instances", "objects that may overlap: boxes with one cropped mask each"),
    Histogram: Kind("histogram", "additive counts of an image's values, measured by the engine"),
}


def kind_of(annotation: Any) -> Kind | None:
    """Return the kind that an annotation such as `Image` stands for, or None where it stands for none."""
    if isinstance(annotation, type):
        return _CLASS_KINDS.get(annotation)
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Kind):
            return extra
    return None


_ANNOTATIONS = (Image, Prob, Field, Mask, Classes, Labels, Boxes, Instances, Histogram, Table)
KINDS: dict[str, Kind] = {k.name: k for k in map(kind_of, _ANNOTATIONS) if k is not None}


def validate(kind: Kind, value: Any, where: str) -> None:
    """Raise `KindError` unless `value` has the class, dtype and axes of `kind`. Constant time: values are not read."""
    if kind.dtype:
        if not isinstance(value, np.ndarray):
            raise KindError(f"{where}: wanted {kind}, a {kind.dtype} array, got {type(value).__name__}")
        if value.dtype != kind.dtype or value.ndim != len(kind.axes):
            raise KindError(
                f"{where}: wanted {kind}, {kind.dtype} ({', '.join(kind.axes)}), got {value.dtype} {value.shape}"
            )
        return
    for cls, class_kind in _CLASS_KINDS.items():
        if class_kind == kind and not isinstance(value, cls):
            raise KindError(f"{where}: wanted {kind}, got {type(value).__name__}")
    if kind.name == "table" and not hasattr(value, "columns"):
        raise KindError(f"{where}: wanted a pandas DataFrame, got {type(value).__name__}")
