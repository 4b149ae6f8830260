"""The stages `cellpose` and `stardist`: without their packages, against stand-ins of the same signatures, and for real.

The stand-ins copy signatures only. Where the real packages are installed their signatures are held against them.
"""

# ruff: noqa: N803, PLR0917 - the signatures of others

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import subprocess
import sys
import threading
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import cellkit as ck
from cellkit.core import StageError, UsageError, check, registry
from cellkit.core.recipe import parse
from cellkit.stages._foreign import Package, consecutive, reason, stamp
from cellkit.stages.cellpose import PACKAGE as CELLPOSE
from cellkit.stages.cellpose import cellpose
from cellkit.stages.stardist import PACKAGE as STARDIST
from cellkit.stages.stardist import stardist

BOTH = "cellkit: 1\nsteps:\n  - cellpose: {diameter: 20}\n    out: cells\n  - stardist:\n    out: nuclei\n"


def image(*shape):
    """Noise in [0, 1], as the engine hands it on: read-only."""
    pixels = np.random.default_rng(0).random(shape, np.float32)
    pixels.setflags(write=False)
    return pixels


def module(monkeypatch, name, **members):
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    made.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.fixture(autouse=True)
def _nothing_loaded():
    CELLPOSE.forget()
    STARDIST.forget()
    yield
    CELLPOSE.forget()
    STARDIST.forget()


# ---------------------------------------------------------------- without the packages


@pytest.fixture
def without_packages(monkeypatch):
    real = importlib.util.find_spec
    gone = {"cellpose", "stardist", "tensorflow"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else real(name, *rest))


def test_check_warns_of_a_missing_package_and_passes(without_packages):
    recipe, faults = parse(BOTH)
    assert not faults
    found = check(recipe)
    assert [fault.warning for fault in found] == [True, True]
    assert "cellpose is not installed (pip install cellpose)" in str(found[0])
    assert "stardist and tensorflow are not installed (pip install stardist tensorflow)" in str(found[1])


@pytest.mark.parametrize(
    ("stage", "fix"), [(cellpose, "pip install cellpose"), (stardist, "pip install stardist tens")]
)
def test_running_without_the_package_says_how_to_get_it(without_packages, stage, fix):
    with pytest.raises(UsageError, match=fix):
        stage(image(8, 8, 1))


def test_both_read_the_image_and_make_labels():
    for name in ("cellpose", "stardist"):
        spec = registry.get(name)
        assert [kind.name for kind in spec.returns] == ["labels"]
        assert spec.reach(spec.defaults) is ck.core.WHOLE


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "brokenseg.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    package = Package("Broken", ("brokenseg",), "pip install brokenseg")
    assert not package.missing()
    with pytest.raises(UsageError, match=r"Broken is installed but cannot be imported.*no_such_module_anywhere"):
        package.module("brokenseg")


