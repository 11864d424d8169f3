"""Codecs: proven bounds, idempotence and determinism as properties (hypothesis), fidelity against hand values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddlabel import _plugins
from ddlabel.codecs import _blocks
from ddlabel.codecs._bits import pack_rows, packed_width, unpack_rows
from ddlabel.codecs._blocks import row_sum
from ddlabel.codecs._choose import CANDIDATES, choose, stored_bytes
from ddlabel.codecs._codec import fidelity
from ddlabel.codecs._eigen import eigenvectors
from ddlabel.codecs._topk import LOWEST, largest
from ddlabel.errors import BundleError, UsageError
from ddlabel.options import as_dict, build

NAMES = _plugins.names("codecs")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("q4", {"clip": 1.0}),
    ("q3", {"clip": 12.0}),
    ("q6", {"clip": 1e-3}),
    ("q4-shared", {"clip": 0.5}),
    ("topk-mr", {"k": 1, "bits": 3}),
    ("topk-ms", {"k": 3, "bits": 8}),
    ("topk-min", {"k": 2, "bits": 2}),
    ("delta-view", {"bits": 2, "centre": "f16", "coverage": 0.9}),
    ("delta-view", {"bits": 4, "coverage": 0.5}),
    ("klt", {"step": 0.01}),
    ("lowrank", {"rank": 1}),
    ("vq", {"groups": 1, "entries": 2}),
    ("root", {"step": 0.004}),
    ("root", {"step": 0.5}),
    ("prune", {"keep": 0.5, "values": "topk-ms"}),
]
every_variant = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=[f"{name} {options}" if options else name for name, options in VARIANTS]
)
every_codec = pytest.mark.parametrize("name", NAMES)


def codec(name: str, views: int = 3, **options: Any):
    return build(_plugins.load("codecs", name, "CODEC"), options).bind(views)


def needs(name: str, options: dict[str, Any]) -> int:
    """The fewest classes the codec has options for."""
    topk = name.startswith("topk") or str(options.get("values", "")).startswith("topk")
    return options.get("k", 1) + 1 if topk else 1


def round_trip(name: str, values: Tensor, options: dict[str, Any]):
    """The codec, what it wrote, and what it read; with the values that are kept."""
    used = codec(name, values.shape[1], **options)
    kept = used.view_ids(len(values))
    seen = values if kept is None else values.gather(1, kept[..., None].expand(-1, -1, values.shape[2]))
    parts = used.encode(values)
    return used, parts, used.decode(parts, tuple(seen.shape)), seen


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    return ours.numpy().tobytes() == theirs.numpy().tobytes()


def hold(name: str, options: dict[str, Any], values: Tensor) -> None:
    """The contract: bound, idempotence, type and shape, finite."""
    before = values.clone()
    used, parts, decoded, seen = round_trip(name, values, options)
    again = used.decode(used.encode(decoded), tuple(seen.shape))
    bound = used.tolerance(values)
    ids = used.view_ids(len(values))

    assert torch.equal(before, values)
    assert (torch.float32, seen.shape) == (decoded.dtype, decoded.shape)
    assert bool(torch.isfinite(decoded).all())
    assert values.shape[:2] == bound.shape
    assert bound.dtype == torch.float64
    bound = bound if ids is None else bound.gather(1, ids)
    error = (decoded.double() - seen.double()).abs().amax(dim=2)
    assert bool((error <= bound).all()), (error - bound).max()
    assert same_bits(decoded, again)
    for part, tensor in parts.items():
        if not part.startswith("shared"):
            assert len(tensor) == len(values)
        if not part.startswith(("shared", "image_")):
            assert tensor.shape[1] == seen.shape[1]


@st.composite
def labels(draw: st.DrawFn) -> Tensor:
    """Labels of many magnitudes: ordinary logits, constants, ties, tiny and huge spans around large offsets."""
    images, views, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = 10.0 ** draw(st.integers(-6, 3))
    offset = draw(st.sampled_from([0.0, 1.0, -20.0, 3000.0]))
    values = torch.randn(images, views, classes, generator=generator) * scale + offset
    shape = draw(st.sampled_from(["free", "free", "rounded", "equal views", "constant rows"]))
    if shape == "rounded":
        values = (values / scale).round() * scale
    if shape == "equal views":
        values = values[:, :1].expand(-1, views, -1).clone()
    if shape == "constant rows":
        values = values[..., :1].expand(-1, -1, classes).clone()
    return values


@every_variant
@given(values=labels())
@settings(max_examples=20, deadline=None)
def test_decoding_stays_within_the_proven_bound_and_encoding_again_changes_nothing(
    name: str, options: dict[str, Any], values: Tensor
) -> None:
    """|decoded - original| <= tolerance, view by view; decode(encode(decode(p))) == decode(p) bit for bit."""
    if values.shape[2] >= needs(name, options):
        hold(name, options, values)


OFFSETS = (0.0, -0.0, 1e-5, -0.007, 1.0, -20.0, 3000.0, -59_000.0)


@every_variant
def test_narrow_rows_around_any_offset_keep_bound_and_codes(name: str, options: dict[str, Any]) -> None:
    """Where float32 barely tells the values of a row apart, and where steps are subnormal."""
    source = torch.Generator().manual_seed(1)
    for offset in OFFSETS:
        for exponent in range(-9, 3):
            hold(name, options, (torch.randn(20, 2, 5, generator=source) * 10.0**exponent + offset).clamp(-6e4, 6e4))


@every_variant
@pytest.mark.parametrize(
    "shape",
    [(3, 1, 2), (2, 5, 10), (2, 4, 100), (2, 3, 1000), (40, 25, 10)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_contract_at_the_shapes_of_data_sets(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """One view, two classes, a thousand; enough views for k-means."""
    source = torch.Generator().manual_seed(0)
    values = torch.randn(shape[0], 1, shape[2], generator=source) * 3 + torch.randn(*shape, generator=source)
    if shape[2] > 256 and name == "klt":
        with pytest.raises(UsageError, match="up to 256 classes"):
            codec(name, **options).encode(values)
    elif shape[2] >= needs(name, options):
        hold(name, options, values)


@every_codec
def test_contract_of_codecs(name: str) -> None:
    """The options survive the manifest, the class says what it costs, the module's first line what it is."""
    plugin = _plugins.load("codecs", name, "CODEC")
    bound = plugin().bind(5)

    assert plugin() == build(plugin, {key: str(value) for key, value in as_dict(plugin()).items()})
    assert bound == build(plugin, {key: str(value) for key, value in as_dict(bound).items()})
    assert bound.made_from(5) == 5
    assert bound.domain("logit") in {"logit", "logprob"}
    assert "bits" in plugin.__doc__
    assert _plugins.summary("codecs", name).endswith((".", ")"))


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8", "q6", "q4", "q3", "q4-shared", "lowrank", "vq"])
def test_constant_rows_keep_their_value(name: str) -> None:
    """To float16, of any size and sign; each row the only view of its image."""
    small = 0.5 if name in {"lowrank", "vq"} else 2.0**-24
    values = torch.tensor([0.0, 1.0, -3.5, small])[:, None, None].expand(4, 1, 7).contiguous()
    _codec, _parts, decoded, _seen = round_trip(name, values, {})

    torch.testing.assert_close(decoded, values, rtol=2.0**-10, atol=0)


