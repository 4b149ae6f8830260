"""Run a recipe over many images: a pool of workers, prefetched reads, and a state that survives a kill."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cellkit.core import registry
from cellkit.core.check import Plan, plan
from cellkit.core.errors import CellkitError, UsageError, WriteError
from cellkit.core.recipe import Recipe, dump
from cellkit.core.sample import Sample
from cellkit.engine.execute import Observation, execute
from cellkit.engine.manifest import Manifest, Record
from cellkit.engine.outputs import counts, encode, layers_for, write_image_outputs
from cellkit.engine.warm import warming

if TYPE_CHECKING:
    from cellkit.io import Source

__all__ = ["BatchResult", "Settings", "run_batch"]

STATE_FOLDER = ".cellkit"
_READ_AHEAD_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Settings:
    """How a batch is carried out, without a say in its results: workers (None: all cores), a fresh start."""

    workers: int | None = None
    fresh: bool = False


@dataclass(frozen=True)
class BatchResult:
    """How a batch ended: images done now, kept from an earlier run and failed; objects by layer; seconds by step."""

    folder: Path
    done: int = 0
    kept: int = 0
    failed: tuple[tuple[str, str, str], ...] = ()
    others: int = 0
    seconds: float = 0.0
    objects: dict[str, int] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Number of images asked for."""
        return self.done + self.kept + len(self.failed)


@dataclass(frozen=True)
class Outcome:
    """What became of one image; `kept` where an earlier run had done it already."""

    record: Record
    kept: bool = False
    step_seconds: dict[str, float] = field(default_factory=dict)


def run_batch(
    recipe: Recipe,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    settings: Settings | None = None,
    on_start: Callable[[int], None] | None = None,
    on_image: Callable[[Outcome], None] | None = None,
) -> BatchResult:
    """Run `recipe` on every image of `images` (files, folders, globs) and write its outputs to the folder `out`.

    An image that fails is recorded with its reason and stops nothing. A run that was interrupted continues: images
    whose file, recipe and outputs are unchanged are kept as they are.

    Raises `RecipeError` and `UsageError` before anything is written; `WriteError` where the state or the tables of
    the run cannot be written.
    """
    from cellkit.engine.results import write_results
    from cellkit.io import find

    settings = settings or Settings()
    bound = plan(recipe)
    workers = settings.workers if settings.workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    sources = find(images, recipe.read_options)
    folder = _prepare(Path(out))
    started = perf_counter()
    job = _Job(bound, folder, folder / STATE_FOLDER / "tmp", _digest_recipe(bound))
    with Manifest(folder / STATE_FOLDER) as manifest, _single_threaded_opencv(workers), warming(bound, workers):
        manifest.begin([source.name for source in sources], fresh=settings.fresh)
        if on_start is not None:
            on_start(len(sources))
        tally = _Tally()
        for outcome in _outcomes(job, sources, manifest, workers):
            if not outcome.kept:
                _unlink(folder / "run.json")  # written last: where it is missing, a run has not ended
                _forget_stale(folder, manifest.get(outcome.record.name), outcome.record)
                manifest.put(outcome.record)
            tally.add(outcome)
            if on_image is not None:
                on_image(outcome)
        result = replace(tally.result(folder), others=manifest.others(), seconds=perf_counter() - started)
        write_results(bound, manifest, result, job.digest)
    return result


@dataclass(frozen=True)
class _Job:
    plan: Plan
    folder: Path
    scratch: Path
    digest: str


class _Tally:
    def __init__(self) -> None:
        self.done = self.kept = 0
        self.failed: list[tuple[str, str, str]] = []
        self.objects: Counter[str] = Counter()
        self.steps: defaultdict[str, float] = defaultdict(float)

    def add(self, outcome: Outcome) -> None:
        record = outcome.record
        if record.status != "done":
            self.failed.append((record.name, record.source, record.reason))
            return
        self.kept += outcome.kept
        self.done += not outcome.kept
        self.objects.update(record.facts.get("objects", {}))
        for where, seconds in outcome.step_seconds.items():
            self.steps[where] += seconds

    def result(self, folder: Path) -> BatchResult:
        failed = tuple(sorted(self.failed))
        return BatchResult(
            folder, self.done, self.kept, failed, objects=dict(self.objects), step_seconds=dict(self.steps)
        )


