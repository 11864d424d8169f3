"""The gradient of a trajectory matching loss through all steps of a student's training, exact or as TESLA has it.

The loss is that of MTT (Cazenavette et al., CVPR 2022, arXiv:2203.11932). Three ways to its gradient:

- `full`: automatic differentiation through the whole run, as MTT's code does; memory grows with steps and batch.
- `adjoint`: the same numbers by reverse recursion over stored parameters; one micro-batch of graph at a time.
- `tesla`: TESLA's approximation (Cui et al., ICML 2023, arXiv:2211.10586), which treats every step's parameters as
  constants and so drops how a step's images move later gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..augment._augment import Step
from ..nets._net import Net, mixes_samples
from ._dual import fits
from ._student import Part, Privileged, Student, compares_batches, split_draws

__all__ = ["UNROLLS", "Matched", "Unrolled", "Waypoint", "images_per_graph", "match"]

UNROLLS = ("adjoint", "full", "tesla")
CPU_PART = 32
"""Images per graph on the CPU: `mtt-large` of `tests/benchmarks/bench.py` measures it."""
GPU_PART = 256


@dataclass(frozen=True)
class Waypoint:
    """Where the student should be after `step` steps."""

    step: int
    """1 to N; the last one is N."""
    parameters: Tensor
    """(P,) of the expert."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """One run of a student of N steps: v' = mu v + g, theta' = theta - beta v'."""

    net: Net
    """On the device and in train mode; used as a function, its own parameters and buffers are not touched."""
    images: Tensor
    """(n, c, h, w) distilled images in model-input space."""
    labels: Tensor
    """(n,) int64."""
    logits: Tensor | None
    """(n, k) soft labels as logits, which take the place of the labels."""
    start: Tensor
    """(P,) theta_0, in the order of `named_parameters()`."""
    waypoints: tuple[Waypoint, ...]
    lr: float | Tensor
    """beta, scalar."""
    batches: tuple[Tensor, ...]
    """N index vectors, no image twice in one."""
    draws: tuple[tuple[Step, ...], ...]
    """N augmentation records, with parameters per sample of the batch or shared."""
    momentum: float = 0.0
    """mu."""
    loss_scale: float = 1.0
    """Multiplies the student's cross-entropy."""
    mask: Callable[[Tensor], Tensor] | None = None
    """From the elementwise squared error (P,) at a waypoint to weights (P,) of 0 and 1; not differentiated."""
    microbatch: int | None = None
    """Images per graph inside a step; None chooses. Batch norm, and objectives that compare the labels of a batch,
    always take the whole batch."""
    privileged: Privileged | None = None
    """Labels (n, *shape) that every step's loss also sees, at the parameters of that step."""

    def rate(self) -> Tensor:
        """beta as a scalar tensor of the parameters' type."""
        return torch.as_tensor(self.lr, dtype=self.start.dtype, device=self.start.device).detach()

    def target(self) -> Tensor:
        """What the student is trained on: soft labels where there are any."""
        return self.labels if self.logits is None else self.logits

    def parts(
        self, step: int, images: Tensor, target: Tensor, privileged: Tensor | None = None
    ) -> list[tuple[Tensor, Part]]:
        """Micro-batches of a step, with their rows; privileged labels (n, *shape) are the run's own unless given."""
        batch = self.batches[step].to(images.device)
        size = self._part_size(len(batch))
        rows = batch.split(size)
        draws = split_draws(self.draws[step], len(batch), size)
        found = []
        for own, drawn in zip(rows, draws, strict=True):
            part = Part(images[own], target[own], drawn, self.loss_scale * len(own) / len(batch))
            if self.privileged is not None:
                labels = self.privileged.labels if privileged is None else privileged
                part = replace(part, privileged=self.privileged.rows(own, labels), share=len(own) / len(batch))
            found.append((own, part))
        return found

    def _part_size(self, batch: int) -> int:
        mixes = mixes_samples(self.net) or (self.privileged is not None and compares_batches(self.privileged.objective))
        return images_per_graph(mixes, batch, self.microbatch, self.images.device)


def images_per_graph(mixes: bool, batch: int, microbatch: int | None, device: torch.device) -> int:
    """Images of a student's batch that one graph holds at a time when `unroll` is adjoint or tesla.

    Args:
        mixes: whether the net's norms or the objective mix samples, which takes the whole batch.
        batch: images in the batch.
        microbatch: what the user chose; None takes what suits the device.
        device: where the graph is.
    """
    if mixes:
        return batch
    return min(batch, microbatch or (CPU_PART if device.type == "cpu" else GPU_PART))


@dataclass(frozen=True)
class Matched:
    """A matching loss and its gradients, in the types of what they belong to."""

    loss: Tensor
    images: Tensor
    logits: Tensor | None
    lr: Tensor
    privileged: Tensor | None = None
    """(n, *shape)."""
    path: tuple[Tensor, ...] = ()
    """theta_0 to theta_N, (P,) each."""

    def tensors(self) -> tuple[Tensor, ...]:
        """The loss and all gradients."""
        found = (self.loss, self.images, self.logits, self.lr, self.privileged)
        return tuple(tensor for tensor in found if tensor is not None)


