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
    expected = expected.unflatten(0, (12, 9))
    error = (labels.values - expected).abs().amax(dim=-1).double()

    assert tuple(labels.values.shape) == (12, 9, 4)
    assert bool((error <= Q8().tolerance(expected) + 1e-5).all())
    assert {"grid": 3, "ratio": "1/2", "resize": "bilinear", "size": 8}.items() <= labels.parameters.items()


def test_several_teachers_and_checkpoints_are_averaged_over_logits(run_cli, files, tmp_path: Path) -> None:
    """`--checkpoint all` is the mean of every kept epoch."""
    label = ("augment-labels", files.base, "--teacher", files.teacher, "--self-test", "0")
    outcome = run_cli(*label, "--checkpoint", "all", "-o", tmp_path / "l.ddset")
    parts = []
    for epoch in ("1", "4"):
        path = tmp_path / f"{epoch}.ddset"
        run_cli(*label, "--checkpoint", epoch, "-o", path)
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


@pytest.mark.fault(71)
def test_fault_71_a_teacher_of_other_classes_is_refused(run_cli, files, tmp_path: Path) -> None:
    """Exit 3, both files and the field named."""
    other = tmp_path / "digits.ddset"
    run_cli("train-teacher", "--data", "digits", "--size", "8", "--arch", "mlp", "--epochs", "1", "-o", other)
    outcome = run_cli("augment-labels", files.base, "--teacher", other, "-o", tmp_path / "l.ddset")

    assert outcome.code == 3
    assert "disagree on 'classes'" in outcome.err


@pytest.mark.fault(67)
def test_fault_67_windows_that_do_not_fit_are_refused(run_cli, files, tmp_path: Path) -> None:
    """A grid larger than the image, a ratio of 0 or above 1."""
    labels = ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "dense", "-o", tmp_path / "l.ddset")
    grid, zero, above = (run_cli(*labels, *more) for more in (("--grid", "9"), ("--ratio", "0/1"), ("--ratio", "9/8")))

    assert (grid.code, zero.code, above.code) == (2, 2, 2)
    assert "do not fit images of 8 px" in grid.err
    assert "expected a fraction P/Q in (0, 1]" in zero.err


def test_auto_takes_the_smallest_codec_within_the_divergence(run_cli, files, tmp_path: Path) -> None:
    """A loose bound buys fewer bytes; the history says what the candidates would have cost."""
    chosen = {}
    for bound in ("0", "0.01", "0.5"):
        path = tmp_path / f"{bound}.ddset"
        recode = ("refine", files.dense, "--method", "recode", "--codec", "auto", "--max-kl", bound)
        outcome = run_cli(*recode, "-o", path)

        assert outcome.code == 0, outcome.err
        bundle = Bundle.open(path)
        entry = bundle.manifest.history[-1]
        table = entry["metrics"]["candidates"]
        fitting = [row for row in table if row["kl_t1"] <= float(bound)]
        chosen[bound] = min(row["bytes"] for row in fitting)
        spent = sum(tensor["bytes"] for tensor in bundle.section("labels.dense").tensors.values())

        assert chosen[bound] == spent
        assert bundle.section("labels.dense").record["fidelity"]["kl_t1"] <= float(bound) + 1e-9
        assert entry["config"]["codec"] == bundle.section("labels.dense").record["codec"]["name"]
        assert "f32" in {row["codec"] for row in table}
    assert chosen["0"] >= chosen["0.01"] >= chosen["0.5"]


def test_auto_works_while_labelling(run_cli, files, tmp_path: Path) -> None:
    """The same choice, before the labels are stored the first time."""
    outcome = run_cli(
        "augment-labels", files.base, "--teacher", files.teacher, "--codec", "auto", "-o", tmp_path / "l.ddset"
    )

    assert outcome.code == 0, outcome.err
    assert read_labels(Bundle.open(tmp_path / "l.ddset"), "soft").domain == "logit"


