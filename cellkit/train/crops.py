"""Crops of images as a torch data set: drawn at random to train on, one after the other to judge by.

Crop i of epoch e depends on the seed, e and i alone: not on the number of workers, nor on what was drawn before, so
that a run that is taken up again sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from cellkit.core import Boxes, Span, UsageError
from cellkit.core.stage import read_parameters
from cellkit.grid.cover import Window
from cellkit.train._pictures import Picture, Pictures, TruthKind
from cellkit.train._preprocessing import Preprocessing, preprocessing
from cellkit.train.augment import Augmentation, Augmented
from cellkit.train.targets import TargetRules, target_maps

__all__ = [
    "CropRules",
    "DenseTargets",
    "EpochSampler",
    "Picture",
    "Pictures",
    "Preprocessing",
    "TrainingCrops",
    "TruthKind",
    "ValidationCrops",
    "collate_objects",
    "preprocessing",
    "start_worker",
]

Targets = Callable[[np.ndarray, Mapping[int, int] | None], dict[str, np.ndarray]]
Task = Literal["dense", "boxes", "masks"]

_DRAW, _ORDER = 0, 1


@dataclass(frozen=True, kw_only=True)
class CropRules:
    """How crops are drawn.

    `height` and `width` of a crop, `count`: crops in an epoch. `objects`: the share of crops that are put where an
    object is, which then lies anywhere in the crop. `balance_classes`: images and these objects are drawn so that all
    classes come up equally often. `least`: the area below which an object's piece in a crop is not asked of a
    detector. `seed`: of everything that is drawn.

    Raises `UsageError` for a value out of range.
    """

    height: Annotated[int, Span(1, 16_384, "px")] = 256
    width: Annotated[int, Span(1, 16_384, "px")] = 256
    count: Annotated[int, Span(1, 1_000_000_000)] = 1000
    objects: Annotated[float, Span(0, 1)] = 0.5
    balance_classes: bool = False
    least: Annotated[int, Span(1, 1_000_000, "px^2")] = 4
    seed: Annotated[int, Span(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        for name, parameter in read_parameters(CropRules).items():
            try:
                object.__setattr__(self, name, parameter.coerce(getattr(self, name)))
            except ValueError as error:
                raise UsageError(f"crops: {name}: {error}") from None


@dataclass(frozen=True)
class DenseTargets:
    """Makes the targets of a crop for a head, by `target_maps`; `count` is the number of its classes."""

    head: str
    rules: TargetRules = field(default_factory=TargetRules)
    count: int = 1

    def __call__(self, labels: np.ndarray, classes: Mapping[int, int] | None) -> dict[str, np.ndarray]:
        """Return the targets of `labels`, int32 (y, x), whose numbers are of `classes` (None: all of one)."""
        return target_maps(labels, self.head, self.rules, classes=classes, count=self.count)


class TrainingCrops(Dataset):
    """Crops drawn at random from `pictures`, varied by `augmentation` (None: not at all).

    `weights`: how often each image is drawn, in proportion (None: all alike); over an epoch each comes up as often as
    it should, but for less than one crop. Images smaller than a crop are mirrored up to it.

    An item is asked for as (epoch, index), as `EpochSampler` does, or as index alone, of epoch `epoch`. With `task`
    dense it is a dict: `image` float32 (c, y, x), `labels` int32 (y, x), `name`, `applied` (the augmentations, as one
    text), and what `targets` makes. Objects that overlap go over one another in their order. For detectors
    (``"boxes"``, ``"masks"``) it is `image` and a dict `target` as torchvision's detectors want it (`boxes` float32
    (n, 4) x0 y0 x1 y1, `labels` int64 from 1, `masks` uint8 (n, y, x), `area`, `iscrowd`, `image_id`), `name` and
    `applied`; there may be no object.

    Raises `UsageError` where weights do not fit, or the truth of the pictures not the task.
    """

    def __init__(
        self,
        pictures: Pictures,
        rules: CropRules,
        augmentation: Augmentation | None = None,
        *,
        targets: Targets | None = None,
        weights: Sequence[float] | np.ndarray | None = None,
        task: Task = "dense",
    ) -> None:
        _refuse(pictures, task, targets)
        self.pictures, self.rules, self.targets, self.task = pictures, rules, targets, task
        self.augmentation = augmentation or Augmentation(mirrored=_mirrored(pictures))
        if pictures.truth == "classes" and self.augmentation.mirrored == "objects":
            raise UsageError("crops: the pixels of a class have no numbers of their own; give mirrored='same'")
        self.epoch = 0
        self._sums = np.cumsum(self._shares(weights))
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.intp))

    def __len__(self) -> int:
        return self.rules.count

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not 0 <= index < len(self):
            raise IndexError(f"crop {index} of {len(self)}")
        number = int(self.order(epoch)[index])
        picture = self.pictures[number]
        rng = np.random.default_rng((self.rules.seed, epoch, index, _DRAW))
        size = self.rules.height, self.rules.width
        corner = self._corner(picture, rng)
        crop = self.augmentation(picture.image, picture.labels, picture.boxes, rng=rng, size=size, corner=corner)
        if self.task != "dense":
            return _objects(crop, picture, number, self.task, self.rules.least)
        return _dense(crop, picture, self.targets)

    def order(self, epoch: int) -> np.ndarray:
        """Return which picture each crop of an epoch is of, intp (count,)."""
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.rules.seed, epoch, 0, _ORDER))
            # Evenly spaced places on the line of weights: each image gets its share, but for less than one crop.
            places = (rng.random() + np.arange(len(self))) / len(self) * self._sums[-1]
            numbers = np.minimum(np.searchsorted(self._sums, places, side="right"), len(self._sums) - 1)
            self._order = epoch, rng.permutation(numbers)
        return self._order[1]

    def _shares(self, weights: Sequence[float] | np.ndarray | None) -> np.ndarray:
        shares = np.ones(len(self.pictures)) if weights is None else np.array(weights, np.float64)
        if (
            shares.shape != (len(self.pictures),)
            or not np.isfinite(shares).all()
            or shares.min() < 0
            or not shares.any()
        ):
            raise UsageError(
                f"crops: weights: wanted one number from 0 for each of {len(self.pictures):,} images, not all 0"
            )
        self._rarity = np.zeros(1)
        if not self.rules.balance_classes:
            return shares
        # A class, then an image that holds it, by its share; images without any object as those of the commonest class.
        kinds = [np.unique(self.pictures.anchors(i)[:, 2]) for i in range(len(self.pictures))]
        totals = np.zeros(1 + max((int(kind.max()) for kind in kinds if len(kind)), default=0))
        for share, kind in zip(shares, kinds, strict=True):
            totals[kind] += share
        there = totals > 0
        self._rarity = np.divide(1, totals, out=np.zeros_like(totals), where=there)
        least = self._rarity[there].min(initial=np.inf) if there.any() else 1.0
        return shares * [self._rarity[kind].sum() if len(kind) else least for kind in kinds]

    def _corner(self, picture: Picture, rng: np.random.Generator) -> tuple[int, int]:
        """Return the row and column of the crop's first pixel; the crop lies in the image where it fits into it."""
        spare = [side - own for side, own in zip(picture.shape, (self.rules.height, self.rules.width), strict=True)]
        at = [int(rng.integers(min(0, room), max(0, room) + 1)) for room in spare]
        anchors = picture.anchors
        if len(anchors) and rng.random() < self.rules.objects:
            if self.rules.balance_classes:
                kinds = np.unique(anchors[:, 2])
                chances = self._rarity[kinds] / self._rarity[kinds].sum()
                anchors = anchors[anchors[:, 2] == rng.choice(kinds, p=chances)]
            row, column, _ = anchors[rng.integers(len(anchors))].tolist()
            at = [row - int(rng.integers(self.rules.height)), column - int(rng.integers(self.rules.width))]
        top, left = (min(max(one, min(0, room)), max(0, room)) for one, room in zip(at, spare, strict=True))
        return top, left


