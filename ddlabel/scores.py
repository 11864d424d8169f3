"""Statistics of repeated runs (mean, standard deviation, 95 % interval, paired differences) and DD-Ranking's scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

__all__ = [
    "augmentation_robust_score",
    "hard_label_recovery",
    "improvement_over_random",
    "interval_95",
    "label_robust_score",
    "paired_difference",
    "summarise",
]

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


def hard_label_recovery(real: float, distilled: float) -> float:
    """HLR: what hard labels lose on distilled images against the whole training set; less is better.

    Args:
        real, distilled: test accuracies of students of hard labels, fractions.

    Raises:
        ValueError: an accuracy outside [0, 1], such as a percentage.
    """
    return _fraction("real", real) - _fraction("distilled", distilled)


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR: what distilled images gain over random ones under the same labels and treatment; more is better.

    Args:
        distilled, random: test accuracies, fractions.

    Raises:
        ValueError: an accuracy outside [0, 1], such as a percentage.
    """
    return _fraction("distilled", distilled) - _fraction("random", random)


def label_robust_score(hlr: float, ior: float, w: float = 0.5) -> float:
    """LRS of DD-Ranking: (e^a - e^-1) / (e - e^-1) at a = w IOR - (1 - w) HLR; rises with a.

    >>> round(label_robust_score(0.20, 0.10), 5), round(label_robust_score(0, 0), 5)
    (0.24819, 0.26894)

    Raises:
        ValueError: HLR or IOR outside [-1, 1], or w outside [0, 1].
    """
    share = _fraction("w", w)
    return _squash(share * _difference("IOR", ior) - (1 - share) * _difference("HLR", hlr))


def augmentation_robust_score(augmented: float, plain: float, gamma: float = 0.5) -> float:
    """ARS of DD-Ranking: (e^b - e^-1) / (e - e^-1) at b = gamma IOR(augmented) + (1 - gamma) IOR(plain).

    >>> round(augmentation_robust_score(0.1, 0.1), 5)
    0.31369

    Args:
        augmented, plain: improvements over random images with and without augmentation.
        gamma: weight of the first.

    Raises:
        ValueError: an improvement outside [-1, 1], or gamma outside [0, 1].
    """
    share = _fraction("gamma", gamma)
    return _squash(share * _difference("augmented", augmented) + (1 - share) * _difference("plain", plain))


def _squash(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a fraction from 0 to 1, not a percentage")
    return value


def _difference(name: str, value: float) -> float:
    if not -1 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a difference of fractions, from -1 to 1")
    return value