@every_variant
def test_parts_and_fidelity_depend_neither_on_threads_nor_on_blocks(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    """All are part of a bundle's identity."""
    values = torch.randn(120, 5, 10, generator=torch.Generator().manual_seed(2))
    before, seen = torch.get_num_threads(), []
    try:
        for threads, block in ((1, 2**30), (3, 2**30), (3, 700), (1, 64)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(_blocks, "BLOCK", block)
            _codec, parts, decoded, kept = round_trip(name, values, options)
            report = fidelity(kept, decoded, "logit")
            seen.append(
                ({part: tensor.numpy().tobytes() for part, tensor in parts.items()}, report)
                if name != "bf16"
                else report
            )
    finally:
        torch.set_num_threads(before)

    assert all(entry == seen[0] for entry in seen)


@every_codec
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=["NaN", "infinity", "-infinity"])
@pytest.mark.fault(63)
def test_fault_63_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    """Naming image, view and class."""
    values = torch.zeros(3, 2, 4)
    values[2, :, 1] = value
    with pytest.raises(UsageError, match=r"image 2, view [01], class 1 is -?(nan|inf), expected finite values"):
        codec(name, 2).encode(values)


@pytest.mark.parametrize("name", ["f16", "q8", "q4", "q4-shared", "topk-min", "delta-view", "lowrank", "vq"])
def test_values_beyond_float16_are_refused(name: str) -> None:
    """With the codec that holds them."""
    with pytest.raises(UsageError, match="use --codec f32"):
        codec(name).encode(torch.tensor([[[70_000.0, 200_000.0]]]))


def test_values_too_far_apart_for_a_softmax_are_refused() -> None:
    """They would meet the value that stands for nothing."""
    with pytest.raises(UsageError, match="image 0, view 1: kept values span more than 15360"):
        codec("topk-mr", k=2).encode(torch.tensor([[[1.0, 0.0, 0.0], [20_000.0, 0.0, -1.0]]]))


SIZES = [
    ("f32", {}, 4000), ("f16", {}, 2000), ("bf16", {}, 2000), ("q8", {}, 1004), ("q6", {}, 754), ("q4", {}, 504),
    ("q3", {}, 379), ("topk-mr", {"k": 50, "bits": 3}, 60), ("topk-ms", {"k": 50, "bits": 3}, 62),
    ("topk-min", {"k": 50, "bits": 3}, 62), ("topk-mr", {"k": 10, "bits": 3}, 17), ("topk-mr", {"k": 100}, 115),
    ("vq", {}, 125), ("prune", {"keep": 0.5}, 2000),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "expected"), SIZES)
