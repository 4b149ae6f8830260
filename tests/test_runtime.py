"""Loaded networks under many threads: whoever waits gets an answer, whatever backends do."""

from __future__ import annotations

import dataclasses
import random
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import CancelledError

import numpy as np
import pytest

from cellkit.core import Sample, StageError, UsageError
from cellkit.core.check import plan
from cellkit.core.recipe import load
from cellkit.engine.batch import Settings, run_batch
from cellkit.engine.execute import execute
from cellkit.engine.footprint import bytes_per_pixel
from cellkit.engine.networks import Networks
from cellkit.models.card import Card
from cellkit.models.dense import Tiling, predict_dense
from cellkit.models.runtime import Network, Options, OutOfMemory, forget_models, open_model
from cellkit.models.store import save_model
from tiny_models import TINY, tiny

CARD = Card(name="fake", architecture="unet", task="dense", channels=1, classes=("a",), head="sigmoid")
BAD = 7.0


class Moody:
    """Doubles what it is given; where a tile holds `BAD`, or a batch is over `most`, it does what `mood` says."""

    def __init__(self, mood: str, most: int = 100) -> None:
        self.mood = mood
        self.most = most
        self.closed = False
        self.relieved = 0

    def __call__(self, tiles):
        if len(tiles) > self.most:
            raise MemoryError
        if (tiles == BAD).any():
            if self.mood == "raises":
                raise ValueError("seven")
            if self.mood == "leaves":
                raise SystemExit
            if self.mood == "loses":
                return (tiles * 2)[:-1]
            return None if self.mood == "nothing" else [*(tiles * 2), tiles[0]]
        return tiles * 2

    def relieve(self) -> None:
        self.relieved += 1

    def close(self) -> None:
        self.closed = True


def _use(network: Network, seed: int, seen: Counter) -> None:
    chosen = random.Random(seed)
    for _ in range(12):
        value = chosen.choice([1.0, 2.0, BAD])
        shape = (chosen.choice([1, 3, 5]), 1, chosen.choice([1, 2, 3]), chosen.choice([1, 2]))
        futures = network.submit(np.full(shape, value, np.float32))
        if chosen.random() < 0.3:
            for future in futures[::2]:
                future.cancel()
        for future in futures:
            try:
                right = bool((future.result(timeout=20) == 2 * value).all())
                seen["right" if right and value != BAD else "wrong"] += 1
            except CancelledError:
                seen["cancelled"] += 1
            except TimeoutError:
                seen["waits for ever"] += 1
                return
            except BaseException:
                seen["error" if value == BAD else "error of a neighbour"] += 1


