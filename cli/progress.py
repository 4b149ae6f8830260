"""How far a command has come, on standard error: a live bar on a terminal, else plain lines some seconds apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["passed_on"]


def passed_on(results: Iterable[Any], total: int, doing: str) -> Iterable[Any]:
    """Pass `results`, so many, on, with a bar that says what it is `doing` on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return results
    return track(results, doing, total=total, console=console, transient=True)
