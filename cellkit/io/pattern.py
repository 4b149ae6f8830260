"""File name templates such as ``{plate}_{well}_s{site}_w{channel}``: data, not regular expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from cellkit.core.errors import UsageError

__all__ = ["Template", "compiled"]

_FIELD = re.compile(r"\{([^{}]*)\}|(\*)")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([1-9][0-9]?))?")


@dataclass(frozen=True)
class _Part:
    """A piece of a template: literal `text`, a field `name`, or neither, which is a wildcard; `width` 0 is any."""

    text: str = ""
    name: str = ""
    width: int = 0


@dataclass(frozen=True)
class Template:
    """A pattern in its parts. `depth` is how many folders it speaks of besides the file name."""

    text: str
    parts: tuple[_Part, ...]

    @property
    def depth(self) -> int:
        """Number of folders in front of the file name that the template describes."""
        return self.text.count("/")

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, in order."""
        return tuple(part.name for part in self.parts if part.name)

    def match(self, text: str) -> tuple[dict[str, str], str] | None:
        """Return the fields that `text` holds and the text without channel and wildcards, or None.

        The whole text must fit. Where it can be read in several ways, earlier fields take as much as they can. Time is
        bounded by parts x length squared: no name can make it hang.
        """
        pieces = self._pieces(text)
        if pieces is None:
            return None
        fields = {part.name: piece for part, piece in zip(self.parts, pieces, strict=True) if part.name}
        return fields, _common(self.parts, pieces)

    def _pieces(self, text: str) -> list[str] | None:
        failed: set[tuple[int, int]] = set()

        def rest(number: int, at: int) -> list[str] | None:
            if number == len(self.parts):
                return [] if at == len(text) else None
            if (number, at) in failed:
                return None
            for end in self._ends(self.parts[number], text, at):
                found = rest(number + 1, end)
                if found is not None:
                    return [text[at:end], *found]
            failed.add((number, at))
            return None

        return rest(0, 0)

    @staticmethod
    def _ends(part: _Part, text: str, at: int) -> Sequence[int]:
        """Return where `part` may end if it begins at `at`, the longest first."""
        if part.text:
            end = at + len(part.text)
            return (end,) if text[at:end].casefold() == part.text.casefold() else ()
        slash = text.find("/", at)
        most = len(text) if slash < 0 else slash
        if part.width:
            return (at + part.width,) if at + part.width <= most else ()
        return range(most, at if part.name else at - 1, -1)


@lru_cache(maxsize=64)
def compiled(pattern: str) -> Template:
    """Parse a pattern. ``{name}`` is a field, ``{name:2}`` one of two characters, ``*`` anything; ``/`` parts folders.

    Raises `UsageError` with what is wrong.
    """
    parts: list[_Part] = []
    at = 0
    for found in _FIELD.finditer(pattern):
        parts += _literal(pattern, pattern[at : found.start()])
        at = found.end()
        if found[2]:
            parts.append(_Part())
            continue
        name = _NAME.fullmatch(found[1])
        if not name:
            raise UsageError(
                f"pattern {pattern!r}: {found[0]!r} is no field (write {{well}}, or {{channel:1}} for one character)"
            )
        parts.append(_Part(name=name[1], width=int(name[2] or 0)))
    parts += _literal(pattern, pattern[at:])
    template = Template(pattern, tuple(parts))
    if not template.names:
        raise UsageError(f"pattern {pattern!r}: has no field (write, for example, {{plate}}_{{well}}_w{{channel}})")
    for field in template.names:
        if template.names.count(field) > 1:
            raise UsageError(f"pattern {pattern!r}: {{{field}}} occurs twice")
    for left, right in pairwise(parts):
        if not (left.text or right.text or left.width or right.width):
            raise UsageError(
                f"pattern {pattern!r}: nothing tells {left.name or '*'} from {right.name or '*'} behind it "
                "(put the text between them, or a width: {channel:1})"
            )
    return template


def _literal(pattern: str, text: str) -> list[_Part]:
    if "{" in text or "}" in text:
        raise UsageError(f"pattern {pattern!r}: a brace is left open")
    return [_Part(text.replace("\\", "/"))] if text else []


def _common(parts: Sequence[_Part], pieces: Sequence[str]) -> str:
    """Return what the names of all channels of a field share: no channel, no wildcard, none of the ``_w`` before it."""
    kept: list[str] = []
    for part, piece in zip(parts, pieces, strict=True):
        if part.name == "channel" and kept:
            kept[-1] = re.sub(r"[-_. ]*[A-Za-z]*$", "", kept[-1]) if kept[-1] else ""
        kept.append(piece if part.text or (part.name and part.name != "channel") else "")
    return "".join(kept).rpartition("/")[2].strip("-_. ")
