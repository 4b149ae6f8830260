"""Receptive fields and activations against hand-worked networks and a reference that moves one pixel at a time."""

from __future__ import annotations

import pytest

from cellkit.core import UsageError
from cellkit.models import architectures, build
from tiny_models import tiny

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from cellkit.models.probe import activation_bytes, reach  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def convolution(kernel, **more):
    return nn.Conv2d(1, 1, kernel, padding=(kernel // 2) * more.get("dilation", 1), **more)


def moved(network, divisor, side):
    """Reach by definition: raise one pixel at a time, in every phase of the grid, and see how far the output moves.

    With weights above 0, and the raised pixel above all others, nothing hides its effect.
    """
    network = network.double().eval()
    with torch.inference_mode():
        for tensor in network.parameters():
            tensor.abs_().add_(0.01)
        pixels = torch.rand(1, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        before = network(pixels)
        middle = side // 2 // divisor * divisor
        furthest = 0
        for y in range(middle, middle + divisor):
            for x in range(middle, middle + divisor):
                raised = pixels.clone()
                raised[0, 0, y, x] += 1e6
                rows, columns = (network(raised) != before).any(1)[0].nonzero(as_tuple=True)
                assert min(rows.min(), columns.min()) > 0
                assert max(rows.max(), columns.max()) < side - 1
                furthest = max(furthest, int((rows - y).abs().max()), int((columns - x).abs().max()))
        return furthest


@pytest.mark.parametrize(
    ("network", "divisor", "wanted"),
    [
        (nn.Conv2d(1, 1, 1), 1, 0),
        (convolution(3), 1, 1),
        (nn.Sequential(convolution(3), nn.ReLU(), convolution(5), nn.ReLU(), convolution(3)), 1, 4),
        (nn.Sequential(convolution(3, dilation=4), convolution(3)), 1, 5),
        (nn.Conv2d(1, 1, (1, 7), padding=(0, 3)), 1, 3),
        (nn.Conv2d(1, 1, (9, 1), padding=(4, 0)), 1, 4),
        (nn.Sequential(nn.ZeroPad2d((0, 5, 0, 0)), nn.Conv2d(1, 1, (1, 6))), 1, 5),
        # Of a window of 2 and its copy: one pixel to either side.
        (nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), 2, 1),
        (nn.Sequential(nn.AvgPool2d(8), nn.Upsample(scale_factor=8)), 8, 7),
        # Halved, 3 x 3, doubled: the window beside one's own, to its far end.
        (nn.Sequential(nn.MaxPool2d(2), convolution(3), nn.Upsample(scale_factor=2)), 2, 3),
        # Bilinear between the middles of windows: also the window beside one's own.
        (nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")), 2, 2),
    ],
)  # fmt: skip
def test_hand_worked_networks(network, divisor, wanted):
    assert reach(network, 1, divisor) == wanted


def test_a_unet_by_hand():
    # To the right of an odd pixel q: two convolutions q+2, the up-convolution q+3, its coarse pixel (q+3)/2, two
    # convolutions (q+3)/2+2, the far end of that window q+8, two convolutions q+10.
    network = build("unet", 1, 1, {"width": 2, "depth": 1})
    assert reach(network, 1, 2) == 10
    assert moved(network, 2, 40) == 10


@pytest.mark.parametrize(
    ("name", "parameters", "side"),
    [
        ("unet", {"width": 2, "depth": 2, "upsampling": "nearest"}, 72),
        ("unet", {"width": 2, "depth": 2, "upsampling": "bilinear", "norm": "batch"}, 80),
        ("unet", {"width": 2, "depth": 2, "upsampling": "transposed", "final_convolutions": 0}, 72),
        ("unet-compact", {"width": 2, "depth": 2, "most": 2}, 64),
        ("unet-compact", {"width": 2, "depth": 2, "most": 2, "blocks": 2, "upsampling": "bilinear"}, 104),
        ("segnet", {"width": 2, "depth": 2}, 64),
        ("segnet", {"width": 1, "depth": 3, "norm": "none"}, 128),
    ],
)
def test_reach_is_what_moving_single_pixels_shows(name, parameters, side):
    network = build(name, 1, 1, parameters)
    divisor = architectures()[name].divisor(architectures()[name].complete(parameters))
    assert reach(network, 1, divisor) == moved(network, divisor, side)


class Attention(nn.Module):
    """Scales by the average over the whole input, as squeeze-and-excitation does."""

    def forward(self, pixels):
        return pixels * pixels.mean((2, 3), keepdim=True).sigmoid()


class Position(nn.Module):
    def forward(self, pixels):
        return pixels + torch.linspace(0, 1, pixels.shape[2], device=pixels.device)[:, None]


@pytest.mark.parametrize(
    "network",
    [
        Attention(),
        nn.Sequential(convolution(3), nn.GroupNorm(1, 1)),
        nn.InstanceNorm2d(1),
        nn.BatchNorm2d(1, track_running_stats=False),
        Position(),
        # Its grid is stretched to the corners, so that it hangs on the size of the input.
        nn.Sequential(nn.AvgPool2d(4), nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True)),
    ],
)
def test_what_no_window_bounds(network):
    assert reach(network, 1, 4) is None


def test_limit():
    network = convolution(101)
    assert reach(network, 1, 1) == 50
    assert reach(network, 1, 1, limit=50) == 50
    assert reach(network, 1, 1, limit=49) is None
    for dilation in (200, 300):
        assert reach(convolution(3, dilation=dilation), 1, 1, limit=300) == dilation


def test_everything_is_left_as_it_was():
    network = tiny("linknet").train()
    network.encoder.eval()
    modes = [module.training for module in network.modules()]
    assert len(set(modes)) == 2
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    reach(network, 1, 32)
    activation_bytes(network, 1, 64)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in network.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_modes_return_after_a_failure():
    network = nn.Sequential(convolution(3), nn.MaxPool2d(2)).train()
    with pytest.raises(UsageError, match=r"wanted a dense network; for an input of \(1, 1, \d+, 2\) it gives"):
        reach(network, 1, 2)
    assert network[1].training
    with pytest.raises(RuntimeError):
        activation_bytes(network, 2, 16)
    assert network[1].training


def test_detectors_are_refused():
    with pytest.raises(UsageError, match=r"wanted a dense network; .* it gives list"):
        reach(tiny("faster-rcnn"), 1, 32)


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 8, 3, padding=1)
        self.narrow = nn.Conv2d(8, 2, 1)

    def forward(self, pixels):
        features = self.wide(pixels)
        low = nn.functional.max_pool2d(features, 2)
        low = nn.functional.interpolate(low, scale_factor=2)
        return self.narrow(features + low)


@pytest.mark.parametrize(
    ("network", "planes"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 3, padding=1)), 1 + 4 + 8),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), 1 + 4 + 4),
        # The maxima's indices, which torch makes unasked, are twice as wide as values.
        (nn.Sequential(nn.Conv2d(1, 8, 1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), 1 + 8 + 2 + 2 * 2),
        (nn.Identity(), 1),
        (Skip(), 1 + 8 + 8 + 8 + 2),
    ],
)
def test_activations_by_hand(network, planes):
    for side in (16, 64):
        assert activation_bytes(network, 1, side) == planes * 4 * side * side


def test_half_precision_takes_half():
    network = tiny("unet-compact")
    whole = activation_bytes(network, 1, 64)
    assert activation_bytes(network.bfloat16(), 1, 64) == pytest.approx(whole / 2, rel=1e-3)


@pytest.mark.parametrize("name", [name for name, spec in architectures().items() if spec.task == "dense"])
def test_activations_grow_with_the_area(name):
    network = tiny(name, channels=2, outputs=3)
    small, large = (activation_bytes(network, 2, side) for side in (256, 512))
    assert small >= (2 + 3) * 4 * 256 * 256
    assert 3.8 * small <= large <= 20 * small  # attention among positions grows with the area's square
