"""The widget: pick a recipe, edit it with a live preview, run it, save corrected labels as truth."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QCloseEvent, QGuiApplication
from qtpy.QtWidgets import QFileDialog, QMessageBox, QVBoxLayout, QWidget

from cellkit.core.errors import CellkitError
from cellkit.core.recipe import shipped
from cellkit.grid.cover import Window
from cellkit.napari.drawing import MARK, PreviewLayers, add
from cellkit.napari.editing import Editing, open_recipe, quoted
from cellkit.napari.panel import Panel
from cellkit.napari.pixels import ArrayPixels, save_image
from cellkit.napari.preview import Preview, Seen, viewable
from cellkit.napari.running import run_target
from cellkit.napari.target import Target, plane_of, target_of, visible
from cellkit.napari.truth import TruthExists, save_truth
from cellkit.napari.workers import Latest

__all__ = ["RecipeWidget"]

_WAIT = 250
"""Milliseconds of rest after which a preview begins."""
_MOST = 2**22
"""Pixels that a preview shows at most."""
_RECIPES = "Recipes (*.yaml *.yml)"


class RecipeWidget(QWidget):
    """Edits a recipe and shows what it makes of what the canvas shows. `editing` is the recipe, None without one."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = Panel(self)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.panel)
        self.editing: Editing | None = None
        self.target: Target | None = None
        self._known: tuple[Any, ...] = ()
        self._preview: Preview | None = None
        self._layers = PreviewLayers(napari_viewer)
        self._looking, self._running = Latest(self), Latest(self)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_WAIT)
        self._watched: Any = None
        self._sources = list(shipped())
        self.panel.recipe.addItems(self._sources)
        self._connect()
        self._refresh_layers()
        self.choose("nuclei-classical" if "nuclei-classical" in self._sources else self._sources[0])

    def _connect(self) -> None:
        panel = self.panel
        panel.recipe.activated.connect(lambda index: self.choose(self._sources[index]))
        panel.open_recipe.clicked.connect(self._ask_recipe)
        panel.save_recipe.clicked.connect(self._ask_save_recipe)
        panel.reset.clicked.connect(self._reset)
        panel.form.changed.connect(self.change)
        panel.form.wrong.connect(self._say_wrong)
        panel.image.currentIndexChanged.connect(self._refresh)
        panel.layer.currentIndexChanged.connect(self._refresh)
        panel.preview.toggled.connect(self._refresh)
        panel.out.textChanged.connect(self._show_command)
        panel.choose_out.clicked.connect(self._ask_out)
        panel.copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(panel.command.toPlainText()))
        panel.run.clicked.connect(self.run)
        panel.save_image.clicked.connect(self._ask_save_image)
        panel.save_truth.clicked.connect(self._ask_truth)
        self._rest.timeout.connect(self._look)
        self._looking.done.connect(self._show_seen)
        self._looking.failed.connect(self._say_wrong)
        self._looking.told.connect(self._say)
        self._running.done.connect(self._show_run)
        self._running.failed.connect(self._run_failed)
        self._running.told.connect(self._say)
        for emitter, act in self._heard():
            emitter.connect(act)

    def _heard(self) -> list[tuple[Any, Any]]:
        """Return the events of the viewer that are listened to, and what each sets off."""
        viewer = self.viewer
        layers = viewer.layers.events
        heard = [(event, self._refresh_layers) for event in (layers.inserted, layers.removed, layers.reordered)]
        heard += [(viewer.camera.events, self._moved), (viewer.dims.events.current_step, self._refresh)]
        canvas = getattr(viewer, "canvas", None)
        return heard if canvas is None else [*heard, (canvas.events.size, self._moved)]

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 - Qt's name
        """Let go of the viewer."""
        self._rest.stop()
        self._looking.cancel()
        self._running.cancel()
        for emitter, act in self._heard():
            emitter.disconnect(act)
        self._watch(None)
        self._layers.clear()
        super().closeEvent(event)

    # The recipe

    def choose(self, source: str) -> None:
        """Open a shipped recipe by name, or a file."""
        try:
            self.editing = open_recipe(source)
        except CellkitError as error:
            self._say_wrong(str(error))
            return
        if source not in self._sources:
            self._sources.append(source)
            self.panel.recipe.addItem(Path(source).name)
        self.panel.recipe.setCurrentIndex(self._sources.index(source))
        about = self.editing.original.description
        self.panel.about.setText(about)
        self.panel.about.setVisible(bool(about))
        self._show_form()

    def change(self, label: str, name: str, value: Any) -> None:
        """Set a parameter of a step."""
        if self.editing is None:
            return
        try:
            self.editing = self.editing.set(label, name, value)
        except CellkitError as error:
            self._say_wrong(str(error))
            return
        self.panel.form.mark(self.editing.rows)
        self._refresh()

    def _reset(self) -> None:
        if self.editing is not None:
            self.editing = self.editing.reset()
            self._show_form()

    def _show_form(self) -> None:
        assert self.editing is not None
        self.panel.form.show_rows(self.editing.rows)
        self.panel.layer.blockSignals(True)
        self.panel.layer.clear()
        self.panel.layer.addItems(viewable(self.editing.bound))
        self.panel.layer.blockSignals(False)
        self._refresh()

    # The image

    def layer(self, combo: Any) -> Any:
        """Return the layer that a combo box names, or None."""
        name = combo.currentText()
        return next((layer for layer in self.viewer.layers if layer.name == name), None)

    def _refresh_layers(self, *_: object) -> None:
        """Offer the layers that there are."""
        for combo, kind in ((self.panel.image, "image"), (self.panel.labels, "labels")):
            names = [
                layer.name for layer in self.viewer.layers if layer._type_string == kind and MARK not in layer.metadata
            ]
            before = combo.currentText()
            combo.blockSignals(True)
            combo.clear()
            combo.addItems(names)
            combo.setCurrentIndex(
                names.index(before) if before in names else (0 if kind == "image" else len(names) - 1)
            )
            combo.blockSignals(False)
        self._refresh()

    def _refresh(self, *_: object) -> None:
        """Find the image anew, say what is wrong, show the command, and let a preview begin."""
        if self.editing is None:
            return
        self._say_wrong("\n".join(map(str, self.editing.faults)))
        self._find_target()
        self._watch(self.layer(self.panel.image))
        self._show_command()
        able = self.target is not None and not self.editing.faults
        self.panel.run.setEnabled(able and not self._running.busy)
        self.panel.save_image.setEnabled(self.target is not None and not self.target.path)
        self.panel.save_truth.setEnabled(self.layer(self.panel.labels) is not None and self.target is not None)
        if able and self.panel.preview.isChecked():
            self._rest.start()
            return
        self._rest.stop()
        self._looking.cancel()
        if not self.panel.preview.isChecked():
            self._layers.clear()
            self._say("")

    def _find_target(self, *, again: bool = False) -> None:
        assert self.editing is not None
        layer = self.layer(self.panel.image)
        if layer is None:
            self.target, self._known, self._preview = None, (), None
            self._note("Add an image to the viewer." if self.panel.image.count() == 0 else "")
            return
        step = tuple(self.viewer.dims.current_step)
        place = step[: -(2 + bool(getattr(layer, "rgb", False)))] if layer.ndim > 2 else ()
        known = (layer, self.editing.recipe.read_options, place, id(layer.data), str(layer.metadata.get("cellkit")))
        if known == self._known and not again:
            return
        self._known, self._preview = known, None
        try:
            self.target = target_of(layer, self.editing.recipe.read_options, step)
        except CellkitError as error:
            self.target = None
            self._note(str(error))
            return
        self._preview = Preview(self.target.pixels)
        self._note(self.target.note)
        if self.target.path and not self.panel.out.isModified():
            self.panel.out.setText(str(Path(self.target.path).parent / "cellkit-out"))
            self.panel.out.setCursorPosition(0)

    def _watch(self, layer: Any) -> None:
        """Hear of changes to the pixels and the place of the image."""
        if layer is self._watched:
            return
        for one, act in ((self._watched, "disconnect"), (layer, "connect")):
            if one is not None:
                for event in ("data", "scale", "translate"):
                    getattr(getattr(one.events, event), act)(self._changed_layer)
        self._watched = layer

    def _changed_layer(self, *_: object) -> None:
        self._known = ()
        self._refresh()

    def _moved(self, *_: object) -> None:
        if self.panel.preview.isChecked() and self.target is not None and self.editing and not self.editing.faults:
            self._rest.start()

    # The preview

    def _look(self) -> None:
        if self.editing is None or self.target is None or self._preview is None:
            return
        layer, target, preview, bound = self.layer(self.panel.image), self.target, self._preview, self.editing.bound
        name = self.panel.layer.currentText()
        try:
            window, all_of_it = visible(self.viewer, layer, target, _MOST)
        except CellkitError as error:
            self._say(str(error))
            return
        if name not in bound.layers:
            return

        def work(stop: Any, tell: Any) -> tuple[str, Seen, Target, bool, float]:
            started = perf_counter()
            seen = preview.look(bound, name, window, stop, tell)
            return name, seen, target, all_of_it, perf_counter() - started

        self._looking.ask(work)

    def _show_seen(self, found: tuple[str, Seen, Target, bool, float]) -> None:
        name, seen, target, all_of_it, seconds = found
        if not self.panel.preview.isChecked() or target is not self.target:
            return
        self._say_wrong("")
        self._layers.show(name, seen, target.lies(seen.window))
        said = [_counted(seen, name), f"{seconds:.2f} s"]
        if not all_of_it:
            said.append("only the middle of the view: zoom in for all of it")
        self._say("; ".join([*said, *seen.notes]))

    # Runs

    def run(self) -> None:
        """Run the recipe on the whole image and add what it makes."""
        if self.editing is None or self.target is None or self.editing.faults or self._running.busy:
            return
        editing, target, out = self.editing, self.target, self.panel.out.text()
        self.panel.run.setEnabled(False)
        self._say_wrong("")
        self._running.ask(lambda stop, tell: run_target(editing, target, out, tell))  # noqa: ARG005 - runs go on

    def _show_run(self, made: Any) -> None:
        self.panel.preview.setChecked(False)
        layers = add(self.viewer, made)
        self._refresh()
        self._say(f"added: {', '.join(layer.name for layer in layers)}")

    def _run_failed(self, text: str) -> None:
        self._refresh()
        self._say("")
        self._say_wrong(text)

    def _show_command(self, *_: object) -> None:
        if self.editing is None:
            return
        image = self.target.path if self.target is not None else ""
        name = self.target.name if self.target is not None else "image"
        words = self.editing.command(image or f"{name}.tif", self.panel.out.text() or "out")
        self.panel.command.setPlainText(quoted(words))
        says = "" if image else f"{name}.tif is not there yet: the image lies in memory. `Save image…` writes it."
        self.panel.command.setToolTip(says)

    # Files

    def _ask_recipe(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a recipe", "", _RECIPES)
        if path:
            self.choose(path)

    def _ask_save_recipe(self) -> None:
        if self.editing is None:
            return
        path, _ = QFileDialog.getSaveFileName(self, "Save the recipe", f"{self.editing.recipe.name}.yaml", _RECIPES)
        if path:
            try:
                self.editing.save(path)
            except CellkitError as error:
                self._say_wrong(str(error))
                return
            self.choose(path)

    def _ask_out(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder for the results", self.panel.out.text())
        if path:
            self.panel.out.setText(path)
            self.panel.out.setModified(True)

    def _ask_save_image(self) -> None:
        if self.target is None:
            return
        path, _ = QFileDialog.getSaveFileName(self, "Save the image", f"{self.target.name}.tif", "TIFF (*.tif)")
        if path:
            self.save_image(path)

    def save_image(self, path: str) -> None:
        """Write the image to a file and take it from there from now on; a plane of a stack becomes a layer."""
        layer, target = self.layer(self.panel.image), self.target
        if target is None or not isinstance(target.pixels, ArrayPixels):
            return
        try:
            save_image(path, target.pixels)
        except CellkitError as error:
            self._say_wrong(str(error))
            return
        source = {"cellkit": {"name": target.name, "source": str(Path(path).absolute())}}
        if layer.ndim > 2:
            plane, _ = plane_of(layer, self.viewer.dims.current_step)
            made = (plane, {"name": Path(path).stem, "metadata": source, **target.frame.settings}, "image")
            (layer,) = add(self.viewer, [made])
            self.panel.image.setCurrentText(layer.name)
        else:
            layer.metadata = {**layer.metadata, **source}
        self._refresh()

    def _ask_truth(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of the data set")
        if not folder:
            return
        try:
            self.save_truth(folder)
        except TruthExists as error:
            question = f"{error}. Replace it?"
            if QMessageBox.question(self, "Save as truth", question) == QMessageBox.StandardButton.Yes:
                self.save_truth(folder, replace=True)

    def save_truth(self, folder: str, *, replace: bool = False) -> None:
        """Write the chosen labels as truth. Raises `TruthExists` where there is some and not `replace`."""
        labels = self.layer(self.panel.labels)
        if labels is None or self.target is None:
            return
        try:
            plane, _ = plane_of(labels, self.viewer.dims.current_step)
            path = save_truth(folder, plane, self.target, replace=replace)
        except TruthExists:
            raise
        except CellkitError as error:
            self._say_wrong(str(error))
            return
        self._say(f"saved {path}; score a run by it: cellkit eval {folder} OUT --as instances")

    # What is said

    def _note(self, text: str) -> None:
        self.panel.note.setText(text)
        self.panel.note.setVisible(bool(text))

    def _say(self, text: str) -> None:
        self.panel.status.setText(text)
        self.panel.status.setVisible(bool(text))

    def _say_wrong(self, text: str) -> None:
        self.panel.wrong.setText(text)
        self.panel.wrong.setVisible(bool(text))


def _counted(seen: Seen, name: str) -> str:
    window: Window = seen.window
    size = f"{window.shape[0]} x {window.shape[1]} px"
    if seen.layer.kind.name != "labels":
        return f"{name} of {size}"
    count = int(seen.layer.value.max(initial=0))
    return f"{count:,} object{'s' if count != 1 else ''} in {size}"
