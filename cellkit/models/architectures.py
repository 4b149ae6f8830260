"""The networks that cellkit builds by name. Each function imports torch itself, so that they can be listed without it."""

from __future__ import annotations

__all__: list[str] = []
