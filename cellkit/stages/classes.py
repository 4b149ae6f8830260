"""From probabilities to classes, and from classes to a mask."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np

from cellkit.core.errors import KindError, StageError, suggest
from cellkit.core.kinds import Classes, Mask, Prob
from cellkit.core.stage import FromSample, stage

__all__ = ["argmax", "select"]


@stage(reach=0)
def argmax(prob: Prob, /) -> Classes:
    """Give every pixel the class of its greatest probability; of equal ones the first.

    (y, x, c) to (y, x), values 0 to c - 1; the channels' names become those of the classes.

    Raises `KindError` for one channel, and for more than 256.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> prob = np.concatenate([0.3 * np.ones_like(image), image], axis=2)
    >>> classes = ck.stages.argmax(prob)
    >>> sorted(set(classes.ravel().tolist()))
    [0, 1]
    """
    count = prob.shape[2]
    if count == 1:
        raise KindError("argmax wants one channel per class, got a single one: make a mask of it with `threshold`")
    if count > 256:
        raise KindError(f"argmax wants at most 256 classes, got {count}")
    result = np.zeros(prob.shape[:2], np.uint8)
    best = prob[..., 0].copy()
    for index in range(1, count):
        other = prob[..., index]
        np.copyto(result, index, where=other > best)
        np.maximum(best, other, out=best)
    return result


@stage(reach=0)
def select(
    semantic: Classes,
    /,
    *,
    classes: tuple[int | str, ...] = (),
    names: Annotated[tuple[str, ...], FromSample("names:semantic")] = (),
) -> Mask:
    """Take some classes as foreground, by name or number; without any, every class but 0.

    Raises `StageError` for a name that the classes do not have, or a number that none of them can be.

    >>> import cellkit as ck
    >>> picture, classes = ck.io.darkfield(128)
    >>> bacteria = ck.stages.select(classes, classes=(2,))
    >>> bool((bacteria == (classes == 2)).all())
    True
    """
    most = len(names) or 256
    table = np.zeros(256, bool)
    for wanted in classes or range(1, 256):
        index = names.index(wanted) if wanted in names else wanted
        if isinstance(index, str):
            known = f"the classes are {', '.join(names)}" if names else "the classes have no names: give numbers from 0"
            raise StageError(f"select: no class is called {index!r}; {suggest(index, names) or known}")
        if classes and not 0 <= index < most:
            raise StageError(f"select: there is no class {index}, they count from 0 to {most - 1}")
        table[index] = True
    return cv2.LUT(semantic, table.view(np.uint8)).view(bool)
