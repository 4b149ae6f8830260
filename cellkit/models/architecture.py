"""`@architecture`: networks known by name, built in and from plug-ins. Nothing here needs torch."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

from cellkit.core import UsageError
from cellkit.core.errors import suggest
from cellkit.core.stage import Parameter, read_parameters

__all__ = ["ENTRY_POINT_GROUP", "ArchitectureSpec", "Task", "architecture", "architectures", "build", "find"]

ENTRY_POINT_GROUP = "cellkit.models"
Task = Literal["dense", "boxes", "masks"]

_BUILTIN = ("cellkit.models.architectures", "cellkit.models.encoded", "cellkit.models.detectors")
_SPEC = "__cellkit_architecture__"
_specs: dict[str, ArchitectureSpec] = {}
_discovered = False


@dataclass(frozen=True)
class ArchitectureSpec:
    """What a signature and its decorator say of a network.

    `task` is what it predicts: ``dense`` (logits of the shape of its input), ``boxes`` or ``masks``. `function` takes
    (channels, outputs) and the parameters, and returns a ``torch.nn.Module``. `source` is the paper. `divisor` maps
    the parameters to the number that height and width of an input must be multiples of. `context` is ``"WHOLE"``
    where an output pixel hangs on the whole input, ``"local"`` where it has a receptive field, to be measured.
    """

    name: str
    function: Callable[..., Any]
    task: Task
    source: str
    parameters: Mapping[str, Parameter]
    divisor: Callable[[Mapping[str, Any]], int]
    context: Literal["local", "WHOLE"] = "local"
    origin: str = field(default="", compare=False)

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n\n")[0].replace("\n", " ")

    def complete(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter, defaults filled in. Raises `UsageError` with each that is unknown or out of range."""
        full = {name: p.default for name, p in self.parameters.items()}
        wrong = []
        for name, value in parameters.items():
            if name not in self.parameters:
                hint = suggest(name, self.parameters) or f"parameters: {', '.join(self.parameters) or 'none'}"
                wrong.append(f"no parameter {name!r} ({hint})")
                continue
            try:
                full[name] = self.parameters[name].coerce(value)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise UsageError(f"architecture {self.name}: {'; '.join(wrong)}")
        return full


F = TypeVar("F", bound=Callable[..., Any])


def architecture(
    *,
    name: str,
    task: Task,
    source: str,
    divisor: int | Callable[[Mapping[str, Any]], int] = 1,
    context: Literal["local", "WHOLE"] = "local",
) -> Callable[[F], F]:
    """Declare ``function(channels, outputs, /, *, parameters) -> torch.nn.Module`` an architecture called `name`.

    The parameters are typed as a stage's are: each with a default and, where numeric, a `Span`. The function imports
    torch itself, so that architectures can be listed without it. See `ArchitectureSpec` for the rest.
    """

    def declare(function: F) -> F:
        rule = divisor if callable(divisor) else lambda _: divisor
        spec = ArchitectureSpec(
            name, function, task, source, read_parameters(function), rule, context, function.__module__
        )
        setattr(function, _SPEC, spec)
        return function

    return declare


def architectures() -> dict[str, ArchitectureSpec]:
    """Return every known architecture by name, sorted. Raises `UsageError` for a plug-in that cannot be imported."""
    global _discovered
    if not _discovered:
        for module in _BUILTIN:
            _register(importlib.import_module(module))
        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                loaded = point.load()
            except Exception as error:  # a broken plug-in must be named, not guessed at
                raise UsageError(f"plug-in {point.name!r} ({point.value}) cannot be imported: {error}") from error
            _register(loaded)
        _discovered = True
    return dict(sorted(_specs.items()))


def find(name: str) -> ArchitectureSpec:
    """Return the architecture called `name`. Raises `UsageError`, with a suggestion, where there is none."""
    known = architectures()
    if name not in known:
        hint = suggest(name, known) or "`cellkit models` lists them all"
        raise UsageError(f"no architecture is called {name!r}; {hint}")
    return known[name]


def build(name: str, channels: int, outputs: int, parameters: Mapping[str, Any] | None = None) -> Any:
    """Return a freshly initialised ``torch.nn.Module``.

    `channels` counts what goes in, `outputs` what comes out: channels of a dense network, classes without background
    of a detector. Raises `UsageError` for an unknown name or parameter.
    """
    spec = find(name)
    full = spec.complete(parameters or {})
    if channels < 1 or outputs < 1:
        raise UsageError(f"architecture {name}: wanted at least one channel and one output, got {channels}, {outputs}")
    return spec.function(channels, outputs, **full)


def _register(found: Any) -> None:
    """Register a declared function, or every one in a module."""
    members = vars(found).values() if inspect.ismodule(found) else (found,)
    for member in members:
        spec = getattr(member, _SPEC, None) if callable(member) else None
        if spec is None or (inspect.ismodule(found) and spec.origin != found.__name__):
            continue
        known = _specs.get(spec.name)
        if known is not None and known.origin != spec.origin:
            raise UsageError(f"architecture {spec.name!r} of {spec.origin} is already defined by {known.origin}")
        _specs[spec.name] = spec
