"""Channels by name or number."""

from __future__ import annotations

from cellkit.core.errors import StageError, suggest

__all__ = ["channel_number"]


def channel_number(stage: str, wanted: int | str, count: int, names: tuple[str, ...], layer: str) -> int:
    """Return the number of a channel of `layer`, which has `count`, called `names` where they have names.

    Raises `StageError`, naming the stage, where there is no such channel.
    """
    index = names.index(wanted) if wanted in names else wanted
    if isinstance(index, str):
        known = (
            f"the channels are {', '.join(names)}" if names else f"the {layer} names no channels: give a number from 0"
        )
        raise StageError(f"{stage}: no channel is called {index!r}; {suggest(index, names) or known}")
    if not 0 <= index < count:
        raise StageError(f"{stage}: there is no channel {index}, the {layer} has {count}, counted from 0")
    return index
