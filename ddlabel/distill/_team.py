"""How several processes share the steps of a method, and put together what each of them made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UsageError
from ..team import bits

if TYPE_CHECKING:
    from ._method import Method, Problem, State

__all__ = ["check_share", "group", "merge", "steps"]


def group(method: Method, problem: Problem) -> int:
    """Steps in a row that need nothing of the others; 0 where each needs those before it."""
    return int(method.group(problem)) if hasattr(method, "group") else 0


def check_share(method: Method, problem: Problem) -> None:
    """Refuse several processes where they would all do the same.

    Raises:
        UsageError: neither steps nor the work of a step can be shared.
    """
    if problem.team.size == 1 or group(method, problem):
        return
    if hasattr(method, "shares_steps") and method.shares_steps(problem):
        return
    raise UsageError(
        f"the steps of this method, with these options and net '{problem.arch}', follow from each other and from all "
        f"classes: {problem.team.size} processes would do the same",
        field="method",
        hint="run it without --processes or torchrun, one process per setting or seed; train-teacher --experts shares "
        "its experts",
    )


def steps(method: Method, problem: Problem) -> Sequence[int]:
    """Numbers of the steps that this process takes: those of every size-th group, or all."""
    total, together = method.total_steps(problem), group(method, problem)
    if problem.team.size == 1 or not together:
        return range(total)
    firsts = problem.team.mine(range(0, total, together))
    return [step for first in firsts for step in range(first, min(first + together, total))]


def merge(method: Method, problem: Problem, first: State, own: State) -> State:
    """The state after the steps of all processes, on the problem's device.

    Each process gives what it changed. Where several changed a number, which only what passes from step to step within
    a group can be, that of the last group stays, as it would with one process.

    Args:
        method: whose groups were shared.
        problem: names the team.
        first: the state before the first step, the same in every process.
        own: after our steps.

    Raises:
        ResourceError: another process is gone.
    """
    team = problem.team
    changed = {name: tensor for name, tensor in own.items() if name not in first or not _same(first[name], tensor)}
    shares = team.exchange_tensors(changed)
    last = (len(range(0, method.total_steps(problem), group(method, problem))) - 1) % team.size
    state = {name: tensor.cpu() for name, tensor in first.items()}
    for share in (*shares[:last], *shares[last + 1 :], shares[last]):
        for name, tensor in share.items():
            before, now = first.get(name), state.get(name)
            if now is None or now.shape != tensor.shape:
                state[name] = tensor
            else:
                made = bits(tensor) != bits(torch.zeros_like(tensor) if before is None else before.cpu())
                state[name] = torch.where(made, tensor, now)
    return {name: tensor.to(problem.device) for name, tensor in state.items()}


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits: -0.0 is not 0.0, and a NaN is itself."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return one is other or (alike and bits(one.cpu()).equal(bits(other.cpu())))
