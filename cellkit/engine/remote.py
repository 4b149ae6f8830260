"""Images of a batch in other processes, on this machine or by Dask: a few at a time, by the functions of this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellkit.core.check import plan
from cellkit.core.recipe import dump, load
from cellkit.engine.batch import Job, Outcome, Settings, open_job, worked
from cellkit.engine.executors import Kept, Workplace, ready_worker, worker_name
from cellkit.engine.manifest import Manifest, Record
from cellkit.engine.networks import networks_for

if TYPE_CHECKING:
    from cellkit.io import Source

__all__ = ["outcomes_elsewhere"]

_AT_ONCE = 8
"""Images that a worker is given together, at most."""
_ERRANDS = 8
"""Errands of every worker at least, where there are images enough, so that none waits long for the last one."""


@dataclass(frozen=True)
class Errand:
    """Some images and what to do with them, in words that any process understands; `before`: what is known of them."""

    recipe: str
    folder: str
    digest: str
    settings: Settings
    sources: tuple[Source, ...]
    before: tuple[Record | None, ...]


def outcomes_elsewhere(
    job: Job, sources: Sequence[Source], manifest: Manifest, settings: Settings, place: Workplace
) -> Iterator[Outcome]:
    """Yield outcomes as they come from the workers of `place`."""
    recipe, folder = dump(job.plan.resolved()), str(job.folder.absolute())
    at_once = max(1, min(_AT_ONCE, len(sources) // (_ERRANDS * (place.workers or 1))))

    def errands() -> Iterator[Errand]:
        for first in range(0, len(sources), at_once):
            some = tuple(sources[first : first + at_once])
            yield Errand(recipe, folder, job.digest, settings, some, tuple(manifest.get(s.name) for s in some))

    for errand, found in place.map(run_errand, errands()):
        if isinstance(found, list):
            yield from found
            continue
        for source in errand.sources:
            record = Record(source.name, str(source.paths[0]), job.digest, reason=f"{type(found).__name__}: {found}")
            yield Outcome(replace(record, facts={"fields": dict(source.fields)}))


def run_errand(errand: Errand) -> list[Outcome]:
    """Do the images of an errand, one after another."""
    # A worker of Dask outlives runs: the next may read at another resolution, or write other outputs.
    job = _jobs.get((errand.recipe, errand.digest, errand.folder, errand.settings), lambda: _opened(errand))
    found = []
    for source, before in zip(errand.sources, errand.before, strict=True):
        reading = job.reader.read(source, before)
        job.reader.ahead.put(-reading.size)  # nobody reads ahead here
        try:
            outcome = worked(job, source, reading)
        finally:
            job.reader.room.leave(reading.room)
        facts = {**outcome.record.facts, "worker": worker_name()}
        found.append(outcome if outcome.kept else replace(outcome, record=replace(outcome.record, facts=facts)))
    return found


_jobs: Kept[Job] = Kept(1)


def _opened(errand: Errand) -> Job:
    settings = errand.settings
    ready_worker(settings.plugins)
    bound = plan(load(errand.recipe))
    networks = networks_for(bound, settings.device, settings.compiled, alone=False)
    return open_job(bound, Path(errand.folder), errand.digest, networks, settings)
