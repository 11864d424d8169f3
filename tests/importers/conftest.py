"""Tiny sets of 4 classes as other tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddlabel.bundle import Bundle

CLASSES = "ant,bee,cat,dog"
FACTS = ("--name", "pets", "--classes", CLASSES, "--mirror", "yes")
CONSTANTS = ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.25,0.3")


@pytest.fixture(scope="session")
def units() -> torch.Tensor:
    """(8, 3, 8, 8) float32 pixels in [0, 1], two of each class."""
    return torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def labels() -> torch.Tensor:
    return torch.arange(4).repeat_interleave(2)


@pytest.fixture
def imported(run_cli, tmp_path: Path):
    """Run `ddlabel import` and open what it wrote."""

    def run(*arguments: str | Path) -> Bundle:
        output = tmp_path / "imported.ddset"
        outcome = run_cli("import", *arguments, "-o", output, "--force")
        assert outcome.code == 0, outcome.err
        return Bundle.open(output, verify=True)

    return run


@pytest.fixture
def refused(run_cli, tmp_path: Path):
    """Run `ddlabel import`, which must fail with that exit code, write nothing and show no traceback."""

    def run(code: int, *arguments: str | Path) -> str:
        output = tmp_path / "refused.ddset"
        outcome = run_cli("import", *arguments, "-o", output)
        assert outcome.code == code, outcome.err
        assert not output.exists()
        assert outcome.err.startswith("error: ")
        assert "Traceback" not in outcome.err
        return outcome.err

    return run


def pixels_of(units: torch.Tensor) -> np.ndarray:
    """(n, h, w, c) uint8."""
    return (units * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