def test_bytes_of_a_view_of_1000_classes(name: str, options: dict[str, Any], expected: int) -> None:
    """As the options say, before compression; LPQLD's 50 of 1000 classes take 210."""
    _codec, parts, _decoded, kept = round_trip(name, torch.randn(2, 2, 1000), options)
    own = sum(part.nbytes for name, part in parts.items() if not name.startswith("shared"))

    assert expected == own / (kept.shape[0] * kept.shape[1])


def test_dense_labels_of_ten_classes_cost_less_than_seven_bytes_a_view() -> None:
    """LADD's setting: 25 views of 10 classes may take 0.35 % of the 49,152 bytes of an image of 128 px."""
    source = torch.Generator().manual_seed(0)
    parts = codec("q4-shared", 25).encode(torch.randn(500, 25, 10, generator=source) * 4)

    assert stored_bytes(parts.values()) / (500 * 25) <= 6.88


def test_more_bits_cost_more_and_lose_less() -> None:
    """From 3 to 32, of the uniform codecs and of kept values."""
    values = torch.randn(50, 4, 20, generator=torch.Generator().manual_seed(0)) * 3
    families = [
        [("q3", {}), ("q4", {}), ("q6", {}), ("q8", {}), ("f16", {}), ("f32", {})],
        [("topk-ms", {"bits": bits}) for bits in (2, 3, 4, 6, 8)],
        [("delta-view", {"bits": bits}) for bits in (2, 3, 4, 6, 8)],
        [("root", {"step": step}) for step in (0.2, 0.1, 0.05, 0.02)],
        [("lowrank", {"rank": rank}) for rank in (1, 2, 3, 4)],
    ]
    for family in families:
        costs, losses = [], []
        for name, options in family:
            _codec, parts, decoded, seen = round_trip(name, values, options)
            costs.append(stored_bytes(parts.values()))
            losses.append(fidelity(seen, decoded, "logit")["kl_t1"])

        assert sorted(costs) == costs, family
        assert sorted(losses, reverse=True) == losses, family


