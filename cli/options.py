"""Options that several commands share, and how they change a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from cellkit.core import Recipe

F = TypeVar("F", bound=Callable[..., Any])


def recipe_options(command: F) -> F:
    """Add `--set`, `--with`, `--bits` and `--pixel-size` to a command."""
    options = [
        click.option("--set", "settings", multiple=True, metavar="STEP.PARAM=VALUE", help="Change one parameter."),
        click.option("--with", "plugins", multiple=True, metavar="FILE.py", help="Load stages of your own."),
        click.option("--bits", type=click.IntRange(1, 32), help="Bit depth of the intensities, e.g. 12."),
        click.option("--pixel-size", type=float, metavar="UM", help="Size of a pixel in micrometres."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def load_plugins(plugins: Sequence[str]) -> None:
    """Register the stages of every ``--with`` file."""
    from cellkit.core import registry

    for path in plugins:
        registry.load_file(path)


def changed(recipe: Recipe, settings: Sequence[str], bits: int | None, pixel_size: float | None) -> Recipe:
    """Return `recipe` with ``--set``, ``--bits`` and ``--pixel-size`` applied. Raises `UsageError`."""
    import yaml

    from cellkit.core.errors import UsageError

    for setting in settings:
        target, equals, text = setting.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if not equals:
            raise UsageError(f"--set {setting}: wanted step.param=value")
        recipe = recipe.set(target.strip(), value)
    options = recipe.read_options
    if bits is not None:
        options = replace(options, bits=bits)
    if pixel_size is not None:
        if not 0 < pixel_size < float("inf"):
            raise UsageError(f"--pixel-size: wanted a positive number of micrometres, got {pixel_size}")
        options = replace(options, pixel_size=(pixel_size, pixel_size))
    return replace(recipe, read_options=options)
