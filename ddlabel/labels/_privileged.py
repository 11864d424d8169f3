"""Feature and attention labels in a bundle: how they are written, and read back after every check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..manifest import Section
from ..privileged._form import Form
from ..privileged._objective import Norm

__all__ = ["PRIVILEGED", "PrivilegedSet"]

PRIVILEGED = ("feature", "attention")
"""Label kinds that only training sees, as sections `labels.<kind>`."""


@dataclass(frozen=True)
class PrivilegedSet:
    """Decoded labels."""

    kind: str
    values: Tensor
    """(n, K, *form.shape) float32: K labels of each image."""
    form: Form
    norm: Norm | None
    """Stored with labels that were made for `norm=zscore`."""
    parameters: Mapping[str, Any]
    """Of the section: what `Objective` takes (lambda_reg, metric, norm, ...), mode, matcher, lambda_task."""
    section: Section