def test_q8_writes_the_bytes_of_the_first_release() -> None:
    """Of ordinary, flat and wide rows: codes, and bit patterns of smallest value and step."""
    values = torch.tensor([[-3.0, 0.0, 9.75, 1.5], [0.1, 0.1, 0.1, 0.1], [-59_000.0, 3.0, 2.5, 100.0]])[:, None]
    parts = codec("q8").encode(values)

    assert {"codes", "scale"} == parts.keys()
    assert Q8_CODES == parts["codes"][:, 0].tolist()
    assert Q8_SCALE == parts["scale"].view(torch.int16)[:, 0].tolist()


Q8_CODES = [[0, 60, 255, 90], [0, 0, 0, 0], [0, 255, 255, 255]]
Q8_SCALE = [[-15872, 10854], [11878, 6], [-1228, 23358]]


def test_the_bound_of_q8_is_reached() -> None:
    """2,000 values across each of 400 spans: the worst error is within the bound, and not far within."""
    spans = torch.linspace(1, 4, 400, dtype=torch.float64)[:, None, None]
    values = (spans * torch.linspace(0, 1, 2000, dtype=torch.float64)).float()
    used, _parts, decoded, _seen = round_trip("q8", values, {})
    share = (decoded.double() - values.double()).abs().amax(dim=2) / used.tolerance(values)

    assert 0.97 < float(share.max()) <= 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_of_any_bits_survive_packing(bits: int) -> None:
    """Of 1 to 20 codes a row, against a bit string written out; bits behind the last code are refused."""
    source = np.random.Generator(np.random.PCG64(bits))
    for count in range(1, 21):
        codes = source.integers(0, 2**bits, (3, count), np.uint8)
        packed = pack_rows(codes, bits)
        numbers = [sum(int(code) << (bits * index) for index, code in enumerate(row)) for row in codes]

        assert (3, packed_width(count, bits)) == packed.shape
        assert numbers == [int.from_bytes(row.tobytes(), "little") for row in packed]
        assert np.array_equal(codes, unpack_rows(packed, bits, count))
        if count * bits % 8:
            packed[1, -1] |= 128
            with pytest.raises(BundleError, match="bits set behind its last code"):
                unpack_rows(packed, bits, count)


@given(
    values=st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=8), k=st.integers(1, 5)
)
@settings(max_examples=100, deadline=None)
def test_the_largest_values_are_kept_and_ties_go_to_lower_classes(values: list[list[int]], k: int) -> None:
    """Against sorting by value, then by class."""
    mask = largest(np.array(values, np.float32), k)
    for row, kept in zip(values, mask, strict=True):
        assert sorted(sorted(range(6), key=lambda label: (-row[label], label))[:k]) == np.flatnonzero(kept).tolist()


def test_what_each_top_k_rule_gives_the_other_classes() -> None:
    """MR nothing, MS what was left of the probability, min the smallest kept value."""
    values = torch.tensor([4.0, 1.0, 3.0, 0.0, 0.5]).log_softmax(0)[None, None]
    probabilities = values.softmax(-1)[0, 0]
    kept = torch.tensor([True, False, True, False, False])
    rules = {rule: round_trip(f"topk-{rule}", values, {"k": 2, "bits": 8})[2][0, 0] for rule in ("mr", "ms", "min")}

    renormalised = probabilities * kept / probabilities[kept].sum()
    smoothed = torch.where(kept, probabilities, probabilities[~kept].sum() / 3)
    torch.testing.assert_close(rules["mr"].softmax(0), renormalised, atol=2e-3, rtol=0)
    torch.testing.assert_close(rules["ms"].softmax(0), smoothed, atol=2e-3, rtol=0)
    torch.testing.assert_close(rules["min"][~kept], values[0, 0, 2].expand(3), atol=2e-3, rtol=0)
    assert bool((rules["mr"][~kept] == LOWEST).all())
    assert float((rules["mr"] / 100).softmax(0)[~kept].sum()) == 0.0


