"""Layers of the viewer: the preview, which is replaced by every newer one, and results, which stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cellkit.napari.preview import Seen
from cellkit.napari.results import Frame, LayerData, as_layers

__all__ = ["MARK", "PreviewLayers", "add"]

MARK = "cellkit preview"


def add(viewer: Any, made: Sequence[LayerData]) -> list[Any]:
    """Add layers to the viewer and return them."""
    from napari.layers import Layer

    layers = [Layer.create(*one) for one in made]
    for layer in layers:
        viewer.add_layer(layer)
    return layers


class PreviewLayers:
    """What a preview shows in the viewer."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.layers: list[Any] = []

    def show(self, name: str, seen: Seen, frame: Frame) -> None:
        """Show a preview in place of the last; which layer is active does not change."""
        made = as_layers(f"preview of {name}", seen.layer.kind.name, seen.layer.value, frame, seen.layer.names)
        self.layers = [layer for layer in self.layers if layer in self.viewer.layers]
        if [(layer.name, layer._type_string) for layer in self.layers] == [(one[1]["name"], one[2]) for one in made]:
            for layer, (data, settings, _) in zip(self.layers, made, strict=True):
                layer.data = data
                for key in ("scale", "translate", "rotate", "shear", "affine"):
                    if key in settings:
                        setattr(layer, key, settings[key])
            return
        active = self.viewer.layers.selection.active
        self.clear()
        for _, settings, _ in made:
            settings["metadata"] = {MARK: True}
        self.layers = add(self.viewer, made)
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection.active = active

    def clear(self) -> None:
        """Take the preview away."""
        layers, self.layers = self.layers, []
        for layer in layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
