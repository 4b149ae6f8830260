"""How kernels are compiled: once, for declared types, and kept for the next run where there is a place to keep them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["kernel"]

_lock = threading.RLock()


def kernel(*signatures: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for `signatures`, to run without the interpreter's lock.

    The machine code is kept in the user's cache folder, or where the environment variable NUMBA_CACHE_DIR says. Where
    that cannot be written (a container without a home, a full disk) it is compiled anew in every run, and no failure.
    """
    import numba as nb  # only where a kernel is wanted: nothing else in core needs it

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        folder = _folder(nb.config.CACHE_DIR)
        if folder:
            try:
                with _lock:
                    before, nb.config.CACHE_DIR = nb.config.CACHE_DIR, folder
                    try:
                        return nb.njit(list(signatures), cache=True, nogil=True)(function)
                    finally:
                        nb.config.CACHE_DIR = before
            except (RuntimeError, OSError) as error:
                if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
                    raise
        return nb.njit(list(signatures), nogil=True)(function)

    return compiled


@lru_cache(maxsize=8)
def _folder(wanted: str) -> str:
    """Return the folder for machine code, or nothing where it cannot be written.

    Left to itself numba keeps its files beside the package, where they outlive an uninstall and hide the next install.
    """
    import platformdirs

    try:
        folder = Path(wanted) if wanted else platformdirs.user_cache_path("cellkit") / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder at all
        return ""
