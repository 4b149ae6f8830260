"""Run a recipe over many images: a pool of workers, prefetched reads, and a state that survives a kill."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psutil

from cellkit.core import registry
from cellkit.core.check import Plan, plan
from cellkit.core.errors import CellkitError, UsageError, WriteError
from cellkit.core.recipe import Recipe, dump
from cellkit.core.sample import Sample
from cellkit.engine.execute import Observation, execute, live
from cellkit.engine.executors import PATIENCE, Kind, Workplace
from cellkit.engine.footprint import Room
from cellkit.engine.manifest import Manifest, Record
from cellkit.engine.networks import Networks, divide_memory, open_networks
from cellkit.engine.opencv import single_threaded_opencv
from cellkit.engine.outputs import counts, encode, layers_for, makes_report, write_image_outputs
from cellkit.engine.reading import Reader, Reading, digest_files
from cellkit.engine.warm import warming

if TYPE_CHECKING:
    from cellkit.engine.blockwise.drive import Progress
    from cellkit.io import Source

__all__ = ["BatchResult", "Job", "Outcome", "Settings", "open_job", "run_batch", "worked"]

STATE_FOLDER = ".cellkit"


@dataclass(frozen=True)
class Settings:
    """How a batch is carried out, without a say in its results but for rounding.

    `workers`: images in work at once (None: all cores). `fresh`: start over. `device`: where networks run. `memory`:
    the bytes that this process should stay within (None: no bound). `compiled`: let torch compile networks. `level`,
    `mpp`: the resolution to read, see `cellkit.io.open_slide`. `pool`: where work is done, `scheduler` the address of
    Dask's, `patience` the seconds to wait for its workers, see `cellkit.engine.executors.Workplace`. `plugins`: files
    of one's own stages, for other processes. `blocks`: do every image in blocks of about so many pixels a side, whether
    it fits in memory or not. `tissue`: do every image in blocks and leave out those without tissue: ``auto``, or a mask
    image.
    """

    workers: int | None = None
    fresh: bool = False
    device: str = "auto"
    memory: int | None = None
    compiled: bool = False
    level: int | None = None
    mpp: float | None = None
    pool: Kind = "threads"
    scheduler: str = "local"
    plugins: tuple[str, ...] = ()
    blocks: int | None = None
    tissue: str = ""
    patience: float = PATIENCE


@dataclass(frozen=True)
class BatchResult:
    """How a batch ended: images done now, kept from an earlier run and failed; objects by layer; seconds by step.

    `step_memory`: the most bytes that a process held when a step ended, other images in work there included.
    `notes` says what a user should know of how networks ran.
    """

    folder: Path
    done: int = 0
    kept: int = 0
    failed: tuple[tuple[str, str, str], ...] = ()
    others: int = 0
    seconds: float = 0.0
    objects: dict[str, int] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)
    step_memory: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Number of images asked for."""
        return self.done + self.kept + len(self.failed)

    def _repr_html_(self) -> str:
        from cellkit.engine.notebook import batch_html

        return batch_html(self)


@dataclass(frozen=True)
class Outcome:
    """What became of one image; `kept` where an earlier run had done it already, `large` why it is left for blocks."""

    record: Record
    kept: bool = False
    large: str = ""
    step_seconds: dict[str, float] = field(default_factory=dict)
    step_memory: dict[str, int] = field(default_factory=dict)


