"""One protocol for threads, processes and Dask: results with their items, errors in their place, work done again."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from cellkit.core import Recipe, StageError, UsageError
from cellkit.core.check import plan
from cellkit.core.recipe import dump
from cellkit.engine.batch import Settings, run_batch
from cellkit.engine.executors import Lost, Workplace, worker_name
from cellkit.engine.remote import Errand
from cellkit.io import find, fluorescence_field, write


def square(number: int) -> int:
    if number == 7:
        raise StageError("seven")
    return number * number


def dies(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies_once(path: str) -> str:
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return worker_name()


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_every_item_comes_with_its_result_or_its_error(kind):
    with Workplace(kind, 2) as place:
        found = dict(place.map(square, range(10)))
    assert isinstance(found[7], StageError)
    assert {n: v for n, v in found.items() if n != 7} == {n: n * n for n in range(10) if n != 7}


def test_items_are_taken_no_faster_than_they_are_done():
    taken = []
    begin = threading.Event()

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    def slow(number: int) -> int:
        begin.wait(5)
        return number

    with Workplace("threads", 2) as place:
        results = place.map(slow, items())
        threading.Timer(0.2, begin.set).start()
        next(results)
        assert len(taken) <= 5
        assert len(list(results)) == 99


def test_work_that_kills_its_worker_is_given_up_and_the_rest_is_done():
    with Workplace("processes", 1) as place:
        found = dict(place.map(dies, range(6)))
    assert isinstance(found[2], Lost)
    assert "3 times" in str(found[2])
    assert [found[n] for n in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    with Workplace("processes", 1) as place:
        ((_, name),) = place.map(dies_once, [str(tmp_path / "died")])
    assert isinstance(name, str)
    assert not name.startswith(f"{os.getpid()}/")


def test_a_closed_workplace_takes_no_work():
    place = Workplace("threads", 1)
    with pytest.raises(UsageError, match="closed"):
        next(iter(place.map(square, [1])))


def test_an_interruption_ends_the_wait():
    def stop(_: int) -> int:
        raise KeyboardInterrupt

    started = time.monotonic()
    with Workplace("threads", 1) as place, pytest.raises(KeyboardInterrupt):
        list(place.map(stop, range(5)))
    assert time.monotonic() - started < 30


def loads(errand):
    """Do an errand, and count how often this process has loaded a network so far."""
    from cellkit.engine.remote import run_errand
    from cellkit.models import runtime

    if not hasattr(runtime, "counted"):
        runtime.counted, load = [], runtime._load
        runtime._load = lambda *given: runtime.counted.append(1) or load(*given)
    (outcome,) = run_errand(errand)
    return outcome.record.status, len(runtime.counted), outcome.record.facts["worker"]


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_a_worker_loads_a_network_once_and_not_for_every_piece_of_work(kind, tmp_path):
    if kind == "dask":
        pytest.importorskip("distributed")
    for number in range(5):
        write(tmp_path / f"{number}.png", fluorescence_field(64, 3, seed=number)[0])
    (tmp_path / "out" / ".cellkit" / "tmp").mkdir(parents=True)
    recipe = dump(plan(Recipe.read("nuclei")).resolved())
    sources = find([tmp_path])
    errands = [Errand(recipe, str(tmp_path / "out"), "digest", Settings(device="cpu"), (s,), (None,)) for s in sources]
    with Workplace(kind, 1) as place:
        found = [told for _, told in place.map(loads, errands)]
    assert {status for status, _, _ in found} == {"done"}, found
    assert len({worker for _, _, worker in found}) == 1
    assert [count for _, count, _ in found] == [1] * 5


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_run_does_not_get_ahead_of_what_takes_its_results(kind, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(60):
        write(tmp_path / "images" / f"{number:02}.png", fluorescence_field(64, 3, seed=number)[0])
    taken, most, out = [], 0, tmp_path / "out"

    def slow(outcome):
        nonlocal most
        taken.append(outcome.record.name)
        time.sleep(0.05)
        most = max(most, len(list((out / "labels").glob("*.tif"))) - len(taken))

    recipe = replace(Recipe.read("nuclei-classical"), outputs=("labels",))
    run_batch(recipe, [tmp_path / "images"], out, settings=Settings(workers=1, pool=kind), on_image=slow)
    assert len(taken) == 60
    # Two pieces of work for the worker and what it makes ready meanwhile; a piece is up to 7 images for a process.
    assert most <= (4 if kind == "threads" else 21)
