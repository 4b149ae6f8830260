"""Draw the picture of docs/napari.md: the widget with a live preview on a synthetic field of nuclei.

Run: python examples/napari_picture.py napari.png
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication

from cellkit.io import fluorescence_field, write_image

viewer = napari.Viewer(show=False)
viewer.window._qt_window.resize(1180, 760)
with tempfile.TemporaryDirectory() as folder:
    picture, path = Path(sys.argv[1]).absolute(), Path("field.tif")
    os.chdir(folder)  # so that the command in the picture is short
    write_image(path, fluorescence_field(768, seed=1)[0], (0.5, 0.5))
    viewer.open(path)
    _, widget = viewer.window.add_plugin_dock_widget("cellkit", "Recipes")
    widget.panel.out.setText("out")
    widget.panel.out.setModified(True)
    viewer.screenshot(canvas_only=False, flash=False)
    widget.panel.preview.setChecked(True)
    widget.panel.form.fields["otsu", "scale"].setValue(1.1)
    end = time.monotonic() + 60
    while "objects in" not in widget.panel.status.text() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)
    viewer.screenshot(str(picture), canvas_only=False, flash=False)
    viewer.close()
    os.chdir(picture.parent)
Image.open(picture).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)
