"""`cellkit status`: how far a run has come."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cellkit.engine.status import Status


@click.command("status", short_help="How far a run has come, while it goes on or afterwards.")
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def status_command(ctx: click.Context, folder: str, as_json: bool) -> None:
    """Tell how far the run in FOLDER has come: images, objects, failures with reasons, blocks of large images.

    Exit code 0: all images done; 1: some failed; 2: the folder holds no run; 3: some are still waiting.

    \b
    Example:
      cellkit status out
    """
    from cellkit.engine.status import read_status

    status = read_status(folder)
    if as_json:
        click.echo(json.dumps(asdict(status), indent=2, default=str))
    else:
        _print(status)
    ctx.exit(3 if status.waiting else 1 if status.failed else 0)


def _print(status: Status) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    state = "running" if status.running else "ended" if status.ended else "stopped; the same command goes on"
    table.add_row("run", state)
    table.add_row("images", f"{status.done:,} of {status.total:,} done, {status.waiting:,} waiting")
    table.add_row("objects", f"{status.objects:,}")
    table.add_row("seconds", f"{status.seconds:,.1f} of work")
    if status.failed:
        table.add_row("failed", f"[red]{status.failed:,}[/]")
    console.print(table)
    for block in status.blocks:
        where = f"{block.done:,} of {block.total:,} blocks"
        console.print(f"{escape(block.image)}: {block.stage}: {where}, {block.ago:,.0f} s ago")
    for name, _, reason in status.failures[:20]:
        console.print(f"[red]failed[/] {escape(name)}: {escape(reason)}")
    if status.failed > 20:
        console.print(f"and {status.failed - 20:,} more, in --json")
