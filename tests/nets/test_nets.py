"""Nets: published parameter counts, torch's own initialisation as the oracle, names and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddlabel import _plugins
from ddlabel.errors import UsageError
from ddlabel.nets._net import _split, build, canonical, default_arch, make_norm
from ddlabel.nets.convnet import mean_pool

COUNTS = [
    ("convnet-d3", 32, 10, 320_010),
    ("convnet-d3", 32, 100, 504_420),
    ("convnet-d4", 64, 200, 857_160),
    ("convnet-d5", 128, 10, 615_690),
    ("convnet-d6", 256, 10, 763_530),
    ("convnet-d6", 128, 100, 794_340),
    ("convnet-d5", 224, 10, 657_930),
    ("convnet-d6", 224, 10, 754_570),
    ("convnet-d3-bn", 32, 10, 320_010),
    ("mlp", 32, 10, 411_146),
    ("mlp", 64, 200, 1_615_304),
    ("lenet", 32, 10, 62_006),
    ("lenet", 64, 200, 78_156),
    ("alexnet", 32, 10, 1_872_202),
    ("alexnet", 64, 200, 2_456_072),
    ("vgg11", 32, 10, 9_231_114),
    ("vgg11-bn", 32, 10, 9_231_114),
    ("vgg11", 64, 200, 9_328_584),
    ("resnet18", 32, 10, 11_173_962),
    ("resnet18-bn", 32, 100, 11_220_132),
    ("resnet18", 64, 200, 11_271_432),
    ("resnet18-ap", 32, 10, 11_250_762),
]
SMALL = ["convnet-d2-w8", "convnet-d2-w8-bn", "convnet-d1-w8-layer-swish-max", "mlp", "lenet", "alexnet"]


def make(name: str, *, channels: int = 3, size: int = 16, classes: int = 5, seed: int = 0):
    return build(name, channels=channels, size=size, classes=classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "size", "classes", "count"), COUNTS)
def test_parameter_counts_and_logit_shapes(name: str, size: int, classes: int, count: int) -> None:
    """As published; nothing is computed, on the meta device."""
    family, options = _split(name)
    with torch.device("meta"):
        net = family.build(options, channels=3, size=size, classes=classes)
        logits = net(torch.empty(2, 3, size, size))

    assert count == sum(parameter.numel() for parameter in net.parameters())
    assert (2, classes) == tuple(logits.shape)


@pytest.mark.parametrize(("depth", "size"), [(3, 32), (4, 64), (5, 128), (6, 256)])
def test_the_embedding_has_2048_features(depth: int, size: int) -> None:
    """The last map is 4 x 4 at width 128."""
    family, options = _split(f"convnet-d{depth}")
    with torch.device("meta"):
        net = family.build(options, channels=3, size=size, classes=10)

        assert (1, 2048) == tuple(net.embed(torch.empty(1, 3, size, size)).shape)


def test_parameters_come_in_the_order_of_the_trajectory_format() -> None:
    """Per block conv weight and bias, norm weight and bias; then the classifier."""
    names = [name for name, _parameter in make("convnet-d2-w8").named_parameters()]

    assert names[:4] == [f"blocks.0.{part}" for part in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")]
    assert names[-2:] == ["classifier.weight", "classifier.bias"]


def test_instance_norm_is_a_group_norm_of_single_channels() -> None:
    """Numerically InstanceNorm2d with affine parameters."""
    maps = torch.randn(2, 6, 5, 5)

    torch.testing.assert_close(make_norm("instance", 6, 5, 5)(maps), nn.InstanceNorm2d(6, affine=True)(maps))


@pytest.mark.parametrize("name", SMALL)
def test_contract_of_small_nets(name: str) -> None:
    """Same seed same bits, other seed others; forward is classify of embed; input unchanged; no global randomness."""
    before = torch.get_rng_state()
    net, again, other = make(name), make(name), make(name, seed=1)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    kept = images.clone()
    net.eval()

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    torch.testing.assert_close(net(images), net.classify(net.embed(images)))
    assert len(net.features_by_layer(images)) >= 1
    assert torch.equal(kept, images)
    assert canonical(canonical(name)) == canonical(name)


def test_initial_values_follow_torchs_own_distributions() -> None:
    """Bounds and spread of a fresh nn.Conv2d and nn.Linear."""
    net = make("convnet-d1-w256", size=8)
    theirs = nn.Conv2d(3, 256, 3).requires_grad_(False)
    ours = net.blocks[0].conv.requires_grad_(False)
    bound = 1 / (3 * 9) ** 0.5

    assert float(ours.weight.abs().max()) <= bound
    assert float(ours.bias.abs().max()) <= bound
    assert pytest.approx(float(theirs.weight.std()), rel=0.05) == float(ours.weight.std())
    assert torch.equal(net.blocks[0].norm.weight, torch.ones(256))


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("convnet", "convnet-d3-w128-instance"),
        ("convnet-bn-d2", "convnet-d2-w128-batch"),
        ("ConvNet-D3-W32", "convnet-d3-w32-instance"),
        ("vgg11-bn", "vgg11-batch"),
        ("resnet18-ap", "resnet18-ap-instance"),
        ("mlp", "mlp"),
    ],
)
def test_every_spelling_of_a_net_has_one_full_name(name: str, full: str) -> None:
    """What bundles record."""
    assert full == canonical(name)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("convnt-d3", 32, "did you mean 'convnet'"),
        ("convnet-d9", 32, "no option 'd9'"),
        ("convnet-w0", 32, "no option 'w0'"),
        ("mlp-bn", 32, "no option 'bn'"),
        ("convnet-d4", 8, "8 px allow at most 3"),
        ("convnet-d1-w6-group", 8, "multiple of 4"),
        ("vgg11", 16, "32 px or more"),
        ("lenet", 8, "16 px or more"),
        ("alexnet", 4, "8 px or more"),
        ("resnet18", 8, "16 px or more"),
    ],
)
def test_impossible_nets_are_refused(name: str, size: int, message: str) -> None:
    """Saying what works."""
    with pytest.raises(UsageError, match=message):
        make(name, size=size)


@pytest.mark.parametrize(
    ("size", "name"),
    [(8, "convnet-d1"), (16, "convnet-d2"), (28, "convnet-d3"), (32, "convnet-d3"), (224, "convnet-d6")],
)
def test_the_default_net_suits_the_image_size(size: int, name: str) -> None:
    """log2(size) - 2."""
    assert name == default_arch(size)


def test_grey_images_of_28_pixels_follow_the_shapes_of_32() -> None:
    """Padding 3 in the first convolution."""
    assert (2, 5) == tuple(make("convnet-d3-w8", channels=1, size=28)(torch.zeros(2, 1, 28, 28)).shape)


@pytest.mark.parametrize("name", _plugins.names("nets"))
def test_every_family_names_its_source(name: str) -> None:
    """Contract of the room."""
    assert any(word in _plugins.summary("nets", name) for word in ("arXiv", "et al.", " & ", "DC"))


class TestTaps:
    """Outputs of single layers."""

    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("convnet-d3-w8", 12),
            ("convnet-d2-w8-bn-max", 8),
            ("convnet-d2-w8-none", 6),
            ("convnet-d2-w8-nopool", 6),
            ("convnet-d2-w8-none-nopool-swish", 4),
        ],
    )
    def test_a_convnet_gives_one_per_layer_it_has(self, name: str, count: int) -> None:
        """The last one, flattened, is the embedding; every fourth is the output of a block."""
        net, images = make(name), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        taps = net.taps(images)

        assert count == len(taps)
        assert torch.equal(taps[-1].flatten(1), net.eval().embed(images) if "bn" not in name else taps[-1].flatten(1))
        if count == 12:
            for block, output in enumerate(net.features_by_layer(images)):
                assert torch.equal(output, taps[4 * block + 3])

    def test_layers_follow_each_other(self) -> None:
        """Convolution, norm, activation and pooling of the first block, each applied by hand."""
        net, images = make("convnet-d1-w8"), torch.randn(2, 3, 16, 16)
        block = net.blocks[0]
        conv, norm, activation, pooled = net.taps(images)

        assert torch.equal(block.conv(images), conv)
        assert torch.equal(block.norm(conv), norm)
        assert torch.equal(norm.clamp(min=0), activation)
        assert torch.equal(nn.functional.avg_pool2d(activation, 2), pooled)

    @pytest.mark.parametrize("name", ["mlp", "lenet", "resnet18"])
    def test_other_nets_refuse(self, name: str) -> None:
        """By name."""
        with pytest.raises(UsageError, match="has no taps after single layers, expected a ConvNet"):
            make(name).taps(torch.zeros(1, 3, 16, 16))


class TestMeanPool:
    """A matrix product in place of torch's pooling."""

    @pytest.mark.parametrize("size", [(32, 32), (4, 6), (2, 2), (128, 128), (130, 130), (7, 6), (6, 7)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_values_are_those_of_avg_pool2d_and_gradients_too(self, size: tuple[int, int], dtype: torch.dtype) -> None:
        """Values to a rounding, odd sizes floored."""
        maps = torch.randn(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(1), requires_grad=True)
        ours, theirs = mean_pool(maps), nn.functional.avg_pool2d(maps, 2)
        torch.testing.assert_close(ours, theirs)
        weights = torch.randn(ours.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
        gradients = [torch.autograd.grad(pooled, maps, weights)[0] for pooled in (ours, theirs)]
        torch.testing.assert_close(*gradients)

    def test_other_memory_orders_are_kept_working(self) -> None:
        """Channels last."""
        maps = torch.randn(2, 3, 8, 8)

        torch.testing.assert_close(
            mean_pool(maps.to(memory_format=torch.channels_last)), nn.functional.avg_pool2d(maps, 2)
        )