@pytest.mark.parametrize("mood", ["raises", "loses", "nothing", "invents"])
@pytest.mark.parametrize("batch", [1, 4])
def test_many_threads_all_get_their_own_answer(mood, batch):
    backend = Moody(mood, most=2)
    network = Network(CARD, backend, Options(lanes=3, batch=batch))
    tallies = [Counter() for _ in range(8)]
    threads = [threading.Thread(target=_use, args=(network, i, seen)) for i, seen in enumerate(tallies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    network.close()
    total = sum(tallies, Counter())
    assert set(total) == {"right", "error", "cancelled"}
    assert network.batch == min(batch, 2)
    assert backend.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "fake-lane"]


def test_a_lane_outlives_whatever_a_backend_raises():
    network = Network(CARD, Moody("leaves"), Options(lanes=1))
    with pytest.raises(SystemExit):
        network.submit(np.full((1, 1, 2, 2), BAD, np.float32))[0].result(timeout=20)
    assert (network.submit(np.ones((1, 1, 2, 2), np.float32))[0].result(timeout=20) == 2).all()
    network.close()


def test_too_few_predictions_are_an_error_that_says_so():
    network = Network(CARD, Moody("loses"), Options(lanes=1))
    with pytest.raises(StageError, match="fake: gave 0 predictions for 1 tiles"):
        network(np.full((1, 1, 2, 2), BAD, np.float32))
    network.close()


def test_no_memory_for_windows_of_a_size_that_was_asked_for():
    network = Network(CARD, Moody("raises", most=0), Options(lanes=1))
    with pytest.raises(OutOfMemory, match="give a smaller size"):
        predict_dense(network, np.ones((40, 40, 1), np.float32), tiling=Tiling(16, 0))
    network.close()


def test_where_one_view_fails_the_others_leave_the_line():
    gate = threading.Event()

    class Gated(Moody):
        calls = 0

        def __call__(self, _):
            self.calls += 1
            if self.calls > 1:
                gate.wait(20)
            raise ValueError("no")

    network = Network(CARD, Gated("raises"), Options(lanes=1))
    with pytest.raises(ValueError, match="no"):
        predict_dense(network, np.ones((8, 8, 1), np.float32), tta="d4")
    assert not network._queue or all(job.future.cancelled() for job in network._queue)
    gate.set()
    network.close()
    assert network._backend.calls <= 2


@pytest.fixture
def model(tmp_path):
    def write(seed: int = 0, **changes):
        card = Card(
            name="tiny", architecture="unet-compact", task="dense", channels=1, classes=("object",), head="sigmoid",
            parameters=TINY["unet-compact"], halo=32, reach=32,
        )  # fmt: skip
        card = save_model(tmp_path / "tiny", tiny("unet-compact", seed=seed), dataclasses.replace(card, **changes))
        return str(tmp_path / "tiny"), card

    forget_models()
    yield write
    forget_models()


def _images(folder, count=2):
    from cellkit.io import write

    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        write(folder / f"{i}.png", random.integers(0, 255, (40, 50), np.uint8))
    return [folder]


def test_a_bound_on_memory_ends_with_its_run(model, tmp_path):
    name, _ = model()
    recipe = load(f"cellkit: 1\nname: r\nsteps:\n  - predict: {{model: {name}}}\noutputs: [prob]\n")
    network = open_model(name)
    before = network.memory
    images = _images(tmp_path / "images", 1)
    run_batch(recipe, images, tmp_path / "out", settings=Settings(memory=4 * 2**30))
    opened = [open_model(name, Options(alone=alone)) for alone in (True, False)]
    assert [one.memory for one in opened] == [before, before]


@pytest.mark.parametrize("change", [{"mean": (0.3,)}, {"classes": ("cell",)}, {"halo": 48}])
def test_a_changed_card_does_images_again(model, tmp_path, change):
    """What a card says decides results too: the weights alone do not."""
    name, _ = model()
    recipe = load(f"cellkit: 1\nname: r\nsteps:\n  - predict: {{model: {name}}}\noutputs: [prob]\n")
    images = _images(tmp_path / "images")
    run_batch(recipe, images, tmp_path / "out")
    model(licence="CC0")
    assert run_batch(recipe, images, tmp_path / "out").kept == 2
    model(**change)
    assert run_batch(recipe, images, tmp_path / "out").done == 2


def test_a_changed_onnx_file_does_images_again(model, tmp_path):
    """Its card digests what it was exported from, or nothing: the file itself counts."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from cellkit.models import find_model
    from cellkit.models.onnx_export import export_onnx

    name, _ = model()
    graph = tmp_path / "tiny.onnx"
    export_onnx(find_model(name), graph)
    recipe = load(f"cellkit: 1\nname: r\nsteps:\n  - predict: {{model: {graph}}}\noutputs: [prob]\n")
    images = _images(tmp_path / "images")
    run_batch(recipe, images, tmp_path / "out")
    assert run_batch(recipe, images, tmp_path / "out").kept == 2
    with graph.open("ab") as file:
        file.write(b"\x12\x01x")  # the name of the producer: another file, the same card
    assert run_batch(recipe, images, tmp_path / "out").done == 2


def test_an_onnx_file_has_its_own_precision(model, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from cellkit.models import find_model
    from cellkit.models.onnx_export import export_onnx

    graph = tmp_path / "tiny.onnx"
    export_onnx(find_model(model()[0]), graph)
    with pytest.raises(UsageError, match="precision bfloat16: an ONNX file has its own"):
        open_model(str(graph), precision="bfloat16")


def test_names_of_classes_come_from_the_network_that_ran(model, tmp_path):
    """Not from its file, which may be gone by then, and is not read once a tile."""
    name, _ = model()
    bound = plan(load(f"cellkit: 1\nname: r\nsteps:\n  - predict: {{model: {name}}}\noutputs: [prob]\n"))
    networks = Networks()
    networks.open(bound.steps)
    for file in (tmp_path / "tiny").iterdir():
        file.unlink()
    sample = Sample.of(image=np.zeros((20, 20, 1), np.float32))
    assert execute(bound, sample, networks=networks).layer("prob").names == ("object",)


def test_tiles_are_cut_when_their_turn_comes():
    text = (
        "cellkit: 1\nname: r\nsteps:\n  - tile: {size: 64, halo: 64}\n    steps:\n      - threshold\noutputs: [mask]\n"
    )
    bound = plan(load(text))
    image = np.random.default_rng(0).random((1024, 1024, 1), np.float32)
    execute(bound, Sample.of(image=image[:64, :64]))
    tracemalloc.start()
    execute(bound, Sample.of(image=image))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * image.nbytes  # all tiles at once would be about 8 times the image


def test_what_lies_in_parts_counts_as_memory():
    inner = "    steps:\n      - {gaussian: {}, out: smooth}\n"
    text = f"cellkit: 1\nname: r\nsteps:\n  - {{bracket}}\n{inner}outputs: [smooth]\n"
    sizes = [
        bytes_per_pixel(plan(load(text.replace("{bracket}", bracket))), ["smooth"], 1)
        for bracket in ("tile: {size: 64, halo: 0}", "tile: {size: 64, halo: 32}", "pad: {multiple: 16}")
    ]
    assert sizes == [24, 36, 24]  # raw, smooth, its parts (1, 4 or 1 times), 12 of workspace
