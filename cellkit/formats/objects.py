"""The objects of one image, as every format reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.core.kinds import Boxes, Instances
from cellkit.formats._runs import Runs, clash, drawn, merged, paint, runs_of, runs_of_part, stable_order

__all__ = ["MAX_PIXELS", "UNNAMED", "ObjectSet", "Runs", "check_size", "named"]

MAX_PIXELS = 2**31
"""Most pixels of an image, or of one object's box, that are drawn."""

UNNAMED = "object"
"""The class of objects of which none is known, where a format needs one."""

_MAX_SIDE = 2**31 - 1
_MOST_IN_FILE = 2**40  # pixels that are numbered: a slide of a million by a million
_MAX_ID = 2**31 - 1


@dataclass(frozen=True, eq=False)
class ObjectSet:
    """The objects of one image; those with masks may overlap.

    `name` identifies the image (a file's stem), `size` is its (height, width). Per object: `ids` int64 (n,), different
    and from 1 up; `boxes` float64 (n, 4) as x0, y0, x1, y1, half-open in pixels from 0 (those a file gives, else those
    of the masks); `classes`, `scores` float64 and `crowd` bool (n,) where known. `runs` are the masks, None where there
    are only boxes. `categories` maps the class names of the whole data set to their numbers there, `pixel_size` is
    (y, x) in micrometres, `image_id` a data set's number of the image, `file_name` its file where the format says it;
    `notes` tell what a reader had to decide; `continued`: these are more objects of the image of the set before.

    Raises `FormatError` where these contradict each other.
    """

    name: str
    size: tuple[int, int]
    ids: np.ndarray
    boxes: np.ndarray
    runs: Runs | None = None
    classes: tuple[str, ...] | None = None
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    categories: Mapping[str, int] = field(default_factory=dict)
    pixel_size: tuple[float, float] | None = None
    image_id: int | None = None
    file_name: str = ""
    notes: tuple[str, ...] = ()
    continued: bool = False

    def __post_init__(self) -> None:
        check_size(self.size, self.name)
        n = len(self.ids)
        if self.runs is None and not n:  # no objects have masks as much as boxes
            empty = np.zeros(0, np.int64)
            object.__setattr__(self, "runs", Runs(empty, empty, empty))
        shapes = {"ids": self.ids.shape == (n,), "boxes": self.boxes.shape == (n, 4)}
        shapes["classes"] = self.classes is None or len(self.classes) == n
        shapes["scores"] = self.scores is None or self.scores.shape == (n,)
        shapes["crowd"] = self.crowd is None or self.crowd.shape == (n,)
        wrong = [key for key, fits in shapes.items() if not fits]
        if wrong:
            raise FormatError(f"image {self.name!r}: {', '.join(wrong)} do not fit {n} objects")
        if n and (self.ids.min() < 1 or self.ids.max() > _MAX_ID or len(np.unique(self.ids)) != n):
            raise FormatError(f"image {self.name!r}: ids must be different whole numbers from 1 to {_MAX_ID}")
        if self.scores is not None and not np.isfinite(self.scores).all():
            raise FormatError(f"image {self.name!r}: a score is not finite")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_labels(
        cls, labels: np.ndarray, *, name: str = "image", pixel_size: tuple[float, float] | None = None
    ) -> ObjectSet:
        """Return the objects of a label image, integer (y, x) with 0 for background; the pieces of one stay one."""
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise FormatError(f"image {name!r}: wanted labels, integers (y, x), got {labels.dtype} {labels.shape}")
        size = (int(labels.shape[0]), int(labels.shape[1]))
        return _of_values(runs_of(labels), size, name).with_(pixel_size=pixel_size)

    @classmethod
    def of_part(
        cls, labels: np.ndarray, origin: tuple[int, int], size: tuple[int, int], *, name: str = "image"
    ) -> ObjectSet:
        """Return the objects of `labels`, the part from `origin` (y, x) on of an image of `size`."""
        return _of_values(runs_of_part(labels, origin, size[0]), size, name)

    @classmethod
    def of_runs(
        cls, runs: Runs, size: tuple[int, int], ids: np.ndarray | None = None, name: str = "image"
    ) -> ObjectSet:
        """Return objects with these masks, numbered from 1 unless `ids` are given."""
        count = int(runs.owner.max(initial=-1)) + 1 if ids is None else len(ids)
        numbers = np.arange(1, count + 1, dtype=np.int64) if ids is None else np.asarray(ids, np.int64)
        return cls(name, size, numbers, runs.boxes(count, size[0]).astype(np.float64), runs)

    @classmethod
    def of_boxes(cls, boxes: np.ndarray, size: tuple[int, int], name: str = "image") -> ObjectSet:
        """Return objects that are boxes without masks, (n, 4) as x0, y0, x1, y1, numbered from 1."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return cls(name, size, np.arange(1, len(boxes) + 1, dtype=np.int64), boxes)

    @classmethod
    def of_instances(
        cls, found: Instances | Boxes, size: tuple[int, int], *, name: str = "image", names: Sequence[str] = ()
    ) -> ObjectSet:
        """Return what a layer of detections holds; `names` are those of its classes (else their numbers)."""
        boxes = found.boxes if isinstance(found, Instances) else found
        count, (height, width) = len(boxes), size
        runs = None
        if isinstance(found, Instances):
            parts = []
            for i, mask in enumerate(found.masks):
                x, y = (int(np.floor(v)) for v in boxes.xyxy[i, :2])
                inside = mask[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
                at_x, at_y = np.nonzero(inside.T)
                start = (at_x + max(0, x)) * height + at_y + max(0, y)
                parts.append((start, np.full(len(start), i)))
            starts = np.concatenate([p[0] for p in parts] or [np.zeros(0, np.int64)])
            owner = np.concatenate([p[1] for p in parts] or [np.zeros(0, np.int64)])
            runs = merged(starts, starts + 1, owner)
        classes = tuple(names[c] if 0 <= c < len(names) else str(c) for c in boxes.classes.tolist())
        made = cls.of_boxes(boxes.xyxy, size, name)
        made = made.with_(runs=runs, classes=classes, scores=boxes.scores.astype(np.float64))
        return made.with_(boxes=runs.boxes(count, height).astype(np.float64)) if runs is not None else made

    def with_(self, **changes: object) -> ObjectSet:
        """Return a copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each mask, or the area of each box where there are no masks, float64 (n,)."""
        if self.runs is not None:
            return self.runs.areas(len(self)).astype(np.float64)
        return np.asarray(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1))

    def overlap(self) -> str:
        """Return a sentence that names two objects which share a pixel, or an empty string."""
        found = clash(self.runs) if self.runs is not None else None
        if found is None:
            return ""
        x, y = divmod(found[2], self.size[0])
        first, second = self.ids[found[0]], self.ids[found[1]]
        return f"objects {first} and {second} share the pixel at row {y}, column {x}"

    def labels(self) -> np.ndarray:
        """Draw the objects as labels, int32 (y, x). Raises `FormatError` where they overlap or have no masks."""
        if self.runs is None:
            raise FormatError(f"image {self.name!r}: its objects are boxes without masks; labels need masks")
        _check_pixels(self.size[0] * self.size[1], f"image {self.name!r}: {self.size[0]} x {self.size[1]} px")
        shared = self.overlap()
        if shared:
            raise FormatError(
                f"image {self.name!r}: {shared}; labels do not overlap (COCO, GeoJSON and ROIs hold objects that do)"
            )
        order = np.argsort(self.runs.starts, kind="stable")
        values = self.ids.astype(np.int32)[self.runs.owner[order]]
        return paint(self.runs.starts[order], self.runs.ends[order], values, self.size)

    def mask(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Draw one object: its mask in its own box, bool (y, x), and the (row, column) of that box in the image."""
        if self.runs is None:
            raise FormatError(f"image {self.name!r}: its objects are boxes without masks")
        starts, ends = self.runs.of(index)
        own = Runs(starts, ends, np.zeros(len(starts), np.int64))
        x0, y0, x1, y1 = (int(v) for v in own.boxes(1, self.size[0])[0])
        height, width = y1 - y0, x1 - x0
        _check_pixels(height * width, f"image {self.name!r}, object {self.ids[index]}: a box of {height} x {width} px")
        return drawn(starts, ends, (x0, y0, x1, y1), self.size[0]), (y0, x0)

    def instances(self) -> Instances:
        """Return the objects as a layer; class numbers are places in `categories`, else in the sorted names."""
        names = list(self.categories) or sorted(set(self.classes or ()))
        numbers = [names.index(c) if c in names else 0 for c in self.classes or [""] * len(self)]
        scores = np.ones(len(self)) if self.scores is None else self.scores
        xyxy = self.boxes if self.runs is None else self.runs.boxes(len(self), self.size[0])
        boxes = Boxes(xyxy.astype(np.float32), scores.astype(np.float32), np.array(numbers, np.int32))
        return Instances(boxes, tuple(self.mask(i)[0] for i in range(len(self))))

    def take(self, keep: Sequence[int] | np.ndarray) -> ObjectSet:
        """Return the objects at the ascending places `keep`."""
        at = np.asarray(keep, np.int64)
        return self.with_(
            ids=self.ids[at],
            boxes=self.boxes[at],
            runs=None if self.runs is None else self.runs.take(at),
            classes=None if self.classes is None else tuple(self.classes[i] for i in at),
            scores=None if self.scores is None else self.scores[at],
            crowd=None if self.crowd is None else self.crowd[at],
        )


