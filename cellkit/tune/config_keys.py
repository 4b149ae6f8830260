"""The dotted keys of a training's config that may be varied, each with its type, range and present value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cellkit.core import Span
from cellkit.core.stage import Parameter, read_parameters
from cellkit.models.architecture import architectures
from cellkit.train.augment import AUGMENTATIONS, PRESETS
from cellkit.train.changes import NAMED
from cellkit.train.config import DataRules, LoopRules, ModelRules, TrainConfig
from cellkit.train.losses import DEFAULT_LOSSES, LOSSES
from cellkit.train.targets import TargetRules

__all__ = ["KEPT", "Key", "expanded", "flow", "keys_of"]

_JUDGES = "trials would no longer be judged alike"
_SAME = "no score hangs on it"
KEPT = {
    **{f"data.{name}": _JUDGES for name in ("folder", "layout", "split", "train", "val", "invalid", "ignore")},
    **{f"loop.{name}": _JUDGES for name in ("hours", "pace", "validate", "patience")},
    **{f"loop.{name}": "a search runs in one process" for name in ("devices", "nodes", "strategy")},
    **dict.fromkeys(
        ("data.cache", "data.audit", "model.stored", "loop.workers", "name", "licence", "baseline", "cellkit_train"),
        _SAME,
    ),
    **dict.fromkeys(("metric", "recipe", "trains"), _JUDGES),
    "loop.seed": "a lucky seed makes no better config",
    "model.channels": "it follows from the steps before",
    "model.classes": "it says what is to be found",
}
"""Keys that are not varied, and why."""


@dataclass(frozen=True)
class Key:
    """A key that may be varied. `parameter`: its type and range, or None where it is a YAML text. `value`: now.

    `named`: varied over all its choices only where they are named.
    """

    target: str
    parameter: Parameter | None
    value: Any
    named: bool = False


def keys_of(config: TrainConfig, data: Mapping[str, Any], also: Sequence[str] = ()) -> dict[str, Key]:
    """Return every key of `config`, read from `data`, by its dotted name.

    `also`: names of architectures, optimisers and schedules that it may become, whose parameters count as well.
    """
    found = list(_of_sections(config))
    found += _of_model(config, also)
    for section, (registry, _) in NAMED.items():
        name, given = getattr(config, section)
        found.append(Key(f"{section}.name", _choice("name", list(registry), name), name))
        parameters: dict[str, Parameter] = {}
        for one in (name, *(other for other in also if other in registry)):
            parameters = {**registry.parameters(one), **parameters}
        found += [Key(f"{section}.{key}", p, _coerced(p, given)) for key, p in parameters.items()]
    loss = data.get("loss", DEFAULT_LOSSES.get(config.model.head))
    found.append(Key("loss", None, flow(loss)))
    found += _of_items("loss", expanded("loss", loss), LOSSES, _of_every_term)
    augment = data.get("augment", [])
    found.append(Key("augment", _choice("augment", list(PRESETS), augment), flow(augment)))
    found += _of_items("augment", expanded("augment", augment), AUGMENTATIONS, _of_every_step)
    return {key.target: key for key in found if key.target not in KEPT}


def expanded(section: str, spec: Any) -> list[dict[str, Any]]:
    """Return the items of a loss or an augmentation as mappings of name and parameters, presets written out."""
    if spec is None:
        return []
    if isinstance(spec, (list, tuple)):
        return [one for item in spec for one in expanded(section, item)]
    if isinstance(spec, str):
        return expanded(section, PRESETS[spec]) if section == "augment" and spec in PRESETS else [{"name": spec}]
    return [{key: list(value) if isinstance(value, tuple) else value for key, value in spec.items()}]


def flow(value: Any) -> Any:
    """Return a value as it is, or as YAML on one line where it is a list or a mapping; a name alone stays a name."""
    import yaml

    plain = _plain(value)
    if not isinstance(plain, (list, dict)):
        return plain
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**9).strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if [*value] == ["name"]:
            return value["name"]
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _of_sections(config: TrainConfig) -> Iterator[Key]:
    kinds: Mapping[str, Any] = {"data": DataRules, "targets": TargetRules, "loop": LoopRules}
    for section, kind in kinds.items():
        for name, parameter in read_parameters(kind).items():
            yield Key(f"{section}.{name}", parameter, getattr(getattr(config, section), name))


def _of_model(config: TrainConfig, also: Sequence[str]) -> Iterator[Key]:
    model, known = config.model, architectures()
    yield Key("model.architecture", _choice("architecture", list(known), model.architecture), model.architecture, True)
    parameters: dict[str, Parameter] = {
        name: p for name, p in read_parameters(ModelRules).items() if name in ("head", "start")
    }
    for name, parameter in parameters.items():
        yield Key(f"model.{name}", parameter, getattr(model, name), True)
    inner: dict[str, Parameter] = {}
    for one in (model.architecture, *(other for other in also if other in known)):
        inner = {**known[one].parameters, **inner}
    for name, parameter in inner.items():
        yield Key(f"model.parameters.{name}", parameter, _coerced(parameter, model.parameters))


def _of_items(section: str, items: Sequence[Mapping[str, Any]], registry: Any, every: Any) -> Iterator[Key]:
    """Yield the parameters of the terms of a loss or the steps of an augmentation that occur once, by their names."""
    names = [item.get("name") for item in items]
    common = read_parameters(every)
    for item in items:
        name = item.get("name")
        if name not in registry or names.count(name) > 1:
            continue
        for key, parameter in {**common, **registry.parameters(name)}.items():
            yield Key(f"{section}.{name}.{key}", parameter, _coerced(parameter, item))


def _of_every_term(*, weight: Annotated[float, Span(0, 1e6)] = 1.0) -> None:
    """Beside a loss's own parameters; read by its signature alone."""


def _of_every_step(*, p: Annotated[float, Span(0, 1)] = 0.5) -> None:
    """Beside an augmentation's own parameters; read by its signature alone."""


def _coerced(parameter: Parameter, given: Mapping[str, Any]) -> Any:
    return parameter.coerce(given[parameter.name]) if parameter.name in given else parameter.default


def _choice(name: str, choices: Sequence[str], default: Any) -> Parameter:
    return Parameter(name, Literal[tuple(choices)], default)
