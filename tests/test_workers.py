"""Runs whose workers are killed, stopped, sent away or left without a disk: nothing is lost, the bytes are equal."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cellkit.io import fluorescence_field, write

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from scale_kills import OUTPUTS, Outside, damaged, digest, end, killed_run, killing, started

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs the signals of POSIX")
BLOCKS = ("--blocks", 256)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[tuple, Path]:
    """A picture to do in blocks, and a folder of small ones, by the options for them."""
    folder = tmp_path_factory.mktemp("images")
    write(folder / "slide.png", fluorescence_field(700, 160, seed=3)[0])
    (folder / "pictures").mkdir()
    for seed in range(40):
        write(folder / "pictures" / f"{seed}.png", fluorescence_field(96, 6, seed=seed)[0])
    return {BLOCKS: folder / "slide.png", (): folder / "pictures"}


@pytest.fixture(scope="module")
def calm(images, cellkit, tmp_path_factory) -> dict[tuple, str]:
    """Digests of undisturbed runs."""
    found = {}
    for number, more in enumerate(images):
        out = tmp_path_factory.mktemp("calm") / str(number)
        cellkit(*command(images, more, out))
        found[more] = digest(out)
    return found


def command(images, more, out, *own) -> list[object]:
    return ["run", "nuclei-classical", images[more], "-o", out, "--outputs", OUTPUTS, *more, *own]


def work_files(out: Path) -> dict[Path, int]:
    """What blocks have left of their work, with the times of writing."""
    return {path: path.stat().st_mtime_ns for path in out.glob(".cellkit/blocks/*/*/*.npz")}


def launched(cellkit, arguments, **more) -> subprocess.Popen[str]:
    """Start the command as the head of a group of its own, as a shell does."""
    return subprocess.Popen(
        [str(cellkit.script), *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **more,
    )  # fmt: skip


def wait_until(true, process, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)


def test_workers_of_dask_are_killed_at_random_moments(images, calm, cellkit, tmp_path):
    pytest.importorskip("distributed")
    rng, kills = random.Random(5), []
    with Outside(2, tmp_path / "dask") as outside:
        for more in images:
            out = tmp_path / f"out{len(more)}"
            with killing(outside, rng, 3, (0.2, 1.6)) as moments:
                cellkit(*command(images, more, out, "--scheduler", outside.address))
            kills += moments
            assert digest(out) == calm[more]
        # Workers outlive runs: what they keep of one must not find its way into the next.
        again = tmp_path / f"out{len(BLOCKS)}"
        cellkit(*command(images, BLOCKS, again, "--scheduler", outside.address, "--fresh"))
        assert digest(again) == calm[BLOCKS]
    assert len(kills) >= 3


def test_a_run_is_killed_at_random_moments(images, calm, tmp_path, cellkit):
    rng, kills = random.Random(6), 0
    for more in images:
        out = tmp_path / f"out{len(more)}"
        for pool in ((), ("--pool", "processes", "--workers", 2)):
            kills += killed_run(command(images, more, out, *pool), out, rng.uniform(0, 0.6))
            assert damaged(out) == []
        cellkit(*command(images, more, out))
        assert digest(out) == calm[more]
    assert kills >= 2


@pytest.mark.parametrize("pool", [(), ("--pool", "processes"), ("--scheduler", "local")], ids=str)
def test_ctrl_c_ends_a_run_and_all_its_processes(pool, images, calm, cellkit, tmp_path):
    if "--scheduler" in pool:
        pytest.importorskip("distributed")
    out = tmp_path / "out"
    process = launched(cellkit, command(images, BLOCKS, out, *pool, "--workers", 2))
    wait_until(lambda: started(out), process)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert told.strip().splitlines()[-1] == "cellkit: stopped; the same command continues from here"
    assert "Traceback" not in told
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert damaged(out) == []
    cellkit(*command(images, BLOCKS, out))
    assert digest(out) == calm[BLOCKS]


def test_sigterm_ends_a_run_as_well_and_blocks_are_kept_under_a_relative_folder(images, calm, cellkit, tmp_path):
    out, before = tmp_path / "out", {}
    for wanted in (4, 12):
        process = launched(cellkit, command(images, BLOCKS, "out", "--workers", 1), cwd=tmp_path)
        wait_until(lambda wanted=wanted: len(work_files(out)) >= wanted, process)
        process.send_signal(signal.SIGTERM)
        assert "continues from here" in process.communicate(timeout=60)[1]
        assert process.returncode == 143
        now = work_files(out)
        assert before.items() <= now.items()
        before = now
    cellkit(*command(images, BLOCKS, "out"), cwd=tmp_path)
    assert digest(out) == calm[BLOCKS]


@pytest.mark.parametrize("more", [BLOCKS, ()], ids=str)
def test_a_disk_without_space_is_named_and_costs_nothing(more, images, calm, cellkit, tmp_path):
    import resource

    out = tmp_path / "out"
    for kilobytes in (300, 40):

        def bounded(kilobytes=kilobytes):  # no file may grow beyond this, which is what a process may do to itself
            resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, resource.RLIM_INFINITY))

        done = cellkit(*command(images, more, out), code=None, preexec_fn=bounded)
        if kilobytes == 40:
            assert done.returncode in (1, 2)
            assert "cannot be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert damaged(out) == []
    cellkit(*command(images, more, out))
    assert digest(out) == calm[more]


def test_no_workers_and_workers_that_come_late(images, calm, cellkit, tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    with Outside(0, tmp_path / "dask") as outside:
        work = command(images, (), out, "--scheduler", outside.address, "--worker-timeout", 1)
        done = cellkit(*work, code=2)
        assert "has had no worker for 1 s" in done.stderr
        assert "40 waiting" in cellkit("status", out, code=3).stdout
        process = launched(cellkit, [*work[:-1], 60])
        time.sleep(1)
        outside.workers.append(outside.worker(0))
        told = process.communicate(timeout=100)[1]
        assert process.returncode == 0, told
        assert digest(out) == calm[()]


def test_a_scheduler_that_goes_away_ends_the_run(images, calm, cellkit, tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    with Outside(1, tmp_path / "dask") as outside:
        process = launched(cellkit, command(images, BLOCKS, out, "--scheduler", outside.address))
        wait_until(lambda: started(out), process)
        end(outside.scheduler)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 2, told
    assert "is gone; start it again" in told.splitlines()[-1]
    assert "Traceback" not in told
    cellkit(*command(images, BLOCKS, out))
    assert digest(out) == calm[BLOCKS]


def test_workers_at_addresses_of_their_own(images, cellkit, tmp_path):
    pytest.importorskip("distributed")
    from namespaces import NotHere, compare

    try:
        one, two = compare(images[()], tmp_path, 1)
    except NotHere as error:
        pytest.skip(f"needs root and network namespaces: {error}")
    assert one == two
