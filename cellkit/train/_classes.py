"""The classes of a detector and those of its data set: matched by name before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core import UsageError
from cellkit.core.errors import suggest
from cellkit.formats.objects import UNNAMED
from cellkit.io.datasets import Pair
from cellkit.io.datasets.truth import Annotated, BoxList

if TYPE_CHECKING:
    from cellkit.train.config import TrainConfig

__all__ = ["matched", "numbered"]


def matched(
    config: TrainConfig, names: Sequence[str], train: Sequence[Pair], val: Sequence[Pair]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of the detector of `config`, and notes on them; `names` are those of the data set.

    Raises `UsageError` where an image holds an object of a class that the config neither finds nor ignores, or objects
    have no classes and the config has several.
    """
    where = "the data set"
    wanted, ignored = config.model.classes, config.data.ignore
    if not names:
        if len(wanted) > 1 or ignored:
            what = f"model.classes: {len(wanted)} classes" if len(wanted) > 1 else "data.ignore"
            raise UsageError(f"{what}: the objects of {where} have no classes; label and mask images give one class")
        return wanted or (UNNAMED,), ()
    for name in ignored:
        if name not in names:
            hint = suggest(name, names) or f"classes: {', '.join(names)}"
            raise UsageError(f"data.ignore: {where} has no class {name!r}; {hint}")
    kept = [name for name in names if name not in ignored]
    if not kept:
        raise UsageError(f"data.ignore: leaves no class of {where}")
    both = [name for name in wanted if name in ignored]
    if both:
        raise UsageError(f"model.classes: {both[0]!r} is in data.ignore too; which is meant?")
    learnt, judged = _occurring(train, names), _occurring(val, names)
    lacking = [name for name in kept if name in learnt | judged and name not in wanted] if wanted else []
    if lacking:
        free = [name for name in wanted if name not in names]
        hint = suggest(lacking[0], free)
        fix = f"the config has {', '.join(free)} ({hint})" if hint else f"add it, or say `data: {{ignore: [{', '.join(lacking)}]}}`"  # fmt: skip # noqa: E501
        raise UsageError(
            f"model.classes: {where} holds objects of class {', '.join(lacking)}, the config has "
            f"{', '.join(wanted)}; {fix}"
        )
    classes = tuple(wanted or kept)
    absent = [name for name in classes if name not in learnt]
    return classes, (f"no image to train on holds an object of class {', '.join(absent)}",) if absent else ()


def numbered(pairs: Sequence[Pair], names: Sequence[str], classes: Sequence[str]) -> tuple[Pair, ...]:
    """Return `pairs`, objects numbered by their place in `classes` instead of `names`, those of no such class left out.

    Nothing is read.
    """
    new = [classes.index(name) if name in classes else -1 for name in names]
    if new == list(range(len(new))):
        return tuple(pairs)
    return tuple(replace(pair, truth=_renumbered(pair.truth, new)) for pair in pairs)


def _occurring(pairs: Sequence[Pair], names: Sequence[str]) -> set[str]:
    return {names[number] for pair in pairs if isinstance(pair.truth, BoxList) for number in set(pair.truth.numbers)}


def _renumbered(truth: Any, new: Sequence[int]) -> Any:
    if not isinstance(truth, BoxList) or not truth.numbers:
        return truth
    kept = [i for i, number in enumerate(truth.numbers) if new[number] >= 0]
    changes: dict[str, Any] = {
        "xyxy": truth.xyxy[np.array(kept, np.intp)],
        "numbers": tuple(new[truth.numbers[i]] for i in kept),
        "ids": tuple(truth.ids[i] for i in kept),
    }
    if isinstance(truth, Annotated):
        changes["annotations"] = [truth.annotations[i] for i in kept]
    return replace(truth, **changes)
