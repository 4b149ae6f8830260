"""OpenCV's own threads beside a pool of workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["single_threaded_opencv"]


@contextmanager
def single_threaded_opencv(workers: int) -> Iterator[None]:
    """Share the cores between `workers` and OpenCV's threads, which would only fight over them."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        cv2.setNumThreads(before)
