"""The `cellkit` command: a group whose commands are imported when asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

_COMMANDS = {
    "run": "cellkit_cli.run:run_command",
    "status": "cellkit_cli.status:status_command",
    "report": "cellkit_cli.report:report_command",
    "check": "cellkit_cli.inspect:check_command",
    "stages": "cellkit_cli.inspect:stages_command",
    "recipes": "cellkit_cli.inspect:recipes_command",
    "samples": "cellkit_cli.samples:samples_command",
    "explain": "cellkit_cli.explain:explain_command",
    "eval": "cellkit_cli.eval:eval_command",
    "diff": "cellkit_cli.diff:diff_command",
    "tune": "cellkit_cli.tune:tune_command",
    "train": "cellkit_cli.train:train_command",
    "grid": "cellkit_cli.grid:grid_command",
    "compare": "cellkit_cli.compare:compare_command",
    "audit": "cellkit_cli.audit:audit_command",
    "convert": "cellkit_cli.convert:convert_command",
    "models": "cellkit_cli.models:models_command",
    "export": "cellkit_cli.export:export_command",
}


class _Group(click.Group):
    """Imports a command's module when the command is asked for, and turns cellkit's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from cellkit.core.errors import suggest

            hint = suggest(args[0], _COMMANDS)
            raise click.UsageError(f"{error.message} {hint}".strip(), ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        from cellkit.core.errors import CellkitError

        try:
            return super().invoke(ctx)
        except CellkitError as error:
            click.echo(f"cellkit: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cellkit")
def cli() -> None:
    """From a folder of microscopy images to objects, by recipes of stages.

    \b
    Try it on real pictures:
      cellkit samples pictures
      cellkit run nuclei pictures/nuclei -o out
    """


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console of another encoding must not stop a run
            stream.reconfigure(errors="replace")
    cli(prog_name="cellkit")


if __name__ == "__main__":
    main()
