"""Runs and workers that are killed: a cluster of Dask whose processes may die, and what must hold of the files after.

``python benchmarks/scale.py kills`` uses it, and so do the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-c", "from cellkit_cli.main import main; main()"]
OUTPUTS = "labels,table,rle,geojson"


class Outside:
    """A scheduler of Dask and `workers` of one thread each, in processes of their own that are no children of a run.

    `folder` is where they keep and say what they have to. `inside`: words to put before the command of each, the
    scheduler's first; `host`: the scheduler's address. A context manager.
    """

    def __init__(
        self, workers: int, folder: Path, host: str = "127.0.0.1", inside: Sequence[Sequence[str]] = ()
    ) -> None:
        self.count, self.folder, self.inside = workers, folder, inside
        port = 8786
        if not inside:
            with socket.socket() as free:
                free.bind((host, 0))
                port = free.getsockname()[1]
        self.host, self.port = host, port
        self.address = f"tcp://{host}:{port}"
        self.started = 0
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Outside:
        self.folder.mkdir(parents=True, exist_ok=True)
        own = ["--host", self.host, "--port", str(self.port), "--no-dashboard"]
        self.scheduler = self._start(0, "scheduler", own)
        self.workers = [self.worker(i) for i in range(self.count)]
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                end(process)

    def worker(self, number: int) -> subprocess.Popen[bytes]:
        """Start a worker; a nanny starts its process again when it dies."""
        own = [self.address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder / f"{number}")]
        return self._start(number + 1, "worker", own)

    def kill(self, rng: random.Random) -> None:
        """Kill a worker as it comes: its process, which its nanny replaces, or once in four times both."""
        number = rng.randrange(self.count)
        if rng.random() < 0.25:
            end(self.workers[number])
            self.workers[number] = self.worker(number)
            return
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.workers[number].pid).children(recursive=True):
                if "spawn_main" in " ".join(process.cmdline()):
                    process.kill()

    def _start(self, number: int, what: str, own: Sequence[str]) -> subprocess.Popen[bytes]:
        self.started += 1
        before = self.inside[number] if self.inside else ()
        with (self.folder / f"{what}-{self.started}.log").open("wb") as log:
            command = [*before, sys.executable, "-m", f"distributed.cli.dask_{what}", *own]
            return subprocess.Popen(command, stdout=log, stderr=log)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


@contextmanager
def killing(outside: Outside, rng: random.Random, most: int, between: tuple[float, float]) -> Iterator[list[float]]:
    """Kill workers at random moments while the body runs, `most` times at most; yields the moments of all kills."""
    over, kills = threading.Event(), []

    def work() -> None:
        while len(kills) < most and not over.wait(rng.uniform(*between)):
            outside.kill(rng)
            kills.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()


def started(out: Path) -> bool:
    """Tell whether a run has got to its first image or block."""
    return any(out.glob("labels/*.tif")) or any(out.glob(".cellkit/blocks/*/*/*.npz"))


def killed_run(arguments: Sequence[object], out: Path, seconds: float) -> bool:
    """Run `cellkit` and kill it so many `seconds` after it got to work; tell whether it was still at it.

    Returns when every process that it has started has ended too, which none may outlive for long.
    """
    told = subprocess.DEVNULL
    before = started(out)
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=told, stderr=told)
    own, family = psutil.Process(process.pid), set()
    due = None if not before else time.monotonic() + 1.0 + seconds
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family |= set(own.children(recursive=True))
        if due is None and started(out):
            due = time.monotonic() + seconds
        if due is not None and time.monotonic() > due:
            break
        time.sleep(0.01)
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(list(family), timeout=20)
    if alive:
        raise SystemExit(f"outlived a run that was killed: {alive}")
    return killed


def damaged(out: Path) -> list[str]:
    """Return every file of results that cannot be read to its end, or that a writer has left half done."""
    import pyarrow.parquet as pq
    import tifffile
    import zarr

    found = []
    for path in sorted(out.rglob("*")) if out.exists() else ():
        inner = path.relative_to(out).parts
        if inner[0] == ".cellkit" or any(part.endswith(".partial") for part in inner) or not path.is_file():
            continue
        try:
            if path.name.startswith(".cellkit-"):
                raise ValueError("a temporary file")
            if path.suffix == ".tif":
                tifffile.imread(path)
            elif path.suffix == ".parquet":
                pq.read_table(path)
            elif path.suffix in (".geojson", ".json"):
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".csv", ".yaml") and not path.read_text(encoding="utf-8").endswith("\n"):
                raise ValueError("cut short")
            elif path.name == ".zattrs":
                for level in json.loads(path.read_text())["multiscales"][0]["datasets"]:
                    zarr.open_array(str(path.parent / level["path"]), mode="r")[:]
        except Exception as error:  # whatever a reader says of a damaged file
            found.append(f"{path.relative_to(out)}: {error}")
    return found


def digest(out: Path) -> str:
    """Return a digest of all results of a run but for times, places and notes."""
    total = hashlib.sha256()
    for path in sorted(p for p in out.rglob("*") if p.is_file() and ".cellkit" not in p.parts):
        if path.name in ("run.json", "images.csv"):
            continue
        total.update(str(path.relative_to(out)).encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def kills(folder: Path, given: argparse.Namespace) -> None:
    """Kill runs and workers again and again, and compare what they end with."""
    from scale_image import make_image

    from cellkit.io import fluorescence_field, write

    rng = random.Random(given.seed)
    slide, pictures = folder / f"kills-{given.side}.tif", folder / f"kills-{given.images}"
    if not slide.exists():
        make_image(slide, given.side)
    if not pictures.exists():
        pictures.mkdir()
        for i in range(given.images):
            write(pictures / f"{i:06}.png", fluorescence_field(128, 8, seed=i)[0])
    wrong = 0
    for what, images, more in (
        (f"{given.side:,} px in blocks of 256", slide, ("--blocks", 256)),
        (f"{given.images:,} images", pictures, ()),
    ):

        def arguments(out: Path, *own: object, images: Path = images, more: tuple[object, ...] = more) -> list[object]:
            return ["run", given.recipe, images, "-o", out, "--outputs", OUTPUTS, *more, *own]

        calm = folder / f"calm-{os.getpid()}-{images.stem}"
        began = time.monotonic()
        subprocess.run([*COMMAND, *map(str, arguments(calm))], check=True, stdout=subprocess.DEVNULL)
        each = (time.monotonic() - began) / given.kills
        for pool in (("--workers", 2), ("--pool", "processes", "--workers", 2)):
            out, done, bad = folder / "out-kills", 0, []
            for _ in range(given.kills):
                done += killed_run(arguments(out, *pool), out, rng.uniform(0, 2 * each))
                bad += damaged(out)
            wrong += _told(f"{what}, {pool[1]}: the run", done, arguments(out, *pool), (out, calm), bad)
        with Outside(2, folder / "dask") as outside:
            out = folder / "out-kills"
            with killing(outside, rng, given.kills, (0.3, 2.5)) as moments:
                code = _told("", 0, arguments(out, "--scheduler", outside.address), (out, calm), [], quiet=True)
            print(f"  {what}: a worker of Dask, {len(moments)} kills; {'equal' if not code else 'NOT EQUAL'}")
            wrong += code
    if wrong:
        raise SystemExit(1)


def _told(
    what: str, done: int, arguments: Sequence[object], outs: tuple[Path, Path], bad: list[str], quiet: bool = False
) -> int:
    """Finish a run; print what came of it, compared with the undisturbed one, and return 1 where it is not equal."""
    import shutil

    ended = subprocess.run([*COMMAND, *map(str, arguments)], check=False, capture_output=True)
    same = ended.returncode == 0 and digest(outs[0]) == digest(outs[1])
    if not quiet:
        print(f"  {what}, {done} kills; {len(bad)} files half-written; {'equal' if same else 'NOT EQUAL'}")
    for line in bad[:10]:
        print(f"    {line}")
    if ended.returncode:
        print(ended.stderr.decode()[-2000:])
    shutil.rmtree(outs[0])
    return int(not same or bool(bad))
