"""`cellkit eval`: score predictions against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .eval_output import Result, show, write_csv, write_json, write_text
from .progress import passed_on

if TYPE_CHECKING:
    from cellkit.metrics import Protocol

    from .eval_sides import Pairs

_PATH = click.Path(exists=True, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_PROTOCOLS = ("dsb2018", "pixel", "semantic", "glas", "instances", "coco")


@dataclass(frozen=True)
class _Options:
    truth: Path
    pred: Path
    protocol: str
    empty: Any
    pooling: Any
    variant: str | None
    iou_type: Any
    score_threshold: float
    images: Path | None
    groups_file: Path | None
    group_column: str | None
    by: str | None
    allow_missing: bool
    json_file: Path | None
    csv_file: Path | None
    worst: int | None
    html_file: Path | None


@click.command("eval", short_help="Score predictions against the truth.")
@click.argument("truth", type=_PATH)
@click.argument("pred", type=_PATH)
@click.option(
    "--as", "protocol", type=click.Choice(_PROTOCOLS), required=True,
    help="dsb2018: objects, score of the Data Science Bowl 2018. pixel: Dice of the foreground, values above 0. "
    "semantic: mean IoU, values are classes. glas: object F1, Dice and Hausdorff distance of the GlaS challenge. "
    "instances: every object score (mean AP, precision, recall, F1, PQ, AJI, split and merged objects). "
    "coco: AP and AR of boxes or masks with scores.",
)  # fmt: skip
@click.option(
    "--empty", type=click.Choice(["one", "skip", "zero"]), default="one", show_default=True,
    help="How an image counts that holds nothing in truth and prediction: as 1, not at all, or as 0.",
)  # fmt: skip
@click.option(
    "--pooling", type=click.Choice(["set", "images"]),
    help="Whether the counts of all images are pooled first, or the scores of images averaged. By default `set`, for "
    "dsb2018 always `images`; the other one is in the JSON.",
)  # fmt: skip
@click.option(
    "--variant", metavar="NAME",
    help="glas: v6 (default) or older, which differ in what is a false negative. instances: how split and merged "
    "objects are told, majority (default) or caicedo.",
)  # fmt: skip
@click.option("--iou-type", type=click.Choice(["bbox", "segm"]), default="bbox", show_default=True, help="coco only.")
@click.option("--score-threshold", type=float, default=0.5, show_default=True, help="coco only: score of the F1.")
@click.option("--images", type=_PATH, metavar="DIR", help="The images themselves: sizes for RLE, pictures for --html.")
@click.option(
    "--groups", "groups_file", type=_PATH, metavar="FILE.csv",
    help="A table whose first column names the image: its groups (slide, plate, patient), or what to tell apart.",
)  # fmt: skip
@click.option("--group-column", metavar="NAME", help="Draw intervals over the groups in this column of --groups.")
@click.option("--by", metavar="NAME", help="Also give the score for each value in this column of --groups (modality).")
@click.option("--allow-missing", is_flag=True, help="Leave out images that only one side has, and say how many.")
@click.option("--json", "json_file", type=_FILE, metavar="FILE", help="Write every number, rule and image as JSON.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Write one row per image.")
@click.option("--worst", type=click.IntRange(1), metavar="N", help="How many of the worst images --html shows (12).")
@click.option("--html", "html_file", type=_FILE, metavar="FILE", help="Write a page that shows the worst images.")
@click.pass_context
def eval_command(ctx: click.Context, **given: Any) -> None:
    """Score the objects, foreground or classes of PRED against those of TRUTH.

    TRUTH and PRED are folders of label images, matched by file name without its suffix, output folders of `cellkit
    run`, tables of run-length codes (CSV with ImageId and EncodedPixels) or COCO JSON. Two single images are compared
    whatever their names.

    Exit code 0: all scored; 1: some images failed and are left out; 2: images without partner, or wrong usage.

    \b
    Example:
      cellkit eval dsb2018/labels out --as dsb2018 --json score.json
      cellkit eval dsb2018/labels out --as instances --worst 10 --html worst.html
      cellkit eval dsb2018/labels out --as dsb2018 --groups dsb2018/split.csv --by modality
    """
    options = _Options(**given)
    groups = _groups(options)
    if options.protocol == "coco":
        from .eval_coco import evaluated

        _refuse_for_coco(options)
        result = evaluated(options.truth, options.pred, options.iou_type, options.score_threshold, groups)
        pairs = None
    else:
        result, pairs = _scored(options, groups)
    if options.json_file is not None:
        write_json(options.json_file, result)
    if options.csv_file is not None:
        write_csv(options.csv_file, result)
    if options.html_file is not None and pairs is not None:
        write_text(options.html_file, _page(options, result, pairs))
    show(result)
    ctx.exit(1 if result.failed else 0)


def _groups(options: _Options) -> dict[str, str] | None:
    from cellkit.core import UsageError

    if (options.groups_file is None) != (options.group_column is None and options.by is None):
        raise UsageError("--groups belongs together with --group-column or --by: a table, and a column of it")
    if options.worst is not None and options.html_file is None:
        raise UsageError("--worst needs --html FILE, the page that shows them")
    if options.groups_file is None or options.group_column is None:
        return None
    from .eval_sides import read_groups

    return read_groups(options.groups_file, options.group_column, "--group-column")


def _refuse_for_coco(options: _Options) -> None:
    from cellkit.core import UsageError

    wrong = {
        "--pooling": options.pooling, "--variant": options.variant, "--html": options.html_file, "--by": options.by
    }  # fmt: skip
    for name, value in wrong.items():
        if value is not None:
            raise UsageError(f"{name} is not for --as coco")


def _scored(options: _Options, groups: dict[str, str] | None) -> tuple[Result, Pairs]:
    from cellkit.metrics import PROTOCOLS, Settings

    from .eval_sides import paired

    protocol = PROTOCOLS[options.protocol]
    settings = Settings(options.empty, options.pooling, options.variant, groups)
    protocol.report({}, settings)  # a wrong variant or pooling is told before anything is read
    pairs = paired(options.truth, options.pred, options.protocol, options.images, options.allow_missing)
    settings.units(list(pairs.names))
    kinds = _kinds(options, pairs)
    counts, failed = count_pairs(protocol, pairs)
    report = protocol.report(counts, settings)
    parts = {
        kind: protocol.report({name: one for name, one in counts.items() if kinds[name] == kind}, settings)
        for kind in sorted({kinds[name] for name in counts if name in kinds})
    }
    method = "percentile bootstrap of images"
    if groups is not None:
        units = len({groups[name] for name in counts})
        method = f"percentile bootstrap of {units:,} groups ({options.group_column})"
    chosen = options.variant or next(iter(protocol.variants), None)
    given = {"empty": options.empty, **({"variant": chosen} if chosen else {})}
    given |= {"truth": str(options.truth), "pred": str(options.pred)}
    result = Result(
        protocol.name, protocol.headline, report, method, given, failed, pairs.without_prediction, pairs.without_truth,
        options.by or "", parts,
    )  # fmt: skip
    return result, pairs


def _kinds(options: _Options, pairs: Pairs) -> dict[str, str]:
    """Return what --by tells apart, for every image; empty without it."""
    from cellkit.core import UsageError

    if options.by is None or options.groups_file is None:
        return {}
    from .eval_sides import read_groups

    found = read_groups(options.groups_file, options.by, "--by")
    missing = [name for name in pairs.names if name not in found]
    if missing:
        some = f"{len(missing):,} images, such as {missing[0]!r}"
        raise UsageError(f"--by {options.by}: {options.groups_file} lacks {some}")
    return {name: found[name] or "none" for name in pairs.names}


def count_pairs(protocol: Protocol, pairs: Pairs) -> tuple[dict[str, Any], dict[str, str]]:
    """Count every pair, several at once; return the counts, and the reason of each pair that failed, by name."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    from cellkit.core import CellkitError, KindError

    def count(name: str) -> Any:
        try:
            return protocol.count(*pairs.read(name))
        except KindError as error:
            return f"{pairs.pred.where} against {pairs.truth.where}: {error}"
        except CellkitError as error:
            return str(error)

    counts: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for name, found in zip(
            pairs.names, passed_on(pool.map(count, pairs.names), len(pairs.names), "scoring"), strict=True
        ):
            (failed if isinstance(found, str) else counts)[name] = found
    return counts, failed


def _page(options: _Options, result: Result, pairs: Pairs) -> str:
    """Return the page of the worst images."""
    from cellkit.core import CellkitError
    from cellkit.io import read
    from cellkit.report.worst import Case, worst_page

    rows = [row for row in result.report.per_image if row["value"] == row["value"]]
    rows = sorted(rows, key=lambda row: row["value"])[: options.worst or 12]
    cases = []
    for row in rows:
        name = row["image"]
        truth, pred = pairs.read(name)
        picture, note = None, ""
        if name in pairs.images:
            try:
                picture = read(pairs.images[name])["raw"]
            except CellkitError as error:
                note = str(error)
        cases.append(Case(name, row["value"], truth, pred, picture, note))
    by_class = options.protocol in ("pixel", "semantic")
    return worst_page(
        cases, title=f"Worst images: {options.protocol}", headline=result.headline, rule=result.report.rule,
        by="classes" if options.protocol == "semantic" else "foreground" if by_class else "objects",
    )  # fmt: skip
