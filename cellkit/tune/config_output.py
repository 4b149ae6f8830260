"""Write what a tuning of a training's config found: an ordinary config with an account on top, and its trials."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit.tune.config_space import written
from cellkit.tune.config_tuning import SEARCH, ConfigTuning, Wanted
from cellkit.tune.output import finite, gain_data, sentence, value_text, write_commented, write_trials
from cellkit.tune.trainings import Trainings

__all__ = ["Asked", "account", "counted", "headline", "summary", "write"]

_PATHS = ("recipe", "recipe.file", "baseline", "data.folder", "data.split", "model.start")


@dataclass(frozen=True)
class Asked:
    """What was asked for, to be written down: the config by name, and how."""

    config: str
    wanted: Wanted
    trainings: Trainings


def headline(found: ConfigTuning) -> str:
    """Return in one sentence what tuning has brought."""
    if found.gain is not None:
        return sentence(found.gain, found.tuned, "config")
    if not found.tuned:
        return f"the config is written unchanged: {found.why}"
    text = f"{found.trials[0].score:.4f} to {found.best.score:.4f} on the images of the search"
    return f"{text}; what is gained on other images was not measured ({found.why})"


def account(found: ConfigTuning, asked: Asked) -> list[str]:
    """Return the lines that stand on top of the config, without the ``#``."""
    plan, space = asked.trainings.plan, asked.trainings.space
    first = headline(found)
    train, inner, val = found.images
    lines = [f"Tuned by `cellkit tune`, from the config {asked.config}.", first[0].upper() + first[1:] + "."]
    if found.gain is not None:
        lines.append(f"Interval: {found.gain.method}; of either training the best of its validations on these.")
    lines += [
        f"Data: {asked.trainings.parts.about}.",
        f"Trials: trained on {train:,} of the images to train on, scored on the other {inner:,}; "
        + (f"the gain is on the {val:,} to validate on, which no trial has seen." if found.gain else "no others seen."),
        f"Score: {found.metric}.",
        f"Search: {counted(found, asked.wanted)}, sampler {asked.wanted.draw.sampler}, prune {plan.prune}, "
        f"seed {asked.wanted.draw.seed}.",
    ]
    if found.tuned:
        before, after = found.trials[0].score, found.best.score
        lines.append(f"On the images of the search: {before:.4f} before, {after:.4f} after (not held out).")
        lines.append("Changed:")
        was = space.defaults
        lines += [f"  {t}: {value_text(was[t])} -> {value_text(now)}" for t, now in _changed(found, was).items()]
    return lines


def write(out: Path, found: ConfigTuning, asked: Asked) -> None:
    """Write the config to `out`, paths as seen from there, and the trials beside it. Raises `WriteError`."""
    space = asked.trainings.space
    write_trials(out.with_suffix(".csv"), {SEARCH: found.trials}, space.dimensions, ("failed", "pruned", "note"))
    data = _seen_from(found.data, space.config.folder, out.parent)
    write_commented(out, account(found, asked), written(data))


def summary(found: ConfigTuning, asked: Asked) -> dict[str, Any]:
    """Return all of it as a document for JSON; what is not a number is None."""
    space, plan = asked.trainings.space, asked.trainings.plan
    was = space.defaults
    train, inner, val = found.images
    return {
        "headline": headline(found),
        "tuned": found.tuned,
        "score": found.metric,
        "config": asked.config,
        "data": asked.trainings.parts.about,
        "images": {"trained": train, "scored": inner, "held_out": val},
        "seed": asked.wanted.draw.seed,
        "sampler": asked.wanted.draw.sampler,
        "prune": plan.prune,
        "trials": asked.wanted.trials,
        "held_out": None if found.gain is None else gain_data(found.gain),
        "not_measured": found.why,
        "search": {
            "trials": len(found.trials),
            "default": finite(found.trials[0].score),
            "tuned": finite(found.best.score),
            "best": found.best.number,
        },
        "changed": {t: {"from": was[t], "to": now} for t, now in _changed(found, was).items()} if found.tuned else {},
        "pruned": [{"trial": one.number, "epoch": one.pruned} for one in found.trials if one.pruned],
        "failed": [{"trial": one.number, "reason": one.note} for one in found.trials if one.failed],
        "space": [str(one) for one in space.dimensions],
        "notes": list(space.notes),
        "model": None if found.model is None else str(found.model),
        "seconds": round(found.seconds, 3),
    }


def _changed(found: ConfigTuning, was: Mapping[str, Any]) -> dict[str, Any]:
    return {target: now for target, now in found.best.values.items() if now != was[target]}


def counted(found: ConfigTuning, wanted: Wanted) -> str:
    """Return how many trials there were, in words."""
    done, pruned = len(found.trials), sum(bool(one.pruned) for one in found.trials)
    failed = sum(bool(one.failed) for one in found.trials)
    text = f"{done} trials" if done >= wanted.trials else f"{done} of {wanted.trials} trials, as time ran out"
    text += f", {pruned} given up early" if pruned else ""
    return text + (f", {failed} that could not be trained" if failed else "")


def _seen_from(data: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """Return the data of a config whose relative paths begin at `old` for one that lies in the folder `new`."""
    out = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    if old.resolve() == new.resolve():
        return out
    for key in _PATHS:
        section, _, name = key.rpartition(".")
        holder: Any = out.get(section) if section else out
        value = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(value, str) or not value or Path(value).is_absolute() or not (old / value).exists():
            continue  # a name, or a file beside the data
        path = (old / value).resolve()
        try:
            holder[name] = Path(os.path.relpath(path, new.resolve())).as_posix()
        except ValueError:  # on another drive
            holder[name] = str(path)
    return out
