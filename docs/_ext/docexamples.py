"""Run the example in a stage's docstring, and keep what the stage was given and what it made."""

from __future__ import annotations

import doctest
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from looks import ROOT

import cellkit as ck
from cellkit.core.kinds import KINDS, Histogram, Kind
from cellkit.core.stage import StageSpec

__all__ = ["Shown", "code_of", "prose_of", "run_example"]


@dataclass(frozen=True)
class Shown:
    """What one example showed: layers by name before the stage, and the layer after it."""

    before: tuple[tuple[str, tuple[Kind, ...], Any], ...]
    after: tuple[str, tuple[Kind, ...], Any]
    raw: Any = None
    """The image that the example is about, float32 (y, x, c), for detections to be drawn on."""


def prose_of(spec: StageSpec) -> list[str]:
    """Return the paragraphs of a stage's docstring, without its example."""
    text = inspect.getdoc(spec.function) or ""
    return [part for part in text.split("\n\n") if not part.startswith(">>>")]


def code_of(spec: StageSpec) -> str:
    """Return the example in a stage's docstring; empty where there is none."""
    text = inspect.getdoc(spec.function) or ""
    return "\n\n".join(part for part in text.split("\n\n") if part.startswith(">>>"))


def run_example(spec: StageSpec) -> Shown | None:
    """Run a stage's example, in the folder of the repository; None where all that calls the stage is skipped.

    Raises `ValueError` where there is no example, where it does not call the stage, or where it fails.
    """
    test = doctest.DocTestParser().get_doctest(code_of(spec), {}, spec.name, None, None)
    if not test.examples:
        raise ValueError(f"{spec.name}: its docstring has no example")
    if any(doctest.SKIP in example.options for example in test.examples):
        return None
    calls: list[Shown] = []
    said: list[str] = []
    with _recorded(spec, calls), _inside(ROOT):
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(test, out=said.append, clear_globs=False)
    if runner.failures:
        raise ValueError(f"{spec.name}: its example fails:\n{''.join(said)}")
    if not calls:
        raise ValueError(f"{spec.name}: its example never calls ck.{'run' if spec.bracket else f'stages.{spec.name}'}")
    given = [value for _, kinds, value in calls[-1].before if any(kind.name == "image" for kind in kinds)]
    given = [value for value in given if isinstance(value, np.ndarray)]  # detections are drawn on what they lie on
    image = given[0] if given else test.globs.get("image", test.globs.get("raw"))
    return Shown(calls[-1].before, calls[-1].after, image)


@contextmanager
def _recorded(spec: StageSpec, calls: list[Shown]) -> Iterator[None]:
    """Put a function that keeps its calls in the place where an example finds the stage."""
    home, name = (ck, "run") if spec.bracket else (ck.stages, spec.name)
    function: Callable[..., Any] = ck.run if spec.bracket else spec.function

    def record(*given: Any, **parameters: Any) -> Any:
        made = function(*given, **parameters)
        calls.append(_frame(given[1], made) if spec.bracket else _call(spec, given, made))
        return made

    vars(home)[name] = record
    try:
        yield
    finally:
        del vars(home)[name]


def _call(spec: StageSpec, given: tuple[Any, ...], made: Any) -> Shown:
    arguments = list(spec.arguments)
    while len(arguments) < len(given):  # several layers for one variadic argument
        arguments.append(arguments[-1])
    before = tuple(
        (argument.name, argument.kinds, value)
        for argument, value in zip(arguments, given, strict=False)
        if not isinstance(value, Histogram) and value is not None
    )
    return Shown(before, (spec.out or str(spec.returns[0]).lower(), spec.returns, made))


def _frame(sample: Any, result: Any) -> Shown:
    name = list(result)[-1]
    layer = result.layer(name)
    return Shown((("image", (KINDS["image"],), sample["image"]),), (name, (layer.kind,), layer.value))


@contextmanager
def _inside(folder: Any) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
