"""Statistics of repeated runs: mean, sample standard deviation, 95 % interval, paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["interval_95", "paired_difference", "summarise"]

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, 97.5 % quantile, for 1 to 30 degrees of freedom."""
_NORMAL_975 = 1.960


def interval_95(values: Sequence[float]) -> float | None:
    """Half width of the 95 % interval of the mean, by Student's t; None for fewer than two values.

    Above 30 degrees of freedom the normal quantile with its first correction is used (error below 0.002).
    """
    count = len(values)
    if count < 2:
        return None
    freedom = count - 1
    quantile = _T_975[freedom - 1] if freedom <= len(_T_975) else _NORMAL_975 + 2.37 / freedom
    return quantile * statistics.stdev(values) / math.sqrt(count)


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (n - 1), 95 % half width and n of some accuracies (fractions)."""
    return {
        "values": list(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "ci95": interval_95(values),
        "n": len(values),
    }


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean of the differences seed by seed, and its standard error (None for one seed)."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    count = len(differences)
    error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else None
    return {"mean": statistics.fmean(differences), "standard_error": error, "n": count}
