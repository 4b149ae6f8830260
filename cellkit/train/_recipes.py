"""What a config of a training says of recipes: the one whose step it trains, and the one to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cellkit.core import Recipe, RecipeError, Step, UsageError, registry
from cellkit.core.check import bind
from cellkit.core.errors import Fault, suggest
from cellkit.core.recipe import parse, text_of
from cellkit.train._networks import TASKS
from cellkit.train._preprocessing import preprocessing

__all__ = ["read_baseline", "read_recipe", "stage_of"]

_FRAMES = ("tile", "pad", "resize")


def read_baseline(source: Any, folder: Path, faults: list[Fault]) -> Recipe | None:
    """Return the recipe called `source`, a file in `folder` or a shipped one, adding to `faults` what is wrong."""
    if source is None:
        return None
    if not isinstance(source, str):
        faults.append(Fault("baseline", f"wanted a recipe, got {source!r}", "baseline: nuclei-classical"))
        return None
    here = folder / source
    try:
        recipe, found = parse(text_of(here if here.is_file() else source))
    except UsageError as error:
        faults.append(Fault("baseline", str(error)))
        return None
    found += bind(recipe).faults
    faults += [Fault(f"baseline {fault.where}", fault.message, fault.fix, fault.warning) for fault in found]
    return recipe


def read_recipe(data: Mapping[str, Any], folder: Path, faults: list[Fault]) -> tuple[Recipe, str, tuple[Step, ...]]:
    """Return the recipe, the step that is trained and the steps before it, as far as they are sound."""
    source, settings = _with_settings(data.get("recipe"))
    trains = data.get("trains", "predict")
    if not isinstance(source, str) or not isinstance(trains, str):
        wanted = "wanted the recipe that runs the network, a file or a shipped one, or with parameters set"
        fix = "recipe: my.yaml, or recipe: {file: my.yaml, set: {resize.size: 288}}"
        faults.append(Fault("recipe", wanted, fix))
        return Recipe(), "", ()
    here = folder / source
    try:
        recipe, found = parse(text_of(here if here.is_file() else source))
        for target, value in settings.items():
            recipe = recipe.set(target, value)
    except UsageError as error:
        faults.append(Fault("recipe", str(error).removeprefix("--")))
        return Recipe(), trains, ()
    prefix = _before(recipe.steps, trains)
    if prefix is None:
        labels = ", ".join(_labels(recipe.steps))
        faults.append(
            Fault("trains", f"the recipe has no step {trains!r}", suggest(trains, _labels(recipe.steps)) or labels)
        )
        return recipe, trains, ()
    stage = next(step.stage for step in _flat(recipe.steps) if step.label == trains)
    spec = registry.stages().get(stage)
    if spec is not None and stage not in TASKS:
        able = [step.label for step in _flat(recipe.steps) if step.stage in TASKS]
        fix = f"trains: {able[0]}" if able else f"the recipe has no step {', '.join(f'`{name}`' for name in TASKS)}"
        faults.append(Fault("trains", f"the step {trains!r} runs no network that can be trained", fix))
        return recipe, trains, ()
    try:
        preprocessing(recipe, trains)
    except RecipeError as error:
        found += error.faults
    except UsageError as error:
        found.append(Fault("trains", str(error)))
    faults += [Fault(f"recipe {fault.where}", fault.message, fault.fix, fault.warning) for fault in found]
    return recipe, trains, prefix


def _with_settings(given: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return the name of a recipe and what is set in it; None where it is neither a name nor such a mapping."""
    if not isinstance(given, dict):
        return given, {}
    settings = given.get("set", {})
    sound = given.keys() <= {"file", "set"} and isinstance(settings, dict) and all(isinstance(k, str) for k in settings)
    return (given.get("file"), settings) if sound else (None, {})


def stage_of(recipe: Recipe, trains: str) -> str:
    """Return the stage of the step called `trains`; empty where there is none."""
    return next((step.stage for step in _flat(recipe.steps) if step.label == trains), "")


def _before(steps: tuple[Step, ...], label: str) -> tuple[Step, ...] | None:
    """Return the steps before the one called `label`; those around it that only cut into tiles are left out."""
    for index, step in enumerate(steps):
        if step.label == label and step.stage not in _FRAMES:
            return steps[:index]
        inner = _before(step.steps, label)
        if inner is not None:
            around = (replace(step, steps=inner),) if step.stage == "resize" else inner
            return (*steps[:index], *around)
    return None


def _flat(steps: tuple[Step, ...]) -> list[Step]:
    return [one for step in steps for one in (step, *_flat(step.steps))]


def _labels(steps: tuple[Step, ...]) -> list[str]:
    return [step.label for step in _flat(steps)]
