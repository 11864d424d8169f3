"""`augment-labels --kind feature|attention` through the command line, against the teacher's layers asked directly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.config import AugmentLabelsConfig, RefineConfig
from ddlabel.distilled import read_distilled
from ddlabel.errors import UsageError
from ddlabel.labels._privileged import objective_of, read_privileged
from ddlabel.privileged._objective import fit_norm
from ddlabel.stages.augment_labels import run
from ddlabel.stages.refine import run as refine
from ddlabel.teachers import Teacher


@pytest.fixture(scope="module")
def deep(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nets of two layers that kept epochs 1 and 2."""
    path = tmp_path_factory.mktemp("deep") / "t.ddset"
    outcome = run_cli(
        "train-teacher", "--data", files.data, "--arch", "convnet-d2-w8-bn", "--experts", "2", "--epochs", "2",
        "--keep", "1,2", "--set", "lr=0.1", "--set", "batch=16", "--validation", "0", "-o", path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return path


def maps_of(path: Path, which: str, layer: int, images: torch.Tensor) -> torch.Tensor:
    """(K, n, c, h, w) by the nets in eval mode, layer by layer."""
    teacher = Teacher(Bundle.open(path))
    with torch.inference_mode():
        return torch.stack(
            [teacher.net(chosen).features_by_layer(images)[layer - 1] for chosen in teacher.select(which)]
        )


def test_a_feature_label_is_what_the_last_layer_gave_after_the_first_epoch(run_cli, files, deep, tmp_path) -> None:
    """By default; two nets store their mean, and the history holds the epoch that was taken."""
    out = tmp_path / "f.ddset"
    outcome = run_cli("augment-labels", files.base, "--teacher", deep, "--kind", "feature", "--codec", "f32", "-o", out)
    assert outcome.code == 0, outcome.err
    bundle = Bundle.open(out)
    read, images = read_privileged(bundle, "feature"), read_distilled(bundle).images
    maps = maps_of(deep, "1", 2, images)
    entry, stored = bundle.manifest.history[-1], bundle.manifest.storage["sections"]

    torch.testing.assert_close(read.values, maps.mean(0)[:, None])
    assert ((8, 2, 2), 2, "convnet-d2-w8-batch") == (read.form.shape, read.form.layer, read.form.arch)
    assert ("1", ["teacher.0.1,teacher.1.1"]) == (entry["config"]["checkpoint"], entry["config"]["checkpoints"])
    assert "assigned" == read.parameters["mode"]
    assert [1, 1] == [said["epoch"] for said in entry["metrics"]["labellers"]]
    assert {"labels": stored["labels.feature"]["stored"] / 12, "image": stored["images"]["stored"] / 12} == {
        name: entry["metrics"]["bytes_per_image"][name] for name in ("labels", "image")
    }
    assert entry["metrics"]["flops"]["labelling"] > 0
    assert [Bundle.open(deep).content] == read.section.teacher


@pytest.mark.parametrize("layer", [1, 2])
def test_attention_pools_the_mean_of_nets_or_every_one_of_them(files, deep: Path, layer: int) -> None:
    """Mean first, then the maximum; `keep=all` pools each."""
    base, settings = Bundle.open(files.base), {"attention": "channel", "pool": "max", "layer": str(layer)}
    config = AugmentLabelsConfig(kind="attention", checkpoint="all", codec="f32")
    mean, every = (
        read_privileged(run(base, config, {**settings, "keep": keep}, teachers=[Bundle.open(deep)]), "attention")
        for keep in ("mean", "all")
    )
    maps = maps_of(deep, "all", layer, read_distilled(base).images)

    torch.testing.assert_close(mean.values[:, 0], maps.mean(0).amax((2, 3), keepdim=True))
    torch.testing.assert_close(every.values, maps.amax((3, 4), keepdim=True).transpose(0, 1))
    assert (1, 4) == (mean.values.shape[1], every.values.shape[1])


def test_noise_is_drawn_from_the_seed_in_the_form_of_the_teachers_net(files, deep: Path) -> None:
    """N(0, 1) also where one label is kept of several nets; nobody labelled."""
    base, teachers = Bundle.open(files.base), [Bundle.open(deep)]
    made = [
        run(
            base,
            AugmentLabelsConfig(kind="feature", codec="f32", seed=seed),
            {"source": "noise", **more},
            teachers=teachers,
        )
        for seed, more in ((0, {}), (0, {}), (1, {}), (0, {"keep": "all"}))
    ]
    read = [read_privileged(bundle, "feature") for bundle in made]

    assert torch.equal(read[0].values, read[1].values)
    assert not torch.equal(read[0].values, read[2].values)
    assert [1, 1, 1, 2] == [labels.values.shape[1] for labels in read]
    assert 0.9 < float(read[0].values.std()) < 1.1
    assert ("noise", []) == (read[0].parameters["mode"], read[0].section.teacher)
    assert 0 == made[0].manifest.history[-1]["metrics"]["flops"]["labelling"]


def test_what_training_takes_is_stored_with_the_labels(files, deep: Path) -> None:
    """`--set` of the objective, and the norm of zscore."""
    settings = {"lambda_reg": "2", "norm": "zscore", "infonce": "0.05"}
    bundle = run(
        Bundle.open(files.base), AugmentLabelsConfig(kind="feature", codec="q8"), settings, teachers=[Bundle.open(deep)]
    )
    read = read_privileged(bundle, "feature")
    maps = maps_of(deep, "1", 2, read_distilled(bundle).images).mean(0)[:, None]
    objective = objective_of(read.parameters)

    assert (2.0, "zscore", 0.05) == (objective.lambda_reg, objective.norm, objective.infonce)
    assert read.norm is not None
    torch.testing.assert_close(fit_norm(maps).scale, read.norm.scale)


REFUSED = [
    (["--set", "layer=3"], "no layer '3', expected 'last' or one of 1: 8 x 4 x 4, 2: 8 x 2 x 2"),
    (["--set", "pool=max"], "option 'pool' pools a feature, which --kind attention does"),
    (["--set", "keep=none"], "option 'keep' is 'none', expected one of mean, all"),
    (["--set", "lambda_reg=-1"], "option 'lambda_reg' is -1"),
    (["--set", "k=0"], "unknown option 'k'"),
    (["--codec", "auto"], "use --codec f16, or another of bf16"),
    (["--codec", "klt"], "codec 'klt' is for distributions"),
    (["--codec", "prune"], "codec 'prune' leaves labels out"),
    (["--grid", "3"], "'--grid' is for class labels, --kind is 'feature'"),
    (["--ensemble", "equal-norm"], "'--ensemble' is for class labels"),
    (["--checkpoint", "auto"], "'--checkpoint auto' is for class labels"),
    (["--checkpoint", "3"], "one of the kept epochs 1, 2"),
    (["--checkpoint", "ipc"], "no held-out accuracies to choose a checkpoint by"),
    (["--max-kl", "0.1"], "option 'max-kl' is for '--codec auto'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_is_refused_with_what_can(run_cli, files, deep: Path, tmp_path, options, message) -> None:
    """Exit 2, and nothing is written."""
    out = tmp_path / "f.ddset"
    outcome = run_cli("augment-labels", files.base, "--teacher", deep, "--kind", "feature", *options, "-o", out)

    assert 2 == outcome.code
    assert message in outcome.err
    assert not out.exists()


def test_a_teacher_without_epoch_1_is_refused_with_what_to_type(run_cli, files, deep: Path, tmp_path: Path) -> None:
    """Unless an epoch is named; nets of two architectures are never one label."""
    late, out = tmp_path / "late.ddset", tmp_path / "f.ddset"
    run_cli(
        "train-teacher", "--data", files.data, "--arch", "convnet-d1-w8", "--epochs", "2", "--keep", "2", "-o", late
    )
    command = ["augment-labels", files.base, "--teacher", late, "--kind", "attention", "-o", out]
    refused, mixed = run_cli(*command), run_cli(*command, "--teacher", deep, "--checkpoint", "last")
    taken = run_cli(*command, "--checkpoint", "last")

    assert (2, 2, 0) == (refused.code, mixed.code, taken.code), taken.err
    assert "late.ddset kept 2; train the teacher with --keep 1,..., or say --checkpoint last" in refused.err
    assert "cannot be one label, expected one architecture" in mixed.err


def test_a_teacher_of_another_input_space_is_refused(run_cli, files, tmp_path: Path) -> None:
    """Exit 3: features of whitened images are others."""
    whitened = tmp_path / "z.ddset"
    outcome = run_cli(
        "train-teacher",
        "--data",
        files.data,
        "--arch",
        "convnet-d1-w8",
        "--epochs",
        "1",
        "--space",
        "zca",
        "-o",
        whitened,
    )
    assert 0 == outcome.code, outcome.err
    refused = run_cli(
        "augment-labels", files.base, "--teacher", whitened, "--kind", "feature", "-o", tmp_path / "f.ddset"
    )

    assert 3 == refused.code
    assert "disagree on 'space.kind'" in refused.err


def test_features_that_are_not_finite_are_refused_by_image(run_cli, files, deep: Path, tmp_path: Path) -> None:
    """Exit 5, naming image and element."""
    from ddlabel.bundle import NewSection, StageRecord

    teacher = Bundle.open(deep)
    old = teacher.section("teacher.0.1")
    tensors = {name: teacher.tensor(name) for name in old.tensors}
    weight = next(name for name in tensors if tensors[name].dim() == 4)
    tensors[weight] = tensors[weight] * float("inf")
    section = NewSection(old.name, "teacher", tensors, parameters=old.parameters)
    record = StageRecord("train-teacher", {}, 0, [], {}, 0.0, 0.0, {})
    teacher.with_stage(record, add=[section]).save(tmp_path / "broken.ddset")
    outcome = run_cli(
        "augment-labels", files.base, "--teacher", tmp_path / "broken.ddset", "--kind", "feature",
        "-o", tmp_path / "f.ddset",
    )  # fmt: skip

    assert 5 == outcome.code
    assert "'labels.feature', image 0, label 0 is not finite: element (0, 0, 0)" in outcome.err


def test_labels_are_added_beside_others_and_replace_their_own_kind(run_cli, files, deep: Path, tmp_path: Path) -> None:
    """Soft and feature labels in one bundle; the images stay; `inspect --verify` passes."""
    first, second = tmp_path / "1.ddset", tmp_path / "2.ddset"
    command = ["augment-labels", "--teacher", deep, "--kind", "feature"]
    run_cli(*command, files.soft, "-o", first)
    run_cli(*command, first, "--set", "layer=1", "--codec", "f16", "-o", second)
    bundle = Bundle.open(second)

    assert ["feature", "hard", "soft"] == sorted(section.role or "" for section in bundle.sections("labels"))
    assert (8, 4, 4) == read_privileged(bundle, "feature").form.shape
    assert 0 == run_cli("inspect", second, "--verify").code


def test_labels_are_recoded_and_nothing_else_changes(files, deep: Path) -> None:
    """To eight bits: within half a step and what float16 rounds, with every parameter and the norm kept."""
    teachers = [Bundle.open(deep)]
    first = run(
        Bundle.open(files.base), AugmentLabelsConfig(kind="feature", codec="f32"), {"norm": "zscore"}, teachers=teachers
    )
    second = refine(first, RefineConfig(method="recode", labels="feature", codec="q8"))
    before, after = read_privileged(first, "feature"), read_privileged(second, "feature")
    rows = before.values.flatten(2)
    step = (rows.amax(2) - rows.amin(2)) / 255

    assert bool(((after.values.flatten(2) - rows).abs().amax(2) <= step / 2 + rows.abs().amax(2) * 2.0**-10).all())
    assert before.parameters == after.parameters
    assert before.section.teacher == after.section.teacher
    assert before.norm is not None
    assert after.norm is not None
    assert torch.equal(before.norm.scale, after.norm.scale)
    sections = second.manifest.storage["sections"]
    assert sections["labels.feature"]["stored"] < first.manifest.storage["sections"]["labels.feature"]["stored"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RefineConfig(method="gift", labels="feature"), "for labels over classes"),
        (RefineConfig(method="recode", labels="feature", codec="auto", max_kl=0.1), "divergence of distributions"),
        (RefineConfig(method="recode", labels="feature", codec="topk-mr"), "distributions over classes"),
    ],
)
def test_labels_that_are_no_distributions_are_not_refined_as_such(files, deep: Path, config, message: str) -> None:
    """GIFT, codecs chosen by their divergence, and codecs of distributions."""
    bundle = run(
        Bundle.open(files.base), AugmentLabelsConfig(kind="feature", codec="f32"), {}, teachers=[Bundle.open(deep)]
    )

    with pytest.raises(UsageError, match=message):
        refine(bundle, config)
