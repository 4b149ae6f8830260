"""The stages known by name: built in, from installed plug-ins, and from files given with ``--with``.

Nothing is imported until a name is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from cellkit.core.errors import UsageError, suggest
from cellkit.core.stage import StageSpec, spec_of

__all__ = ["ENTRY_POINT_GROUP", "add", "builtin", "get", "load_file", "plugin_digests", "stages"]

ENTRY_POINT_GROUP = "cellkit.stages"

_builtin: list[str] = []
_specs: dict[str, StageSpec] = {}
_digests: dict[str, str] = {}
_lock = threading.RLock()
_discovered = False


def builtin(*modules: str) -> None:
    """Name modules whose stages belong to cellkit itself; they are imported when the registry is first asked."""
    _builtin.extend(m for m in modules if m not in _builtin)


def add(spec: StageSpec) -> None:
    """Register one stage. Raises `UsageError` where another module already holds the name."""
    known = _specs.get(spec.name)
    if known is not None and known.origin != spec.origin:
        raise UsageError(
            f"stage {spec.name!r} of {spec.origin} is already defined by {known.origin}; rename one of the two"
        )
    _specs[spec.name] = spec


def stages() -> dict[str, StageSpec]:
    """Return every known stage and bracket by name, sorted."""
    _discover()
    return dict(sorted(_specs.items()))


def get(name: str) -> StageSpec:
    """Return the stage called `name`. Raises `UsageError`, with a suggestion, where there is none."""
    _discover()
    try:
        return _specs[name]
    except KeyError:
        hint = suggest(name, _specs) or "`cellkit stages` lists them all"
        raise UsageError(f"no stage is called {name!r}; {hint}") from None


def load_file(path: str | Path) -> list[str]:
    """Import a Python file of one's own stages; return their names.

    Raises `UsageError` where the file cannot be read, fails on import, or defines no stage.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise UsageError(f"--with {path}: no such file")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--with {path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(source).hexdigest()
    name = f"cellkit_with_{path.stem}_{digest[:12]}"
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:
            # Not by an import loader: its cache takes a file rewritten within a second for the one before.
            exec(compile(source, str(path), "exec"), module.__dict__)
        except Exception as error:  # whatever a user's own file raises
            del sys.modules[name]
            raise UsageError(f"--with {path}: {type(error).__name__} on import: {error}") from error
    _discover()
    names = _register(module)
    if not names:
        raise UsageError(f"--with {path}: defines no stage; put @cellkit.stage() above a function")
    _digests[path.name] = digest
    return names


def plugin_digests() -> dict[str, str]:
    """Return the sha256 of every file loaded with `load_file`, by file name."""
    return dict(_digests)


def _own(module: ModuleType) -> Iterator[StageSpec]:
    for value in vars(module).values():
        spec = spec_of(value) if callable(value) else None
        if spec is not None and spec.origin == module.__name__:
            yield spec


def _register(module: ModuleType) -> list[str]:
    specs = list(_own(module))
    for spec in specs:
        add(spec)
    return [spec.name for spec in specs]


def _submodules(package: ModuleType) -> Iterable[str]:
    folder = Path(package.__file__ or "").parent
    if Path(package.__file__ or "").name != "__init__.py":
        return []
    return sorted(f"{package.__name__}.{p.stem}" for p in folder.glob("*.py") if not p.stem.startswith("_"))


def _discover() -> None:
    global _discovered
    with _lock:
        if _discovered:
            return
        _discovered = True  # at once: a module that is imported here may itself ask for a stage
        try:
            _import_builtin()
            _import_plugins()
        except BaseException:
            _discovered = False
            raise


def _import_builtin() -> None:
    for name in _builtin:
        package = importlib.import_module(name)
        for module in [name, *_submodules(package)]:
            _register(importlib.import_module(module))


def _import_plugins() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = point.load()
        except Exception as error:  # a broken plug-in must be named, not guessed at
            raise UsageError(f"plug-in {point.name!r} ({point.value}) cannot be imported: {error}") from error
        spec = spec_of(loaded) if callable(loaded) else None
        if isinstance(loaded, ModuleType):
            _register(loaded)
        elif spec is not None:
            add(spec)
