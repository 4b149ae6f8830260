"""One thing that is varied: its range or choices, read off a parameter's type and a ``--vary``."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Any

from cellkit.core.errors import UsageError
from cellkit.core.stage import Parameter

__all__ = ["Dimension", "around", "by_default", "chosen", "is_number", "no_range", "parts_of", "ranged", "shown"]

_FACTOR = 2.0
_DIGITS = 4
_DECADES = 100.0
"""From this ratio of its ends on, a range is searched by factors."""


@dataclass(frozen=True)
class Dimension:
    """One parameter that is varied: ``step.param`` of a recipe, ``section.key`` of a config, a range or choices.

    `default` is the recipe's or config's own value. Without `choices`, values lie between `low` and `high`, ends
    included, are `whole` numbers or have four significant digits, and are drawn on a `log` scale or not. `at` is the
    place of the step, or of the bracket around it, among those that make the scored layer.
    """

    target: str
    default: Any
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: tuple[Any, ...] = ()
    at: int = 0

    @property
    def discrete(self) -> bool:
        """True where values come again: choices and whole numbers."""
        return bool(self.choices) or self.whole

    def __contains__(self, value: Any) -> bool:
        if self.choices:
            return any(type(one) is type(value) and one == value for one in self.choices)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def tidy(self, value: Any) -> Any:
        """Return a value as it enters the recipe: whole, or with four significant digits, and inside the range."""
        if self.choices:
            return value
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        if self.choices:
            return f"{self.target}: {', '.join(shown(one) for one in self.choices)}"
        scale = ", by factors" if self.log else ""
        return f"{self.target}: {shown(self.low)} to {shown(self.high)}{scale}"


def by_default(target: str, parameter: Parameter, value: Any, at: int) -> Dimension | None:
    """Return the dimension of a parameter without a range of its own, or None where it has none."""
    if parameter.loaded:
        return None
    choices = parameter.choices or ((False, True) if parameter.type is bool else ())
    if choices:
        return Dimension(target, value, choices=tuple(choices), at=at) if len(choices) > 1 else None
    ends = around(parameter, value)
    if ends is None or parameter.span is None:
        return None
    return Dimension(target, value, *ends, whole=_whole(parameter), log=_log(parameter, ends), at=at)


def around(parameter: Parameter, value: Any) -> tuple[float, float] | None:
    """Return the range in which a number is varied by default, or None where it has no scale.

    From half to twice its value. Where its `Span` runs from 0 to at most 100 (shares, percentages), its distance to
    the upper end is likewise at least halved and at most doubled: 99 % becomes 98 to 99.5 %. At either end of such a
    span, and at 0 in a span no wider than 2, it is varied by a tenth of the width. Never beyond the `Span`; whole
    numbers by at least 1.
    """
    span = parameter.span
    if span is None or not is_number(parameter) or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    width, share = span.high - span.low, span.low == 0 and 1 <= span.high <= 100 and not _whole(parameter)
    if value == 0 or (share and value == span.high):
        if width > (100 if share and value else 2):
            return None
        low, high = value - width / 10, value + width / 10
    else:
        low, high = sorted((value / _FACTOR, value * _FACTOR))
        if share:
            rest = span.high - value
            low, high = max(low, span.high - _FACTOR * rest), min(high, span.high - rest / _FACTOR)
    if _whole(parameter):
        low, high = min(math.floor(low), value - 1), max(math.ceil(high), value + 1)
    low, high = max(low, span.low), min(high, span.high)
    return (low, high) if low < high else None


def no_range(target: str, parameter: Parameter, value: Any) -> str:
    """Return why a parameter has no range of its own, and how to give one."""
    if parameter.loaded:
        return f"a model is varied by naming some: --vary {target}=a,b"
    if is_number(parameter):
        return f"from {shown(value)} no range follows; give one: --vary {target}=low..high"
    return f"{parameter.type_text} has no range; name the choices: --vary {target}=a,b"


def ranged(text: str, target: str, parameter: Parameter, value: Any, at: int = 0) -> Dimension:
    """Return the dimension of a ``--vary target=low..high``. Raises `UsageError` where that is no range of it."""
    ends = [_coerced(text, parameter, part) for part in text.partition("=")[2].split("..", 1)]
    low, high = ends
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends) or low >= high:
        raise UsageError(f"--vary {text}: wanted low..high with low below high")
    return Dimension(target, value, low, high, _whole(parameter), _log(parameter, (low, high)), at=at)


def chosen(text: str, target: str, parameter: Parameter, value: Any, at: int = 0) -> Dimension:
    """Return the dimension of a ``--vary target=a,b`` or ``a|b``. Raises `UsageError` where these cannot be chosen."""
    choices = [_coerced(text, parameter, part) for part in parts_of(text.partition("=")[2])]
    if any(not isinstance(one, (str, int, float, bool, type(None))) for one in choices):
        raise UsageError(f"--vary {text}: {parameter.type_text} cannot be varied")
    if len({(type(one), one) for one in choices}) < max(2, len(choices)):
        raise UsageError(f"--vary {text}: wanted at least two different values; one alone is set with --set {text}")
    return Dimension(target, value, choices=tuple(choices), at=at)


def parts_of(given: str) -> list[str]:
    """Return what stands between the ``|``, or where there is none the commas, that no bracket holds."""
    for mark in "|,":
        parts, depth = [""], 0
        for letter in given:
            depth = max(0, depth + (letter in "[{") - (letter in "]}"))
            if letter == mark and not depth:
                parts.append("")
            else:
                parts[-1] += letter
        if len(parts) > 1:
            break
    return [part.strip() for part in parts if part.strip()]


def _coerced(text: str, parameter: Parameter, part: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(part)
    except yaml.YAMLError:
        value = part.strip()
    if parameter.type is str and not isinstance(value, str):
        value = part.strip()
    try:
        return parameter.coerce(value)
    except ValueError as error:
        raise UsageError(f"--vary {text}: {error}") from None


def _members(parameter: Parameter) -> tuple[Any, ...]:
    return typing.get_args(parameter.type) or (parameter.type,)


def is_number(parameter: Parameter) -> bool:
    """Tell whether a parameter is a number with a span."""
    return parameter.span is not None and any(m in (int, float) for m in _members(parameter))


def _whole(parameter: Parameter) -> bool:
    return float not in _members(parameter)


def _log(parameter: Parameter, ends: tuple[float, float]) -> bool:
    """Tell whether a search steps by factors: where the span says so, or the range holds two decades."""
    return parameter.span is not None and ends[0] > 0 and (parameter.span.log or ends[1] / ends[0] >= _DECADES)


def shown(value: Any) -> str:
    """Return a value as a reader of a recipe would write it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
