"""Every architecture, unnamed: shapes, gradients, storing, determinism, context; then what each of them promises."""

from __future__ import annotations

import socket
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from cellkit.core import UsageError
from cellkit.models import architectures, build
from cellkit.models.architecture import find
from tiny_models import TINY, tiny

torch = pytest.importorskip("torch")
ALL = architectures()
DENSE = [name for name, spec in ALL.items() if spec.task == "dense"]
DETECTORS = [name for name, spec in ALL.items() if spec.task != "dense"]
WITH_HUB = [name for name, spec in ALL.items() if "encoder_weights" in spec.parameters]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch):
    """No test here reaches for a network."""

    def refuse(*_):
        raise AssertionError("a network was reached for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def divisor_of(name):
    return ALL[name].divisor(ALL[name].complete(TINY[name]))


def image(name, channels, height, width, seed=1):
    """Random pixels, padded to the divisor."""
    divisor = divisor_of(name)
    sides = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    return torch.rand(1, channels, *sides, generator=torch.Generator().manual_seed(seed))


def targets(name, outputs):
    """Two objects on an image of 64 x 80 pixels."""
    boxes = torch.tensor([[4.0, 6.0, 20.0, 22.0], [40.0, 30.0, 52.0, 50.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1, outputs])}
    if ALL[name].task == "masks":
        target["masks"] = torch.zeros(2, 64, 80, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(target["masks"], boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
    return target


def results(name, network, pixels):
    """What a network gives, as a list of tensors."""
    with torch.inference_mode():
        found = network(pixels) if ALL[name].task == "dense" else network(list(pixels))
    return [found] if isinstance(found, torch.Tensor) else [v for _, v in sorted(found[0].items())]


def test_every_architecture_has_a_tiny_instance():
    assert set(ALL) == set(TINY)


def test_listing_needs_no_torch():
    code = "import sys; from cellkit.models import architectures; assert len(architectures()) > 15; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "torchvision", "timm", "segmentation_models_pytorch"} & set(loaded)


@pytest.mark.parametrize("name", ALL)
def test_declaration(name):
    spec = ALL[name]
    assert spec.summary.endswith(".")
    assert any(word in spec.source for word in ("arXiv:", "doi:"))
    for divisor in (spec.divisor(spec.complete({})), divisor_of(name)):
        assert divisor >= 1
        assert divisor & (divisor - 1) == 0


@pytest.mark.parametrize("name", ALL)
def test_unknown_parameter_is_named_with_a_suggestion(name):
    known = next(iter(ALL[name].parameters))
    with pytest.raises(UsageError, match=rf"{name}: no parameter '{known}s' \(did you mean '{known}'\?\)"):
        build(name, 1, 1, {f"{known}s": 1})


def test_unknown_architecture_is_named_with_a_suggestion():
    with pytest.raises(UsageError, match=r"no architecture is called 'unett'; did you mean 'unet'\?"):
        find("unett")
    with pytest.raises(UsageError, match="at least one channel and one output"):
        build("unet", 0, 1)


@pytest.mark.parametrize(
    ("channels", "outputs", "height", "width"), [(1, 1, 1, 1), (2, 3, 37, 67), (3, 2, 1, 131), (4, 1, 31, 2)]
)
@pytest.mark.parametrize("name", DENSE)
def test_logits_have_the_size_of_the_input(name, channels, outputs, height, width):
    pixels = image(name, channels, height, width)
    (logits,) = results(name, tiny(name, channels, outputs), pixels)
    assert logits.shape == (1, outputs, *pixels.shape[2:])
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert logits.std() > 0 or logits.numel() == 1


@pytest.mark.parametrize(
    ("channels", "outputs", "height", "width"), [(1, 1, 1, 1), (2, 3, 37, 67), (3, 2, 1, 131), (4, 1, 31, 2)]
)
@pytest.mark.parametrize("name", DETECTORS)
def test_detections_lie_within_the_input(name, channels, outputs, height, width):
    network = tiny(name, channels, outputs)
    network.roi_heads.score_thresh = 0.0
    pixels = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, second = network([pixels, pixels])
    assert len(first["boxes"]) > 0 or min(height, width) < 3  # boxes of less than 0.01 px are dropped
    assert torch.equal(first["boxes"], second["boxes"])
    low, high = first["boxes"][:, :2], first["boxes"][:, 2:]
    assert (low >= 0).all()
    assert (high <= torch.tensor([width, height])).all()
    assert (high >= low).all()
    assert set(first["labels"].tolist()) <= set(range(1, outputs + 1))
    assert ((first["scores"] >= 0) & (first["scores"] <= 1)).all()
    if ALL[name].task == "masks":
        assert first["masks"].shape == (len(low), 1, height, width)
        assert ((first["masks"] >= 0) & (first["masks"] <= 1)).all()


@pytest.mark.parametrize("name", ALL)
def test_gradient_reaches_every_parameter(name):
    network = tiny(name, 2, 2).train()
    torch.manual_seed(0)
    if ALL[name].task == "dense":
        side = 2 * divisor_of(name)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(torch.rand(1, 2, side, side)), torch.rand(1, 2, side, side).round()
        )
    else:
        losses = network([torch.rand(2, 64, 80)], [targets(name, 2)])
        loss = sum(losses.values())
    loss.backward()
    trained = {key: p for key, p in network.named_parameters() if p.requires_grad}
    assert [key for key, p in trained.items() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in trained.values())
    # The bias before a batch normalisation, and units that ReLU keeps shut, have a gradient of 0.
    assert sum(bool(p.grad.any()) for p in trained.values()) > 0.8 * len(trained)


@pytest.mark.parametrize("name", ALL)
def test_storing_and_loading_gives_the_same_network(name, tmp_path):
    from safetensors.torch import load_file, save_file

    pixels = image(name, 2, 32, 32) if name in DENSE else torch.rand(1, 2, 48, 48)
    stored, other = tiny(name, 2, 2, seed=0), tiny(name, 2, 2, seed=1)
    wanted = results(name, stored, pixels)
    assert not all(map(torch.equal, wanted, results(name, other, pixels)))
    save_file(stored.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert all(map(torch.equal, wanted, results(name, other, pixels)))


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_network_same_result(name):
    pixels = image(name, 1, 32, 32) if name in DENSE else torch.rand(1, 1, 48, 48)
    one, two = tiny(name, seed=7), tiny(name, seed=7)
    first = one.state_dict()
    assert list(first) == list(two.state_dict())
    assert all(torch.equal(first[key], value) for key, value in two.state_dict().items())
    again = results(name, one, pixels)
    assert all(map(torch.equal, results(name, one, pixels), again))
    assert all(map(torch.equal, results(name, two, pixels), again))


@pytest.mark.parametrize("name", DENSE)
def test_pixels_beyond_the_reach_change_nothing(name):
    from cellkit.models.probe import reach

    divisor = divisor_of(name)
    network = tiny(name)
    distance = reach(network, 1, divisor)
    if distance is None:
        assert ALL[name].context == "WHOLE"
        return
    for turned in (False, True):
        length = -(-(2 * distance + 3 * divisor) // divisor) * divisor
        pixels = torch.rand(1, 1, length, 2 * divisor, generator=torch.Generator().manual_seed(0))
        if turned:
            pixels = pixels.transpose(2, 3).contiguous()
        axis = 3 if turned else 2
        middle = length // 2
        changed = pixels.clone()
        changed.narrow(axis, 0, middle - distance).neg_()
        begin = middle + divisor + distance
        changed.narrow(axis, begin, length - begin).mul_(50)
        (before,), (after,) = results(name, network, pixels), results(name, network, changed)
        kept = [found.narrow(axis, middle, divisor) for found in (before, after)]
        assert torch.equal(*kept)
        assert not torch.equal(before, after)


# Hubs


class Unreachable:
    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error


def hub_errors():
    from huggingface_hub import errors

    return [ConnectionError("no route to host"), errors.OfflineModeIsEnabled("offline"),
            errors.LocalEntryNotFoundError("not in the cache"), errors.HTTPError("connection refused")]  # fmt: skip


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("name", WITH_HUB)
def test_unreachable_hub_is_said_and_how_to_do_without(name, kind, monkeypatch):
    if kind and "encoder" not in ALL[name].parameters:
        pytest.skip("the same code as for the first error, and slower")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Unreachable(hub_errors()[kind]))
    width = {} if "encoder" in ALL[name].parameters else {"width": 64}
    with pytest.raises(UsageError, match=r"huggingface\.co/\S+ cannot be reached .*encoder_weights: none"):
        build(name, 1, 1, {**TINY[name], **width, "encoder_weights": "imagenet"})


def test_nothing_is_fetched_unasked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Unreachable(AssertionError("fetched")))
    for name in WITH_HUB:
        assert ALL[name].parameters["encoder_weights"].default == "none"
        assert tiny(name) is not None


def test_weights_that_a_hub_does_not_have():
    with pytest.raises(UsageError, match=r"'resnext101_32x16d' has no ImageNet weights; .*encoder_weights: none"):
        build("linknet", 1, 1, {"encoder": "resnext101_32x16d", "encoder_weights": "imagenet"})
    with pytest.raises(UsageError, match="are for VGG-16 of width 64, not 8"):
        build("segnet", 1, 1, {"width": 8, "encoder_weights": "imagenet"})


@pytest.mark.parametrize("error", ["RemoteEntryNotFoundError", "EntryNotFoundError"])
def test_weights_that_are_a_pickle_only_are_refused(monkeypatch, error):
    from huggingface_hub import errors

    class Missing(errors.EntryNotFoundError):
        pass

    monkeypatch.setattr("huggingface_hub.hf_hub_download", Unreachable(Missing(error)))
    with pytest.raises(UsageError, match="holds no safetensors"):
        build("linknet", 1, 1, {"encoder": "resnet18", "encoder_weights": "imagenet"})


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("linknet", {"encoder": "resnet18"}), ("linknet", {}), ("segnet", {"width": 64, "depth": 2})],
)
def test_damaged_weights_are_said(tmp_path, monkeypatch, name, parameters):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"<html>not here</html>")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(file))
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", lambda *_, **__: str(file))
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: str(file))
    with pytest.raises(UsageError, match=r"weights of encoder '.*' are damaged"):
        build(name, 1, 1, {**TINY[name], **parameters, "encoder_weights": "imagenet"})


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_weights_of_vgg_are_read_as_torchvision_would(tmp_path, monkeypatch, norm, channels):
    from safetensors.torch import save_file
    from torchvision.models.vgg import make_layers

    from cellkit.models._vgg import vgg16

    torch.manual_seed(0)
    known = make_layers([64, 64, "M", 128, 128, "M"], batch_norm=norm == "batch").eval()
    for module in known:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    file = tmp_path / "model.safetensors"
    save_file({f"features.{key}": value for key, value in known.state_dict().items()}, file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(file))
    stages = vgg16(channels, 64, 2, norm, "imagenet").eval()
    pixels = torch.rand(1, channels, 16, 16)
    # The red, green and blue that these channels stand for: grey is all three, else they take turns.
    colours = torch.zeros(1, 3, 16, 16)
    if channels == 1:
        colours += pixels
    else:
        for k in range(channels):
            colours[:, k % 3] += pixels[:, k] * 3 / channels
    with torch.inference_mode():
        found = stages[1](torch.nn.functional.max_pool2d(stages[0](pixels), 2))
        torch.testing.assert_close(found, known[:-1](colours), rtol=1e-4, atol=1e-4)


