"""Detectors: masks enlarged in their boxes, windows and seams, the stages, and what check says of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellkit as ck
from cellkit.core import Boxes, Instances, StageError
from cellkit.grid.brackets import tile
from cellkit.grid.owners import own_instances
from cellkit.models.card import Card
from cellkit.models.objects import predict_objects
from cellkit.models.store import save_model
from cellkit.stages import detect, detect_masks, suppress
from tiny_models import TINY, tiny

torch = pytest.importorskip("torch")


def card_of(task, **more):
    name = {"boxes": "faster-rcnn", "masks": "mask-rcnn"}[task]
    return Card(**{
        "name": "tiny", "architecture": name, "task": task, "channels": 1, "classes": ("round", "long"), "head": task,
        "parameters": TINY[name], "tile": 64, **more,
    })  # fmt: skip


# Masks of torchvision -------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([2, 7, 14, 28]), st.integers(0, 10**6))
def test_paste_equals_torchvision(height, width, side, seed):
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    from cellkit.models._detector import paste

    rng = np.random.default_rng(seed)
    mask = rng.random((side, side), np.float32)
    corners = np.sort(rng.random((2, 2)), axis=0) * [width, height]
    box = corners.reshape(4).astype(np.float32)
    x0, y0 = np.floor(box[:2]).astype(int).tolist()
    x1, y1 = np.ceil(box[2:]).astype(int).tolist()
    whole = paste_masks_in_image(torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], (height, width))
    got = paste(mask, box, (x0, y0, x1, y1))
    assert got.shape == (y1 - y0, x1 - x0)
    np.testing.assert_allclose(got, whole[0, 0].numpy()[y0:y1, x0:x1], atol=1e-4)


def backend_of(network, task, **more):
    from cellkit.models._detector import DetectorBackend

    return DetectorBackend(network, card_of(task, **more), torch.device("cpu"), torch.float32)


def eager(network):
    """Let an untrained network report something: no lowest score, little suppression."""
    network.roi_heads.score_thresh = 0.0
    network.roi_heads.nms_thresh = 0.9
    return network


@pytest.mark.parametrize("shape", [(64, 64), (61, 47), (1, 1), (90, 33)])
def test_the_backend_finds_what_torchvision_does(shape):
    tiles = np.random.default_rng(0).random((2, 1, *shape), np.float32)
    network = eager(tiny("mask-rcnn", 1, 2))
    backend = backend_of(network, "masks")
    with torch.inference_mode():
        wanted = network(list(torch.from_numpy(tiles)))
    found = backend(tiles)
    assert len(found) == 2
    for got, one in zip(found, wanted, strict=True):
        real = np.flatnonzero((one["boxes"][:, 2:] > one["boxes"][:, :2]).all(dim=1).numpy())
        assert shape == (1, 1) or len(real)
        np.testing.assert_allclose(got.boxes.xyxy, one["boxes"].numpy()[real], atol=1e-4)
        np.testing.assert_allclose(got.boxes.scores, one["scores"].numpy()[real], atol=1e-6)
        np.testing.assert_array_equal(got.boxes.classes, one["labels"].numpy()[real] - 1)
        for box, mask, prob, whole in zip(got.boxes.xyxy, got.masks, got.probs, one["masks"][real, 0], strict=True):
            x0, y0, x1, y1 = [*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int)]
            np.testing.assert_allclose(prob, whole.numpy()[y0:y1, x0:x1], atol=1e-4)
            np.testing.assert_array_equal(mask, prob > 0.5)
            assert prob.dtype == np.float32


def test_the_backend_gives_boxes_where_the_task_is_boxes():
    tiles = np.random.default_rng(1).random((1, 1, 50, 70), np.float32)
    network = eager(tiny("faster-rcnn", 1, 2))
    (got,) = backend_of(network, "boxes")(tiles)
    with torch.inference_mode():
        (wanted,) = network(list(torch.from_numpy(tiles)))
    assert isinstance(got, Boxes)
    assert len(got) > 0
    np.testing.assert_allclose(got.xyxy, wanted["boxes"].numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["faster-rcnn", "mask-rcnn"])
def test_boxes_keep_their_place_where_the_network_computes_in_bfloat16(name):
    """A box 1 px wide beyond 256 px has no width in bfloat16, and a proposal without width an infinite loss."""
    network = tiny(name, 1, 2).train()
    seen = []
    network.rpn.register_forward_hook(lambda _module, _inputs, found: seen.extend(found[0]))
    target = {"boxes": torch.tensor([[508.5, 400.0, 509.5, 470.0], [300.0, 301.0, 340.0, 350.0]])}
    target |= {"labels": torch.tensor([1, 2]), "masks": torch.ones(2, 512, 512, dtype=torch.uint8)}
    with torch.autocast("cpu", torch.bfloat16):
        losses = network([torch.rand(1, 512, 512)], [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(boxes.dtype == torch.float32 for boxes in seen)


def test_what_was_seen_first_does_not_matter():
    """torchvision takes the scale of its features from the first picture, and goes wrong where that is a small one."""
    tile = np.random.default_rng(2).random((1, 1, 90, 70), np.float32)
    fresh, used = (backend_of(eager(tiny("mask-rcnn", 1, 2)), "masks") for _ in range(2))
    used(np.zeros((1, 1, 5, 5), np.float32))
    (one,), (two,) = fresh(tile), used(tile)
    np.testing.assert_array_equal(one.boxes.xyxy, two.boxes.xyxy)
    np.testing.assert_array_equal(one.boxes.scores, two.boxes.scores)
    poolings = [m for m in used.network.modules() if type(m).__name__ == "MultiScaleRoIAlign"]
    assert [p.scales for p in poolings] == [[0.25, 0.125]] * 2


class Says(torch.nn.Module):
    """A network of someone else's that reports the same for every tile."""

    def __init__(self, boxes, scores, masks=None):
        super().__init__()
        self.found = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "labels": torch.arange(1, len(scores) + 1) % 2 + 1,
        }
        if masks is not None:
            self.found["masks"] = masks

    def forward(self, images):
        return [dict(self.found) for _ in images]


