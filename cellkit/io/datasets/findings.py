"""What an audit can find."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHECKS", "Finding"]

CHECKS: dict[str, str] = {
    "missing": "an image without truth, or truth without image",
    "unreadable": "an image or its truth is damaged",
    "size": "truth and image differ in size",
    "leak": "an image and its near copy are in different parts of the split",
    "cut group": "images of one group are in different parts of the split",
    "near copy": "an image and its near copy (the same field again) are not in one group",
    "other truth": "an image and its near copy have different truth",
    "noise": "an image shows nothing above its noise",
    "empty": "an image without objects",
    "invalid box": "a box without extent or outside its image",
    "unknown class": "a value or object of no known class",
    "empty mask": "a mask without pixels",
    "duplicate": "two objects in one place",
    "overlap": "two objects share pixels, or two boxes nearly all of their area",
    "fragmented": "an object in several pieces",
    "one pixel": "an object of one pixel",
    "tiny": "an object of a few pixels",
}
"""Every check by name, the graver first."""


@dataclass(frozen=True)
class Finding:
    """One fault: which check, of which image and object (an id, a file, a box), and what is the matter.

    `other` is the second image or object where two are concerned.
    """

    check: str
    image: str
    message: str
    object: str = ""
    other: str = ""

    def __str__(self) -> str:
        where = f"{self.image}, object {self.object}" if self.object else self.image
        return f"{self.check}: {where}: {self.message}"