def test_importing_keeps_how_warnings_are_shown_and_hides_only_the_packages_own(tmp_path, monkeypatch):
    text = "import warnings\nwarnings.formatwarning = None\ndef call():\n    warnings.warn('of mine', UserWarning)\n"
    (tmp_path / "loudseg.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = warnings.formatwarning
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loud = Package("Loud", ("loudseg",), "pip install loudseg").module("loudseg")
        loud.call()
        warnings.warn("of others", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["of others"]
    assert warnings.formatwarning is before


# ---------------------------------------------------------------- what both share


def test_labels_are_renumbered_without_gaps():
    labels = np.array([[0, 70_000, 70_000, 3]], np.uint32)
    got = consecutive(labels, (2, 2))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, [[0, 2], [2, 1]])
    np.testing.assert_array_equal(consecutive(np.zeros((1, 1), np.uint16), (1, 1)), [[0]])


def test_a_network_is_loaded_once_and_used_by_one_thread_at_a_time():
    package = Package("Any", (), "")
    loads, inside, most = [], [], []

    def work():
        with package.network("key", lambda: loads.append(1) or "network") as network:
            inside.append(network)
            most.append(len(inside))
            threading.Event().wait(0.002)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [1]
    assert max(most) == 1


def test_only_the_networks_used_last_are_kept():
    package, loads = Package("Any", (), ""), []
    for key in (1, 2, 3, 4, 1, 5, 1, 2):
        with package.network(key, lambda key=key: loads.append(key)):
            pass
    assert loads == [1, 2, 3, 4, 5, 2]


def test_what_another_package_says_is_cut_to_its_reason():
    assert (
        reason(RuntimeError("Weights only load failed. Set weights_only to False.\nDo it."))
        == "Weights only load failed"
    )
    assert reason(ValueError("the file x.h5\n   is for another version")) == "the file x.h5 is for another version"
    assert reason(EOFError()) == "EOFError"


def test_weights_written_anew_have_another_stamp(tmp_path):
    file = tmp_path / "weights_best.h5"
    file.write_bytes(b"1")
    before = stamp(file), stamp(tmp_path)
    file.write_bytes(b"12")
    assert stamp(file) != before[0]
    assert stamp(tmp_path) != before[1]


# ---------------------------------------------------------------- stand-ins with the real signatures

ANSWER = np.array([[0, 5, 5], [9, 9, 0]])


class Cellpose3Model:
    """What cellpose 3.1 calls CellposeModel."""

    def __init__(self, gpu=False, pretrained_model=False, model_type=None, mkldnn=True, diam_mean=30.0, device=None,
                 nchan=2, pretrained_model_ortho=None, backbone="default"):  # fmt: skip
        self.made = dict(locals())

    def eval(self, x, batch_size=8, resample=True, channels=None, channel_axis=None, z_axis=None, normalize=True,
             invert=False, rescale=None, diameter=None, flow_threshold=0.4, cellprob_threshold=0.0, do_3D=False,
             anisotropy=None, flow3D_smooth=0, stitch_threshold=0.0, min_size=15, max_size_fraction=0.4,
             niter=None, augment=False, tile_overlap=0.1, bsize=224, interp=True, compute_masks=True,
             progress=None):  # fmt: skip
        self.called = dict(locals())
        return _answer(x), [], None


class Cellpose3:
    """What cellpose 3.1 calls Cellpose: with an estimate of the diameter."""

    def __init__(self, gpu=False, model_type="cyto3", nchan=2, device=None, backbone="default"):
        self.made = dict(locals())

    def eval(self, x, batch_size=8, channels=[0, 0], channel_axis=None, invert=False, normalize=True, diameter=30.0,  # noqa: B006
             do_3D=False, **kwargs):  # fmt: skip
        self.called = {**locals(), **kwargs}
        return _answer(x), [], None, 30.0


class Cellpose4Model:
    """What cellpose 4.2 calls CellposeModel."""

    def __init__(self, gpu=False, pretrained_model="cpsam_v2", model_type=None, diam_mean=None, device=None, nchan=None,
                 use_bfloat16=True):  # fmt: skip
        self.made = dict(locals())

    def eval(self, x, batch_size=8, resample=True, channels=None, channel_axis=None, z_axis=None, normalize=True,
             rescale=None, diameter=None, flow_threshold=0.4, cellprob_threshold=0.0, do_3D=False, anisotropy=None,
             flow3D_smooth=0, stitch_threshold=0.0, min_size=15, max_size_fraction=0.4, niter=None, augment=False,
             tile_overlap=0.1, bsize=None, compute_masks=True, progress=None):  # fmt: skip
        self.called = dict(locals())
        return _answer(x), [], None


class StarDist2D:
    """What stardist 0.9 calls StarDist2D."""

    def __init__(self, config=None, name=None, basedir="."):
        self.made = dict(locals())
        self.config = SimpleNamespace(n_channel_in=3 if name == "three" else 1)

    def predict_instances(self, img, axes=None, normalizer=None, sparse=True, prob_thresh=None, nms_thresh=None,
                          scale=None, n_tiles=None, show_tile_progress=True, verbose=False, return_labels=True,
                          predict_kwargs=None, nms_kwargs=None, overlap_label=None, return_predict=False):  # fmt: skip
        self.called = dict(locals())
        return _answer(img).astype(np.int32), {}


def _answer(x):
    """Return labels with a gap in the upper left corner, squeezed as Cellpose squeezes them."""
    labels = np.zeros(x.shape[:2], np.uint16)
    part = labels[:2, :3]
    part[:] = ANSWER[: part.shape[0], : part.shape[1]]
    return labels.squeeze()


@pytest.fixture(params=[3, 4])
def fake_cellpose(request, monkeypatch, tmp_path):
    """Cellpose 3 or 4, recording the last network made."""
    names = ["cyto3", "nuclei", "transformer_cp3"] if request.param == 3 else ["cpsam_v2", "cpsam"]
    made: list = []
    members = {
        "MODEL_NAMES": names,
        "MODEL_DIR": tmp_path / "models",
        "get_user_models": lambda: ["mine"],
        "CellposeModel": recording(Cellpose3Model if request.param == 3 else Cellpose4Model, made),
    }
    if request.param == 3:
        members |= {"Cellpose": recording(Cellpose3, made), "SizeModel": object}
    module(monkeypatch, "cellpose").models = module(monkeypatch, "cellpose.models", **members)
    return SimpleNamespace(major=request.param, made=made, models=sys.modules["cellpose.models"])


def recording(kind, made):
    class Recorded(kind):
        def __new__(cls, *_, **__):
            made.append(object.__new__(cls))
            return made[-1]

    return Recorded


def test_cellpose_is_called_with_the_words_of_the_recipe(fake_cellpose):
    got = cellpose(image(12, 20, 1), diameter=17.5, flow_threshold=0.2, cellprob_threshold=-1.0, min_size=7,
                   normalize=False, niter=99, augment=True, tile_overlap=0.2, batch=3, device="cpu")  # fmt: skip
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got[:2, :3], [[0, 1, 1], [2, 2, 0]])
    assert got.shape == (12, 20)
    (network,) = fake_cellpose.made
    called = network.called
    for name, value in {"diameter": 17.5, "flow_threshold": 0.2, "cellprob_threshold": -1.0, "min_size": 7}.items():
        assert called[name] == value
    for name, value in {"normalize": False, "niter": 99, "augment": True, "tile_overlap": 0.2, "batch_size": 3}.items():
        assert called[name] == value
    assert network.made["pretrained_model"] == ("cyto3" if fake_cellpose.major == 3 else "cpsam_v2")
    assert network.made["device"].type == "cpu"
    assert network.made["gpu"] is False
    if fake_cellpose.major == 3:
        assert called["x"].shape == (12, 20)
        assert called["channels"] == [0, 0]
    else:
        assert called["x"].shape == (12, 20, 1)
        assert (called["channel_axis"], called["channels"]) == (2, None)


