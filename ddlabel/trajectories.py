"""Trajectories: the parameters of nets after every epoch of their training, read by slice from teacher bundles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .bundle import Bundle, NewSection
from .errors import BundleError, UsageError
from .preprocess import ZCA_SECTION, check_agreement, data_of
from .teachers import Teacher
from .tensors import FileTensor, RawTensor

__all__ = ["SECTION", "Trajectories", "flatten", "flatten_buffers", "trajectory_section"]

SECTION = "trajectory"
"""Sections are `trajectory.<expert>`; their tensors `trajectory.<expert>` (epochs, parameters) float32, and
`trajectory.<expert>.buffers` (epochs, buffers) for nets with running statistics."""
ADVICE = "run 'ddlabel train-teacher --experts N' first"


def flatten(net: nn.Module) -> Tensor:
    """A copy of all parameters, (P,) float32 on the CPU, in the order of `named_parameters()`."""
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone().cpu()


def flatten_buffers(net: nn.Module) -> Tensor:
    """A copy of all floating-point buffers, (B,) float32 on the CPU, in the order of `named_buffers()`."""
    parts = [buffer.detach().reshape(-1).float().cpu() for buffer in net.buffers() if buffer.is_floating_point()]
    return torch.cat(parts) if parts else torch.empty(0)


def trajectory_section(
    expert: int,
    epochs: Sequence[int],
    rows: Tensor | RawTensor | FileTensor,
    buffers: Tensor | RawTensor | FileTensor | None,
    *,
    arch: str,
    seed: int,
    recipe: Mapping[str, Any],
    curriculum: str | None,
    accuracy: Mapping[str, float | None],
) -> NewSection:
    """One expert's trajectory as section `trajectory.<expert>`.

    Args:
        expert: its number, which with the seed names its random streams.
        epochs: that were kept, consecutive; 0 is the initialisation.
        rows: (epochs, P) float32, parameters in the order of `flatten`.
        buffers: (epochs, B) float32 in the order of `flatten_buffers`; None for a net without.
        arch: canonical name of the net.
        seed: of the run.
        recipe: how it was trained, as `options.as_dict` gives it.
        curriculum: what decided which images an epoch saw; None when all.
        accuracy: after the last epoch of training, fractions by split.

    Raises:
        ValueError: a tensor has another number of rows than there are epochs.
    """
    name = f"{SECTION}.{expert}"
    tensors = {name: rows} if buffers is None else {name: rows, f"{name}.buffers": buffers}
    for tensor, value in tensors.items():
        if len(value.shape) != 2 or value.shape[0] != len(epochs):
            raise ValueError(f"'{tensor}' has shape {tuple(value.shape)}, expected {len(epochs)} rows")
    parameters = {
        "arch": arch,
        "member": expert,
        "epochs": list(epochs),
        "seed": seed,
        "recipe": dict(recipe),
        "curriculum": curriculum,
        "accuracy": dict(accuracy),
    }
    return NewSection(name, SECTION, tensors, parameters=parameters)


@dataclass(frozen=True)
class _Expert:
    bundle: Bundle
    section: str
    epochs: tuple[int, ...]
    parameters: int


class Trajectories:
    """The experts of one or several teacher bundles, of one net, space and data set.

    Raises:
        UsageError: no bundle; the same trajectory twice.
        BundleError: a bundle that is no teacher or holds no trajectories; bundles of different nets, spaces, data or
            epochs, naming both sides.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self.teachers = tuple(Teacher(bundle) for bundle in bundles)
        if not bundles:
            raise UsageError("no bundle with trajectories was given", field="teacher", hint=ADVICE)
        self._experts = [expert for bundle in bundles for expert in _read(bundle)]
        self._checked: set[int] = set()
        self._check_agreement(bundles)
        self.arch = str(self._net_of(self._experts[0]))
        self.space = self.teachers[0].space
        self.epochs = range(self._experts[0].epochs[0], self._experts[0].epochs[-1] + 1)

    def __len__(self) -> int:
        """How many experts there are."""
        return len(self._experts)

    def checkpoint(self, expert: int, epoch: int) -> Tensor:
        """Parameters of an expert after an epoch, (P,) float32 on the CPU.

        The first time an expert is asked for, its trajectory is read through once to compare its digest; after that no
        other row is read, and never is more than a row kept.

        Raises:
            BundleError: the parameters are not finite, or not those that were written.
        """
        chosen = self._experts[expert]
        if expert not in self._checked:
            chosen.bundle.check_tensor(chosen.section)
            self._checked.add(expert)
        row = epoch - chosen.epochs[0]
        values = chosen.bundle.slice(chosen.section, row, row + 1)[0]
        if not math.isfinite(float(values.sum())):
            raise BundleError(
                f"{chosen.bundle.name}: '{chosen.section}' is not finite at epoch {epoch}", field=chosen.section
            )
        return values

    def name(self, expert: int) -> str:
        """File and section of an expert, for messages."""
        chosen = self._experts[expert]
        return f"{chosen.bundle.name}: '{chosen.section}'"

    def _net_of(self, expert: _Expert) -> Any:
        return expert.bundle.section(expert.section).parameters["arch"]

    def _check_agreement(self, bundles: Sequence[Bundle]) -> None:
        for bundle in bundles[1:]:
            check_agreement(bundles[0], bundle)
            for field, ours, theirs in (
                ("training images", data_of(bundles[0])["fingerprint"], data_of(bundle)["fingerprint"]),
                ("held-out share", str(_held_out(bundles[0])), str(_held_out(bundle))),
                ("whitening", _whitening(bundles[0]), _whitening(bundle)),
            ):
                if ours != theirs:
                    raise BundleError(
                        f"{bundles[0].name} and {bundle.name} have different {field}: {ours[:12]} and {theirs[:12]}",
                        field=field,
                        hint="train all experts with the same --data, --size, --space and --validation",
                    )
        first = self._experts[0]
        seen: dict[str, str] = {}
        for index, expert in enumerate(self._experts):
            for field, ours, theirs in (
                ("net", self._net_of(first), self._net_of(expert)),
                ("epochs", _span(first), _span(expert)),
                ("parameters", first.parameters, expert.parameters),
            ):
                if ours != theirs:
                    raise BundleError(
                        f"{self.name(0)} has {field} {ours}, {self.name(index)} has {theirs}", field=field
                    )
            digest = expert.bundle.section(expert.section).tensors[expert.section]["sha256"]
            if digest in seen:
                raise UsageError(
                    f"{self.name(index)} is the same trajectory as {seen[digest]}",
                    field="teacher",
                    hint="train further experts with --first-expert or another --seed",
                )
            seen[digest] = self.name(index)


