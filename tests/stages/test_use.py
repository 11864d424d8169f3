"""`evaluate` with feature and attention labels: rows, bytes, bits, adapters, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle, StageRecord
from ddlabel.config import DistillConfig
from ddlabel.distilled import read_distilled
from ddlabel.errors import BundleError, UsageError
from ddlabel.labels._privileged import PrivilegedSet, read_privileged
from ddlabel.options import as_dict
from ddlabel.privileged._form import Form, make_form
from ddlabel.privileged._objective import Objective
from ddlabel.privileged._scale import fresh_ratios
from ddlabel.stages import distill
from ddlabel.stages._baselines import check_plain, equal_bytes_ipc, relabel_features, spent_bytes
from ddlabel.stages._label_kinds import parse_labels
from ddlabel.stages._stage import computing
from ddlabel.stages._trials import add_differences, list_trials
from ddlabel.stages._use import Use, resolve_use
from ddlabel.stages._use_options import UseOptions, read_options

NET = "convnet-d1-w8"
QUICK = ("--arch", NET, "--epochs", "2", "--seeds", "2", "--json")


def form(attention: str | None = None, pool: str = "avg") -> Form:
    return make_form(NET, channels=3, size=8, classes=4, layer="last", attention=attention, pool=pool)


@pytest.fixture(scope="module")
def made(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Feature labels beside hard, soft, dense and refined labels; attention labels; two per image; noise."""
    folder = tmp_path_factory.mktemp("features")
    options = {
        "base": (),
        "soft": ("--set", "lambda_reg=2"),
        "dense": (),
        "gift": (),
        "attention": ("--kind", "attention"),
        "two": ("--checkpoint", "all", "--set", "keep=all", "--set", "norm=zscore"),
        "noise": ("--set", "source=noise"),
    }
    paths = {name: folder / f"{name}.ddset" for name in options}
    for name, chosen in options.items():
        outcome = run_cli(
            "augment-labels", getattr(files, name, files.base), "--teacher", files.teacher, "--kind", "feature",
            "--codec", "f32" if name == "two" else "f16", *chosen, "-o", paths[name],
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    return paths


def evaluate(run_cli, path: Path, files, *arguments: str | Path) -> dict:
    outcome = run_cli("evaluate", path, "--data", files.data, *QUICK, *arguments)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["evaluation"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("feature", ("hard", "feature")),
        ("soft+feature", ("soft", "feature")),
        ("attention + dense", ("dense", "attention")),
        ("fkd", ("fkd", None)),
    ],
)
def test_label_kinds_are_joined_by_plus(files, text: str, kinds) -> None:
    """In either order; hard when no class labels are named."""
    assert kinds == parse_labels(text, Bundle.open(files.base))


def test_all_problems_of_labels_are_said_at_once(files) -> None:
    """Unknown, twice, two of one sort."""
    with pytest.raises(UsageError) as caught:
        parse_labels("feature+attention+sotf+hard+soft+feature", Bundle.open(files.base))

    assert ["did you mean 'soft'", "'feature' twice", "feature and attention", "hard and soft"] == [
        next(
            part
            for part in ("did you mean 'soft'", "'feature' twice", "feature and attention", "hard and soft")
            if part in each
        )
        for each in caught.value.problems
    ]


def test_rows_without_the_labels_and_of_equal_bytes_always_come() -> None:
    """With each loss; further baselines as asked; learned labels are not made for random images."""
    rows = [
        (trial.images, trial.label_kinds, trial.loss)
        for trial in list_trials(
            "soft", ("softce", "kl"), [{}], baselines=True, equal_bytes=True, privileged="feature", assigned=True
        )
    ]
    least = list(list_trials("hard", ("ce",), [{}], baselines=False, equal_bytes=False, privileged="feature"))

    assert rows == [
        ("bundle", "soft+feature", "softce"),
        ("bundle", "soft+feature", "kl"),
        ("bundle", "soft", "softce"),
        ("bundle", "soft", "kl"),
        ("random", "hard", "ce"),
        ("random", "soft", "softce"),
        ("random", "soft", "kl"),
        ("random", "soft+feature", "softce"),
        ("random", "soft+feature", "kl"),
        ("random-equal-bytes", "hard", "ce"),
        ("plain-equal-bytes", "hard", "ce"),
    ]
    assert ["hard+feature", "hard", "hard"] == [trial.label_kinds for trial in least]


