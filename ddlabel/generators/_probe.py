"""Whether a generator keeps its contract, tried on a few latents before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import seeding
from ..errors import UsageError
from ._generator import Loaded

__all__ = ["check_latents", "choose_classes", "probe", "rates_of"]

PROBES = 3
"""Images that are decoded to see."""
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


def check_latents(loaded: Loaded, latents: Any, count: int) -> dict[str, Tensor]:
    """The latents, detached copies, when they are named tensors of finite floating-point numbers (n, ...).

    Raises:
        UsageError: they are not.
    """
    if not isinstance(latents, Mapping) or not latents:
        raise _broken(loaded, f"'init_latents' gave {type(latents).__name__}, expected named tensors")
    for name, latent in latents.items():
        if not isinstance(latent, Tensor) or not latent.is_floating_point():
            raise _broken(loaded, f"latent '{name}' is no tensor of floating-point numbers")
        if latent.ndim == 0 or len(latent) != count:
            raise _broken(loaded, f"latent '{name}' has shape {list(latent.shape)}, expected [{count}, ...]")
        if not bool(torch.isfinite(latent).all()):
            raise _broken(loaded, f"latent '{name}' is not finite")
    return {str(name): latent.detach().clone() for name, latent in latents.items()}


def rates_of(loaded: Loaded) -> dict[str, float]:
    """The generator's own step sizes by name of latent; empty when it has none.

    Raises:
        UsageError: a rate that is no number of at least 0.
    """
    own: Any = getattr(loaded.generator, "default_lrs", dict)()
    if not isinstance(own, Mapping):
        raise _broken(loaded, f"'default_lrs' gave {type(own).__name__}, expected rates by name of latent")
    for name, rate in own.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < float("inf"):
            raise _broken(loaded, f"'default_lrs' has {rate!r} for latent '{name}', expected a number of at least 0")
    return {str(name): float(rate) for name, rate in own.items()}


def probe(loaded: Loaded, classes: Tensor, shape: tuple[int, int, int], device: torch.device) -> None:
    """Decode a few images and look at shape, values, repeatability, independence and gradients.

    Args:
        loaded: the generator, on the device.
        classes: (k,) int64, the generator's labels that will be used.
        shape: c, h, w of the data.
        device: of the run.

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
    with torch.no_grad():
        latents, again = (
            check_latents(
                loaded, loaded.generator.init_latents(labels, seeding.generator(0, "generators", "probe")), PROBES
            )
            for _ in range(2)
        )
        if any(not torch.equal(latents[name], again[name]) for name in latents):
            raise _broken(loaded, "'init_latents' gave other latents for the same draws")
        images = loaded.generator.decode(latents, labels)
        _check_images(loaded, images, (PROBES, *shape))
        _check_independence(loaded, latents, labels, images)
    _check_gradients(loaded, latents, labels)


def _check_images(loaded: Loaded, images: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise _broken(loaded, "'decode' gave no tensor of floating-point numbers")
    if tuple(images.shape) != shape:
        raise UsageError(
            f"generator '{loaded.name}' decoded {PROBES} images to shape {list(images.shape)}, the data need "
            f"{list(shape)}",
            field="generator",
            hint="use data with as many channels and pixels, or another generator",
        )
    if not bool(torch.isfinite(images).all()):
        raise _broken(loaded, "'decode' gave values that are not finite")


def _check_independence(loaded: Loaded, latents: Mapping[str, Tensor], labels: Tensor, images: Tensor) -> None:
    low, high = loaded.generator.output_range
    alone = loaded.generator.decode({name: latent[1:2] for name, latent in latents.items()}, labels[1:2])
    if float((alone - images[1:2]).abs().max()) > TOLERANCE * (high - low):
        raise _broken(loaded, "an image depends on the others that are decoded with it (batch norm in training mode?)")


def _check_gradients(loaded: Loaded, latents: Mapping[str, Tensor], labels: Tensor) -> None:
    leaves = {name: latent.clone().requires_grad_(True) for name, latent in latents.items()}
    images = loaded.generator.decode(leaves, labels)
    if not images.requires_grad:
        raise _broken(loaded, "'decode' is not differentiable: nothing connects the images to the latents")
    gradients = torch.autograd.grad(images.sum(), list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        if gradient is None:
            raise _broken(loaded, f"'decode' is not differentiable in latent '{name}'")


def _broken(loaded: Loaded, what: str) -> UsageError:
    return UsageError(
        f"generator '{loaded.name}': {what}", field="generator", hint="docs/glad.md says what is expected"
    )