def test_cellpose_3_estimates_the_diameter_where_it_can(fake_cellpose):
    cellpose(image(12, 20, 1))
    cellpose(image(12, 20, 1), model="mine")
    estimates = ["model_type" in n.made and "pretrained_model" not in n.made for n in fake_cellpose.made]
    assert estimates == [fake_cellpose.major == 3, False]
    assert [n.called["diameter"] for n in fake_cellpose.made] == [None, None]


def test_cellpose_transformers_get_their_backbone(fake_cellpose, tmp_path):
    file = tmp_path / "my_transformer"
    file.write_bytes(b"")
    cellpose(image(12, 20, 1), model=str(file))
    made = fake_cellpose.made[-1].made
    assert made["pretrained_model"] == str(file)
    assert made.get("backbone") == ("transformer" if fake_cellpose.major == 3 else None)


def test_cellpose_channels(fake_cellpose):
    cellpose(image(12, 20, 2))
    called = fake_cellpose.made[-1].called
    assert called["x"].shape == (12, 20, 2)
    assert called["channel_axis"] == 2
    assert called["channels"] == ([1, 2] if fake_cellpose.major == 3 else None)
    if fake_cellpose.major == 3:
        with pytest.raises(
            StageError, match=r"1 to 2 channels \(cells, then nuclei\), the image has 3; put `grayscale`"
        ):
            cellpose(image(12, 20, 3))
    else:
        assert cellpose(image(12, 20, 3)).shape == (12, 20)
    with pytest.raises(StageError, match="the image has 5; put `channel"):
        cellpose(image(12, 20, 5))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 1), (9, 1, 1), (1, 9, 2)])