def test_what_the_labels_add_is_a_paired_difference() -> None:
    """Loss by loss; baselines are compared with the bundle under these labels."""

    def row(images: str, labels: str, loss: str, accuracy: float) -> dict:
        recipe = {"optimizer": "sgd", "lr": 0.1}
        return {
            "arch": "mlp", "images": images, "labels": labels, "loss": {"name": loss}, "recipe": recipe,
            "accuracy": {"values": [accuracy]},
        }  # fmt: skip

    results = [
        row("bundle", "soft+feature", "softce", 0.5),
        row("bundle", "soft+feature", "kl", 0.4),
        row("bundle", "soft", "softce", 0.3),
        row("bundle", "soft", "kl", 0.6),
        row("random-equal-bytes", "hard", "ce", 0.1),
    ]
    add_differences(results)

    assert "privileged_minus_this" not in results[0]
    assert pytest.approx(0.1) == results[1]["first_loss_minus_this"]["mean"]
    assert pytest.approx(0.2) == results[2]["privileged_minus_this"]["mean"]
    assert pytest.approx(-0.2) == results[3]["privileged_minus_this"]["mean"]
    assert pytest.approx(0.4) == results[4]["bundle_minus_this"]["mean"]


def test_t4_weight_zero_scores_as_plain_training(run_cli, files, made) -> None:
    """Row by row, in every net, with an adapter and draws among several labels."""
    evaluation = evaluate(
        run_cli, made["two"], files, "--arch", f"{NET},convnet-d1-w4,mlp", "--set", "lambda_reg=0",
        "--set", "k_use=random",
    )  # fmt: skip
    rows = {(row["arch"], row["labels"]): row["accuracy"] for row in evaluation["results"] if row["images"] == "bundle"}

    assert 6 == len(rows)
    for arch, labels in rows:
        assert rows[arch, labels] == rows[arch, "hard"]


def test_an_evaluation_says_which_labels_it_used_and_how(run_cli, files, made) -> None:
    """The bundle's own weight unless another is given; adapters are reported and cost no bytes."""
    evaluation = evaluate(run_cli, made["soft"], files, "--arch", "convnet-d1-w4")
    lupi, plain, random = evaluation["results"]
    bundle = Bundle.open(made["soft"])
    feature = sum(record["bytes"] for record in bundle.section("labels.feature").tensors.values())

    assert "soft+feature" == evaluation["labels"] == lupi["labels"]
    assert ("feature", "assigned", 2.0, "auto", "f16") == (
        evaluation["privileged"]["kind"],
        evaluation["privileged"]["mode"],
        evaluation["privileged"]["objective"]["lambda_reg"],
        evaluation["privileged"]["adapter"],
        evaluation["privileged"]["codec"]["name"],
    )
    assert ("learned", 4 * 8 + 8, 2) == (
        lupi["features"]["adapter"],
        lupi["features"]["adapter_parameters"],
        len(lupi["features"]["mse"]),
    )
    assert lupi["stored_bytes"] == plain["stored_bytes"] + feature
    assert random["stored_bytes"] >= lupi["stored_bytes"]
    assert lupi["samples_seen"] == plain["samples_seen"] == random["samples_seen"]
    given = evaluate(run_cli, made["soft"], files, "--set", "lambda_reg=0.25", "--labels", "feature")
    assert 0.25 == given["privileged"]["objective"]["lambda_reg"]
    assert "hard+feature" == given["labels"]


@pytest.mark.parametrize(
    ("name", "arguments", "loss"),
    [
        ("gift", ["--loss", "ladd", "--set", "label_aug=hflip"], "ladd"),
        ("dense", ["--set", "estimator=balanced", "--set", "as=channel"], "ladd"),
        ("soft", ["--loss", "gift"], "gift"),
        ("attention", ["--set", "adapter=orthogonal"], "ce"),
        ("two", ["--set", "as=spatial", "--set", "infonce=0"], "ce"),
    ],
)
def test_they_combine_with_every_kind_of_class_labels(run_cli, files, made, name, arguments, loss: str) -> None:
    """Refined, dense and soft ones, in one run; whole features pooled late."""
    evaluation = evaluate(run_cli, made[name], files, "--arch", "convnet-d2-w4", *arguments)

    assert loss == evaluation["results"][0]["loss"]["name"]
    assert "privileged" in evaluation
    assert 3 == len(evaluation["results"])


