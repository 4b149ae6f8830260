"""How kernels are compiled: once, for declared types, and kept for the next run where there is a place to keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["kernel"]


def kernel(*signatures: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for `signatures`, to run without the interpreter's lock.

    The machine code is kept beside the file or in the user's cache folder. Where neither can be written (a read-only
    container without a home, a full disk) it is compiled anew in every run instead of failing.
    """
    import numba as nb  # only where a kernel is wanted: nothing else in core needs it

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return nb.njit(list(signatures), cache=True, nogil=True)(function)
        except (RuntimeError, OSError) as error:
            if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
                raise
            return nb.njit(list(signatures), nogil=True)(function)

    return compiled