def test_cellpose_takes_sides_of_one_pixel(fake_cellpose, shape):
    got = cellpose(image(*shape))
    # cellpose.transforms.reshape of version 3 takes a first axis of less than 8 for channels
    assert min(fake_cellpose.made[-1].called["x"].shape[:2]) == (8 if fake_cellpose.major == 3 else 2)
    assert got.shape == shape[:2]
    assert set(np.unique(got)) == set(range(got.max() + 1))


def test_cellpose_hands_over_a_copy(fake_cellpose):
    pixels = image(12, 20, 1)
    cellpose(pixels)
    given = fake_cellpose.made[-1].called["x"]
    assert given.flags.writeable
    assert not np.shares_memory(given, pixels)


def test_cellpose_loads_a_network_once(fake_cellpose):
    for threshold in (0.1, 0.2):
        cellpose(image(12, 20, 1), diameter=20.0, flow_threshold=threshold)
    assert len(fake_cellpose.made) == 1
    cellpose(image(12, 20, 1), diameter=20.0, model="mine")
    assert len(fake_cellpose.made) == 2


def test_cellpose_refuses_a_name_it_would_replace_by_its_default(fake_cellpose):
    with pytest.raises(UsageError, match="no file and no model of this version is called 'cyt'"):
        cellpose(image(12, 20, 1), model="cyt")
    assert not fake_cellpose.made


def test_cellpose_weights_that_cannot_be_had(fake_cellpose, monkeypatch, tmp_path):
    import ssl

    def refuse(*_, **__):
        ssl._create_default_https_context = None  # as its downloads do
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    for kind in (Cellpose3Model, Cellpose3, Cellpose4Model):
        monkeypatch.setattr(kind, "__init__", functools.wraps(kind.__init__)(refuse))
    before = ssl._create_default_https_context
    with pytest.raises(UsageError, match=r"cannot be had: <urlopen error.*put them into .*models, or give the path"):
        cellpose(image(12, 20, 1))
    assert ssl._create_default_https_context is before
    file = tmp_path / "damaged"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"damaged cannot be loaded by Cellpose"):
        cellpose(image(12, 20, 1), model=str(file))


def test_cellpose_device(fake_cellpose):
    with pytest.raises(UsageError, match="device"):
        cellpose(image(12, 20, 1), device="cuda:99")
    faults = list(registry.get("cellpose").review({**registry.get("cellpose").defaults, "device": "gpu"}, ()))
    assert [fault.where for fault in faults if not fault.warning] == ["device"]


def test_cellpose_check_tells_where_weights_belong(fake_cellpose, monkeypatch, tmp_path):
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    spec = registry.get("cellpose")
    (fault,) = spec.review({**spec.defaults, "model": "nuclei"}, ())
    assert fault.warning
    assert fault.where == "model"
    assert str(tmp_path) in fault.fix
    (tmp_path / "nucleitorch_0").write_bytes(b"")
    assert not list(spec.review({**spec.defaults, "model": "nuclei"}, ()))


@pytest.mark.parametrize("stage", [cellpose, stardist])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(fake_cellpose, fake_stardist, stage, value):
    pixels = image(12, 20, 1).copy()
    pixels[3, 4] = value
    with pytest.raises(StageError, match="1 of 240 are NaN or infinite"):
        stage(pixels)


