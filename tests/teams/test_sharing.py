"""What one process makes and the first one writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ddlabel.bundle import NewSection
from ddlabel.stages import _scores
from ddlabel.stages._scores import ScoredNet
from ddlabel.team import Team

Given = list[bytes]


def scored(number: int) -> ScoredNet:
    """A net with a checkpoint."""
    name = f"teacher.{number}.1"
    section = NewSection(name, "teacher", {f"{name}.weight": torch.full((2,), float(number))})
    return ScoredNet(torch.full((3,), float(number), dtype=torch.float64), {"test": number / 4}, section)


class Pair(Team):
    """One of two processes: net 0 is the first one's, net 1 the other's; what is sent is kept."""

    sent: Given

    def exchange_tensors(self, own: Any) -> list[dict[str, Tensor]]:
        """Both values."""
        del own
        return [{"0": scored(rank).values} for rank in range(2)]

    def exchange_json(self, own: Any) -> list[Any]:
        """Both accuracies."""
        del own
        return [[dict(scored(rank).accuracy)] for rank in range(2)]

    def send(self, parts: Iterable[bytes]) -> None:
        """Keep it."""
        self.sent.extend(parts)

    def receive(self, rank: int) -> Iterator[bytes]:
        """What was kept."""
        del rank
        return iter(self.sent)


def test_kept_nets_go_to_the_first_process_alone() -> None:
    """The other one holds its own and has no memory for all."""
    given: Given = []
    teams = Pair(1, 2), Pair(0, 2)
    for team in teams:
        object.__setattr__(team, "sent", given)
    other, first = (_scores._everybodys([scored(team.rank)], team) for team in teams)

    assert [0.0, 0.25] == [net.accuracy["test"] for net in other] == [net.accuracy["test"] for net in first]
    assert [False, True] == [net.checkpoint is not None for net in other]
    assert ["teacher.0.1", "teacher.1.1"] == [net.checkpoint.name for net in first if net.checkpoint]
    assert "teacher.1.1" == json.loads(given[0])[0]["name"]
