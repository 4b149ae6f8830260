"""Placeholder."""

from __future__ import annotations

from pathlib import Path

from cellkit.core import UsageError
from cellkit.models.card import Card


def card_of(path: Path) -> Card:
    """Return the card."""
    raise UsageError(f"{path}: not yet")
