"""Feature and attention labels in bundles: round trips through every codec, bytes, and what is chosen."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from ddlabel import _plugins
from ddlabel.bundle import Bundle, StageRecord
from ddlabel.codecs._codec import fidelity
from ddlabel.distilled import image_section, read_distilled
from ddlabel.errors import BundleError, DivergedError, UsageError
from ddlabel.labels._labels import available_kinds, choose_kind, read_labels
from ddlabel.labels._privileged import (
    PRIVILEGED,
    choose_privileged,
    feature_codecs,
    make_privileged,
    objective_of,
    read_privileged,
)
from ddlabel.privileged._form import Form, make_form
from ddlabel.privileged._objective import Objective, fit_norm

RECORD = StageRecord("augment-labels", {}, 0, [], {}, 0.0, 0.0, {})
HOLDING = (
    "bf16", "delta-view", "f16", "f32", "lowrank", "q3", "q4", "q4-shared", "q6", "q8", "topk-min", "vq",
)  # fmt: skip


def form_of(attention: str | None = None, pool: str = "avg", layer: str = "last") -> Form:
    return make_form("convnet-d1-w8", channels=3, size=8, classes=4, layer=layer, attention=attention, pool=pool)


def features(form: Form, labels: int = 2) -> Tensor:
    """(12, K, *shape), not negative, as after a ReLU."""
    return torch.randn(12, labels, *form.shape, generator=torch.Generator().manual_seed(0)).clamp(min=0)


def labelled(
    bundle: Bundle, form: Form, values: Tensor, codec: str = "f32", norm: bool = False, **parameters
) -> Bundle:
    """The bundle with these labels by our own writer."""
    section = make_privileged(
        bundle,
        "feature" if form.attention is None else "attention",
        form,
        values,
        codec_name=codec,
        codec=_plugins.load("codecs", codec, "CODEC")(),
        teachers=["0" * 64],
        parameters={"mode": "assigned", "norm": "zscore" if norm else "none"} | parameters,
        norm=fit_norm(values) if norm else None,
    )
    return bundle.with_stage(RECORD, add=[section])


def test_these_codecs_hold_features() -> None:
    """Every codec, tried; those for distributions, and pruning, say so."""
    assert HOLDING == feature_codecs()


@pytest.mark.parametrize("name", _plugins.names("codecs"))
def test_every_codec_holds_features_within_its_bound_or_refuses_them(files, name: str) -> None:
    """As the codec alone decodes them, error within `tolerance`, fidelity as computed here."""
    base, form = Bundle.open(files.base), form_of()
    values = features(form)
    if name not in HOLDING:
        with pytest.raises(UsageError, match=r"codec '.*' (is for distributions|leaves labels out).*--codec f16"):
            labelled(base, form, values, name)
        return
    bundle, codec = labelled(base, form, values, name), _plugins.load("codecs", name, "CODEC")()
    read, flat = read_privileged(bundle, "feature"), values.flatten(2)
    decoded = codec.decode(codec.encode(flat), tuple(flat.shape))
    stored = bundle.section("labels.feature").record["fidelity"]
    error = (decoded - flat).double()

    assert torch.equal(decoded.unflatten(2, form.shape), read.values)
    assert bool((error.abs().amax(dim=2) <= codec.tolerance(flat) + 1e-12).all())
    assert {"relative_rms", "cosine", "max_error"} == set(stored)
    assert pytest.approx(float(error.square().sum().sqrt() / flat.double().norm())) == stored["relative_rms"]
    assert pytest.approx(float(error.abs().max())) == stored["max_error"]
    assert {"domain.feature", "labels.feature"} <= set(bundle.manifest.requires)


def test_int8_is_off_by_half_a_step_at_most(files) -> None:
    """Step: the range of one label over 255, and what float16 rounds of it."""
    values = features(form_of(), 1)
    read = read_privileged(labelled(Bundle.open(files.base), form_of(), values, "q8"), "feature").values
    step = (values.flatten(2).amax(2) - values.flatten(2).amin(2)) / 255

    assert bool(((read - values).flatten(2).abs().amax(2) <= step * (0.5 + 0.2)).all())


def test_float32_labels_come_back_bit_for_bit_with_what_is_said_of_them(files) -> None:
    """Values, form, objective, norm, through the file's bytes (T11)."""
    form = form_of("channel", "max")
    values = features(form, 3)
    bundle = labelled(
        Bundle.open(files.base), form, values, norm=True, lambda_reg=2.5, mode="learned", matcher="mtt", lambda_task=0.1
    )
    read = read_privileged(bundle, "attention")
    norm = fit_norm(values)

    assert torch.equal(values, read.values)
    assert form == read.form
    assert read.norm is not None
    assert torch.equal(norm.mean, read.norm.mean)
    assert torch.equal(norm.scale, read.norm.scale)
    assert Objective(lambda_reg=2.5, norm="zscore") == objective_of(read.parameters)
    assert ("learned", "mtt", 0.1) == tuple(read.parameters[key] for key in ("mode", "matcher", "lambda_task"))
    assert ["0" * 64] == read.section.teacher


