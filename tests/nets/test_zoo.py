"""Nets of torchvision, wide ResNets and vision transformers: counts, first values, taps and refusals."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddlabel.distill._memory import saved_bytes
from ddlabel.distill._real import largest_map
from ddlabel.errors import UsageError
from ddlabel.nets._dropout import random_layers
from ddlabel.nets._flops import forward_flops
from ddlabel.nets._net import Net, build, canonical, on_meta
from ddlabel.stages._estimate import training_bytes

COUNTS = [
    # as torchvision's documentation gives them
    ("resnet18-plain", 224, 1000, 11_689_512),
    ("resnet50", 224, 1000, 25_557_032),
    pytest.param("resnet101", 224, 1000, 44_549_160, marks=pytest.mark.slow),
    ("efficientnet-b0", 224, 1000, 5_288_548),
    ("mobilenet-v2", 224, 1000, 3_504_872),
    ("shufflenet-v2-x0_5", 224, 1000, 1_366_792),
    ("shufflenet-v2-x1_0", 224, 1000, 2_278_604),
    ("swin-v2-t", 224, 1000, 28_351_570),
    ("vit-b-16", 224, 1000, 86_567_656),
    # as papers give them
    ("resnet18-modified", 64, 200, 11_271_432),
    ("vit", 128, 10, 16_176_650),
    ("wrn-16-2", 32, 10, 691_674),
    ("wrn-40-2", 32, 10, 2_243_546),
    ("wrn-28-10", 32, 10, 36_479_194),
    # 49 times 512 features in place of 512
    ("vgg11-glad", 128, 10, 9_231_114 + 48 * 512 * 10),
    ("resnet18-glad", 128, 10, 11_173_962),
]
LIGHT = ("shufflenet-v2-x0_5-modified", "wrn-10-1")
HEAVY = (
    "mobilenet-v2-modified", "efficientnet-b0-modified", "resnet18-modified", "resnet50-modified", "swin-v2-t",
    "vit-b-16", "vit",
)  # fmt: skip


def make(name: str, *, channels: int = 3, size: int = 32, classes: int = 5, seed: int = 0) -> Net:
    return build(name, channels=channels, size=size, classes=classes, generator=torch.Generator().manual_seed(seed))


def pictures(size: int = 32, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("name", "size", "classes", "count"), COUNTS)
def test_parameter_counts(name: str, size: int, classes: int, count: int) -> None:
    """Nothing is computed, on the meta device."""
    net = on_meta(name, channels=3, size=size, classes=classes)

    assert count == sum(parameter.numel() for parameter in net.parameters())
    assert canonical(canonical(name)) == canonical(name)


def check_first_values(name: str) -> None:
    """The same bits whatever memory held before, every number finite, nothing drawn globally."""
    before = torch.get_rng_state()
    net, again = make(name), on_meta(name, channels=3, size=32, classes=5).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*again.parameters(), *again.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -77)
    again.initialise(torch.Generator().manual_seed(0))
    ours, theirs = net.state_dict(), again.state_dict()

    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(bool(torch.isfinite(value).all()) for value in ours.values())
    assert torch.equal(before, torch.get_rng_state())


def check_passes(name: str) -> None:
    """One real step in train mode draws nothing globally; taps agree with the net; images stay as they are."""
    net, images = make(name), pictures()
    kept, before = images.clone(), torch.get_rng_state()
    loss = net(images).square().sum()
    loss.backward()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    gradients = [parameter.grad for parameter in net.parameters()]

    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert torch.equal(before, torch.get_rng_state())
    net.eval()
    with torch.no_grad():
        logits = net(images)
        for layer, maps in enumerate(net.features_by_layer(images), start=1):
            tapped, rest = net.tap(images, layer)
            assert torch.equal(maps, tapped)
            assert torch.equal(rest, logits)
            assert maps.ndim == 4
    assert torch.equal(kept, images)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", LIGHT)
def test_light_nets(name: str) -> None:
    """First values and passes."""
    check_first_values(name)
    check_passes(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_heavy_nets(name: str) -> None:
    """First values and passes."""
    check_first_values(name)
    check_passes(name)


def compare_with_torchvision(name: str, theirs: nn.Module, size: int) -> None:
    """The same names, the same distribution of first values, and with the same values the same logits, bit for bit."""
    net, state = make(name, size=size), theirs.state_dict()
    ours = net.state_dict()
    assert {key for key in ours if key not in state} == {
        key for key in ours if key.endswith(".state") and key not in state
    }
    for key, value in state.items():
        if not value.is_floating_point() or value.numel() < 2 or float(value.std()) == 0:
            assert torch.equal(ours[key], value), key
        elif value.numel() > 1000:
            assert pytest.approx(float(value.std()), rel=0.15) == float(ours[key].std()), key
    net.load_state_dict({**ours, **state})
    with torch.no_grad():
        assert torch.equal(theirs.eval()(pictures(size)), net.eval()(pictures(size)))


def test_shufflenet_is_torchvisions() -> None:
    """And MobileNet, whose dropout is replaced."""
    from torchvision import models

    compare_with_torchvision("shufflenet-v2-x0_5", models.shufflenet_v2_x0_5(weights=None, num_classes=5), 48)
    compare_with_torchvision("mobilenet-v2", models.mobilenet_v2(weights=None, num_classes=5), 48)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet18-plain", "resnet18"),
        ("resnet50", "resnet50"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("swin-v2-t", "swin_v2_t"),
        ("vit-b-16", "vit_b_16"),
    ],
)
def test_heavy_nets_are_torchvisions(name: str, theirs: str) -> None:
    """All of them."""
    from torchvision import models

    more = {"image_size": 64} if name == "vit-b-16" else {}
    compare_with_torchvision(name, getattr(models, theirs)(weights=None, num_classes=5, **more), 64)


def test_wide_resnets_add_what_passed_to_the_shortcut() -> None:
    """A block with zeroed last convolution is the identity where shapes stay, a 1x1 convolution where they do not."""
    net = make("wrn-16-1").eval()
    first, second = net.stages[1]
    for block in (first, second):
        block.conv2.weight.detach().zero_()
    maps = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        halved = first(maps)

        assert torch.equal(first.shortcut(torch.relu(first.bn1(maps))), halved)
        assert torch.equal(halved, second(halved))


def test_taps_of_a_transformer_do_not_move_when_labels_are_mirrored() -> None:
    """Tokens lie along the height, so that a flip of the width is the identity."""
    shapes = [tuple(maps.shape) for maps in on_meta("vit", channels=3, size=32, classes=5).features_by_layer(
        torch.empty(2, 3, 32, 32, device="meta")
    )]  # fmt: skip

    assert shapes == [(2, 512, 65, 1)] * 6


def test_swin_pads_windows_and_gives_maps_with_channels_first() -> None:
    """Maps of 2 and 1 at 32 px are padded to windows of 8."""
    net = on_meta("swin-v2-t", channels=1, size=32, classes=5)
    shapes = [tuple(maps.shape[1:]) for maps in net.features_by_layer(torch.empty(2, 1, 32, 32, device="meta"))]

    assert shapes == [(96, 8, 8), (192, 4, 4), (384, 2, 2), (768, 1, 1)]


@pytest.mark.parametrize("name", ["resnet18-plain", "shufflenet-modified", "vit", "wrn-10-1"])
def test_grey_images(name: str) -> None:
    """The stem has one input channel."""
    net = on_meta(name, channels=1, size=64, classes=5)

    assert (2, 5) == tuple(net(torch.empty(2, 1, 64, 64, device="meta")).shape)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("resnet50", "resnet50-plain"),
        ("resnet18-plain-bn", "resnet18-plain"),
        ("resnet18-bn-glad", "resnet18-glad-batch"),
        ("efficientnet", "efficientnet-b0"),
        ("mobilenet-modified", "mobilenet-v2-modified"),
        ("shufflenet", "shufflenet-v2-x0_5"),
        ("ShuffleNet-V2-x1_0", "shufflenet-v2-x1_0"),
        ("swin", "swin-v2-t"),
        ("vit", "vit"),
        ("wrn", "wrn-16-2"),
        ("wrn-28", "wrn-28-2"),
        ("vgg11-glad", "vgg11-glad-instance"),
    ],
)
def test_every_spelling_has_one_full_name(name: str, full: str) -> None:
    """What bundles record."""
    assert full == canonical(name)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet18-plain", 32, "needs 33 px or more, they have 32; use resnet18-modified"),
        ("resnet101", 28, "use resnet101-modified"),
        ("mobilenet-v2", 32, "use mobilenet-v2-modified"),
        ("shufflenet-modified", 8, "needs 9 px or more, they have 8; use larger images"),
        ("vit-b-16", 100, "patches of 16 px, which do not divide 100 px; use --size 96"),
        ("vit", 30, "patches of 4 px, which do not divide 30 px; use --size 32"),
        ("resnet18-plain-instance", 64, "torchvision's and has batch norm"),
        ("resnet50-instance", 64, "no option 'instance'"),
        ("resnet18-modified-ap", 64, "expected no instance norm, ap or glad"),
        ("wrn-17-2", 32, "depth 17, expected 6n [+] 4: 10, 16, 22, 28, ...; use wrn-16-2"),
        ("wrn-16-2-2", 32, "no option '2'"),
        ("wrn-16-0", 32, "no option '0'"),
        ("swin-b", 32, "no option 'b'"),
        ("vit-l", 32, "no option 'l'"),
        ("efficientnet-b7", 64, "no option 'b7'"),
        ("swin", 3, "4 px or more"),
        ("wrn", 4, "8 px or more"),
    ],
)
def test_impossible_nets_are_refused(name: str, size: int, message: str) -> None:
    """Saying what works, before any work."""
    with pytest.raises(UsageError, match=message):
        on_meta(name, channels=3, size=size, classes=5)


def test_flops_count_weights_of_attention_and_not_its_products() -> None:
    """By hand: patches, 6 layers of (qkv, out, two of the perceptron) on 65 tokens, the classifier."""
    layer = 65 * (512 * 1536 + 3 * 512 * 512)

    assert 2 * (64 * 48 * 512 + 6 * layer + 512 * 10) == forward_flops("vit", channels=3, size=32, classes=10)


def test_flops_count_groups_of_channels() -> None:
    """torchvision's documentation says 0.04 G multiply-adds of ShuffleNet-V2-x0.5 at 224 px."""
    count = forward_flops("shufflenet-v2-x0_5", channels=3, size=224, classes=1000)

    assert pytest.approx(0.0405e9, rel=0.01) == count / 2


