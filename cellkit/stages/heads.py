"""From the channels of a network that tells interior, border and distance to what a watershed takes."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from cellkit.core.errors import StageError
from cellkit.core.kinds import Field, Mask, Prob
from cellkit.core.stage import FromSample, Span, stage
from cellkit.stages._channels import channel_number

__all__ = ["relief", "union"]

Channel = Annotated[int | str, Span(0, 511)]


@stage(reach=0, names=lambda _params, _names: ("union",))
def union(
    prob: Prob,
    /,
    *,
    channels: tuple[int | str, ...] = (),
    names: Annotated[tuple[str, ...], FromSample("names:prob")] = (),
) -> Prob:
    """Add up the probabilities of channels that exclude one another: how likely a pixel is of any of them.

    (y, x, c) to (y, x, 1), at most 1. `channels`: by name or number; without any, all.

    Raises `StageError` where there is no such channel, or one is named twice.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> edge = (truth > 0) & (ck.stages.distance(truth > 0) < 3)
    >>> prob = np.stack([(truth > 0) & ~edge, edge], axis=2).astype(np.float32)
    >>> foreground = ck.stages.union(prob)
    >>> bool((foreground[..., 0] == (truth > 0)).all())
    True
    """
    chosen = [channel_number("union", one, prob.shape[2], names, "prob") for one in channels] or list(
        range(prob.shape[2])
    )
    if len(set(chosen)) != len(chosen):
        raise StageError(f"union: a channel is named twice in {', '.join(map(str, channels))}")
    total = prob[..., chosen[0]].copy()
    for number in chosen[1:]:
        total += prob[..., number]
    return np.minimum(total, np.float32(1), out=total)[..., None]


@stage(reach=0)
def relief(
    prob: Prob,
    mask: Mask,
    /,
    *,
    peaks: Channel = 2,
    valleys: Annotated[int | str | None, Span(0, 511)] = 1,
    weight: Annotated[float, Span(0, 10)] = 0.5,
    names: Annotated[tuple[str, ...], FromSample("names:prob")] = (),
) -> Field:
    """Give `watershed` the surface to flood: high in the middle of an object, low where two touch, 0 outside the mask.

    float32 (y, x): the channel `peaks` less `weight` times the channel `valleys` (none: nothing is taken off), at
    least 0. Channels by name or number; without being told those of a ``distance`` head, which gives interior, border
    and distance.

    Raises `StageError` where there is no such channel, or mask and probabilities differ in size.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> prob = ck.stages.predict(ck.stages.to_rgb(image), model="nuclei")
    >>> mask = truth > 0
    >>> field = ck.stages.relief(prob, mask)
    >>> bool((field[~mask] == 0).all())
    True
    """
    if mask.shape != prob.shape[:2]:
        raise StageError(f"relief: wanted prob and mask of one size, got {prob.shape[:2]} and {mask.shape}")
    field = prob[..., channel_number("relief", peaks, prob.shape[2], names, "prob")].copy()
    if valleys is not None:
        field -= np.float32(weight) * prob[..., channel_number("relief", valleys, prob.shape[2], names, "prob")]
    np.maximum(field, np.float32(0), out=field)
    field *= mask
    return field