@pytest.fixture
def fake_stardist(monkeypatch):
    made: list = []
    kind = recording(StarDist2D, made)
    details = {"url": "https://example.org/2D_demo.zip"}
    aliases = {"2D_versatile_fluo": ("Versatile",), "2D_demo": ()}
    registered = {
        "get_registered_models": lambda _cls: (tuple(aliases), aliases),
        "get_model_details": lambda _cls, name: (name, None, details),
        "get_model_instance": lambda cls, name: cls(None, name=name),
    }
    config = SimpleNamespace(list_physical_devices=lambda _kind: [])
    module(monkeypatch, "tensorflow", config=config)
    for name in ("stardist", "csbdeep", "csbdeep.models", "csbdeep.models.base_model", "stardist.models.base"):
        module(monkeypatch, name)
    module(monkeypatch, "stardist.models", StarDist2D=kind)
    module(monkeypatch, "csbdeep.models.pretrained", **registered)
    module(monkeypatch, "csbdeep.utils", normalize=_csbdeep_normalize)
    return SimpleNamespace(made=made, registered=sys.modules["csbdeep.models.pretrained"])


def _csbdeep_normalize(x, pmin=3, pmax=99.8, axis=None, clip=False, eps=1e-20, dtype=np.float32):
    low, high = np.percentile(x, (pmin, pmax), axis=axis, keepdims=True).astype(dtype)
    return (x - low) / (high - low + dtype(eps))


def folder_of_weights(path):
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "weights_best.h5").write_bytes(b"")
    return str(path)


def test_stardist_is_called_with_the_words_of_the_recipe(fake_stardist):
    got = stardist(image(12, 20, 1), prob_threshold=0.3, nms_threshold=0.2, scale=2.0, n_tiles=(2, 3))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got[:2, :3], [[0, 1, 1], [2, 2, 0]])
    (network,) = fake_stardist.made
    assert network.made["name"] == "2D_versatile_fluo"
    called = network.called
    assert (called["prob_thresh"], called["nms_thresh"], called["scale"]) == (0.3, 0.2, 2.0)
    assert (called["axes"], called["n_tiles"]) == ("YXC", (2, 3, 1))
    assert called["show_tile_progress"] is False
    assert called["predict_kwargs"] == {"verbose": 0}


def test_stardist_leaves_its_own_thresholds_and_cuts_large_images(fake_stardist):
    stardist(image(1025, 40, 1))
    called = fake_stardist.made[-1].called
    assert called["prob_thresh"] is called["nms_thresh"] is called["scale"] is None
    assert called["n_tiles"] == (2, 1, 1)


def test_stardist_normalises_as_its_users_do(fake_stardist, tmp_path):
    pixels = image(30, 40, 3) * np.float32([1, 10, 100])
    for way, axes in (("each", (0, 1)), ("joint", (0, 1, 2)), ("none", None)):
        stardist(pixels, model=folder_of_weights(tmp_path / "three") if way == "each" else str(tmp_path / "three"),
                 normalize=way, low=2.0, high=90.0)  # fmt: skip
        given = fake_stardist.made[-1].called["img"]
        if axes is None:
            np.testing.assert_array_equal(given, pixels)
        else:
            low, high = np.percentile(pixels, 2, axes, keepdims=True), np.percentile(pixels, 90, axes, keepdims=True)
            np.testing.assert_allclose(given, (pixels - low) / (high - low), rtol=1e-4, atol=1e-5)
    assert len(fake_stardist.made) == 1


def test_stardist_on_images_with_nothing_to_stretch(fake_stardist):
    constant = np.full((12, 20, 1), 0.3, np.float32)
    stardist(constant)
    np.testing.assert_array_equal(fake_stardist.made[-1].called["img"], np.zeros_like(constant))
    constant[3, 4] = 1
    with pytest.raises(StageError, match="percentiles 1 and 90 coincide"):
        stardist(constant, high=90.0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 1), (9, 1, 1)])
