"""Kernels compile where nothing can be kept, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import numpy as np
import numba.core.caching as caching

class Nowhere:
    @classmethod
    def from_function(cls, function, path):
        return None

caching.CacheImpl._locator_classes = [Nowhere]
import cellkit as ck
mask = np.zeros((9, 9), bool)
mask[2:7, 2:7] = True
assert ck.stages.distance(mask).max() == 3
print("ok")
"""


def test_no_place_for_a_cache_is_no_failure():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path):
    """A file where the cache folder should be."""
    blocked = tmp_path / "cache"
    blocked.write_text("no folder")
    code = "import cellkit as ck, numpy as np; print(ck.stages.distance(np.eye(3, dtype=bool)).max())"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked / "inside")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "1.0", done.stderr


def test_nothing_is_kept_beside_the_package(tmp_path):
    """What is kept there would outlive an uninstall, and hide the next install behind a folder of that name."""
    code = "import cellkit as ck, numpy as np; ck.stages.distance(np.eye(3, dtype=bool)); "
    code += "from cellkit.stages._distance import distance; print(distance.stats.cache_path)"
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE")}
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | home
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    kept = Path(done.stdout.strip())
    assert tmp_path in kept.parents
    assert list(kept.glob("*.nbi"))


def test_every_kernel_goes_through_the_one_way():
    for path in (Path(__file__).resolve().parent.parent / "cellkit").rglob("*.py"):
        if path.name != "compile.py":
            assert "cache=True" not in path.read_text(encoding="utf-8"), path


def test_a_second_process_compiles_from_the_last_step_backwards(tmp_path):
    code = "from cellkit.engine.warm import main; main()"
    recipe = "steps: [grayscale, threshold, components, no_such_stage, measure]\noutputs: [labels]"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], input=recipe, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    kept = {path.name.partition(".")[0] for path in tmp_path.rglob("*.nbi")}
    assert "pieces" in kept
    assert "_moments" not in kept, "nothing that is written needs the table"
