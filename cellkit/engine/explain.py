"""Run a recipe on one image and write a page that shows what each step did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellkit.core.check import BoundStep, Plan, plan
from cellkit.core.errors import UsageError
from cellkit.core.recipe import Recipe
from cellkit.core.sample import Sample
from cellkit.engine.execute import Observation, execute
from cellkit.engine.networks import Networks

if TYPE_CHECKING:
    from cellkit.report.explain import Trace
    from cellkit.report.sweep import Sweep

__all__ = ["Traces", "explain", "trace"]


def explain(recipe: Recipe, image: str | Path, page: str | Path, sweeps: Sequence[str] = ()) -> int:
    """Write one self-contained HTML page for `recipe` on `image`; return the number of steps shown.

    `sweeps`: parameters that get a slider, each as ``step.param=a:b:n``; see `cellkit.engine.sweep.read_range`. Raises
    `RecipeError`, `ReadError`, `StageError`, `WriteError`, and `UsageError` for a sweep that is none or too large.
    """
    from cellkit.engine.sweep import MOST_BYTES, read_range, swept
    from cellkit.io import atomic, read
    from cellkit.report.explain import explain_page

    ranges = [read_range(recipe, text) for text in sweeps]
    twice = next((r.target for i, r in enumerate(ranges) if r.target in [s.target for s in ranges[:i]]), None)
    if twice is not None:
        raise UsageError(f"--sweep {twice}: given twice")
    sample = read(image, recipe.read_options)
    traced = Traces(recipe, sample)
    shown: list[Sweep] = []
    for one in ranges:
        shown.append(swept(recipe, sample, one, traced, MOST_BYTES - sum(sweep.size for sweep in shown)))
    traces = traced.of(traced.bound, traced.base)
    with atomic(Path(page)) as path:
        text = explain_page(traces, title=f"{recipe.name} on {Path(image).name}", sweeps=shown)
        path.write_text(text, encoding="utf-8")
    return len(traces) - 1


def trace(recipe: Recipe, image: str | Path) -> list[Trace]:
    """Return the image as read and what every step made of it, in the order of the recipe."""
    from cellkit.io import read

    traced = Traces(recipe, read(image, recipe.read_options))
    return traced.of(traced.bound, traced.base)


class Traces:
    """What the steps of a recipe made of a sample, `base`, and how that becomes the cards of a page."""

    def __init__(self, recipe: Recipe, sample: Sample) -> None:
        self.bound = plan(recipe)
        self.sample = sample
        execute(self.bound, sample)  # once unseen: the time of a step is not that of loading what it needs
        _, self.base = self.run(self.bound, sample)

    @staticmethod
    def run(bound: Plan, sample: Sample, networks: Networks | None = None) -> tuple[Sample, dict[str, Observation]]:
        """Carry out the steps of a plan; return the sample, and what was seen of each step by its place."""
        seen: dict[str, Observation] = {}

        def observe(observation: Observation) -> None:
            seen.setdefault(observation.step.where, observation)

        return execute(bound, sample, observe=observe, networks=networks), seen

    def of(self, bound: Plan, seen: Mapping[str, Observation]) -> list[Trace]:
        """Return the image as read and what was seen of every step, in the order of the recipe."""
        from cellkit.report.explain import Trace

        raw = self.sample.layer("raw")
        start = Trace(
            title="image", stage="", summary="The image as it was read.", params={}, inputs={}, output="raw",
            kind=raw.kind, value=raw.value, seconds=0.0, depth=0, note="; ".join(self.sample.notes),
            names=raw.names,
        )  # fmt: skip
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
        where=step.where,
    )  # fmt: skip
