"""What an evaluation compares: losses, optimisers, and plain images of equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddlabel import seeding
from ddlabel.bundle import Bundle
from ddlabel.distilled import read_distilled
from ddlabel.stages._baselines import equal_bytes_ipc, plain_bytes, spent_bytes
from ddlabel.stages._trials import add_differences, list_trials, optimizer_settings, optimizer_table
from ddlabel.students import StudentData, make_sampler

QUICK = ("--arch", "mlp", "--epochs", "2", "--seeds", "2")


def row(loss: str, optimizer: str, lr: float, values: list[float], images: str = "bundle") -> dict:
    """A result as `evaluate` records it."""
    return {
        "arch": "mlp",
        "images": images,
        "labels": "soft",
        "loss": {"name": loss},
        "recipe": {"optimizer": optimizer, "lr": lr},
        "accuracy": {"values": values, "mean": sum(values) / len(values)},
    }


def test_presets_of_the_optimisers() -> None:
    """SGD at two step sizes, Adam and AdamW at one; a step size of the user's replaces them."""
    settings = optimizer_settings(("sgd", "adam", "adamw"), {})

    assert [("sgd", 0.01), ("sgd", 0.1), ("adam", 1e-3), ("adamw", 1e-3)] == [
        (each["optimizer"], each["lr"]) for each in settings
    ]
    assert {0.9} == {each["momentum"] for each in settings if each["optimizer"] == "sgd"}
    assert {5e-4, 1e-4} == {each["weight_decay"] for each in settings}
    assert 1 == len(optimizer_settings(("sgd",), {"lr": "0.5"}))
    assert [{}] == optimizer_settings((), {})


def test_rows_come_optimiser_by_optimiser() -> None:
    """The bundle under every loss, then random images, then those of equal bytes."""
    trials = list(list_trials("soft", ("softce", "mse"), [{}], baselines=True, equal_bytes=True))

    assert [
        ("bundle", "soft", "softce"),
        ("bundle", "soft", "mse"),
        ("random", "hard", "ce"),
        ("random", "soft", "softce"),
        ("random", "soft", "mse"),
        ("random-equal-bytes", "hard", "ce"),
        ("plain-equal-bytes", "hard", "ce"),
    ] == [(trial.images, trial.labels, trial.loss) for trial in trials]


def test_differences_are_paired_within_one_optimiser() -> None:
    """Losses against the first loss, baselines against the bundle under the same loss."""
    results = [
        row("gift", "sgd", 0.1, [0.5, 0.6]),
        row("kl", "sgd", 0.1, [0.2, 0.2]),
        row("kl", "sgd", 0.1, [0.1, 0.3], images="random"),
        row("gift", "adam", 1e-3, [0.7, 0.7]),
        row("kl", "adam", 1e-3, [0.6, 0.7]),
    ]
    add_differences(results)

    assert pytest.approx(0.35) == results[1]["first_loss_minus_this"]["mean"]
    assert pytest.approx(0.0) == results[2]["bundle_minus_this"]["mean"]
    assert pytest.approx(0.05) == results[4]["first_loss_minus_this"]["mean"]
    assert all(key not in results[0] for key in ("bundle_minus_this", "first_loss_minus_this"))


def test_the_table_of_optimisers() -> None:
    """Best and worst step size, mean and least over optimisers, the gap from the best cell to the worst."""
    results = [row("kl", "sgd", 0.01, [0.1]), row("kl", "sgd", 0.1, [0.3]), row("kl", "adam", 1e-3, [0.5])]
    (entry,) = optimizer_table(results)

    assert ({"sgd": 0.3, "adam": 0.5}, {"sgd": 0.1, "adam": 0.5}) == (entry["best"], entry["worst"])
    assert pytest.approx((0.4, 0.3, 0.4)) == (entry["mean"], entry["least"], entry["robustness_gap"])