@pytest.mark.parametrize(
    ("classes", "k", "possible"), [(10, 20, "from 1 to 9"), (10, 10, "from 1 to 9"), (1, None, "at least 2")]
)
@pytest.mark.parametrize("name", ["topk-mr", "topk-ms", "topk-min"])
@pytest.mark.fault(68)
def test_impossible_k_says_what_is_possible(name: str, classes: int, k: int | None, possible: str) -> None:
    """Top 20 of 10 classes."""
    with pytest.raises(UsageError, match=possible):
        codec(name, k=k).encode(torch.zeros(1, 1, classes))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lowrank", {"rank": 4}, "rank is 4 for labels of 3 views, expected rank from 1 to 3"),
        ("vq", {"groups": 5}, "groups is 5 for labels of 4 classes, expected groups from 1 to 4"),
        ("prune", {"values": "prune"}, "option 'values' is 'prune'"),
        ("prune", {"values": "q9"}, "unknown codec 'q9'"),
        ("topk-mr", {"bits": 9}, "option 'bits' is 9, expected a number >= 2 and <= 8"),
        ("topk-ms", {"bits": 0}, "option 'bits' is 0, expected a number >= 2 and <= 8"),
        ("delta-view", {"bits": 0}, "option 'bits' is 0, expected a number >= 2 and <= 8"),
        ("delta-view", {"coverage": 0.0}, "option 'coverage' is 0.0"),
        ("vq", {"entries": 257}, "option 'entries' is 257"),
        ("klt", {"step": 0.0}, "option 'step' is 0.0"),
        ("prune", {"keep": 1.5}, "option 'keep' is 1.5"),
        ("prune", {"keep": 0.0}, "option 'keep' is 0.0, expected a number > 0 and <= 1"),
        ("q4", {"clip": 0.0}, "option 'clip' is 0.0"),
        ("root", {"step": 1.0}, "option 'step' is 1.0"),
        ("q1", {}, r"unknown codec 'q1'; .*\(known: .*q3, q4, q4-shared"),
    ],
)  # fmt: skip
@pytest.mark.fault(68)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    """With what is possible."""
    with pytest.raises(UsageError, match=message):
        codec(name, **options).encode(torch.randn(2, 3, 4))


@pytest.mark.parametrize("name", ["root", "topk-mr", "topk-ms"])
@pytest.mark.parametrize("domain", ["prob", "unit"])
def test_softmax_only_codecs_refuse_what_is_no_logit(name: str, domain: str) -> None:
    """Naming what they hold."""
    assert {"logprob"} == {codec(name).domain(domain) for domain in ("logit", "logprob")}
    with pytest.raises(UsageError, match=f"codec '{name}' holds logit or logprob labels, these are '{domain}'"):
        codec(name).domain(domain)


def test_delta_views_are_differences_from_the_median() -> None:
    """Three views one step apart, exactly; and the share that codes reach."""
    values = torch.tensor([0.0, 1.0, 2.0])[None, :, None] * torch.ones(1, 3, 4) + torch.arange(4.0) * 2
    _codec, parts, decoded, _seen = round_trip("delta-view", values, {"bits": 2, "centre": "f16"})
    outlier = torch.cat([values, values[:, :2] + 0.5, values[:, :1] + 40], dim=1)
    _codec, cut, _decoded, _seen = round_trip("delta-view", outlier, {"bits": 3, "centre": "f16", "coverage": 0.8})

    assert torch.equal(values, decoded)
    assert [1.0] == parts["image_step"][0].tolist()
    assert float(cut["image_step"][0]) < 1


def test_low_rank_views_are_found() -> None:
    """Views that are mixtures of two are stored by rank 2 within the rounding of int8."""
    source = torch.Generator().manual_seed(0)
    values = torch.randn(5, 12, 2, generator=source) @ torch.randn(5, 2, 30, generator=source)
    _codec, parts, decoded, _seen = round_trip("lowrank", values, {"rank": 2})

    assert float((decoded - values).abs().max() / values.abs().max()) < 0.02
    assert (5, 2) == tuple(parts["image_ids"].shape)