# Encoders


def test_encoders_are_named_with_suggestions():
    for encoder, message in [
        ("resnet19", "did you mean 'resnet18'"),
        ("resnet10t", "an encoder of timm is written 'tu-resnet10t'"),
        ("tu-resnet10tt", "did you mean 'tu-resnet10t'"),
        ("tu-resnet10t.nowhere", "has no weights tagged 'nowhere'"),
        ("tu-vit_tiny_patch16_224", "cannot be used here"),
        ("xqzw", "encoders are those of segmentation_models_pytorch"),
    ]:
        with pytest.raises(UsageError, match=message):
            build("unet-smp", 1, 1, {"encoder": encoder})
    with pytest.raises(UsageError, match="patches of 16"):
        build("dpt", 1, 1, {"encoder": "tu-resnet10t"})


@pytest.mark.parametrize(
    ("name", "encoder"), [("linknet", "mit_b0"), ("unetplusplus", "mit_b0"), ("pan", "tu-test_vit")]
)
def test_encoders_that_a_decoder_cannot_use(name, encoder):
    with pytest.raises(UsageError, match=f"encoder '{encoder}' cannot be used here"):
        build(name, 1, 1, {"encoder": encoder})


def test_no_weights_that_do_nothing():
    # PSPNet stops at stride 8: of this encoder, 0.07 of 0.4 million parameters are needed.
    network = tiny("pspnet")
    assert sum(p.numel() for p in network.parameters()) < 100_000


