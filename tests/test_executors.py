"""One protocol for threads, processes and Dask: results with their items, errors in their place, work done again."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from cellkit.core import StageError, UsageError
from cellkit.engine.executors import Lost, Workplace, worker_name


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
