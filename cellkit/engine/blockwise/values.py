"""A recipe as values instead of names: every layer each step makes is told apart, so that steps can be left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cellkit.core.check import BoundStep
from cellkit.core.kinds import KINDS, Kind
from cellkit.engine.footprint import resize_factor

__all__ = ["SOURCE", "Graph", "Value"]

SOURCE = -1
"""The step of what is read from the file."""


@dataclass(frozen=True, order=True)
class Value:
    """The layer `name` as step number `step` left it; `SOURCE` for the image as read."""

    name: str
    step: int

    @property
    def key(self) -> str:
        """A name for a file."""
        return f"{self.name}-{self.step}"


@dataclass
class _Made:
    steps: list[BoundStep]
    reads: list[Mapping[str, Value]]
    kinds: dict[Value, Kind]

    def add(self, steps: Iterable[BoundStep], now: dict[str, Value]) -> None:
        """Append `steps`; `now` maps names to their newest values."""
        for step in steps:
            if _still(step):
                inside = dict(now)
                self.add(step.inner, inside)
                now |= {name: inside[name] for name, _ in step.exports}
                continue
            number = len(self.steps)
            self.steps.append(step)
            self.reads.append({name: now[name] for name in step.reads})
            made = [(step.output, step.kind)] if step.kind is not None else list(step.exports)
            for name, kind in made:
                now[name] = Value(name, number)
                self.kinds[now[name]] = kind


def _still(step: BoundStep) -> bool:
    """Tell whether a step is a `resize` that changes no size, so that its inner steps may stand in its place."""
    return step.spec.name == "resize" and resize_factor(step.params) == 1.0


@dataclass(frozen=True)
class Graph:
    """The steps that a run carries out, and which values each reads.

    `reads[i]` maps the names that step i takes to values, `ends` every name at the end; `kinds` says what they are.
    """

    steps: tuple[BoundStep, ...]
    reads: tuple[Mapping[str, Value], ...]
    ends: Mapping[str, Value]
    kinds: Mapping[Value, Kind]

    @classmethod
    def of(cls, steps: Iterable[BoundStep]) -> Graph:
        """Return the graph of `steps`, in their order."""
        now = {name: Value(name, SOURCE) for name in ("raw", "image")}
        made = _Made([], [], dict.fromkeys(now.values(), KINDS["image"]))
        made.add(steps, now)
        return cls(tuple(made.steps), tuple(made.reads), now, made.kinds)

    def measured(self, number: int) -> Value | None:
        """Return the value whose histogram step `number` needs, or None."""
        step = self.steps[number]
        argument = next((a for a in step.spec.arguments if a.kinds[0] == KINDS["histogram"]), None)
        name = step.bindings[argument.name] if argument is not None else None
        return self.reads[number][name] if isinstance(name, str) else None

    def made_by(self, number: int) -> list[Value]:
        """Return the values that step `number` makes."""
        return [Value(name, number) for name in self.steps[number].writes]

    def needed(self, targets: Iterable[Value], given: Iterable[Value]) -> list[int]:
        """Return the steps, in order, that make `targets` of what is `given` and of the file."""
        have, wanted, found = set(given), list(targets), set()
        while wanted:
            value = wanted.pop()
            if value in have or value.step == SOURCE or value.step in found:
                continue
            found.add(value.step)
            wanted += self.reads[value.step].values()
        return sorted(found)
