"""Run a recipe on one image and write a page that shows what each step did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellkit.core.check import BoundStep, plan
from cellkit.core.recipe import Recipe
from cellkit.engine.execute import Observation, execute

if TYPE_CHECKING:
    from cellkit.report.explain import Trace

__all__ = ["explain", "trace"]


def explain(recipe: Recipe, image: str | Path, page: str | Path) -> int:
    """Write one self-contained HTML page for `recipe` on `image`; return the number of steps shown.

    Raises `RecipeError`, `ReadError`, `StageError` or `WriteError`.
    """
    from cellkit.io import atomic
    from cellkit.report.explain import explain_page

    traces = trace(recipe, image)
    with atomic(Path(page)) as path:
        path.write_text(explain_page(traces, title=f"{recipe.name} on {Path(image).name}"), encoding="utf-8")
    return len(traces) - 1


def trace(recipe: Recipe, image: str | Path) -> list[Trace]:
    """Return the image as read and what every step made of it, in the order of the recipe."""
    from cellkit.io import read
    from cellkit.report.explain import Trace

    bound = plan(recipe)
    sample = read(image, recipe.read_options)
    raw = sample.layer("raw")
    start = Trace(
        title="image", stage="", summary="The image as it was read.", params={}, inputs={}, output="raw",
        kind=raw.kind, value=raw.value, seconds=0.0, depth=0, note="; ".join(sample.notes),
        names=raw.names,
    )  # fmt: skip
    seen: dict[str, Observation] = {}

    def observe(observation: Observation) -> None:
        where = observation.step.where
        if where not in seen:
            seen[where] = observation

    execute(bound, sample)  # once unseen: the time of a step is not that of loading what it needs
    execute(bound, sample, observe=observe)
    # A bracket is observed after its inner steps; the page shows it before them.
    steps = [(depth, step) for depth, step in bound.walk() if step.where in seen]
    return [start, *(_trace(i + 1, depth, step, seen[step.where]) for i, (depth, step) in enumerate(steps))]


def _trace(number: int, depth: int, step: BoundStep, seen: Observation) -> Trace:
    from cellkit.report.explain import Trace

    layer = seen.layer
    note = f"on {seen.parts} tiles; the first is shown" if seen.parts > 1 and layer is not None else ""
    return Trace(
        title=f"{number} {step.step.label}", stage=step.spec.name, summary=step.spec.summary, params=dict(step.params),
        inputs={k: v if isinstance(v, str) else ", ".join(v) for k, v in step.bindings.items() if v},
        output=step.output, kind=None if layer is None else layer.kind, value=None if layer is None else layer.value,
        seconds=seen.seconds, depth=depth, note=note, names=() if layer is None else layer.names,
    )  # fmt: skip
