"""The pictures of a training: read, taken through the steps before the trained one, and kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core import StageError, UsageError
from cellkit.core.check import BoundStep, Plan, bind, plan
from cellkit.core.errors import CellkitError
from cellkit.io.datasets import Dataset, Pair, open_dataset
from cellkit.train.augment import Augmentation
from cellkit.train.config import TrainConfig
from cellkit.train.splits import Split, balanced_weights, hold_out, read_split, split_of
from cellkit.train.targets import target_maps

__all__ = ["Crops", "Parts", "Pictures", "open_parts", "trained_step"]


@dataclass(frozen=True)
class Parts:
    """The images to train on and those to validate on; what they are, in words, is for the card."""

    folder: Path
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    gives: tuple[str, ...]
    about: str


def open_parts(config: TrainConfig, folder: str | Path | None = None) -> Parts:
    """Open the data set of `config` (or that in `folder`) and part it; no pixel is read.

    Raises `UsageError` where there is none, or a part is empty, `FormatError` where a split cuts a group.
    """
    if folder is None and not config.data.folder:
        raise UsageError("data.folder: no data set is named; say `data: {folder: DIR}`, or --data DIR")
    where = Path(folder) if folder is not None else config.folder / config.data.folder
    rules = config.data
    dataset = open_dataset(where, layout=rules.layout, allow_missing=True)  # type: ignore[arg-type]
    split, told = _split(dataset, config)
    train, val = split.part(rules.train).pairs(dataset), split.part(rules.val).pairs(dataset)
    if rules.balance:
        split.values(rules.balance)  # a column that is not there is told before anything is read
    gives = tuple(kind for kind in ("labels", "classes") if all(kind in pair.truth.gives for pair in (*train, *val)))
    if not gives:
        raise UsageError(f"{where}: holds {dataset.kind}, which dense networks cannot learn from")
    about = f"{where.resolve().name}: {len(train):,} images to train on, {len(val):,} to validate on; {told}"
    return Parts(where, train, val, gives, about)


def _split(dataset: Dataset, config: TrainConfig) -> tuple[Split, str]:
    """Return parts and groups of the images, and what to say of them."""
    import hashlib

    name = config.data.split
    path = config.folder / name if name and (config.folder / name).is_file() else dataset.folder / (name or "split.csv")
    if name and not path.is_file():
        raise UsageError(f"data.split: there is no {config.folder / name}, nor {path}")
    if path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        split, told = read_split(path), f"split file {path.name}, sha256 {digest}"
    else:
        split, told = split_of(dataset), "parts as the data set has them"
    if not any(row.part for row in split):
        share = hold_out(split, stratify=config.data.balance, seed=config.loop.seed)
        names = {"train": config.data.train, "val": config.data.val}
        split = replace(share, rows=tuple(replace(row, part=names[row.part]) for row in share))
        told = f"a fifth of the groups drawn for validation with seed {config.loop.seed}"
    return split, told


def trained_step(bound: Plan, label: str) -> BoundStep:
    """Return the step called `label`. Raises `UsageError` where there is none."""
    for _, step in bound.walk():
        if step.step.label == label:
            return step
    raise UsageError(f"trains: the recipe has no step {label!r}")


class Pictures:
    """Images as the trained step sees them, with their truth, by number.

    An image is read when it is first asked for and kept while `memory` bytes are not full.
    """

    def __init__(self, config: TrainConfig, pairs: Sequence[Pair], gives: Sequence[str], memory: int) -> None:
        self.config = config
        self.pairs = tuple(pairs)
        outputs = config.model.outputs
        self.count = len(outputs) - (config.model.head == "softmax")
        many = config.model.head in ("sigmoid", "softmax") and self.count > 1
        self.classwise = many or "labels" not in gives
        if self.classwise and config.model.head in ("border", "distance"):
            raise UsageError(f"model.head: {config.model.head} needs objects; the data set has classes of pixels alone")
        self.memory = memory
        full = bind(config.recipe)
        bound = trained_step(full, config.trains).bindings.get("image", "image")
        self.layer = bound if isinstance(bound, str) else "image"
        self._prefix = (
            plan(replace(config.recipe, steps=config.prefix, outputs=(self.layer,))) if config.prefix else None
        )
        self._kept: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self) -> None:
        """Read images until the memory is full."""
        for number in range(len(self)):
            if self._bytes >= self.memory:
                return
            self.get(number)

    def get(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image, float32 (y, x, c), and truth, int32 (y, x): objects, or classes where only those count.

        Raises `CellkitError` that names the image.
        """
        if number in self._kept:
            return self._kept[number]
        pair = self.pairs[number]
        image, truth = self._image(pair), self._truth(pair)
        if truth.shape != image.shape[:2]:
            raise StageError(f"{pair.name}: the image is {image.shape[:2]} (y, x), its truth {truth.shape}")
        if self._bytes < self.memory:
            self._kept[number] = image, truth
            self._bytes += image.nbytes + truth.nbytes
        return image, truth

    def _image(self, pair: Pair) -> np.ndarray:
        from cellkit.engine.execute import execute
        from cellkit.io import read

        sample = read(pair.image, self.config.recipe.read_options)
        if self._prefix is not None:
            try:
                sample = execute(self._prefix, sample, [self.layer])
            except CellkitError as error:
                raise StageError(f"{pair.name}: {error}") from error
        image: Any = sample[self.layer]
        wanted = self.config.model.channels
        if image.ndim != 3 or image.shape[2] != wanted:
            given = image.shape[2] if image.ndim == 3 else 1
            raise StageError(
                f"{pair.name}: before the trained step the image has {given} channels, model.channels is {wanted}; "
                f"set `model: {{channels: {given}}}`, or put a step such as `grayscale` before"
            )
        if not np.isfinite(image).all():
            raise StageError(f"{pair.name}: before the trained step the image holds values that are not finite")
        return np.ascontiguousarray(image, np.float32)

    def _truth(self, pair: Pair) -> np.ndarray:
        if not self.classwise:
            return pair.labels()
        return pair.classes().astype(np.int32)


