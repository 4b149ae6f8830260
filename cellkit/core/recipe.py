"""Recipes: a list of steps as data, to and from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cellkit.core.errors import Fault, RecipeError, UsageError, suggest
from cellkit.core.stage import Parameter, Span

__all__ = ["ReadOptions", "Recipe", "Step", "YamlFault", "dump", "load", "load_yaml", "parse", "shipped"]

RESERVED = ("in", "out", "name", "steps")
"""Keys of a step beside its stage's own."""

_TOP = ("cellkit", "name", "description", "read", "steps", "outputs")
_MAX_BYTES = 1_000_000
_MAX_DEPTH = 16
_SHIPPED = Path(__file__).resolve().parent.parent / "recipes"

Inputs = Mapping[str, "str | tuple[str, ...]"] | tuple[str, ...] | None


@dataclass(frozen=True)
class ReadOptions:
    """How files are read; what is declared here overrides what a file says.

    `bits` is the bit depth of the intensities, `pixel_size` (y, x) in micrometres, `channels` their names, `crop`
    (y0, x0, y1, x1) half-open in pixels, `projection` how z and time stacks become one plane, and `pattern` a file
    name template such as ``{plate}_{well}_s{site}_w{channel}``.
    """

    bits: int | None = None
    pixel_size: tuple[float, ...] | None = None
    channels: tuple[str, ...] = ()
    crop: tuple[int, ...] | None = None
    projection: Literal["none", "max", "mean", "min", "sum", "first"] = "none"
    pattern: str = ""


_READ = {
    "bits": Parameter("bits", int | None, None, Span(1, 32)),
    "pixel_size": Parameter("pixel_size", tuple[float, ...] | None, None, Span(1e-6, 1e6, "um")),
    "channels": Parameter("channels", tuple[str, ...], ()),
    "crop": Parameter("crop", tuple[int, ...] | None, None, Span(0, 2**31, "px")),
    "projection": Parameter("projection", Literal["none", "max", "mean", "min", "sum", "first"], "none"),
    "pattern": Parameter("pattern", str, ""),
}


@dataclass(frozen=True)
class Step:
    """One step: a stage's name and parameters; where it reads and writes, if said; inner steps of a bracket."""

    stage: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs = None
    out: str = ""
    name: str = ""
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", {k: _tupled(v) for k, v in self.params.items()})
        object.__setattr__(self, "inputs", _tupled(self.inputs) or None)
        object.__setattr__(self, "steps", tuple(self.steps))

    @property
    def label(self) -> str:
        """What `--set` and messages call this step: its own name, else its stage."""
        return self.name or self.stage


@dataclass(frozen=True)
class Recipe:
    """A named list of steps with how to read the images and what to write."""

    steps: tuple[Step, ...] = ()
    name: str = "recipe"
    description: str = ""
    read_options: ReadOptions = field(default_factory=ReadOptions)
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "outputs", tuple(self.outputs))

    @classmethod
    def read(cls, source: str | Path) -> Recipe:
        """Read a recipe from a file, or by the name of one that ships with cellkit.

        Raises `UsageError` where there is neither, `RecipeError` where it is no recipe.
        """
        return load(text_of(source))

    @classmethod
    def load(cls, text: str) -> Recipe:
        """Parse YAML. Raises `RecipeError` with every structural fault."""
        return load(text)

    def dump(self) -> str:
        """Return the recipe as YAML; `load` gives an equal recipe back."""
        return dump(self)

    def set(self, target: str, value: Any) -> Recipe:
        """Return a recipe with ``step.param`` set, `step` being a step's name or its stage's.

        Raises `UsageError` where no step, or more than one, is called that.
        """
        label, _, param = target.partition(".")
        if not label or not param:
            raise UsageError(f"--set {target}: wanted step.param=value")
        labels = list(_labels(self.steps))
        count = labels.count(label)
        if count != 1:
            hint = suggest(label, labels) or f"steps: {', '.join(labels)}"
            wrong = f"no step is called {label!r}" if count == 0 else f"{count} steps are called {label!r}"
            fix = hint if count == 0 else "give the one you mean a `name:` in the recipe"
            raise UsageError(f"--set {target}: {wrong}; {fix}")
        return replace(self, steps=_set(self.steps, label, param, value))


def text_of(source: str | Path) -> str:
    """Return the YAML text of a recipe file or of a shipped recipe. Raises `UsageError`."""
    path = Path(source)
    try:
        if path.is_file():
            if path.stat().st_size > _MAX_BYTES:
                raise UsageError(f"{path}: larger than 1 MB, which no recipe is")
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise UsageError(f"{path}: cannot be read as a recipe: {error}") from error
    names = shipped()
    if str(source) in names:
        return names[str(source)].read_text(encoding="utf-8")
    hint = suggest(str(source), names) or f"shipped recipes: {', '.join(names) or 'none'}"
    raise UsageError(f"recipe {str(source)!r}: no such file, and no shipped recipe has that name; {hint}")