@pytest.mark.parametrize("command", ["refine", "augment-labels"])
def test_a_bound_without_a_choice_is_refused(run_cli, files, tmp_path: Path, command: str) -> None:
    """It would be ignored."""
    extra = ("--method", "recode") if command == "refine" else ("--teacher", files.teacher)
    file = files.soft if command == "refine" else files.base
    outcome = run_cli(command, file, *extra, "--codec", "q8", "--max-kl", "0.1", "-o", tmp_path / "l.ddset")

    assert outcome.code == 2
    assert "option 'max-kl' is for '--codec auto', the codec is 'q8'" in outcome.err


def test_softmax_only_codecs_change_the_domain_and_refuse_refinement(run_cli, files, tmp_path: Path) -> None:
    """Kept values without their offset are log-probabilities, whatever they were."""
    path = tmp_path / "mr.ddset"
    recode = ("refine", files.dense, "--method", "recode", "--codec", "topk-mr", "--set", "k=2")
    outcome = run_cli(*recode, "-o", path)
    again = run_cli("refine", path, "--method", "gift", "-o", tmp_path / "g.ddset")

    assert outcome.code == 0, outcome.err
    assert read_labels(Bundle.open(path), "dense").domain == "logprob"
    assert again.code == 2
    assert "holds 'logprob' labels" in again.err


def test_impossible_options_say_what_is_possible(run_cli, files, tmp_path: Path) -> None:
    """More classes than there are."""
    recode = ("refine", files.dense, "--method", "recode", "--codec", "topk-ms", "--set", "k=20")
    outcome = run_cli(*recode, "-o", tmp_path / "l.ddset")

    assert outcome.code == 2
    assert "k is 20 for labels of 4 classes, expected k from 1 to 3" in outcome.err


def test_pruned_labels_keep_their_views(run_cli, files, tmp_path: Path) -> None:
    """A third of nine windows, the same ones after another inner codec; other codecs have no labels for the rest."""
    pruned, smaller = tmp_path / "p.ddset", tmp_path / "s.ddset"
    prune = ("--method", "recode", "--codec", "prune")
    first = run_cli("refine", files.dense, *prune, "--set", "keep=0.34", "-o", pruned)
    second = run_cli("refine", pruned, *prune, "--set", "keep=0.34", "--set", "values=q4", "-o", smaller)
    other = run_cli("refine", pruned, "--method", "recode", "--codec", "f32", "-o", tmp_path / "o.ddset")
    draws = run_cli("refine", pruned, *prune, "--set", "keep=0.34", "--set", "seed=1", "-o", tmp_path / "d.ddset")
    refined = run_cli("refine", pruned, "--method", "gift", "-o", tmp_path / "g.ddset")

    assert (first.code, second.code, refined.code) == (0, 0, 0), first.err + second.err + refined.err
    whole, part = read_labels(Bundle.open(files.dense), "dense"), read_labels(Bundle.open(pruned), "dense")
    assert part.view_ids is not None
    assert (12, 3) == tuple(part.view_ids.shape)
    expected = whole.values.gather(1, part.view_ids[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(part.values, expected, atol=0.01, rtol=0)
    for path in (smaller, tmp_path / "g.ddset"):
        assert torch.equal(part.view_ids, read_labels(Bundle.open(path), "dense").view_ids)
    assert Bundle.open(pruned).section("labels.dense").views == 3
    assert Bundle.open(pruned).section("labels.dense").record["codec"]["parameters"]["total"] == 9
    for refused in (other, draws):
        assert refused.code == 2
        assert "holds pruned labels" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "TEACHER", "--teacher", "TEACHER"], "a teacher is given twice"),
        (["--teacher", "TEACHER", "--data", "digits", "--self-test", "0"], "--data is for --checkpoint auto"),
        (["--teacher", "TEACHER", "--data", "digits", "--kind", "feature"], "--data is for --checkpoint auto"),
        (["--teacher", "TEACHER", "--grid", "3"], "--grid is for --kind dense, --kind is 'soft'"),
    ],
)
def test_options_without_effect_are_refused(run_cli, files, tmp_path: Path, arguments, message: str) -> None:
    """Before any work."""
    words = [files.teacher if word == "TEACHER" else word for word in arguments]
    outcome = run_cli("augment-labels", files.base, *words, "-o", tmp_path / "s.ddset")

    assert 2 == outcome.code
    assert message in outcome.err
