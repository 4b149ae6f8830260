"""What training makes small: weighted sums of losses, each over the channels of a dense network that it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from cellkit.core import Span, UsageError
from cellkit.core.errors import Fault, suggest
from cellkit.core.stage import read_parameters
from cellkit.models.card import FIXED_CLASSES
from cellkit.train._named import Named
from cellkit.train._terms import TERMS, Batch
from cellkit.train.targets import DENSE_HEADS

__all__ = ["DEFAULT_LOSSES", "LOSSES", "Loss", "LossTerm", "build_loss", "loss_faults", "loss_terms"]

LOSSES = Named("loss", TERMS)
"""The losses by name: functions of a `Batch`, with typed parameters."""

_EXCLUSIVE = ("softmax", "border")

DEFAULT_LOSSES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "sigmoid": ({"name": "bce"}, {"name": "dice"}),
    "softmax": ({"name": "cross_entropy"}, {"name": "dice"}),
    "border": ({"name": "cross_entropy"}, {"name": "dice", "channels": ("interior", "border")}),
    "distance": (
        {"name": "bce", "channels": ("interior", "border")},
        {"name": "dice", "channels": ("interior", "border")},
        {"name": "mse", "channels": ("distance",), "weight": 5.0},
    ),
}
"""The loss of each head where a config names none."""


@dataclass(frozen=True)
class LossTerm:
    """One loss of a sum: its name, its factor, the channels it is about (empty: all) and its parameters, complete."""

    name: str
    weight: float = 1.0
    channels: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


def loss_faults(spec: Any, head: str, classes: Sequence[str] = (), where: str = "loss") -> list[Fault]:
    """Return all that is wrong with `spec` for a network with `head` whose output channels are called `classes`.

    See `build_loss` for what a spec is. `where` begins the place of each fault.
    """
    return _read(spec, head, classes, where)[1]


def loss_terms(spec: Any, head: str, classes: Sequence[str] = ()) -> tuple[LossTerm, ...]:
    """Return the terms that `spec` (see `build_loss`) stands for. Raises `UsageError` with every fault of it."""
    terms, found = _read(spec, head, classes, "loss")
    if found:
        raise UsageError("; ".join(map(str, found)))
    return terms


def build_loss(spec: Any, head: str, classes: Sequence[str] = ()) -> Loss:
    """Return the weighted sum of losses that `spec` describes, for a dense network with `head`.

    `spec` is the name of a loss, or a mapping of `name`, `weight` (1), `channels` (a list of names; all) and the
    loss's own parameters, or a list of those. `classes` names the output channels of a ``sigmoid`` or ``softmax``
    head, background first for the latter; those of ``border`` and ``distance`` are known. Without names no term can
    choose channels.

    Raises `UsageError` with every fault of the spec.
    """
    return Loss(loss_terms(spec, head, classes), head, _names(head, classes))


class Loss(nn.Module):
    """A weighted sum of losses. `parts` holds what each came to in the last call, before its factor, for logs."""

    def __init__(self, terms: Sequence[LossTerm], head: str, classes: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.head = head
        self.classes = tuple(classes)
        self.parts: dict[str, Tensor] = {}
        self._keys = _keys(self.terms)

    def forward(self, logits: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar, of `logits` (n, k, y, x) against batched targets as `target_maps` gives them.

        `target` holds `maps` (n, k, y, x) or `classes` (n, y, x), and may hold `weight` (n, y, x). Raises `UsageError`
        where shapes or classes do not fit.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            whole = self._batch(logits, target)
            self.parts = {}
            total = logits.new_zeros(())
            for key, term in zip(self._keys, self.terms, strict=True):
                value = LOSSES[term.name](self._about(whole, term), **term.parameters)
                self.parts[key] = value.detach()
                total = total + term.weight * value
            return total

    def extra_repr(self) -> str:
        """Return the terms with their factors."""
        return " + ".join(f"{term.weight:g} {key}" for key, term in zip(self._keys, self.terms, strict=True))

    def _batch(self, logits: Tensor, target: Mapping[str, Tensor]) -> Batch:
        shape = tuple(logits.shape)
        wanted = len(self.classes) or (shape[1] if logits.ndim == 4 else 0)
        if logits.ndim != 4 or shape[1] != wanted:
            raise UsageError(f"loss: wanted logits (n, {wanted or 'k'}, y, x), got {shape}")
        flat = (shape[0], *shape[2:])
        weight = _target(target, "weight", flat) if "weight" in target else logits.new_ones(flat)
        weight = weight.to(logits.dtype)[:, None]
        channels = tuple(range(shape[1]))
        if self.head not in _EXCLUSIVE:
            truth = _target(target, "maps", shape).to(logits.dtype)
            return Batch(logits, truth, weight, None, channels)
        index = _target(target, "classes", flat).long()
        # On an accelerator looking would mean waiting for it.
        if index.device.type == "cpu" and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < shape[1]:
            raise UsageError(f"loss: wanted classes below {shape[1]}, got {int(index.min())} to {int(index.max())}")
        truth = torch.zeros_like(logits).scatter_(1, index[:, None], 1.0)
        return Batch(logits, truth, weight, index, channels)

    def _about(self, whole: Batch, term: LossTerm) -> Batch:
        shares = term.parameters.get("class_weights", ())
        if shares and len(shares) != (len(term.channels) or whole.logits.shape[1]):
            raise UsageError(f"loss: {term.name}: {len(shares)} class_weights for {whole.logits.shape[1]} channels")
        if not term.channels:
            return whole
        chosen = tuple(self.classes.index(name) for name in term.channels)
        logits = whole.logits if whole.index is not None else whole.logits[:, list(chosen)]
        return Batch(logits, whole.truth[:, list(chosen)], whole.weight, whole.index, chosen)


def _target(target: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in target:
        raise UsageError(f"loss: the target lacks {name!r}; it holds {', '.join(target) or 'nothing'}")
    if tuple(target[name].shape) != shape:
        raise UsageError(f"loss: {name}: wanted {shape}, got {tuple(target[name].shape)}")
    return target[name]


def _names(head: str, classes: Sequence[str]) -> tuple[str, ...]:
    return FIXED_CLASSES.get(head, tuple(classes))


def _keys(terms: Sequence[LossTerm]) -> tuple[str, ...]:
    """Return a name for each term, none twice."""
    names = ["_".join((term.name, *term.channels)) for term in terms]
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(out)


def _of_every_term(*, weight: Annotated[float, Span(0, 1e6)] = 1.0, channels: tuple[str, ...] = ()) -> None:
    """Beside a loss's own parameters; read by its signature alone."""


