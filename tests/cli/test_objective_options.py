"""Terms of the objective that mean nothing for the labels are refused where labels are made and where they are used."""

from __future__ import annotations

from pathlib import Path


def test_maps_of_one_channel_have_no_direction_over_channels(run_cli, files, tmp_path: Path) -> None:
    """Spatial attention with `norm=l2` would be ones, with `ce` a constant."""
    path = tmp_path / "spatial.ddset"
    label = ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "attention", "-o", path)
    common = ("--set", "attention=spatial", "--set")
    refused = run_cli(*label, *common, "norm=l2")
    made = run_cli(*label, *common, "lambda_reg=1")
    use = ("evaluate", path, "--data", files.data, "--epochs", "1", "--seeds", "1", "--labels", "attention")
    used = run_cli(*use, "--set", "ce=0.1")

    assert (2, 0, 2) == (refused.code, made.code, used.code), made.err
    assert "norm works over channels" in refused.err
    assert "ce works over channels" in used.err
