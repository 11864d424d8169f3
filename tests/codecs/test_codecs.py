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
from ddlabel.config import as_dict, build
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
    assert parts.keys() == again.keys()
    assert all(torch.equal(parts[part], again[part]) for part in parts)
    assert all(len(part) == len(values) for part in parts.values())
    assert (torch.float32, values.shape) == (decoded.dtype, decoded.shape)


OFFSETS = (0.0, -0.0, 1e-5, -0.007, 1.0, -20.0, 3000.0, -59_000.0)


@pytest.mark.parametrize("offset", OFFSETS, ids=lambda offset: f"around {offset}")
@pytest.mark.parametrize("name", NAMES)
def test_narrow_rows_around_any_offset_keep_bound_and_codes(name: str, offset: float) -> None:
    """Where float32 barely tells the values of a row apart, and where steps are subnormal: 300 rows per scale."""
    source = torch.Generator().manual_seed(1)
    for exponent in range(-9, 3):
        values = (torch.randn(300, 5, generator=source) * 10.0**exponent + offset).clamp(-60_000, 60_000)
        parts = codec(name).encode(values)
        decoded = codec(name).decode(parts)
        again = codec(name).encode(decoded)
        error = (decoded.double() - values.double()).abs().amax(dim=1)

        assert bool((error <= codec(name).tolerance(values)).all()), exponent
        assert all(parts[part].numpy().tobytes() == again[part].numpy().tobytes() for part in parts), exponent


@pytest.mark.parametrize("name", NAMES)
def test_contract_of_codecs(name: str) -> None:
    """The values given stay as they are, the options survive the manifest, the class says what it costs."""
    plugin = _plugins.load("codecs", name, "CODEC")
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    before = values.clone()
    plugin().decode(plugin().encode(values))

    assert torch.equal(before, values)
    assert plugin() == build(plugin, {key: str(value) for key, value in as_dict(plugin()).items()})
    assert "bits" in plugin.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_constant_rows_keep_their_value(name: str) -> None:
    """To float16, of any size and sign."""
    values = torch.tensor([0.0, 1.0, -3.5, 60_000.0, 2.0**-24])[:, None].expand(5, 7)

    assert torch.equal(values, codec(name).decode(codec(name).encode(values)))


@pytest.mark.parametrize("name", NAMES)
def test_parts_and_fidelity_do_not_depend_on_the_number_of_threads(name: str) -> None:
    """Both are part of a bundle's identity; 50,000 rows are enough for torch to share them out."""
    values = torch.randn(50_000, 10, generator=torch.Generator().manual_seed(2))
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            parts = codec(name).encode(values)
            report = fidelity(values, codec(name).decode(parts), "logit")
            seen.append(({part: tensor.numpy().tobytes() for part, tensor in parts.items()}, report))
    finally:
        torch.set_num_threads(before)

    assert seen[0] == seen[1]


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


DAMAGED = [
    ("a part is missing", lambda parts: dict(list(parts.items())[1:])),
    ("a part too many", lambda parts: parts | {"more": next(iter(parts.values()))}),
    ("another dtype", lambda parts: {name: part.to(torch.int32) for name, part in parts.items()}),
    ("another rank", lambda parts: {name: part[..., None] for name, part in parts.items()}),
]


@pytest.mark.parametrize("damage", [damage for _what, damage in DAMAGED], ids=[what for what, _damage in DAMAGED])
@pytest.mark.parametrize("name", NAMES)
def test_fault_69_parts_that_the_codec_did_not_write_are_refused(name: str, damage) -> None:
    """Never read as something else."""
    parts = codec(name).encode(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(BundleError, match="expected"):
        codec(name).decode(damage(parts))


@pytest.mark.parametrize("columns", [1, 3, 5], ids=["too short", "too long", "as many as classes and one"])
def test_fault_69_a_scale_of_another_width_is_refused(columns: int) -> None:
    """Even where shapes would broadcast."""
    parts = {"codes": torch.zeros(3, 4, dtype=torch.uint8), "scale": torch.zeros(3, columns).half()}
    with pytest.raises(BundleError, match="2 values in each row"):
        Q8().decode(parts)


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


def test_fidelity_at_a_temperature_and_the_shift_of_entropy() -> None:
    """KL at T = 20 and the change of entropy, in nats, by the formulas."""
    ours, theirs = [2.0, 0.5, -1.0], [1.0, 1.0, -1.0]

    def softmax(values: list[float], temperature: float) -> list[float]:
        powers = [math.exp(value / temperature) for value in values]
        return [power / sum(powers) for power in powers]

    def entropy(p: list[float]) -> float:
        return -sum(share * math.log(share) for share in p)

    warm = zip(softmax(ours, 20), softmax(theirs, 20), strict=True)
    report = fidelity(torch.tensor([ours]), torch.tensor([theirs]), "logit")

    assert pytest.approx(sum(p * math.log(p / q) for p, q in warm), abs=1e-9) == report["kl_t20"]
    assert pytest.approx(entropy(softmax(theirs, 1)) - entropy(softmax(ours, 1))) == report["entropy_shift"]
    assert pytest.approx(abs(softmax(theirs, 1)[0] - softmax(ours, 1)[0])) == report["top1_probability_error"]


def test_the_bound_of_q8_is_reached() -> None:
    """2,000 values across each of 400 spans: the worst error is within the bound, and not far within."""
    spans = torch.linspace(1, 4, 400, dtype=torch.float64)[:, None]
    values = (spans * torch.linspace(0, 1, 2000, dtype=torch.float64)).float()
    decoded = Q8().decode(Q8().encode(values)).double()
    share = (decoded - values.double()).abs().amax(dim=1) / Q8().tolerance(values)

    assert 0.97 < float(share.max()) <= 1
