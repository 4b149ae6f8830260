"""The napari plug-in: previews equal runs, results open as layers, corrected labels are truth. Without a screen."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import cellkit as ck
from cellkit.core import UsageError
from cellkit.core.check import plan
from cellkit.core.recipe import ReadOptions, load
from cellkit.grid.cover import Window
from cellkit.io import fluorescence_field, read_labels, write_image
from cellkit.napari import preview as previews
from cellkit.napari.editing import open_recipe, parsed, quoted, written
from cellkit.napari.pixels import ArrayPixels, FilePixels, save_image
from cellkit.napari.preview import Preview, Stopped
from cellkit.napari.results import RunFolder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of napari's own imports
    try:
        import dask.array
        import napari  # noqa: F401
        import npe2
        from napari.components import ViewerModel
        from napari.layers import Layer
        from qtpy.QtWidgets import QApplication
    except ImportError as error:
        pytest.skip(f"needs napari and a Qt: pip install 'cellkit[napari]' ({error})", allow_module_level=True)

from cellkit.napari.drawing import add
from cellkit.napari.reader import get_reader
from cellkit.napari.target import target_of, visible
from cellkit.napari.truth import TruthExists, save_truth
from cellkit.napari.widget import RecipeWidget

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of napari and Qt are not ours to mend

VIEW = Window(60, 75, 190, 230)
OTSU = "cellkit: 1\nname: t\nsteps: [grayscale, {gaussian: {sigma: 1}}, otsu, components, measure]\n"


@pytest.fixture(scope="module")
def field(tmp_path_factory) -> Path:
    """A picture whose right half is brighter, so that Otsu's threshold of a part is not that of the whole."""
    image = fluorescence_field(320, seed=3)[0].astype(np.float32) / 255
    image[:, 200:] = 0.3 + 0.7 * image[:, 200:]
    path = tmp_path_factory.mktemp("field") / "cells.tif"
    write_image(path, (image * 255).astype(np.uint8), (0.5, 0.5))
    return path


@pytest.fixture(scope="module")
def run(field, cellkit) -> Path:
    """A run of the command line on it."""
    cellkit("run", "nuclei-classical", field, "-o", field.parent / "out", "--outputs", "labels,mask,table")
    return field.parent / "out"