class Crops:
    """The crops of a training by number: crop `index` depends on seed and index alone. A map-style data set of torch.

    Each is a dictionary of `image`, float32 (c, y, x), `labels`, int32 (y, x), `name`, and what `target_maps` gives.
    """

    def __init__(self, pictures: Pictures) -> None:
        config = pictures.config
        self.pictures = pictures
        self.config = config
        mirrored: Any = "same" if pictures.classwise else "objects"
        self.augmentation = Augmentation(config.augment, mirrored=mirrored)
        column = config.data.balance
        values = [pair.fields.get(column, "") for pair in pictures.pairs]
        self._chances = np.cumsum(balanced_weights(values)) if column else None
        self.classes = {n: n for n in range(1, pictures.count + 1)} if pictures.classwise else None

    def __len__(self) -> int:
        loop = self.config.loop
        return loop.epochs * loop.steps * loop.batch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return crop `index` of the training."""
        rng = np.random.default_rng([self.config.loop.seed, index])
        number = self._drawn(rng)
        image, truth = self.pictures.get(number)
        side = self.config.loop.crop
        out = self.augmentation(image, truth, rng=rng, size=(side, side), corner=self._corner(truth, rng))
        labels = np.ascontiguousarray(out.labels, np.int32)
        model = self.config.model
        maps = target_maps(labels, model.head, self.config.targets, classes=self.classes, count=self.pictures.count)
        planes = np.ascontiguousarray(np.moveaxis(out.image, 2, 0), np.float32)
        return {"image": planes, "labels": labels, "name": self.pictures.pairs[number].name, **maps}

    def _drawn(self, rng: np.random.Generator) -> int:
        if self._chances is None:
            return int(rng.integers(len(self.pictures)))
        return min(int(np.searchsorted(self._chances, rng.random(), side="right")), len(self.pictures) - 1)

    def _corner(self, truth: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        """Return the first row and column: anywhere, or so that a pixel of an object lies within."""
        side = self.config.loop.crop
        room = [max(0, length - side) for length in truth.shape]
        corner = [int(rng.integers(most + 1)) for most in room]
        if rng.random() < self.config.data.objects and any(room):
            flat = np.flatnonzero(truth > 0)
            if len(flat):
                at = divmod(int(flat[rng.integers(len(flat))]), truth.shape[1])
                corner = [
                    min(max(place - int(rng.integers(side)), 0), most) for place, most in zip(at, room, strict=True)
                ]
        # Images that are smaller lie in the middle, mirrored all around.
        top, left = (c if m else (n - side) // 2 for c, m, n in zip(corner, room, truth.shape, strict=True))
        return top, left
