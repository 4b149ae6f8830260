"""What may be varied in the config of a training, and the config with other values."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cellkit.core.errors import Fault, UsageError, suggest
from cellkit.core.recipe import load_yaml
from cellkit.models.architecture import architectures
from cellkit.train.changes import NAMED, fitting, written
from cellkit.train.config import ModelRules, TrainConfig, parse_config
from cellkit.train.losses import DEFAULT_LOSSES, LOSSES
from cellkit.tune.config_keys import KEPT, Key, expanded, flow, keys_of
from cellkit.tune.dimension import Dimension, by_default, chosen, is_number, no_range, parts_of, ranged

__all__ = ["ConfigSpace", "config_space", "written"]

_DECADE = 10.0
_DEFAULT = "optimiser.rate"
_SHAPE = ("model.architecture", "model.head", "model.parameters.")
_ITEMS = ("loss", "augment")


@dataclass(frozen=True)
class ConfigSpace:
    """A config, what is varied of it, and notes on what follows from that."""

    config: TrainConfig
    data: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    notes: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """The config's own values of what is varied."""
        return {one.target: one.default for one in self.dimensions}

    def apply(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data of the config with `values`, by dotted key; what has its own value stays as it is written.

        Another optimiser, schedule or architecture keeps of the parameters there are those that it has, and weights
        to start from are left out where they would no longer fit.
        """
        data = copy.deepcopy(dict(self.data))
        defaults = self.defaults
        other = {key for key, value in values.items() if value != defaults.get(key)}
        # What another optimiser has by default is not what this one has, so its values are written out.
        sections = [key.removesuffix("name") for key in other if key.endswith(".name")]
        sections += ["model.parameters."] if "model.architecture" in other else []
        changed = {key: one for key, one in values.items() if key in other or key.startswith(tuple(sections))}
        for section, (registry, default) in NAMED.items():
            if f"{section}.name" in other:
                found = {**_mapping(data.get(section, default)), "name": changed.pop(f"{section}.name")}
                data[section] = fitting(found, registry.parameters(found["name"]), ("name",))
        model = dict(data.get("model") or {})
        if "model.architecture" in other:
            name = model["architecture"] = changed.pop("model.architecture")
            model["parameters"] = fitting(model.get("parameters") or {}, architectures()[name].parameters)
        if "model.start" not in changed and any(key.startswith(_SHAPE) for key in other):
            model.pop("start", None)
        if model:
            data["model"] = model
        for key, value in changed.items():
            _put(data, key, value)
        return data

    def checked(self, values: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> tuple[TrainConfig | None, list[Fault]]:  # fmt: skip # noqa: E501
        """Return the config with `values`, and `more` in its section `data`, without a baseline; and its faults."""
        data = self.apply(values)
        data.pop("baseline", None)
        data["data"] = {**(data.get("data") or {}), **(more or {})}
        config, faults = parse_config(written(data), self.config.folder)
        return config, [fault for fault in faults if not fault.warning]


def config_space(config: TrainConfig, vary: Sequence[str] = ()) -> ConfigSpace:
    """Return what is varied of `config`: what `vary` names, by default the learning rate, a decade up and down.

    `vary` holds ``section.key``, ``section.key=low..high`` or ``section.key=a|b|c``. Without a range of its own, a
    number on a log scale is varied between a tenth and ten times its value, any other between half and twice.

    Raises `UsageError` where a name is unknown, is not varied (see `KEPT`), has no range, or the config does not check
    with one of its values.
    """
    data = load_yaml(config.text)
    asked = [_asked(text) for text in vary or [_DEFAULT]]
    also = [part for target, given, _ in asked if target.endswith(("name", "architecture")) for part in parts_of(given)]
    keys = keys_of(config, data, also)
    named = [_named(keys, target, given, text) for target, given, text in asked]
    targets = [one.target for one in named]
    for target in targets:
        if targets.count(target) > 1:
            raise UsageError(f"--vary {target}: given twice")
        if target in _ITEMS and any(other.startswith(f"{target}.") for other in targets):
            raise UsageError(f"--vary {target}: varied as a whole, so none of its parts can be")
    space = ConfigSpace(config, data, tuple(named), tuple(_notes(config, targets)))
    for one in named:
        for value in one.choices or (one.low, one.high):
            faults = space.checked({one.target: one.tidy(value)})[1]
            if faults:
                raise UsageError(f"--vary {one.target}={value}: {'; '.join(map(str, faults))}")
    return space


def _asked(text: str) -> tuple[str, str, str]:
    """Return the key of a ``--vary``, its range or choices (empty: none), and the text as it is to be read on."""
    target, equals, given = (part.strip() for part in text.partition("="))
    if not target or (equals and not given):
        raise UsageError(f"--vary {text}: wanted section.key, section.key=low..high or section.key=a|b|c")
    target = f"{target}.name" if target in NAMED else target
    return target, given, f"{target}={given}" if given else target


def _named(keys: Mapping[str, Key], target: str, given: str, text: str) -> Dimension:
    """Return the dimension that one ``--vary`` asks for."""
    if target in KEPT:
        raise UsageError(f"--vary {text}: {target} is not varied, as {KEPT[target]}")
    key = keys.get(target)
    if key is None:
        section = target.partition(".")[0]
        there = [name.partition(".")[2] for name in keys if name.startswith(f"{section}.")]
        fix = suggest(target, keys) or (f"{section} has {', '.join(there)}" if there else f"e.g. {_DEFAULT}")
        raise UsageError(f"--vary {text}: a config has no key {target!r} to vary; {fix}")
    parameter, value = key.parameter, key.value
    if target in _ITEMS and given:
        return _specs(text, target, given, value)
    if parameter is None or (key.named and not given):
        raise UsageError(f"--vary {text}: name the choices: --vary {target}=a|b; known: {_known(key)}")
    if target == "loop.crop" and ".." in given:
        raise UsageError(f"--vary {text}: few sizes fit a network; name some: --vary loop.crop=128|192|256")
    if not given:
        one = _around(target, parameter, value)
        if one is None or target == "loop.crop":
            raise UsageError(f"--vary {text}: {no_range(target, parameter, value)}")
        return one
    if ".." in given and is_number(parameter):
        return ranged(text, target, parameter, value)
    return chosen(text, target, parameter, value)


def _around(target: str, parameter: Any, value: Any) -> Dimension | None:
    """Return the dimension of a key without a range of its own: by decades where its scale is one of factors."""
    span = parameter.span
    if span is not None and span.log and is_number(parameter) and isinstance(value, (int, float)) and value > 0:
        low, high = max(value / _DECADE, span.low), min(value * _DECADE, span.high)
        if isinstance(value, int):
            return Dimension(target, value, max(1, round(low)), round(high), whole=True, log=True)
        return Dimension(target, value, float(f"{low:.4g}"), float(f"{high:.4g}"), log=True)
    return by_default(target, parameter, value, 0)


def _specs(text: str, target: str, given: str, value: Any) -> Dimension:
    """Return the dimension of a loss or an augmentation, whose choices are YAML."""
    parts = parts_of(given)
    for part in parts:
        try:
            yaml.safe_load(part)
        except yaml.YAMLError as error:
            raise UsageError(f"--vary {text}: {part} is no YAML: {getattr(error, 'problem', error)}") from None
    if len(set(parts)) < max(2, len(parts)):
        raise UsageError(f"--vary {text}: wanted at least two different values")
    choices = tuple(flow(yaml.safe_load(part)) for part in parts)
    return Dimension(target, value, choices=choices)


def _known(key: Key) -> str:
    if key.parameter is None:
        return ", ".join(LOSSES)
    return ", ".join(map(str, key.parameter.choices)) or key.parameter.type_text


def _notes(config: TrainConfig, targets: Sequence[str]) -> list[str]:
    notes = []
    if config.model.start and "model.start" not in targets and any(one.startswith(_SHAPE) for one in targets):
        notes.append("model.start: left out in trials whose network has another shape")
    if any(one in ("loop.epochs", "loop.steps", "loop.batch", "loop.crop") for one in targets):
        notes.append("loop: trials see more or fewer pixels than one another, and take as much longer")
    return notes


def _mapping(value: Any) -> dict[str, Any]:
    return {"name": value} if isinstance(value, str) else dict(value)


def _default_of(section: str, data: Mapping[str, Any]) -> Any:
    """Return the loss or augmentation of a config that names none."""
    if section == "augment":
        return []
    return DEFAULT_LOSSES.get((data.get("model") or {}).get("head", ModelRules().head))


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; one that the optimiser, schedule or architecture there does not have is passed over."""
    section, _, name = key.partition(".")
    if key in _ITEMS:
        data[key] = yaml.safe_load(value) if isinstance(value, str) else value
    elif section in _ITEMS:
        item, _, parameter = name.partition(".")
        items = expanded(section, data.get(section, _default_of(section, data)))
        next(one for one in items if one["name"] == item)[parameter] = value
        data[section] = items
    elif section in NAMED:
        registry, default = NAMED[section]
        found = _mapping(data.get(section, default))
        if name in registry.parameters(found["name"]):
            data[section] = {**found, name: value}
    elif name.startswith("parameters."):
        model, name = data.setdefault("model", {}), name.partition(".")[2]
        if name in architectures()[model.get("architecture", ModelRules().architecture)].parameters:
            model["parameters"] = {**(model.get("parameters") or {}), name: value}
    else:
        data[section] = {**(data.get(section) or {}), name: value}
