"""Statistics against hand-computed values and published quantiles of Student's t; scores against golden values."""

from __future__ import annotations

import math

import pytest

from ddlabel.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    interval_95,
    label_robust_score,
    paired_difference,
    summarise,
)


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


def test_ranking_scores_are_the_golden_ones() -> None:
    """HLR 0.20 and IOR 0.10 give 0.24819, none of either 0.26894, an augmented gain of 0.1 gives 0.31369."""
    hlr, ior = hard_label_recovery(0.85, 0.65), improvement_over_random(0.6, 0.5)

    assert pytest.approx(0.20) == hlr
    assert pytest.approx(0.10) == ior
    assert pytest.approx(0.24819, abs=5e-6) == label_robust_score(hlr, ior)
    assert pytest.approx(0.26894, abs=5e-6) == label_robust_score(0.0, 0.0)
    assert pytest.approx(0.31369, abs=5e-6) == augmentation_robust_score(0.1, 0.1)
    assert (label_robust_score(-1.0, 1.0), label_robust_score(1.0, -1.0)) == (1.0, 0.0)


def test_ranking_scores_rise_with_what_is_better() -> None:
    """LRS rises with IOR and falls with HLR, ARS rises with both improvements; weights 0 and 1 leave one of them."""
    steps = [index / 10 for index in range(-10, 11)]
    rising = [
        [label_robust_score(0.3, step) for step in steps],
        [label_robust_score(-step, 0.3) for step in steps],
        [augmentation_robust_score(step, 0.3) for step in steps],
        [augmentation_robust_score(0.3, step) for step in steps],
    ]

    assert all(scores == sorted(set(scores)) for scores in rising)
    assert label_robust_score(0.7, 0.1, w=1.0) == label_robust_score(0.0, 0.1, w=1.0)
    assert augmentation_robust_score(0.7, 0.1, gamma=0.0) == augmentation_robust_score(0.0, 0.1, gamma=0.0)


@pytest.mark.parametrize(
    "score",
    [
        lambda: hard_label_recovery(85.0, 0.6),
        lambda: hard_label_recovery(0.8, 60.0),
        lambda: improvement_over_random(60.0, 0.5),
        lambda: improvement_over_random(0.6, -0.1),
        lambda: label_robust_score(20.0, 0.1),
        lambda: label_robust_score(0.2, math.nan),
        lambda: label_robust_score(0.2, 0.1, w=50),
        lambda: augmentation_robust_score(0.1, 10.0),
    ],
)
def test_percentages_are_no_accuracies(score) -> None:
    """The published tool puts percentages into formulas of fractions."""
    with pytest.raises(ValueError, match="expected a"):
        score()