def test_boxes_are_cut_to_the_tile_and_those_without_area_dropped():
    nan = float("nan")
    said = [[-5, 2, 9, 30], [3, 3, 3, 9], [20, 0, 30, 5], [1, 1, nan, 4], [0, 0, 1, 1]]
    (got,) = backend_of(Says(said, [0.9, 0.8, 0.7, 0.6, nan]), "boxes")(np.zeros((1, 1, 10, 20), np.float32))
    np.testing.assert_array_equal(got.xyxy, [[0, 2, 9, 10]])
    np.testing.assert_array_equal(got.classes, [1])
    (none,) = backend_of(Says([], []), "boxes")(np.zeros((1, 1, 4, 4), np.float32))
    assert len(none) == 0


def test_masks_that_are_drawn_already_are_cropped():
    full = torch.rand(2, 1, 10, 20)
    network = Says([[1.5, 2, 4.2, 6], [0, 0, 20, 10]], [0.9, 0.8], full)
    (got,) = backend_of(network, "masks")(np.zeros((1, 1, 10, 20), np.float32))
    np.testing.assert_array_equal(got.probs[0], full[0, 0, 2:6, 1:5].numpy())
    np.testing.assert_array_equal(got.masks[1], full[1, 0].numpy() > 0.5)
    with pytest.raises(StageError, match="the network gives none"):
        backend_of(Says([[0, 0, 1, 1]], [0.9]), "masks")(np.zeros((1, 1, 4, 4), np.float32))


# Windows and seams ----------------------------------------------------------------------------------------------------


