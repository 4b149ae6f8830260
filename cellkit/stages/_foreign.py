"""Networks of other packages: importing them when a step first needs one, and keeping what they loaded.

Such a package is no requirement of cellkit. It loads its own weights by its own means; cellkit never unpickles.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import Fault, StageError, UsageError

__all__ = ["Package", "consecutive", "reason", "refuse_not_finite", "stamp"]

_MOST_LOADED = 4


class Package:
    """Another package whose networks are run as a stage: how it is installed, and what of it is loaded.

    `name` is what it is called, `modules` are those it needs, its own first, and `install` is what pip is told.
    `noisy` names the packages whose warnings and logged warnings are not for a user of cellkit; errors always are.

    Its networks are used by one thread at a time: none of these packages says that its own are safe to share.
    """

    def __init__(self, name: str, modules: tuple[str, ...], install: str, noisy: tuple[str, ...] = ()) -> None:
        self.name = name
        self.modules = modules
        self.install = install
        self.noisy = (*modules, *noisy)
        self._lock = threading.RLock()
        self._loaded: OrderedDict[Hashable, Any] = OrderedDict()

    def missing(self) -> list[str]:
        """Return the modules that are not installed. Imports nothing."""
        return [module for module in self.modules if importlib.util.find_spec(module) is None]

    def review(self) -> Iterator[Fault]:
        """Yield a warning where the package is not installed: the recipe is right, but cannot run here."""
        missing = self.missing()
        if missing:
            yield Fault("", f"{' and '.join(missing)} {_is(missing)} not installed", self.install, stops=True)

    def module(self, name: str) -> Any:
        """Return the imported module `name` of the package.

        Raises `UsageError` where the package is not installed or cannot be imported.
        """
        missing = self.missing()
        if missing:
            raise UsageError(f"{' and '.join(missing)} {_is(missing)} not installed: {self.install}")
        with self._lock:
            self._quieten()
            shown = warnings.formatwarning
            try:
                return importlib.import_module(name)
            except ImportError as error:
                raise UsageError(
                    f"{self.name} is installed but cannot be imported: {error}; {self.install} --force-reinstall"
                ) from error
            finally:
                warnings.formatwarning = shown  # StarDist puts its own in place for the whole process

    @contextmanager
    def network(self, key: Hashable, load: Callable[[], Any]) -> Iterator[Any]:
        """Give what `load` returned for `key`, loaded at most once, to one thread at a time."""
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = load()
            self._loaded.move_to_end(key)
            while len(self._loaded) > _MOST_LOADED:
                self._loaded.popitem(last=False)
            yield self._loaded[key]

    def forget(self) -> None:
        """Drop every network that is loaded."""
        with self._lock:
            self._loaded.clear()

    def _quieten(self) -> None:
        """Keep the package's warnings off the terminal.

        By module and for good: `warnings.catch_warnings` is for a whole process, and other stages may be at work in it.
        """
        # Put in place again each time, as whoever has reset the filters since may have dropped them; none is doubled.
        packages = "|".join(self.noisy)
        warnings.filterwarnings("ignore", module=rf"({packages})(\.|$)")
        for category in (FutureWarning, DeprecationWarning):  # about how these packages call torch
            warnings.filterwarnings("ignore", category=category, module=r"torch(\.|$)")
        for name in self.noisy:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:  # else somebody has said what they want to see
                logger.setLevel(logging.ERROR)


def stamp(path: Path) -> Hashable:
    """Return a key for a file or folder of weights that changes when it is written anew."""
    files = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
    return (str(path), *((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


def reason(error: Exception) -> str:
    """Return the first sentence of what another package says went wrong: advice to load unsafely may follow it."""
    return " ".join(str(error).split()).partition(". ")[0][:300] or type(error).__name__


def refuse_not_finite(stage: str, image: np.ndarray) -> None:
    """Raise `StageError` where a value is NaN or infinite: it would spoil the normalisation of the whole image."""
    bad = image.size - int(np.count_nonzero(np.isfinite(image)))
    if bad:
        raise StageError(
            f"{stage}: wanted finite values, {bad} of {image.size} are NaN or infinite; mend the file or crop the part"
        )


def consecutive(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return labels of any integer type as int32 (y, x), numbered from 1 without gaps in the order they had."""
    from cellkit.stages._labels import renumber

    labels = np.ascontiguousarray(labels, np.int32).reshape(shape)
    return renumber(labels, int(labels.max(initial=0)))


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
