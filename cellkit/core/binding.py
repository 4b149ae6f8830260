"""Bind the layer arguments of a step to the layers made before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cellkit.core import registry
from cellkit.core.errors import Fault, suggest
from cellkit.core.kinds import KINDS, Kind
from cellkit.core.recipe import Step
from cellkit.core.stage import Argument, StageSpec

__all__ = ["Binding", "Scope", "bind_arguments"]

_BY_NAME_ONLY = ("raw", "seeds")

Binding = str | tuple[str, ...] | None


@dataclass
class Scope:
    """The layers known so far, oldest first, and the faults. `unsure` once a step could not be understood.

    `done` lists the stages bound so far with their parameters.
    """

    layers: dict[str, Kind]
    faults: list[Fault]
    unsure: bool = False
    done: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def fault(self, where: str, message: str, fix: str = "", *, warning: bool = False, stops: bool = False) -> None:
        """Note a fault."""
        self.faults.append(Fault(where, message, fix, warning, stops))

    def write(self, name: str, kind: Kind) -> None:
        """Note that a layer is made; it is the newest then."""
        self.layers.pop(name, None)
        self.layers[name] = kind

    def newest(self, kinds: tuple[Kind, ...], taken: set[str] = frozenset()) -> str | None:  # type: ignore[assignment]
        """Return the newest layer of one of `kinds` that is not bound by name only and not in `taken`, or None."""
        for name, kind in reversed(self.layers.items()):
            if kind in kinds and name not in _BY_NAME_ONLY and name not in taken:
                return name
        return None


def bind_arguments(step: Step, spec: StageSpec, scope: Scope, where: str) -> dict[str, Binding] | None:
    """Return argument -> layer, or None where an argument could not be bound (its fault noted)."""
    layers = [a for a in spec.arguments if a.kinds[0] != KINDS["histogram"]]
    given = _given_inputs(step, layers, scope, where)
    bindings: dict[str, Binding] = {}
    failed = False
    for argument in layers:
        if argument.name in given:
            bound = given[argument.name]
            names = (bound,) if isinstance(bound, str) else bound
            failed |= not all([_check_layer(name, argument, scope, where) for name in names])
            bindings[argument.name] = names if argument.variadic else names[0]
            continue
        found, reason = _search(argument, layers, scope, set(_names_in(bindings)))
        if found is None and not argument.optional:
            failed = True
            if not scope.unsure:
                scope.fault(where, reason[0], reason[1])
        bindings[argument.name] = found
    if failed:
        return None
    for argument in spec.arguments:
        if argument.kinds[0] == KINDS["histogram"]:
            bindings[argument.name] = bindings[layers[0].name]
    return bindings


def _names_in(bindings: Mapping[str, Binding]) -> Iterator[str]:
    for bound in bindings.values():
        if bound is not None:
            yield from (bound,) if isinstance(bound, str) else bound


def _given_inputs(step: Step, arguments: list[Argument], scope: Scope, where: str) -> dict[str, str | tuple[str, ...]]:
    given: dict[str, str | tuple[str, ...]] = {}
    names = [a.name for a in arguments]
    if isinstance(step.inputs, Mapping):
        for name, bound in step.inputs.items():
            argument = next((a for a in arguments if a.name == name), None)
            if argument is None:
                hint = suggest(name, names) or f"reads: {', '.join(names)}"
                scope.fault(f"{where}.in", f"no layer argument {name!r}", hint)
            elif not isinstance(bound, str) and (not argument.variadic or not bound):
                scope.fault(f"{where}.in", f"{name!r} takes one layer, got {list(bound)}")
            else:
                given[name] = bound
    elif step.inputs is not None:
        rest = list(step.inputs)
        for argument in arguments:
            if rest:
                given[argument.name] = tuple(rest) if argument.variadic else rest[0]
                rest = [] if argument.variadic else rest[1:]
        if rest:
            scope.fault(f"{where}.in", f"takes {len(names)} layers ({', '.join(names)}), got {len(step.inputs)}")
    return given


def _fits(kind: Kind, argument: Argument) -> bool:
    # A one-channel Prob serves where a Field is asked for; the engine sees to the channels.
    return kind in argument.kinds or (kind.name == "prob" and KINDS["field"] in argument.kinds)


def _check_layer(name: str, argument: Argument, scope: Scope, where: str) -> bool:
    kind = scope.layers.get(name)
    if kind is None:
        if not scope.unsure:
            hint = suggest(name, scope.layers) or f"layers here: {', '.join(scope.layers)}"
            scope.fault(f"{where}.in", f"there is no layer {name!r} yet", hint)
        return False
    if not _fits(kind, argument):
        wanted = " or ".join(map(str, argument.kinds))
        scope.fault(f"{where}.in", f"{argument.name!r} wants {wanted}; layer {name!r} is {kind}")
        return False
    return True


def _search(
    argument: Argument, arguments: list[Argument], scope: Scope, taken: set[str]
) -> tuple[Binding, tuple[str, str]]:
    """Find the layer for an argument without `in:`: (layer, ("", "")), or (None, (what is wrong, fix))."""
    wanted = " or ".join(map(str, argument.kinds))
    there = ", ".join(f"{name} ({kind})" for name, kind in scope.layers.items())
    missing = (f"{argument.name!r} wants {wanted}; the layers here are {there}", _maker(argument))
    if argument.variadic:
        rest = [n for n, k in scope.layers.items() if _fits(k, argument) and n not in (*_BY_NAME_ONLY, *taken)]
        return tuple(rest), ("", "")
    alone = len(argument.kinds) == 1
    if (alone or argument.name in _BY_NAME_ONLY) and scope.layers.get(argument.name) in argument.kinds:
        return argument.name, ("", "")
    if argument.name in _BY_NAME_ONLY:
        return None, missing
    rivals = [a.name for a in arguments if a is not argument and not a.variadic and a.name not in _BY_NAME_ONLY]
    rivals = [n for n in rivals if set(next(a for a in arguments if a.name == n).kinds) & set(argument.kinds)]
    if rivals:
        fix = f"say which: `in: {{{argument.name}: ..., {', '.join(f'{n}: ...' for n in rivals)}}}`"
        return None, (f"{argument.name!r} and {', '.join(map(repr, rivals))} take the same kind of layer", fix)
    prob = KINDS["prob"]
    if {k.name for k in argument.kinds} == {"image", "prob"}:
        return scope.newest((prob,)) or scope.newest(argument.kinds), missing
    found = scope.newest(argument.kinds)
    if found is None and KINDS["field"] in argument.kinds:
        found = scope.newest((prob,))
    return found, missing


def _maker(argument: Argument) -> str:
    """Suggest stages that would make the layer an argument lacks."""
    specs = registry.stages().values()
    if argument.name in _BY_NAME_ONLY:
        makers = [s.name for s in specs if s.out == argument.name]
    else:
        makers = [
            s.name
            for s in specs
            if s.returns == argument.kinds[:1] and argument.kinds[0] not in {k for a in s.arguments for k in a.kinds}
        ]
    return f"made by: {', '.join(makers)}" if makers else ""
