"""What a GPU must do as the CPU does; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.distill._unroll import Unrolled, Waypoint, match
from ddlabel.labels._labels import read_labels
from ddlabel.nets._net import build
from ddlabel.seeding import generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NET = "convnet-d1-w8"


@pytest.fixture(scope="module")
def experts(run_cli, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same experts trained on either device."""
    folder = tmp_path_factory.mktemp("gpu")
    for device in ("cpu", "cuda"):
        options = ("--arch", NET, "--experts", "2", "--epochs", "3", "--set", "batch=16", "--optimizer", "gsam")
        out = folder / f"{device}.ddset"
        outcome = run_cli("train-teacher", "--data", tiny, *options, "--device", device, "-o", out)
        assert outcome.code == 0, outcome.err
    return {device: folder / f"{device}.ddset" for device in ("cpu", "cuda")}


def test_experts_take_the_same_way(experts: dict[str, Path]) -> None:
    """To rounding, because every draw is made on the CPU."""
    ours, theirs = (Bundle.open(experts[device]).tensor("trajectory.1") for device in ("cpu", "cuda"))

    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["dm", "dc", "dsa", "mtt", "tesla", "ftd", "ast", "datm", "pad", "glad"])
def test_methods_give_the_same_images(
    method: str, run_cli, tiny: str, experts: dict[str, Path], tmp_path: Path
) -> None:
    """Two steps, to rounding of sums in another order."""
    options = ["--ipc", "1", "--pixels", "float32", "--set", "steps=2"]
    if method in {"mtt", "tesla", "ftd", "ast", "datm", "pad"}:
        options += ["--teacher", str(experts["cpu"]), "--set", "syn_steps=2", "--set", "expert_epochs=1"]
        options += ["--set", "max_start_epoch=2", "--set", "lr_images=1", "--set", "init=real"]
    if method in {"datm", "pad"}:
        options += ["--set", "current_max_start_epoch=1", "--set", "interval=1"]
    if method in {"dc", "dsa"}:
        options += ["--set", "inner=1", "--set", "outer=2"]
    if method not in {"mtt", "tesla", "ftd", "ast", "datm", "pad"}:
        options += ["--arch", NET]
    images = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.ddset"
        outcome = run_cli("distill", "--data", tiny, "--method", method, *options, "--device", device, "-o", out)
        assert outcome.code == 0, outcome.err
        images[device] = Bundle.open(out).tensor("images.pixels")

    assert torch.allclose(images["cpu"], images["cuda"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", ["convnet-d2-w8", "convnet-d2-w8-swish", "convnet-d2-w8-bn", "mlp"])
def test_the_exact_gradient_is_the_same(arch: str) -> None:
    """In double precision, for nets differentiated by hand and automatically."""
    draws = generator(0, "gpu")
    net = build(arch, channels=3, size=8, classes=3, generator=draws).double()
    start = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    target = start + 0.05 * torch.randn(len(start), generator=draws, dtype=torch.float64)
    images = torch.randn(6, 3, 8, 8, generator=draws, dtype=torch.float64)
    results = []
    for device in ("cpu", "cuda"):
        run = Unrolled(
            net=net.to(device).train(),
            images=images.to(device),
            labels=torch.arange(3).repeat(2).to(device),
            logits=None,
            start=start.to(device),
            waypoints=(Waypoint(3, target.to(device)),),
            lr=0.1,
            batches=tuple(torch.randperm(6, generator=generator(0, "batch", step))[:4] for step in range(3)),
            draws=((), (), ()),
        )
        results.append(match(run))

    assert torch.allclose(results[0].images, results[1].images.cpu(), rtol=1e-8, atol=1e-12)
    assert torch.allclose(results[0].lr, results[1].lr.cpu(), rtol=1e-8)


def test_labels_and_students_agree(run_cli, files, tmp_path: Path) -> None:
    """Dense labels to rounding, and a student that trains."""
    values = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.ddset"
        options = ("--teacher", str(files.teacher), "--kind", "dense", "--grid", "2", "--ratio", "3/4")
        outcome = run_cli("augment-labels", files.base, *options, "--device", device, "-o", out)
        assert outcome.code == 0, outcome.err
        values[device] = read_labels(Bundle.open(out), "dense").values
    scored = run_cli(
        "evaluate", tmp_path / "cuda.ddset", "--data", files.data, "--arch", NET, "--epochs", "2", "--seeds", "1",
        "--device", "cuda", "-o", tmp_path / "scored.ddset",
    )  # fmt: skip

    assert torch.allclose(values["cpu"], values["cuda"], rtol=1e-3, atol=1e-4)
    assert scored.code == 0, scored.err
