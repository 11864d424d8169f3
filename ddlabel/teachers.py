"""Teachers: nets trained on real data, their checkpoints in a bundle, and what they say of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import seeding
from .bundle import Bundle, NewSection
from .errors import BundleError, UsageError
from .nets._net import Net, build
from .preprocess import data_of, read_space

__all__ = ["Checkpoint", "Teacher", "checkpoint_section"]


@dataclass(frozen=True)
class Checkpoint:
    """One kept epoch of one net."""

    section: str
    """Its section, `teacher.<member>.<epoch>`."""
    member: int
    epoch: int
    arch: str
    """Canonical name of the net."""
    accuracy: Mapping[str, float | None]
    """Fractions by split: `validation`, `test`; None where the split is empty."""


def checkpoint_section(net: Net, checkpoint: Checkpoint, *, seed: int) -> NewSection:
    """Parameters and buffers of a net as section `teacher.<member>.<epoch>`, each tensor a copy."""
    tensors = {f"{checkpoint.section}.{name}": value.detach().clone() for name, value in net.state_dict().items()}
    parameters: dict[str, Any] = {
        "arch": checkpoint.arch,
        "member": checkpoint.member,
        "epoch": checkpoint.epoch,
        "seed": seed,
        "accuracy": dict(checkpoint.accuracy),
    }
    return NewSection(checkpoint.section, "teacher", tensors, parameters=parameters)


class Teacher:
    """The nets of a teacher bundle, loaded one at a time.

    Raises:
        BundleError: the bundle is not a teacher.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.kind != "teacher":
            raise BundleError(
                f"{bundle.name}: kind '{bundle.kind}', expected a teacher bundle",
                field="kind",
                hint="pass a file that 'ddlabel train-teacher' wrote",
            )
        self.bundle = bundle
        self.space = read_space(bundle)
        self.checkpoints = tuple(_checkpoints(bundle))

    def select(self, which: str) -> tuple[Checkpoint, ...]:
        """The checkpoints named by an epoch, `last` (of every member) or `all`.

        Raises:
            UsageError: no checkpoint of that epoch, listing those kept.
        """
        if which == "all":
            return self.checkpoints
        epochs = sorted({checkpoint.epoch for checkpoint in self.checkpoints})
        wanted = str(epochs[-1]) if which == "last" else which
        chosen = tuple(checkpoint for checkpoint in self.checkpoints if str(checkpoint.epoch) == wanted)
        if not chosen:
            kept = ", ".join(str(epoch) for epoch in epochs)
            raise UsageError(
                f"checkpoint '{which}' is not in {self.bundle.name}, expected 'last', 'all' or one of the kept epochs "
                f"{kept}",
                field="checkpoint",
            )
        return chosen

    def net(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Net:
        """One net with its stored parameters and buffers, frozen and in eval mode."""
        data = data_of(self.bundle)
        net = build(
            checkpoint.arch,
            channels=data["channels"],
            size=data["height"],
            classes=len(data["classes"]),
            generator=seeding.generator(0, "teacher"),
        )
        state = {name: self.bundle.tensor(f"{checkpoint.section}.{name}") for name in net.state_dict()}
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            raise BundleError(
                f"{self.bundle.name}: section '{checkpoint.section}' does not fit the net '{checkpoint.arch}'",
                field=checkpoint.section,
            ) from error
        return net.to(device).eval().requires_grad_(False)

    def features(self, pixels: Tensor, *, which: str = "last", device: torch.device | str = "cpu") -> Tensor:
        """Embeddings of uint8 pixels (n, c, h, w) by the first chosen net: (n, f) float32 on the CPU."""
        net = self.net(self.select(which)[0], device)
        with torch.inference_mode():
            parts = [net.embed(self.space.encode(chunk).to(device)).cpu() for chunk in pixels.split(256)]
        return torch.cat(parts)


def _checkpoints(bundle: Bundle) -> Iterator[Checkpoint]:
    for section in bundle.sections("teacher"):
        try:
            parameters = section.parameters
            yield Checkpoint(
                section=section.name,
                member=int(parameters["member"]),
                epoch=int(parameters["epoch"]),
                arch=str(parameters["arch"]),
                accuracy=dict(parameters["accuracy"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.name}: section '{section.name}' does not say its member, epoch, arch and accuracy",
                field=section.name,
            ) from error