_COMMON = read_parameters(_of_every_term)


def _read(spec: Any, head: str, classes: Sequence[str], where: str) -> tuple[tuple[LossTerm, ...], list[Fault]]:
    if head not in DENSE_HEADS:
        return (), [Fault(where, f"a head {head!r} has a loss of its own", f"for {', '.join(DENSE_HEADS)}")]
    items = list(spec) if isinstance(spec, (list, tuple)) else [spec]
    if not items:
        return (), [Fault(where, "no loss is given", f"known: {', '.join(LOSSES)}")]
    terms, found = [], []
    for number, item in enumerate(items):
        place = f"{where}[{number}]" if isinstance(spec, (list, tuple)) else where
        term, wrong = _read_term(item, head, _names(head, classes), place)
        found += wrong
        if term is not None:
            terms.append(term)
    if not found and not any(term.weight for term in terms):
        found.append(Fault(where, "every term has weight 0"))
    return tuple(terms), found


def _read_term(item: Any, head: str, names: Sequence[str], where: str) -> tuple[LossTerm | None, list[Fault]]:
    values = {"name": item} if isinstance(item, str) else item
    if not isinstance(values, Mapping) or "name" not in values:
        return None, [Fault(where, f"wanted the name of a loss, or a mapping with `name`, got {item!r}")]
    rest = {key: value for key, value in values.items() if key != "name"}
    common: dict[str, Any] = {}
    found: list[Fault] = []
    for key, parameter in _COMMON.items():
        if key in rest:
            try:
                common[key] = parameter.coerce(rest.pop(key))
            except ValueError as error:
                found.append(Fault(f"{where}.{key}", str(error)))
    found += LOSSES.faults(values["name"], rest, where)
    if found:
        return None, found
    term = LossTerm(values["name"], **common, parameters=LOSSES.complete(values["name"], rest))
    found = _unfit(term, head, names, where)
    return (None if found else term), found


def _unfit(term: LossTerm, head: str, names: Sequence[str], where: str) -> list[Fault]:
    """Return what of a term does not go with a head whose channels are called `names`."""
    found = []
    exclusive = head in _EXCLUSIVE
    parameters = term.parameters
    if term.name == "bce" and exclusive:
        found.append(Fault(where, f"bce is for channels each by itself; those of {head} add up to 1", "cross_entropy"))
    if term.name == "cross_entropy" and not exclusive:
        found.append(Fault(where, f"cross_entropy is for classes that exclude one another; not so of {head}", "bce"))
    if exclusive and term.channels and term.name in ("cross_entropy", "focal"):
        found.append(Fault(f"{where}.channels", f"{term.name} is of all classes at once", "set class_weights"))
    if exclusive and parameters.get("alpha") is not None and term.name == "focal":
        found.append(Fault(f"{where}.alpha", f"the classes of {head} exclude one another", "set class_weights"))
    for channel in term.channels:
        if channel not in names:
            fix = suggest(channel, names) or f"channels: {', '.join(names) or 'without names'}"
            found.append(Fault(f"{where}.channels", f"no channel is called {channel!r}", fix))
    if len(set(term.channels)) != len(term.channels):
        found.append(Fault(f"{where}.channels", "a channel is named twice"))
    shares = parameters.get("class_weights", ())
    wanted = len(term.channels) or len(names)
    if shares and wanted and len(shares) != wanted:
        found.append(Fault(f"{where}.class_weights", f"wanted {wanted}, one a channel, got {len(shares)}"))
    if shares and not sum(shares):
        found.append(Fault(f"{where}.class_weights", "all are 0"))
    if shares and parameters.get("per") == "pooled":
        found.append(Fault(f"{where}.class_weights", "classes are pooled, which leaves nothing to weigh", "per: class"))
    return found
