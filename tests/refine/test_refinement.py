"""GIFT's refinement against the formula written out, in both forms."""

from __future__ import annotations

import math

import pytest
import torch

from ddlabel import _plugins
from ddlabel.refinement import cosine_loss, refine_labels, smooth_labels

LABEL = torch.tensor([[2.0, -1.0, 0.5]])
HARD = torch.tensor([1])


def test_smoothing_spreads_over_the_other_classes() -> None:
    """alpha / (k - 1), unlike torch's."""
    assert pytest.approx([0.05, 0.9, 0.05]) == smooth_labels(HARD, 3, 0.1)[0].tolist()
    assert pytest.approx(0.9006, abs=1e-4) == float(smooth_labels(HARD, 10, 0.1).norm())


@pytest.mark.parametrize(("form", "weight"), [("paper", 0.9), ("code", 1.0)])
def test_refined_labels_are_the_weighted_sum_of_both_directions(form: str, weight: float) -> None:
    """By hand, up to the length that cosine ignores."""
    smooth = [0.05, 0.9, 0.05]
    lengths = math.sqrt(sum(v * v for v in smooth)), math.sqrt(sum(float(v) ** 2 for v in LABEL[0]))
    mixed = [0.1 * s / lengths[0] + weight * float(v) / lengths[1] for s, v in zip(smooth, LABEL[0], strict=True)]
    size = math.sqrt(sum(v * v for v in mixed))

    expected = pytest.approx([v / size for v in mixed], abs=1e-6)
    assert expected == refine_labels(LABEL, HARD, alpha=0.1, gamma=0.1, form=form)[0].tolist()


def test_the_code_form_equals_the_paper_form_with_another_gamma() -> None:
    """gamma / (1 + gamma)."""
    code = refine_labels(LABEL, HARD, alpha=0.1, gamma=0.1, form="code")
    paper = refine_labels(LABEL, HARD, alpha=0.1, gamma=1 / 11, form="paper")

    torch.testing.assert_close(code, paper)


def test_gamma_one_is_the_hard_label() -> None:
    """The limit the paper warns of."""
    refined = refine_labels(LABEL, HARD, alpha=0.0, gamma=1.0, form="paper")

    torch.testing.assert_close(refined, torch.tensor([[0.0, 1.0, 0.0]]))


def test_cosine_loss_is_zero_for_parallel_and_two_for_opposite_vectors() -> None:
    """Its range."""
    assert pytest.approx(0, abs=1e-6) == float(cosine_loss(3 * LABEL, LABEL))
    assert pytest.approx(2, abs=1e-6) == float(cosine_loss(-LABEL, LABEL))


@pytest.mark.parametrize("name", _plugins.names("refine"))
def test_every_refinement_has_a_documented_class(name: str) -> None:
    """Contract of the room."""
    plugin = _plugins.load("refine", name, "REFINEMENT")

    assert plugin.__doc__
    assert callable(plugin().apply)
