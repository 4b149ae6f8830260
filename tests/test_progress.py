"""The time that is left, and what stands on standard error with a terminal and without."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import pytest

from cellkit.engine.batch import Outcome
from cellkit.engine.manifest import Record
from cellkit.io import Source
from cellkit_cli import progress as shown
from cellkit_cli.progress import Lines, Pace, span
from cellkit_cli.run import _Show
from test_batch import picture


@dataclass
class Clock:
    now: float = 100.0
    said: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(shown.time, "perf_counter", one)
    return one


def test_a_pace_forgets_what_is_long_ago(clock):
    pace = Pace(window=60)
    assert pace.left(10) is None
    for _ in range(20):  # one a second
        clock.now += 1
        pace.add(1)
    assert pace.left(10) == pytest.approx(10)
    for _ in range(30):  # one every ten seconds
        clock.now += 10
        pace.add(1)
    assert pace.left(10) == pytest.approx(100, rel=0.2)
    clock.now += 300  # and then nothing
    assert pace.left(10) > 400


def test_events_close_together_are_held_as_one(clock):
    pace = Pace(window=1)
    for _ in range(10_000):
        clock.now += 0.001
        pace.add(1)
    assert len(pace._events) < 200
    assert pace.left(1000) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (float("inf"), ""),
        (0.4, ", 0 s left"),
        (99, ", 99 s left"),
        (150, ", 2 min left"),
        (9000, ", 2.5 h left"),
    ],
)
def test_a_span_is_told_in_one_unit(seconds, text):
    assert span(seconds) == text


class Said(Lines):
    def __init__(self) -> None:
        super().__init__(0.0)
        self.said: list[str] = []

    def say(self, text: str, look: str = "") -> None:
        self.said.append(text if look in ("", "red") else look)


def outcome(name: str, side: int, *, kept: bool = False, status: str = "done") -> Outcome:
    facts = {"height": side, "width": side, "objects": {"labels": 2}} if status == "done" else {}
    return Outcome(Record(name, name, status=status, reason="why", facts=facts), kept=kept)


def test_the_time_left_goes_by_pixels_where_images_differ_in_size(clock, tmp_path):
    sources = []
    for name, size in {"a": 100, "b": 100, "kept": 5000, "bad": 300, "large": 10_000}.items():
        (tmp_path / name).write_bytes(bytes(size))
        sources.append(Source(name, (tmp_path / name,)))
    on = Said()
    show = _Show(on)
    show.start(sources)
    show.add(outcome("kept", 500, kept=True))
    assert "left" not in on.said[-1]
    for name in ("a", "b"):
        clock.now += 1
        show.add(outcome(name, 71))  # 50 pixels a byte, as the one that was kept
    clock.now += 1
    show.add(outcome("bad", 0, status="failed"))
    assert on.said[-2] == "failed: bad: why"
    # 10,000 bytes are 500,000 pixels; 10,000 were done in three seconds. By images it would be one second.
    assert show.left() == pytest.approx(150, rel=0.05)
    assert on.said[-1] == "4 of 5 images, 6 objects, 1 failed, 2 min left"
    clock.now += 1
    show.add(outcome("large", 707))
    assert on.said[-1] == "5 of 5 images, 8 objects, 1 failed"


def test_blocks_tell_the_time_left_of_their_pass(clock):
    from cellkit.engine.blockwise.drive import Progress

    on = Said()
    show = _Show(on)
    show.start([])
    for done in range(5):
        show.block("slide", Progress("pass 0", done, 10))
        clock.now += 2
    assert on.said[-1] == "slide: pass 0: 4 of 10 blocks, 12 s left of this pass"
    show.block("slide", Progress("pass 1", 0, 10))
    assert on.said[-1] == "slide: pass 1: 0 of 10 blocks"


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar_and_failures_above_it(tmp_path, cellkit):
    import pty

    folder = tmp_path / "[red]images"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture(0, 12, (96, 120)))
    (folder / "[bold]bad.png").write_bytes(b"none")
    command = [str(cellkit.script), "run", "nuclei-classical", str(folder), "-o", str(tmp_path / "out")]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "300"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        found += part
    os.close(ours)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 1
    text = found.decode("utf-8", "replace")
    assert "bold" in text
    assert "is no image that can be read" in text
    assert "of 2 images" in text


def test_every_command_uses_the_one_module():
    folder = Path(sys.modules[_Show.__module__].__file__ or "").parent
    for path in folder.glob("*.py"):
        if path.name != "progress.py":
            assert "rich.progress" not in path.read_text(encoding="utf-8"), path.name