def run_batch(
    recipe: Recipe,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    settings: Settings | None = None,
    on_start: Callable[[Sequence[Source]], None] | None = None,
    on_image: Callable[[Outcome], None] | None = None,
    on_block: Callable[[str, Progress], None] | None = None,
) -> BatchResult:
    """Run `recipe` on every image of `images` (files, folders, globs) and write its outputs to the folder `out`.

    An image that fails is recorded with its reason and stops nothing. One that does not fit in memory is done block by
    block, at the end. A run that was interrupted continues: images whose file, recipe and outputs are unchanged are
    kept as they are, and so are blocks.

    Raises `RecipeError`, `UsageError` and, for a damaged network, `FormatError` before anything is written;
    `WriteError` where the state or the tables of the run cannot be written, `Gone` where Dask's scheduler or all of its
    workers are.
    """
    from cellkit.engine.results import write_results
    from cellkit.io import find

    settings = settings or Settings()
    bound = plan(recipe)
    workers = settings.workers if settings.workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    sources = find(images, recipe.read_options)
    _refuse_stopped(bound)
    tissue = _digest_tissue(settings.tissue)
    networks = open_networks(bound, settings, len(sources))
    folder = _prepare(Path(out))
    started = perf_counter()
    job = open_job(bound, folder, _digest_recipe(bound, networks, tissue), networks, settings)
    with (
        closing(networks),
        Manifest(folder / STATE_FOLDER) as manifest,
        single_threaded_opencv(workers),
        warming(bound, workers),
    ):
        manifest.begin([source.name for source in sources], fresh=settings.fresh)
        _say_recipe(folder / STATE_FOLDER / "recipe.yaml", bound, manifest.scratch)
        if on_start is not None:
            on_start(sources)
        tally = _Tally()
        for outcome in _all_outcomes(job, sources, manifest, workers, settings, on_block):
            if not outcome.kept:
                _unlink(folder / "run.json")  # written last: where it is missing, a run has not ended
                _forget_stale(folder, manifest.get(outcome.record.name), outcome.record)
                manifest.put(outcome.record)
            tally.add(outcome)
            if on_image is not None:
                on_image(outcome)
        result = replace(tally.result(folder), others=manifest.others(), seconds=perf_counter() - started)
        result = replace(result, notes=networks.notes())
        write_results(
            bound, manifest, result, {"recipe": job.digest, "networks": networks.digests(), "device": networks.device}
        )
    if makes_report(bound):
        from cellkit.engine.report import write_report

        write_report(folder, workers=workers)
    return result


def _say_recipe(path: Path, bound: Plan, scratch: Path) -> None:
    """Write the recipe as it runs, for a look before the end."""
    from cellkit.io import atomic

    with atomic(path, scratch=scratch) as temporary:
        temporary.write_text(dump(bound.resolved()), encoding="utf-8")


def _most_of(room: int | None, settings: Settings) -> int:
    """Return the bytes that one image and its layers may take before it is done in blocks."""
    if settings.blocks is not None or settings.tissue:
        return 0
    return room if room is not None else psutil.virtual_memory().total // 2


def _refuse_stopped(bound: Plan) -> None:
    """Raise `UsageError` where a step that is needed cannot run on this machine: every image would fail alike."""
    needed = tuple(step.where for step in live(bound, layers_for(bound)))
    stopped = [fault for fault in bound.faults if fault.stops and fault.where.startswith(needed)]
    if stopped:
        raise UsageError("\n".join(map(str, stopped)))


@dataclass(frozen=True)
class Job:
    """What every image of a run needs."""

    plan: Plan
    folder: Path
    scratch: Path
    digest: str
    reader: Reader
    networks: Networks


def open_job(bound: Plan, folder: Path, digest: str, networks: Networks, settings: Settings) -> Job:
    """Return what the images of a run in `folder` need, in this process."""
    room = divide_memory(networks, settings)
    most = _most_of(room, settings)
    reader = Reader(bound, folder, digest, Room(room), most, settings.level, settings.mpp)
    return Job(bound, folder, folder / STATE_FOLDER / "tmp", digest, reader, networks)


class _Tally:
    def __init__(self) -> None:
        self.done = self.kept = 0
        self.failed: list[tuple[str, str, str]] = []
        self.objects: Counter[str] = Counter()
        self.steps: defaultdict[str, float] = defaultdict(float)
        self.memory: defaultdict[str, int] = defaultdict(int)

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
        for where, held in outcome.step_memory.items():
            self.memory[where] = max(self.memory[where], held)

    def result(self, folder: Path) -> BatchResult:
        failed = tuple(sorted(self.failed))
        return BatchResult(
            folder, self.done, self.kept, failed, objects=dict(self.objects), step_seconds=dict(self.steps),
            step_memory=dict(self.memory),
        )  # fmt: skip


