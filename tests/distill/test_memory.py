"""Memory estimates against a count of the tensors that live at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddlabel.distill._method import Problem
from ddlabel.distill.dc import GradientMatching
from ddlabel.distill.dm import DistributionMatching
from ddlabel.distill.dsa import SiameseGradientMatching
from ddlabel.seeding import generator

METHODS = {
    "dc": GradientMatching(outer=1, batch_real=40),
    "dc that trains": GradientMatching(outer=2, inner=1, batch_real=40),
    "dc in parts": GradientMatching(outer=1, batch_real=40, microbatch=4),
    "dc of large sets": GradientMatching(outer=1, batch_real=10),
    "dsa": SiameseGradientMatching(outer=1, batch_real=40),
    "dm": DistributionMatching(batch_real=40),
    "dm in parts": DistributionMatching(batch_real=40, microbatch=4),
    "dm of all layers": DistributionMatching(batch_real=40, mask_shallow=0.0),
}


class Counting(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("name", METHODS)
def test_the_estimate_is_within_a_factor_of_two(name: str, make_problem: Callable[..., Problem]) -> None:
    """One step at 32 x 32 pixels, two classes of 40 images, ipc 12."""
    arch = "convnet-d2-w32-instance"
    pixels = torch.randint(0, 256, (80, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "pixels"))
    problem = make_problem(pixels=pixels, labels=torch.arange(80) % 2, classes=("a", "b"), ipc=12, arch=arch)
    method = METHODS[name]
    state = method.prepare(problem, generator(0, "start"))
    with Counting() as counting:
        method.step(problem, state, 0, generator(0, "step"))

    assert 0.5 <= method.memory(problem) / counting.peak <= 2
