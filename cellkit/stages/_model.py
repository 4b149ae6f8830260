"""What the stages that run a network have in common: its card, what `check` says of it, and its channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellkit.core import registry
from cellkit.core.errors import CellkitError, Fault, StageError
from cellkit.core.recipe import RESERVED

if TYPE_CHECKING:
    from cellkit.models.card import Card

__all__ = ["card_of", "class_names", "refuse_channels", "review_model"]

_STAGE_OF = {"dense": "predict", "boxes": "detect", "masks": "detect_masks"}
_LEAVES_PIXELS = ("tile", "pad")
"""Brackets that change which pixels a step sees, not what they are."""

Done = Sequence[tuple[str, Mapping[str, Any]]]


def card_of(model: Any) -> Card:
    """Return the card of a model, given by name or loaded. Raises `CellkitError` where there is none of that name."""
    if isinstance(model, str):
        from cellkit.models.store import find_model

        return find_model(model).card
    return model.card


def class_names(params: Mapping[str, Any], _: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the channels or classes that the step's model gives; none where they cannot be known."""
    if not params["model"]:
        return ()
    try:
        return card_of(params["model"]).classes
    except CellkitError:  # `review_model` says what is wrong
        return ()


def review_model(params: Mapping[str, Any], before: Done, task: str) -> Iterator[Fault]:
    """Yield what is wrong with the model of a step for `task`, behind the steps `before` it.

    Faults: no model, an unknown one, one for another task. Warnings: weights that are missing, steps before that are
    not those it was trained behind.
    """
    name = params["model"]
    if not name:
        yield Fault("model", "names no model", "`cellkit models` lists them: say `model: NAME`")
        return
    try:
        card = card_of(name)
    except CellkitError as error:
        yield Fault("model", str(error))
        return
    if card.task != task:
        wanted = f"{_STAGE_OF[task]} wants a model for {task}, {card.name} is one for {card.task}"
        yield Fault("model", wanted, f"say `{_STAGE_OF[card.task]}`")
        return
    if isinstance(name, str):
        from cellkit.models.store import find_model

        located = find_model(name)
        if located.weights is None:
            yield Fault("model", f"the weights of {card.name} are missing", located.remedy, stops=True)
        elif not located.is_onnx:
            from cellkit.models.architecture import find

            try:
                find(card.architecture)
            except CellkitError as error:  # of a plug-in: it may be there where the recipe runs
                yield Fault("model", f"{card.name}: {error}", "or install the plug-in that brings it", stops=True)
    different = _difference(card, before)
    if different:
        yield Fault("model", *different, warning=True)


def refuse_channels(stage: str, channels: int, card: Card) -> None:
    """Raise `StageError`, naming the fix, where an image of so many `channels` is not what the model was made for."""
    if channels == card.channels:
        return
    fix = "choose a model for the channels there are"
    if card.channels == 1:
        fix = "put `grayscale` before it" if channels == 3 else "put `channel: {name: 0}` before it, or another number"
    elif card.channels == 3 and channels == 1:
        fix = "put `to_rgb` before it"
    raise StageError(f"{stage}: {card.name} wants {_count(card.channels)}, the image has {_count(channels)}; {fix}")


def _count(channels: int) -> str:
    return f"{channels} channel{'s' * (channels != 1)}"


def _difference(card: Card, before: Done) -> tuple[str, str] | None:
    """Return the first difference between the steps before and those the model was trained behind, and the fix."""
    if not card.recipe:  # the card does not say
        return None
    trained = [_completed(*step) for step in _flat(card.recipe) if _counts(*step)]
    here = [_completed(*step) for step in before if _counts(*step)]
    text = f"{card.name} was trained behind {', '.join(name for name, _ in trained) or 'no step'}"
    for index, (name, wanted) in enumerate(trained):
        if index == len(here):
            return f"{text}; here `{name}` is missing", f"put `{name}` before it"
        found, given = here[index]
        if found != name:
            return f"{text}; here `{found}` stands where `{name}` should", f"replace it by `{name}`"
        for key in wanted:
            if given.get(key) != wanted[key]:
                there = f"`{name}` had {key}: {wanted[key]}"
                return f"where {card.name} was trained, {there}; here it is {given.get(key)}", f"{key}: {wanted[key]}"
    if len(here) > len(trained):
        return f"{text}; here `{here[len(trained)][0]}` is one more", "take it out, or move it behind"
    return None


def _flat(steps: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (stage, parameters) of steps as a card holds them, inner steps behind their bracket."""
    for step in steps:
        if isinstance(step, str):
            yield step, {}
        elif isinstance(step, Mapping):
            for name, params in step.items():
                if name not in RESERVED:
                    yield name, params if isinstance(params, Mapping) else {}
            yield from _flat(step.get("steps", ()))


def _counts(stage: str, params: Mapping[str, Any]) -> bool:
    """Tell whether a step can change what an image looks like to a network."""
    spec = registry.stages().get(stage)
    if spec is None:
        return True
    if spec.bracket:  # one that brings objects to a standard width makes them what the network knows
        return stage not in _LEAVES_PIXELS and params.get("standard") is None
    return any(kind.name == "image" for kind in spec.returns)


def _completed(stage: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    spec = registry.stages().get(stage)
    full = dict(spec.defaults) if spec is not None else {}
    for name, value in params.items():
        try:
            full[name] = spec.parameters[name].coerce(value) if spec is not None else value
        except (KeyError, ValueError):  # of another version of the stage: as it stands
            full[name] = value
    return stage, full
