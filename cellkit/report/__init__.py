"""Pictures and pages of what was done."""

from cellkit.report.display import display
from cellkit.report.overlay import overlay

__all__ = ["display", "overlay"]
