"""`@stage` and `@bracket`: read a function's signature into everything the rest of cellkit needs to know of it.

A stage is one pure function. Before ``/`` stand the layers it reads, after ``*`` its parameters, and the return
annotation names the kind it makes. From that one place come the registry entry, the YAML keys, range checks, help
texts and the halo.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, TypeVar, Union

from cellkit.core.errors import Fault, suggest
from cellkit.core.kinds import Kind, kind_of

__all__ = [
    "OBJECT",
    "WHOLE",
    "Argument",
    "FromSample",
    "Loaded",
    "Model",
    "Parameter",
    "Reach",
    "Span",
    "StageSpec",
    "bracket",
    "read_parameters",
    "spec_of",
    "stage",
]


@dataclass(frozen=True)
class _ReachName:
    name: str

    def __repr__(self) -> str:
        return self.name


OBJECT: Final = _ReachName("OBJECT")
"""Reach: only the connected piece that the pixel lies in."""
WHOLE: Final = _ReachName("WHOLE")
"""Reach: the whole image. The default: never wrong, only slower."""

Reach = Union[int, _ReachName]
ReachRule = Union[Reach, Callable[[Mapping[str, Any]], Reach]]
Review = Callable[[Mapping[str, Any], Sequence[tuple[str, Mapping[str, Any]]]], Iterable[Fault]]


@dataclass(frozen=True)
class Span:
    """The range a numeric parameter may lie in, ends included; `log` where a search should step by factors."""

    low: float
    high: float
    unit: str = ""
    log: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' ' + self.unit if self.unit else ''}"


@dataclass(frozen=True)
class FromSample:
    """Marks a parameter that the engine fills in from the sample and a recipe cannot set.

    `what` is ``"pixel_size"`` (micrometres (y, x) or None) or ``"names:<argument>"`` (the channel or class names of
    the layer bound to that argument, a tuple of str, empty where unknown).
    """

    what: str


@dataclass(frozen=True)
class Loaded:
    """Marks a text parameter that names a resource: the engine hands the stage what it loaded under that name."""


Model = Annotated[str, Loaded()]
"""A parameter that names a network: one that `cellkit models` lists, or a file or folder of weights with a card."""


@dataclass(frozen=True)
class Argument:
    """A layer that a stage reads: the kinds it takes, in order of preference."""

    name: str
    kinds: tuple[Kind, ...]
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class Parameter:
    """A value that a recipe may set. `loaded`: it names a resource (see `Model`)."""

    name: str
    type: Any
    default: Any
    span: Span | None = None
    loaded: bool = False

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values of a `Literal` parameter; empty for any other."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def type_text(self) -> str:
        """The type as a reader of a recipe would name it."""
        return "model" if self.loaded else _type_text(self.type)

    def coerce(self, value: Any) -> Any:
        """Return `value` as this parameter's type; raise `ValueError` with the reason where it does not fit."""
        value = _coerce(self.type, value)
        if self.span is not None:
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and number not in self.span:
                    raise ValueError(f"{number!r} is outside {self.span}")
        return value


@dataclass(frozen=True)
class StageSpec:
    """Everything a signature says: see the fields. `bracket` stages hold inner steps and change the frame."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Argument, ...]
    parameters: Mapping[str, Parameter]
    supplied: Mapping[str, FromSample]
    returns: tuple[Kind, ...]
    reach_rule: ReachRule = WHOLE
    out: str = ""
    names: Callable[[Mapping[str, Any], tuple[str, ...]], tuple[str, ...]] | None = None
    grid_rule: Callable[[Mapping[str, Any]], int] | None = None
    review: Review | None = None
    bracket: bool = False
    origin: str = field(default="", compare=False)

    @property
    def same_kind(self) -> bool:
        """True where the stage returns the kind of its first argument, whichever of several that is."""
        return len(self.returns) > 1

    @property
    def defaults(self) -> dict[str, Any]:
        """Every parameter with its default."""
        return {name: p.default for name, p in self.parameters.items()}

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n\n")[0].replace("\n", " ")

    def reach(self, params: Mapping[str, Any]) -> Reach:
        """Context in pixels that one output pixel needs under these parameters, or `OBJECT` or `WHOLE`."""
        rule = self.reach_rule
        return rule(params) if callable(rule) else rule

    def grid(self, params: Mapping[str, Any]) -> int:
        """Pixels to a multiple of which a part must begin for its result to be that of the whole image."""
        return self.grid_rule(params) if self.grid_rule is not None else 1


_SPEC = "__cellkit_stage__"
F = TypeVar("F", bound=Callable[..., Any])


def stage(
    *,
    reach: ReachRule = WHOLE,
    out: str = "",
    names: Callable[[Mapping[str, Any], tuple[str, ...]], tuple[str, ...]] | None = None,
    grid: Callable[[Mapping[str, Any]], int] | None = None,
    review: Review | None = None,
) -> Callable[[F], F]:
    """Declare a pure function a stage; the function itself is returned unchanged.

    `reach` is the context one output pixel needs: a number of pixels, a function of the parameters, `OBJECT` or
    `WHOLE`. `out` names the layer it writes by default where that is not its first input or its kind's own name.
    `names` maps (parameters, first layer's channel names) to the names of the result; without it they are kept where
    the number of channels is; in a run, a `Model` among them is what was loaded, else its name. `grid` maps the
    parameters to the number of pixels that a tile's corner must be a multiple of (a network that pools has such a
    grid). `review` maps the parameters and the steps before, as (stage, parameters), to what is wrong with them beyond
    types and ranges; the `where` of its faults names a parameter.

    Raises `TypeError` where the signature is no stage's.
    """

    def declare(function: F) -> F:
        spec = _read_signature(function)
        _attach(function, replace(spec, reach_rule=reach, out=out, names=names, grid_rule=grid, review=review))
        return function

    return declare


def bracket(function: F) -> F:
    """Declare a function of ``(shape, /, *, parameters)`` that returns a frame: a step with inner `steps:`."""
    parameters = read_parameters(function)
    _attach(
        function,
        StageSpec(function.__name__, function, (), parameters, {}, (), bracket=True, origin=function.__module__),
    )
    return function


def read_parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the keyword-only parameters of a function by name. Raises `TypeError` where one lacks default or span."""
    hints = typing.get_type_hints(function, include_extras=True)
    given = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {p.name: _parameter(function, p, hints.get(p.name, Any)) for p in given}


