"""A training's config with some of its keys changed, by their dotted names."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cellkit.core import UsageError
from cellkit.models.architecture import architectures
from cellkit.train.optimisers import OPTIMISERS
from cellkit.train.schedules import SCHEDULES

__all__ = ["NAMED", "changed", "fitting", "written"]

NAMED = {"optimiser": (OPTIMISERS, "adamw"), "schedule": (SCHEDULES, "constant")}
"""Sections that are a name with parameters: what there is to choose from, and what is taken where nothing is said."""

_SHOWN = 40


def changed(data: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the data of a config with `changes`, by dotted key, and which parameters were left out by that.

    A key without a dot replaces its section. None takes a key away, so that its default counts. Sections are set
    before what is in them; another optimiser, schedule or architecture keeps of the parameters there are those that it
    has. What follows ``recipe.`` is a parameter of a step of the recipe that the config names.

    Whether the values are any good is for `cellkit.train.config.parse_config` to say.

    Raises `UsageError` where a key leads into something that has no keys.
    """
    found, left_out = copy.deepcopy(dict(data)), []
    names = (".name", ".architecture")
    for key in sorted(changes, key=lambda key: (key.count("."), not key.endswith(names))):
        value = copy.deepcopy(changes[key])
        section, _, rest = key.partition(".")
        if section == "recipe" and rest:
            _set_in_recipe(found, rest, value)
            continue
        if section in NAMED and rest:
            registry, default = NAMED[section]
            now = found.get(section) or default
            now = {"name": now} if isinstance(now, str) else now
            if rest == "name" and isinstance(now, dict) and value in registry:
                kept = fitting(now, registry.parameters(value), ("name",))
                left_out += [f"{section}.{name}: {value} has none" for name in now.keys() - kept.keys()]
                now = kept
            found[section] = now
        elif key == "model.architecture" and value in architectures():
            model = found.get("model")
            given = model.get("parameters") if isinstance(model, dict) else None
            if isinstance(model, dict) and isinstance(given, dict):
                model["parameters"] = fitting(given, architectures()[value].parameters)
                lost = given.keys() - model["parameters"].keys()
                left_out += [f"model.parameters.{name}: {value} has none" for name in sorted(lost)]
        _put(found, key, value)
    return found, left_out


def _set_in_recipe(data: dict[str, Any], target: str, value: Any) -> None:
    """Set a parameter of a step for the recipe that a config names."""
    given = data.get("recipe")
    recipe = dict(given) if isinstance(given, dict) else {"file": given}
    inner = recipe.get("set")
    recipe["set"] = {**(inner if isinstance(inner, dict) else {}), target: value}
    data["recipe"] = recipe


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the mappings that it leads through."""
    *way, last = key.split(".")
    node = data
    for depth, part in enumerate(way, 1):
        inner = node.get(part)
        if inner is None:
            inner = node[part] = {}
        if not isinstance(inner, dict):
            held = " ".join(str(inner).split())
            held = held if len(held) <= _SHOWN else f"{held[: _SHOWN - 1]}…"
            raise UsageError(f"{key}: {'.'.join(way[:depth])} holds {held}, which has no keys; set it as a whole")
        node = inner
    if value is None:
        node.pop(last, None)
    else:
        node[last] = value


def fitting(given: Mapping[str, Any], known: Mapping[str, Any], also: Sequence[str] = ()) -> dict[str, Any]:
    """Return what of `given` something with the parameters `known` can have."""
    found = {}
    for key, value in given.items():
        if key in also:
            found[key] = value
        elif key in known:
            try:
                known[key].coerce(value)
            except ValueError:
                continue
            found[key] = value
    return found


def written(data: Mapping[str, Any]) -> str:
    """Return the data of a config as YAML, what is short on one line."""

    class Dumper(yaml.SafeDumper):
        """safe_dump without aliases, which a config may not have."""

        def ignore_aliases(self, _: Any) -> bool:
            return True

    return yaml.dump(dict(data), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