def match(run: Unrolled, unroll: str = "adjoint", *, tesla_scale: float = 1.0) -> Matched:
    """Loss and gradients of one student run.

    The loss is the sum over waypoints of weight * ||m (theta - theta*)||^2 / ||m (theta_0 - theta*)||^2.

    Args:
        run: the run; each theta* must differ from theta_0 where the mask is 1.
        unroll: `adjoint`, `full` or `tesla`.
        tesla_scale: factor of `tesla`'s gradients of images, soft labels and privileged labels.

    Differs from the authors' code in: TESLA's image gradient is that of its formula; the published code multiplies a
    tuple in place of a tensor and applies half of it, which is `tesla_scale=0.5`. The gradient of beta is never scaled.
    """
    if unroll == "full":
        return _full(run)
    if unroll == "adjoint":
        return _reverse(run, exact=True)
    if unroll == "tesla":
        matched = _reverse(run, exact=False)
        soft = None if matched.logits is None else matched.logits * tesla_scale
        privileged = None if matched.privileged is None else matched.privileged * tesla_scale
        return replace(matched, images=matched.images * tesla_scale, logits=soft, privileged=privileged)
    raise ValueError(f"unroll is '{unroll}', expected one of {', '.join(UNROLLS)}")


def _distance(run: Unrolled, waypoint: Waypoint, reached: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted loss of one waypoint and its gradient in the parameters reached."""
    away = reached - waypoint.parameters
    squared, whole = away.square(), (run.start - waypoint.parameters).square()
    if run.mask is not None:
        kept = run.mask(squared.detach())
        away, squared, whole = away * kept, squared * kept, whole * kept
    scale = waypoint.weight / whole.sum()
    return squared.sum() * scale, 2 * away.detach() * scale


def _full(run: Unrolled) -> Matched:
    """Automatic differentiation through all steps."""
    student, soft = Student(run.net, by_hand=False), run.logits is not None
    leaves = {"images": run.images.detach().requires_grad_(True), "lr": run.rate().requires_grad_(True)}
    target = run.target().detach().requires_grad_(soft)
    if soft:
        leaves["logits"] = target
    if run.privileged is not None:
        leaves["privileged"] = run.privileged.labels.detach().requires_grad_(True)
    path, velocity = [run.start.detach().requires_grad_(True)], torch.zeros_like(run.start)
    loss = run.start.new_zeros(())
    for step in range(len(run.batches)):
        parts = [part for _rows, part in run.parts(step, leaves["images"], target, leaves.get("privileged"))]
        losses = torch.stack([student.loss(path[-1], part) for part in parts])
        (gradient,) = torch.autograd.grad(losses.sum(), path[-1], create_graph=True)
        velocity = run.momentum * velocity + gradient
        path.append(path[-1] - leaves["lr"] * velocity)
        for waypoint in run.waypoints:
            if waypoint.step == step + 1:
                loss = loss + _distance(run, waypoint, path[-1])[0]
    found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    named = dict(zip(leaves, found, strict=True))
    thetas = tuple(theta.detach() for theta in path)
    return Matched(loss.detach(), named["images"], named.get("logits"), named["lr"], named.get("privileged"), thetas)


def _reverse(run: Unrolled, *, exact: bool) -> Matched:
    """The run without graph, then the adjoint recursion; not exact leaves the curvature out, which is TESLA.

    With lam = d loss / d theta_{i+1} and p = lam + mu p, which is -1/beta times the derivative in v_{i+1}, a step back
    is s = <p, g_i>; dbeta -= s; dX -= beta ds/dX; lam -= beta ds/dtheta_i. So no velocity need be stored.
    """
    student = Student(run.net, by_hand=fits(run.net))
    rate, target = run.rate(), run.target().detach()
    path = _simulate(run, student)
    loss, slope = run.start.new_zeros(()), torch.zeros_like(rate)
    totals = {"images": torch.zeros_like(run.images)}
    if run.logits is not None:
        totals["target"] = torch.zeros_like(run.logits)
    if run.privileged is not None:
        totals["privileged"] = torch.zeros_like(run.privileged.labels)
    adjoint, pushed = torch.zeros_like(run.start), torch.zeros_like(run.start)
    for step in reversed(range(len(run.batches))):
        for waypoint in run.waypoints:
            if waypoint.step == step + 1:
                term, gradient = _distance(run, waypoint, path[step + 1])
                loss, adjoint = loss + term, adjoint + gradient
        pushed = adjoint + run.momentum * pushed
        rows, parts = zip(*run.parts(step, run.images.detach(), target), strict=True)
        pulls = student.pulls(path[step], parts, pushed, curvature=exact and step > 0)
        for own, pull in zip(rows, pulls, strict=True):
            slope = slope - pull.slope
            for name, total in totals.items():
                total.index_add_(0, own, -rate * getattr(pull, name))
            if pull.parameters is not None:
                adjoint = adjoint - rate * pull.parameters
    logits, privileged = totals.get("target"), totals.get("privileged")
    return Matched(loss, totals["images"], logits, slope, privileged, tuple(path))


def _simulate(run: Unrolled, student: Student) -> list[Tensor]:
    """theta_0 to theta_N."""
    rate, target = run.rate(), run.target().detach()
    path, velocity = [run.start.detach()], torch.zeros_like(run.start)
    for step in range(len(run.batches)):
        parts = [part for _rows, part in run.parts(step, run.images.detach(), target)]
        velocity = run.momentum * velocity + student.gradient(path[-1], parts)
        path.append(path[-1] - rate * velocity)
    return path