def test_stardist_takes_sides_of_one_pixel(fake_stardist, shape):
    assert stardist(image(*shape)).shape == shape[:2]


def test_stardist_refusals(fake_stardist, tmp_path):
    with pytest.raises(StageError, match=r"wants 1 channel\(s\), the image has 3; put `grayscale`"):
        stardist(image(12, 20, 3))
    with pytest.raises(StageError, match=r"wants 3 channel\(s\), the image has 1"):
        stardist(image(12, 20, 1), model=folder_of_weights(tmp_path / "three"))
    with pytest.raises(StageError, match="leaves no pixel of 12 x 20"):
        stardist(image(12, 20, 1), scale=0.01)
    with pytest.raises(StageError, match="wanted less than high, 2, got 5"):
        stardist(image(12, 20, 1), low=5.0, high=2.0)
    with pytest.raises(
        UsageError, match=r"no model of StarDist is called '2D_versatil'.*did you mean '2D_versatile_fluo'"
    ):
        stardist(image(12, 20, 1), model="2D_versatil")
    spec = registry.get("stardist")
    faults = list(spec.review({**spec.defaults, "low": 5.0, "high": 2.0}, ()))
    assert [fault.where for fault in faults if not fault.warning] == ["low"]


def test_stardist_does_not_run_a_folder_without_weights(fake_stardist, tmp_path):
    with pytest.raises(UsageError, match=r"it has no config\.json"):
        stardist(image(12, 20, 1), model=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"it has no weights, \*\.h5"):
        stardist(image(12, 20, 1), model=str(tmp_path))
    assert not fake_stardist.made


def test_stardist_weights_that_cannot_be_had(fake_stardist, monkeypatch):
    def refuse(cls, name):
        raise Exception("URL fetch failure on https://example.org/2D_demo.zip: None")

    monkeypatch.setattr(fake_stardist.registered, "get_model_instance", refuse)
    with pytest.raises(UsageError, match=r"cannot be had: URL fetch failure.*download https://example.org/2D_demo.zip"):
        stardist(image(12, 20, 1), model="2D_demo")