def test_vector_quantisation_keeps_few_distinct_values() -> None:
    """No more than the codebook has entries; the codebook is sorted, distinct and no longer than needed."""
    source = torch.Generator().manual_seed(0)
    book = torch.randn(20, 8, generator=source).half().float()
    values = book[torch.randint(0, 20, (30, 4), generator=source)]
    _codec, parts, decoded, _seen = round_trip("vq", values, {"groups": 2, "entries": 32})
    _codec, learned, near, _seen = round_trip(
        "vq", torch.randn(50, 20, 8, generator=source), {"groups": 2, "entries": 32}
    )

    assert torch.equal(values, decoded)
    assert (20, 8) == tuple(parts["shared_codebook"].shape)
    assert len(learned["shared_codebook"]) <= 32
    assert len(near.reshape(-1, 8)[:, :4].unique(dim=0)) <= 32


def test_pruning_keeps_the_same_share_of_every_image() -> None:
    """round(keep * v), at least one, ascending, by seed; images differ, no view is preferred."""
    used = codec("prune", 40, keep=0.25)
    ids = used.view_ids(400)
    counts = torch.bincount(ids.flatten(), minlength=40)

    assert (400, 10) == tuple(ids.shape)
    assert bool((ids[:, 1:] > ids[:, :-1]).all())
    assert torch.equal(ids[:7], used.view_ids(7))
    assert not torch.equal(ids, codec("prune", 40, keep=0.25, seed=1).view_ids(400))
    assert (60, 140) < (int(counts.min()), int(counts.max())) < (100, 141)
    assert PRUNED == codec("prune", 9, keep=0.34).view_ids(3).tolist()
    assert (2, 1) == tuple(codec("prune", 3, keep=0.01).view_ids(2).shape)
    with pytest.raises(UsageError, match="was made for 9 views of an image, these labels have 5"):
        codec("prune", 9).encode(torch.zeros(1, 5, 2))


PRUNED = [[1, 6, 7], [5, 6, 7], [3, 4, 7]]
"""These views of three images with seed 0 in every version: labels that were pruned before depend on it."""


DAMAGED = [
    ("a part is missing", lambda parts: dict(list(parts.items())[1:])),
    ("a part too many", lambda parts: parts | {"more": next(iter(parts.values()))}),
    ("another dtype", lambda parts: {name: part.to(torch.int64) for name, part in parts.items()}),
    ("another rank", lambda parts: {name: part[..., None] for name, part in parts.items()}),
    ("another width", lambda parts: {name: torch.cat([part, part], dim=-1) for name, part in parts.items()}),
    ("fewer images", lambda parts: {name: part[:-1] for name, part in parts.items()}),
]


@pytest.mark.parametrize("damage", [damage for _what, damage in DAMAGED], ids=[what for what, _damage in DAMAGED])
@every_codec
@pytest.mark.fault(69)
def test_fault_69_parts_that_the_codec_did_not_write_are_refused(name: str, damage) -> None:
    """Never read as something else."""
    used, parts, _decoded, seen = round_trip(name, torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)), {})
    with pytest.raises(BundleError, match="expected"):
        used.decode(damage(parts), tuple(seen.shape))


@every_variant
@pytest.mark.fault(69)
def test_fault_69_damaged_bytes_are_refused_or_decode_to_finite_values(name: str, options: dict[str, Any]) -> None:
    """Whatever a part holds: no crash, no NaN, no infinity where the codec itself writes none."""
    source = torch.Generator().manual_seed(3)
    used, parts, _decoded, seen = round_trip(name, torch.randn(4, 3, 5, generator=source), options)
    for part, tensor in parts.items():
        for fill in (0xFF, 0x7C, 0x80, 0x00, None):
            raw = tensor.clone().contiguous().numpy().reshape(-1).view(np.uint8) if name != "bf16" else None
            if raw is None:
                return
            raw[:] = np.random.default_rng(0).integers(0, 256, len(raw)) if fill is None else fill
            forged = torch.from_numpy(raw.view(tensor.numpy().dtype)).reshape(tensor.shape)
            try:
                decoded = used.decode(parts | {part: forged}, tuple(seen.shape))
            except BundleError:
                continue
            assert name in {"f32", "f16"} or used.__dict__.get("values") == "f16" or bool(torch.isfinite(decoded).all())