def equal_but_for_numbers(some: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([some.ravel().astype(np.int64), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize("settings", [[], ["otsu.scale=1.2", "maxima.h=2.5"]])
def test_a_preview_equals_the_command_line(field, tmp_path, cellkit, settings):
    words = [word for setting in settings for word in ("--set", setting)]
    cellkit("run", "nuclei-classical", field, "-o", tmp_path, *words)
    editing = open_recipe("nuclei-classical")
    for setting in settings:
        target, _, text = setting.partition("=")
        editing = editing.set(*target.split("."), parsed(text))
    assert editing.command(str(field), str(tmp_path)) == [
        "cellkit", "run", "nuclei-classical", str(field), "-o", str(tmp_path), *words
    ]  # fmt: skip
    whole = read_labels(tmp_path / "labels" / "cells.tif")
    seen = Preview(FilePixels(field, ReadOptions())).look(editing.bound, "labels", VIEW)
    assert seen.layer.value.max() > 5
    assert equal_but_for_numbers(seen.layer.value, whole[VIEW.slices])


def test_otsu_is_that_of_the_whole_image_measured_once(field):
    bound, sample = plan(load(OTSU)), ck.read(field)
    preview = Preview(FilePixels(field, ReadOptions()))
    mask = preview.look(bound, "mask", VIEW).layer.value
    assert np.array_equal(mask, ck.run(bound, sample)["mask"][VIEW.slices])
    gray = ck.run(bound, sample)["image"][VIEW.slices]
    assert not np.array_equal(mask, ck.stages.otsu(gray, ck.stages.histogram(gray)))
    measured = set(preview.histograms)
    preview.look(plan(load(OTSU.replace("otsu,", "{otsu: {scale: 1.1}},"))), "mask", VIEW)
    assert set(preview.histograms) == measured
    preview.look(plan(load(OTSU.replace("sigma: 1", "sigma: 2"))), "mask", VIEW)
    assert len(preview.histograms) == len(measured) + 1


def test_a_large_image_is_measured_in_blocks(field, monkeypatch):
    bound = plan(load(OTSU))
    monkeypatch.setattr(previews, "_WHOLE", 1000)
    monkeypatch.setattr(previews, "_BLOCK", 100)
    told: list[str] = []
    seen = Preview(FilePixels(field, ReadOptions())).look(bound, "mask", VIEW, tell=told.append)
    assert np.array_equal(seen.layer.value, ck.run(bound, ck.read(field))["mask"][VIEW.slices])
    assert len(told) == 16


def test_a_preview_stops_when_told(field):
    with pytest.raises(Stopped):
        Preview(FilePixels(field, ReadOptions())).look(plan(load(OTSU)), "labels", VIEW, stop=lambda: True)


def test_only_the_region_of_a_lazy_array_is_read():
    read: list[tuple[slice, ...]] = []

    class Counted:
        shape, dtype, ndim = (4096, 4096), np.dtype(np.uint8), 2

        def __getitem__(self, at):
            read.append(at)
            return np.zeros(tuple(one.stop - one.start for one in at), np.uint8)

    bound = plan(load("cellkit: 1\nname: t\nsteps: [{gaussian: {sigma: 2}}, {threshold: {value: 0.5}}, components]\n"))
    Preview(ArrayPixels(Counted(), ReadOptions())).look(bound, "labels", Window(1000, 1000, 1200, 1200))
    assert [one.stop - one.start < 400 for at in read for one in at] == [True, True]


def test_arrays_are_read_as_files_of_them(tmp_path):
    rng = np.random.default_rng(0)
    floats = rng.random((40, 50)).astype(np.float32)
    floats[3, 4] = np.nan
    arrays = [
        rng.integers(0, 255, (40, 50), np.uint8), rng.integers(0, 60000, (40, 50), np.uint16), floats,
        rng.integers(0, 2, (40, 50)).astype(bool), rng.integers(0, 2**31, (40, 50), np.int32),
        rng.integers(0, 255, (40, 50, 3), np.uint8), rng.random((40, 50, 2)),
    ]  # fmt: skip
    part = Window(2, 3, 30, 40)
    for number, array in enumerate(arrays):
        pixels = ArrayPixels(array, ReadOptions(), pixel_size=(0.5, 0.5))
        save_image(tmp_path / f"{number}.tif", pixels)
        sample = ck.read(tmp_path / f"{number}.tif")
        np.testing.assert_allclose(pixels.read(part)["raw"], sample["raw"][part.slices], atol=1e-7)
        assert sample.pixel_size == (0.5, 0.5)


def test_parameters_come_from_signatures_and_are_refused_by_them():
    editing = open_recipe("nuclei-classical")
    assert editing.set("otsu", "scale", 1.1).set("otsu", "scale", 0.9).settings() == []
    for label, name, value in (("otsu", "scale", 99), ("otsu", "nothing", 1), ("nobody", "scale", 1)):
        with pytest.raises(UsageError, match=label):
            editing.set(label, name, value)
    for value in (1e-5, None, True, "a: b", "1", (1, 2), 3):
        again = parsed(written(value))
        assert (tuple(again) if isinstance(again, list) else again) == value
    assert "'a b.png'" in quoted(editing.command("a b.png", "out")) or os.name == "nt"


def test_faults_and_steps_out_of_reach_are_words(tmp_path):
    (tmp_path / "bad.yaml").write_text("steps: [grayscale, otzu, {gaussian: {sigma: -1}}]\n")
    said = "\n".join(map(str, open_recipe(tmp_path / "bad.yaml").faults))
    assert "did you mean 'otsu'" in said
    assert "-1 is outside" in said or "-1.0 is outside" in said
    (tmp_path / "two.yaml").write_text("steps: [grayscale, gaussian, gaussian, otsu, components]\n")
    editing = open_recipe(tmp_path / "two.yaml")
    assert [bool(row.locked) for row in editing.rows] == [False, True, True, False, False]
    (tmp_path / "net.yaml").write_text("steps: [grayscale, {predict: {model: nobody}}, otsu, components]\n")
    assert "nobody" in "\n".join(map(str, open_recipe(tmp_path / "net.yaml").faults))


def test_results_open_as_layers(run, field):
    layers = [Layer.create(*one) for one in get_reader(str(run))(str(run))]
    assert [(layer._type_string, layer.name) for layer in layers] == [
        ("image", "cells"), ("labels", "cells mask"), ("labels", "cells labels")
    ]  # fmt: skip
    labels = layers[-1]
    table = ck.run(plan(ck.Recipe.read("nuclei-classical")), ck.read(field))["table"]
    assert list(labels.features["index"]) == [0, *table["label"]]
    assert list(labels.features["area"])[1:] == list(table["area"])
    assert tuple(labels.scale) == (0.5, 0.5)
    one = get_reader(str(run / "labels" / "cells.tif"))(str(run / "labels" / "cells.tif"))
    assert [kind for _, _, kind in one] == ["image", "labels"]
    assert get_reader(str(field)) is None


def test_results_without_image_or_table_and_pyramids(field, tmp_path, cellkit):
    copy = tmp_path / "gone.tif"
    copy.write_bytes(field.read_bytes())
    out = tmp_path / "out"
    cellkit("run", "nuclei-classical", copy, "-o", out, "--outputs", "labels", "--blocks", "128")
    copy.unlink()
    ((data, settings, kind),) = RunFolder(out).layers("gone")
    assert kind == "labels"
    assert "features" not in settings
    assert isinstance(data, dask.array.Array)


def test_truth_scores_perfectly_against_itself(run, field, tmp_path, cellkit):
    viewer = ViewerModel()
    image, _, labels = add(viewer, get_reader(str(run))(str(run)))
    painted = labels.data.copy()
    painted[10:20, 10:20] = painted.max() + 1
    target = target_of(image, ReadOptions())
    path = save_truth(tmp_path / "truth", painted, target)
    assert path == tmp_path / "truth" / "labels" / "cells.tif"
    assert (tmp_path / "truth" / "images" / "cells.tif").read_bytes() == field.read_bytes()
    assert np.array_equal(read_labels(path), painted)
    with pytest.raises(TruthExists):
        save_truth(tmp_path / "truth", painted, target)
    said = cellkit("eval", tmp_path / "truth", tmp_path / "truth", "--as", "dsb2018").stdout
    assert "1.000" in said
    cellkit("audit", tmp_path / "truth", code=None)
    from cellkit.io.datasets import open_dataset

    (pair,) = open_dataset(tmp_path / "truth")
    assert np.array_equal(pair.labels(), painted)
    with pytest.raises(UsageError, match="320 x 320"):
        save_truth(tmp_path / "other", painted[:50], target)


def test_the_visible_region_and_planes_of_stacks():
    viewer = ViewerModel()
    layer = viewer.add_image(np.random.default_rng(0).random((4, 300, 400)).astype(np.float32))
    viewer.dims.set_current_step(0, 2)
    target = target_of(layer, ReadOptions(), viewer.dims.current_step)
    assert "plane 3 of 4" in target.note
    assert np.array_equal(target.pixels.array, layer.data[2])
    viewer.camera.center, viewer.camera.zoom = (0, 100, 200), 8.0
    window, whole = visible(viewer, layer, target, 2**22)
    assert whole
    assert abs(window.shape[0] - 800 / 8) <= 2
    assert abs((window.left + window.right) / 2 - 200) <= 2
    small, whole = visible(viewer, layer, target, 1000)
    assert not whole
    assert small.shape[0] * small.shape[1] <= 1000


def test_the_widget_previews_runs_and_says_what_is_wrong(field, tmp_path, cellkit):
    app = QApplication.instance() or QApplication([])
    viewer = ViewerModel()
    widget = RecipeWidget(viewer)
    assert "Add an image" in widget.panel.note.text()
    assert not widget.panel.run.isEnabled()
    source = {"cellkit": {"name": "cells", "source": str(field)}}
    layer = viewer.add_image(np.array(ck.read(field)["raw"][..., 0]), name="cells", metadata=source)
    widget.panel.image.setCurrentText(layer.name)
    widget.panel.preview.setChecked(True)
    wait(app, lambda: "objects in" in widget.panel.status.text())
    shown = next(one for one in viewer.layers if one.name == "preview of labels")
    widget.panel.form.fields["maxima", "h"].setValue(2.5)
    out = tmp_path / "out"
    widget.panel.out.setText(str(out))
    assert widget.panel.command.toPlainText() == quoted(
        ["cellkit", "run", "nuclei-classical", str(field), "-o", str(out), "--set", "maxima.h=2.5"]
    )
    cellkit("run", "nuclei-classical", field, "-o", tmp_path / "told", "--set", "maxima.h=2.5")
    whole = read_labels(tmp_path / "told" / "labels" / "cells.tif")
    top, left = (round(float(at)) for at in shown.translate / shown.scale)

    def same() -> bool:
        height, width = shown.data.shape
        return equal_but_for_numbers(shown.data, whole[top : top + height, left : left + width])

    wait(app, same)
    widget.run()
    wait(app, lambda: "added" in widget.panel.status.text() or widget.panel.wrong.text())
    assert (out / "labels" / "cells.tif").read_bytes() == (tmp_path / "told" / "labels" / "cells.tif").read_bytes()
    (tmp_path / "bad.yaml").write_text("steps: [otzu]\n")
    widget.choose(str(tmp_path / "bad.yaml"))
    assert "did you mean 'otsu'" in widget.panel.wrong.text()
    assert not widget.panel.run.isEnabled()
    widget.close()
    count = widget.panel.image.count()
    viewer.add_image(np.zeros((9, 9), np.float32))
    assert widget.panel.image.count() == count  # it no longer listens


def wait(app, until, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "nothing came"
        app.processEvents()
        time.sleep(0.01)


@pytest.mark.parametrize("what", ["colour", "channels", "time", "float", "pyramid"])
def test_any_image_layer_previews_as_it_runs(what, tmp_path):
    app = QApplication.instance() or QApplication([])
    viewer = ViewerModel()
    gray = fluorescence_field(256, seed=2)[0]
    stack = np.stack([gray, gray[::-1]])
    data, plane, more = {
        "colour": (np.dstack([gray] * 3), np.dstack([gray] * 3), {"rgb": True}),
        "channels": (stack, gray, {}),
        "time": (np.stack([stack, stack]), gray, {}),
        "float": (gray / 255.0, gray / 255.0, {"scale": (0.5, 0.5), "units": ("um", "um")}),
        "pyramid": ([dask.array.from_array(gray), dask.array.from_array(gray[::2, ::2])], gray, {"multiscale": True}),
    }[what]
    viewer.add_image(data, name="odd/name", **more)
    viewer.dims.set_current_step(0, 0)
    if what == "time":
        viewer.dims.set_current_step(1, 0)
    widget = RecipeWidget(viewer)
    assert ("plane" in widget.panel.note.text()) == (what in ("channels", "time"))
    assert "odd_name.tif" in widget.panel.command.toPlainText()
    size = (0.5, 0.5) if what == "float" else None
    whole = ck.run(widget.editing.recipe, ck.Sample.of(plane, pixel_size=size))["labels"]
    widget.run()
    wait(app, lambda: "added" in widget.panel.status.text() or widget.panel.wrong.text())
    made = next(layer for layer in viewer.layers if layer.name == "odd_name labels")
    assert np.array_equal(made.data, whole)
    assert "area" in made.features
    widget.save_image(str(tmp_path / "saved.tif"))
    assert str(tmp_path / "saved.tif") in widget.panel.command.toPlainText()
    assert np.array_equal(ck.run(widget.editing.recipe, ck.read(tmp_path / "saved.tif"))["labels"], whole)
    widget.close()


def test_the_manifest_is_valid():
    path = Path(previews.__file__).with_name("napari.yaml")
    manifest = npe2.PluginManifest.from_file(path)
    manifest.validate_imports()
    assert manifest.name == "cellkit"
