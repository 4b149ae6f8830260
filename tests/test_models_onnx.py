"""ONNX: exported networks give torch's numbers, foreign files run or are named."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import FormatError, StageError, UsageError
from cellkit.models import Card, architectures, find_model, load_network, save_model
from cellkit.models.onnx_header import read_onnx_header
from tiny_models import TINY, tiny

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def saved(folder: Path, name: str, **changes):
    """Write a tiny network with a normalisation, and find it."""
    card = Card("sample", name, "dense", 2, ("background", "cell", "edge"), "softmax", parameters=TINY[name], halo=16)
    card = replace(card, mean=(0.2, 0.4), std=(0.5, 2.0), **changes)
    save_model(folder / f"{name}.safetensors", tiny(name, 2, 3), card)
    return find_model(str(folder / f"{name}.safetensors"))


def by_torch(located, images: np.ndarray) -> np.ndarray:
    """Return probabilities, with normalisation and softmax written out."""
    x = (images - np.array([0.2, 0.4], np.float32)[:, None, None]) / np.array([0.5, 2.0], np.float32)[:, None, None]
    with torch.no_grad():
        logits = load_network(located)(torch.from_numpy(x.astype(np.float32))).double().numpy()
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


# Each takes seconds to export, so that two stand for all unless CELLKIT_EXPORTS=all: a plain one, and one whose
# adaptive pooling torch's own export fixes to one size.
BY_DEFAULT = ("unet", "pspnet")
DENSE = sorted(name for name, spec in architectures().items() if spec.task == "dense" and name in TINY)


@pytest.mark.parametrize("name", DENSE)
def test_an_exported_network_gives_torchs_numbers(tmp_path, name):
    from cellkit.models.onnx_export import export_onnx
    from cellkit.models.onnx_file import OnnxBackend
    from cellkit.models.verify import verify

    if name not in BY_DEFAULT and os.environ.get("CELLKIT_EXPORTS") != "all":
        pytest.skip("takes seconds; set CELLKIT_EXPORTS=all to export every architecture at any size")
    located = saved(tmp_path, name)
    said = export_onnx(located, tmp_path / "x.onnx")
    assert "differ by at most" in said
    found = find_model(str(tmp_path / "x.onnx"))
    assert found.card == located.card
    assert found.is_onnx
    backend = OnnxBackend(found)
    divisor = located.card.divisor
    random = np.random.default_rng(0)
    for count, rows, columns in ((1, 1, 1), (2, 5, 7), (3, 16, 3), (1, 23, 31)):
        images = random.random((count, 2, rows * divisor, columns * divisor), np.float32)
        np.testing.assert_allclose(backend(images), by_torch(located, images), atol=1e-4)
    verdict = verify(found, "cpu")
    assert verdict.agrees
    assert "onnxruntime" in verdict.device
    (graph,) = onnx.load(tmp_path / "x.onnx").graph.input
    assert [d.dim_param != "" for d in graph.type.tensor_type.shape.dim] == [True, False, True, True]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", DENSE)
def test_every_dense_network_can_be_exported(tmp_path, name):
    """At one size, which is quicker than at any; the export itself refuses where its numbers are not torch's."""
    from cellkit.models.onnx_export import export_onnx
    from cellkit.models.onnx_file import OnnxBackend

    located = saved(tmp_path, name)
    side = max(64, 4 * located.card.divisor)
    export_onnx(located, tmp_path / "x.onnx", fixed=side)
    images = np.random.default_rng(0).random((2, 2, side, side), np.float32)
    backend = OnnxBackend(find_model(str(tmp_path / "x.onnx")))
    np.testing.assert_allclose(backend(images), by_torch(located, images), atol=1e-4)


def test_adaptive_pooling_as_products_is_adaptive_pooling():
    from cellkit.models.onnx_export import _exportable

    random = torch.Generator().manual_seed(0)
    for sides in (1, 2, 3, 6, (4, None), (None, 5)):
        pooling = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(sides))
        for shape in ((1, 1), (2, 3), (6, 6), (7, 13), (64, 33)):
            x = torch.rand((2, 3, *shape), generator=random)
            torch.testing.assert_close(_exportable(pooling)(x), pooling(x))