def test_one_channel_width_a_level():
    with pytest.raises(UsageError, match="decoder_channels: wanted 4 positive numbers"):
        build("unet-smp", 1, 1, {**TINY["unet-smp"], "depth": 4})
    with pytest.raises(UsageError, match="decoder_channels: wanted a multiple of 32 from 64 on, got 32"):
        build("fpn", 1, 1, {**TINY["fpn"], "decoder_channels": 32})


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("name", [name for name in DENSE if {"encoder", "depth"} <= set(ALL[name].parameters)])
def test_any_depth_of_an_encoder(name, depth):
    widths = TINY[name].get("decoder_channels")
    fewer = {"decoder_channels": widths[:depth]} if isinstance(widths, tuple) else {}
    parameters = {**TINY[name], **fewer, "depth": depth}
    divisor = ALL[name].divisor(ALL[name].complete(parameters))
    assert divisor == 2**depth
    network = build(name, 1, 2, parameters).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 1, divisor, 3 * divisor)).shape == (1, 2, divisor, 3 * divisor)


# Each by itself


def count(name, channels, outputs, **parameters):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, channels, outputs, parameters).parameters())


def convolutions(*channels, kernel=3):
    """Weights and biases of convolutions from each number of channels to the next."""
    return sum(kernel**2 * a * b + b for a, b in pairwise(channels))