def _prepare(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / STATE_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{out}: cannot be used as the output folder: {reason}") from error
    return out


def _digest_recipe(bound: Plan) -> str:
    """Digest all that decides the results besides the image: steps with every default, plug-in files, version."""
    from cellkit import __version__

    text = dump(replace(bound.resolved(), name="recipe", description=""))
    return _sha256([text, repr(sorted(registry.plugin_digests().items())), __version__])


def _sha256(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _digest_files(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
        total.update(b"\0")
    return total.hexdigest()


class _single_threaded_opencv:  # noqa: N801 - reads as a word in a `with`
    """While several workers run, OpenCV's own threads would only fight over the same cores."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> None:
        import cv2

        self.before = cv2.getNumThreads()
        cv2.setNumThreads(max(1, (os.cpu_count() or 1) // self.workers))

    def __exit__(self, *_: object) -> None:
        import cv2

        cv2.setNumThreads(self.before)


class _Ahead:
    """Bounds how much is read but not yet worked on.

    Readers wait while more than `limit` bytes lie ready, unless a worker has nothing to do but wait for them.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.hungry, self.stopped = limit, 0, 0, False
        self.changed = threading.Condition()

    def wait_for_room(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.held < self.limit or self.hungry > 0 or self.stopped)

    def put(self, size: int) -> None:
        with self.changed:
            self.held += size

    def take(self, reading: Future[_Reading]) -> _Reading:
        with self.changed:
            self.hungry += 1
            self.changed.notify_all()
        try:
            result = reading.result()
        finally:
            with self.changed:
                self.hungry -= 1
        with self.changed:
            self.held -= result.size
            self.changed.notify_all()
        return result

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


def _outcomes(job: _Job, sources: Sequence[Source], manifest: Manifest, workers: int) -> Iterator[Outcome]:
    """Yield outcomes as they come. Reads run ahead of the work by a bounded number of images and of bytes."""
    ahead = _Ahead(_READ_AHEAD_BYTES)
    readers = ThreadPoolExecutor(max(1, workers // 4), "read")
    pool = ThreadPoolExecutor(workers, "work")
    waiting = deque(sources)
    pending: set[Future[Outcome]] = set()
    try:
        while waiting or pending:
            while waiting and len(pending) < 2 * workers + 2:
                source = waiting.popleft()
                reading = readers.submit(_read, job, source, manifest.get(source.name), ahead)
                pending.add(pool.submit(_work, job, source, reading, ahead))
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        ahead.stop()
        for executor in (readers, pool):
            executor.shutdown(wait=False, cancel_futures=True)
        for executor in (readers, pool):
            executor.shutdown(wait=True)


@dataclass(frozen=True)
class _Reading:
    """A decoded image, or an earlier record that still holds, or the reason why there is neither."""

    digest: str = ""
    sample: Sample | None = None
    kept: Record | None = None
    reason: str = ""
    size: int = 0
    seconds: float = 0.0


def _read(job: _Job, source: Source, before: Record | None, ahead: _Ahead) -> _Reading:
    from cellkit.io import read

    ahead.wait_for_room()
    started = perf_counter()
    digest = ""
    try:
        if all(path.is_file() for path in source.paths):  # read() names what is missing better than open() does
            digest = _digest_files(source.paths)
        if before is not None and _holds(job, before, digest):
            return _Reading(digest, kept=before)
        sample = replace(read(source, job.plan.recipe.read_options), name=source.name)
    except CellkitError as error:
        return _Reading(digest, reason=str(error), seconds=perf_counter() - started)
    except OSError as error:
        reason = f"{source.paths[0]}: {error.strerror or error}"
        return _Reading(digest, reason=reason, seconds=perf_counter() - started)
    except MemoryError:
        return _Reading(digest, reason=f"{source.paths[0]}: does not fit in memory", seconds=perf_counter() - started)
    size = sample["raw"].nbytes
    ahead.put(size)
    return _Reading(digest, sample, size=size, seconds=perf_counter() - started)


def _holds(job: _Job, before: Record, digest: str) -> bool:
    """Tell whether an earlier result still stands: same recipe, same file, and every output still as written."""
    if before.status != "done" or before.recipe != job.digest or before.digest != digest or not digest:
        return False
    return all(_size(job.folder / name) == size for name, size in before.files.items())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _work(job: _Job, source: Source, reading_future: Future[_Reading], ahead: _Ahead) -> Outcome:
    reading = ahead.take(reading_future)
    text = str(source.paths[0]) if len(source.paths) == 1 else " + ".join(map(str, source.paths))
    if reading.kept is not None:
        return Outcome(replace(reading.kept, source=text), kept=True)
    record = Record(source.name, text, job.digest, reading.digest, seconds=reading.seconds, reason=reading.reason)
    record = replace(record, facts={"fields": dict(source.fields)})
    if reading.sample is None:
        return Outcome(record)
    started = perf_counter()
    steps: defaultdict[str, float] = defaultdict(float)

    def observe(seen: Observation) -> None:
        steps[seen.step.where] += seen.seconds

    try:
        sample = reading.sample
        done = execute(job.plan, sample, keep=layers_for(job.plan), observe=observe)
        facts = _facts(job, done)
        tables = encode(job.plan, done)
        files = write_image_outputs(job.plan, done, job.folder, job.scratch)
    except CellkitError as error:
        return Outcome(replace(record, reason=str(error), seconds=reading.seconds + perf_counter() - started))
    except MemoryError:
        return Outcome(replace(record, reason="does not fit in memory; fewer --workers may help"))
    seconds = reading.seconds + perf_counter() - started
    record = replace(record, status="done", seconds=seconds, facts=facts, files=files, tables=tables)
    return Outcome(record, step_seconds=dict(steps))


def _facts(job: _Job, sample: Sample) -> dict[str, Any]:
    height, width = sample.shape
    return {
        "objects": counts(job.plan, sample),
        "height": height,
        "width": width,
        "pixel_size": sample.pixel_size,
        "missing": sample.missing,
        "notes": list(sample.notes),
        "fields": dict(sample.fields),
    }


def _forget_stale(folder: Path, before: Record | None, now: Record) -> None:
    """Remove what an earlier recipe wrote for this image and this one did not write again."""
    for name in set(before.files if before is not None else ()) - set(now.files):
        _unlink(folder / name)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: cannot be removed: {error.strerror}") from error
