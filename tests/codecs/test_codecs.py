"""Codecs: proven bounds, idempotence and determinism as properties (hypothesis), fidelity against hand values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddlabel import _plugins
from ddlabel.codecs._codec import fidelity
from ddlabel.codecs.q8 import CODEC as Q8
from ddlabel.errors import BundleError, UsageError

NAMES = _plugins.names("codecs")


def codec(name: str):
    return _plugins.load("codecs", name, "CODEC")()


@st.composite
def labels(draw: st.DrawFn) -> Tensor:
    """Rows of many magnitudes: ordinary logits, constants, tiny and huge spans around large offsets."""
    rows, classes = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = 10.0 ** draw(st.integers(-6, 3))
    offset = draw(st.sampled_from([0.0, 1.0, -20.0, 3000.0]))
    return torch.randn(rows, classes, generator=generator) * scale + offset


@pytest.mark.parametrize("name", NAMES)
@given(values=labels())
@settings(max_examples=60, deadline=None)
def test_decoding_stays_within_the_proven_bound_and_encoding_again_changes_nothing(name: str, values: Tensor) -> None:
    """|decoded - original| <= tolerance, row by row; encode(decode(encode(v))) == encode(v)."""
    parts = codec(name).encode(values)
    decoded = codec(name).decode(parts)
    again = codec(name).encode(decoded)

    assert bool(((decoded.double() - values.double()).abs().amax(dim=1) <= codec(name).tolerance(values)).all())
    assert torch.equal(decoded, codec(name).decode(again))
    assert all(len(part) == len(values) for part in parts.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "infinity"])
def test_fault_63_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    """Naming view and class."""
    values = torch.zeros(3, 4)
    values[2, 1] = value
    with pytest.raises(UsageError, match="label view 2, class 1"):
        codec(name).encode(values)


@pytest.mark.parametrize("name", ["f16", "q8"])
def test_values_beyond_float16_are_refused(name: str) -> None:
    """With the codec that holds them."""
    with pytest.raises(UsageError, match="use --codec f32"):
        codec(name).encode(torch.tensor([[70_000.0]]))


def test_q8_spends_a_byte_a_value_and_four_a_view() -> None:
    """Ends of the scale are used, and close to exact."""
    values = torch.tensor([[-3.0, 0.0, 9.75]])
    parts = Q8().encode(values)

    assert (torch.uint8, torch.float16) == (parts["codes"].dtype, parts["scale"].dtype)
    assert [0, 60, 255] == parts["codes"][0].tolist()


def test_fault_69_a_broken_scale_is_refused() -> None:
    """Infinite or negative steps never reach a student."""
    for scale in ([[0.0, math.inf]], [[0.0, -1.0]]):
        with pytest.raises(BundleError, match="scale"):
            Q8().decode({"codes": torch.zeros(1, 3, dtype=torch.uint8), "scale": torch.tensor(scale).half()})


def test_fidelity_of_the_same_values_is_perfect() -> None:
    """Zero divergence, cosine and agreement one."""
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]])
    report = fidelity(values, values, "logit")

    assert [0, 0, 0, 0] == pytest.approx(
        [report[key] for key in ("kl_t1", "kl_t20", "top1_probability_error", "entropy_shift")]
    )
    assert [1, 1] == pytest.approx([report["cosine"], report["top1_agreement"]])


def test_fidelity_against_a_divergence_written_out() -> None:
    """KL(p || q) in nats for two known distributions, as probabilities and as logits."""
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)

    assert pytest.approx(expected, abs=1e-6) == fidelity(p, q, "prob")["kl_t1"]
    assert pytest.approx(expected, abs=1e-6) == fidelity(p.log(), q.log(), "logit")["kl_t1"]
    assert 0.0 == fidelity(p, q, "prob")["top1_agreement"]