class ValidationCrops(Dataset):
    """All of every image, one crop after the other, nothing varied; items are those of `TrainingCrops`.

    `size`: (height, width) of the crops, the last of a row or column moved back into the image, so that in the `weight`
    of dense targets, each pixel counts once; or None: whole images, each side mirrored up to a multiple of `divisor`,
    with weight 0 there, `shape` being that of the image (batches of one). Images smaller than a crop are mirrored up,
    with weight 0 where they are.
    """

    def __init__(
        self,
        pictures: Pictures,
        size: tuple[int, int] | None = None,
        *,
        targets: Targets | None = None,
        task: Task = "dense",
        divisor: int = 1,
        least: int = 4,
    ) -> None:
        _refuse(pictures, task, targets)
        if divisor < 1 or (size is not None and min(size) < 1):
            raise UsageError(f"crops: wanted a size and a divisor of at least 1 px, got {size} and {divisor}")
        self.pictures, self.targets, self.task, self.least = pictures, targets, task, least
        self._plain = Augmentation(mirrored=_mirrored(pictures), visible=0.0)
        self.places: list[tuple[int, Window, Window]] = []
        for number in range(len(pictures)):
            shape = pictures.shape(number)
            own = size or (shape[0] + -shape[0] % divisor, shape[1] + -shape[1] % divisor)
            self.places += [(number, *spans) for spans in _grid(shape, own)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, window, new = self.places[index]
        picture = self.pictures[number]
        crop = self._plain(
            picture.image,
            picture.labels,
            picture.boxes,
            rng=np.random.default_rng(0),
            size=window.shape,
            corner=(window.top, window.left),
        )
        if self.task != "dense":
            return _objects(crop, picture, number, self.task, self.least)
        item = _dense(crop, picture, self.targets)
        if "weight" in item:
            counted = torch.zeros_like(item["weight"])
            counted[new.within(window).slices] = 1
            item["weight"] = item["weight"] * counted
        item["shape"] = torch.tensor(picture.shape)
        return item


class EpochSampler(Sampler):
    """Asks for crops `start` to the last of an epoch in their order, as (epoch, index).

    `rank` and `world`: of several processes that share an epoch, this one's number and how many there are; each gets
    every `world`-th crop, and all equally many. `set_epoch` goes on to another epoch, from its first crop.
    """

    def __init__(self, length: int, *, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> None:
        if not (0 <= start <= length and 0 <= rank < world and epoch >= 0):
            raise UsageError(f"sampler: nothing is at epoch {epoch}, crop {start} of {length}, rank {rank} of {world}")
        self.length, self.epoch, self.start, self.rank, self.world = length, epoch, start, rank, world

    def __len__(self) -> int:
        return (self.length - self.start) // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in range(len(self)):
            yield self.epoch, self.start + self.rank + step * self.world

    def set_epoch(self, epoch: int) -> None:
        """Go on to `epoch`; the one that is under way keeps its place."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0


def collate_objects(items: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return a batch for a detector: each key's values as a list, since images and targets differ in size."""
    return {key: [item[key] for item in items] for key in items[0]}


def start_worker(_: int = 0) -> None:
    """Keep a worker process of a `DataLoader` on one thread, as there are as many workers as cores can serve."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _mirrored(pictures: Pictures) -> Literal["objects", "same"]:
    return "same" if pictures.truth == "classes" else "objects"


def _refuse(pictures: Pictures, task: Task, targets: Targets | None) -> None:
    fits = {
        "dense": ("labels", "classes", "instances"),
        "boxes": ("labels", "boxes", "instances"),
        "masks": ("labels", "instances"),
    }
    if task not in fits:
        raise UsageError(f"crops: task: wanted one of {', '.join(fits)}, got {task!r}")
    if pictures.truth not in fits[task]:
        raise UsageError(f"crops: {task} needs {' or '.join(fits[task])} as truth, got {pictures.truth}")
    if task != "dense" and targets is not None:
        raise UsageError(f"crops: {task} makes its own targets; leave `targets` out")


def _grid(shape: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[Window, Window]]:
    """Yield the windows that cover an image, each with the part of it that no window before holds."""
    spans = []
    for side, own in zip(shape, size, strict=True):
        starts = [*range(0, max(0, side - own), own), max(0, side - own)]
        if side < own:  # the image in the middle
            starts = [-((own - side) // 2)]
        ends = [0, *(start + own for start in starts)]
        spans.append(
            [(start, start + own, done, min(start + own, side)) for start, done in zip(starts, ends, strict=False)]
        )
    for top, bottom, first, last in spans[0]:
        for left, right, begin, end in spans[1]:
            yield Window(top, left, bottom, right), Window(first, begin, last, end)


def _dense(crop: Augmented, picture: Picture, targets: Targets | None) -> dict[str, Any]:
    item: dict[str, Any] = {"image": _tensor(crop.image), "name": picture.name, "applied": ", ".join(crop.applied)}
    if crop.labels is None:
        return item
    labels = crop.labels if crop.labels.ndim == 2 else crop.labels[0]
    for layer in crop.labels[1:] if crop.labels.ndim == 3 else ():
        labels = np.where(layer != 0, layer, labels)
    item["labels"] = torch.from_numpy(np.ascontiguousarray(labels))
    if targets is not None:
        classes = picture.classes
        if classes is not None:
            classes = {**classes, **{new: classes[old] for new, old in crop.origins.items()}}
        item |= {key: torch.from_numpy(value) for key, value in targets(labels, classes).items()}
    return item


def _objects(crop: Augmented, picture: Picture, number: int, task: Task, least: int) -> dict[str, Any]:
    masks = None
    if crop.labels is None:
        boxes = crop.boxes
        if boxes is None:
            raise UsageError(f"{picture.name}: there is neither a label image nor boxes")
        xyxy, kinds = boxes.xyxy, boxes.classes.astype(np.int64) + 1
        area = np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    else:
        xyxy, kinds, area, masks = _pieces(crop.labels, crop, picture, task == "masks")
    kept = np.flatnonzero((area >= least) & (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1))
    target = {
        "boxes": torch.from_numpy(xyxy[kept].astype(np.float32).reshape(-1, 4)),
        "labels": torch.from_numpy(kinds[kept].astype(np.int64)),
        "area": torch.from_numpy(area[kept].astype(np.float32)),
        "iscrowd": torch.zeros(len(kept), dtype=torch.int64),
        "image_id": torch.tensor([number]),
    }
    if masks is not None:
        target["masks"] = torch.from_numpy(masks[kept])
    return {
        "image": _tensor(crop.image), "target": target, "name": picture.name, "applied": ", ".join(crop.applied)
    }  # fmt: skip


def _pieces(
    labels: np.ndarray, crop: Augmented, picture: Picture, wanted: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Return box, class and area of every object in a crop's labels, and their masks, uint8 (n, y, x), if `wanted`."""
    from cellkit.io.datasets.truth import boxes_of

    layers = np.maximum(labels if labels.ndim == 3 else labels[None], 0)
    found: list[Boxes] = [boxes_of(layer) for layer in layers]
    pairs = [np.unique(layer[layer > 0], return_counts=True) for layer in layers]
    numbers = np.concatenate([values for values, _ in pairs])
    area = np.concatenate([counts for _, counts in pairs])
    classes = picture.classes
    kinds = [1 if classes is None else classes[crop.origins.get(n, n)] for n in numbers.tolist()]
    masks = None
    if wanted:
        masks = np.concatenate([(layer == values[:, None, None]).astype(np.uint8) for layer, (values, _) in
                                zip(layers, pairs, strict=True)])  # fmt: skip
    xyxy = np.concatenate([boxes.xyxy for boxes in found])
    return xyxy, np.array(kinds, np.int64), area, masks


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