def test_gift_refined_soft_labels_combine(run_cli, files, made, tmp_path: Path) -> None:
    """Refined unit labels under the GIFT loss, with features."""
    refined = run_cli("refine", made["soft"], "--method", "gift", "--labels", "soft", "-o", tmp_path / "g.ddset")
    evaluation = evaluate(run_cli, tmp_path / "g.ddset", files, "--labels", "soft+feature")

    assert 0 == refined.code, refined.err
    assert "gift" == evaluation["results"][0]["loss"]["name"] == evaluation["refined"]["method"]


def test_random_images_get_assigned_features_by_the_same_teacher(run_cli, files, made) -> None:
    """The bundle's own images, labelled as if they were random ones, have its labels; drawn labels have no teacher."""
    for name, kind in (("base", "feature"), ("attention", "attention"), ("two", "feature")):
        bundle, teacher = Bundle.open(made[name]), Bundle.open(files.teacher)
        stored = resolve_use(bundle, kind, {}).stored
        with computing("cpu", 0) as clock:
            again = relabel_features(bundle, stored, read_distilled(bundle), [teacher], clock)
        assert torch.equal(stored.values, again.values)
    rows = evaluate(run_cli, made["base"], files, "--baselines", "--teacher", files.teacher)["results"]
    noise = evaluate(run_cli, made["noise"], files, "--baselines")["results"]

    assert ["hard+feature", "hard", "hard", "hard+feature", "hard"] == [row["labels"] for row in rows]
    assert ["hard+feature", "hard", "hard", "hard"] == [row["labels"] for row in noise]


def use_of(values: torch.Tensor, of: Form, *, k_use: str = "mean", pooled: str | None = None) -> Use:
    stored = PrivilegedSet("feature", values, of, None, {"mode": "learned"}, section=None)  # type: ignore[arg-type]
    return Use(stored=stored, objective=Objective(norm="zscore"), options=UseOptions(k_use=k_use), pooled=pooled)


@pytest.mark.parametrize("attention", ["spatial", "channel"])
def test_t10_pooling_late_is_storing_pooled_labels(attention: str) -> None:
    """Fact B: with the average, pooling and the mean over labels commute; with the maximum the mean comes first."""
    values = torch.randn(5, 3, 8, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for pool in ("avg", "max"):
        pooled = form(attention, pool)
        late = use_of(values, dataclasses.replace(form(), pool=pool), pooled=attention).labels
        early = torch.stack([pooled.reduce(values[:, k]) for k in range(3)], dim=1).mean(dim=1, keepdim=True)
        mean_first = pooled.reduce(values.mean(dim=1))[:, None]

        assert pooled == late.form
        torch.testing.assert_close(mean_first, late.values, rtol=1e-6, atol=1e-12)
        assert (pool == "avg") == torch.allclose(early, late.values, rtol=1e-6, atol=1e-12)
    assert (5, 3, 8, 4, 4) == tuple(use_of(values, form(), k_use="random").labels.values.shape)
    assert tuple(pooled.shape) == tuple(use_of(values, form(), pooled=attention).norm.mean.shape)


def test_bytes_of_both_labels_are_spent(made) -> None:
    """Class labels, feature labels and their norm."""
    bundle = Bundle.open(made["two"])
    feature = sum(record["bytes"] for record in bundle.section("labels.feature").tensors.values())

    assert any("norm" in name for name in bundle.section("labels.feature").tensors)
    assert spent_bytes(bundle, "hard") + feature == spent_bytes(bundle, "hard", "feature")
    plain = spent_bytes(bundle, "hard") / 12
    assert 4 * plain * (equal_bytes_ipc(bundle, "hard", 4, "feature") - 1) < spent_bytes(bundle, "hard", "feature")


@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    [
        ("base", ["--set", "lambda_reg=-1"], 2, "option 'lambda_reg' is -1"),
        ("base", ["--set", "lambda_rag=1"], 2, "did you mean 'lambda_reg'"),
        ("base", ["--set", "as=soft"], 2, "expected one of feature, spatial, channel"),
        ("attention", ["--set", "norm=l2"], 2, "norm works over channels"),
        ("base", ["--set", "as=spatial", "--set", "ce=0.1"], 2, "ce works over channels"),
        ("attention", ["--set", "as=channel"], 2, "only feature labels can be pooled late"),
        ("base", ["--set", "k_use=random"], 2, "holds one label per image"),
        ("base", ["--set", "lambda_mode=relative"], 2, "the weight that the labels were made for"),
        ("base", ["--set", "lambda_mode=relative", "--set", "lambda_reg=0"], 2, "expected --set lambda_reg=RATIO"),
        ("base", ["--set", "adapter=none", "--arch", "mlp"], 2, "use --set adapter=auto, or --arch convnet-d1-w8"),
        ("base", ["--set", "adapter=some"], 2, "expected one of auto, learned, orthogonal, none"),
        ("base", ["--labels", "hard", "--set", "lambda_reg=1"], 2, "is of feature and attention labels"),
        ("base", ["--labels", "attention"], 3, "no attention labels"),
        ("dense", ["--labels", "dense+feature", "--loss", "softce"], 2, "use --loss ladd"),
        ("base", ["--baselines"], 2, "labels random images like 'feature'"),
    ],
)
def test_what_cannot_work_is_refused_with_advice(run_cli, files, made, name, arguments, code, message: str) -> None:
    """Before any student is trained."""
    outcome = run_cli("evaluate", made[name], "--data", files.data, *QUICK, *arguments)

    assert code == outcome.code, outcome.err
    assert message in outcome.err


