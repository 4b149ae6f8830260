"""What a config of a training says of its network, checked: architecture, head, classes, and the step that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cellkit.core import UsageError
from cellkit.core.errors import Fault, suggest
from cellkit.models.architecture import ArchitectureSpec, architectures
from cellkit.models.card import FIXED_CLASSES
from cellkit.train.targets import DENSE_HEADS

if TYPE_CHECKING:
    from cellkit.train.config import ModelRules

__all__ = ["TASKS", "checked_network"]

TASKS: Mapping[str, str] = {"predict": "dense", "detect": "boxes", "detect_masks": "masks"}
"""What the networks find that the stages run."""

_FOR_DETECTORS: Mapping[str, str] = {
    "loss": "has losses of its own",
    "targets": "learns from the objects themselves",
}
"""Sections that say nothing to a detector, and why."""


def checked_network(model: ModelRules, stage: str, data: Mapping[str, Any], faults: list[Fault]) -> ModelRules:
    """Return the section `model` of the config `data`, a detector's head filled in, adding to `faults` what is wrong.

    `stage` is that of the trained step, whatever else where it has none that runs a network.
    """
    known = architectures()
    spec = known.get(model.architecture)
    if spec is None:
        fix = suggest(model.architecture, known) or "`cellkit models` lists them"
        faults.append(Fault("model.architecture", f"no architecture is called {model.architecture!r}", fix))
        return model
    if TASKS.get(stage, spec.task) != spec.task:
        faults.append(_wrong_step(spec, stage))
        return model
    if not isinstance(model.parameters, Mapping):
        faults.append(Fault("model.parameters", f"wanted a mapping, got {model.parameters!r}"))
        return model
    try:
        spec.complete(model.parameters)
    except UsageError as error:
        faults.append(Fault("model.parameters", str(error)))
    if spec.task != "dense":
        return _detector(model, spec, data, faults)
    if not any(fault.where == "model.head" for fault in faults):  # else what there is to say hangs on the head
        _dense(model, faults)
    for key in ("invalid", "ignore"):
        if isinstance(data.get("data"), Mapping) and key in data["data"]:
            faults.append(
                Fault(f"data.{key}", "is for detectors; a dense network learns from every pixel", "remove it")
            )
    return model


def _wrong_step(spec: ArchitectureSpec, stage: str) -> Fault:
    is_a = "is a dense network" if spec.task == "dense" else f"is a detector of {spec.task}"
    task = TASKS[stage]
    runs = "a dense network" if task == "dense" else f"a detector of {task}"
    others = [name for name, one in architectures().items() if one.task == task]
    step = next(name for name, found in TASKS.items() if found == spec.task)
    fix = f"an architecture such as {others[0] if others else 'none'}, or a recipe with a step `{step}`"
    return Fault("model.architecture", f"{spec.name} {is_a}; the trained step `{stage}` runs {runs}", fix)


def _dense(model: ModelRules, faults: list[Fault]) -> None:
    if model.head not in DENSE_HEADS:
        faults.append(Fault("model.head", f"{model.head} is no head of a dense network", f"heads: {', '.join(DENSE_HEADS)}"))  # fmt: skip # noqa: E501
    elif model.head in FIXED_CLASSES and model.classes:
        faults.append(Fault("model.classes", f"head {model.head} has its own: {', '.join(FIXED_CLASSES[model.head])}"))
    elif model.head not in FIXED_CLASSES and not model.classes:
        faults.append(Fault("model.classes", f"head {model.head} needs names for its outputs", "e.g. [nucleus]"))


def _detector(model: ModelRules, spec: ArchitectureSpec, data: Mapping[str, Any], faults: list[Fault]) -> ModelRules:
    given = data.get("model")
    head = given.get("head") if isinstance(given, Mapping) else None
    if head not in (None, spec.task):
        faults[:] = [fault for fault in faults if fault.where != "model.head"]
        faults.append(
            Fault("model.head", f"{spec.name} finds {spec.task} and has no head to choose", "leave `head` out")
        )
    for key, why in _FOR_DETECTORS.items():
        if data.get(key) is not None:
            faults.append(Fault(key, f"{spec.name} {why}", f"leave `{key}` out"))
    twice = sorted({name for name in model.classes if model.classes.count(name) > 1})
    if twice or "" in model.classes:
        what = f"{twice[0]!r} occurs twice" if twice else "a name is empty"
        faults.append(Fault("model.classes", what, "one name a class, the background not among them"))
    if "background" in model.classes:
        faults.append(Fault("model.classes", f"{spec.name} has a background of its own", "leave `background` out"))
    return replace(model, head=spec.task)  # type: ignore[arg-type]
