"""Where the real data lie, and how a test runs the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run, so that a change fails where it is wrong and nowhere else; to look for new ones:
# HYPOTHESIS_PROFILE=explore pytest
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data sets; skips where they are missing."""
    folder = Path(os.environ.get("CELLKIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data: no folder {folder} (set CELLKIT_DATA)")
    return folder


@pytest.fixture
def one_thread():
    """Let torch compute on one thread: small networks are no quicker on more, and results hang on nothing else."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cellkit():
    """Run the installed `cellkit` in a subprocess; returns the finished process with its output as text."""
    script = Path(sys.executable).with_name("cellkit.exe" if os.name == "nt" else "cellkit")
    if not script.exists():
        pytest.skip("needs the installed `cellkit` command: pip install -e .")

    def run(*arguments: object, code: int | None = 0, **more) -> subprocess.CompletedProcess[str]:
        command = [str(script), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False, **more
        )
        if code is not None:
            assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    run.script = script
    return run