def test_parameters_of_the_published_unet():
    down = convolutions(1, 64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024)
    up = sum(convolutions(2 * w, w, kernel=2) + convolutions(2 * w, w, w) for w in (512, 256, 128, 64))
    assert down + up + 64 + 1 == 31_030_593  # as also counted for implementations in Keras
    for upsampling in ("nearest", "bilinear", "transposed"):
        assert count("unet", 1, 1, upsampling=upsampling) == 31_030_593
    assert count("unet", 1, 1, final_convolutions=3) == 31_030_593 + convolutions(64, 64)
    assert count("unet", 1, 1, final_convolutions=0) == 31_030_593 - convolutions(128, 64, 64) + 64


def test_parameters_of_networks_on_vgg():
    encoder = convolutions(3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6)
    assert encoder == 14_714_688  # of VGG-16's 138 million, those of its convolutions
    dense = convolutions(512, 4096, kernel=7) + convolutions(4096, 4096, 21, kernel=1)
    scores = convolutions(512, 21, kernel=1) + convolutions(256, 21, kernel=1)
    assert count("fcn8", 3, 21) == encoder + dense + scores + 21 * 21 * (16 + 16 + 256)  # 134.5 million
    # SegNet, 29.4 million: as many weights again on the way up; a batch normalisation has two numbers, not one bias.
    up = convolutions(*[512] * 6, 256, 256, 256, 128, 128, 64, 64, 12)
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6, [512] * 5 + [256] * 3 + [128] * 2 + [64] * 2
    assert count("segnet", 3, 12) == encoder + up + sum(map(sum, widths))
    plain = count("unet-vgg16bn", 3, 1, bottom_convolutions=0, norm="none")
    assert count("unet-vgg16bn", 3, 1, norm="none") == plain + convolutions(*[512] * 5)