def spec_of(function: Callable[..., Any]) -> StageSpec | None:
    """Return the spec that `@stage` or `@bracket` read off `function`, or None."""
    return getattr(function, _SPEC, None)


def _attach(function: Callable[..., Any], spec: StageSpec) -> None:
    setattr(function, _SPEC, spec)


def _read_signature(function: Callable[..., Any]) -> StageSpec:
    hints = typing.get_type_hints(function, include_extras=True)
    arguments: list[Argument] = []
    parameters: dict[str, Parameter] = {}
    supplied: dict[str, FromSample] = {}
    for p in inspect.signature(function).parameters.values():
        hint = hints.get(p.name)
        if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL):
            arguments.append(_argument(function, p, hint))
        elif p.kind is p.KEYWORD_ONLY:
            source = next((m for m in _unwrapped(hint)[1] if isinstance(m, FromSample)), None)
            if source is not None:
                supplied[p.name] = source
            else:
                parameters[p.name] = _parameter(function, p, hint)
        else:
            raise TypeError(f"stage {function.__name__}: {p.name!r} must stand before '/' (a layer) or after '*'")
    returns = _kinds(hints.get("return"))
    if not arguments or not returns:
        raise TypeError(f"stage {function.__name__}: needs a layer before '/' and a kind as its return annotation")
    return StageSpec(
        function.__name__,
        function,
        tuple(arguments),
        types.MappingProxyType(parameters),
        types.MappingProxyType(supplied),
        returns,
        origin=function.__module__,
    )


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _kinds(hint: Any) -> tuple[Kind, ...]:
    return tuple(k for k in map(kind_of, _members(hint)) if k is not None)


def _argument(function: Callable[..., Any], p: inspect.Parameter, hint: Any) -> Argument:
    kinds = _kinds(hint)
    if not kinds:
        raise TypeError(f"stage {function.__name__}: {p.name!r} stands before '/' but its annotation is no kind")
    return Argument(p.name, kinds, optional=p.default is None, variadic=p.kind is p.VAR_POSITIONAL)


def _parameter(function: Callable[..., Any], p: inspect.Parameter, hint: Any) -> Parameter:
    if p.default is p.empty:
        raise TypeError(f"stage {function.__name__}: parameter {p.name!r} needs a default")
    base, metadata = _unwrapped(hint)
    span = next((m for m in metadata if isinstance(m, Span)), None)
    numeric = [m for m in _members(base) if m in (int, float)]
    if numeric and span is None:
        raise TypeError(f"stage {function.__name__}: numeric parameter {p.name!r} needs a Span")
    return Parameter(p.name, base, p.default, span, any(isinstance(m, Loaded) for m in metadata))


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type inside `Annotated` and what it is annotated with."""
    # Python 3.10 wraps the hint of a parameter whose default is None once more: Optional[Annotated[int | None, ...]].
    for member in _members(hint):
        if typing.get_origin(member) is Annotated:
            return member.__origin__, member.__metadata__
    return hint, ()


def _type_text(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    if origin is tuple:
        return f"list of {_type_text(typing.get_args(kind)[0])}"
    if origin in (Union, types.UnionType):
        return " | ".join(_type_text(m) for m in typing.get_args(kind))
    return {type(None): "none", float: "number", int: "whole number", str: "text", bool: "true | false"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _coerce(kind: Any, value: Any) -> Any:
    """Return `value` as `kind`, one of: bool, int, float, str, None, Literal, tuple of those, or a union of them."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return _coerce_literal(typing.get_args(kind), value)
    if origin in (Union, types.UnionType):
        for member in typing.get_args(kind):
            try:
                return _coerce(member, value)
            except ValueError:
                continue
    elif origin is tuple:
        items = typing.get_args(kind)
        if isinstance(value, (list, tuple)) and (items[-1] is Ellipsis or len(items) == len(value)):
            return tuple(_coerce(items[0], item) for item in value)
    elif kind is float:
        return _coerce_float(value)
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif kind is Any or (
        isinstance(kind, type) and isinstance(value, kind) and (kind is bool) == (value is True or value is False)
    ):
        return value
    raise ValueError(f"wanted {_type_text(kind)}, got {value!r}")


def _coerce_float(value: Any) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"wanted number, got {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"wanted number, got {value!r}")
    return float(value)


def _coerce_literal(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    hint = suggest(value, [str(c) for c in choices]) if isinstance(value, str) else ""
    text = f"wanted one of {', '.join(map(str, choices))}, got {value!r}"
    raise ValueError(f"{text}; {hint}" if hint else text)
