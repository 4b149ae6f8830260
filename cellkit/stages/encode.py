"""Objects as text for submission files."""

from __future__ import annotations

from cellkit.core.kinds import Labels, Table
from cellkit.core.stage import WHOLE, stage
from cellkit.formats.rle import encode_labels

__all__ = ["rle"]


@stage(reach=WHOLE, out="rle")
def rle(labels: Labels, /) -> Table:
    """Encode every object in Kaggle's run-length form.

    One row per object in ascending order of its id: `label` (int64) and `EncodedPixels` (text: pairs "start length",
    pixels counted from 1, down each column and then to the right). No object, no row.

    Source: the evaluation page of the Data Science Bowl 2018 (kaggle.com/c/data-science-bowl-2018).

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> table = ck.stages.rle(truth)
    >>> len(table) == int(truth.max())
    True
    """
    import pandas as pd

    ids, texts = encode_labels(labels)
    return pd.DataFrame({"label": ids, "EncodedPixels": pd.Series(texts, dtype=str)})
