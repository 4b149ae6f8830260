"""Find the images that files, folders and globs stand for, name them, and group their channel files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellkit.core.errors import UsageError
from cellkit.core.recipe import ReadOptions
from cellkit.io import magic
from cellkit.io.naming import Named, natural, safe, split, unique
from cellkit.io.pattern import Template, compiled

__all__ = ["Source", "find", "is_store", "safe_stem"]

_READ = (
    ".png .apng .jpg .jpeg .jpe .jfif .bmp .dib .gif .webp .npy "
    ".tif .tiff .btf .tf2 .tf8 .lsm .stk .svs .ndpi .scn .qptiff .dzi"
)
# Images that cannot be read: they stay in a folder's list and fail by name, so that none is lost without a word.
_UNREAD = ".czi .nd2 .lif .oib .oif .zvi .ims .vsi .mrxs .dcm .dv .jp2 .jxl .heic .avif"
# What tells a folder that is a Zarr array or group: version 3, then version 2.
_STORES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_IMAGES = frozenset(f"{_READ} {_UNREAD}".split())


@dataclass(frozen=True)
class Source:
    """One image to be: its unique output name, its file or one file a channel, and what the file name says.

    `channels` names the files of a group in their order. A `fault` is why it cannot be read; `read` raises it.
    """

    name: str
    paths: tuple[Path, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    fault: str = ""


def find(inputs: Sequence[str | Path], options: ReadOptions | None = None) -> list[Source]:
    """Return the images that `inputs` (files, folders, globs) stand for, in natural order, each once.

    A folder gives its images, not those of folders in it; hidden files and what is no image by name or content are
    passed over. A Zarr store is one image, not a folder, and what lies in it or in the tiles of a Deep Zoom picture is
    none of its own. A file given by name is always taken. Globs (``*``, ``?``, ``[abc]``, ``**`` for folders within
    folders) need no shell. Names follow from the files, not from the order of `inputs`.

    With `options.pattern`, `fields` hold what it reads from a file's name, and files that differ only in its
    ``{channel}`` become one source, its channels in the order of `options.channels` where those are the names, else in
    natural order. A file that does not fit the pattern, and a group that lacks a channel which others have, stay in
    the list with a `fault`.

    Raises `UsageError` where an input stands for nothing, none of the files exists, or the pattern is none.
    """
    options = options or ReadOptions()
    template = compiled(options.pattern) if options.pattern else None
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    files: dict[str, Path] = {}
    folders: dict[Path, str] = {}
    for given in inputs:
        for path in _expand(given):
            if path.parent not in folders:
                folders[path.parent] = os.path.realpath(path.parent)
            files.setdefault(os.path.normcase(os.path.join(folders[path.parent], path.name)), path)
    if not files:
        raise UsageError("no images are given (give files, folders or globs such as 'plate/*.tif')")
    if not any(os.path.lexists(path) for path in files.values()):
        names = ", ".join(map(str, list(files.values())[:5])) + (" ..." if len(files) > 5 else "")
        raise UsageError(f"{names}: no such file or folder")
    ordered = sorted(
        files.items(), key=lambda item: (natural(os.path.dirname(item[0])), natural(item[1].name), item[0])
    )
    whole = [(Path(key).parent, path) for key, path in ordered]
    if template is None:
        return _alone(whole)
    return _grouped(whole, template, options.channels)


def safe_stem(path: str | Path) -> str:
    """Return the output name of a single file."""
    return safe(split(Path(path))[0])


def is_store(path: str | Path) -> bool:
    """Tell whether a path is a Zarr store: a folder, but one image."""
    if not os.path.isdir(path):
        return False
    named = os.path.basename(os.path.normpath(path)).lower().endswith(".zarr")
    return named or any(os.path.isfile(os.path.join(path, name)) for name in _STORES)


def _expand(given: str | Path) -> list[Path]:
    path = Path(given)
    text = str(given)
    if not text:
        raise UsageError("an empty path is given")
    if text.startswith("~") and not os.path.lexists(path):
        path = path.expanduser()
        text = str(path)
    if path.is_dir():
        return [path] if is_store(path) else _images_of(path)
    if os.path.lexists(path) or not any(c in text for c in "*?["):
        return [path]  # a file that is missing is named when it is read, and does not stop the others
    parts = {_fixed(path): False}
    found = [match for match in map(Path, glob.glob(text, recursive=True)) if not _is_part(match.parent, parts)]
    images = list(_pick(match for match in found if not match.is_dir()))
    for folder in (match for match in found if match.is_dir()):
        if is_store(folder):
            images.append(folder)
        elif not _is_part(folder, parts):
            images += _images_of(folder, needed=False)
    if not images:
        what = f"matches {len(found)} files and folders, none of them an image" if found else "matches nothing"
        raise UsageError(f"{text}: {what} (looked in {Path.cwd()})" if not path.is_absolute() else f"{text}: {what}")
    return images


def _images_of(folder: Path, needed: bool = True) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            files, images = [], []
            for entry in entries:
                if not entry.is_dir():
                    files.append(Path(entry.path))
                elif not entry.name.startswith(".") and is_store(entry.path):
                    images.append(Path(entry.path))
    except OSError as error:
        raise UsageError(f"{folder}: the folder cannot be read: {error.strerror or error}") from error
    images += _pick(files)
    if needed and not images:
        rest = f"{len(files)} files of other kinds" if files else "no files"
        raise UsageError(
            f"{folder}: no images in this folder, {rest} (images in folders within it: '{folder / '**' / '*'}')"
        )
    return images


def _pick(files: Iterable[Path]) -> Iterator[Path]:
    """Yield the images among `files`: by suffix, or else by content."""
    for path in files:
        if not path.name.startswith(".") and (path.suffix.lower() in _IMAGES or _looks_like_image(path)):
            yield path


def _fixed(pattern: Path) -> Path:
    """Return the folder of a glob: all before the first part with a wildcard."""
    parts = []
    for part in pattern.parts:
        if any(c in part for c in "*?["):
            break
        parts.append(part)
    return Path(*parts)


def _is_part(folder: Path, known: dict[Path, bool]) -> bool:
    """Tell whether a folder is a part of one image, as all in a Zarr store and the tiles of a Deep Zoom picture are."""
    if folder not in known:
        tiles = folder.name.endswith("_files") and folder.with_name(folder.name[: -len("_files")] + ".dzi").is_file()
        above = folder.parent != folder and _is_part(folder.parent, known)
        known[folder] = tiles or above or is_store(folder)
    return known[folder]


def _looks_like_image(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return bool(magic.sniff(file.read(magic.HEAD)))
    except OSError:
        return False


def _alone(files: Sequence[tuple[Path, Path]]) -> list[Source]:
    names = unique([_named(folder, path) for folder, path in files])
    return [Source(name, (path,)) for name, (_, path) in zip(names, files, strict=True)]


def _named(folder: Path, path: Path, stem: str = "") -> Named:
    own, suffix = split(path)
    return Named(stem or own, folder.parts[1:], suffix.lstrip(".").replace(".", "_"))


@dataclass
class _Group:
    """Files that share everything but the channel."""

    folder: Path
    stem: str
    fields: dict[str, str]
    paths: list[Path] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    fault: str = ""


def _grouped(files: Sequence[tuple[Path, Path]], template: Template, wanted: Sequence[str]) -> list[Source]:
    groups: dict[object, _Group] = {}
    for folder, path in files:
        found = _match(template, folder, path)
        if found is None:
            fault = f"{path}: the name does not fit the pattern {template.text!r}"
            groups[path] = _Group(folder, split(path)[0], {}, [path], fault=fault)
            continue
        fields, stem = found
        channel = fields.pop("channel", None)
        if channel is None:
            groups[path] = _Group(folder, split(path)[0], fields, [path])
            continue
        above = folder.parts[: len(folder.parts) - template.depth]
        group = groups.setdefault((above, *fields.items()), _Group(folder, stem or "image", fields))
        group.paths.append(path)
        group.channels.append(channel)
    order = _channel_order(groups.values(), wanted)
    sources = []
    names = unique([_named(group.folder, group.paths[0], group.stem) for group in groups.values()])
    for name, group in zip(names, groups.values(), strict=True):
        fault = group.fault or _channel_fault(group, order)
        paths, channels = tuple(group.paths), tuple(group.channels)
        if channels:
            ranked = sorted(range(len(paths)), key=[order.index(channel) for channel in channels].__getitem__)
            paths, channels = tuple(paths[i] for i in ranked), tuple(channels[i] for i in ranked)
        sources.append(Source(name, paths, group.fields, channels, fault))
    return sources


def _match(template: Template, folder: Path, path: Path) -> tuple[dict[str, str], str] | None:
    parents = folder.parts[len(folder.parts) - template.depth :] if template.depth else ()
    stem = split(path)[0]
    for name in (stem, path.name):  # a pattern may end in the suffix
        found = template.match("/".join((*parents, name)))
        if found is not None:
            return found[0], split(Path(found[1]))[0] if name == path.name != stem else found[1]
    return None


def _channel_order(groups: Iterable[_Group], wanted: Sequence[str]) -> list[str]:
    """Return every channel there is; those that `options.channels` names in its order."""
    found = {channel for group in groups for channel in group.channels}
    if found and found <= set(wanted):
        return list(wanted)
    return sorted(found, key=natural)


def _channel_fault(group: _Group, order: Sequence[str]) -> str:
    if not group.channels:
        return ""
    missing = [channel for channel in order if channel not in group.channels]
    if missing:
        there = ", ".join(group.channels)
        return f"{group.paths[0]}: channel {', '.join(missing)} of this field is missing; there is {there}"
    for channel in order:
        if group.channels.count(channel) > 1:
            names = ", ".join(str(p) for c, p in zip(group.channels, group.paths, strict=True) if c == channel)
            return f"{names}: several files are channel {channel} of one field"
    return ""