@pytest.mark.fault(69)
def test_fault_69_a_broken_scale_is_refused() -> None:
    """Infinite or negative steps never reach a student."""
    for scale in ([[[0.0, math.inf]]], [[[0.0, -1.0]]]):
        with pytest.raises(BundleError, match="scale"):
            parts = {"codes": torch.zeros(1, 1, 3, dtype=torch.uint8), "scale": torch.tensor(scale).half()}
            codec("q8").decode(parts, (1, 1, 3))


@pytest.mark.parametrize(
    ("name", "part", "change", "message"),
    [
        ("lowrank", "image_ids", lambda ids: ids.fill_(1), "image_ids' holds no 3 different views of 9"),
        ("lowrank", "image_ids", lambda ids: ids.add_(9), "image_ids' holds no 3 different views of 9"),
        ("lowrank", "image_ids", lambda ids: ids.sub_(9), "image_ids' holds no 3 different views of 9"),
        ("vq", "codes", lambda codes: codes.fill_(250), "'codes' has a code above"),
        ("delta-view", "codes", lambda codes: codes.fill_(255), "'codes' has a code above 6"),
        ("topk-ms", "ids", lambda ids: ids.fill_(255), "stands for no set of classes"),
        ("root", "image_codes", lambda codes: codes.fill_(0), "does not hold the largest code"),
        ("q3", "codes", lambda codes: codes.fill_(255), "bits set behind its last code"),
        ("klt", "image_plain", lambda plain: plain.fill_(9), "neither 0 nor 1"),
    ],
)
@pytest.mark.fault(69)
def test_indices_out_of_range_or_twice_are_refused(name: str, part: str, change, message: str) -> None:
    """Views, entries, steps and classes that are not there."""
    classes = 16 if name == "delta-view" else 13
    values = torch.randn(3, 9, classes, generator=torch.Generator().manual_seed(0))
    used = codec(name, 9)
    parts = {key: tensor.clone() for key, tensor in used.encode(values).items()}
    change(parts[part])
    with pytest.raises(BundleError, match=message):
        used.decode(parts, (3, 9, classes))


@pytest.mark.parametrize("part", ["shared_basis", "shared_codes", "image_plain"])
@pytest.mark.parametrize("damage", [lambda part: part.new_zeros(()), torch.Tensor.bfloat16], ids=["scalar", "bfloat16"])
@pytest.mark.fault(69)
def test_parts_of_klt_of_another_rank_or_dtype_are_refused(part: str, damage) -> None:
    """Its parts say its sizes, so they are looked at before the table of what is expected."""
    klt = codec("klt")
    parts = klt.encode(torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(BundleError, match=r"expected|neither"):
        klt.decode(parts | {part: damage(parts[part])}, (4, 3, 5))


@pytest.mark.filterwarnings("error")
@pytest.mark.fault(69)
def test_steps_of_klt_beyond_float32_are_refused_without_a_warning() -> None:
    """Finite in double precision alone."""
    klt = codec("klt")
    parts = klt.encode(torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) * 30)
    with pytest.raises(BundleError, match="beyond float32"):
        klt.decode(parts | {"shared_exponent": torch.tensor([127], dtype=torch.int16)}, (4, 3, 5))


def test_auto_takes_the_fewest_bytes_within_the_bound() -> None:
    """By name where bytes are equal; candidates that change the domain are passed over, but for log-probabilities."""
    values = torch.randn(30, 5, 10, generator=torch.Generator().manual_seed(0)) * 3
    tight, loose, shiftless = (
        choose(values, "logit", 0.0),
        choose(values, "logit", 0.05),
        choose(values, "logprob", 0.05),
    )

    assert "f32" == tight.name
    for choice, bound in ((tight, 0.0), (loose, 0.05), (shiftless, 0.05)):
        fitting = [row["bytes"] for row in choice.table if row["kl_t1"] <= bound]
        chosen = [row for row in choice.table if row["codec"] == choice.name and row["bytes"] == min(fitting)]
        assert chosen
    assert {"root", "topk-ms"}.isdisjoint(row["codec"] for row in loose.table)
    assert {"root", "topk-ms"} <= {row["codec"] for row in shiftless.table}
    assert sorted(name for name, _options in CANDIDATES) == [name for name, _options in CANDIDATES]
    assert stored_bytes(loose.codec.encode(values).values()) == min(
        row["bytes"] for row in loose.table if row["kl_t1"] <= 0.05
    )