def coordinates(shape):
    """An image whose pixels say where they are."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return np.stack([y, x], axis=2)


class Oracle:
    """Reports the objects that reach into a tile, cut there: jittered, and less sure of what is cut."""

    def __init__(self, boxes, jitter=0.0, masks=False, seed=0):
        self.boxes = boxes
        self.card = card_of("masks" if masks else "boxes", channels=2)
        self.jitter = jitter
        self.rng = np.random.default_rng(seed)
        self.windows = []
        self.calls = []

    def __call__(self, tiles):
        self.calls.append(len(tiles))
        return [self.look(t) for t in tiles]

    def look(self, tile):
        top, left = tile[:, 0, 0]
        height, width = tile.shape[1:]
        self.windows.append((int(top), int(left), height, width))
        moved = self.boxes.xyxy - np.float32([left, top, left, top])
        moved = moved + self.rng.uniform(-self.jitter, self.jitter, moved.shape).astype(np.float32)
        cut = np.clip(moved, 0, np.float32([width, height] * 2))
        seen = np.flatnonzero((cut[:, 2:] - cut[:, :2] > 0.3).all(axis=1))
        share = ((cut[:, 2:] - cut[:, :2]).prod(axis=1) / (moved[:, 2:] - moved[:, :2]).prod(axis=1))[seen]
        whole = self.boxes.take(seen)
        boxes = Boxes(cut[seen], (whole.scores * share).astype(np.float32), whole.classes)
        if self.card.task == "boxes":
            return boxes
        sides = (np.ceil(boxes.xyxy[:, 2:]) - np.floor(boxes.xyxy[:, :2])).astype(int)
        probs = tuple(np.full((h, w), s, np.float32) for (w, h), s in zip(sides, boxes.scores, strict=True))
        return Instances(boxes, tuple(p > 0 for p in probs), probs)


def apart(rng, shape, across, gap=3):
    """Objects of `across` / 2 to `across` px that keep `gap` px between them, some at the image's edges."""
    pitch = across + gap
    found = []
    for y in range(0, shape[0], pitch):
        for x in range(0, shape[1], pitch):
            h, w = rng.uniform(across / 2, across, 2)
            y0, x0 = y + rng.uniform(0, across - h), x + rng.uniform(0, across - w)
            found.append([x0, y0, min(x0 + w, shape[1]), min(y0 + h, shape[0])])
    xyxy = np.array(found, np.float32)
    # What the image's edge cuts down to a sliver is no object.
    xyxy = xyxy[(xyxy[:, 2:] - xyxy[:, :2] > min(4, *shape) - 0.5).all(axis=1)].reshape(-1, 4)
    count = len(xyxy)
    return Boxes(xyxy, rng.uniform(0.6, 1, count).astype(np.float32), rng.integers(0, 2, count).astype(np.int32))


def each_once(truth, got, jitter):
    """Assert that the boxes of `got` are those of `truth`, each once, whole and of the right class."""
    assert len(got) == len(truth)
    if not len(truth):
        return
    distance = np.abs(truth.xyxy[:, None] - got.xyxy[None]).max(axis=2)
    partner = distance.argmin(axis=1)
    assert len(set(partner.tolist())) == len(truth)
    assert distance[np.arange(len(truth)), partner].max() <= jitter + 1e-3
    np.testing.assert_array_equal(got.classes[partner], truth.classes)
    # A jittered box that leaves its window by a hair is a little less sure.
    np.testing.assert_allclose(got.scores[partner], truth.scores, rtol=0.35 if jitter else 1e-5)


SHAPES = st.tuples(st.sampled_from([1, 2, 13, 40, 61, 97, 128]), st.sampled_from([1, 7, 31, 64, 89, 151]))