def test_random_layers_are_found() -> None:
    """GLaD's ViT draws at the patches and three times a layer."""
    assert 1 + 6 * 3 == len(random_layers(on_meta("vit", channels=3, size=32, classes=5)))
    assert 16 == len(random_layers(on_meta("efficientnet-b0", channels=3, size=64, classes=5)))


def test_memory_estimates_see_what_attention_keeps_inside() -> None:
    """All that the graph of GLaD's ViT keeps for the backward pass, beside weights, gradients and slots."""
    net, batch = on_meta("vit", channels=3, size=32, classes=5), (4, 3, 32, 32)
    weights = 4 * 4 * sum(parameter.numel() for parameter in net.parameters())
    with saved_bytes(net) as saved:
        net(torch.empty(batch, device="meta"))

    assert 4 * 6 * 3 * 4 * 65 * 512 < sum(saved.values())  # queries, keys and values of six layers at least
    assert training_bytes(net, batch) >= weights + sum(saved.values())


def test_layers_that_give_several_things_are_measured() -> None:
    """torch's attention gives a pair; the largest map of ViT-B/16 is that of its perceptron, 17 tokens of 3072."""
    problem = SimpleNamespace(arch="vit-b-16", pixels=torch.empty(1, 3, 64, 64, device="meta"), classes=range(5))

    assert 17 * 3072 == largest_map(problem)