def test_a_graph_of_a_fixed_size_is_moved_over_any_image(tmp_path):
    from cellkit.models.onnx_export import export_onnx
    from cellkit.models.onnx_file import OnnxBackend
    from cellkit.models.probe import reach

    located = saved(tmp_path, "unet")
    context = reach(tiny("unet", 2, 3), 2, located.card.divisor)
    located = saved(tmp_path, "unet", reach=context)
    located = replace(located, card=replace(located.card, halo=-(-context // 4) * 4))
    export_onnx(located, tmp_path / "x.onnx", fixed=96)
    found = find_model(str(tmp_path / "x.onnx"))
    backend = OnnxBackend(found)
    random = np.random.default_rng(0)
    for shape in ((96, 96), (160, 100), (96, 244)):
        images = random.random((2, 2, *shape), np.float32)
        np.testing.assert_allclose(backend(images), by_torch(located, images), atol=1e-4)
    assert backend(random.random((1, 2, 4, 8), np.float32)).shape == (1, 3, 4, 8)
    for side, said in ((97, "multiple"), (8, "at least 16"), (2 * found.card.halo, "nothing between")):
        with pytest.raises(UsageError, match=said):
            export_onnx(located, tmp_path / "y.onnx", fixed=side)
    assert not (tmp_path / "y.onnx").exists()


def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch):
    from cellkit.models import onnx_export

    located = saved(tmp_path, "unet")
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        onnx_export.export_onnx(located, tmp_path / "x.safetensors")
    boxes = replace(located, card=Card("b", "faster-rcnn", "boxes", 1, ("cell",), "boxes"))
    with pytest.raises(UsageError, match="only dense networks"):
        onnx_export.export_onnx(boxes, tmp_path / "x.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r'pip install "cellkit\[onnx\]"'):
        onnx_export.export_onnx(located, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_graph_with_other_numbers_is_not_written(tmp_path, monkeypatch):
    from cellkit.models import onnx_export

    located = saved(tmp_path, "unet")
    foreign(tmp_path / "other.onnx", (None, 2, None, None), outputs=3)
    card = onnx.load(tmp_path / "other.onnx")
    onnx.helper.set_model_props(card, {"cellkit_card": located.card.dump()})

    def write_other(module, card_, path, metadata, choices):
        onnx.save(card, path)

    monkeypatch.setattr(onnx_export, "_write", write_other)
    with pytest.raises(FormatError, match="other numbers than torch"):
        onnx_export.export_onnx(located, tmp_path / "x.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.onnx", "unet.safetensors"]


def foreign(path: Path, shape: Sequence[int | str | None], *, outputs: int = 1, kind: str = "Sigmoid", dtype: int = 1):
    """Write a graph of one 1 x 1 convolution of the sum of channels, weighted 1, 2, ..., and an activation."""
    helper = onnx.helper
    channels = shape[1] if isinstance(shape[1], int) else 1
    dims = [name if n is None else n for n, name in zip(shape, "ncyx", strict=True)]
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    weights = np.arange(1, outputs + 1)[:, None, None, None] * np.ones((1, channels, 1, 1))
    made = [dims[0], outputs, *dims[2:]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node(kind, ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", dtype, dims), helper.make_tensor_value_info("w", dtype, weights.shape)],
        [helper.make_tensor_value_info("z", dtype, made)],
        [onnx.numpy_helper.from_array(weights.astype(numpy_type), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return model


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_a_foreign_file_runs_by_what_its_graph_tells(tmp_path):
    from cellkit.models.onnx_file import OnnxBackend

    foreign(tmp_path / "net.onnx", (None, 3, None, None), outputs=2)
    located = find_model(str(tmp_path / "net.onnx"))
    card = located.card
    assert (card.channels, card.classes, card.head, card.reach) == (3, ("class0", "class1"), "sigmoid", None)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 64)).astype(np.float32)
    backend = OnnxBackend(located)
    found = backend(images)
    total = images.sum(1)
    np.testing.assert_allclose(found, sigmoid(np.stack([total, 2 * total], 1)), atol=1e-6)
    backend.close()
    with pytest.raises(UsageError, match="gives no torch network"):
        load_network(located)


@pytest.mark.parametrize("batch", [1, 2, None])
def test_a_foreign_file_of_a_fixed_size_takes_any(tmp_path, batch):
    from cellkit.models.onnx_file import OnnxBackend

    foreign(tmp_path / "net.onnx", (batch, 1, 32, 48))
    located = find_model(str(tmp_path / "net.onnx"))
    assert (located.card.tile, located.card.divisor, located.card.halo) == (32, 1, 4)
    backend = OnnxBackend(located)
    for shape in ((32, 48), (1, 1), (31, 7), (100, 131)):
        images = np.random.default_rng(0).standard_normal((3, 1, *shape)).astype(np.float32)
        np.testing.assert_allclose(backend(images), sigmoid(images), atol=1e-6)


def test_a_foreign_file_of_half_precision_is_given_its_type(tmp_path):
    from cellkit.models.onnx_file import OnnxBackend

    foreign(tmp_path / "net.onnx", (None, 1, None, None), dtype=onnx.TensorProto.FLOAT16)
    images = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    found = OnnxBackend(find_model(str(tmp_path / "net.onnx")))(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sigmoid(images), atol=2e-3)


def test_a_card_beside_the_file_says_what_the_graph_does_not(tmp_path):
    from cellkit.models.onnx_file import OnnxBackend

    path = tmp_path / "net.onnx"
    foreign(path, (None, 1, None, None), outputs=2, kind="Identity")
    images = np.full((1, 1, 4, 4), 0.75, np.float32)
    with pytest.raises(StageError, match=r"net\.onnx\.json"):
        OnnxBackend(find_model(str(path)))(images * 4)
    card = Card(
        "other", "onnx", "dense", 1, ("a", "b"), "softmax", {"logits": True}, mean=(0.25,), std=(0.5,), divisor=4
    )
    (tmp_path / "net.onnx.json").write_text(card.dump())
    for name in ("net.onnx", "net.onnx.json"):
        located = find_model(str(tmp_path / name))
        assert located.card == card
        assert located.weights == path
    # Logits 1 and 2 where the normalised input is 1.
    found = OnnxBackend(located)(images)
    np.testing.assert_allclose(found[0, :, 0, 0], [1 / (1 + np.e), np.e / (1 + np.e)], atol=1e-6)
    (tmp_path / "net.onnx.json").write_text(replace(card, classes=("a", "b", "c")).dump())
    with pytest.raises(StageError, match="class of the card"):
        OnnxBackend(find_model(str(path)))(images)


def test_not_a_number_is_no_probability(tmp_path):
    from cellkit.models.onnx_file import OnnxBackend

    foreign(tmp_path / "net.onnx", (None, 1, None, None), kind="Sqrt")
    with pytest.raises(StageError, match="no probabilities"):
        OnnxBackend(find_model(str(tmp_path / "net.onnx")))(np.full((1, 1, 4, 4), -1, np.float32))


@pytest.mark.parametrize(
    ("shape", "more", "said"),
    [
        ((None, None, None, None), {}, "how many channels"),
        ((1, 64, 64, 3), {}, "channels last"),
        ((None, 1, None, None), {"dtype": onnx.TensorProto.DOUBLE}, "wanted float32"),
    ],
)
def test_graphs_that_are_no_dense_network_are_named(tmp_path, shape, more, said):
    foreign(tmp_path / "net.onnx", shape, **more)
    with pytest.raises(FormatError, match=said):
        find_model(str(tmp_path / "net.onnx"))


def test_more_inputs_or_axes_are_named(tmp_path):
    helper = onnx.helper
    image = helper.make_tensor_value_info("image", 1, [None, 3, None, None])
    size = helper.make_tensor_value_info("size", 1, [2])
    vector = helper.make_tensor_value_info("logits", 1, [None, 1000])
    node = helper.make_node("Identity", ["image"], ["logits"])
    for inputs, said in (([image, size], "'image', 'size'"), ([image], "wanted 4 axes")):
        graph = helper.make_graph([node], "g", inputs, [vector])
        onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
        with pytest.raises(FormatError, match=said):
            find_model(str(tmp_path / "net.onnx"))


def test_the_header_is_what_onnx_reads(tmp_path):
    model = foreign(tmp_path / "net.onnx", (None, 3, 64, "width"), outputs=5)
    onnx.helper.set_model_props(model, {"author": "somebody", "empty": ""})
    onnx.save(model, tmp_path / "net.onnx")
    header = read_onnx_header(tmp_path / "net.onnx")
    read = onnx.load(tmp_path / "net.onnx")
    weights = {tensor.name for tensor in read.graph.initializer}
    for ours, theirs in ((header.inputs, read.graph.input), (header.outputs, read.graph.output)):
        wanted = [
            (
                value.name,
                value.type.tensor_type.elem_type,
                tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim),
            )
            for value in theirs
            if value.name not in weights
        ]
        assert [(v.name, v.type, v.shape) for v in ours] == wanted
    assert header.metadata == {"author": "somebody", "empty": ""}


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(50), b"<html>", b"words, and no message", b"\x0a\xff\xff"])
def test_other_files_are_named(tmp_path, data):
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(FormatError, match=r"x\.onnx"):
        find_model(str(tmp_path / "x.onnx"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    foreign(path, (None, 1, None, None))
    return path.read_bytes()


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damage_is_named_or_harmless(graph, tmp_path_factory, data):
    from cellkit.models.onnx_file import OnnxBackend

    at = data.draw(st.integers(0, len(graph) - 1))
    value = data.draw(st.integers(0, 255))
    bad = data.draw(st.sampled_from([graph[:at], graph[:at] + bytes([value]) + graph[at + 1 :]]))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bad)
    try:
        found = OnnxBackend(find_model(str(path)))(np.zeros((1, 1, 2, 2), np.float32))
    except (FormatError, StageError):
        return
    assert ((found >= 0) & (found <= 1)).all()


def test_the_card_in_the_file_is_guarded(graph, tmp_path):
    model = onnx.load_from_string(graph)
    card = Card("x", "unet", "dense", 1, ("a",), "sigmoid", halo=8)
    onnx.helper.set_model_props(model, {"cellkit_card": card.dump(), "cellkit_card_sha256": "0" * 64})
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(FormatError, match="sha256 differs"):
        find_model(str(tmp_path / "x.onnx"))
    onnx.helper.set_model_props(model, {"cellkit_card": json.dumps({"cellkit_card": 9})})
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(FormatError, match="version 9"):
        find_model(str(tmp_path / "x.onnx"))


def test_a_device_that_is_missing_is_an_error(graph, tmp_path):
    from cellkit.models.onnx_file import OnnxBackend

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    (tmp_path / "x.onnx").write_bytes(graph)
    with pytest.raises(UsageError, match="without CUDA"):
        OnnxBackend(find_model(str(tmp_path / "x.onnx")), "cuda")
