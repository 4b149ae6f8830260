"""Pictures and pages of what was done."""

from cellkit.report.display import display
from cellkit.report.overlay import overlay
from cellkit.report.panels import show

__all__ = ["display", "overlay", "show"]
