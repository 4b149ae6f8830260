"""`cellkit eval`: score predictions against the truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cellkit.metrics import Protocol, Report

_PATH = click.Path(exists=True, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_LAYERS = {"dsb2018": ("labels",), "pixel": ("labels", "mask"), "semantic": ("classes", "labels")}
_SHOWN = 10
_WORST = 5


@dataclass(frozen=True)
class _Options:
    truth: Path
    pred: Path
    protocol: str
    empty: Any
    allow_missing: bool
    json_file: Path | None
    csv_file: Path | None


@dataclass(frozen=True)
class _Result:
    """A report, and the images that are not in it."""

    protocol: Protocol
    report: Report
    failed: Mapping[str, str]
    without_prediction: Sequence[str]
    without_truth: Sequence[str]


@click.command("eval", short_help="Score predictions against the truth.")
@click.argument("truth", type=_PATH)
@click.argument("pred", type=_PATH)
@click.option(
    "--as", "protocol", type=click.Choice(list(_LAYERS)), required=True,
    help="dsb2018: objects, score of the Data Science Bowl 2018. pixel: Dice of the foreground, values above 0. "
    "semantic: mean IoU, values are classes.",
)  # fmt: skip
@click.option(
    "--empty", type=click.Choice(["one", "skip", "zero"]), default="one", show_default=True,
    help="How an image counts that holds nothing in truth and prediction: as 1, not at all, or as 0.",
)  # fmt: skip
@click.option("--allow-missing", is_flag=True, help="Leave out images that only one side has, and say how many.")
@click.option("--json", "json_file", type=_FILE, metavar="FILE", help="Write every number, rule and image as JSON.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Write one row per image.")
@click.pass_context
def eval_command(ctx: click.Context, **given: Any) -> None:
    """Score the label images of PRED against those of TRUTH.

    TRUTH and PRED are folders of label images, matched by file name without its suffix; either may be the output
    folder of `cellkit run`. Two single files are compared whatever their names.

    Exit code 0: all scored; 1: some images failed and are left out; 2: images without partner, or wrong usage.

    \b
    Example:
      cellkit eval dsb2018/labels out --as dsb2018 --json score.json
    """
    from cellkit.metrics import PROTOCOLS

    options = _Options(**given)
    pairs, without_prediction, without_truth = _pairs(options)
    protocol = PROTOCOLS[options.protocol]
    counts, failed = _count(protocol, pairs)
    report = protocol.report(counts, options.empty)
    result = _Result(protocol, report, failed, without_prediction, without_truth)
    _print(result)
    if options.json_file is not None:
        _write_json(options.json_file, result, options)
    if options.csv_file is not None:
        _write_csv(options.csv_file, result)
    ctx.exit(1 if failed else 0)


def _pairs(options: _Options) -> tuple[dict[str, tuple[Path, Path]], list[str], list[str]]:
    """Return the files of truth and prediction by stem, and the stems that only the one or the other side has."""
    from cellkit.core import UsageError

    if options.truth.is_file() and options.pred.is_file():
        return {options.truth.name: (options.truth, options.pred)}, [], []
    for path, side in ((options.truth, "TRUTH"), (options.pred, "PRED")):
        if path.is_file():
            raise UsageError(f"{side} {path} is a file but the other side is a folder; give two folders or two files")
    truth, pred = (_layer_folder(path, options.protocol) for path in (options.truth, options.pred))
    truths, preds = _by_stem(truth), _by_stem(pred)
    both = {stem: (path, preds[stem]) for stem, path in truths.items() if stem in preds}
    without_prediction = [stem for stem in truths if stem not in preds]
    without_truth = [stem for stem in preds if stem not in truths]
    if not both:
        raise UsageError(
            f"no file of {truth} has a partner of the same name in {pred} "
            f"(for instance {next(iter(truths))!r} and {next(iter(preds))!r})"
        )
    if (without_prediction or without_truth) and not options.allow_missing:
        parts = []
        if without_prediction:
            parts.append(f"in {truth} but not in {pred}: {_some(without_prediction)}")
        if without_truth:
            parts.append(f"in {pred} but not in {truth}: {_some(without_truth)}")
        raise UsageError("\n  ".join(["images without partner (--allow-missing leaves them out)", *parts]))
    return both, without_prediction, without_truth


def _layer_folder(path: Path, protocol: str) -> Path:
    """Return the folder of label images that `path` is, or, for the output of a run, holds."""
    from cellkit.core import UsageError

    held = [path / layer for layer in _LAYERS[protocol] if (path / layer).is_dir()]
    if held:
        return held[0]
    if (path / "run.json").is_file():
        wanted = " or ".join(_LAYERS[protocol])
        raise UsageError(
            f"{path}: the output of a run without {wanted}; run again with --outputs {_LAYERS[protocol][0]}"
        )
    return path


def _by_stem(folder: Path) -> dict[str, Path]:
    from cellkit.io import find

    return {source.name: source.paths[0] for source in find([folder])}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} ({', '.join(names[:_SHOWN])}{more})"


def _count(protocol: Protocol, pairs: Mapping[str, tuple[Path, Path]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Count every pair, several at once; return the counts, and the reason of each pair that failed, by stem."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    from cellkit.core import CellkitError, KindError
    from cellkit.io import read_labels

    def count(pair: tuple[Path, Path]) -> Any:
        truth, pred = pair
        try:
            arrays = read_labels(truth), read_labels(pred)
            return protocol.count(*arrays)
        except KindError as error:
            return f"{pred} against {truth}: {error}"
        except CellkitError as error:
            return str(error)

    counts: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for name, found in zip(pairs, _shown(pool.map(count, pairs.values()), len(pairs)), strict=True):
            (failed if isinstance(found, str) else counts)[name] = found
    return counts, failed


def _shown(results: Iterable[Any], total: int) -> Iterable[Any]:
    """Pass `results` on, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return results
    return track(results, "scoring", total=total, console=console, transient=True)


