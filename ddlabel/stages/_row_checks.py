"""What rows of an evaluation cannot be, found before the first student is trained."""

from __future__ import annotations

from typing import Any

import torch

from ..config import EvaluateConfig
from ..distilled import DistilledSet
from ..errors import UsageError
from ..labels._labels import LabelSet
from ..losses._loss import Targets, loss_of_epoch

__all__ = ["check_equal_bytes", "check_suits"]


def check_suits(loss: Any, distilled: DistilledSet, labels: LabelSet) -> None:
    """Refuse labels of a domain that a loss does not take: it is asked about one sample.

    Raises:
        UsageError: by the loss.
    """
    local = torch.ones(1, dtype=torch.bool)
    targets = Targets(distilled.labels[:1], labels.values[:1, 0], labels.domain, local)
    loss_of_epoch(loss, 0)(torch.zeros(1, len(distilled.classes)), targets)


def check_equal_bytes(config: EvaluateConfig, plain: int, *, labelled: bool) -> None:
    """Refuse baselines of equal bytes that have no meaning.

    Args:
        config: of the evaluation.
        plain: how many plain bundles were given.
        labelled: whether there are labels whose bytes could buy images.

    Raises:
        UsageError: a plain bundle without `equal_bytes`, several of them, or hard labels alone.
    """
    if plain and not config.equal_bytes:
        raise UsageError("--plain is the baseline of --equal-bytes, expected both or none", field="plain")
    if plain > 1:
        raise UsageError(f"--plain was given {plain} times, expected one bundle", field="plain")
    if config.equal_bytes and not labelled:
        raise UsageError(
            "--equal-bytes compares labels with the images that their bytes buy, --labels is 'hard'",
            field="equal_bytes",
            hint="evaluate soft, dense, fkd, feature or attention labels",
        )
