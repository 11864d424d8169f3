"""What all stages share: number formats while they compute."""

from __future__ import annotations

import pytest
import torch

from ddlabel.stages._stage import computing


def tf32() -> tuple[bool, bool]:
    """Whether matrix products and convolutions may round to TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("before", [(False, True), (True, True), (True, False), (False, False)])
def test_a_stage_never_rounds_to_tf32_and_gives_the_flags_back(before: tuple[bool, bool]) -> None:
    """Also when it fails; its history says so."""
    kept = tf32()
    try:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        with pytest.raises(ValueError, match="inside"), computing("cpu", 0) as clock:
            assert tf32() == (False, False)
            assert clock.record("distill", {}, seed=0).host["tf32"] is False
            raise ValueError("inside")
        assert before == tf32()
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
