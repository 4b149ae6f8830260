"""The forms that truth is stored in, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.core.kinds import Boxes, Instances
from cellkit.io.reader import read_labels

if TYPE_CHECKING:
    from cellkit.formats.objects import ObjectSet

__all__ = [
    "Annotated",
    "BoxList",
    "ClassFile",
    "LabelFile",
    "MaskFiles",
    "SizeMismatch",
    "Truth",
    "box_faults",
]


class SizeMismatch(FormatError):
    """The truth of an image is not of its size."""


@dataclass(frozen=True)
class Truth:
    """The truth of one image. `kind` is what it holds, `gives` the kinds that follow from it."""

    path: Path

    kind: ClassVar[str] = ""
    gives: ClassVar[tuple[str, ...]] = ("labels", "classes", "boxes", "instances")

    def labels(self, size: tuple[int, int]) -> np.ndarray:
        """Return the objects as `Labels`."""
        raise NotImplementedError

    def classes(self, size: tuple[int, int]) -> np.ndarray:
        """Return the `Classes` of the pixels."""
        return (self.labels(size) > 0).astype(np.uint8)

    def boxes(self, size: tuple[int, int]) -> Boxes:
        """Return the boxes around the objects."""
        return boxes_of(self.labels(size))

    def instances(self, size: tuple[int, int]) -> Instances:
        """Return the objects as `Instances`, which may overlap."""
        labels = self.labels(size)
        boxes = boxes_of(labels)
        masks = []
        for number, (x0, y0, x1, y1) in zip(_ids(labels), boxes.xyxy.astype(np.int64).tolist(), strict=True):
            masks.append(labels[y0:y1, x0:x1] == number)
        return Instances(boxes, tuple(masks))


@dataclass(frozen=True)
class LabelFile(Truth):
    """A label image: one number an object."""

    kind: ClassVar[str] = "labels"

    def labels(self, size: tuple[int, int]) -> np.ndarray:
        """Return the label image."""
        labels = read_labels(self.path)
        _same_size(self.path, labels.shape, size)
        return labels


@dataclass(frozen=True)
class ClassFile(Truth):
    """An image of classes: 0 background, touching objects of a class not apart."""

    names: tuple[str, ...] = ()

    kind: ClassVar[str] = "classes"
    gives: ClassVar[tuple[str, ...]] = ("classes",)

    def classes(self, size: tuple[int, int]) -> np.ndarray:
        """Return the classes. Raises `FormatError` where a value has no name."""
        values = self.values(size)
        most = int(values.max(initial=0))
        if most > 255 or (self.names and most >= len(self.names)):
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.names)) or "0 to 255"
            raise FormatError(f"{self.path}: holds the value {most}; the classes are {known}")
        return values.astype(np.uint8)

    def values(self, size: tuple[int, int]) -> np.ndarray:
        """Return what is stored, int32 (y, x), whether or not it has a name."""
        values = read_labels(self.path)
        _same_size(self.path, values.shape, size)
        return values


@dataclass(frozen=True)
class MaskFiles(Truth):
    """A folder with one mask file for each object: values above 0."""

    files: tuple[Path, ...] = ()

    kind: ClassVar[str] = "instances"

    def masks(self, size: tuple[int, int]) -> Iterator[tuple[Path, np.ndarray]]:
        """Yield the mask of each file, bool (y, x), one at a time."""
        for path in self.files:
            mask = read_labels(path) > 0
            _same_size(path, mask.shape, size)
            yield path, mask

    def labels(self, size: tuple[int, int]) -> np.ndarray:
        """Return the masks as labels, numbered in the order of the files. Raises `FormatError` where two overlap."""
        labels = np.zeros(size, np.int32)
        for number, (path, mask) in enumerate(self.masks(size), 1):
            shared = labels[mask]
            if shared.any():
                other = self.files[int(shared.max()) - 1]
                raise FormatError(
                    f"{path}: shares {np.count_nonzero(shared)} px with {other.name}; labels do not overlap (ask for "
                    "instances, or mend the masks: `cellkit audit` lists them)"
                )
            labels[mask] = number
        return labels

    def instances(self, size: tuple[int, int]) -> Instances:
        """Return one mask for each file that holds one."""
        xyxy, masks = [], []
        for _, mask in self.masks(size):
            if mask.any():
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
                xyxy.append([x0, y0, x1, y1])
                masks.append(mask[y0:y1, x0:x1].copy())
        return Instances(_boxes(np.array(xyxy, np.float32).reshape(-1, 4)), tuple(masks))

    def boxes(self, size: tuple[int, int]) -> Boxes:
        """Return the boxes around the masks."""
        return self.instances(size).boxes


@dataclass(frozen=True)
class BoxList(Truth):
    """Boxes as they stand in a file, sound or not: float64 (n, 4) as x0, y0, x1, y1, half-open in pixels from 0.

    `numbers` are their classes, `ids` name them in messages. A `fault` is why the file cannot be used at all.
    """

    xyxy: np.ndarray
    numbers: tuple[int, ...] = ()
    ids: tuple[str, ...] = ()
    fault: str = ""

    kind: ClassVar[str] = "boxes"
    gives: ClassVar[tuple[str, ...]] = ("boxes",)

    def __post_init__(self) -> None:
        self.xyxy.setflags(write=False)

    def boxes(self, size: tuple[int, int]) -> Boxes:
        """Return the boxes. Raises `FormatError` where one has no extent or lies outside the image."""
        self.refuse()
        for at, reason in enumerate(box_faults(self.xyxy, size)):
            if reason:
                raise FormatError(
                    f"{self.path}: box {self.ids[at]} {reason} (mend it, or take the sound ones: "
                    "`boxes(invalid='drop')`, in a training `data: {invalid: drop}`; `cellkit audit` lists them)"
                )
        return _boxes(self.xyxy, self.numbers)

    def refuse(self) -> None:
        """Raise `FormatError` where the file cannot be used."""
        if self.fault:
            raise FormatError(self.fault)

    def sound(self, size: tuple[int, int]) -> Boxes:
        """Return the boxes without those that `boxes` refuses."""
        self.refuse()
        kept = [i for i, reason in enumerate(box_faults(self.xyxy, size)) if not reason]
        return _boxes(self.xyxy[kept], [self.numbers[i] for i in kept])


@dataclass(frozen=True)
class Annotated(BoxList):
    """Objects of a COCO file that have masks as well as boxes: their entries, and those of image and categories."""

    image: Mapping[str, Any] = field(default_factory=dict)
    annotations: Sequence[Mapping[str, Any]] = ()
    categories: Sequence[Mapping[str, Any]] = ()

    kind: ClassVar[str] = "instances"
    gives: ClassVar[tuple[str, ...]] = Truth.gives

    def labels(self, size: tuple[int, int]) -> np.ndarray:
        """Return the masks as labels, numbered in the order of the file. Raises `FormatError` where two overlap."""
        if not self.annotations:
            return np.zeros(size, np.int32)
        return self._objects(size).labels()

    def instances(self, size: tuple[int, int]) -> Instances:
        """Return the masks. Raises `FormatError` where one is damaged."""
        if not self.annotations:
            return Instances(_boxes(np.zeros((0, 4))), ())
        objects = self._objects(size)
        masks = tuple(objects.mask(i)[0] for i in range(len(objects)))
        return Instances(_boxes(objects.boxes, self.numbers), masks)

    def classes(self, size: tuple[int, int]) -> np.ndarray:
        """Return the class of each pixel: 1 for the first class of the data set and so on, 0 for background."""
        return np.array([0, *(number + 1 for number in self.numbers)], np.uint8)[self.labels(size)]

    def each(self, size: tuple[int, int]) -> Iterator[tuple[str, int, int, np.ndarray]]:
        """Yield id, first row, first column and pixels of each mask."""
        if not self.annotations:
            return
        objects = self._objects(size)
        for i, name in enumerate(self.ids if objects is not None else ()):
            mask, (row, column) = objects.mask(i)
            yield name, row, column, mask

    def _objects(self, size: tuple[int, int]) -> ObjectSet:
        from cellkit.formats import coco

        image = {**self.image, "id": 1, "height": size[0], "width": size[1]}
        # Without their boxes, so that those are drawn around the masks.
        own = [
            {"id": i, "image_id": 1, "category_id": entry["category_id"], "segmentation": entry["segmentation"]}
            for i, entry in enumerate(self.annotations, 1)
        ]
        document = {"images": [image], "annotations": own, "categories": list(self.categories)}
        return coco.decode_dataset(coco.dumps(document), str(self.path))[0]


def boxes_of(labels: np.ndarray) -> Boxes:
    """Return the box around each object of a label image, ascending by id."""
    flat = np.flatnonzero(labels)
    values, place = np.unique(labels.ravel()[flat], return_inverse=True)
    rows, columns = np.divmod(flat, max(1, labels.shape[1]))
    xyxy = np.empty((len(values), 4), np.float32)
    for column, (at, ufunc, start) in enumerate(
        ((columns, np.minimum, 2**31), (rows, np.minimum, 2**31), (columns, np.maximum, -1), (rows, np.maximum, -1))
    ):
        ends = np.full(len(values), start, np.int64)
        ufunc.at(ends, place, at)
        xyxy[:, column] = ends + (column > 1)
    return _boxes(xyxy)


def box_faults(xyxy: np.ndarray, size: tuple[int, int] | None) -> list[str]:
    """Return what is the matter with each box, an empty text where nothing is."""
    reasons = []
    for x0, y0, x1, y1 in xyxy.tolist():
        reason = ""
        if not np.isfinite([x0, y0, x1, y1]).all():
            reason = "holds no finite number"
        elif x1 <= x0 or y1 <= y0:
            reason = f"has no extent: x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
        elif size is not None and (x0 < 0 or y0 < 0 or x1 > size[1] or y1 > size[0]):
            reason = f"leaves the image of {size[0]} x {size[1]} px: x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
        reasons.append(reason)
    return reasons


def _boxes(xyxy: np.ndarray, numbers: Sequence[int] = ()) -> Boxes:
    n = len(xyxy)
    classes = np.array(numbers, np.int32) if len(numbers) else np.zeros(n, np.int32)
    return Boxes(np.asarray(xyxy, np.float32).reshape(n, 4), np.ones(n, np.float32), classes)


def _ids(labels: np.ndarray) -> np.ndarray:
    values = np.unique(labels)
    return values[values > 0]


def _same_size(path: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != tuple(size):
        raise SizeMismatch(
            f"{path}: is {found[0]} x {found[1]} px, but its image is {size[0]} x {size[1]} px (was one of the two "
            "resized or turned?)"
        )