def test_auto_leaves_features_out_where_no_whole_image_is_seen_and_says_so(run_cli, files, made) -> None:
    """Dense labels under a loss on views alone; the rows of equal bytes point to more."""
    outcome = run_cli("evaluate", made["dense"], "--data", files.data, *QUICK, "--loss", "softce")
    said = run_cli(
        "evaluate", made["base"], "--data", files.data, *QUICK[:-1], "--set", "as=channel", "--set", "label_aug=hflip"
    )

    assert 0 == outcome.code
    assert "feature labels are left out" in outcome.err
    assert "privileged" not in json.loads(outcome.out)["evaluation"]
    assert "plain-equal-bytes is not run" in said.err
    assert "channel attention has no sides" in said.err
    whole = sum(record["bytes"] for record in Bundle.open(made["base"]).section("labels.feature").tensors.values())
    assert f"{whole} bytes for 8x4x4 each; stored as 8x1x1 they take at most 192 in half precision" in said.err
    assert "'augment-labels --kind attention --set attention=channel'" in said.err
    assert "hard +feature" in said.out
    assert "no adapter, final MSE" in said.out


def test_features_of_crops_do_not_exist(run_cli, files, made, tmp_path: Path) -> None:
    """fkd labels are of augmented crops: beside features refused with advice, and left out of auto."""
    path = tmp_path / "fkd.ddset"
    label = (
        "augment-labels",
        made["base"],
        "--teacher",
        files.teacher,
        "--kind",
        "fkd",
        "--set",
        "views=2",
        "-o",
        path,
    )
    labelled = run_cli(*label)
    asked = run_cli("evaluate", path, "--data", files.data, *QUICK, "--labels", "fkd+feature")
    auto = run_cli("evaluate", path, "--data", files.data, *QUICK)

    assert 0 == labelled.code == auto.code, labelled.err + auto.err
    assert 2 == asked.code
    assert "fkd labels are of augmented crops" in asked.err
    assert "feature labels are left out" in auto.err


def test_the_options_of_students_are_listed(run_cli) -> None:
    """`methods evaluate`: weights and use."""
    outcome = run_cli("methods", "evaluate")

    assert all(
        f"--set {name}=" in outcome.out for name in ("lambda_reg", "infonce", "adapter", "k_use", "label_aug", "as")
    )


def test_labels_that_cost_more_than_the_data_are_compared_with_all_of_it(run_cli, files, made) -> None:
    """A row that nobody asked for takes what there is and says so; one that was asked for is refused."""
    common = ("evaluate", made["two"], "--data", files.data, *QUICK)
    outcome, asked = run_cli(*common), run_cli(*common, "--equal-bytes")
    rows = json.loads(outcome.out)["evaluation"]["results"]

    assert (0, 4) == (outcome.code, asked.code)
    assert "random-equal-bytes takes these" in outcome.err
    assert rows[-1]["stored_bytes"] < rows[0]["stored_bytes"]


def test_scored_bundles_are_shown(run_cli, files, made, tmp_path: Path) -> None:
    """By `inspect`, as a table and as points of their own with the codecs of both labels."""
    path = tmp_path / "scored.ddset"
    evaluate(run_cli, made["gift"], files, "--loss", "ladd", "-o", path)
    shown, drawn = run_cli("inspect", path), run_cli("inspect", path, "--curve", tmp_path / "curve.svg")

    assert 0 == shown.code == drawn.code, shown.err + drawn.err
    assert "+feature" in shown.out
    assert "bundle: dense+feature gift q8 + f16" in (tmp_path / "curve.svg").read_text()


