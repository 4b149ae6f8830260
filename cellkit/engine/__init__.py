"""Run recipes: `run` on one sample, `run_batch` on many images through a pool of workers."""

from __future__ import annotations

from cellkit.engine.batch import BatchResult, run_batch
from cellkit.engine.execute import run

__all__ = ["BatchResult", "run", "run_batch"]
