"""Where distilled images and their soft labels start."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..data._stored_pixels import take
from ..errors import UsageError
from ..nets._net import Net
from ..training import predict
from ._method import Problem
from ._real import class_labels, first_images

__all__ = ["average_right", "initial_images", "initial_logits"]

CHUNK = 256
"""Real images that an expert classifies at once when correct ones are sought."""
ROUNDS = 100
"""Iterations of k-means at most."""


def initial_images(problem: Problem, how: str, generator: Generator) -> Tensor:
    """The images that a method starts from.

    Args:
        problem: gives the real images, the space and the experts.
        how: `real`, random ones of each class; `noise`, N(0, 1) in model-input space; `correct`, random ones that an
            expert classifies correctly after its last epoch (DATM, arXiv:2310.05773); `kmeans`, those nearest to the
            ipc centres of an expert's logits (AST).
        generator: of all draws.

    Returns:
        Images (k*ipc, c, h, w) float32, class-major.
    """
    classes = len(problem.classes)
    if how in {"real", "noise"}:
        return first_images(problem, how, generator)
    if how == "correct":
        indices = torch.cat([_correct(problem, label, generator) for label in range(classes)])
    else:
        indices = torch.cat([_central(problem, label, generator) for label in range(classes)])
    return problem.space.encode(problem.pixels[indices]).to(problem.device)


def initial_logits(problem: Problem, images: Tensor, *, every: bool) -> Tensor:
    """Soft labels of the experts after their last epoch, (k*ipc, k) logits: the mean over those that are right.

    Where no expert is right it is the mean over all, and where even that has another class on top, the logits of a
    smoothed hard label: its class stands out by the spread of the experts' logits.

    Differs from the authors' code in: theirs divides by zero where no expert is right.

    Args:
        problem: gives the experts.
        images: (k*ipc, c, h, w) in model-input space, class-major.
        every: ask all experts; otherwise the first one labels every image, right or wrong (DATM's `pix_init: real`).
    """
    if not every:
        return predict(next(_experts(problem)), images).float()
    labels = class_labels(problem)
    total = torch.zeros(len(labels), len(problem.classes), dtype=torch.float64)
    right_total, right_count = torch.zeros_like(total), torch.zeros(len(labels), 1, dtype=torch.float64)
    count = 0
    for net in _experts(problem):
        logits = predict(net, images).double()
        right = (logits.argmax(dim=1) == labels).unsqueeze(1).double()
        total += logits
        right_total += right * logits
        right_count += right
        count += 1
    return average_right(total, right_total, right_count, count, labels).float()


def average_right(total: Tensor, right_total: Tensor, right_count: Tensor, count: int, labels: Tensor) -> Tensor:
    """Sums over experts to labels: of the right ones, else of all, else of the hard label.

    Args:
        total: (n, k) sum of all experts' logits.
        right_total: (n, k) sum over those that classify the image correctly.
        right_count: (n, 1) how many those are.
        count: how many experts there are.
        labels: (n,) hard labels.
    """
    mean = total / count
    spread = (mean.amax(dim=1, keepdim=True) - mean.amin(dim=1, keepdim=True)).clamp(min=1.0)
    hard = functional.one_hot(labels, total.shape[1]).to(total) * spread
    fallback = torch.where((mean.argmax(dim=1) == labels).unsqueeze(1), mean, hard)
    return torch.where(right_count > 0, right_total / right_count.clamp(min=1), fallback)


def _experts(problem: Problem) -> Iterator[Net]:
    """The experts after their last epoch, loaded one after the other."""
    if problem.trajectories is None:
        raise ValueError("experts are asked for without trajectories")
    for teacher in problem.trajectories.teachers:
        for checkpoint in teacher.select("last"):
            yield teacher.net(checkpoint, problem.device)


def _correct(problem: Problem, label: int, generator: Generator) -> Tensor:
    """Indices of ipc images of a class that an expert classifies correctly, the first expert first."""
    members = problem.members(label)
    members = members[torch.randperm(len(members), generator=generator)]
    found: list[int] = []
    for net in _experts(problem):
        known = set(found)
        left = [index for index in members.tolist() if index not in known]
        for chunk in torch.tensor(left, dtype=torch.long).split(CHUNK):
            guesses = predict(net, problem.pixels[chunk], space=problem.space).argmax(dim=1)
            found += chunk[guesses == label].tolist()
            if len(found) >= problem.ipc:
                return torch.tensor(found[: problem.ipc])
    raise UsageError(
        f"option 'init' is 'correct': the experts classify {len(found)} images of class '{problem.classes[label]}' "
        f"correctly, --ipc asks for {problem.ipc}",
        field="init",
        hint="use --set init=real, or better experts",
    )


def _central(problem: Problem, label: int, generator: Generator) -> Tensor:
    """Indices of the images nearest to the centres of k-means on the first expert's logits, all different."""
    members = problem.members(label)
    points = predict(next(_experts(problem)), take(problem.pixels, members), space=problem.space).double()
    centres = points[torch.randperm(len(points), generator=generator)[: problem.ipc]]
    for _round in range(ROUNDS):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        moved = torch.stack(
            [points[nearest == index].mean(dim=0) if (nearest == index).any() else centres[index]
             for index in range(len(centres))]
        )  # fmt: skip
        if torch.equal(moved, centres):
            break
        centres = moved
    distances, chosen = torch.cdist(centres, points), []
    for row in distances:
        order = row.argsort(stable=True).tolist()
        chosen.append(next(index for index in order if index not in chosen))
    return members[torch.tensor(chosen)]
