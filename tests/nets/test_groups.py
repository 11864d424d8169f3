"""Named groups of nets: the papers' members at their sizes, and nets that every size can build."""

from __future__ import annotations

import pytest

from ddlabel.nets._groups import GROUPS, expand
from ddlabel.nets._net import canonical, on_meta


@pytest.mark.parametrize(
    ("group", "size", "nets"),
    [
        ("4-cae", 128, ("convnet-d5", "alexnet", "vgg11-glad", "resnet18-glad")),
        ("4-cae", 32, ("convnet-d3", "alexnet", "vgg11", "resnet18")),
        ("5-cae", 128, ("convnet-d5", "alexnet", "vgg11-glad", "resnet18-glad", "vit")),
        (
            "pad-8",
            32,
            ("convnet-d3", "convnet-d3-bn", "resnet18", "resnet18-bn", "vgg11", "alexnet", "lenet", "mlp"),
        ),
        (
            "gift-6",
            64,
            (
                "convnet-d4-bn",
                "resnet18-modified",
                "efficientnet-b0",
                "mobilenet-v2",
                "resnet101-modified",
                "swin-v2-t",
            ),
        ),
        ("dcpi-6", 32, ("lenet", "mlp", "resnet18", "vgg11", "convnet-d3", "alexnet")),
    ],
)
def test_members_at_the_papers_sizes(group: str, size: int, nets: tuple[str, ...]) -> None:
    """In the papers' order."""
    assert nets == expand([group], size)


def test_gift_takes_resnets_as_they_are_at_224_pixels_and_wider_stems_at_32() -> None:
    """Where strides would leave one number, stems have stride 1."""
    assert {"resnet18-plain", "resnet101-plain"} <= set(expand(["gift-6"], 224))
    assert {"efficientnet-b0-modified", "mobilenet-v2-modified"} <= set(expand(["gift-6"], 32))


def test_other_names_stay_and_every_net_comes_once() -> None:
    """In the order of first mention; what is no group is the caller's to check."""
    assert ("mlp", "no such net", "lenet", "resnet18", "vgg11", "convnet-d3", "alexnet") == expand(
        ["mlp", "no such net", " DCPI-6 ", "lenet"], 32
    )


@pytest.mark.parametrize("group", GROUPS)
def test_every_member_can_be_named(group: str) -> None:
    """At every size of the papers."""
    for size in (32, 64, 128, 224):
        assert all(canonical(name) for name in expand([group], size))


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("size", [32, 64, 128, 224])
def test_every_member_can_be_built(group: str, size: int) -> None:
    """No member refuses the images."""
    for name in expand([group], size):
        on_meta(name, channels=3, size=size, classes=10)