def test_bytes_are_those_of_the_file(files) -> None:
    """Raw: four bytes a number, the norm with them; without it, as many less. Stored: what the file has more."""
    base, form = Bundle.open(files.base), form_of()
    values = features(form)
    plain, scaled = labelled(base, form, values), labelled(base, form, values, norm=True)
    reports = [bundle.manifest.storage["sections"]["labels.feature"] for bundle in (plain, scaled)]
    norm = [
        scaled.section("labels.feature").tensors[f"labels.feature.shared_norm_{part}"] for part in ("mean", "scale")
    ]

    assert 12 * 2 * 128 * 4 == reports[0]["raw"]
    assert reports[0]["raw"] + 2 * 128 * 4 == reports[1]["raw"]
    assert reports[0]["stored"] + sum(record["bytes"] for record in norm) == reports[1]["stored"]
    assert 8 * reports[0]["stored"] / 24 == plain.manifest.storage["bits_per_view"]["labels.feature"]


def test_pooling_late_equals_storing_pooled_labels(files) -> None:
    """Average attention of stored features is the stored attention (T10)."""
    base, values = Bundle.open(files.base), features(form_of(), 1)
    whole = read_privileged(labelled(base, form_of(), values), "feature").values[:, 0]
    for attention in ("spatial", "channel"):
        form = form_of(attention)
        stored = read_privileged(labelled(base, form, form.reduce(values[:, 0])[:, None]), "attention").values[:, 0]

        assert torch.equal(stored, form.reduce(whole))


def test_the_norm_standardises_what_varies_and_leaves_dead_units_small() -> None:
    """Mean 0 and deviation 1 of what varies; a unit that is 0 in all labels does not explode; one label alone is 1."""
    values = torch.randn(50, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0)) * 3 + 5
    values[:, :, 0] = 0
    norm = fit_norm(values)
    made = ((values - norm.mean) / norm.scale).flatten(0, 1)

    torch.testing.assert_close(made[:, 1:].mean(0), torch.zeros(3, 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(made[:, 1:].std(0, correction=0), torch.ones(3, 2, 2))
    assert 0.1 < float(norm.scale.min()) < 1
    assert torch.equal(torch.ones(4, 2, 2), fit_norm(values[:1, :1]).scale)


def test_features_are_no_class_labels(files) -> None:
    """They are neither listed nor chosen among them, cannot be read as such, and the other way round."""
    base = Bundle.open(files.soft)
    bundle = labelled(base, form_of(), features(form_of()))

    assert ["soft", "hard"] == available_kinds(bundle)
    assert "soft" == choose_kind(bundle)
    assert None is choose_privileged(base)
    with pytest.raises(UsageError, match=r"'feature' labels say what a layer gives.*evaluate --labels soft\+feature"):
        read_labels(bundle, "feature")
    with pytest.raises(UsageError, match="'soft' labels are not of feature or attention"):
        read_privileged(bundle, "soft")


def test_feature_labels_come_before_attention_and_stale_ones_are_passed_over(files) -> None:
    """New images leave neither; labels made again for them hold."""
    attention = labelled(Bundle.open(files.base), form_of("spatial"), features(form_of("spatial")))
    both = labelled(attention, form_of(), features(form_of()))
    other = image_section(255 - both.tensor("images.pixels"), read_distilled(both).space)
    changed = both.with_stage(RECORD, add=[other])
    again = labelled(changed, form_of("spatial"), features(form_of("spatial")))

    assert ("attention", "feature") == (choose_privileged(attention), choose_privileged(both))
    assert (None, "attention") == (choose_privileged(changed), choose_privileged(again))
    assert changed.section("labels.feature").stale
    with pytest.raises(BundleError, match=r"'labels\.feature' is stale.*; run 'ddlabel augment-labels' again"):
        read_privileged(changed, "feature")


def test_features_that_cannot_be_stored_are_refused_by_name(files) -> None:
    """NaN with image and element; beyond float16; another shape, or a norm that nobody asked for, is a bug."""
    base, form = Bundle.open(files.base), form_of()
    broken, large = features(form), features(form)
    broken[7, 1, 3, 2, 0] = float("nan")
    large[2] = 70_000.0
    with pytest.raises(DivergedError, match=r"image 7, label 1 is not finite: element \(3, 2, 0\) is nan"):
        labelled(base, form, broken)
    with pytest.raises(UsageError, match=r"image 2, view 0.* is 70000.0, expected finite values within"):
        labelled(base, form, large, "f16")
    for values, more in (
        (features(form)[:, :, :4], {}),
        (features(form)[:5], {}),
        (features(form), {"norm": "zscore"}),
    ):
        with pytest.raises(ValueError, match=r"feature labels|expected a stored norm"):
            section = {"mode": "assigned"} | more
            make_privileged(
                base, "feature", form, values, codec_name="f32", codec=_plugins.load("codecs", "f32", "CODEC")(),
                teachers=[], parameters=section,
            )  # fmt: skip


def test_fidelity_of_features_is_of_the_values() -> None:
    """By hand: one label off by (0, 2), the other all zero and kept."""
    before = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    after = torch.tensor([[[3.0, 2.0]], [[0.0, 0.0]]])

    assert {"relative_rms": 0.4, "cosine": pytest.approx((17 / (5 * 13**0.5) + 1) / 2)} == fidelity(
        before, after, "feature"
    )
    assert {"relative_rms": 0.0, "cosine": 1.0} == fidelity(before * 0, before * 0, "feature")


@pytest.mark.parametrize("kind", PRIVILEGED)
def test_options_of_a_kind_are_those_of_the_objective_and_of_what_is_taken(kind: str) -> None:
    """Whoever trains finds all of `Objective` in the section."""
    names = {field.name for field in dataclasses.fields(_plugins.load("labels", kind, "KIND"))}
    own = {"layer", "keep", "source"} | ({"attention", "pool"} if kind == "attention" else set())

    assert names == own | {field.name for field in dataclasses.fields(Objective)}