def test_weights_that_hardly_count_or_outweigh_the_classes_are_warned_of(run_cli, files, made) -> None:
    """By the gradients of fresh nets, at the weight that is used; between the limits nothing is said."""
    common = ("evaluate", made["base"], "--data", files.data, *QUICK, "--seeds", "1", "--set")
    weak, right, strong = (run_cli(*common, f"lambda_reg={weight}").err for weight in ("0.0001", "0.5", "100"))

    assert "so they hardly count; --set lambda_reg=" in weak
    assert "so they outweigh the classes; --set lambda_reg=" in strong
    assert "the gradient of the labels" not in right


def test_relative_weights_are_found_on_new_students(run_cli, files, made) -> None:
    """The weight in the record has the ratio that was asked for, by the gradients themselves; of another net, others.

    The second net has half the channels and larger maps than the labels: adapted features are what is weighed.
    """
    relative = ("--set", "lambda_mode=relative", "--set", "lambda_reg=0.2", "--seeds", "1", "--epochs", "1")
    own, other = (
        evaluate(run_cli, made["base"], files, "--arch", arch, *relative)["privileged"]
        for arch in (NET, "convnet-d1-w4")
    )
    bundle = Bundle.open(made["base"])
    labels, distilled = read_privileged(bundle, "feature"), read_distilled(bundle)
    ratios = fresh_ratios(
        distilled.images, distilled.labels, labels.values[:, 0], labels.form, Objective(), classes=4, seed=0
    )

    assert 0.2 == own["lambda_ratio"] == other["lambda_ratio"]
    assert pytest.approx(0.2, rel=1e-5) == own["objective"]["lambda_reg"] * statistics.median(ratios)
    assert own["objective"]["lambda_reg"] != other["objective"]["lambda_reg"] > 0


def test_labels_learned_with_mirrored_images_are_used_so() -> None:
    """`label_aug` of the section is the default, as weights are; settings win."""
    values = torch.randn(4, 1, *form().shape)
    said = {"mode": "learned", **as_dict(Objective()), "label_aug": "hflip"}
    stored = PrivilegedSet("feature", values, form(), None, said, section=None)  # type: ignore[arg-type]

    assert ["hflip", "none", "none"] == [
        read_options(dataclasses.replace(stored, parameters=parameters), settings)[1].label_aug
        for parameters, settings in (
            (said, {}),
            (said, {"label_aug": "none"}),
            ({name: value for name, value in said.items() if name != "label_aug"}, {}),
        )
    ]


def test_plain_images_beside_tuned_ones_say_so(run_cli, files, tmp_path: Path) -> None:
    """Those that `distill` makes again are not tuned; tuned ones may be given; tuned ones beside others may not."""
    tuned = run_cli(
        "refine", files.base, "--method", "dcpi", "--labels", "attention", "--data", files.data, "--arch", NET,
        "--set", "steps=1", "--set", "outer=1", "--set", "attention=channel", "--set", "tune_images=true",
        "-o", tmp_path / "tuned.ddset",
    )  # fmt: skip
    assert 0 == tuned.code, tuned.err
    common = ("evaluate", tmp_path / "tuned.ddset", "--data", files.data, *QUICK[:-1], "--seeds", "1", "--equal-bytes")
    again = run_cli(*common, "-o", tmp_path / "scored.ddset")
    rows = Bundle.open(tmp_path / "scored.ddset").manifest.evaluations[0]["results"]
    plain = distill.run(DistillConfig(data=files.data, method="random", ipc=4, device="cpu"))
    refine = StageRecord("refine", {"options": {"tune_images": True}}, 0, [], {}, 0.0, 0.0, {})
    plain.with_stage(refine).save(tmp_path / "plain.ddset")
    given = run_cli(*common, "--json", "--plain", tmp_path / "plain.ddset")

    assert (0, 0) == (again.code, given.code), again.err + given.err
    assert "those of plain-equal-bytes were not" in again.err
    assert "plain-equal-bytes: images by the method alone" in again.out
    assert [None, None, None, False] == [row.get("images_tuned") for row in rows]
    assert "were not" not in given.err
    assert json.loads(given.out)["evaluation"]["results"][-1]["images_tuned"] is True
    assert 12 < len(check_plain(Bundle.open(files.base), plain, 4).labels)
    with pytest.raises(BundleError, match="images tuned by 'refine' yes, expected no"):
        check_plain(Bundle.open(files.base), Bundle.open(tmp_path / "plain.ddset"), 4)
