"""What a training tells of itself while it runs: run.json, and the page and plots beside it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cellkit.core import Recipe
from cellkit.core.recipe import dump
from cellkit.engine.results import versions
from cellkit.io import atomic
from cellkit.train.optimisers import OPTIMISERS
from cellkit.train.schedules import SCHEDULES

__all__ = ["RECORD", "Record", "RunPage", "digest_of", "settings_of", "told"]

RECORD = "run.json"
_VERSION = 1
_PACKAGES = ("torch", "torchvision", "lightning", "matplotlib")
_SHARE = 0.02
"""At most this share of the time goes into drawing while a training runs."""
_FIRST = 30.0
"""A training is drawn at its end, and in between from this many seconds on."""


def digest_of(names: Iterable[str]) -> str:
    """Return 16 digits that say which images `names` are, in whatever order."""
    return hashlib.sha256("\n".join(sorted(names)).encode(errors="surrogateescape")).hexdigest()[:16]


def settings_of(config: Any) -> dict[str, Any]:
    """Return every setting of a checked config by its dotted name, defaults filled in: plain data for JSON.

    Recipes stand there by name and the first digits of their digest, so that a changed one shows.
    """
    found: dict[str, Any] = {}
    for one in fields(config):
        if one.name not in ("folder", "text", "warnings", "prefix"):
            _flatten(one.name, _completed(one.name, getattr(config, one.name)), found)
    return found


def _completed(name: str, value: Any) -> Any:
    if name in ("optimiser", "schedule") and isinstance(value, tuple):
        registry = OPTIMISERS if name == "optimiser" else SCHEDULES
        return {"name": value[0], **registry.complete(value[0], value[1])}
    if isinstance(value, Recipe):
        return f"{value.name or 'without a name'}, sha256 {hashlib.sha256(dump(value).encode()).hexdigest()[:8]}"
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in fields(value)}
    return value


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            _flatten(f"{name}.{key}", one, into)
        return
    if isinstance(value, (list, tuple)):
        value = [one if isinstance(one, (str, int)) else _said(one) for one in value]
    elif not (value is None or isinstance(value, (str, int, float, bool))):
        value = str(value)
    into[name] = None if isinstance(value, float) and not math.isfinite(value) else value


def told(config: Any, network: Any, validator: Any, parts: Any, device: Any) -> dict[str, Any]:
    """Return what is known of a training at its start, for its `Record`."""
    return {
        "name": config.name,
        "architecture": config.model.architecture,
        "parameters": sum(int(one.numel()) for one in network.parameters()),
        "device": str(device),
        "data": parts.about,
        "validation": {
            "score": validator.protocol.headline,
            "rule": validator.protocol.report({}).rule,
            "images": len(parts.val),
            "digest": digest_of(pair.name for pair in parts.val),
        },
        "settings": settings_of(config),
        "warnings": [str(fault) for fault in config.warnings],
    }


def _said(value: Any) -> str:
    """Return what stands in a list in words: ``dice (channels interior border)``."""
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {_said(one)}" for key, one in value.items() if key != "name")
        return f"{value.get('name', '')} ({rest})".strip() if rest else str(value.get("name", ""))
    return " ".join(map(_said, value)) if isinstance(value, (list, tuple)) else str(value)


class Record:
    """Keeps run.json in the folder `out`: written when a training starts or goes on, and when it ends."""

    def __init__(self, out: Path, values: Mapping[str, Any]) -> None:
        self.path = out / RECORD
        self.values = {"cellkit_training": _VERSION, "started": _now(), **values}
        self.values |= {"versions": versions(*_PACKAGES), "state": "running", "reason": "", "notes": []}
        before = _before(self.path)
        self.values["started"] = before.get("started", self.values["started"])
        self._write()

    def ended(self, finished: bool, reason: str, notes: Sequence[str]) -> None:
        """Say how the training ended, or why it stopped."""
        state = "finished" if finished else "stopped"
        self.values |= {"state": state, "reason": reason, "notes": list(notes), "ended": _now()}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self.values, indent=2, allow_nan=False, default=str) + "\n"
        with atomic(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")


def _before(path: Path) -> dict[str, Any]:
    """Return what an earlier part of the training recorded; nothing where that cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class RunPage:
    """Draws report.html and curves.png of the run in `out`. What goes wrong is told, and stops no training."""

    def __init__(self, out: Path, show: Any) -> None:
        self.out, self.show = out, show
        self._next = time.monotonic() + _FIRST

    def update(self) -> None:
        """Draw, unless that would take more than a small share of the time."""
        began = time.monotonic()
        if began >= self._next:
            self.draw()
            done = time.monotonic()
            self._next = done + (done - began) / _SHARE

    def draw(self) -> None:
        """Draw what lies in the folder."""
        try:
            from cellkit.train.runs import read_run, write_page

            write_page(read_run(self.out), self.out)
        except Exception as error:  # a plot is no reason to lose a training, whatever it is that went wrong
            self.show.note(f"report.html could not be drawn: {type(error).__name__}: {error}")
