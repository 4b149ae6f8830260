"""A recipe whose parameters are being edited: what can be set, what was, and the command that says the same."""

from __future__ import annotations

import os
import shlex
import subprocess
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union

from cellkit.core.check import Plan, bind
from cellkit.core.errors import Fault, UsageError
from cellkit.core.recipe import Recipe, YamlFault, load_yaml, parse, text_of
from cellkit.core.stage import Parameter
from cellkit.io.temporary import atomic

__all__ = ["Editing", "Editor", "Knob", "Row", "editor", "open_recipe", "parsed", "quoted", "written"]


@dataclass(frozen=True)
class Editor:
    """How a parameter is edited: by a tick, a choice, a number or YAML text; `optional` where it may be none."""

    kind: Literal["flag", "choice", "whole", "number", "text"]
    optional: bool = False


@dataclass(frozen=True)
class Knob:
    """A parameter of a step: its value, and that which it has in the recipe as it was opened."""

    parameter: Parameter
    value: Any
    original: Any

    @property
    def changed(self) -> bool:
        """Whether it was edited."""
        return bool(self.value != self.original) or type(self.value) is not type(self.original)

    @property
    def says(self) -> str:
        """Type, range and default, for a reader."""
        parameter = self.parameter
        span = f", {parameter.span}" if parameter.span is not None else ""
        return f"{parameter.name}: {parameter.type_text}{span}; default {written(parameter.default)}"


@dataclass(frozen=True)
class Row:
    """A step with its parameters. `depth` counts brackets around it; `locked` says why `--set` cannot reach it."""

    label: str
    depth: int
    title: str
    summary: str
    knobs: tuple[Knob, ...]
    locked: str = ""


@dataclass(frozen=True)
class Editing:
    """A recipe, where it came from (a file, or the name of a shipped one), and the parameters that were set since."""

    source: str
    original: Recipe
    changes: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    structural: tuple[Fault, ...] = ()

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with all changes."""
        recipe = self.original
        for (label, name), value in self.changes.items():
            recipe = recipe.set(f"{label}.{name}", value)
        return recipe

    @cached_property
    def bound(self) -> Plan:
        """The recipe, bound as far as its faults allow."""
        return bind(self.recipe)

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """What keeps the recipe from being run, here or at all."""
        found = (*self.structural, *self.bound.faults)
        return tuple(fault for fault in found if not fault.warning or fault.stops)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """What is to be known of a recipe that runs all the same."""
        return tuple(fault for fault in self.bound.faults if fault.warning and not fault.stops)

    @cached_property
    def rows(self) -> list[Row]:
        """Every step that is understood, in order."""
        before = {step.where: step for _, step in bind(self.original).walk()}
        labels = [step.step.label for _, step in self.bound.walk()]
        rows = []
        for depth, step in self.bound.walk():
            label = step.step.label
            locked = "" if labels.count(label) == 1 else f"{labels.count(label)} steps are called {label!r}; give this"
            locked += " one a `name:` in the recipe to change it here" if locked else ""
            title = label if label == step.spec.name else f"{label} ({step.spec.name})"
            original = before[step.where].params if step.where in before else step.params
            knobs = tuple(
                Knob(parameter, step.params.get(name, parameter.default), original.get(name, parameter.default))
                for name, parameter in step.spec.parameters.items()
            )
            rows.append(Row(label, depth, title, step.spec.summary, knobs, locked))
        return rows

    def set(self, label: str, name: str, value: Any) -> Editing:
        """Return the recipe with a parameter of a step set; set to what it was, it counts as unchanged.

        Raises `UsageError` where there is no such parameter, or the value does not fit it.
        """
        knob = self._knob(label, name)
        try:
            value = knob.parameter.coerce(value)
        except ValueError as error:
            raise UsageError(f"{label}.{name}: {error}") from None
        changes = {key: old for key, old in self.changes.items() if key != (label, name)}
        if replace(knob, value=value).changed:
            changes[label, name] = value
        return replace(self, changes=changes)

    def reset(self) -> Editing:
        """Return the recipe as it was opened."""
        return replace(self, changes={})

    def settings(self) -> list[str]:
        """Return the changes as ``step.param=value``."""
        return [f"{label}.{name}={written(value)}" for (label, name), value in self.changes.items()]

    def command(self, image: str, out: str) -> list[str]:
        """Return the words of the command that does the same to the file `image`."""
        words = ["cellkit", "run", self.source, image, "-o", out]
        return words + [word for setting in self.settings() for word in ("--set", setting)]

    def save(self, path: str | Path) -> None:
        """Write the recipe with all changes. Raises `WriteError`."""
        with atomic(path) as temporary:
            temporary.write_text(self.recipe.dump(), encoding="utf-8")

    def _knob(self, label: str, name: str) -> Knob:
        rows = [row for row in self.rows if row.label == label]
        if not rows or rows[0].locked:
            raise UsageError(f"{label}.{name}: {rows[0].locked if rows else 'there is no such step'}")
        for knob in rows[0].knobs:
            if knob.parameter.name == name:
                return knob
        raise UsageError(f"{label}.{name}: {label} has no such parameter")


def open_recipe(source: str | Path) -> Editing:
    """Open a recipe's file, or a shipped recipe by its name, with whatever faults it has.

    Raises `UsageError` where there is neither.
    """
    recipe, faults = parse(text_of(source))
    return Editing(str(source), recipe, structural=tuple(faults))


def editor(parameter: Parameter) -> Editor:
    """Return how a parameter is edited, by its type."""
    union = typing.get_origin(parameter.type) in (Union, types.UnionType)
    members = typing.get_args(parameter.type) if union else (parameter.type,)
    optional = type(None) in members
    rest = [member for member in members if member is not type(None)]
    if parameter.choices:
        return Editor("choice")
    if rest == [bool] and not optional:
        return Editor("flag")
    if rest in ([int], [float]) and parameter.span is not None:
        return Editor("whole" if rest == [int] else "number", optional)
    return Editor("text", optional)


def written(value: Any) -> str:
    """Return a value of a parameter as YAML on one line, as `--set` takes it."""
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("...").strip()


def parsed(text: str) -> Any:
    """Return the value that a text of YAML stands for. Raises `UsageError` where it is none."""
    try:
        return load_yaml(text)
    except YamlFault as fault:
        raise UsageError(f"{text!r} is no value: {fault}") from None


def quoted(words: list[str]) -> str:
    """Return the words of a command as one line for this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