def _of_values(runs: tuple[np.ndarray, np.ndarray, np.ndarray], size: tuple[int, int], name: str) -> ObjectSet:
    """Return the objects that runs in order, with their values, are made of."""
    starts, ends, values = runs
    if len(values) and (int(values.min()) < 0 or int(values.max()) > _MAX_ID):
        bad = int(values.min()) if int(values.min()) < 0 else int(values.max())
        raise FormatError(f"image {name!r}: labels lie in 0 to {_MAX_ID}, got {bad}")
    order = stable_order(values)
    values = values[order]
    new = np.append(True, values[1:] != values[:-1]) if len(values) else np.zeros(0, bool)
    made = Runs(starts[order], ends[order], np.cumsum(new, dtype=np.int64) - 1)
    return ObjectSet.of_runs(made, size, values[new].astype(np.int64), name)


def named(classes: Sequence[str]) -> tuple[str, ...] | None:
    """Return the classes of an image's objects, or None where none has a name."""
    return None if set(classes) <= {UNNAMED, ""} else tuple(classes)


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise `FormatError` unless `size` is a height and a width that an image can have."""
    height, width = size
    if not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise FormatError(f"image {name!r}: wanted a height and a width of 1 to {_MAX_SIDE} px, got {height} x {width}")
    if height * width > _MOST_IN_FILE:
        raise FormatError(f"image {name!r}: {height} x {width} px are more than any image has; is the file damaged?")


def _check_pixels(pixels: int, what: str) -> None:
    if pixels > MAX_PIXELS:
        raise FormatError(f"{what} is more than the {MAX_PIXELS} px that are drawn at once")
