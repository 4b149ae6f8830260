"""What `cellkit tune` is given, for a recipe or for the config of a training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

__all__ = ["TuneGiven", "is_config", "refuse_other", "seconds_of", "state_file"]

_UNITS = {"h": 3600, "m": 60, "s": 1}
_DATA = "the config says it in its section data; --data DIR takes another data set"
_METRIC = "the config says it with `metric:`"
_NOT_OF_CONFIGS = {
    **dict.fromkeys(("images", "truth", "split_file", "group_column", "part", "allow_missing"), _DATA),
    **dict.fromkeys(("protocol", "pooling"), _METRIC),
    **dict.fromkeys(("workers", "memory"), "the config says it with loop.workers and data.cache"),
    **dict.fromkeys(("bits", "pixel_size"), "the recipe of the config says it in its section read"),
    "folds": "the gain is measured on the part to validate on",
    "settings": "change the config",
}
_NOT_OF_RECIPES = dict.fromkeys(("data", "prune", "search_only"), "it is for the config of a training")


@dataclass(frozen=True)
class TuneGiven:
    """What the command was given, by the names of its parameters."""

    recipe: str
    images: str | None
    truth: Path | None
    protocol: str | None
    data: Path | None
    out: Path
    vary: tuple[str, ...]
    trials: int | None
    folds: int
    time_limit: str | None
    seed: int
    sampler: Any
    prune: Any
    search_only: bool
    split_file: Path | None
    group_column: str | None
    part: str | None
    allow_missing: bool
    workers: int | None
    memory: str | None
    device: str
    pooling: Any
    resume: bool
    fresh: bool
    force: bool
    as_json: bool
    settings: tuple[str, ...]
    plugins: tuple[str, ...]
    bits: int | None
    pixel_size: float | None


def is_config(source: str) -> bool:
    """Tell whether a file is the config of a training, by its key `cellkit_train`."""
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError):  # a shipped recipe, or what reading will say more of
        return False
    return re.search(r"^cellkit_train[ \t]*:", text, re.MULTILINE) is not None


def refuse_other(ctx: click.Context, config: bool) -> None:
    """Raise `UsageError` for what was given on the command line but is not for a config, or not for a recipe."""
    from click.core import ParameterSource

    reasons = _NOT_OF_CONFIGS if config else _NOT_OF_RECIPES
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in reasons and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and ctx.params[name]:
            shown = parameter.opts[-1] if isinstance(parameter, click.Option) else name.upper()
            kind = "a config of a training" if config else "a recipe"
            raise click.UsageError(f"{shown}: not with {kind}; {reasons[name]}", ctx)
    for name in () if config else ("images", "truth", "protocol"):
        if ctx.params[name] is None:
            what = "option '--as'" if name == "protocol" else f"argument '{name.upper()}'"
            raise click.UsageError(f"Missing {what}.", ctx)


def state_file(options: TuneGiven) -> Path:
    """Return the file of the trials. Raises `UsageError` where it is there and nobody said what becomes of it."""
    from cellkit.core import UsageError

    if options.out.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"--out {options.out}: it is written as a file that ends in .yaml")
    state = options.out.with_suffix(".sqlite")
    if options.resume and options.fresh:
        raise UsageError("--resume and --fresh contradict each other")
    if options.resume and not state.exists():
        raise UsageError(f"--resume: there are no trials to go on from, no file {state}")
    if state.exists() and not (options.resume or options.fresh):
        raise UsageError(f"{state}: holds the trials of an earlier tuning; --resume goes on, --fresh starts over")
    return state


def seconds_of(text: str | None) -> float | None:
    """Return the seconds that a text such as ``9m``, ``1h30m`` or ``90`` stands for."""
    from cellkit.core import UsageError

    if text is None:
        return None
    found = re.findall(r"(\d+(?:\.\d+)?)([hms]?)", text.strip().lower())
    if not found or "".join(map("".join, found)) != text.strip().lower().replace(" ", ""):
        raise UsageError(f"--time-limit {text}: wanted a time such as 9m, 90s or 1h30m")
    total = sum(float(number) * _UNITS[unit or "s"] for number, unit in found)
    if not total > 0:
        raise UsageError(f"--time-limit {text}: wanted more than no time")
    return total
