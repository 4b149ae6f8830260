"""Cards and weights: what is written comes back, and what is damaged or foreign is named."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import FormatError, UsageError, WriteError
from cellkit.models import Card, find_model, load_network, models, save_model
from cellkit.models.card import parse_card
from cellkit.models.store import ENVIRONMENT, Located
from cellkit.models.tensorfile import read_header
from tiny_models import TINY, tiny

torch = pytest.importorskip("torch")


def card_of(kind: str = "unet", **changes) -> Card:
    task = {"faster-rcnn": "boxes", "mask-rcnn": "masks"}.get(kind, "dense")
    head = "softmax" if task == "dense" else task
    return replace(Card("sample", kind, task, 1, ("background", "cell"), head, parameters=TINY[kind]), **changes)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[name], y[name]) for name in x)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of models that names are looked up in."""
    monkeypatch.setenv(ENVIRONMENT, f"{tmp_path / 'nowhere'}{os.pathsep}{tmp_path}")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, torch.nn.Module]:
    """The bytes of a file that save_model wrote, and its network."""
    path = tmp_path_factory.mktemp("whole") / "sample.safetensors"
    network = tiny("unet", 1, 2)
    save_model(path, network, card_of(figures={"dice": 0.9}, licence="CC0"))
    return path.read_bytes(), network


@pytest.mark.parametrize("target", ["a.safetensors", "a-folder"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_saved_comes_back(tmp_path, target, dtype):
    network = tiny("unet", 1, 2).train()
    card = save_model(tmp_path / target, network, card_of(reach=22, halo=24), dtype=dtype)
    assert network.training
    located = find_model(str(tmp_path / target))
    assert located.card == card
    before = torch.get_rng_state()
    loaded = load_network(located)
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.training
    assert all(t.dtype == torch.float32 for t in loaded.state_dict().values())
    if dtype == "float32":
        assert same(loaded, network)
    else:
        assert same(loaded, network.half().float())
    assert (card.divisor, card.reach, card.halo) == (4, 22, 24)
    assert card.parameters["final_convolutions"] == 2  # its default, filled in
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".cellkit")]


