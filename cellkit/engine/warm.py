"""Where no kernel is compiled yet, let a second process compile a recipe's from the last step backwards.

The run itself compiles what it meets, from the first step on; each finds what the other has done in the shared cache,
and they meet in the middle. Compiling holds the interpreter's lock, so threads would not do. Happens once on a machine:
with warm kernels nothing is started.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from cellkit.core.check import BoundStep, Plan, bind, leaves
from cellkit.core.histogram import Histogram
from cellkit.core.kinds import Kind
from cellkit.core.recipe import dump, load
from cellkit.engine.execute import live
from cellkit.engine.networks import loads
from cellkit.engine.outputs import layers_for

__all__ = ["main", "warming"]


@contextmanager
def warming(plan: Plan, workers: int) -> Iterator[None]:
    """Compile `plan`'s kernels in a second process while the body runs, if they are cold and a core is free."""
    process = _start(plan) if workers > 1 and _cold() else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def _cold() -> bool:
    from cellkit.engine._count import _count  # the kernel that is quickest to compile tells for all

    return bool(getattr(_count, "stats").cache_misses)  # noqa: B009 - known to numba's dispatcher only


def _start(plan: Plan) -> subprocess.Popen[str] | None:
    command = [sys.executable, "-c", "from cellkit.engine.warm import main; main()"]
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True)
    except OSError:  # no interpreter to start (a frozen program): the run compiles all by itself
        return None
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.write(dump(plan.recipe))
            process.stdin.close()
    return process


def main() -> None:
    """Read a recipe from standard input and call each stage it needs on next to nothing, the last one first."""
    plan = bind(load(sys.stdin.read()))
    for step in reversed(list(leaves(live(plan, layers_for(plan))))):
        if loads(step.spec):
            continue  # a network compiles nothing, and is long to load
        # Only the loading of its kernels matters; what a stage says of such an input does not.
        with suppress(Exception):
            step.spec.function(*_arguments(step), **step.params)


def _arguments(step: BoundStep) -> list[Any]:
    values: list[Any] = []
    for argument in step.spec.arguments:
        if not argument.variadic:
            values.append(_tiny(argument.kinds[0]))
    return values


def _tiny(kind: Kind) -> Any:
    if kind.name == "histogram":
        return Histogram.of(_tiny(Kind("image", "", "float32", "yxc")))
    if not kind.axes:
        return None
    values = np.zeros((8, 8, 1)[: len(kind.axes)], kind.dtype)
    values[2:5, 2:5] = 1
    return values
