"""What `cellkit train --folds` prints: a table of the folds, and what all of them come to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cellkit.train.folds import FoldsReport

_NOTES = 10


def print_folds(report: FoldsReport, *, as_json: bool) -> None:
    """Print a report, unless this is one of several processes and not the first."""
    if not report.leads:
        return
    if as_json:
        document = {**report.document(), "folder": str(report.folder)}
        click.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    _print_table(report)
    document = report.document()
    title = next((fold.score["score"] for fold in report.folds if fold.score), "score")
    for text, found in ((title, document["validation"]), (f"{title}, images held back", document["held_out"])):
        if found["models"]:
            click.echo(f"{text}: {_spread(found)}")
    if report.ensemble:
        click.echo(f"all models together, images held back: {_figure(report.ensemble)}")
    if report.finished:
        click.echo(f"done: {report.folder / 'folds.json'}")
    elif report.reason == "time limit":
        click.echo("stopped by the time limit; --resume goes on")
    for note in report.notes[:_NOTES]:
        click.echo(f"note: {note}")


def _print_table(report: FoldsReport) -> None:
    from rich.console import Console
    from rich.table import Table

    held = any(fold.held for fold in report.folds)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("fold", "images", "epochs", "score (95 % interval)", *(["held back"] if held else []), "time", ""):
        table.add_column(
            name, no_wrap=True, justify="right" if name in ("fold", "images", "epochs", "time") else "left"
        )
    for fold in report.folds:
        table.add_row(
            str(fold.number),
            f"{fold.train:,} + {fold.val:,}",
            f"{fold.epochs:,}",
            _figure(fold.score),
            *([_figure(fold.held)] if held else []),
            f"{fold.seconds:,.0f} s",
            "" if fold.state == "done" else fold.state,
        )
    Console(width=None if Console().is_terminal else 140).print(table)


def _figure(one: Mapping[str, Any]) -> str:
    """Return a score with its interval, as a card's figures hold them."""
    if not one or one.get("value") is None:
        return "undefined" if one else "-"
    sure = f" ({one['low']:.4f} to {one['high']:.4f})" if one.get("low") is not None else ""
    return f"{one['value']:.4f}{sure}"


def _spread(found: Mapping[str, Any]) -> str:
    text = f"mean {found['mean']:.4f} of {found['models']} models"
    if found["variance"] is not None:
        text += f", variance {found['variance']:.2e}, standard deviation {found['deviation']:.4f}"
    return text
