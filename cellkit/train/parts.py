"""The data of a training: the parts of a data set, and the crops that a config asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cellkit.core import StageError, UsageError
from cellkit.grid.windows import padded
from cellkit.io.datasets import Dataset, Pair, open_dataset
from cellkit.io.datasets.truth import BoxList
from cellkit.models.device import parse_memory
from cellkit.train._classes import matched, numbered
from cellkit.train.augment import Augmentation
from cellkit.train.config import ConfigError, TrainConfig, recipe_faults
from cellkit.train.crops import CropRules, DenseTargets, Pictures, TrainingCrops, TruthKind, preprocessing
from cellkit.train.splits import Split, balanced_weights, hold_out, read_split, split_of

__all__ = [
    "Crops",
    "Parts",
    "open_crops",
    "open_parts",
    "open_split",
    "parts_of",
    "place_of",
    "with_classes",
    "write_sheet",
]

_LEARNT: dict[str, tuple[str, ...]] = {"boxes": ("labels", "boxes", "instances"), "masks": ("labels", "instances")}
"""What of a data set's truth a detector can learn from, by its head."""


@dataclass(frozen=True)
class Parts:
    """The images to train on and those to validate on; what they are, in words, is for the card.

    `gives` is what the truth of all of them holds. For a detector, `classes` are those that the objects are numbered
    by, and `notes` what a user should know of them. `dataset` is where they are from, where that is known.
    """

    folder: Path
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    gives: tuple[str, ...]
    about: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dataset: Dataset | None = None

    @property
    def digest(self) -> str:
        """The first 16 digits of the sha256 of the names of the images, each with its part."""
        names = "".join(f"{pair.split}\t{pair.name}\n" for pair in (*self.train, *self.val))
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]


def open_parts(config: TrainConfig, folder: str | Path | None = None) -> Parts:
    """Open the data set of `config` (or that in `folder`) and part it; no pixel is read.

    Raises `UsageError` where there is none, a part is empty, or its classes are not those of a detector, `FormatError`
    where a split cuts a group.
    """
    rules = config.data
    dataset, split, told = open_split(config, folder)
    if not any(row.part for row in split):
        share = hold_out(split, stratify=rules.balance, seed=config.loop.seed)
        names = {"train": rules.train, "val": rules.val}
        split = replace(share, rows=tuple(replace(row, part=names[row.part]) for row in share))
        told = f"a fifth of the groups drawn for validation with seed {config.loop.seed}"
    train, val = split.part(rules.train).pairs(dataset), split.part(rules.val).pairs(dataset)
    return parts_of(config, place_of(config, folder), dataset, (train, val), told)


def place_of(config: TrainConfig, folder: str | Path | None) -> Path:
    """Return where the data set is. Raises `UsageError` where none is named."""
    if folder is None and not config.data.folder:
        raise UsageError("data.folder: no data set is named; say `data: {folder: DIR}`, or --data DIR")
    return Path(folder) if folder is not None else config.folder / config.data.folder


def parts_of(
    config: TrainConfig, where: Path, dataset: Dataset, pairs: tuple[tuple[Pair, ...], tuple[Pair, ...]], told: str
) -> Parts:
    """Return these images of `dataset`, to train on and to validate on; `told` says how they were chosen.

    Raises `UsageError` where their truth is nothing that the network learns from.
    """
    train, val = pairs
    learnt = _LEARNT.get(config.model.head, ("labels", "classes"))
    gives = tuple(kind for kind in learnt if all(kind in pair.truth.gives for pair in (*train, *val)))
    if not gives:
        who = {"boxes": "detectors", "masks": "detectors of masks"}.get(config.model.head, "dense networks")
        raise UsageError(f"{where}: holds {dataset.kind}, which {who} cannot learn from")
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if config.model.head in _LEARNT:
        classes, notes = matched(config, dataset.classes, train, val)
        notes += _large(config, (*train, *val))
        train, val = (numbered(part, dataset.classes, classes) for part in (train, val))
    about = f"{where.resolve().name}: {len(train):,} images to train on, {len(val):,} to validate on; {told}"
    return Parts(where, train, val, gives, about, classes, notes, dataset)


def open_split(config: TrainConfig, folder: str | Path | None = None) -> tuple[Dataset, Split, str]:
    """Open the data set of `config` (or that in `folder`); return it, parts and groups, and what to say of them.

    Where the split file names no group of an image, that of the data set counts. Raises what `open_parts` raises.
    """
    where = place_of(config, folder)
    dataset = open_dataset(where, layout=config.data.layout, allow_missing=True)  # type: ignore[arg-type]
    split, told = _split(dataset, config)
    groups = {pair.name: pair.group for pair in dataset}
    split = replace(split, rows=tuple(replace(row, group=row.group or groups.get(row.name, "")) for row in split))
    if config.data.balance:
        split.values(config.data.balance)  # a column that is not there is told before anything is read
    return dataset, split, told


