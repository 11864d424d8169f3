"""What a generator of images is, and the one place where its code is called: faults are named, stdout stays clean."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from ..errors import InterruptedRunError, UsageError

__all__ = ["ImageGenerator", "Loaded", "broken", "running"]

PASSED = (KeyboardInterrupt, InterruptedRunError, MemoryError, torch.OutOfMemoryError)
"""What is not the fault of the code that runs: told elsewhere."""
WHERE = "--debug shows where in its code"


class ImageGenerator(Protocol):
    """Images from latents, frozen. A plugin of the room, or any object of the user's with these members.

    Optional members: `default_lrs() -> dict[str, float]`, step sizes by name of latent; `project_(latents)`, called
    after each step to change the new latents in place; `to(device)`; `state_dict()`, tensors that identify it.

    `GENERATOR` of a plugin is called with `channels`, `resolution` and `num_classes` of the data at hand, which it may
    ignore.
    """

    resolution: int
    """Images are square, this many pixels a side."""
    num_classes: int
    """Labels are 0 to `num_classes` - 1."""
    output_range: tuple[float, float]
    """Values of `decode` that are black and white."""

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Latents to start from, each (n, ...) and of floating point.

        Args:
            labels: (n,) int64, on the device of the run.
            generator: on the CPU: draw there, then move. The same generator must give the same latents.
        """
        ...

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Images (n, c, h, w) float32: differentiable in every latent, each from its own latents and label alone."""
        ...


@contextlib.contextmanager
def running(name: str, member: str, *, missing: str = WHERE) -> Iterator[None]:
    """Around every call of a generator's code: what it prints goes to stderr, and its faults are told as its own.

    Args:
        name: of the generator.
        member: what runs, such as `'decode'`, as the message shall say it.
        missing: what to do about an ImportError.

    Raises:
        UsageError: the code raised anything, `SystemExit` too; the cause is chained. An interrupt and a lack of memory
            pass.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except PASSED:
        raise
    except BaseException as error:
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):  # torch has no class for it on CPU
            raise
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = missing if isinstance(error, ImportError) else WHERE
        raise UsageError(f"generator '{name}': {member} raised {said}", field="generator", hint=hint) from error


@dataclass(frozen=True)
class Loaded:
    """A generator and who it is. All its code is called by these methods, which check what it gives."""

    generator: ImageGenerator
    name: str
    """As typed, without folders."""
    digest: bytes
    """sha256 of its weights, or of the source file when it has no `state_dict`."""
    hashed: str
    """What the digest is of: `weights` or `source`."""

    def identity(self) -> dict[str, str]:
        """For the history of a bundle."""
        return {"name": self.name, "sha256": self.digest.hex(), "hashed": self.hashed}

    def move(self, device: torch.device) -> None:
        """To a device, if it can; modules move themselves."""
        with running(self.name, "'to'"):
            move = getattr(self.generator, "to", None)
            if move is not None:
                move(device)

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Detached copies of the latents (n, ...) that the generator starts from, without a graph.

        Raises:
            UsageError: they are not named tensors of n finite floating-point values each.
        """
        with running(self.name, "'init_latents'"), torch.no_grad():
            latents: Any = self.generator.init_latents(labels, generator)
            if isinstance(latents, Mapping):
                latents = dict(latents)
        if not isinstance(latents, dict) or not latents:
            raise broken(self, f"'init_latents' gave {type(latents).__name__}, expected named tensors")
        for name, latent in latents.items():
            if not isinstance(name, str):
                raise broken(self, f"'init_latents' named a latent {name!r}, expected a text")
            if not isinstance(latent, Tensor) or not latent.is_floating_point():
                raise broken(self, f"latent '{name}' is no tensor of floating-point numbers")
            if latent.ndim == 0 or len(latent) != len(labels):
                raise broken(self, f"latent '{name}' has shape {list(latent.shape)}, expected [{len(labels)}, ...]")
            if not bool(torch.isfinite(latent).all()):
                raise broken(self, f"latent '{name}' is not finite")
        return {name: latent.detach().clone() for name, latent in latents.items()}

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Images (n, c, h, w) of the latents, with a graph where one is being made.

        Raises:
            UsageError: what came is no floating-point tensor of n square images of the generator's resolution.
        """
        with running(self.name, "'decode'"):
            images: Any = self.generator.decode(dict(latents), labels)
            side = self.generator.resolution
        if not isinstance(images, Tensor) or not images.is_floating_point():
            raise broken(self, "'decode' gave no tensor of floating-point numbers")
        if images.ndim != 4 or (len(images), *images.shape[2:]) != (len(labels), side, side):
            raise broken(
                self, f"'decode' gave shape {list(images.shape)}, expected [{len(labels)}, channels, {side}, {side}]"
            )
        return images

    def pull_back(self, images: Tensor, leaves: Mapping[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        """d loss / d latents, of decoded images and d loss / d images of the same shape.

        Raises:
            UsageError: the images do not depend on a latent.
        """
        if not images.requires_grad:
            raise broken(self, "'decode' is not differentiable: nothing connects the images to the latents")
        with running(self.name, "the gradient of 'decode'"):
            slopes = torch.autograd.grad(images, list(leaves.values()), gradient, allow_unused=True)
        found = dict(zip(leaves, slopes, strict=True))
        for name, slope in found.items():
            if slope is None:
                raise broken(self, f"'decode' is not differentiable in latent '{name}'")
        return found

    def project(self, latents: dict[str, Tensor]) -> None:
        """The generator's constraint, in place, if it has one; latents that are not finite are left to who asks.

        Raises:
            UsageError: it left other latents, or other shapes, types or devices, or values that are not finite.
        """
        if not all(bool(torch.isfinite(latent).all()) for latent in latents.values()):
            return
        before = {name: _kind(latent) for name, latent in latents.items()}
        with running(self.name, "'project_'"), torch.no_grad():
            project = getattr(self.generator, "project_", None)
            if project is not None:
                project(latents)
        if latents.keys() != before.keys():
            raise broken(self, f"'project_' left the latents {_listed(latents)}, expected {_listed(before)}")
        for name, kind in before.items():
            if _kind(latents[name]) != kind:
                raise broken(self, f"'project_' made latent '{name}' {_kind(latents[name])}, expected {kind}")
            if not bool(torch.isfinite(latents[name]).all()):
                raise broken(self, f"'project_' made latent '{name}' not finite")


def broken(loaded: Loaded, what: str) -> UsageError:
    """A rule of the contract that a generator does not keep."""
    return UsageError(
        f"generator '{loaded.name}': {what}", field="generator", hint="docs/glad.md says what is expected"
    )


def _kind(latent: Any) -> str:
    """What must stay as it is."""
    if not isinstance(latent, Tensor):
        return type(latent).__name__
    return f"{latent.dtype} {list(latent.shape)} on {latent.device}"


def _listed(names: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, names)) or "none"