def _held_out(bundle: Bundle) -> Any:
    return data_of(bundle)["validation"]["fraction"]


def _whitening(bundle: Bundle) -> str:
    """Digest of the ZCA matrix, or nothing."""
    sections = [section for section in bundle.sections("transform") if section.name == ZCA_SECTION]
    return str(sections[0].tensors[f"{ZCA_SECTION}.matrix"]["sha256"]) if sections else ""


def _span(expert: _Expert) -> str:
    return f"{expert.epochs[0]}-{expert.epochs[-1]}"


def _read(bundle: Bundle) -> list[_Expert]:
    found = []
    for section in bundle.sections(SECTION):
        try:
            epochs = tuple(int(epoch) for epoch in section.parameters["epochs"])
            shape = tuple(section.tensors[section.name]["shape"])
            str(section.parameters["arch"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.name}: section '{section.name}' does not say its net, epochs and parameters",
                field=section.name,
            ) from error
        if len(shape) != 2 or len(epochs) != shape[0] or list(epochs) != list(range(epochs[0], epochs[0] + shape[0])):
            raise BundleError(
                f"{bundle.name}: section '{section.name}' names {len(epochs)} epochs, its tensor has shape {shape}",
                field=section.name,
            )
        found.append(_Expert(bundle, section.name, epochs, shape[1]))
    if not found:
        raise BundleError(f"{bundle.name} holds no trajectories", field="trajectory", hint=ADVICE)
    return found
