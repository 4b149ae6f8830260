"""Networks as predictors: architectures, cards, weights, and prediction over tiles of any image.

torch is imported by what builds or runs a network, never by what lists or describes one.
"""

from cellkit.models.architecture import ArchitectureSpec, architecture, architectures, build
from cellkit.models.card import HEADS, Card

__all__ = ["HEADS", "ArchitectureSpec", "Card", "architecture", "architectures", "build"]