def test_kl_brings_kl_t2_into_a_table_of_optimisers(run_cli, files) -> None:
    """Without T^2 a collapse says nothing of the labels; one optimiser alone is left as asked."""
    outcome = run_cli(
        "evaluate", files.soft, "--data", files.data, *QUICK, "--loss", "gift,kl", "--optimizer", "sgd,adam", "--json"
    )
    evaluation = json.loads(outcome.out)["evaluation"]
    alone = run_cli("evaluate", files.soft, "--data", files.data, *QUICK, "--loss", "kl", "--json")

    assert 0 == outcome.code, outcome.err
    assert ["gift", "kl", "kl_t2"] * 3 == [result["loss"]["name"] for result in evaluation["results"]]
    assert 3 == len(evaluation["optimizers"])
    assert ["kl"] == [result["loss"]["name"] for result in json.loads(alone.out)["evaluation"]["results"]]


def test_the_tables_of_losses_and_optimisers_are_printed(run_cli, files) -> None:
    """Step sizes, differences to the first loss, the robustness gap."""
    outcome = run_cli(
        "evaluate", files.soft, "--data", files.data, *QUICK, "--loss", "softce,mse", "--optimizer", "sgd,adamw"
    )

    assert "robustness gap" in outcome.out
    assert "sgd 0.01" in outcome.out
    assert "(loss)" in outcome.out


def test_native_is_the_loss_of_the_label_kind(run_cli, files) -> None:
    """Refine-only: refined dense labels under LADD's loss."""
    outcome = run_cli("evaluate", files.gift, "--data", files.data, *QUICK, "--loss", "native", "--json")
    (result,) = json.loads(outcome.out)["evaluation"]["results"]

    assert 0 == outcome.code, outcome.err
    assert "ladd" == result["loss"]["name"]


def test_settings_must_belong_to_the_recipe_or_to_one_of_the_losses(run_cli, files) -> None:
    """An option of one loss does not disturb the others; an option of none is refused."""
    common = ("evaluate", files.soft, "--data", files.data, *QUICK, "--loss", "kl,mse", "--json")
    given, wrong = run_cli(*common, "--set", "temperature=3"), run_cli(*common, "--set", "temprature=3")
    options = [result["loss"]["options"] for result in json.loads(given.out)["evaluation"]["results"]]

    assert [{"temperature": 3.0}, {"allow_prob": False}] == options
    assert 2 == wrong.code
    assert "did you mean 'temperature'" in wrong.err


def test_equal_bytes_are_counted_from_the_file(files) -> None:
    """Images and hard labels are plain; the label kind is what more images are bought for, rounded up."""
    bundle = Bundle.open(files.dense)
    plain, rich = spent_bytes(bundle, "hard"), spent_bytes(bundle, "dense")
    images = len(bundle.tensor("labels.hard"))
    wanted = equal_bytes_ipc(bundle, "dense", 4)

    assert rich > plain
    assert (wanted - 1) * 4 * plain / images < rich <= wanted * 4 * plain / images
    assert 3 == equal_bytes_ipc(bundle, "hard", 4)
    assert plain == plain_bytes(bundle, images)


def test_what_all_images_share_is_paid_once(run_cli, files, tmp_path: Path) -> None:
    """A whitening matrix does not grow with the images."""
    run_cli("distill", "--data", files.data, "--method", "random", "--ipc", "2", "--space", "zca", "-o", tmp_path / "z")
    bundle = Bundle.open(tmp_path / "z")
    transform = sum(record["bytes"] for record in bundle.section("transform.zca").tensors.values())

    assert transform == plain_bytes(bundle, 0)
    assert 2 == equal_bytes_ipc(bundle, "hard", 4)
    assert spent_bytes(bundle, "hard") == plain_bytes(bundle, 8)


