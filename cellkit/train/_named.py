"""Things chosen by name in a config, with typed parameters: losses, optimisers, schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cellkit.core import UsageError
from cellkit.core.errors import Fault, suggest
from cellkit.core.stage import Parameter, read_parameters

__all__ = ["Named"]


class Named(Mapping[str, Callable[..., Any]]):
    """Functions of one sort by name, their keyword-only parameters read as a stage's are.

    `sort` is what they are, as messages call them ("loss").
    """

    def __init__(self, sort: str, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.sort = sort
        self._functions = dict(functions)
        self._parameters = {name: read_parameters(function) for name, function in functions.items()}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def parameters(self, name: str) -> dict[str, Parameter]:
        """Return the parameters of `name`. Raises `UsageError`, with a suggestion, where there is none of that name."""
        if name not in self._parameters:
            raise UsageError(str(self._unknown(name, self.sort)))
        return self._parameters[name]

    def faults(self, name: Any, values: Mapping[str, Any], where: str = "") -> list[Fault]:
        """Return all that is wrong with choosing `name` with the parameters `values`; `where` begins their place."""
        where = where or self.sort
        if name not in self._parameters:
            return [self._unknown(name, where)]
        known = self._parameters[name]
        found = []
        for key, value in values.items():
            if key not in known:
                fix = suggest(str(key), known) or f"parameters of {name}: {', '.join(known) or 'none'}"
                found.append(Fault(where, f"{name} has no parameter {key!r}", fix))
                continue
            try:
                known[key].coerce(value)
            except ValueError as error:
                found.append(Fault(f"{where}.{key}", str(error)))
        return found

    def complete(self, name: str, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Return every parameter of `name`, defaults filled in. Raises `UsageError` with every fault of `values`."""
        found = self.faults(name, values, where)
        if found:
            raise UsageError("; ".join(map(str, found)))
        known = self._parameters[name]
        given = {key: known[key].coerce(value) for key, value in values.items()}
        return {key: given.get(key, parameter.default) for key, parameter in known.items()}

    def _unknown(self, name: Any, where: str) -> Fault:
        fix = suggest(str(name), self) or f"known: {', '.join(self)}"
        return Fault(where, f"no {self.sort} is called {name!r}", fix)
