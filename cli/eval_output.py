"""How `cellkit eval` prints its scores and writes them as JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cellkit.metrics import Report

__all__ = ["Result", "show", "write_csv", "write_json"]

_WORST = 5


@dataclass(frozen=True)
class Result:
    """A report, how it came about, and the images that are not in it.

    `given` are the options to be written down; `method` says what intervals are drawn from. `parts`: the
    report on the images of each value of the column `by`.
    """

    name: str
    headline: str
    report: Report
    method: str
    given: Mapping[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)
    without_prediction: Sequence[str] = ()
    without_truth: Sequence[str] = ()
    by: str = ""
    parts: Mapping[str, Report] = field(default_factory=dict)


def show(result: Result) -> None:
    """Print the headline, a table of the other scores with their intervals, and the rules."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    report, console = result.report, Console()
    for name, reason in result.failed.items():
        click.echo(f"failed: {name}: {reason}", err=True)
    span = _span((report.low, report.high))
    console.print(f"[bold]{result.headline}  [green]{_text(report.value)}[/][/]{'  95 % interval ' * bool(span)}{span}")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, style="dim")
    table.add_row("images", f"{len(report.per_image):,}")
    table.add_row("empty on both sides", f"{report.empty_images:,}")
    left_out = {
        "failed, left out": result.failed,
        "without prediction, left out": result.without_prediction,
        "without truth, left out": result.without_truth,
    }
    for reason, names in left_out.items():
        if names:
            table.add_row(f"[yellow]{reason}[/]", f"[yellow]{len(names):,}[/]")
    for name, value in {**report.top, **report.scores}.items():
        if isinstance(value, (int, float)):
            table.add_row(escape(name.replace("_", " ")), _text(value), _span(report.intervals.get(name)))
    for name, value in report.scores.get("per_class", {}).items():
        parts = [f"{n} {_text(value[k])}" for k, n in _CLASS_COLUMNS.items() if k in value]
        shown = report.intervals.get(f"per_class.{name}.iou", report.intervals.get(f"per_class.{name}.AP"))
        table.add_row(f"class {escape(str(name))}", ", ".join(parts), _span(shown))
    for name, part in result.parts.items():
        value = f"{_text(part.value)}  [dim]on {len(part.per_image):,}[/]"
        table.add_row(f"{escape(result.by)} {escape(name)}", value, _span((part.low, part.high)))
    console.print(table)
    worst = [row for row in report.per_image if row["value"] < 1]
    worst = sorted(worst, key=lambda row: row["value"])[:_WORST]
    for i, row in enumerate(worst if len(report.per_image) > 1 else []):
        line = f"{' ' * 12 if i else 'worst images'}  {_text(row['value'])}  {escape(row['image'])}"
        console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")
    console.print(f"[dim]Pooling: {report.pooling}. Rule: {report.rule}.[/]", highlight=False)
    for name, rule in report.rules.items():
        console.print(f"[dim]{escape(name)}: {escape(rule)}.[/]", highlight=False)
    if not math.isnan(report.low):
        console.print(f"[dim]Intervals: 95 %, {result.method}.[/]", highlight=False)


_CLASS_COLUMNS = {"iou": "IoU", "dice": "Dice", "AP": "AP", "AP_50": "AP at 0.50", "f1": "F1"}


def write_json(path: Path, result: Result) -> None:
    """Write every number, rule and image; what is not a number or infinite is null."""
    import json

    report = result.report
    intervals = {name: {"low": low, "high": high} for name, (low, high) in report.intervals.items()}
    document = {
        "value": report.value,
        **report.top,
        "score": result.name,
        "headline": result.headline,
        "rule": report.rule,
        "rules": report.rules,
        "pooling": report.pooling,
        **result.given,
        "interval": {"low": report.low, "high": report.high, "level": 0.95, "method": result.method},
        "intervals": intervals,
        "images": len(report.per_image),
        "empty_images": report.empty_images,
        "scores": report.scores,
        **({"by": {result.by: {name: _part(part) for name, part in result.parts.items()}}} if result.parts else {}),
        "failed": [{"image": name, "reason": reason} for name, reason in result.failed.items()],
        "without_prediction": list(result.without_prediction),
        "without_truth": list(result.without_truth),
        "per_image": report.per_image,
    }
    from cellkit.metrics.report import finite

    _write(path, json.dumps(finite(document), indent=2, allow_nan=False) + "\n")


def _part(report: Report) -> dict[str, Any]:
    return {"value": report.value, "low": report.low, "high": report.high, "images": len(report.per_image)}


def write_csv(path: Path, result: Result) -> None:
    """Write one row per image; what is not a number is empty."""
    import csv
    import io

    rows = [
        {key: None if isinstance(one, float) and math.isnan(one) else one for key, one in row.items()}
        for row in result.report.per_image
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image", "value"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a page."""
    _write(path, text)


def _text(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if math.isinf(value):
        return "infinite"
    return "none" if math.isnan(value) else f"{value:.4f}"


def _span(ends: Sequence[float] | None) -> str:
    return "" if ends is None or math.isnan(ends[0]) else f"{_text(ends[0])} to {_text(ends[1])}"


def _write(path: Path, text: str) -> None:
    from cellkit.io import atomic

    with atomic(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