def test_stardist_check_tells_of_a_download(fake_stardist, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    spec = registry.get("stardist")
    (fault,) = spec.review(spec.defaults, ())
    assert fault.warning
    assert "will try to download" in fault.message
    folder = tmp_path / "models" / "StarDist2D" / "2D_versatile_fluo" / "2D_versatile_fluo"
    folder.mkdir(parents=True)  # as a download that failed leaves it
    assert list(spec.review(spec.defaults, ()))
    (folder / "config.json").write_text("{}")
    assert not list(spec.review(spec.defaults, ()))


def test_both_in_one_recipe(fake_cellpose, fake_stardist):
    recipe, faults = parse(BOTH)
    assert not faults
    result = ck.run(recipe, ck.Sample.of(image=image(12, 20, 1)))
    np.testing.assert_array_equal(result["cells"], result["nuclei"])
    assert result["cells"].max() == 2


# ---------------------------------------------------------------- the real packages


def real(name):
    """Import a module of a package that few have installed; skip where it is missing."""
    package = {"cellpose": CELLPOSE, "stardist": STARDIST, "csbdeep": STARDIST}[name.partition(".")[0]]
    if package.missing():
        pytest.skip(f"needs {' and '.join(package.missing())}: {package.install}")
    return package.module(name)


def parameters(function):
    """Return what a function can be called with: name and default of each parameter."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values()}


def test_the_stand_ins_have_cellposes_own_signatures():
    models = real("cellpose.models")
    third = hasattr(models, "SizeModel")
    pairs = [(models.CellposeModel, Cellpose3Model if third else Cellpose4Model)]
    pairs += [(models.Cellpose, Cellpose3)] if third else []
    for own, stand_in in pairs:
        assert parameters(own.__init__) == parameters(stand_in.__init__)
        assert parameters(own.eval) == parameters(stand_in.eval)
    assert isinstance(models.MODEL_NAMES, list)
    assert callable(models.get_user_models)
    assert models.MODEL_DIR


def test_the_stand_ins_have_stardists_own_signatures():
    own = real("stardist.models").StarDist2D
    assert list(parameters(own.__init__)) == list(parameters(StarDist2D.__init__))
    assert parameters(own.predict_instances) == parameters(StarDist2D.predict_instances)
    assert parameters(real("csbdeep.utils").normalize) == parameters(_csbdeep_normalize)
    registered = real("csbdeep.models.pretrained")
    keys, aliases = registered.get_registered_models(own)
    assert "2D_versatile_fluo" in keys
    assert set(aliases) == set(keys)
    assert registered.get_model_details(own, "2D_demo")[2]["url"].startswith("https://")
    assert callable(registered.get_model_instance)


def test_torchvision_can_be_imported_after_stardist():
    real("stardist")
    code = "from cellkit.stages.stardist import _models; _models(); import torchvision; print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines()[-1:] == ["alive"], done.stderr


def test_stardist_gives_what_the_package_gives(tmp_path):
    models, normalize = real("stardist.models"), real("csbdeep.utils").normalize
    config = models.Config2D(n_channel_in=1, grid=(2, 2), unet_n_filter_base=8, net_conv_after_unet=16)
    network = models.StarDist2D(config, name="random", basedir=str(tmp_path))
    network.keras_model.save_weights(str(tmp_path / "random" / "weights_best.h5"))
    pixels = image(120, 90, 1)
    normalized = normalize(pixels[..., 0], 1, 99.8)
    prob, _ = network.predict(normalized)
    threshold = float(np.percentile(prob, 90))
    wanted, _ = network.predict_instances(normalized, prob_thresh=threshold)
    got = stardist(pixels, model=str(tmp_path / "random"), prob_threshold=threshold)
    assert got.max() > 1
    np.testing.assert_array_equal(got > 0, wanted > 0)
    assert len(np.unique(np.stack([got, wanted]).reshape(2, -1), axis=1).T) == got.max() + 1
    tiled = stardist(pixels, model=str(tmp_path / "random"), prob_threshold=threshold, n_tiles=(2, 2))
    assert np.mean((tiled > 0) == (got > 0)) > 0.99
    for shape in ((1, 1), (1, 40), (40, 1)):
        assert stardist(image(*shape, 1), model=str(tmp_path / "random")).shape == shape
    assert not stardist(pixels, model=str(tmp_path / "random"), prob_threshold=1.0).any()


def test_cellpose_gives_what_the_package_gives(tmp_path):
    models = real("cellpose.models")
    if not hasattr(models, "SizeModel"):
        pytest.skip("the network of Cellpose 4 is too large for a test: 1.2 GB")
    import torch
    from cellpose.resnet_torch import CPnet

    torch.manual_seed(1)
    file = str(tmp_path / "random")
    CPnet([2, 32, 64, 128, 256], 3, sz=3, mkldnn=False, max_pool=True, diam_mean=30.0).save_model(file)
    options = {"diameter": 25.0, "flow_threshold": 0.0, "cellprob_threshold": -6.0, "min_size": 0, "niter": 300}
    pixels = image(96, 80, 2)
    network = models.CellposeModel(gpu=False, pretrained_model=file)
    wanted = network.eval(pixels.copy(), channels=[1, 2], channel_axis=2, **options)[0]
    got = cellpose(pixels, model=file, device="cpu", **options)
    assert got.max() > 0
    np.testing.assert_array_equal(got, wanted)
    for shape in ((1, 1), (1, 40), (40, 1), (7, 30)):
        assert cellpose(image(*shape, 1), model=file, device="cpu").shape == shape
    assert not cellpose(pixels, model=file, device="cpu", cellprob_threshold=20.0).any()