def test_equal_bytes_scores_random_images_and_the_method_itself(run_cli, files, tmp_path: Path) -> None:
    """Both at the same ipc, at least the bytes of the bundle, the same samples seen; distilled again or given."""
    common = ("evaluate", files.dense, "--data", files.data, *QUICK, "--equal-bytes", "--json")
    outcome = run_cli(*common)
    bundle, random, plain = json.loads(outcome.out)["evaluation"]["results"]
    ipc = equal_bytes_ipc(Bundle.open(files.dense), "dense", 4)
    made = run_cli("distill", "--data", files.data, "--method", "random", "--ipc", str(ipc), "-o", tmp_path / "p.ddset")
    given = run_cli(*common, "--plain", tmp_path / "p.ddset")

    assert 0 == outcome.code == made.code == given.code, outcome.err + made.err + given.err
    assert ("random-equal-bytes", "plain-equal-bytes") == (random["images"], plain["images"])
    assert bundle["stored_bytes"] <= random["stored_bytes"] == plain["stored_bytes"]
    assert bundle["samples_seen"] == random["samples_seen"] == plain["samples_seen"]
    assert plain["accuracy"] == json.loads(given.out)["evaluation"]["results"][2]["accuracy"]
    assert "bundle_minus_this" in plain


@pytest.mark.parametrize(
    ("bundle", "arguments", "code", "message"),
    [
        ("base", ["--equal-bytes"], 2, "--labels is 'hard'"),
        ("dense", ["--plain", "BASE"], 2, "expected both or none"),
        ("dense", ["--equal-bytes", "--plain", "BASE"], 3, "images per class 3, expected"),
        ("dense", ["--equal-bytes", "--plain", "BASE", "--plain", "BASE"], 2, "expected one bundle"),
    ],
)
def test_unfair_plain_baselines_are_refused(run_cli, files, bundle, arguments, code: int, message: str) -> None:
    """Nothing to buy, not asked for, another number of images, two of them."""
    named = [files.base if word == "BASE" else word for word in arguments]
    outcome = run_cli("evaluate", getattr(files, bundle), "--data", files.data, *QUICK, *named)

    assert code == outcome.code
    assert message in outcome.err


def test_a_walk_sees_as_many_samples_whatever_the_size_of_the_set(files) -> None:
    """Every image as often as every other within one, in an order that continues over epochs."""
    distilled = read_distilled(Bundle.open(files.base))
    sampler = make_sampler(StudentData(distilled, None, samples=7), batch=3, estimator="views", seed=5)
    epochs = [list(sampler(epoch, seeding.generator(0, "unused"))) for epoch in range(12)]
    sizes = [[len(images) for images, _targets in batches] for batches in epochs]
    keys = [float(image.sum()) for batches in epochs for images, _targets in batches for image in images]
    seen = torch.unique(torch.tensor(keys), return_counts=True)[1]

    assert [[3, 3, 1]] * 12 == sizes
    assert 7 * 12 == len(keys)
    assert {7} == set(seen.tolist())


def test_work_is_counted_in_the_history(run_cli, files, tmp_path: Path) -> None:
    """Labeler, augmentation, deployment: 3 forward passes a step, one a view."""
    from ddlabel.nets._flops import forward_flops

    outcome = run_cli("evaluate", files.dense, "--data", files.data, *QUICK, "-o", tmp_path / "s.ddset")
    scored, teacher = Bundle.open(tmp_path / "s.ddset"), Bundle.open(files.teacher)
    net = forward_flops("convnet-d1-w8", channels=3, size=8, classes=4)
    student = forward_flops("mlp", channels=3, size=8, classes=4)
    (result,) = scored.manifest.evaluations[0]["results"]
    labelling = next(entry for entry in scored.manifest.history if entry["stage"] == "augment-labels")

    assert 0 == outcome.code, outcome.err
    assert {"forward": net, "training": 3 * net * 4 * 44} == teacher.manifest.history[0]["metrics"]["flops"]
    assert {"labelling": 12 * 9 * net} == labelling["metrics"]["flops"]
    assert 3 * student * result["samples_seen"] * 2 == result["flops"]
    assert {"students": result["flops"]} == scored.manifest.history[-1]["metrics"]["flops"]


