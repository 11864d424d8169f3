"""Statistics against hand-computed values and published quantiles of Student's t."""

from __future__ import annotations

import math

import pytest

from ddlabel.scores import interval_95, paired_difference, summarise


def test_summary_uses_the_sample_standard_deviation() -> None:
    """n - 1 in the denominator."""
    result = summarise([0.5, 0.6, 0.7])

    assert pytest.approx(0.6) == result["mean"]
    assert pytest.approx(0.1) == result["std"]
    assert pytest.approx(4.303 * 0.1 / math.sqrt(3)) == result["ci95"]
    assert result["n"] == 3


def test_one_value_has_no_spread() -> None:
    """Null, not zero."""
    assert (summarise([0.5])["std"], interval_95([0.5])) == (None, None)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (10, 2.228), (30, 2.042), (40, 2.021), (120, 1.980)])
def test_interval_follows_students_t(freedom: int, quantile: float) -> None:
    """Quantiles as printed in tables, also beyond the built-in ones."""
    values = [0.0, 1.0] * ((freedom + 1) // 2) + [0.5] * ((freedom + 1) % 2)
    count = len(values)
    mean = sum(values) / count
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))

    assert pytest.approx(quantile * std / math.sqrt(count), rel=2e-3) == interval_95(values)


def test_differences_are_paired_by_seed() -> None:
    """The spread is that of the differences."""
    result = paired_difference([0.5, 0.7], [0.4, 0.5])

    assert pytest.approx(0.15) == result["mean"]
    assert pytest.approx(0.05) == result["standard_error"]
    assert paired_difference([0.5], [0.4])["standard_error"] is None