def _prepare(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / STATE_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{out}: cannot be used as the output folder: {reason}") from error
    return out


def _digest_tissue(tissue: str) -> list[str]:
    """Return what stands for the tissue mask in a digest. Raises `UsageError` where there is none."""
    if tissue in ("", "auto"):
        return [tissue] if tissue else []
    try:
        return [digest_files([Path(tissue)])]
    except OSError as error:
        raise UsageError(
            f"--tissue {tissue}: cannot be read: {error.strerror or error}; wanted auto, or a mask image (0: no tissue)"
        ) from error


def _digest_recipe(bound: Plan, networks: Networks, tissue: Sequence[str]) -> str:
    """Digest all that decides the results besides the image: steps with every default, plug-ins, networks, version."""
    from cellkit import __version__

    recipe = bound.resolved()
    # A page of the run is made anew at its end, whatever was kept.
    outputs = tuple(name for name in recipe.outputs if name != "report" or name in bound.layers)
    text = dump(replace(recipe, name="recipe", description="", outputs=outputs))
    loaded = [networks.identity()] if networks.used else []
    return _sha256([text, repr(sorted(registry.plugin_digests().items())), __version__, *loaded, *tissue])


def _sha256(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _all_outcomes(
    job: Job,
    sources: Sequence[Source],
    manifest: Manifest,
    workers: int,
    settings: Settings,
    on_block: Callable[[str, Progress], None] | None,
) -> Iterator[Outcome]:
    """Yield outcomes as they come, those of images that are done block by block at the end."""
    large: list[tuple[Source, Outcome]] = []
    by_name = {source.name: source for source in sources}
    with Workplace(settings.pool, settings.workers, settings.scheduler, settings.patience) as place:
        if settings.pool == "threads":
            outcomes = _outcomes(job, sources, manifest, workers)
        else:
            from cellkit.engine.remote import outcomes_elsewhere

            outcomes = outcomes_elsewhere(job, sources, manifest, settings, place)
        for outcome in outcomes:
            if outcome.large:
                large.append((by_name[outcome.record.name], outcome))
            else:
                yield outcome
        if large:
            from cellkit.engine.blockwise.batch import block_outcomes

            yield from block_outcomes(job, large, manifest, (settings, place), on_block)


def _outcomes(job: Job, sources: Sequence[Source], manifest: Manifest, workers: int) -> Iterator[Outcome]:
    """Yield outcomes as they come. Reads run ahead of the work by a bounded number of images and of bytes."""
    readers = ThreadPoolExecutor(max(1, workers // 4), "read")
    pool = ThreadPoolExecutor(workers, "work")
    waiting = deque(sources)
    pending: set[Future[Outcome]] = set()
    try:
        while waiting or pending:
            while waiting and len(pending) < 2 * workers + 2:
                source = waiting.popleft()
                reading = readers.submit(job.reader.read, source, manifest.get(source.name))
                pending.add(pool.submit(_work, job, source, reading))
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        job.reader.ahead.stop()
        job.reader.room.close()
        for executor in (readers, pool):
            executor.shutdown(wait=False, cancel_futures=True)
        for executor in (readers, pool):
            executor.shutdown(wait=True)


def _work(job: Job, source: Source, reading_future: Future[Reading]) -> Outcome:
    reading = job.reader.ahead.take(reading_future)
    try:
        return worked(job, source, reading)
    finally:
        job.reader.room.leave(reading.room)


def worked(job: Job, source: Source, reading: Reading) -> Outcome:
    """Carry out the recipe on one image that was read, and write what it makes."""
    text = str(source.paths[0]) if len(source.paths) == 1 else " + ".join(map(str, source.paths))
    if reading.kept is not None:
        return Outcome(replace(reading.kept, source=text), kept=True)
    record = Record(source.name, text, job.digest, reading.digest, seconds=reading.seconds, reason=reading.reason)
    record = replace(record, facts={"fields": dict(source.fields)})
    if reading.large:
        return Outcome(replace(record, reason=reading.large), large=reading.large)
    if reading.sample is None:
        return Outcome(record)
    started = perf_counter()
    steps: defaultdict[str, float] = defaultdict(float)
    memory: defaultdict[str, int] = defaultdict(int)
    process = psutil.Process()

    def observe(seen: Observation) -> None:
        steps[seen.step.where] += seen.seconds
        memory[seen.step.where] = max(memory[seen.step.where], process.memory_info().rss)

    try:
        sample = reading.sample
        done = execute(job.plan, sample, layers_for(job.plan), observe, job.networks)
        facts = _facts(job, done)
        tables = encode(job.plan, done)
        files = write_image_outputs(job.plan, done, job.folder, job.scratch)
    except CellkitError as error:
        return Outcome(replace(record, reason=str(error), seconds=reading.seconds + perf_counter() - started))
    except MemoryError:
        return Outcome(replace(record, reason="does not fit in memory; fewer --workers may help"))
    seconds = reading.seconds + perf_counter() - started
    record = replace(record, status="done", seconds=seconds, facts=facts, files=files, tables=tables)
    return Outcome(record, step_seconds=dict(steps), step_memory=dict(memory))


def _facts(job: Job, sample: Sample) -> dict[str, Any]:
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
        if path.is_dir():
            shutil.rmtree(path)
            return
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: cannot be removed: {error.strerror}") from error
