"""The writer's side of trajectories: what a section holds, and that rows are copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ddlabel.bundle import RawTensor
from ddlabel.nets._net import Net, build
from ddlabel.seeding import generator
from ddlabel.trajectories import flatten, flatten_buffers, trajectory_section

ABOUT: dict[str, Any] = {
    "arch": "convnet-d1-w4-batch",
    "seed": 3,
    "recipe": {"lr": 0.1},
    "curriculum": None,
    "accuracy": {"test": 0.5},
}


def net(norm: str = "batch") -> Net:
    return build(f"convnet-d1-w4-{norm}", channels=3, size=8, classes=2, generator=generator(0, "net"))


def test_rows_do_not_follow_the_net() -> None:
    """On the CPU too: changing the net afterwards changes neither row."""
    trained = net()
    row, buffers = flatten(trained), flatten_buffers(trained)
    before = row.clone(), buffers.clone()
    with torch.no_grad():
        for tensor in (*trained.parameters(), *trained.buffers()):
            tensor.add_(1)

    assert torch.equal(row, before[0])
    assert torch.equal(buffers, before[1])
    assert not torch.equal(flatten_buffers(trained), buffers)


def test_order_is_that_of_named_parameters_and_buffers() -> None:
    """Running mean, then running variance; the integer counter is left out; nothing for instance norm."""
    trained = net()
    state = trained.state_dict()
    names = [name for name, _ in trained.named_parameters()]

    assert names[:2] == ["blocks.0.conv.weight", "blocks.0.conv.bias"]
    assert torch.equal(flatten(trained), torch.cat([state[name].reshape(-1) for name in names]))
    assert flatten_buffers(trained).tolist() == [0.0] * 4 + [1.0] * 4
    assert flatten_buffers(net("instance")).shape == (0,)


def test_a_section_says_whose_it_is_and_how_it_was_made() -> None:
    """Name, kind, tensors and parameters; buffers only where there are some."""
    rows = torch.zeros(3, 5)
    section = trajectory_section(7, range(2, 5), rows, torch.zeros(3, 2), **ABOUT)

    assert (section.name, section.kind, list(section.tensors)) == (
        "trajectory.7",
        "trajectory",
        ["trajectory.7", "trajectory.7.buffers"],
    )
    assert section.parameters == {**ABOUT, "member": 7, "epochs": [2, 3, 4]}
    assert list(trajectory_section(7, range(2, 5), rows, None, **ABOUT).tensors) == ["trajectory.7"]


@pytest.mark.parametrize("shape", [(4, 5), (15,)])
def test_rows_and_epochs_must_agree(shape: tuple[int, ...]) -> None:
    """A trajectory with a row too many would be read with epochs shifted."""
    raw = RawTensor("F32", shape, bytes(4 * torch.Size(shape).numel()))
    with pytest.raises(ValueError, match=r"'trajectory.0' has shape .*, expected 3 rows"):
        trajectory_section(0, range(3), raw, None, **ABOUT)
    with pytest.raises(ValueError, match=r"'trajectory.0.buffers' has shape"):
        trajectory_section(0, range(3), torch.zeros(3, 5), raw, **ABOUT)
