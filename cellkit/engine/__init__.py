"""Run recipes: `run` on one sample, `run_batch` on many images through a pool of workers."""

from __future__ import annotations

from cellkit.engine.batch import BatchResult, Settings, run_batch
from cellkit.engine.execute import run

__all__ = ["BatchResult", "Settings", "run", "run_batch"]