def test_parameters_of_the_compact_unet():
    assert round(count("unet-compact", 1, 1) / 1e6, 1) == 1.0
    assert round(count("unet-compact", 1, 1, width=24, most=160) / 1e6, 1) == 1.8
    network = build("unet-compact", 1, 1, {"width": 24, "most": 160})
    assert [block[-1].second[0].out_channels for block in network.down] == [24, 48, 96, 160, 160]


def test_parameters_of_linknet_and_segformer():
    assert round(count("linknet", 3, 1) / 1e6, 1) == 11.7  # 11.5 in the paper, with one skip connection fewer
    segformer = build("segformer", 3, 150)
    assert round(sum(p.numel() for p in segformer.parameters()) / 1e6, 1) == 3.8  # SegFormer-B0 for ADE20K


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
@pytest.mark.parametrize("final", [0, 1, 2, 3])
def test_variants_of_the_unet(upsampling, final):
    parameters = {"width": 3, "depth": 2, "final_convolutions": final, "upsampling": upsampling, "norm": "batch"}
    network = build("unet", 1, 2, parameters)
    assert network(torch.rand(1, 1, 8, 12)).shape == (1, 2, 8, 12)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("unet-vgg16bn", {"norm": "none", "bottom_convolutions": 0, "upsampling": "transposed"}),
        ("unet-vgg16bn", {"norm": "batch", "bottom_convolutions": 1, "upsampling": "bilinear"}),
        ("segnet", {"depth": 5, "norm": "none"}),
        ("segnet", {"depth": 1}),
        ("fcn8", {"norm": "batch"}),
        ("unet-compact", {"growth": 1.5, "blocks": 2, "upsampling": "bilinear"}),
    ],
)
def test_variants_of_other_networks(name, parameters):
    network = build(name, 1, 2, {**TINY[name], **parameters}).eval()
    batched = any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert batched == (parameters.get("norm", "batch") == "batch")
    assert network(torch.rand(1, 1, 32, 64)).shape == (1, 2, 32, 64)


def test_places_of_maxima_are_those_of_torch():
    from cellkit.models._segnet import pool, unpool

    pixels = torch.randint(0, 4, (2, 3, 8, 10), generator=torch.Generator().manual_seed(0)).float()  # with ties
    wanted, indices = torch.nn.functional.max_pool2d(pixels, 2, return_indices=True)
    found, places = pool(pixels)
    assert torch.equal(found, wanted)
    assert (places.sum(2) == 1).all()
    values = torch.rand(2, 3, 4, 5)
    assert torch.equal(unpool(values, places), torch.nn.functional.max_unpool2d(values, indices, 2))


@pytest.mark.parametrize("factor", [2, 8])
def test_learned_upsampling_begins_as_bilinear(factor):
    from cellkit.models._fcn8 import _bilinear

    values = torch.rand(1, 3, 6, 7)
    wanted = torch.nn.functional.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)
    found = _bilinear(3, factor)(values)
    assert found.shape == wanted.shape
    inside = (..., slice(factor, -factor), slice(factor, -factor))  # beyond the edge it knows 0 only
    torch.testing.assert_close(found[inside], wanted[inside])


@pytest.mark.parametrize("name", ["unet-compact", "unet-vgg16bn", "segnet", "deeplabv3plus", "upernet", "pan"])
def test_one_value_a_channel_can_be_trained_on(name):
    side = divisor_of(name) * (1 if "encoder" not in ALL[name].parameters else 2)
    found = tiny(name).train()(torch.rand(1, 1, side, side))
    assert found.isfinite().all()
    found.sum().backward()


