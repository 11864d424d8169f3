"""Forms of privileged labels: shapes as the method prints them, and nets cut in two are the nets."""

from __future__ import annotations

import pytest
import torch

from ddlabel.errors import UsageError
from ddlabel.nets._net import build
from ddlabel.privileged._form import Form, layer_shapes, make_form

DATA = {"channels": 3, "classes": 10}
LAYERS = [
    ("convnet-d3", 32, [(128, 16, 16), (128, 8, 8), (128, 4, 4)]),
    ("convnet-d4", 64, [(128, 32, 32), (128, 16, 16), (128, 8, 8), (128, 4, 4)]),
    ("convnet-d5", 128, [(128, 64, 64), (128, 32, 32), (128, 16, 16), (128, 8, 8), (128, 4, 4)]),
    ("convnet-d6", 256, [(128, 2**p, 2**p) for p in (7, 6, 5, 4, 3, 2)]),
    ("resnet18", 32, [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
    ("resnet18", 224, [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]),
    ("lenet", 32, [(6, 14, 14), (16, 5, 5)]),
    ("mlp", 32, [(128,), (128,)]),
]


def form(arch: str = "convnet-d3", size: int = 32, layer: str = "last", **more) -> Form:
    return make_form(arch, size=size, layer=layer, **({"attention": None, "pool": "avg"} | DATA | more))


@pytest.mark.parametrize(("arch", "size", "shapes"), LAYERS)
def test_layers_have_the_published_shapes(arch: str, size: int, shapes: list[tuple[int, ...]]) -> None:
    """Of every kind of label, for every layer; `last` is the deepest one (T1)."""
    assert tuple(shapes) == layer_shapes(arch, size=size, **DATA)
    assert len(shapes) == form(arch, size).layer
    for number, shape in enumerate(shapes, start=1):
        channels, height, width = (*shape, 1, 1)[:3]
        expected = {None: (channels, height, width), "spatial": (1, height, width), "channel": (channels, 1, 1)}
        for attention, wanted in expected.items():
            assert wanted == form(arch, size, str(number), attention=attention).shape


@pytest.mark.parametrize(
    ("arch", "size"),
    [("convnet-d3-w8", 32), ("convnet-d4-w4-bn", 64), ("convnet-d5-w4-max", 128), ("resnet18", 16),
     ("vgg11", 32), ("alexnet", 16), ("lenet", 32), ("mlp", 16)],
)  # fmt: skip
def test_the_rest_of_the_net_makes_the_logits_of_the_tap(arch: str, size: int) -> None:
    """c(psi(x)) = f(x) bit for bit, for each layer, and the tap has the shape of the form (T1)."""
    net = build(arch, size=size, generator=torch.Generator().manual_seed(0), **DATA).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = net(images)
        for number in range(1, len(net.chain()) + 1):
            maps, logits = net.tap(images, number)

            assert torch.equal(whole, logits)
            assert torch.equal(whole, net.rest(maps, number))
            assert (2, *form(arch, size, str(number)).shape) == tuple(form(arch, size).reduce(maps).shape)


def test_attention_is_the_mean_or_the_largest_over_its_axes() -> None:
    """By loops over a small map; vectors are channels of one position."""
    maps = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2).sin()
    for pool, reduce in (("avg", torch.mean), ("max", torch.max)):
        spatial = form(attention="spatial", pool=pool).reduce(maps)
        channel = form(attention="channel", pool=pool).reduce(maps)
        for image in range(2):
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                torch.testing.assert_close(spatial[image, 0, row, column], reduce(maps[image, :, row, column]))
            for index in range(3):
                torch.testing.assert_close(channel[image, index, 0, 0], reduce(maps[image, index]))
    assert (2, 5, 1, 1) == tuple(form().reduce(torch.zeros(2, 5)).shape)


@pytest.mark.parametrize("attention", ["spatial", "channel"])
def test_means_commute_with_average_pooling_and_not_with_the_maximum(attention: str) -> None:
    """Fact B."""
    several = torch.randn(3, 4, 5, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    mean, largest = (form(attention=attention, pool=pool).reduce for pool in ("avg", "max"))

    torch.testing.assert_close(mean(several.mean(0)), torch.stack([mean(maps) for maps in several]).mean(0))
    assert not torch.allclose(largest(several.mean(0)), torch.stack([largest(maps) for maps in several]).mean(0))


@pytest.mark.parametrize("layer", ["0", "4", "-1", "1.0", "deep", "", "²"])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(layer: str) -> None:
    """With their shapes."""
    with pytest.raises(UsageError, match="expected 'last' or one of 1: 128 x 16 x 16, 2: 128 x 8 x 8, 3: 128 x 4 x 4"):
        form(layer=layer)


@pytest.mark.parametrize("wrong", [{"attention": "sum"}, {"attention": ["spatial"]}, {"pool": "sum"}])
def test_pooling_that_does_not_exist_is_refused(wrong: dict) -> None:
    """What there is is listed."""
    with pytest.raises(UsageError, match=r"expected one of (spatial, channel|avg, max)"):
        form(**wrong)


def test_names_are_canonical_and_pooling_nothing_is_no_difference() -> None:
    """Two spellings are one form."""
    assert form("convnet-d3") == form("convnet-d3-w128-in", pool="max", layer="3")
