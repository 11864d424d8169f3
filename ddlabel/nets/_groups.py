"""Sets of nets that papers report means over, by one name each for `--arch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ._net import default_arch

__all__ = ["GROUPS", "expand"]

FOUR = 128
"""From this size on, in pixels, GLaD's nets are those made for it."""
LARGE, SMALL = 224, 32
"""Sizes from which on RDED and GIFT take ResNets as they are, and up to which strided stems leave maps of 1 x 1."""


def expand(names: Sequence[str], size: int) -> tuple[str, ...]:
    """Put the members of named groups in the place of their names; other names stay as they are.

    Args:
        names: nets and groups, in any case.
        size: side of the images in pixels: ConvNets get the depth that suits it, which is the papers' at their sizes.

    Returns:
        Every net once, where it is named first.
    """
    members = [GROUPS[name.strip().lower()](size) if name.strip().lower() in GROUPS else (name,) for name in names]
    return tuple(dict.fromkeys(net for group in members for net in group))


def _four(size: int) -> tuple[str, ...]:
    """LADD's 4-CAE, GLaD's nets but the ViT: theirs are ConvNetD5 and the larger VGG11 and ResNet18 at 128 px."""
    suffix = "-glad" if size >= FOUR else ""
    return default_arch(size), "alexnet", f"vgg11{suffix}", f"resnet18{suffix}"


def _five(size: int) -> tuple[str, ...]:
    """LADD's 5-CAE."""
    return (*_four(size), "vit")


def _eight(size: int) -> tuple[str, ...]:
    """The nets of PAD's and DATM's tables."""
    convnet = default_arch(size)
    return convnet, f"{convnet}-bn", "resnet18", "resnet18-bn", "vgg11", "alexnet", "lenet", "mlp"


def _gift(size: int) -> tuple[str, ...]:
    """GIFT's Table 4: theirs are ConvNetD4 and the plain light nets at 64 px."""
    resnet, light = ("plain" if size >= LARGE else "modified"), ("-modified" if size <= SMALL else "")
    return (
        f"{default_arch(size)}-bn",
        f"resnet18-{resnet}",
        f"efficientnet-b0{light}",
        f"mobilenet-v2{light}",
        f"resnet101-{resnet}",
        "swin-v2-t",
    )


def _dcpi(size: int) -> tuple[str, ...]:
    """The nets that DCPI evaluates with."""
    return "lenet", "mlp", "resnet18", "vgg11", default_arch(size), "alexnet"


GROUPS: Mapping[str, Callable[[int], tuple[str, ...]]] = {
    "4-cae": _four,
    "5-cae": _five,
    "pad-8": _eight,
    "gift-6": _gift,
    "dcpi-6": _dcpi,
}
"""The members of each group for a size of images."""