def _print(result: _Result) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    report, console = result.report, Console()
    for name, reason in result.failed.items():
        click.echo(f"failed: {name}: {reason}", err=True)
    interval = "" if math.isnan(report.low) else f"  95 % interval {report.low:.4f} to {report.high:.4f}"
    console.print(f"[bold]{result.protocol.headline}  [green]{_text(report.value)}[/][/]{interval}")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
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
    for name, value in report.scores.items():
        if isinstance(value, (int, float)):
            table.add_row(name.replace("_", " "), _text(value))
    for name, value in report.scores.get("per_class", {}).items():
        table.add_row(f"class {name}", f"IoU {_text(value['iou'])}, Dice {_text(value['dice'])}")
    worst = sorted((row for row in report.per_image if row["value"] < 1), key=lambda row: row["value"])[:_WORST]
    for i, row in enumerate(worst if len(report.per_image) > 1 else []):
        table.add_row("" if i else "worst images", f"{_text(row['value'])} {escape(row['image'])}")
    console.print(table)
    console.print(f"[dim]Pooling: {report.pooling}. Rule: {report.rule}.[/]", highlight=False)


def _text(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if math.isnan(value) else f"{value:.4f}"


def _write_json(path: Path, result: _Result, options: _Options) -> None:
    import json

    report = result.report
    document = {
        "value": report.value,
        "score": result.protocol.name,
        "headline": result.protocol.headline,
        "rule": report.rule,
        "pooling": report.pooling,
        "empty": options.empty,
        "interval": {"low": report.low, "high": report.high, "level": 0.95, "method": "percentile bootstrap of images"},
        "images": len(report.per_image),
        "empty_images": report.empty_images,
        "scores": report.scores,
        "failed": [{"image": name, "reason": reason} for name, reason in result.failed.items()],
        "without_prediction": list(result.without_prediction),
        "without_truth": list(result.without_truth),
        "truth": str(options.truth),
        "pred": str(options.pred),
        "per_image": report.per_image,
    }
    _write(path, json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    """Return `value` with None for every NaN, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_csv(path: Path, result: _Result) -> None:
    import csv
    import io

    rows = [_without_nan(row) for row in result.report.per_image]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image", "value"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    from cellkit.io import atomic

    with atomic(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
