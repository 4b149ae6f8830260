"""Trained networks by name: find them, list them. Nothing here needs torch; `cellkit.models.weights` does the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit.core import CellkitError, FormatError, UsageError
from cellkit.core.errors import suggest
from cellkit.models.architecture import architectures
from cellkit.models.card import Card, parse_card
from cellkit.models.onnx_header import card_of, sidecar
from cellkit.models.tensorfile import CARD_KEY, CARD_SHA_KEY, read_header, text_sha

__all__ = [
    "ENVIRONMENT",
    "Located",
    "find_model",
    "folders",
    "load_network",
    "models",
    "save_model",
]

ENVIRONMENT = "CELLKIT_MODELS"
"""The environment variable that names folders of models, separated as PATH is."""

CARD_FILE, WEIGHTS_FILE = "card.json", "weights.safetensors"
RUN_FILE = "model.safetensors"
"""What a training leaves in the folder of its run."""
_SUFFIXES = (".safetensors", ".onnx")


@dataclass(frozen=True)
class Located:
    """A model that was found: the name it was asked for by, its card, where it lies, and its weights where there are.

    `path` is the file of the model, or the folder that holds its card. `weights` is the file that holds the tensors
    or the ONNX graph, or None where only the card is there.
    """

    name: str
    card: Card
    path: Path
    weights: Path | None

    @property
    def is_onnx(self) -> bool:
        """True where the model is an ONNX file, run by onnxruntime in place of torch."""
        return self.weights is not None and self.weights.suffix.lower() == ".onnx"

    @property
    def remedy(self) -> str:
        """How to get the weights where they are missing: what the card says, else where they belong."""
        return self.card.obtain or f"its card does not say how to get them; put {WEIGHTS_FILE} into {self.path}"


def find_model(name: str) -> Located:
    """Return the model called `name`, or the one at the path `name`: a file, a folder, or a card.

    A folder holds a card, or is that of a training. Names are looked up in the folders that `folders` gives. The
    weights need not be there: see `Located`.

    Raises `UsageError` where there is no such model, with what was likely meant; `FormatError` for a file that holds
    no model, saying what it is.
    """
    if not name:
        raise UsageError("wanted the name of a model or a path, got an empty text")
    path = Path(name).expanduser()
    if _is_path(name):
        if not path.exists():
            raise UsageError(f"{name}: no such file or folder; `cellkit models` lists what has a name")
        return _open(None, path)
    for folder in folders():
        found = _in_folder(folder, name)
        if found is not None:
            return _open(name, found)
    if path.is_dir() and _holds_model(path):
        return _open(None, path)
    if name in architectures():
        raise UsageError(
            f"{name!r} is an architecture, not a trained model; `cellkit models` lists the trained ones, "
            f"`cellkit models new {name} -o FILE.safetensors` makes an untrained one to try a recipe with"
        )
    hint = suggest(name, _known()) or "`cellkit models` lists them all; a path needs a / or its suffix"
    raise UsageError(f"no model is called {name!r}; {hint}")


def models() -> dict[str, Located | CellkitError]:
    """Return every model in `folders` by name, sorted; in place of one that cannot be read, the error that says why."""
    found: dict[str, Located | CellkitError] = {}
    for name, path in _known().items():
        try:
            found[name] = _open(name, path)
        except CellkitError as error:
            found[name] = error
    return dict(sorted(found.items()))


def folders() -> tuple[Path, ...]:
    """Return the folders that names are looked up in, first come first: $CELLKIT_MODELS, the user's, the shipped."""
    from platformdirs import user_data_path

    given = [Path(part).expanduser() for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    return (*given, user_data_path("cellkit", appauthor=False) / "models", Path(__file__).parent.parent / "weights")


def load_network(located: Located) -> Any:
    """Return the network as a ``torch.nn.Module``: see `cellkit.models.weights.load_network`."""
    from cellkit.models import weights

    return weights.load_network(located)


def save_model(path: str | Path, network: Any, card: Card, *, golden: bool = True, dtype: str = "float32") -> Card:
    """Write a network with its card and return the card, completed: see `cellkit.models.weights.save_model`."""
    from cellkit.models import weights

    return weights.save_model(path, network, card, golden=golden, dtype=dtype)


def _is_path(name: str) -> bool:
    separators = {os.sep, os.altsep or os.sep, "/"}
    return (
        any(s in name for s in separators)
        or name.startswith((".", "~"))
        or name.lower().endswith((*_SUFFIXES, ".json"))
    )


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CARD_FILE, WEIGHTS_FILE, RUN_FILE))


def _in_folder(folder: Path, name: str) -> Path | None:
    if (folder / name).is_dir() and _holds_model(folder / name):
        return folder / name
    return next((path for s in _SUFFIXES if (path := folder / f"{name}{s}").is_file()), None)


def _known() -> Mapping[str, Path]:
    """Return what lies in the folders, by name; the first folder wins, as in `find_model`."""
    found: dict[str, Path] = {}
    for folder in folders():
        try:
            entries = sorted(folder.iterdir())
        except OSError:  # no such folder, or not to be read: nothing is there for us
            continue
        for entry in entries:
            name = entry.stem if entry.suffix in _SUFFIXES else entry.name
            path = _in_folder(folder, name) if name and not name.startswith(".") else None
            if path is not None:
                found.setdefault(name, path)
    return found


def _open(name: str | None, path: Path) -> Located:
    """Return the model at `path`, which exists."""
    if path.suffix.lower() == ".json":
        graph = path.with_suffix("")
        if sidecar(graph) == path and graph.suffix.lower() == ".onnx" and graph.is_file():
            return _open(name, graph)
        return _open_folder(name, path.parent, path)
    if path.is_dir():
        return _open_folder(name, path, path / CARD_FILE)
    card = card_of(path) if path.suffix.lower() == ".onnx" else _embedded_card(path)
    return Located(name or card.name, card, path, path)


def _open_folder(name: str | None, folder: Path, card_file: Path) -> Located:
    weights = folder / WEIGHTS_FILE
    if not card_file.is_file() and not weights.is_file() and (folder / RUN_FILE).is_file():
        return _open(name, folder / RUN_FILE)
    if card_file.is_file():
        card = parse_card(_text(card_file), str(card_file))
    elif weights.is_file():
        card = _embedded_card(weights)
    else:
        wanted = f"{CARD_FILE}, {WEIGHTS_FILE} or, of a training, {RUN_FILE}"
        raise UsageError(f"{folder}: no model: wanted {wanted} in the folder")
    return Located(name or card.name, card, folder, weights if weights.is_file() else None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: no card: it is no text in UTF-8") from error


def _embedded_card(path: Path) -> Card:
    """Return the card in the metadata of a safetensors file."""
    metadata = read_header(path).metadata
    if CARD_KEY not in metadata:
        raise FormatError(
            f"{path}: safetensors without a cellkit card, so nothing says what network these tensors belong to; load "
            "them into a network and save it with cellkit.models.save_model and a Card"
        )
    text = metadata[CARD_KEY]
    if metadata.get(CARD_SHA_KEY, text_sha(text)) != text_sha(text):
        raise FormatError(f"{path}: damaged: its card is not the one that was written (sha256 differs); fetch it again")
    return parse_card(text, str(path))
