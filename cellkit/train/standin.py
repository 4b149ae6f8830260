"""A card that stands in for the network that is yet to be trained, so that its recipe can be bound and checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cellkit.core import Recipe
from cellkit.core.check import Plan, bind
from cellkit.core.errors import Fault
from cellkit.models.card import Card

__all__ = ["faults_of", "standing_in"]


@contextmanager
def standing_in(recipe: Recipe, trains: str, card: Card) -> Iterator[tuple[Plan, str]]:
    """Yield `recipe` bound with `card` as the model of its step `trains`, every layer kept, and the model's name.

    The name means something for the length of the ``with`` block only. Raises `UsageError` where there is no such step.
    """
    with tempfile.TemporaryDirectory(prefix="cellkit-train-") as folder:
        path = Path(folder) / "model"
        path.mkdir()
        (path / "card.json").write_text(card.dump(), encoding="utf-8")
        yield bind(replace(recipe.set(f"{trains}.model", str(path)), outputs=())), str(path)


def faults_of(bound: Plan) -> Sequence[Fault]:
    """Return the faults of a bound recipe that are no warnings."""
    return [fault for fault in bound.faults if not fault.warning]
