"""GIFT's refinement against the formula written out, in both forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel import _plugins
from ddlabel.errors import UsageError
from ddlabel.labels._labels import LabelSet
from ddlabel.manifest import Section
from ddlabel.options import as_dict, build
from ddlabel.refine.gift import REFINEMENT as GIFT
from ddlabel.refine.recode import REFINEMENT as RECODE
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
    if hasattr(plugin, "for_settings"):  # learns from real data: a method for every matcher
        for matcher in ("dc", "mtt", "datm"):
            learner = plugin.for_settings({"matcher": matcher})
            assert learner.__doc__
            assert all(callable(getattr(learner, part)) for part in ("total_steps", "prepare", "step", "finish"))
    else:
        assert callable(plugin().apply)


def label_set(values: Tensor, domain: str = "logit", refined: dict | None = None) -> LabelSet:
    """Labels as a bundle would give them."""
    section = Section({"name": "labels.dense", "kind": "labels", "parameters": {}, "tensors": {}})
    return LabelSet("dense", values, domain, {"grid": 2}, refined, section)


@pytest.mark.parametrize("name", [name for name in _plugins.names("refine") if name != "dcpi"])
def test_contract_of_refinements(name: str) -> None:
    """Same shape and parameters, finite, the same twice, the labels given stay as they are."""
    plugin = _plugins.load("refine", name, "REFINEMENT")
    labels = label_set(torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0)))
    before, hard = labels.values.clone(), torch.tensor([0, 1, 2, 0, 1, 2])
    after = plugin().apply(labels, hard)

    assert torch.isfinite(after.values).all()
    assert (before.shape, labels.parameters) == (after.values.shape, after.parameters)
    assert torch.equal(after.values, plugin().apply(labels, hard).values)
    assert torch.equal(before, labels.values)
    assert plugin() == build(plugin, {key: str(value) for key, value in as_dict(plugin()).items()})


@pytest.mark.parametrize("domain", ["logit", "prob"])
@pytest.mark.parametrize("views", [1, 4])
def test_every_view_is_refined_with_the_class_of_its_image(views: int, domain: str) -> None:
    """View by view, image by image; never converted; told with its options."""
    values = torch.randn(3, views, 5, generator=torch.Generator().manual_seed(views))
    values = values.softmax(-1) if domain == "prob" else values
    hard = torch.tensor([4, 0, 2])
    refined = GIFT(gamma=0.2, form="code").apply(label_set(values, domain), hard)
    for image in range(3):
        for view in range(views):
            (expected,) = refine_labels(
                values[image, view][None], hard[image : image + 1], alpha=0.1, gamma=0.2, form="code"
            )
            torch.testing.assert_close(refined.values[image, view], expected)

    torch.testing.assert_close(refined.values.norm(dim=-1), torch.ones(3, views))
    assert "unit" == refined.domain
    assert {"method": "gift", "alpha": 0.1, "gamma": 0.2, "form": "code", "input_domain": domain} == refined.refined


def test_without_the_hard_label_only_the_length_changes() -> None:
    """gamma = 0 is the ablation of the loss alone."""
    values = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    refined = GIFT(gamma=0.0).apply(label_set(values), torch.tensor([0, 1, 2]))

    torch.testing.assert_close(refined.values, functional.normalize(values, dim=-1))


@pytest.mark.parametrize(
    ("domain", "refined"), [("unit", {"method": "gift"}), ("unit", None), ("logit", {"method": "other"})]
)
def test_refining_twice_is_refused(domain: str, refined: dict | None) -> None:
    """By the record of the first time, or by what the labels are."""
    labels = label_set(functional.normalize(torch.ones(2, 1, 3), dim=-1), domain, refined)
    with pytest.raises(UsageError, match=r"'labels\.dense' was refined before"):
        GIFT().apply(labels, torch.tensor([0, 1]))


def test_log_probabilities_are_refused() -> None:
    """Their direction depends on the offset that logits lost: another objective."""
    with pytest.raises(UsageError, match="holds 'logprob' labels, expected logit or prob"):
        GIFT().apply(label_set(torch.zeros(2, 1, 3), "logprob"), torch.tensor([0, 1]))


def test_recoding_leaves_labels_alone() -> None:
    """Refined ones too."""
    labels = label_set(functional.normalize(torch.ones(2, 1, 3), dim=-1), "unit", {"method": "gift"})

    assert labels == RECODE().apply(labels, torch.tensor([0, 1]))