def _large(config: TrainConfig, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return a note where objects are larger than windows as large as a crop can keep whole."""
    sides = [pair.truth.xyxy[:, 2:] - pair.truth.xyxy[:, :2] for pair in pairs if isinstance(pair.truth, BoxList)]
    large = np.concatenate([np.zeros(0), *(one.max(axis=1, initial=0) for one in sides)])
    large = large[np.isfinite(large)]  # those that are not are told when they are read
    most = float(np.quantile(large, 0.99)) if len(large) else 0.0
    crop = config.loop.crop
    if most <= crop / 2 or any(step.stage == "resize" for step in config.prefix):
        return ()
    return (
        f"objects are up to {most:.0f} px long, and windows as large as a crop (loop.crop, {crop}) keep those of up to "
        f"{crop // 2} px whole: a crop of {padded(round(2 * most), 32)} px would do",
    )


def with_classes(config: TrainConfig, parts: Parts) -> TrainConfig:
    """Return `config` with the classes of the data set where it names none for its detector.

    Raises `ConfigError` where the recipe cannot go on with these.
    """
    if config.model.classes or not parts.classes:
        return config
    config = replace(config, model=replace(config.model, classes=parts.classes))
    found = recipe_faults(config)
    if found:
        raise ConfigError(tuple(found))
    return config


def _split(dataset: Dataset, config: TrainConfig) -> tuple[Split, str]:
    """Return what the split file says, or the data set itself, and what to say of that."""
    name = config.data.split
    path = config.folder / name if name and (config.folder / name).is_file() else dataset.folder / (name or "split.csv")
    if name and not path.is_file():
        raise UsageError(f"data.split: there is no {config.folder / name}, nor {path}")
    if path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        split, told = read_split(path), f"split file {path.name}, sha256 {digest}"
    else:
        split, told = split_of(dataset), "parts as the data set has them"
    return split, told


def open_crops(config: TrainConfig, parts: Parts) -> Crops:
    """Return the crops that `config` draws from the images to train on, with the targets of its head.

    Raises `UsageError` where the truth is not what the head learns from.
    """
    model = config.model
    if model.head in _LEARNT:
        return _object_crops(config, parts)
    count = len(model.outputs) - (model.head == "softmax") if model.head in ("sigmoid", "softmax") else 1
    truth: TruthKind = "classes" if count > 1 or "labels" not in parts.gives else "labels"
    if truth == "classes" and model.head in ("border", "distance"):
        raise UsageError(f"model.head: {model.head} needs objects; the data set has classes of pixels alone")
    if truth not in parts.gives:
        raise UsageError(f"model.classes: {count} classes need class images; the data set has objects of one class")
    pictures, rules, weights = _drawn_from(config, parts, truth)
    augmentation = Augmentation(config.augment, mirrored="same" if truth == "classes" else config.data.mirrored)
    targets = DenseTargets(model.head, config.targets, count)
    crops = Crops(pictures, rules, augmentation, targets=targets, weights=weights)
    crops.channels = model.channels
    return crops


def _object_crops(config: TrainConfig, parts: Parts) -> Crops:
    """Return crops with the objects in them, by the most exact truth that there is."""
    truth: TruthKind = "instances" if "instances" in parts.gives else "boxes"
    if all(pair.truth.kind == "labels" for pair in parts.train):
        truth = "labels"
    pictures, rules, weights = _drawn_from(config, parts, truth)
    augmentation = Augmentation(config.augment, mirrored="objects")
    task: Literal["boxes", "masks"] = "masks" if config.model.head == "masks" else "boxes"
    crops = Crops(pictures, rules, augmentation, weights=weights, task=task)
    crops.channels = config.model.channels
    return crops


def _drawn_from(config: TrainConfig, parts: Parts, truth: TruthKind) -> tuple[Pictures, CropRules, Any]:
    """Return the images, how crops are drawn from them, and how often each is."""
    data, loop = config.data, config.loop
    steps, memory = preprocessing(config.recipe, config.trains), parse_memory(data.cache)
    pictures = Pictures(parts.train, steps, truth=truth, memory=memory, invalid=data.invalid)
    values = [pair.fields.get(data.balance, "") for pair in parts.train]
    weights = balanced_weights(values, power=data.evenness) if data.balance else None
    rules = CropRules(
        height=loop.crop,
        width=loop.crop,
        count=loop.steps * loop.batch,
        objects=data.objects,
        balance_classes=data.balance_classes,
        seed=loop.seed,
    )
    return pictures, rules, weights


def write_sheet(config: TrainConfig, parts: Parts, path: str | Path, *, count: int = 16) -> None:
    """Write an HTML page of the first `count` crops that a training by `config` will see, with their targets."""
    from cellkit.io import atomic
    from cellkit.train.sheet import contact_sheet

    config = with_classes(config, parts)
    crops = open_crops(config, parts)
    samples = [crops[0, index] for index in range(min(count, len(crops)))]
    page = contact_sheet(samples, title=f"Crops of {config.name}", names=config.model.outputs)
    with atomic(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="")


class Crops(TrainingCrops):
    """Crops whose images are sure to be what the network takes."""

    channels = 0

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        item = super().__getitem__(key)
        image, name = item["image"], item["name"]
        if self.channels and image.shape[0] != self.channels:
            given = image.shape[0]
            raise StageError(
                f"{name}: before the trained step the image has {given} channels, model.channels is {self.channels}; "
                f"set `model: {{channels: {given}}}`, or put a step such as `grayscale` before"
            )
        if image.dtype != torch.float32:
            item["image"] = image.float()
        return item
