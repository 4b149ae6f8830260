"""Dense prediction: the same result however it is cut, batched, averaged or shared among lanes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.core import StageError, UsageError
from cellkit.models import Card
from cellkit.models.dense import Tiling, plan_windows, predict_dense
from cellkit.models.device import choose_device, choose_precision, parse_memory
from cellkit.models.runtime import Network, Options, OutOfMemory
from cellkit.models.tta import see, undo, views
from tiny_models import tiny

LOCAL = ["unet", "unet-compact"]


def card(**more) -> Card:
    known = {"name": "fake", "architecture": "unet", "task": "dense", "channels": 1, "classes": ("cell",)}
    return Card(**{**known, "head": "sigmoid", **more})


class Fake:
    """A backend without torch: `function` maps one tile (c, y, x) to (k, y, x). Counts its calls."""

    def __init__(self, function=lambda tile: tile, most=None):
        self.function, self.most, self.sizes, self.lock = function, most, [], threading.Lock()

    def __call__(self, tiles):
        with self.lock:
            self.sizes.append(tiles.shape)
        if self.most is not None and tiles.shape[0] * tiles.shape[2] * tiles.shape[3] > self.most:
            raise MemoryError
        return np.stack([self.function(tile) for tile in tiles])

    def relieve(self):
        self.relieved = True

    def close(self):
        pass


def blurred(tile):
    """A network of reach 2: the mean of 5 x 5 pixels."""
    out = np.zeros_like(tile)
    padded = np.pad(tile, ((0, 0), (2, 2), (2, 2)), mode="constant")
    for dy in range(5):
        for dx in range(5):
            out += padded[:, dy : dy + tile.shape[1], dx : dx + tile.shape[2]]
    return out / 25


def torch_network(name, seed, channels=1, outputs=2, **options):
    import torch

    from cellkit.models.probe import reach
    from cellkit.models.torch_backend import TorchBackend

    module = tiny(name, channels, outputs, seed)
    from cellkit.models.architecture import find
    from tiny_models import TINY

    divisor = find(name).divisor(find(name).complete(TINY[name]))
    radius = reach(module, channels, divisor)
    classes = tuple(f"class{i}" for i in range(outputs))
    of = card(channels=channels, classes=classes, divisor=divisor, reach=radius, halo=radius or 0, architecture=name)
    return Network(of, TorchBackend(module, of, torch.device("cpu"), torch.float32), Options(**{"lanes": 2, **options}))


@pytest.fixture(scope="module")
def networks():
    return {(name, seed): torch_network(name, seed) for name in LOCAL for seed in (0, 1)}


@settings(max_examples=25)
@given(
    st.sampled_from(LOCAL), st.integers(0, 1), st.integers(1, 150), st.integers(1, 150), st.integers(1, 3), st.data()
)
def test_tiled_equals_untiled(networks, name, seed, height, width, cores, data):
    network = networks[name, seed]
    halo = data.draw(st.integers(network.card.halo, network.card.halo + 9))
    side = 2 * (-(-halo // network.card.divisor)) * network.card.divisor + cores * network.card.divisor
    image = np.random.default_rng(height * width).random((height, width, 1), np.float32)
    whole = predict_dense(network, image)
    tiled = predict_dense(network, image, tiling=Tiling(max(side, 16), halo))
    assert whole.shape == tiled.shape == (height, width, 2)
    assert np.abs(whole - tiled).max() <= network.card.tolerance
    assert np.abs(whole - tiled).max() <= 3e-5  # a halo of the reach leaves nothing but rounding


def test_a_smaller_halo_would_be_seen(networks):
    """The test above has teeth: without its halo a network does not give the same."""
    network = networks["unet", 0]
    image = np.random.default_rng(0).random((96, 96, 1), np.float32)
    import dataclasses

    bare = Network(dataclasses.replace(network.card, halo=0), network._backend, Options(lanes=1))
    whole = predict_dense(bare, image)
    tiled = predict_dense(bare, image, tiling=Tiling(32, 0))
    assert np.abs(whole - tiled).max() > 1e-3


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["none", "flips", "d4"]))
def test_every_view_has_an_exact_way_back(height, width, tta):
    tile = np.random.default_rng(height).random((2, height, width), np.float32)
    seen = [see(tile, view) for view in views(tta)]
    assert len(seen) == {"none": 1, "flips": 4, "d4": 8}[tta]
    for view, one in zip(views(tta), seen, strict=True):
        assert np.array_equal(undo(one, view), tile)
    if height == width > 2:
        assert len({one.tobytes() for one in seen}) == len(seen)


@pytest.mark.parametrize("tta", ["flips", "d4"])
@pytest.mark.parametrize("size", [None, 48])
def test_averaging_makes_a_network_follow_its_input(networks, tta, size):
    network = networks["unet-compact", 0]
    image = np.random.default_rng(5).random((64, 64, 1), np.float32)
    tiling = Tiling(None if size is None else max(size, 2 * network.card.halo + 16))
    plain = predict_dense(network, image, tta=tta, tiling=tiling)
    flipped = predict_dense(network, np.ascontiguousarray(image[:, ::-1]), tta=tta, tiling=tiling)
    assert np.allclose(plain, flipped[:, ::-1], atol=1e-6)
    assert not np.allclose(plain, predict_dense(network, image), atol=1e-6)


def test_averaging_a_network_that_turns_with_its_input_changes_nothing():
    network = Network(card(), Fake(blurred), Options(lanes=3))
    image = np.random.default_rng(1).random((31, 17, 1), np.float32)
    for tta in ("flips", "d4"):
        assert np.allclose(predict_dense(network, image, tta=tta), predict_dense(network, image), atol=1e-6)


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
@given(height=st.integers(1, 90), width=st.integers(1, 90), cores=st.integers(1, 20), batch=st.integers(1, 5))
def test_any_blend_batch_and_number_of_lanes_gives_the_same(blend, height, width, cores, batch):
    image = np.random.default_rng(3).random((height, width, 1), np.float32)
    of = card(reach=2, halo=2)
    whole = predict_dense(Network(of, Fake(blurred)), image)
    network = Network(of, Fake(blurred), Options(lanes=3, batch=batch))
    tiled = predict_dense(network, image, tiling=Tiling(4 + cores + 12, 2, blend))
    # Where windows fade into one another, zeros beyond a window's end also count with next to no weight.
    assert np.abs(whole - tiled).max() <= (1e-6 if blend == "crop" else 0.1)
    network.close()


def test_a_gaussian_blend_hides_seams_that_a_crop_shows():
    rng = np.random.default_rng(0)
    steps = iter(np.linspace(0, 1, 64))

    def moody(tile):  # every tile a level of its own
        return np.full_like(tile, next(steps))

    image = rng.random((64, 64, 1), np.float32)
    of = card(reach=None, halo=8)
    jumps = {}
    for blend in ("crop", "gaussian"):
        steps = iter(np.linspace(0, 1, 64))
        out = predict_dense(Network(of, Fake(moody)), image, tiling=Tiling(32, 8, blend))
        jumps[blend] = np.abs(np.diff(out[..., 0], axis=1)).max()
    assert jumps["gaussian"] < jumps["crop"] / 2


def test_batches_are_always_full_and_of_one_shape():
    fake = Fake()
    network = Network(card(), fake, Options(lanes=2, batch=4))
    shapes = [(16, 16), (16, 24), (16, 16), (8, 8), (16, 24)] * 5
    tiles = [np.full((1, 1, *shape), i / 25, np.float32) for i, shape in enumerate(shapes)]
    futures = [network.submit(tile)[0] for tile in tiles]
    for i, (tile, future) in enumerate(zip(tiles, futures, strict=True)):
        assert np.array_equal(future.result(), tile[0]), i
    assert {shape[0] for shape in fake.sizes} == {4}
    assert len(fake.sizes) < len(tiles)


def test_batches_shrink_when_memory_runs_out_and_it_is_said():
    fake = Fake(most=3 * 64)
    network = Network(card(), fake, Options(lanes=1, batch=16))
    tiles = np.random.default_rng(0).random((20, 1, 8, 8), np.float32)
    assert np.array_equal(network(tiles), tiles)
    assert network.batch == 2
    assert fake.relieved
    assert network.notes == [f"fake: out of memory at {n} tiles a batch, went on with {n // 2}" for n in (16, 8, 4)]


def test_windows_shrink_when_not_even_one_fits():
    network = Network(card(reach=2, halo=2), Fake(blurred, most=40 * 40))
    image = np.random.default_rng(0).random((90, 70, 1), np.float32)
    assert np.allclose(predict_dense(network, image), blurred(image.transpose(2, 0, 1))[0][..., None], atol=1e-6)
    assert "went on with smaller tiles" in network.notes[0]
    with pytest.raises((OutOfMemory, StageError)):
        predict_dense(Network(card(reach=2, halo=2), Fake(blurred, most=3)), image)


def test_the_memory_bound_decides_on_the_windows():
    for memory, lanes in ((10**6, 1), (10**7, 1), (10**7, 4)):
        network = Network(card(reach=8, halo=8, divisor=4), Fake(), Options(memory=memory, lanes=lanes))
        network.bytes_per_pixel = 100.0
        tiles = plan_windows(network, (3000, 2000), Tiling())
        area = tiles[0].window.shape[0] * tiles[0].window.shape[1]
        assert memory / 8 < area * 100 * 2 * lanes <= memory


def test_an_error_of_the_network_reaches_the_caller_and_the_lane_lives_on():
    def broken(tile):
        if tile.max() > 1:
            raise ValueError("too bright")
        return tile

    network = Network(card(), Fake(broken))
    with pytest.raises(ValueError, match="too bright"):
        network(np.full((1, 1, 4, 4), 2, np.float32))
    assert network(np.zeros((1, 1, 4, 4), np.float32)).shape == (1, 1, 4, 4)
    network.close()
    with pytest.raises(UsageError, match="closed"):
        network(np.zeros((1, 1, 4, 4), np.float32))


def test_what_does_not_fit_is_refused():
    network = Network(card(halo=8, reach=8), Fake())
    with pytest.raises(StageError, match=r"takes 1 channel\(s\), the image has 3; put `grayscale`"):
        predict_dense(network, np.zeros((8, 8, 3), np.float32))
    with pytest.raises(StageError, match="needs at least 8 px, got 4"):
        predict_dense(network, np.zeros((8, 8, 1), np.float32), tiling=Tiling(64, 4))
    with pytest.raises(StageError, match="no room for a halo"):
        predict_dense(network, np.zeros((80, 80, 1), np.float32), tiling=Tiling(16))
    with pytest.raises(StageError, match="wanted tiles float32"):
        network(np.zeros((1, 2, 8, 8), np.float32))
    boxes = Card("cells", "faster-rcnn", "boxes", 1, ("cell",), "boxes")
    with pytest.raises(StageError, match="finds boxes; use detect"):
        predict_dense(Network(boxes, Fake()), np.zeros((8, 8, 1), np.float32))
    whole = Network(card(reach=None), Fake(), Options(memory=1000))
    whole.bytes_per_pixel = 10.0
    with pytest.raises(StageError, match="its context is the whole picture"):
        predict_dense(whole, np.zeros((80, 80, 1), np.float32))


def test_devices_and_precisions_that_are_not_there_are_errors():
    import torch

    assert choose_device("cpu").type == "cpu"
    for name in ("gpu", "cuda:x", "", "cuda:1000"):
        with pytest.raises(UsageError, match="device"):
            choose_device(name)
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(UsageError, match=r"device cuda: .*use cpu or auto"):
            choose_device("cuda")
    with pytest.raises(UsageError, match="float16: needs a GPU"):
        choose_precision("float16", torch.device("cpu"), card())
    assert choose_precision("auto", torch.device("cpu"), card()) == torch.float32
    assert choose_precision("bfloat16", torch.device("cpu"), card()) == torch.bfloat16


@pytest.mark.parametrize(("text", "size"), [("2GB", 2e9), ("1.5 GiB", 1.5 * 2**30), ("800m", 8e8), ("3000000", 3e6)])
def test_memory_as_people_write_it(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "2", "lots", "-2GB", "2PB", "1e3GB", "nan", "99999999999TB"])
def test_memory_that_is_none(text):
    with pytest.raises(UsageError, match="wanted a size"):
        parse_memory(text)


def test_reduced_precision_stays_close(networks):
    import torch

    from cellkit.models.torch_backend import TorchBackend

    network = networks["unet-compact", 0]
    image = np.random.default_rng(2).random((48, 48, 1), np.float32)
    backend = TorchBackend(tiny("unet-compact", 1, 2, 0), network.card, torch.device("cpu"), torch.bfloat16)
    half = predict_dense(Network(network.card, backend), image)
    assert half.dtype == np.float32
    difference = np.abs(half - predict_dense(network, image))
    assert 0 < difference.mean() < 0.02
    assert difference.max() < 0.2


@pytest.mark.parametrize("name", ["unet-compact", "linknet", "fpn", "unet"])
def test_folded_norms_compute_the_same(name):
    import torch

    from cellkit.models.inference import fold_norms

    network, folded = tiny(name, 1, 2, 0), tiny(name, 1, 2, 0)
    for one in (network, folded):
        for module in one.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                generator = torch.Generator().manual_seed(len(module.running_mean))
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.data.uniform_(0.5, 2, generator=generator)
    fold_norms(folded)

    def norms(one):
        return sum(isinstance(module, torch.nn.BatchNorm2d) for module in one.modules())

    assert norms(folded) < norms(network) or norms(network) == 0
    images = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(network(images), folded(images), rtol=1e-4, atol=1e-4)
