"""How large a part of the objects is of some classes, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from cellkit.core.errors import Fault, StageError, suggest
from cellkit.core.kinds import Boxes, Classes, Instances, Labels, Table
from cellkit.core.stage import WHOLE, FromSample, stage

__all__ = ["proportion", "wilson"]

_Z = 1.959963984540054


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of the proportion `count` of `total`; NaN where there is nothing.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22
    (1927).
    """
    if not total:
        return math.nan, math.nan
    part, spread = count / total, _Z * _Z / total
    middle = part + spread / 2
    reach = _Z * math.sqrt((part * (1 - part) + spread / 4) / total)
    # The ends of 0 and of all are exact, whatever rounding says.
    low = 0.0 if count == 0 else (middle - reach) / (1 + spread)
    return low, 1.0 if count == total else (middle + reach) / (1 + spread)


def _review(params: Mapping[str, Any], _: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterable[Fault]:
    if not params["of"]:
        yield Fault("of", "names no class", "e.g. `of: [ring, trophozoite], among: [red blood cell]`")


@stage(reach=WHOLE, out="proportion", review=_review)
def proportion(
    objects: Labels | Boxes | Instances,
    classes: Classes | None = None,
    /,
    *,
    of: tuple[str, ...] = (),
    among: tuple[str, ...] = (),
    label_names: Annotated[tuple[str, ...], FromSample("names:objects")] = (),
    class_names: Annotated[tuple[str, ...], FromSample("names:classes")] = (),
) -> Table:
    """Tell how large a part of the objects is of the classes `of`, such as the infected ones of all red cells.

    The whole are the objects of the classes `of` and `among` together; without `among`, all objects. One row: count
    (objects of the classes `of`), total (the whole), proportion (count by total; NaN where there is nothing), low and
    high (its 95 % interval by Wilson, cells taken as independent). Classes go by name, by number where they have none;
    those of labels are told as in `tally`.

    Raises `StageError` for a name that the classes do not have, `KindError` where labels and `classes` differ in size.

    >>> import cellkit as ck
    >>> picture, classes = ck.io.darkfield(128)
    >>> labels = ck.stages.components(ck.stages.select(classes))
    >>> names = ("background", "cell", "bacteria")
    >>> table = ck.stages.proportion(labels, classes, of=("bacteria",), class_names=names)
    >>> int(table["total"][0]) == int(labels.max())
    True
    """
    import pandas as pd

    from cellkit.stages.measure import tally

    rows = tally(objects, classes, label_names=label_names, class_names=class_names)
    counts = {str(name): int(count) for name, count in zip(rows["class"], rows["count"], strict=True)}
    names = label_names or class_names
    for name in (*of, *among):
        if names and name not in counts:
            known = suggest(name, counts) or f"the classes are {', '.join(counts)}"
            raise StageError(f"proportion: no class is called {name!r}; {known}")
    count = sum(counts.get(name, 0) for name in set(of))
    total = sum(counts.get(name, 0) for name in {*of, *among}) if among else sum(counts.values())
    low, high = wilson(count, total)
    part = count / total if total else math.nan
    return pd.DataFrame({"count": [count], "total": [total], "proportion": [part], "low": [low], "high": [high]})
