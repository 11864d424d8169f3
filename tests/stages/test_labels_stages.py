"""`augment-labels` and `refine` through the command line; label values against the teacher asked directly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.codecs.q8 import CODEC as Q8
from ddlabel.distilled import read_distilled
from ddlabel.labels._labels import read_labels
from ddlabel.labels.dense import KIND as Dense
from ddlabel.refinement import refine_labels
from ddlabel.teachers import Teacher


def test_soft_labels_are_the_teachers_logits_of_the_stored_images(files) -> None:
    """Labels belong to the images as they are decoded later."""
    bundle, teacher = Bundle.open(files.soft), Teacher(Bundle.open(files.teacher))
    distilled, labels = read_distilled(bundle), read_labels(bundle, "soft")
    with torch.inference_mode():
        expected = teacher.net(teacher.select("last")[0])(distilled.images)

    torch.testing.assert_close(labels.values[:, 0], expected)
    assert (labels.domain, labels.values.shape[1]) == ("logit", 1)
    assert [teacher.bundle.content] == labels.section.teacher


def test_dense_labels_are_the_logits_of_every_window_within_the_codecs_bound(all_views, files) -> None:
    """View j of image i is window j, row by row."""
    bundle, teacher = Bundle.open(files.dense), Teacher(Bundle.open(files.teacher))
    distilled, labels = read_distilled(bundle), read_labels(bundle, "dense")
    views = all_views(Dense(grid=3, ratio="1/2"), distilled.images)
    with torch.inference_mode():
        expected = teacher.net(teacher.select("last")[0])(views.flatten(0, 1))
    error = (labels.values.flatten(0, 1) - expected).abs().amax(dim=1).double()

    assert tuple(labels.values.shape) == (12, 9, 4)
    assert bool((error <= Q8().tolerance(expected) + 1e-5).all())
    assert dict(labels.parameters) == {"grid": 3, "ratio": "1/2", "resize": "bilinear", "size": 8}


def test_several_teachers_and_checkpoints_are_averaged_over_logits(run_cli, files, tmp_path: Path) -> None:
    """`--checkpoint all` is the mean of every kept epoch."""
    outcome = run_cli(
        "augment-labels", files.base, "--teacher", files.teacher, "--checkpoint", "all", "-o", tmp_path / "l.ddset"
    )
    parts = []
    for epoch in ("1", "4"):
        path = tmp_path / f"{epoch}.ddset"
        run_cli("augment-labels", files.base, "--teacher", files.teacher, "--checkpoint", epoch, "-o", path)
        parts.append(read_labels(Bundle.open(path), "soft").values)

    assert outcome.code == 0, outcome.err
    torch.testing.assert_close(read_labels(Bundle.open(tmp_path / "l.ddset"), "soft").values, sum(parts) / 2)


def test_fidelity_and_bytes_of_a_codec_are_stored(files) -> None:
    """The report of a lossy codec is not perfect, and smaller than float32."""
    bundle = Bundle.open(files.dense)
    record = bundle.section("labels.dense").record
    report = bundle.manifest.storage["sections"]["labels.dense"]

    assert 0 < record["fidelity"]["kl_t1"] < 0.01
    assert {"kl_t1", "kl_t20", "cosine", "top1_agreement"} <= set(record["fidelity"])
    assert report["stored"] < report["raw"]
    assert {"codec.q8", "labels.dense"} <= set(bundle.manifest.requires)
    assert bundle.manifest.storage["overhead"]["ladd_zip"] > 0


def test_refined_labels_are_gifts_mixture_of_the_stored_ones(files) -> None:
    """Deterministic, L2-normalised, every view with the class of its image."""
    before, after = read_labels(Bundle.open(files.dense), "dense"), read_labels(Bundle.open(files.gift), "dense")
    hard = read_distilled(Bundle.open(files.gift)).labels
    expected = refine_labels(before.values.flatten(0, 1), hard.repeat_interleave(9), alpha=0.1, gamma=0.1, form="paper")

    assert after.domain == "unit"
    assert expected.norm(dim=1).sub(1).abs().max().round(decimals=5) == 0
    assert float((after.values.flatten(0, 1) - expected).abs().max()) < 0.01
    assert (after.refined or {})["method"] == "gift"


def test_refining_twice_is_refused(run_cli, files, tmp_path: Path) -> None:
    """Refinement is not idempotent, so a second one is a mistake."""
    outcome = run_cli("refine", files.gift, "--method", "gift", "-o", tmp_path / "g.ddset")

    assert outcome.code == 2
    assert "was refined before" in outcome.err


def test_refining_hard_labels_says_what_to_run(run_cli, files, tmp_path: Path) -> None:
    """Exit 3."""
    outcome = run_cli("refine", files.base, "--method", "gift", "-o", tmp_path / "g.ddset")

    assert outcome.code == 3
    assert "run 'ddlabel augment-labels' first" in outcome.err


def test_recode_changes_bytes_and_not_labels(run_cli, files, tmp_path: Path) -> None:
    """From float32 to float16 and back to what float16 holds."""
    run_cli("refine", files.soft, "--method", "recode", "--codec", "f16", "-o", tmp_path / "h.ddset")
    half = Bundle.open(tmp_path / "h.ddset")
    before = read_labels(Bundle.open(files.soft), "soft").values

    assert torch.equal(before.half().float(), read_labels(half, "soft").values)
    assert (half.section("labels.soft").codec or {})["name"] == "f16"


def test_stale_labels_are_refused(files, tmp_path: Path) -> None:
    """Labels of images that were replaced cannot be used."""
    from ddlabel.bundle import StageRecord
    from ddlabel.distilled import image_section
    from ddlabel.errors import BundleError

    bundle = Bundle.open(files.soft)
    other = 255 - bundle.tensor("images.pixels")
    changed = bundle.with_stage(
        StageRecord("distill", {}, 0, [bundle], {}, 0.0, 0.0, {}),
        add=[image_section(other, read_distilled(bundle).space)],
    )
    with pytest.raises(BundleError, match="stale"):
        read_labels(changed, "soft")
    assert changed.section("labels.soft").stale


def test_fault_71_a_teacher_of_other_classes_is_refused(run_cli, files, tmp_path: Path) -> None:
    """Exit 3, both files and the field named."""
    other = tmp_path / "digits.ddset"
    run_cli("train-teacher", "--data", "digits", "--size", "8", "--arch", "mlp", "--epochs", "1", "-o", other)
    outcome = run_cli("augment-labels", files.base, "--teacher", other, "-o", tmp_path / "l.ddset")

    assert outcome.code == 3
    assert "disagree on 'classes'" in outcome.err


def test_fault_67_windows_that_do_not_fit_are_refused(run_cli, files, tmp_path: Path) -> None:
    """A grid larger than the image, a ratio of 0 or above 1."""
    labels = ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "dense", "-o", tmp_path / "l.ddset")
    grid, zero, above = (run_cli(*labels, *more) for more in (("--grid", "9"), ("--ratio", "0/1"), ("--ratio", "9/8")))

    assert (grid.code, zero.code, above.code) == (2, 2, 2)
    assert "do not fit images of 8 px" in grid.err
    assert "expected a fraction P/Q in (0, 1]" in zero.err
