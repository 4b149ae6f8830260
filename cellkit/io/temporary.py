"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from cellkit.core.errors import WriteError

__all__ = ["atomic", "exchange", "write_failure"]

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or write elsewhere"),
    errno.EACCES: ("no permission to write there", "choose a folder that is yours"),
    errno.EPERM: ("no permission to write there", "choose a folder that is yours"),
    errno.EROFS: ("the disk is read-only", "write elsewhere"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "shorten the file's or the folder's name"),
    errno.ENOENT: ("the folder does not exist", "make it first"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another name"),
    errno.EISDIR: ("there is a folder of that name", "choose another name"),
    errno.EXDEV: ("the scratch folder lies on another disk", "put it on the disk of the results"),
    getattr(errno, "EDQUOT", -1): ("the disk quota is used up", "free some space, or write elsewhere"),
}


@contextlib.contextmanager
def atomic(path: str | Path, scratch: str | Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; what is written there becomes `path` on success and is removed on failure.

    The temporary file lies in `scratch` (an existing folder on the same disk) or beside `path`, and has its suffix.
    Raises `WriteError` for every `OSError` inside, naming `path` and the reason.
    """
    path = Path(path)
    folder = path.parent if scratch is None else Path(scratch)
    # The suffix stays, as some writers go by it; the name does not, as a long one could get too long.
    temporary = folder / f".cellkit-{secrets.token_hex(8)}{path.suffix[:16]}"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_failure(path: str | Path, error: OSError) -> WriteError:
    """Return the `WriteError` that says why `path` could not be written, and what to do."""
    folder_in_the_way = error.errno in (errno.EACCES, errno.EPERM) and Path(path).is_dir()  # what Windows calls it
    code = errno.EISDIR if folder_in_the_way else error.errno
    reason, fix = _REASONS.get(code or 0, (error.strerror or str(error), ""))
    return WriteError(f"{path}: cannot be written: {reason}{f' ({fix})' if fix else ''}")


def exchange(new: Path, path: Path) -> None:
    """Give the folder `new` the name `path`; what has that name goes."""
    for name in os.listdir(path.parent):  # left by a call that was killed
        if name.startswith(f".{path.name}.") and name.endswith(".old"):
            shutil.rmtree(path.with_name(name), ignore_errors=True)
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    moved = os.path.lexists(path)
    if moved:
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if moved:
            os.rename(old, path)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    elif moved:
        old.unlink(missing_ok=True)