def shipped() -> dict[str, Path]:
    """Return the recipes that ship with cellkit: name -> file."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def load(text: str) -> Recipe:
    """Parse YAML into a recipe. Raises `RecipeError` with every structural fault; stages are not looked up."""
    recipe, faults = parse(text)
    if faults:
        raise RecipeError(faults)
    return recipe


def dump(recipe: Recipe) -> str:
    """Return `recipe` as YAML."""
    import yaml

    data: dict[str, Any] = {"cellkit": 1, "name": recipe.name}
    if recipe.description:
        data["description"] = recipe.description
    default = ReadOptions()
    options = {k: getattr(recipe.read_options, k) for k in _READ}
    read = {k: _listed(v) for k, v in options.items() if v != getattr(default, k)}
    if read:
        data["read"] = read
    data["steps"] = [_step_data(step) for step in recipe.steps]
    if recipe.outputs:
        data["outputs"] = list(recipe.outputs)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def parse(text: str) -> tuple[Recipe, list[Fault]]:
    """Parse YAML leniently: the recipe as far as it can be understood, and every structural fault."""
    try:
        data = load_yaml(text)
    except YamlFault as fault:
        return Recipe(), [Fault(fault.where, str(fault))]
    faults: list[Fault] = []
    if not isinstance(data, dict):
        return Recipe(), [Fault("recipe", f"wanted a mapping with `steps:`, got {_shown(data)}")]
    for key in data:
        if key not in _TOP:
            faults.append(Fault("recipe", f"unknown key {_shown(key)}", _known(key, _TOP)))
    if data.get("cellkit", 1) != 1:
        faults.append(Fault("cellkit", f"version {_shown(data['cellkit'])} is not known", "write `cellkit: 1`"))
    steps = _parse_steps(data.get("steps"), "steps", faults, 0)
    recipe = Recipe(
        steps=steps,
        name=_text(data, "name", "recipe", faults),
        description=_text(data, "description", "", faults),
        read_options=_parse_read(data.get("read"), faults),
        outputs=_names(data.get("outputs"), "outputs", faults),
    )
    return recipe, faults


class YamlFault(Exception):
    """What is wrong with a text that should be plain YAML, and where."""

    def __init__(self, message: str, where: str = "yaml") -> None:
        super().__init__(message)
        self.where = where


def load_yaml(text: str) -> Any:
    """Return what a YAML text holds: plain data, no aliases, no key given twice. Raises `YamlFault`."""
    import yaml

    class Loader(yaml.SafeLoader):
        """safe_load that also refuses aliases (they can blow up) and keys given twice (one would be lost)."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event = self.peek_event()
                raise YamlFault("aliases (*name) are not allowed", f"line {event.start_mark.line + 1}")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise YamlFault("a key must be plain text", f"line {key_node.start_mark.line + 1}")
                if key_node.value in seen:
                    line = f"line {key_node.start_mark.line + 1}"
                    raise YamlFault(f"{key_node.value!r} is given twice", line)
                seen.add(key_node.value)
            return super().construct_mapping(node, deep)

    if len(text.encode("utf-8", "replace")) > _MAX_BYTES:
        raise YamlFault("larger than 1 MB, which no recipe is")
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "yaml"
        raise YamlFault(getattr(error, "problem", None) or str(error), where) from error
    except RecursionError:
        raise YamlFault("nested too deeply") from None
    except ValueError as error:  # a date that is none, an integer of thousands of digits
        raise YamlFault(str(error)) from error


def _parse_steps(data: Any, where: str, faults: list[Fault], depth: int) -> tuple[Step, ...]:
    if not isinstance(data, list) or not data:
        faults.append(Fault(where, f"wanted a list of steps, got {_shown(data)}", "e.g. `- otsu`"))
        return ()
    if depth > _MAX_DEPTH:
        faults.append(Fault(where, f"brackets nested more than {_MAX_DEPTH} deep"))
        return ()
    return tuple(_parse_step(item, f"{where}[{i}]", faults, depth) for i, item in enumerate(data))


