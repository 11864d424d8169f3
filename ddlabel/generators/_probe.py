"""Whether a generator keeps its contract, tried on a few latents before any work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import seeding
from ..errors import UsageError
from ._generator import Loaded, broken, running

__all__ = ["choose_classes", "probe", "rates_of"]

PROBES = 3
"""Images that are decoded to see."""
SAME = 1e-5
"""Share of the output range by which an image may differ when it is decoded again: sums in another order."""
TOLERANCE = 1e-3
"""Share of the output range by which an image may depend on the others of its chunk: rounding."""


def choose_classes(loaded: Loaded, class_ids: Sequence[int] | None, classes: int) -> Tensor:
    """The generator's label (k,) int64 for each class of the data.

    Args:
        loaded: the generator.
        class_ids: as the user says; None where both have the same classes in the same order.
        classes: k.

    Raises:
        UsageError: other numbers of classes without a mapping, or one that does not fit.
    """
    theirs = loaded.generator.num_classes
    if class_ids is None:
        if theirs != classes:
            raise UsageError(
                f"generator '{loaded.name}' has {theirs} classes, the data have {classes}",
                field="class_ids",
                hint="say which are meant with --set class_ids=ID,ID,..., one for each class of the data",
            )
        return torch.arange(classes)
    if len(class_ids) != classes:
        raise UsageError(
            f"option 'class_ids' names {len(class_ids)} classes, expected {classes}, one for each class of the data",
            field="class_ids",
        )
    unknown = [each for each in class_ids if not 0 <= each < theirs]
    if unknown:
        raise UsageError(
            f"option 'class_ids' has {unknown[0]}, generator '{loaded.name}' has classes 0 to {theirs - 1}",
            field="class_ids",
        )
    return torch.tensor(list(class_ids))


def rates_of(loaded: Loaded, latents: Collection[str]) -> dict[str, float]:
    """The generator's own step sizes by name of latent; empty when it has none.

    Args:
        loaded: the generator.
        latents: the names that it has.

    Raises:
        UsageError: a rate that is no number of at least 0, or of a latent that there is not.
    """
    with running(loaded.name, "'default_lrs'"):
        own: Any = getattr(loaded.generator, "default_lrs", dict)()
        if isinstance(own, Mapping):
            own = dict(own)
    if not isinstance(own, dict):
        raise broken(loaded, f"'default_lrs' gave {type(own).__name__}, expected rates by name of latent")
    for name, rate in own.items():
        if name not in latents:
            raise broken(loaded, f"'default_lrs' names a latent '{name}', it has: {', '.join(latents)}")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < float("inf"):
            raise broken(loaded, f"'default_lrs' has {rate!r} for latent '{name}', expected a number of at least 0")
    return {name: float(rate) for name, rate in own.items()}


def probe(loaded: Loaded, classes: Tensor, shape: tuple[int, int, int], device: torch.device) -> tuple[str, ...]:
    """Decode a few images and look at shape, values, repeatability, independence and gradients; project once.

    Args:
        loaded: the generator, on the device.
        classes: (k,) int64, the generator's labels that will be used.
        shape: c, h, w of the data.
        device: of the run.

    Returns:
        The names of its latents.

    Raises:
        UsageError: what the generator does is not what the contract says.
    """
    side = loaded.generator.resolution
    if shape[1:] != (side, side):
        raise UsageError(
            f"generator '{loaded.name}' makes images of {side} x {side} px, the data have {shape[1]} x {shape[2]}",
            field="generator",
            hint=f"use --size {side} if the data come in it, or another generator",
        )
    labels = classes[torch.arange(PROBES) % len(classes)].to(device)
    latents, again = (loaded.init_latents(labels, seeding.generator(0, "generators", "probe")) for _ in range(2))
    if latents.keys() != again.keys() or any(
        not torch.equal(latents[name].double(), again[name].double()) for name in latents
    ):
        raise broken(loaded, "'init_latents' gave other latents for the same draws")
    latents = {name: latent.to(device) for name, latent in latents.items()}
    with torch.no_grad():
        images = loaded.decode(latents, labels)
        _check_images(loaded, images, shape)
        _check_repeatability(loaded, latents, labels, images)
    leaves = {name: latent.clone().requires_grad_(True) for name, latent in latents.items()}
    images = loaded.decode(leaves, labels)
    loaded.pull_back(images, leaves, torch.ones_like(images))
    loaded.project({name: latent.clone() for name, latent in latents.items()})
    return tuple(latents)


def _check_images(loaded: Loaded, images: Tensor, shape: tuple[int, int, int]) -> None:
    if images.dtype != torch.float32:
        raise broken(loaded, f"'decode' gave {images.dtype}, expected torch.float32 (end it with '.float()')")
    if images.shape[1] != shape[0]:
        raise UsageError(
            f"generator '{loaded.name}' decoded {PROBES} images to shape {list(images.shape)}, the data need "
            f"{[PROBES, *shape]}",
            field="generator",
            hint="use data with as many channels, or another generator",
        )
    if not bool(torch.isfinite(images).all()):
        raise broken(loaded, "'decode' gave values that are not finite")


def _check_repeatability(loaded: Loaded, latents: Mapping[str, Tensor], labels: Tensor, images: Tensor) -> None:
    """The same images again, then one of them alone."""
    low, high = loaded.generator.output_range
    again = loaded.decode(latents, labels)
    if not _close(again, images, SAME * (high - low)):
        raise broken(loaded, "'decode' gave other images for the same latents: it must not draw at random")
    alone = loaded.decode({name: latent[1:2] for name, latent in latents.items()}, labels[1:2])
    if not _close(alone, images[1:2], TOLERANCE * (high - low)):
        raise broken(loaded, "an image depends on the others that are decoded with it (batch norm in training mode?)")


def _close(left: Tensor, right: Tensor, most: float) -> bool:
    return left.shape == right.shape and float((left - right).abs().max()) <= most
