"""`cellkit run`: a recipe over many images."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from .options import changed, load_plugins, recipe_options
from .progress import Lines, Pace, span, surface

if TYPE_CHECKING:
    from cellkit.core import Recipe
    from cellkit.engine.batch import BatchResult, Outcome
    from cellkit.engine.blockwise.drive import Progress
    from cellkit.io import Source

_SHOWN_FAILURES = 20
_MOST_LOOKED_AT = 20_000


@dataclass(frozen=True)
class _Options:
    recipe: str
    images: tuple[str, ...]
    out: str
    workers: int | None
    outputs: str | None
    fresh: bool
    device: str
    memory: str | None
    compiled: bool
    as_json: bool
    settings: tuple[str, ...]
    plugins: tuple[str, ...]
    bits: int | None
    pixel_size: float | None
    level: int | None
    mpp: float | None
    pool: str
    scheduler: str | None
    blocks: int | None
    tissue: str
    worker_timeout: float


@click.command("run", short_help="Run a recipe on images and write what it makes.")
@click.argument("recipe")
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the results.")
@click.option("--workers", type=click.IntRange(min=1), help="Images worked on at once.  [default: all cores]")
@click.option("--outputs", metavar="NAME,...", help="Write these instead of the recipe's outputs.")
@recipe_options
@click.option("--fresh/--resume", default=False, help="Start over, or keep finished images.  [default: resume]")
@click.option("--device", default="auto", metavar="DEVICE", help="Where networks run: auto, cpu, cuda or cuda:N.")
@click.option("--memory", metavar="SIZE", help="Stay within this much memory, e.g. 2GB.")
@click.option("--level", type=click.IntRange(min=0), help="Level of a pyramid to read; 0 is the finest.")
@click.option(
    "--mpp", type=click.FloatRange(min=0, min_open=True), metavar="UM", help="Micrometres per pixel to read at."
)
@click.option(
    "--pool",
    type=click.Choice(["threads", "processes", "serial"]),
    default="threads",
    help="What workers are.  [default: threads]",
)
@click.option("--blocks", type=click.IntRange(min=64), metavar="PX", help="Do every image in blocks of this side.")
@click.option(
    "--tissue", default="", metavar="auto|FILE", help="Do images in blocks, and leave out those without tissue."
)
@click.option("--scheduler", metavar="ADDRESS", help="Work by Dask: tcp://host:8786, or local for a cluster here.")
@click.option(
    "--worker-timeout",
    type=click.FloatRange(min=0),
    default=300.0,
    metavar="SECONDS",
    help="Stop where Dask has had no worker for so long.  [default: 300]",
)
@click.option("--compile", "compiled", is_flag=True, help="Let torch compile networks first.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def run_command(ctx: click.Context, **given: Any) -> None:
    """Run RECIPE on IMAGES and write labels, tables and pictures to a folder.

    RECIPE is a file, or the name of a recipe that `cellkit recipes` lists. IMAGES are files, folders or globs. A run
    that was interrupted continues where it stopped when the same command is given again. An image that does not fit in
    memory is done block by block, with the same results; its labels become an OME-Zarr pyramid.

    Exit code 0: all images done; 1: some failed, the rest is complete; 2: wrong recipe or usage, nothing written, or no
    place or workers left to go on with; 130, 143: stopped by Ctrl-C, by SIGTERM. What is done stays done.

    \b
    Example:
      cellkit run nuclei pictures/nuclei -o out --set resize.diameter=40
      cellkit run nuclei slide.svs -o out --mpp 0.5 --memory 4GB
    """
    from cellkit.core import Recipe
    from cellkit.engine.allocator import keep_memory
    from cellkit.engine.batch import Settings, run_batch
    from cellkit.engine.signals import Terminated, terminable
    from cellkit.models.device import parse_memory

    keep_memory()
    options = _Options(**given)
    load_plugins(options.plugins)
    recipe = _with_outputs(Recipe.read(options.recipe), options.outputs)
    recipe = changed(recipe, options.settings, options.bits, options.pixel_size)
    show = _Show(surface(options.as_json, "reading the folder"))
    memory = None if options.memory is None else parse_memory(options.memory)
    settings = Settings(
        options.workers, options.fresh, options.device, memory, options.compiled, options.level, options.mpp,
        pool="dask" if options.scheduler else options.pool,  # type: ignore[arg-type]
        scheduler=options.scheduler or "local",
        plugins=options.plugins,
        blocks=options.blocks,
        tissue=options.tissue,
        patience=options.worker_timeout,
    )  # fmt: skip
    for line in _together(options, memory):
        click.echo(line, err=True)
    try:
        with terminable(), show:
            result = run_batch(
                recipe, options.images, options.out, settings=settings, on_start=show.start, on_image=show.add,
                on_block=show.block,
            )  # fmt: skip
    except KeyboardInterrupt as stopped:
        click.echo("cellkit: stopped; the same command continues from here", err=True)
        ctx.exit(143 if isinstance(stopped, Terminated) else 130)
    if options.as_json:
        click.echo(json.dumps(_summary(result), indent=2))
    else:
        _print_summary(result)
    ctx.exit(1 if result.failed else 0)


def _together(options: _Options, memory: int | None) -> list[str]:
    """Return what all processes together may take, as `--memory` is for each, and a warning where that is too much."""
    if memory is None or (options.scheduler is None and options.pool != "processes"):
        return []
    if options.scheduler not in (None, "local"):
        return [f"every worker of {options.scheduler} may take {memory / 1e9:.1f} GB"]
    import psutil

    count = options.workers or os.cpu_count() or 1
    lines = [f"{count} processes of {memory / 1e9:.1f} GB: {count * memory / 1e9:.1f} GB together"]
    total = psutil.virtual_memory().total
    if count * memory > total:
        lines.append(f"warning: this machine has {total / 1e9:.1f} GB; give less --memory, or fewer --workers")
    return lines


def _with_outputs(recipe: Recipe, outputs: str | None) -> Recipe:
    from cellkit.core import UsageError

    if outputs is None:
        return recipe
    names = tuple(dict.fromkeys(name.strip() for name in outputs.split(",") if name.strip()))
    if not names:
        raise UsageError("--outputs: wanted names separated by commas, e.g. --outputs labels,table")
    return replace(recipe, outputs=names)


class _Show:
    """How far a run has come: images, objects, failures, and the time left."""

    def __init__(self, on: Lines) -> None:
        self.on = on
        self.total = self.images = self.objects = self.failed = 0
        self.pace = Pace()
        self.blocks: tuple[str, str] | None = None
        self.block_pace = Pace()
        self.waiting: dict[str, float] = {}
        self.sized = self.pixels = 0.0

    def __enter__(self) -> _Show:
        self.on.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.on.__exit__(*error)

    def start(self, sources: Sequence[Source]) -> None:
        self.total = len(sources)
        self.waiting = _weights(sources)
        self.pace = Pace()
        if sources:
            self.on.move(self.text(), 0, self.total)

    def block(self, name: str, progress: Progress) -> None:
        if self.blocks != (name, progress.stage):
            self.blocks, self.block_pace = (name, progress.stage), Pace()
        else:
            self.block_pace.add(1)
        more = progress.total - progress.done
        left = span(self.block_pace.left(more), "left of this pass") if more else ""
        text = f"{name}: {progress.stage}: {progress.done:,} of {progress.total:,} blocks{left}"
        self.on.move(text, progress.done, progress.total, last=not more)

    def add(self, outcome: Outcome) -> None:
        record = outcome.record
        self.images += 1
        self.objects += next(iter(record.facts.get("objects", {}).values()), 0)
        pixels = float(record.facts.get("height", 0)) * record.facts.get("width", 0)
        weight = self.waiting.pop(record.name, 0.0)
        if pixels:
            self.sized += weight
            self.pixels += pixels
        if not outcome.kept:  # one that was kept takes no time, and says nothing of those to come
            self.pace.add(pixels)
        if record.status != "done":
            self.failed += 1
            self.on.say(f"failed: {record.name}: {record.reason}", "red")
        self.on.move(self.text(), self.images, self.total, last=self.images == self.total)

    def left(self) -> float | None:
        """Return the seconds left: the pixels that the files to come will have, at the pace of late."""
        if not self.sized:
            return None
        return self.pace.left(sum(self.waiting.values()) * self.pixels / self.sized)

    def text(self) -> str:
        left = span(self.left()) if self.images < self.total else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.images:,} of {self.total:,} images, {self.objects:,} objects{failed}{left}"


def _weights(sources: Sequence[Source]) -> dict[str, float]:
    """Return the bytes of every image's files, which tell how images differ in size before one is opened.

    A store, and what cannot be looked at, weighs as much as the others do on average; where there are very many, all
    weigh the same.
    """
    known: dict[str, float] = {}
    for source in sources if len(sources) <= _MOST_LOOKED_AT else ():
        with contextlib.suppress(OSError):
            if not any(path.is_dir() for path in source.paths):
                known[source.name] = float(sum(path.stat().st_size for path in source.paths))
    mean = sum(known.values()) / len(known) if known else 1.0
    return {source.name: known.get(source.name, mean) or 1.0 for source in sources}


def _summary(result: BatchResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "images": result.images,
        "done": result.done,
        "kept": result.kept,
        "failed": [{"image": name, "source": source, "reason": reason} for name, source, reason in result.failed],
        "objects": result.objects,
        "seconds": round(result.seconds, 3),
        "step_seconds": {where: round(seconds, 4) for where, seconds in result.step_seconds.items()},
        "notes": list(result.notes),
    }


def _print_summary(result: BatchResult) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    kept = f" ({result.kept:,} kept from an earlier run)" if result.kept else ""
    table.add_row("images", f"{result.images:,}{kept}")
    for name, count in result.objects.items():
        table.add_row("objects" if name == "labels" else name, f"{count:,}")
    if result.failed:
        table.add_row("failed", f"[red]{len(result.failed):,}[/]")
    rate = f" ({result.done / result.seconds:,.1f} images a second)" if result.done and result.seconds else ""
    table.add_row("seconds", f"{result.seconds:,.1f}{rate}")
    table.add_row("results", escape(str(result.folder)))
    console.print(table)
    for name, _, reason in result.failed[:_SHOWN_FAILURES]:
        console.print(f"[red]failed[/] {escape(name)}: {escape(reason)}")
    if len(result.failed) > _SHOWN_FAILURES:
        console.print(f"and {len(result.failed) - _SHOWN_FAILURES:,} more, all in images.csv")
    for note in result.notes:
        console.print(f"[yellow]note[/] {escape(note)}")
    if result.others:
        console.print(f"{result.others:,} results of earlier runs on other images remain in the folder")