def _parse_step(data: Any, where: str, faults: list[Fault], depth: int) -> Step:
    """Return the step; one that cannot be understood becomes a step without a stage, its fault noted."""
    if isinstance(data, str):
        return Step(data)
    if not isinstance(data, dict):
        faults.append(Fault(where, f"wanted a stage's name or a mapping, got {_shown(data)}"))
        return Step("")
    keys = [key for key in data if key not in RESERVED]
    if len(keys) != 1 or not isinstance(keys[0], str):
        found = f"found {', '.join(map(_shown, keys))}" if keys else "found none"
        faults.append(Fault(where, f"a step has exactly one stage; {found}", "start each step with its own `- `"))
        return Step("")
    stage = keys[0]
    where = f"{where} {stage}"
    params = data[stage]
    if params is None:
        params = {}
    elif not isinstance(params, dict) or not all(isinstance(key, str) for key in params):
        fix = f"write `{stage}: {{parameter: value}}`"
        faults.append(Fault(where, f"wanted parameters as a mapping, got {_shown(params)}", fix))
        params = {}
    steps = _parse_steps(data["steps"], f"{where}.steps", faults, depth + 1) if "steps" in data else ()
    return Step(
        stage,
        params,
        _parse_inputs(data.get("in"), where, faults),
        _text(data, "out", "", faults, where),
        _text(data, "name", "", faults, where),
        steps,
    )


def _parse_inputs(data: Any, where: str, faults: list[Fault]) -> Inputs:
    if data is None:
        return None
    if isinstance(data, str):
        return (data,)
    if isinstance(data, list) and data and all(isinstance(name, str) for name in data):
        return tuple(data)
    if isinstance(data, dict) and data:
        fine = {k: v for k, v in data.items() if isinstance(k, str) and _is_names(v)}
        if len(fine) == len(data):
            return _tupled(fine)
    faults.append(Fault(where, f"`in:` wants a layer, a list of layers or argument: layer, got {_shown(data)}"))
    return None


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _parse_read(data: Any, faults: list[Fault]) -> ReadOptions:
    if data is None:
        return ReadOptions()
    if not isinstance(data, dict):
        faults.append(Fault("read", f"wanted a mapping, got {_shown(data)}"))
        return ReadOptions()
    values: dict[str, Any] = {}
    for key, value in data.items():
        where = f"read.{key}"
        if key not in _READ:
            faults.append(Fault("read", f"unknown key {_shown(key)}", _known(key, _READ)))
            continue
        if key == "pixel_size" and isinstance(value, (int, float)):
            value = [value, value]
        try:
            values[key] = _READ[key].coerce(value)
        except ValueError as error:
            faults.append(Fault(where, str(error)))
    crop, size = values.get("crop"), values.get("pixel_size")
    if crop is not None and not (len(crop) == 4 and crop[0] < crop[2] and crop[1] < crop[3]):
        faults.append(Fault("read.crop", f"wanted [y0, x0, y1, x1] with y0 < y1 and x0 < x1, got {list(crop)}"))
        del values["crop"]
    if size is not None and len(size) != 2:
        faults.append(Fault("read.pixel_size", f"wanted one number or [y, x] in um, got {list(size)}"))
        del values["pixel_size"]
    return ReadOptions(**values)


def _names(data: Any, where: str, faults: list[Fault]) -> tuple[str, ...]:
    if data is None:
        return ()
    if not isinstance(data, list) or not all(isinstance(name, str) and name for name in data):
        faults.append(Fault(where, f"wanted a list of names, got {_shown(data)}"))
        return ()
    return tuple(dict.fromkeys(data))


def _text(data: Mapping[str, Any], key: str, default: str, faults: list[Fault], where: str = "") -> str:
    value = data.get(key)
    if value is None:
        return default
    if isinstance(value, str) and value and (key == "description" or value.isprintable()):
        return value
    faults.append(Fault(f"{where}.{key}".lstrip("."), f"wanted text on one line, got {_shown(value)}"))
    return default


def _known(key: Any, names: Sequence[str] | Mapping[str, Any]) -> str:
    return suggest(str(key), names) or f"known: {', '.join(names)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tupled(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_tupled(item) for item in value)
    return {k: _tupled(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _listed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return {k: _listed(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _step_data(step: Step) -> Any:
    data: dict[str, Any] = {step.stage: _listed(step.params) or None}
    if step.inputs is not None:
        single = isinstance(step.inputs, tuple) and len(step.inputs) == 1
        data["in"] = step.inputs[0] if single else _listed(step.inputs)  # type: ignore[index]
    data.update({key: value for key, value in (("out", step.out), ("name", step.name)) if value})
    if step.steps:
        data["steps"] = [_step_data(inner) for inner in step.steps]
    return step.stage if len(data) == 1 and not step.params else data


def _labels(steps: Sequence[Step]) -> Sequence[str]:
    return [label for step in steps for label in (step.label, *_labels(step.steps))]


def _set(steps: Sequence[Step], label: str, param: str, value: Any) -> tuple[Step, ...]:
    return tuple(
        replace(
            step,
            params={**step.params, param: value} if step.label == label else step.params,
            steps=_set(step.steps, label, param, value),
        )
        for step in steps
    )
