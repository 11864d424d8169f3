"""Real images on their way to the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddlabel.distill import _real
from ddlabel.distill._method import Problem
from ddlabel.distill._real import RealBatches, encoded, first_images
from ddlabel.distill.dc import GradientMatching
from ddlabel.distill.dm import DistributionMatching
from ddlabel.distill.dsa import SiameseGradientMatching
from ddlabel.errors import ResourceError
from ddlabel.options import describe
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.team import Team
from ddlabel.zca import fit_zca

META = torch.device("meta")
"""A device that keeps no numbers: what was computed elsewhere and then moved shows."""


@pytest.mark.parametrize("whitened", [False, True])
def test_bytes_travel_and_are_encoded_on_the_device(
    whitened: bool, make_problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A float copy is four times as large, and whitening on the CPU takes longer than the step."""
    seen: list[Tensor] = []
    encode = Space.encode

    def noting(space: Space, pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return encode(space, pixels)

    plain = make_problem()
    zca = fit_zca(plain.pixels) if whitened else None
    problem = make_problem(
        space=Space("zca" if zca else "normalised", plain.space.mean, plain.space.std, zca), device=META
    )
    monkeypatch.setattr(Space, "encode", noting)
    images = [
        RealBatches(problem, None, 5, generator(0, "real")).plain(0, 5),  # type: ignore[arg-type]
        first_images(problem, "real", generator(0, "first")),
    ]

    assert [(META, torch.float32)] * 2 == [(image.device, image.dtype) for image in images]
    assert [(META, torch.uint8)] * 2 == [(pixels.device, pixels.dtype) for pixels in seen]


class Pair(Team):
    """The first of two processes, whose fellow is one step ahead when it is `apart`."""

    apart: bool = False

    def merge(self, tensor: Tensor) -> Tensor:
        """What the other adds: no loss, and what it knows."""
        if tensor.dtype == torch.int64:
            tensor[-1] = tensor[-2] + self.apart
        return tensor


@pytest.mark.parametrize("apart", [False, True])
def test_processes_that_are_no_longer_alike_are_refused(
    make_problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    """At the step, naming one that differs."""
    monkeypatch.setattr(Pair, "apart", apart)
    problem = make_problem(team=Pair(0, 2))
    method = DistributionMatching(steps=1, batch_real=2)
    with pytest.raises(ResourceError, match="process 1 has other images") if apart else contextlib.nullcontext():
        method.step(problem, method.prepare(problem, generator(0, "a")), 0, generator(0, "b"))


def test_what_must_be_alike_is_every_bit_of_it(make_problem: Callable[..., Problem]) -> None:
    """Images, the net and the random numbers to come."""
    problem = make_problem()
    net = torch.nn.BatchNorm1d(2)
    images = torch.zeros(2, 3)

    def fingerprint(seed: int = 0) -> int:
        return _real._fingerprint(RealBatches(problem, None, 5, generator(seed, "x")), images, net)  # type: ignore[arg-type]

    found = [fingerprint(), fingerprint(), fingerprint(seed=1)]
    images[1, 2] = -0.0
    found.append(fingerprint())
    net.running_mean[1] = 1e-20
    found.append(fingerprint())

    assert found[0] == found[1]
    assert 4 == len(set(found))


def test_the_images_are_those_of_the_indices(make_problem: Callable[..., Problem]) -> None:
    """Encoded one by one."""
    problem = make_problem()

    assert torch.equal(problem.space.encode(problem.pixels)[[3, 1]], encoded(problem, torch.tensor([3, 1])))


def test_a_whitening_is_copied_to_a_device_once() -> None:
    """And not at all to the device where it is."""
    pixels = torch.randint(0, 256, (9, 1, 2, 2), dtype=torch.uint8, generator=generator(0, "pixels"))
    space = Space("zca", (0.5,), (0.5,), fit_zca(pixels))

    assert space is space.on(torch.device("cpu"))
    assert space.on(META) is space.on(META)
    assert space.on(META).encode(pixels.to(META)).device == META


@pytest.mark.parametrize("method", [GradientMatching, SiameseGradientMatching, DistributionMatching])
def test_options_that_lower_the_memory_are_options(method: type) -> None:
    """Named when a run is refused for want of memory."""
    assert {"microbatch", "batch_real"} <= set(method.memory_knobs) <= {option.name for option in describe(method)}
