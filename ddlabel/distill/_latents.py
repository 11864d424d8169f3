"""Distilled images as latents of a frozen generator: a canvas whose images are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Generator, Tensor

from ..errors import UsageError
from ..generators._generator import Loaded, broken
from ..space import Space

__all__ = ["Latents", "to_space"]

LATENT, VELOCITY, LABELS, IDENTITY = "latent.", "velocity.", "latent_labels", "generator"
"""Entries of a state: each latent and its momentum buffer, the classes (n,) int64 of the images, and the digest of the
generator (32,) uint8."""


class Latents:
    """Images are decoded from latents; a gradient with respect to images is pulled back to them.

    In two stages: the method takes its gradient on images without a graph; then each chunk is decoded once more, with a
    graph, and pulls its own part back. That is the chain rule, so the gradient is that of one pass through both, in the
    memory of the method alone or of one chunk.
    """

    def __init__(
        self, loaded: Loaded, space: Space, *, classes: Tensor, chunk: int, rates: Mapping[str, float]
    ) -> None:
        """A canvas.

        Args:
            loaded: the generator, on the device of the run.
            space: of the images.
            classes: (k,) int64, the generator's label for each class of the data.
            chunk: images decoded at once.
            rates: step sizes by name of latent; other latents take the method's own.
        """
        self.loaded, self.space, self.classes, self.chunk, self.rates = loaded, space, classes, chunk, dict(rates)

    def begin(self, images: Tensor, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """What the generator starts from, at rest; of the images only their device counts."""
        labels = labels.to(images.device)
        drawn = self.loaded.init_latents(self.classes.to(images.device)[labels], generator)
        latents = {name: latent.to(images.device) for name, latent in drawn.items()}
        return {
            LABELS: labels,
            IDENTITY: torch.tensor(list(self.loaded.digest), dtype=torch.uint8),
            **{LATENT + name: latent for name, latent in latents.items()},
            **{VELOCITY + name: torch.zeros_like(latent) for name, latent in latents.items()},
        }

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state of another generator.

        Raises:
            UsageError: naming both.
        """
        made_with = bytes(state[IDENTITY].tolist())
        if made_with != self.loaded.digest:
            raise UsageError(
                f"the state was made with a generator of digest {made_with.hex()[:12]}, '{self.loaded.name}' has "
                f"{self.loaded.digest.hex()[:12]}",
                field="generator",
                hint="give the generator the run was started with, or start anew",
            )

    def names(self, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Of the latents."""
        return tuple(_latents_of(state))

    def render(self, state: Mapping[str, Tensor]) -> Tensor:
        """The decoded images, chunk by chunk."""
        latents = _latents_of(state)
        with torch.no_grad():
            return torch.cat([self._decode(part, labels) for _, part, labels in self._parts(latents, state[LABELS])])

    def descend(
        self, state: Mapping[str, Tensor], gradient: Tensor, *, lr: float, momentum: float
    ) -> dict[str, Tensor]:
        """One step of SGD with momentum on every latent, at its own rate; then the generator's constraint."""
        latents, moved, velocities = _latents_of(state), {}, {}
        for name, slope in self.pull_back(latents, state[LABELS], gradient).items():
            velocity = momentum * state[VELOCITY + name] + slope
            moved[name] = latents[name] - self.rates.get(name, lr) * velocity
            velocities[VELOCITY + name] = velocity
        self.loaded.project(moved)
        return {**{LATENT + name: latent for name, latent in moved.items()}, **velocities}

    def pull_back(self, latents: Mapping[str, Tensor], labels: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """d loss / d latents, of d loss / d images (n, c, h, w) in model-input space."""
        slopes: dict[str, list[Tensor]] = {name: [] for name in latents}
        for rows, part, part_labels in self._parts(latents, labels):
            leaves = {name: latent.detach().requires_grad_(True) for name, latent in part.items()}
            images = self._decode(leaves, part_labels)
            found = self.loaded.pull_back(images, leaves, gradient[rows].to(images.dtype))
            for name, slope in found.items():
                slopes[name].append(slope)
        return {name: torch.cat(parts) for name, parts in slopes.items()}

    def _parts(
        self, latents: Mapping[str, Tensor], labels: Tensor
    ) -> Iterator[tuple[slice, dict[str, Tensor], Tensor]]:
        """Rows, latents and labels of every chunk."""
        for start in range(0, len(labels), self.chunk):
            rows = slice(start, start + self.chunk)
            yield rows, {name: latent[rows] for name, latent in latents.items()}, labels[rows]

    def _decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        low, high = self.loaded.generator.output_range
        decoded = self.loaded.decode(latents, self.classes.to(labels.device)[labels])
        if decoded.shape[1] != len(self.space.mean):
            raise broken(self.loaded, f"'decode' gave {decoded.shape[1]} channels, expected {len(self.space.mean)}")
        decoded = decoded if decoded.dtype == torch.float64 else decoded.float()
        return to_space((decoded - low) / (high - low), self.space)


def to_space(units: Tensor, space: Space) -> Tensor:
    """Images in model-input space of values (n, c, h, w) in [0, 1] units: differentiable, not rounded to 8 bit."""
    if space.zca is not None:
        flat = (units.flatten(1) - space.zca.mean.to(units)) @ space.zca.matrix.to(units)
        return flat.reshape(units.shape)
    mean, std = (
        torch.tensor(numbers, dtype=units.dtype, device=units.device).reshape(1, -1, 1, 1)
        for numbers in (space.mean, space.std)
    )
    return (units - mean) / std


def _latents_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(LATENT): value for name, value in state.items() if name.startswith(LATENT)}