@settings(max_examples=120)
@given(
    shape=SHAPES,
    size=st.integers(26, 70),
    jitter=st.sampled_from([0.0, 0.4]),
    masks=st.booleans(),
    batch=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_objects_on_seams_are_found_once_and_whole(shape, size, jitter, masks, batch, seed):
    rng = np.random.default_rng(seed)
    jitter *= min(1, min(shape) / 8)
    halo = int(rng.integers(8, size // 3 + 1))
    across = int(rng.integers(8, 2 * halo - 2 + 1))  # whole in the window that owns it, jitter and all
    truth = apart(rng, shape, across)
    network = Oracle(truth, jitter, masks, seed)
    got = predict_objects(network, coordinates(shape), size=size, halo=halo, batch=batch)
    each_once(truth, got.boxes if masks else got, jitter)
    assert {w[2:] for w in network.windows} == {(min(shape[0], size), min(shape[1], size))}
    assert max(network.calls) <= batch
    if masks:
        for box, mask, prob in zip(got.boxes.xyxy, got.masks, got.probs, strict=True):
            assert mask.shape == tuple((np.ceil(box[2:]) - np.floor(box[:2])).astype(int)[::-1])
            assert mask.all()
            assert prob.shape == mask.shape
    few = suppress(got, iou=0.3)
    assert len(few) == len(truth), "suppression finds nothing left to do"


def test_what_fits_goes_through_as_one_picture():
    truth = apart(np.random.default_rng(0), (40, 30), 9)
    network = Oracle(truth)
    got = predict_objects(network, coordinates((40, 30)), size=40, halo=30)
    assert network.windows == [(0, 0, 40, 30)]
    np.testing.assert_array_equal(got.xyxy, truth.xyxy)


@pytest.mark.parametrize("masks", [False, True])
def test_no_object_at_all(masks):
    nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    got = predict_objects(Oracle(nothing, masks=masks), coordinates((70, 90)), size=32, halo=8)
    assert len(got) == 0


def test_seventy_thousand_boxes():
    rng = np.random.default_rng(0)
    truth = apart(rng, (3000, 3000), 8)
    truth = truth.take(np.sort(rng.permutation(len(truth))[:70_000]))
    assert len(truth) == 70_000
    got = predict_objects(Oracle(truth, 0.2), coordinates((3000, 3000)), size=1600, halo=100)
    assert len(got) == 70_000
    order, wanted = (np.lexsort(np.round(b.xyxy[:, :2] / 11).T) for b in (got, truth))
    np.testing.assert_array_equal(got.classes[order], truth.classes[wanted])


def test_windows_without_room_and_networks_that_answer_wrong():
    truth = apart(np.random.default_rng(0), (40, 40), 9)
    with pytest.raises(StageError, match=r"no room for a halo of 10 px.*smaller halo"):
        predict_objects(Oracle(truth), coordinates((40, 40)), size=20, halo=10)
    wrong = Oracle(truth)
    wrong.card = card_of("masks", channels=2)
    wrong.look = lambda _: truth
    with pytest.raises(StageError, match="wanted Instances for each of 1 tiles, got Boxes for 1"):
        predict_objects(wrong, coordinates((40, 40)), size=40, halo=4)


def test_masks_fit_their_boxes_however_far_out_they_lie():
    """At 90,000 px float32 knows 128ths: a side a hair below a pixel's edge must not be rounded onto it."""
    frame = tile((32, 100_000), size=(32, 90_000), halo=8)
    sides = np.nextafter(np.float32([3, 5]), np.float32([0, 9]))
    boxes = Boxes(np.float32([[20 + 1 - 1e-6, sides[0], 30 + 1e-5, sides[1]]]), np.float32([1]), np.int32([0]))
    box = boxes.xyxy[0]
    mask = np.ones((int(np.ceil(box[3]) - np.floor(box[1])), int(np.ceil(box[2]) - np.floor(box[0]))), bool)
    nothing = Instances(boxes.take(np.zeros(0, int)), ())
    got = own_instances([nothing, Instances(boxes, (mask,))], tuple(p.tile for p in frame.parts), (32, 100_000))
    box = got.boxes.xyxy[0]
    assert got.masks[0].shape == (np.ceil(box[3]) - np.floor(box[1]), np.ceil(box[2]) - np.floor(box[0]))
    assert got.masks[0].shape == mask.shape


# The stages -----------------------------------------------------------------------------------------------------------


def model_at(folder, task, **more):
    name = {"boxes": "faster-rcnn", "masks": "mask-rcnn"}[task]
    network = eager(tiny(name, more.get("channels", 1), 2))
    path = folder / f"tiny-{task}.safetensors"
    save_model(path, network, card_of(task, parameters={**TINY[name], "score_threshold": 0.0}, **more))
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {task: model_at(folder, task) for task in ("boxes", "masks")}


def test_a_recipe_of_boxes(models):
    recipe = ck.Recipe.load(f"""
steps:
  - detect: {{model: "{models["boxes"]}", score: 0.0}}
  - measure
  - tally: {{}}
outputs: [boxes, table]
""")
    image = np.random.default_rng(0).random((97, 130), np.float32)
    result = ck.run(recipe, ck.Sample.of(image=image))
    boxes = result["boxes"]
    assert len(boxes) > 0
    assert (boxes.xyxy >= 0).all()
    assert (boxes.xyxy <= [130, 97, 130, 97]).all()
    assert result.layer("boxes").names == ("round", "long")
    assert (np.diff(boxes.scores) <= 0).all()


def test_a_recipe_from_instances_to_a_table(models):
    recipe = ck.Recipe.load(f"""
steps:
  - detect_masks: {{model: "{models["masks"]}", score: 0.0, size: 64, halo: 16}}
  - suppress: {{iou: 0.3}}
  - paint
  - {{merge_masks: {{score: 0.0}}}}
  - to_labels
  - measure: {{}}
    in: [labels, raw]
""")
    image = np.random.default_rng(0).random((97, 70), np.float32)
    result = ck.run(recipe, ck.Sample.of(image=image))
    count = result["labels"].max()
    assert 0 < count <= len(result["instances"])
    assert len(result["table"]) == count
    assert result["prob"].shape == (97, 70, 1)
    assert result.layer("instances").names == ("round", "long")


def test_detecting_twice_gives_the_same(models):
    image = np.random.default_rng(0).random((50, 60, 1), np.float32)
    one, two = (detect_masks(image, model=models["masks"], score=0.0) for _ in range(2))
    np.testing.assert_array_equal(one.boxes.xyxy, two.boxes.xyxy)
    assert all(np.array_equal(a, b) for a, b in zip(one.probs, two.probs, strict=True))


def test_stages_name_what_is_wrong_with_their_input(models):
    image = np.zeros((20, 20, 1), np.float32)
    with pytest.raises(StageError, match="names no model"):
        detect(image)
    with pytest.raises(StageError, match="wanted a model for boxes, tiny is one for masks"):
        detect(image, model=models["masks"])
    with pytest.raises(StageError, match=r"wants 1 channel, the image has 3 channels; put `grayscale` before it"):
        detect(np.zeros((20, 20, 3), np.float32), model=models["boxes"])
    with pytest.raises(StageError, match=r"put `channel: \{name: 0\}` before it"):
        detect_masks(np.zeros((20, 20, 2), np.float32), model=models["masks"])
    with pytest.raises(StageError, match="no room for a halo"):
        detect(np.zeros((80, 20, 1), np.float32), model=models["boxes"], size=32, halo=16)


def faults(*steps):
    return [str(f) for f in ck.check(ck.Recipe(steps=tuple(steps)))]


def step(name, **params):
    return ck.core.Step(name, params)


def test_check_names_models_that_will_not_do(models, tmp_path):
    assert faults(step("detect", model=models["boxes"])) == []
    (none,) = faults(step("detect"))
    assert "detect.model: names no model" in none
    (unknown,) = faults(step("detect", model="no-such-model"))
    assert "detect.model" in unknown
    assert "no-such-model" in unknown
    (other,) = faults(step("detect", model=models["masks"]))
    assert "detect_masks" in other
    (room,) = faults(step("detect", model=models["boxes"], size=32, halo=16))
    assert "detect.halo: windows of 32 px have no room" in room


def test_check_warns_of_weights_that_are_missing(tmp_path):
    card = card_of("boxes", obtain="train it with the recipe `tiny`")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "card.json").write_text(card.dump(), encoding="utf-8")
    (fault,) = ck.check(ck.Recipe(steps=(step("detect", model=str(tmp_path / "tiny")),)))
    assert fault.warning
    assert "the weights of tiny are missing (train it with the recipe `tiny`)" in str(fault)


@pytest.mark.parametrize(
    ("before", "text"),
    [
        ((), "here `grayscale` is missing"),
        (("grayscale",), "here `gaussian` is missing"),
        (("invert", "gaussian"), "here `invert` stands where `grayscale` should"),
        (("grayscale", ("gaussian", {"sigma": 3.0})), "`gaussian` had sigma: 2.0; here it is 3.0"),
        (("grayscale", ("gaussian", {"sigma": 2}), "invert"), "here `invert` is one more"),
        (("grayscale", "otsu", ("gaussian", {"sigma": 2})), ""),
    ],
)
def test_check_compares_the_steps_before_with_those_of_training(tmp_path, before, text):
    """The mask that `otsu` makes on the way is no matter to the network, nor is a tile around it all."""
    model = model_at(tmp_path, "boxes", recipe=("grayscale", {"gaussian": {"sigma": 2}}))
    steps = [step(b) if isinstance(b, str) else step(b[0], **b[1]) for b in before]
    found = ck.check(ck.Recipe(steps=(*steps, step("detect", model=model))))
    assert [f.warning for f in found] == [True] * bool(text)
    assert text in "".join(map(str, found))
    inside = ck.core.Step("tile", {"size": 64}, steps=(*steps, step("detect", model=model)))
    assert len(ck.check(ck.Recipe(steps=(inside,)))) >= bool(text)