def test_rows_that_see_other_numbers_of_samples_are_not_compared(run_cli, files) -> None:
    """Eq. 5 in full trains on every view in each epoch: alone."""
    common = ("evaluate", files.dense, "--data", files.data, *QUICK, "--set", "estimator=full")
    alone, compared = run_cli(*common), run_cli(*common, "--equal-bytes")

    assert (0, 2) == (alone.code, compared.code)
    assert "score it alone" in compared.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "sgd", "--set", "optimizer=adam"], "'optimizer' is given by --optimizer and by --set"),
        (["--set", "epochs=3"], "'epochs' is given by --epochs and by --set"),
        (["--loss", "softce,gift", "--set", "gamma=0.5"], "the labels were refined with 0.1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(run_cli, files, arguments: list[str], message: str) -> None:
    """Nothing wins silently."""
    outcome = run_cli("evaluate", files.gift, "--data", files.data, *QUICK, *arguments)

    assert 2 == outcome.code
    assert message in outcome.err


def test_losses_that_the_labels_do_not_suit_are_refused_before_any_student(run_cli, files, tmp_path: Path) -> None:
    """Dropped classes of topk-mr are no logits, and --set allow_prob does not make them so."""
    run_cli(
        "refine", files.dense, "--method", "recode", "--codec", "topk-mr", "--set", "k=2", "-o", tmp_path / "m.ddset"
    )
    common = ("evaluate", tmp_path / "m.ddset", "--data", files.data, *QUICK)
    later = run_cli(*common, "--loss", "softce,gift", "--verbose")
    allowed = run_cli(*common, "--loss", "mse", "--set", "allow_prob=true")

    assert (2, 2) == (later.code, allowed.code)
    assert "the labels are 'logprob'" in later.err
    assert "seed 0" not in later.err
    assert 0 == run_cli(*common, "--loss", "kd").code


def test_what_is_named_twice_is_scored_once(run_cli, files) -> None:
    """Nets, losses and optimisers."""
    twice = ("--arch", "mlp,mlp", "--loss", "mse,mse", "--optimizer", "adam,adam")
    outcome = run_cli("evaluate", files.soft, "--data", files.data, "--epochs", "2", "--seeds", "1", *twice, "--json")

    assert 1 == len(json.loads(outcome.out)["evaluation"]["results"])


def test_random_images_are_labelled_by_every_stage_of_the_history(run_cli, files, tmp_path: Path) -> None:
    """The bundle's own images, labelled as if they were random ones, have the bundle's labels: codec after codec."""
    from ddlabel.labels._labels import read_labels
    from ddlabel.stages._baselines import relabel
    from ddlabel.stages._stage import computing

    steps = [tmp_path / f"{name}.ddset" for name in ("coarse", "refined", "last")]
    recode = ("--method", "recode", "--codec")
    commands = (
        ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "dense", "--grid", "2", "--codec", "q3"),
        ("refine", steps[0], "--method", "gift", "--codec", "f16"),
        ("refine", steps[1], *recode, "q4"),
    )
    for command, path in zip(commands, steps, strict=True):
        assert 0 == run_cli(*command, "-o", path).code
    bundle, teacher = Bundle.open(steps[2]), Bundle.open(files.teacher)
    labels = read_labels(bundle, "dense")
    with computing("cpu", 0) as clock:
        again = relabel(bundle, labels, read_distilled(bundle), [teacher, teacher], clock)

    assert torch.equal(labels.values, again.values)
    assert (labels.domain, labels.refined) == (again.domain, again.refined)


@pytest.mark.parametrize(
    ("distil", "message"),
    [
        (["--method", "random", "--pixels", "float32"], "bytes of an image"),
        (["--method", "random", "--validation", "0"], "held-out share 0.0"),
        (["--method", "herding", "--teacher", "TEACHER"], "method herding, expected random"),
    ],
)
def test_a_plain_baseline_is_of_the_same_data_method_and_cost(run_cli, files, tmp_path: Path, distil, message) -> None:
    """Anything else would compare something else."""
    ipc = str(equal_bytes_ipc(Bundle.open(files.dense), "dense", 4))
    words = [files.teacher if word == "TEACHER" else word for word in distil]
    made = run_cli("distill", "--data", files.data, "--ipc", ipc, *words, "-o", tmp_path / "p.ddset")
    outcome = run_cli(
        "evaluate", files.dense, "--data", files.data, *QUICK, "--equal-bytes", "--plain", tmp_path / "p.ddset"
    )

    assert 0 == made.code, made.err
    assert 3 == outcome.code
    assert message in outcome.err