def test_the_file_is_safetensors_to_others_too(whole, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    data, network = whole
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert json.loads(metadata["cellkit_card"])["name"] == "sample"
    for name, tensor in network.state_dict().items():
        assert torch.equal(found[f"model.{name}"], tensor)
    assert found["golden.input"].shape == (1, 1, 64, 64)
    assert found["golden.output"].shape == (1, 2, 64, 64)
    # The digest by hand.
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total.update(json.dumps([name, "F32", list(tensor.shape)]).encode() + b"\n" + tensor.numpy().tobytes())
    assert json.loads(metadata["cellkit_card"])["sha256"] == total.hexdigest()
    places = read_header(path).tensors
    assert {name: place.shape for name, place in places.items()} == {n: tuple(t.shape) for n, t in found.items()}


def test_no_hub_is_asked_for_weights_that_are_loaded_over(tmp_path, monkeypatch):
    network = tiny("unet-smp", 1, 2)
    card = card_of("unet-smp", parameters={**TINY["unet-smp"], "encoder_weights": "imagenet"})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert save_model(tmp_path / "x.safetensors", network, card).parameters["encoder_weights"] == "none"
    assert same(load_network(find_model(str(tmp_path / "x.safetensors"))), network)
    hostile = replace(find_model(str(tmp_path / "x.safetensors")).card, parameters=card.parameters)
    located = Located("x", hostile, tmp_path / "x.safetensors", tmp_path / "x.safetensors")
    assert same(load_network(located), network)


def test_tensors_that_share_memory_or_lie_crosswise_are_written(tmp_path):
    crosswise = tiny("unet", 1, 2).to(memory_format=torch.channels_last)
    weight = next(p for p in crosswise.parameters() if p.ndim == 4 and p.shape[1] > 1)
    weight.data = weight.data.transpose(2, 3)
    assert not weight.is_contiguous()
    shared = tiny("unet", 1, 2)
    by_shape: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
    for parameter in shared.parameters():
        by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
    first, second, *_ = next(group for group in by_shape.values() if len(group) > 1)
    second.data = first.data
    for i, network in enumerate((crosswise, shared)):
        save_model(tmp_path / f"{i}.safetensors", network, card_of(), golden=False)
        assert same(load_network(find_model(str(tmp_path / f"{i}.safetensors"))), network)


def test_a_card_without_weights_is_found_but_cannot_be_loaded(folder):
    (folder / "far").mkdir()
    (folder / "far" / "card.json").write_text(card_of(obtain="train it with the recipe nuclei").dump())
    located = find_model("far")
    assert located.weights is None
    assert located.name == "far"
    assert models()["far"] == located
    assert find_model(str(folder / "far" / "card.json")).card == located.card
    with pytest.raises(UsageError, match="not the weights: train it with the recipe nuclei"):
        load_network(located)


def test_a_card_that_does_not_say_how_to_get_its_weights(folder):
    (folder / "far").mkdir()
    (folder / "far" / "card.json").write_text(card_of().dump())
    with pytest.raises(UsageError, match=r"put weights\.safetensors into .*far"):
        load_network(find_model("far"))


@pytest.mark.skipif(os.name == "nt", reason="modes of files are those of POSIX")
def test_others_may_read_what_is_written_as_any_new_file(folder):
    save_model(folder / "x.safetensors", tiny("unet", 1, 2), card_of())
    (folder / "any").touch()
    assert (folder / "x.safetensors").stat().st_mode == (folder / "any").stat().st_mode


def test_a_folder_without_card_json_goes_by_its_weights(folder):
    card = save_model(folder / "x", tiny("unet", 1, 2), card_of())
    (folder / "x" / "card.json").unlink()
    assert find_model("x").card == card
    (folder / "x" / "weights.safetensors").unlink()
    with pytest.raises(UsageError, match=r"card\.json"):
        find_model(str(folder / "x"))


def test_the_folder_of_a_training_is_a_model(folder):
    card = save_model(folder / "run" / "model.safetensors", tiny("unet", 1, 2, seed=1), card_of())
    (folder / "run" / "log.csv").write_text("epoch,loss\n1,0.5\n")
    for name in ("run", str(folder / "run"), str(folder / "run" / "model.safetensors")):
        located = find_model(name)
        assert located.card == card
        assert same(load_network(located), tiny("unet", 1, 2, seed=1))
    (folder / "run" / "model.safetensors").unlink()  # a training that has not come to its end
    with pytest.raises(UsageError, match=r"of a training, model\.safetensors"):
        find_model(str(folder / "run"))


def test_a_card_may_be_edited_but_not_the_weights_exchanged(folder):
    card = save_model(folder / "x", tiny("unet", 1, 2, seed=1), card_of())
    text = (folder / "x" / "card.json").read_text()
    (folder / "x" / "card.json").write_text(text.replace('"licence": ""', '"licence": "CC BY 4.0"'))
    assert find_model("x").card == replace(card, licence="CC BY 4.0")
    assert same(load_network(find_model("x")), tiny("unet", 1, 2, seed=1))
    save_model(folder / "y", tiny("unet", 1, 2, seed=2), card_of())
    (folder / "y" / "weights.safetensors").replace(folder / "x" / "weights.safetensors")
    with pytest.raises(FormatError, match="not the weights of the card"):
        load_network(find_model("x"))


def test_the_first_folder_wins_and_names_are_suggested(tmp_path, monkeypatch):
    for i in (0, 1):
        save_model(
            tmp_path / str(i) / "nuclei-unet.safetensors", tiny("unet", 1, 2), card_of(weak=str(i)), golden=False
        )
    monkeypatch.setenv(ENVIRONMENT, os.pathsep.join([str(tmp_path / "0"), str(tmp_path / "1")]))
    assert find_model("nuclei-unet").card.weak == "0"
    assert models()["nuclei-unet"].card.weak == "0"
    with pytest.raises(UsageError, match="did you mean 'nuclei-unet'"):
        find_model("nuclei-unt")
    with pytest.raises(UsageError, match="'linknet' is an architecture, not a trained model"):
        find_model("linknet")
    with pytest.raises(UsageError, match="no such file"):
        find_model("./nuclei-unet")
    with pytest.raises(UsageError, match="empty"):
        find_model("")


def test_a_damaged_model_hides_no_other(folder):
    save_model(folder / "good.safetensors", tiny("unet", 1, 2), card_of(), golden=False)
    (folder / "bad.safetensors").write_bytes(b"PK\x03\x04 and so on, as torch.save writes it")
    (folder / "worse").mkdir()
    (folder / "worse" / "card.json").write_text("{")
    found = models()
    assert isinstance(found["good"], Located)
    assert "zip archive" in str(found["bad"])
    assert "card.json" in str(found["worse"])


def header(values: object, data: bytes = b"") -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
FOREIGN = {
    "empty": (b"", "empty"),
    "short": (b"\x01\x02", "not a safetensors file"),
    "pickle": (b"\x80\x04\x95" + bytes(300), "pickle"),
    "zip": (b"PK\x03\x04" + bytes(300), "torch.save"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "gz": (gzip.compress(b"something" * 9), "gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(99), "numpy"),
    "text": (b"just some words, long enough to hold a header", "not a safetensors file"),
    "length": ((2**63).to_bytes(8, "little") + b"{}", "cut off"),
    "nulls": (bytes(64), "not a safetensors file"),
    "json": (header(b"{not json at all}"), "no JSON"),
    "list": (header([1, 2]), "not a safetensors file"),
    "deep": (header(b'{"a":' + b"[" * 100_000), "no JSON"),
    "digits": (header(b'{"a":' + b"9" * 5000 + b"}"), "no JSON"),
    "utf8": (header(b'{"\xff": 1}'), "no JSON"),
    "twice": (header(b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": 1}', bytes(4)), "twice"),
    "tensor": (header({"a": 3}), "no tensor"),
    "metadata": (header({"__metadata__": {"a": 3}}), "metadata"),
    "metadata2": (header({"__metadata__": [3]}), "metadata"),
    "type": (header({"a": {**ONE, "dtype": "F33"}}, bytes(4)), "unknown type"),
    "type2": (header({"a": {**ONE, "dtype": ["F32"]}}, bytes(4)), "unknown type"),
    "shape": (header({"a": {**ONE, "shape": [2]}}, bytes(4)), "does not fit"),
    "negative": (header({"a": {**ONE, "shape": [-1]}}, bytes(4)), "whole numbers"),
    "float": (header({"a": {**ONE, "shape": [1.0]}}, bytes(4)), "whole numbers"),
    "huge": (header({"a": {**ONE, "shape": [2**62, 2**62]}}, bytes(4)), "does not fit"),
    "overlap": (header({"a": ONE, "b": ONE}, bytes(8)), "overlap"),
    "gap": (header({"a": {**ONE, "data_offsets": [4, 8]}}, bytes(8)), "gap"),
    "cut": (header({"a": ONE}, bytes(3)), "cut off"),
    "more": (header({"a": ONE}, bytes(5)), "too many"),
    "foreign": (header({"a": ONE}, bytes(4)), "without a cellkit card"),
    "card": (header({"a": ONE, "__metadata__": {"cellkit_card": "[]"}}, bytes(4)), "no card"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_and_damaged_files_are_named(tmp_path, kind):
    data, said = FOREIGN[kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=said) as caught:
        find_model(str(path))
    assert str(path) in str(caught.value)


def test_a_checkpoint_of_torch_is_refused_unread(tmp_path):
    class Danger:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"a": Danger()}, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match=r"torch\.save"):
        find_model(str(tmp_path / "x.safetensors"))
    assert not (tmp_path / "ran").exists()


def test_no_pickle_is_read_anywhere():
    for path in (Path(__file__).parent.parent / "cellkit").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        # A training goes on from a checkpoint of its own, of which torch builds tensors and plain data only.
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert path.parent.name == "train", path
            assert "weights_only=True" in call, path


@settings(deadline=None, max_examples=250)
@given(st.data())
def test_any_damage_is_either_harmless_or_named(whole, tmp_path_factory, data):
    good, network = whole
    # Half of the changes go where every byte has a meaning.
    last = data.draw(st.sampled_from([int.from_bytes(good[:8], "little") + 8, len(good) - 1]))
    at = data.draw(st.integers(0, last))
    change = data.draw(st.sampled_from(["cut", "flip", "byte", "drop", "double"]))
    bad = {
        "cut": lambda: good[:at],
        "flip": lambda: good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :],
        "byte": lambda: good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :],
        "drop": lambda: good[:at] + good[at + 1 :],
        "double": lambda: good[:at] + good[at : at + 1] + good[at:],
    }[change]()
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(bad)
    try:
        located = find_model(str(path))
        loaded = load_network(located)
    except FormatError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert str(path) in said
        return
    assert same(loaded, network)
    assert located.card.name == "sample"


def written(path: Path, tensors: dict[str, torch.Tensor], card: Card) -> Located:
    """Write tensors with a card that may not be theirs."""
    from safetensors.torch import save_file

    save_file({f"model.{name}": t.contiguous() for name, t in tensors.items()}, path, {"cellkit_card": card.dump()})
    return find_model(str(path))


def test_tensors_that_are_not_the_networks_are_named(tmp_path):
    state = tiny("unet", 1, 2).state_dict()
    first, *_, last = state
    path = tmp_path / "x.safetensors"
    for tensors, said in (
        ({n: t for n, t in state.items() if n != first}, f"{first} missing"),
        ({**state, "surplus": torch.zeros(1)}, "surplus unknown"),
        ({**state, last: torch.zeros(7)}, f"{last} is 7, wanted 2 of another shape"),
        ({f"other.{n}": t for n, t in state.items()}, "and [0-9]+ more missing"),
        ({**state, last: torch.tensor([float("nan"), 0])}, f"not finite: {last}"),
        ({**state, last: torch.tensor([float("inf"), 0])}, f"not finite: {last}"),
        ({}, "no tensor whose name begins"),
    ):
        with pytest.raises(FormatError, match=said):
            load_network(written(path, tensors, card_of()))
    with pytest.raises(FormatError, match="no parameter 'depht'"):
        load_network(written(path, state, card_of(parameters={"depht": 2})))
    with pytest.raises(UsageError, match="no architecture is called 'unett'"):
        load_network(written(path, state, card_of(architecture="unett")))
    assert same(load_network(written(path, state, card_of())), tiny("unet", 1, 2))  # a card without sha256


def test_what_could_not_be_loaded_is_not_written(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(UsageError, match="not what architecture 'unet' builds"):
        save_model(path, tiny("unet", 3, 2), card_of())
    broken = tiny("unet", 1, 2)
    next(broken.parameters()).data[:] = float("nan")
    with pytest.raises(FormatError, match="not finite"):
        save_model(path, broken, card_of())
    large = tiny("unet", 1, 2)
    next(large.parameters()).data[:] = 1e6
    with pytest.raises(FormatError, match="do not fit"):
        save_model(path, large, card_of(), dtype="float16")
    with pytest.raises(UsageError, match="dtype"):
        save_model(path, large, card_of(), dtype="int8")
    with pytest.raises(UsageError, match="does 'dense'"):
        save_model(path, large, replace(card_of(), task="boxes", head="boxes"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        save_model(tmp_path / "file" / "x.safetensors", tiny("unet", 1, 2), card_of(), golden=False)
    path.mkdir()
    with pytest.raises(WriteError, match="folder"):
        save_model(path, tiny("unet", 1, 2), card_of(), golden=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "x.safetensors"]


@pytest.mark.parametrize("name", ["unet", "mask-rcnn"])
def test_verify_tells_other_numbers(tmp_path, name):
    from cellkit.models.verify import verify

    path = tmp_path / "x.safetensors"
    save_model(path, tiny(name, 1, 2), card_of(name, precision=("float32", "bfloat16")))
    verdict = verify(find_model(str(path)), "cpu")
    assert verdict.agrees, verdict
    assert [c.precision for c in verdict.comparisons] == ["float32", "bfloat16"]
    save_model(tmp_path / "y.safetensors", tiny(name, 1, 2, seed=7), card_of(name))
    mixed = mix(tmp_path / "x.safetensors", tmp_path / "y.safetensors", tmp_path / "z.safetensors")
    verdict = verify(mixed, "cpu")
    assert not verdict.comparisons[0].agrees
    save_model(path, tiny(name, 1, 2), card_of(name), golden=False)
    with pytest.raises(UsageError, match="no golden pair"):
        verify(find_model(str(path)))


def mix(weights: Path, golden: Path, out: Path) -> Located:
    """Write the weights of one file and the golden pair of another."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors = {}
    for path, prefix in ((weights, "model."), (golden, "golden.")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    metadata = dict(read_header(weights).metadata)
    metadata["cellkit_golden_sha256"] = read_header(golden).metadata["cellkit_golden_sha256"]
    save_file(tensors, out, metadata)
    return find_model(str(out))


def test_a_damaged_golden_pair_is_told_from_a_device_that_differs(whole, tmp_path):
    from cellkit.models.verify import verify

    data, _ = whole
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    place = read_header(path).tensors["golden.output"].begin + 2
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(FormatError, match="golden pair is damaged"):
        verify(find_model(str(path)), "cpu")
    with pytest.raises(UsageError, match="device"):
        verify(find_model(str(path)), "gpu")


TEXTS = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = list(json.loads(card_of().dump()))


@settings(deadline=None, max_examples=300)
@given(changes=st.dictionaries(st.sampled_from([*NAMES, "other"]), VALUES, max_size=3))
def test_any_json_is_a_card_or_is_named(changes):
    text = json.dumps({**json.loads(card_of().dump()), **changes})
    try:
        card = parse_card(text, "somewhere")
    except FormatError as error:
        card, said = None, str(error)
    if card is None:
        assert said.startswith("somewhere")
        return
    assert parse_card(card.dump(), "again") == card
    card.dump().encode()


@settings(deadline=None, max_examples=100)
@given(VALUES | st.text().map(str))
def test_any_text_is_a_card_or_is_named(value):
    for text in (json.dumps(value), value if isinstance(value, str) else "", "[" * 5000):
        with pytest.raises(FormatError, match="somewhere"):
            parse_card(text, "somewhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tolerance": float("nan")}, "tolerance"),
        ({"pixel_size": -1.0}, "pixel_size"),
        ({"input_range": (1.0, 0.0)}, "input_range"),
        ({"mean": (10**400,)}, "mean"),
        ({"std": (0.0,)}, "std"),
        ({"classes": ("a", "a")}, "twice"),
        ({"precision": ()}, "precision"),
        ({"name": " "}, "name"),
        ({"figures": {"dice": float("nan")}}, "figures"),
        ({"figures": {"dice": object()}}, "figures"),
        ({"licence": "\ud800"}, "licence"),
        ({"halo": -1}, "halo"),
        ({"head": "border"}, "classes"),
        ({"head": "boxes"}, "head"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(FormatError, match=said):
        card_of(**changes)


def test_cards_come_back_as_they_were():
    card = card_of(figures={"dice": [0.5, None], "by class": {"a": (1, 2)}}, recipe=("otsu", {"tile": {"size": 9}}))
    again = parse_card(card.dump(), "here")
    assert again == card
    assert asdict(again) == asdict(card)


def test_functions_of_the_package_are_not_hidden_by_its_modules():
    import cellkit.models

    cellkit.models.architectures()
    for name in cellkit.models.__all__:
        assert not inspect.ismodule(getattr(cellkit.models, name)), name


def test_finding_and_listing_needs_no_torch(whole, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(whole[0])
    code = (
        "import sys; from cellkit.models import find_model, models\n"
        "print(find_model('x').card.name, list(models()))\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    env = {**os.environ, ENVIRONMENT: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith("sample ['nuclei', 'x'")
    assert done.stdout.strip().endswith("[]")