def test_sums_are_added_in_one_order() -> None:
    """Against exactly rounded ones; of any width."""
    for width in range(1, 40):
        values = np.random.default_rng(width).standard_normal((3, width))
        np.testing.assert_allclose(row_sum(values), [math.fsum(row) for row in values], rtol=0, atol=1e-13)


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


@pytest.mark.parametrize("size", [1, 2, 3, 8, 25])
def test_eigenvectors_are_orthonormal_and_sorted(size: int) -> None:
    """Against the library's eigenvalues; equal eigenvalues and zero matrices included."""
    source = np.random.Generator(np.random.PCG64(size))
    shapes = [source.normal(size=(size, size)) for _ in range(3)]
    for matrix in (*(each @ each.T for each in shapes), np.zeros((size, size)), np.eye(size) * 7):
        vectors = eigenvectors(matrix)
        values = np.diag(vectors @ matrix @ vectors.T)

        np.testing.assert_allclose(vectors @ vectors.T, np.eye(size), atol=1e-12)
        np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-10 * max(1, np.abs(values).max()))


def test_klt_spends_little_on_labels_that_vary_along_few_directions() -> None:
    """Rank 3 of 20 classes: a tenth of q4's bytes at a fraction of its divergence, and plain views exact to a step."""
    source = torch.Generator().manual_seed(0)
    few, most = torch.randn(200, 9, 3, generator=source) * 2, torch.randn(3, 20, generator=source)
    values = few @ most
    klt, q4 = codec("klt", 9), codec("q4", 9)
    parts = klt.encode(values)
    decoded = klt.decode(parts, (200, 9, 20))
    plain = torch.nonzero(parts["image_plain"][:, 0])[:, 0]

    assert 3 * stored_bytes(parts.values()) < stored_bytes(q4.encode(values).values())
    assert fidelity(values, decoded, "logit")["kl_t1"] < 0.02
    assert (80, 3) <= (len(plain), parts["shared_basis"].shape[0])
    assert float((decoded[plain, 0] - values[plain, 0]).abs().max()) <= 0.25 + 1e-6


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("shared_basis", lambda part: part.fill_(4000), "out of range"),
        ("shared_exponent", lambda part: part.fill_(-1), "out of range"),
        ("image_plain", lambda part: part.fill_(2), "neither 0 nor 1"),
        ("image_plain", lambda part: part.fill_(0), "shared_plain"),
        ("shared_codes", lambda part: part.fill_(1), "codes of plain views"),
    ],
)
def test_damaged_parts_of_klt_are_refused(part: str, change, message: str) -> None:
    """Named, whatever the file holds."""
    klt, values = codec("klt"), torch.randn(30, 3, 4, generator=torch.Generator().manual_seed(0)) * 3
    parts = {name: tensor.clone() for name, tensor in klt.encode(values).items()}
    change(parts[part])

    with pytest.raises(BundleError, match=message):
        klt.decode(parts, (30, 3, 4))


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("klt", {}, (1, 1, 257)),
        ("prune", {"values": "topk-ms"}, (1, 3, 1)),
        ("topk-min", {"k": 4}, (1, 1, 4)),
        ("vq", {"groups": 5}, (1, 1, 4)),
        ("lowrank", {"rank": 4}, (1, 3, 4)),
    ],
)
def test_what_encoding_refuses_for_its_shape_is_known_before_there_are_labels(
    name: str, options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    """In the same words."""
    made, said = codec(name, **options), []
    for call in (lambda: made.check(*shape[1:]), lambda: made.encode(torch.zeros(shape))):
        with pytest.raises(UsageError) as caught:
            call()
        said.append(caught.value.message)

    assert said[0] == said[1]
