"""Faults of the objects of one image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cellkit.io.datasets.findings import Finding
from cellkit.io.datasets.pairs import Pair
from cellkit.io.datasets.truth import Annotated, BoxList, ClassFile, LabelFile, MaskFiles, box_faults

__all__ = ["Found", "object_faults"]


@dataclass(frozen=True)
class Found:
    """How many objects there are, the numbers of the classes that occur (where there are any), and the faults."""

    objects: int
    classes: frozenset[int]
    faults: list[Finding]


def object_faults(pair: Pair, tiny: int, overlap: float) -> Found:
    """Return how many objects the truth of `pair` holds, and what is wrong with them.

    Objects of fewer than `tiny` pixels are tiny; boxes overlap from an IoU of `overlap` on, masks from one pixel on.
    Raises what reading the truth raises.
    """
    truth, size = pair.truth, pair.shape
    if isinstance(truth, LabelFile):
        return _of_labels(pair.name, truth.labels(size), tiny)
    if isinstance(truth, ClassFile):
        return _of_classes(pair.name, truth.values(size), truth.names)
    if isinstance(truth, MaskFiles):
        masks = ((path.name, 0, 0, mask) for path, mask in truth.masks(size))
        return Found(len(truth.files), frozenset(), _of_masks(pair.name, masks, size, tiny))
    if isinstance(truth, BoxList):
        truth.refuse()
        faults = _of_boxes(pair.name, truth, size, tiny, overlap)
        if isinstance(truth, Annotated):
            faults += _of_masks(pair.name, truth.each(size), size, tiny)
        return Found(len(truth.xyxy), frozenset(truth.numbers), faults)
    raise TypeError(f"no audit of {type(truth).__name__}")


def _of_labels(image: str, labels: np.ndarray, tiny: int) -> Found:
    from skimage.measure import label

    pieces, number = label(labels, background=0, connectivity=2, return_num=True)
    areas = np.bincount(pieces.ravel(), minlength=number + 1)[1:]
    first = np.zeros(number + 1, np.int64)
    flat = np.flatnonzero(pieces)
    first[pieces.ravel()[flat[::-1]]] = flat[::-1]  # the last write wins: the first pixel of each piece
    ids = labels.ravel()[first[1:]]
    found: list[Finding] = []
    order = np.argsort(ids, kind="stable")
    values, starts = np.unique(ids[order], return_index=True)
    for value, members in zip(values.tolist(), np.split(order, starts[1:]), strict=True) if number else ():
        smallest = members[np.argmin(areas[members])]
        at = divmod(int(first[1 + smallest]), labels.shape[1])
        found += _of_one(image, str(value), areas[members], at, tiny)
    return Found(len(values), frozenset(), found)


def _of_one(image: str, name: str, areas: np.ndarray, at: tuple[int, int], tiny: int) -> Iterator[Finding]:
    """Yield what the areas of the pieces of one object say; `at` is where the smallest begins."""
    area, place = int(areas.sum()), f"at row {at[0]}, column {at[1]}"
    if len(areas) > 1:
        sizes = np.sort(areas)[::-1]
        shown = ", ".join(map(str, sizes[:4])) + (" ..." if len(sizes) > 4 else "")
        yield Finding("fragmented", image, f"{len(areas)} pieces of {shown} px, the smallest {place}", name)
    if area == 1:
        yield Finding("one pixel", image, place, name)
    elif area < tiny:
        yield Finding("tiny", image, f"{area} px {place}", name)


def _of_classes(image: str, values: np.ndarray, names: Sequence[str]) -> Found:
    """Return the pieces of each class; those of one pixel are one finding, as loose masks hold many."""
    from skimage.measure import label

    found = []
    if names:
        for value in np.unique(values[values >= len(names)]).tolist():
            count = int((values == value).sum())
            found.append(Finding("unknown class", image, f"{count} px of the value {value}", f"value {value}"))
    pieces, number = label(values, background=0, connectivity=2, return_num=True)
    areas = np.bincount(pieces.ravel(), minlength=number + 1)
    single = np.flatnonzero((areas == 1)[pieces.ravel()] & (pieces.ravel() > 0))
    for value in np.unique(values.ravel()[single]).tolist():
        own = single[values.ravel()[single] == value]
        row, column = divmod(int(own[0]), values.shape[1])
        name = names[value] if value < len(names) else f"value {value}"
        message = f"{len(own)} piece{'s' * (len(own) > 1)} of one pixel, the first at row {row}, column {column}"
        found.append(Finding("one pixel", image, message, name))
    return Found(int(number), frozenset(np.unique(values).tolist()), found)


def _of_masks(
    image: str, masks: Iterator[tuple[str, int, int, np.ndarray]], size: tuple[int, int], tiny: int
) -> list[Finding]:
    """Look at each mask (its name, the row and column it begins at, its pixels) and at what it shares with others."""
    import cv2

    owner = np.zeros(size, np.int32)
    names: list[str] = []
    seen: dict[bytes, str] = {}
    found: list[Finding] = []
    for name, top, left, mask in masks:
        names.append(name)
        if not mask.any():
            found.append(Finding("empty mask", image, "holds no pixel", name))
            continue
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        areas = stats[1:count, cv2.CC_STAT_AREA]
        row, column = np.argwhere(pieces == 1 + int(np.argmin(areas)))[0]
        found += _of_one(image, name, areas, (top + int(row), left + int(column)), tiny)
        place = owner[top : top + mask.shape[0], left : left + mask.shape[1]]
        at = np.flatnonzero(mask)
        digest = hashlib.blake2b(repr((top, left, mask.shape)).encode() + at.tobytes(), digest_size=16).digest()
        if digest in seen:
            found.append(Finding("duplicate", image, f"the same pixels as {seen[digest]}", name, seen[digest]))
            continue
        seen[digest] = name
        shared, pixels = np.unique(place[mask], return_counts=True)
        for other, many in zip(shared.tolist(), pixels.tolist(), strict=True):
            if other:
                message = f"shares {many:,} of its {int(areas.sum()):,} px with {names[other - 1]}"
                found.append(Finding("overlap", image, message, name, names[other - 1]))
        place[mask] = len(names)
    return found


def _of_boxes(image: str, truth: BoxList, size: tuple[int, int], tiny: int, overlap: float) -> list[Finding]:
    found: list[Finding] = []
    reasons = box_faults(truth.xyxy, size)
    for name, reason in zip(truth.ids, reasons, strict=True):
        if reason:
            found.append(Finding("invalid box", image, reason, name))
    sound = np.array([i for i, reason in enumerate(reasons) if not reason], np.intp)
    masks = isinstance(truth, Annotated)
    for i in sound if not masks else ():
        x0, y0, x1, y1 = truth.xyxy[i].tolist()
        area = (x1 - x0) * (y1 - y0)
        if area < tiny:
            check = "one pixel" if area <= 1 else "tiny"
            found.append(
                Finding(check, image, f"{x1 - x0:g} x {y1 - y0:g} px at row {y0:g}, column {x0:g}", truth.ids[i])
            )
    for i, j, iou in _close(truth.xyxy[sound], overlap):
        first, second = truth.ids[sound[i]], truth.ids[sound[j]]
        if iou == 1:
            found.append(Finding("duplicate", image, f"the same box as {first}", second, first))
        elif not masks:
            found.append(Finding("overlap", image, f"an IoU of {iou:.2f} with {first}", second, first))
    return found


def _close(xyxy: np.ndarray, least: float) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs of boxes with an IoU of `least` or more."""
    area = np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    for i in range(len(xyxy) - 1):
        rest = xyxy[i + 1 :]
        low, high = np.maximum(rest[:, :2], xyxy[i, :2]), np.minimum(rest[:, 2:], xyxy[i, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        iou = shared / (area[i + 1 :] + area[i] - shared)
        for j in np.flatnonzero(iou >= least):
            yield i, i + 1 + int(j), float(iou[j])
