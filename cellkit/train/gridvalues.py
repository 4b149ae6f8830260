"""The values of what a grid varies, and which of them meet in a cell."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

__all__ = ["FIRST", "Value", "Values", "crossed", "label_of", "one_at_a_time"]

FIRST = "base"
"""The cell in which each key of `each` has its first value."""
Value = tuple[str, dict[str, Any]]
"""What a value is called, and the changes to the config that it stands for."""
Values = Mapping[str, Sequence[Value]]
"""The values of each varied key."""
_LETTERS = 40


def crossed(keys: Values) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Return every combination of values, by its name."""
    for combination in itertools.product(*keys.values()) if keys else ():
        yield ", ".join(label for label, _ in combination), combination


def one_at_a_time(keys: Values) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Return the first values of all keys, and what differs from them in one key alone, by its name."""
    first = tuple(values[0] for values in keys.values())
    if first:
        yield FIRST, first
    for place, values in enumerate(keys.values()):
        for value in values[1:]:
            yield value[0], (*first[:place], value, *first[place + 1 :])


def label_of(key: str, value: Any) -> str:
    """Return what a varied value is called in a name."""
    if isinstance(value, dict) and [*value] == ["name"]:
        value = value["name"]
    if isinstance(value, str) and value.strip():
        return value.strip()
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9).strip()
    text = text.removesuffix("...").strip()
    if len(text) > _LETTERS:
        text = f"{text[: _LETTERS - 1]}…"
    return text if isinstance(value, (dict, list)) else f"{key.rpartition('.')[2]} {text}"
