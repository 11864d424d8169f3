"""What several processes made of their steps, put together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddlabel.distill import _team
from ddlabel.team import Team


def merged(first: dict[str, Tensor], own: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the first of two processes, which took the last but one group."""
    given: list[dict[str, Tensor]] = []

    class Pair(Team):
        def exchange_tensors(self, own: Any) -> list[dict[str, Tensor]]:
            given.append(dict(own))
            return [dict(own), other]

    method: Any = SimpleNamespace(group=lambda _problem: 1, total_steps=lambda _problem: 2)
    problem: Any = SimpleNamespace(team=Pair(0, 2), device="cpu")
    return _team.merge(method, problem, first, own)


@pytest.mark.parametrize("value", [-0.0, float("nan")])
def test_every_changed_bit_counts(value: float) -> None:
    """A loss of -0.0 is no 0.0 that nobody has written; a NaN of before is no change."""
    first = {"losses": torch.zeros(3), "old": torch.tensor([float("nan"), 1.0])}
    own = {**first, "losses": torch.tensor([value, 0.0, 0.0])}
    state = merged(first, own, {"losses": torch.tensor([0.0, 2.0, 0.0])})

    assert torch.tensor([value, 2.0, 0.0]).view(torch.int32).equal(state["losses"].view(torch.int32))
    assert first["old"].view(torch.int32).equal(state["old"].view(torch.int32))


def test_what_several_changed_is_that_of_the_last_group() -> None:
    """Whoever took it."""
    state = merged({"mean": torch.zeros(2)}, {"mean": torch.ones(2)}, {"mean": torch.full((2,), 3.0)})

    assert [3.0, 3.0] == state["mean"].tolist()
