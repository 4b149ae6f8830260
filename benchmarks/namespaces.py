"""A run, a scheduler and workers on "machines" of their own: network namespaces with addresses of their own.

``python benchmarks/namespaces.py [--workers 2] [--side 1536]``

Joins namespaces by a bridge, starts Dask's scheduler in one, workers in others, and ``cellkit run --scheduler
tcp://10.77.0.1:8786`` in yet another; none of them can reach another but over its address. The outputs must have the
bytes of a run without Dask. Needs Linux, ``ip`` and root; says so where they are missing and ends with 3.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scale_kills import COMMAND, OUTPUTS, Outside, digest

_NET = "10.77.0"
_BRIDGE = f"cellkit-{os.getpid()}-hub"


class NotHere(Exception):
    """The machine does not allow namespaces."""


def ip(*words: str) -> None:
    """Call ``ip``."""
    try:
        done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    except OSError as error:
        raise NotHere(f"`ip` (of iproute2) cannot be run: {error}") from error
    if done.returncode:
        raise NotHere(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def machines(count: int) -> Iterator[list[list[str]]]:
    """Yield, for each of so many namespaces joined by a switch, the words to put before a command to run it there.

    Machine `i` has the address 10.77.0.(i + 1). The switch has a namespace of its own, so that this machine's network
    stays as it is.

    Raises `NotHere` where that is not allowed.
    """
    names = [f"cellkit-{os.getpid()}-{i}" for i in range(count)]
    made: list[str] = []
    try:
        for name in (_BRIDGE, *names):
            ip("netns", "add", name)
            made.append(name)
        ip("-n", _BRIDGE, "link", "add", "hub", "type", "bridge")
        ip("-n", _BRIDGE, "link", "set", "hub", "up")
        for i, name in enumerate(names):
            ip("-n", _BRIDGE, "link", "add", f"port{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", _BRIDGE, "link", "set", f"port{i}", "master", "hub", "up")
            ip("-n", name, "address", "add", f"{_NET}.{i + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def compare(image: Path, folder: Path, workers: int, *more: object) -> tuple[str, str]:
    """Run on `image` here and over namespaces; return the digests of both.

    Raises `NotHere` as `machines` does, `CalledProcessError` where a run fails.
    """

    def words(out: Path, *own: object) -> list[str]:
        given = ["run", "nuclei-classical", image, "-o", out, "--outputs", OUTPUTS, *more, *own]
        return [*COMMAND, *map(str, given)]

    one, two = folder / "here", folder / "there"
    with machines(workers + 2) as places, Outside(workers, folder / "dask", f"{_NET}.1", places[:-1]) as outside:
        run = [*places[-1], *words(two, "--scheduler", outside.address, "--worker-timeout", 60)]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        seen = " ".join(path.read_text(errors="replace") for path in (folder / "dask").glob("worker-*.log"))
        for number in range(workers):
            if f"{_NET}.{number + 2}:" not in seen:
                raise SystemExit(f"worker {number} did not work at its own address:\n{seen}")
    subprocess.run(words(one), check=True, stdout=subprocess.DEVNULL)
    return digest(one), digest(two)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", type=int, default=1536)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        from scale_image import make_image

        make_image(folder / "mosaic.tif", given.side)
        try:
            one, two = compare(folder / "mosaic.tif", folder, given.workers, "--blocks", 256)
        except NotHere as error:
            print(f"this machine does not allow network namespaces: {error}")
            sys.exit(3)
    print(f"a scheduler, {given.workers} workers and the run in {given.workers + 2} namespaces, {given.side:,} px")
    print(f"  without Dask {one[:12]}, over namespaces {two[:12]}: {'equal' if one == two else 'NOT EQUAL'}")
    sys.exit(one != two)


if __name__ == "__main__":
    main()
