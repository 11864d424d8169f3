"""What a stage will need, said before it starts; what cannot fit is refused with the options to lower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distill._memory import saved_bytes
from ..distill._method import Problem
from ..errors import ResourceError
from ..events import Event, OnEvent
from ..memory import free_memory
from ..nets._net import Net
from ._experts import SPOOL_BYTES

__all__ = ["check_disk", "check_memory", "check_training", "readable", "refuse_beyond", "training_bytes"]

FLOAT_BYTES = 4


def check_memory(method: Any, problem: Problem, on_event: OnEvent) -> None:
    """Compare what a method says it needs with what is free.

    A method may have `memory(problem)`, its peak in bytes beside the data set, and `memory_knobs`, names of its
    options that lower it. Of a method that says nothing, nothing is said.

    Raises:
        ResourceError: it needs more than is free.
    """
    estimate = getattr(method, "memory", None)
    if estimate is None:
        return
    images = len(problem.classes) * problem.ipc * problem.pixels[0].numel()
    needed = int(estimate(problem)) + (FLOAT_BYTES + 1) * images
    knobs = [f"--set {name} (now {_value(method, name)})" for name in getattr(method, "memory_knobs", ())]
    refuse_beyond(
        needed,
        free_memory(problem.device),
        [*knobs, f"--ipc (now {problem.ipc})", f"the width of --arch (now {problem.arch})"],
        problem.device,
        on_event,
        beside=problem.pixels.nbytes,
    )


def refuse_beyond(
    needed: int, free: int | None, knobs: Sequence[str], device: torch.device, on_event: OnEvent, *, beside: int = 0
) -> None:
    """Say what is needed and what is free.

    Args:
        needed: bytes that are still to be allocated.
        free: bytes, or None when unknown.
        knobs: what to lower, as typed.
        device: whose memory it is.
        on_event: told of both numbers.
        beside: bytes of the data set, which is there already.

    Raises:
        ResourceError: more is needed than is free.
    """
    known = "what is free is not known" if free is None else f"{readable(free)} is free"
    also = f" beside the data set's {readable(beside)}" if beside else ""
    said = f"needs about {readable(needed)} of memory on '{device.type}'{also}; {known}"
    if free is not None and needed > free:
        raise ResourceError(said, field="memory", hint=f"lower {' or '.join(knobs)}")
    on_event(Event(phase="memory", message=said))


def check_training(
    net: Net,
    batch: tuple[int, ...],
    device: torch.device,
    on_event: OnEvent,
    *,
    experts: int,
    trajectories: int,
    disk: int | None,
    data: int,
    encoded: int = 0,
    scoring: tuple[Net, tuple[int, ...]] | None = None,
) -> None:
    """Compare what training nets needs with what is free.

    Args:
        net: on the meta device.
        batch: shape (b, c, h, w).
        device: where they are trained, one after the other.
        on_event: told of need and free memory.
        experts: how many; of none, only what scoring takes.
        trajectories: bytes that they record in all; beyond `SPOOL_BYTES` one expert's are in memory.
        disk: free bytes where the result will be written, when known.
        data: bytes of the data set.
        encoded: bytes of the float copy of its training split, which nets share.
        scoring: a net that computes scores, on the meta device, and the shape of its batches; None when none does.

    Raises:
        ResourceError: memory or disk is too small, naming what to lower.
    """
    needed, knobs = 0, []
    if experts:
        check_disk(trajectories, disk, "trajectories", "lower --experts or --epochs, or keep fewer --keep-epochs")
        held = trajectories if trajectories <= SPOOL_BYTES else trajectories // experts
        needed = training_bytes(net, batch) + (2 * held if device.type == "cpu" else 0)
        knobs = [f"--set batch (now {batch[0]})", "the width of --arch"]
    if scoring is not None:
        own = training_bytes(*scoring)
        knobs = knobs if needed >= own else ["the width of --set score_arch"]
        needed = max(needed, own)
    if needed:
        knobs += ["--size"] if encoded else []
        refuse_beyond(needed + encoded, free_memory(device), knobs, device, on_event, beside=data)


def training_bytes(net: Net, shape: tuple[int, ...]) -> int:
    """Peak of one training step, about.

    Weights, gradients and two slots of the optimiser; the images; the maps that the backward pass needs, and the two
    largest once more as gradients. What layers keep inside (attention) counts where that is more than their maps.

    Args:
        net: on the meta device.
        shape: of a batch, (b, c, h, w).
    """
    maps: list[int] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            maps.append(output.numel())

    leaves = [module for module in net.modules() if not any(True for _child in module.children())]
    handles = [module.register_forward_hook(note) for module in leaves]
    with saved_bytes(net) as saved:
        net(torch.empty(shape, device="meta"))
    for handle in handles:
        handle.remove()
    weights = sum(parameter.numel() for parameter in net.parameters())
    inner = max(FLOAT_BYTES * sum(maps), sum(saved.values()))
    return FLOAT_BYTES * (4 * weights + math.prod(shape) + 2 * max(maps, default=0)) + inner


def check_disk(needed: int, free: int | None, what: str, hint: str) -> None:
    """Refuse a result that the disk has no room for; `free` is None when unknown.

    Raises:
        ResourceError: it does not fit.
    """
    if free is not None and needed > free:
        raise ResourceError(
            f"{what} needs about {readable(needed)} of disk, {readable(free)} is free", field="output", hint=hint
        )


def readable(count: float) -> str:
    """Bytes with a binary unit.

    >>> readable(512), readable(3 * 2**30)
    ('512 B', '3.0 GiB')
    """
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1024 or unit == "TiB":
            break
    return f"{count:.1f} {unit}"


def _value(method: Any, name: str) -> Any:
    value = getattr(method, name, None)
    return "auto" if value is None else value
