"""Write what a tuning found: an ordinary recipe with an account on top, and a table of all trials."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit.core.recipe import dump
from cellkit.tune.dimension import Dimension
from cellkit.tune.scoring import Scorer
from cellkit.tune.search import Trial
from cellkit.tune.tuning import ALL, Gain, Options, Tuning

__all__ = [
    "Given",
    "account",
    "finite",
    "gain_data",
    "headline",
    "sentence",
    "summary",
    "value_text",
    "write_commented",
    "write_recipe",
    "write_trials",
]


@dataclass(frozen=True)
class Given:
    """What was asked for, as it is to be written down: the recipe, images and truth by name."""

    recipe: str
    images: str
    truth: str
    part: str = ""


def headline(found: Tuning) -> str:
    """Return in one sentence what tuning has brought."""
    return sentence(found.gain, found.tuned, "recipe")


def sentence(one: Gain, tuned: bool, what: str) -> str:
    """Return in one sentence what a gain means for `what` was tuned, given whether it is written `tuned`."""
    sure = "" if math.isnan(one.low) else f", 95 % interval {one.low:+.4f} to {one.high:+.4f}"
    text = f"gain on held-out images {one.value:+.4f}{sure} ({one.default:.4f} to {one.tuned:.4f})"
    if one.value <= 0 and not tuned:
        return f"tuning does not help; the {what} is written unchanged: {text}"
    if one.value <= 0:
        return f"tuning does not help, and the tuned {what} is written only because it was asked for: {text}"
    if not tuned:
        return f"on all images nothing is better than the {what} as it is, which is written unchanged: {text}"
    return f"{text}; it may be chance, as the interval holds 0" if one.low <= 0 else text


def account(found: Tuning, scorer: Scorer, options: Options, given: Given) -> list[str]:
    """Return the lines that stand on top of the recipe, without the ``#``."""
    groups = {case.group for case in scorer.cases.values() if case.group}
    part = f", part {given.part}" if given.part else ""
    grouped = f" in {len(groups):,} groups" if groups else ""
    lines = [
        f"Tuned by `cellkit tune`, from the recipe {given.recipe}.",
        headline(found)[0].upper() + headline(found)[1:] + ".",
        f"Interval: {found.gain.method}.",
        f"Data: images {given.images}, truth {given.truth}{part}; {len(scorer.cases):,} images{grouped}.",
        f"Score: {scorer.protocol.headline} (`--as {scorer.protocol.name}`).",
        f"Search: {_trials(found, options)}, {options.folds} folds, seed {options.seed}.",
    ]
    if found.tuned and found.best is not None:
        first, last = found.searches[ALL][0].score, found.best.score
        lines.append(f"On the images it was tuned on: {first:.4f} before, {last:.4f} after (not held out).")
        lines.append("Changed:")
        lines += [f"  {target}: {value_text(was)} -> {value_text(now)}" for target, was, now in _changed(found, scorer)]
    if found.failed:
        lines.append(f"A step fails on {len(found.failed):,} of the images, which count as 0.")
    return lines


def write_recipe(path: Path, found: Tuning, lines: list[str]) -> None:
    """Write the recipe with `lines` as comments on top. Raises `WriteError`."""
    write_commented(path, lines, dump(found.recipe))


def write_commented(path: Path, lines: Sequence[str], text: str) -> None:
    """Write `text` with `lines` as comments on top. Raises `WriteError`."""
    head = "".join(f"# {' '.join(line.split()) if not line.startswith('  ') else line}\n" for line in lines)
    _write(path, head + text)


def write_trials(
    path: Path,
    searches: Mapping[str, Sequence[Trial]],
    dimensions: Sequence[Dimension],
    columns: Sequence[str] = ("failed",),
) -> None:
    """Write one row for each trial: search, number, score, `columns`, seconds, values. Raises `WriteError`."""
    import io

    targets = [one.target for one in dimensions]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    heads = ["failed_images" if column == "failed" else column for column in columns]
    writer.writerow(["search", "trial", "score", *heads, "seconds", *targets])
    for name, trials in searches.items():
        for trial in trials:
            values = [value_text(trial.values[target]) for target in targets]
            more = [getattr(trial, column) for column in columns]
            writer.writerow([name, trial.number, f"{trial.score:.6f}", *more, f"{trial.seconds:.3f}", *values])
    _write(path, text.getvalue())


def summary(found: Tuning, scorer: Scorer, options: Options, given: Given) -> dict[str, Any]:
    """Return all of it as a document for JSON; what is not a number is None."""
    return {
        "headline": headline(found),
        "tuned": found.tuned,
        "score": scorer.protocol.name,
        "recipe": given.recipe,
        "images": given.images,
        "truth": given.truth,
        "part": given.part,
        "image_count": len(scorer.cases),
        "seed": options.seed,
        "trials": options.trials,
        "held_out": gain_data(found.gain),
        "folds": [
            {"images": one.images, "trials": one.trials, "default": finite(one.default), "tuned": finite(one.tuned),
             "values": dict(one.best.values)}
            for one in found.folds
        ],
        "all_images": None if found.best is None else {
            "trials": len(found.searches[ALL]),
            "default": found.searches[ALL][0].score,
            "tuned": found.best.score,
        },
        "changed": {target: {"from": was, "to": now} for target, was, now in _changed(found, scorer)},
        "space": [str(one) for one in scorer.space.dimensions],
        "left_out": list(scorer.space.notes),
        "failed": [{"image": name, "reason": reason} for name, reason in found.failed.items()],
        "seconds": round(found.seconds, 3),
    }  # fmt: skip


def _changed(found: Tuning, scorer: Scorer) -> list[tuple[str, Any, Any]]:
    if not found.tuned or found.best is None:
        return []
    defaults: Mapping[str, Any] = scorer.space.defaults
    values: Trial = found.best
    return [(t, defaults[t], now) for t, now in values.values.items() if now != defaults[t]]


def _trials(found: Tuning, options: Options) -> str:
    """Return how many trials each search had, and what was wanted where time ran out."""
    counts = [len(trials) for trials in found.searches.values()]
    if min(counts) >= options.trials:
        return f"{options.trials} trials a search"
    return f"{min(counts)} to {max(counts)} of {options.trials} trials a search, as time ran out"


def gain_data(gain: Gain) -> dict[str, Any]:
    """Return a gain for JSON."""
    return {
        "default": finite(gain.default),
        "tuned": finite(gain.tuned),
        "gain": finite(gain.value),
        "low": finite(gain.low),
        "high": finite(gain.high),
        "method": gain.method,
    }


def finite(value: float) -> float | None:
    """Return a number, or None for JSON where it is none."""
    return value if math.isfinite(value) else None


def value_text(value: Any) -> str:
    """Return a value as a table shows it."""
    return "true" if value is True else "false" if value is False else "" if value is None else str(value)


def _write(path: Path, text: str) -> None:
    from cellkit.io import atomic

    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