# Detectors


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mean": [0.5]}, "mean: wanted one number for each of 2 channels, got"),
        ({"std": [0.5, 0.0]}, "std: wanted one positive number for each of 2 channels"),
        ({"anchor_sizes": [8]}, "anchor_sizes: wanted 2 to 5"),
        ({"anchor_sizes": [8, -1]}, "anchor_sizes: wanted 2 to 5 positive"),
        ({"aspect_ratios": []}, "aspect_ratios: wanted at least one positive number"),
        ({"min_size": 600, "max_size": 500}, "min_size: wanted no more than max_size"),
    ],
)
def test_detector_parameters_that_clash(parameters, message):
    with pytest.raises(UsageError, match=message):
        build("faster-rcnn", 2, 1, {**TINY["faster-rcnn"], **parameters})


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_detectors_normalise_as_told(channels):
    network = build(
        "faster-rcnn", channels, 1, {**TINY["faster-rcnn"], "mean": [0.25] * channels, "std": [2.0] * channels}
    )
    pixels = torch.full((channels, 32, 40), 0.75)
    images, _ = network.transform([pixels])
    assert images.tensors.shape == (1, channels, 32, 64)
    assert (images.tensors[0, :, :, :40] == 0.25).all()
    default = tiny("faster-rcnn", channels).transform
    assert len(default.image_mean) == len(default.image_std) == channels
    np.testing.assert_allclose(np.mean(default.image_mean), np.mean([0.485, 0.456, 0.406]))


def test_detectors_resize_only_when_told():
    pixels = torch.rand(1, 40, 60)
    for sizes, wanted in [({}, (40, 60)), ({"min_size": 80, "max_size": 500}, (80, 120)),
                          ({"min_size": 80, "max_size": 90}, (60, 90))]:  # fmt: skip
        network = build("faster-rcnn", 1, 1, {**TINY["faster-rcnn"], **sizes}).eval()
        images, _ = network.transform([pixels])
        assert images.image_sizes == [wanted]
        found = network([pixels])[0]["boxes"]
        assert len(found) > 0
        assert (found <= torch.tensor([60.0, 40.0, 60.0, 40.0])).all()


def test_detectors_know_their_strides_beforehand():
    network = build("mask-rcnn", 1, 1, {**TINY["mask-rcnn"], "anchor_sizes": [8, 16, 32, 64, 128]})
    wanted = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert network.roi_heads.box_roi_pool.scales == network.roi_heads.mask_roi_pool.scales == wanted
    images = torch.rand(1, 1, 256, 256)
    levels = network.backbone(images)
    assert [256 / level.shape[2] for level in levels.values()] == [4, 8, 16, 32, 64]


def test_frozen_normalisation_has_nothing_to_train():
    parameters = {**TINY["faster-rcnn"], "encoder": "resnet18"}
    free = build("faster-rcnn", 1, 1, parameters)
    frozen = build("faster-rcnn", 1, 1, {**parameters, "frozen_norm": True}).train()
    assert not [m for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    lost = {key for key, _ in free.named_parameters()} - {key for key, _ in frozen.named_parameters()}
    assert lost
    assert all(".bn" in key or "downsample.1" in key for key in lost)
    with pytest.raises(UsageError, match=r"frozen_norm: .*BatchNormAct2d cannot be frozen"):
        build("faster-rcnn", 1, 1, {**TINY["faster-rcnn"], "encoder": "tu-test_efficientnet", "frozen_norm": True})


def test_detectors_give_at_most_the_boxes_asked_for():
    network = build("faster-rcnn", 1, 1, {**TINY["faster-rcnn"], "boxes_per_image": 7, "score_threshold": 0.0}).eval()
    assert len(network([torch.rand(1, 64, 64)])[0]["boxes"]) == 7
