"""Class-incremental evaluation through the command line: record, differences, summaries, pictures, refusals."""

from __future__ import annotations

import json
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

QUICK = ("--epochs", "2", "--seeds", "1")
TWO_NETS = ("--arch", "mlp,convnet-d1-w4", "--incremental", "2,3", "--orders", "2", "--loss", "gift,native")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def scored(run_cli, files, tmp_path_factory: pytest.TempPathFactory):
    """Outcome, bundle and picture of two nets under two losses, in two and in three steps."""
    folder = tmp_path_factory.mktemp("incremental")
    outcome = run_cli(
        "evaluate", files.soft, "--data", files.data, "--epochs", "1", "--seeds", "1", *TWO_NETS,
        "--picture", folder / "steps.svg", "-o", folder / "s.ddset",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return outcome, Bundle.open(folder / "s.ddset", verify=True), folder / "steps.svg"


def test_the_record_holds_every_step_of_every_run(scored) -> None:
    """Four rows for each number of steps; a row's accuracy is the mean over its steps, run by run."""
    evaluation = scored[1].manifest.evaluations[-1]
    results = evaluation["results"]

    assert [2] * 4 + [3] * 4 == [row["incremental"]["steps"] for row in results]
    assert ("continual", [2, 3]) == (evaluation["protocol"], evaluation["incremental"]["steps"])
    assert "mean over steps" in evaluation["statistic"]
    assert not evaluation["incremental"]["leaks_future_classes"]
    assert [2, 3, 4] == [point["classes"] for point in results[4]["incremental"]["curve"]]
    for row in results:
        curve = row["incremental"]["curve"]
        assert [[3 * point["classes"]] for point in curve] == [point["images"] for point in curve]
        assert sum(point["samples_seen"][0] for point in curve) == row["samples_seen"]
        for run in range(2):
            values = [point["accuracy"]["values"][run] for point in curve]
            assert pytest.approx(statistics.fmean(values)) == row["accuracy"]["values"][run]
        assert all(
            own >= value
            for point in curve
            for own, value in zip(point["seen_only"]["values"], point["accuracy"]["values"], strict=True)
        )
        assert row["flops"] > 0


def test_losses_are_compared_step_by_step(scored) -> None:
    """GIFT less native at every step, paired by run; only within one net and number of steps."""
    results = scored[1].manifest.evaluations[-1]["results"]
    for gift, native in zip(results[::2], results[1::2], strict=True):
        assert ("gift", "softce", gift["arch"]) == (gift["loss"]["name"], native["loss"]["name"], native["arch"])
        assert "first_loss_minus_this" not in gift
        for ours, theirs in zip(gift["incremental"]["curve"], native["incremental"]["curve"], strict=True):
            expected = ours["accuracy"]["mean"] - theirs["accuracy"]["mean"]
            assert pytest.approx(expected) == theirs["first_loss_minus_this"]["mean"]


def test_nets_are_summarised_for_each_number_of_steps(scored) -> None:
    """Mean of means, and the mean of the nets' standard deviations."""
    evaluation = scored[1].manifest.evaluations[-1]
    rows = [row for row in evaluation["results"][:4] if row["loss"]["name"] == "gift"]
    entry = evaluation["summary"][0]

    assert [(2, "gift"), (2, "softce"), (3, "gift"), (3, "softce")] == [
        (each["steps"], each["loss"]["name"]) for each in evaluation["summary"]
    ]
    assert pytest.approx(statistics.fmean(row["accuracy"]["mean"] for row in rows)) == entry["mean"]
    assert pytest.approx(statistics.fmean(row["accuracy"]["std"] for row in rows)) == entry["average_std"]


def test_tables_are_shown_again_by_inspect(run_cli, scored) -> None:
    """Every step is a line; the scores have no place on the curve of bytes."""
    outcome, bundle, _picture = scored
    again = run_cli("inspect", bundle.name)
    curve = run_cli("inspect", bundle.name, "--curve", "-")

    for shown in (outcome.out, again.out):
        assert "mean over 2 class-incremental steps" in shown
        assert "accuracy % and std after each of 3 steps, mlp" in shown
        assert "over 2 nets" in shown
        assert "seen only" in shown
    assert 2 == curve.code
    assert "only scores of class-incremental steps" in curve.err


def test_the_picture_has_a_panel_for_each_net_and_number_of_steps(scored) -> None:
    """As XML that holds every number of the record."""
    root = ElementTree.fromstring(scored[2].read_text())
    titles = [title.text for title in root.iter(f"{SVG}title")]
    words = [text.text for text in root.iter(f"{SVG}text")]

    assert 4 == sum(word.startswith(("2 steps, ", "3 steps, ")) for word in words)
    for row in scored[1].manifest.evaluations[-1]["results"]:
        for point in row["incremental"]["curve"]:
            number = f"{point['classes']} classes: {100 * point['accuracy']['mean']:.2f} %"
            assert any(number in title and row["loss"]["name"] in title for title in titles)


def test_the_same_seed_gives_the_same_bits(run_cli, files) -> None:
    """Orders, memories and students follow from it."""
    command = ("evaluate", files.soft, "--data", files.data, *QUICK, "--arch", "mlp", "--incremental", "2", "--orders")
    first, second, more = (
        json.loads(run_cli(*command, orders, "--json").out)["evaluation"] for orders in ("1", "1", "2")
    )
    values = [each["results"][0]["accuracy"]["values"] for each in (first, more)]

    assert first == second
    assert values[0] == values[1][:1]


def test_baselines_get_the_same_treatment(run_cli, files) -> None:
    """Random images, equal ones and those of equal bytes, at every step at the bundle's number of samples."""
    outcome = run_cli(
        "evaluate", files.soft, "--data", files.data, *QUICK, "--arch", "mlp", "--protocol", "gift", "--incremental",
        "2", "--orders", "1", "--baselines", "--equal-bytes", "--teacher", files.teacher, "--set", "future=full",
        "--json",
    )  # fmt: skip
    evaluation = json.loads(outcome.out)["evaluation"]
    results = evaluation["results"]

    assert outcome.code == 0, outcome.err
    assert ["bundle", "random", "random", "random-equal-bytes", "plain-equal-bytes"] == [
        row["images"] for row in results
    ]
    assert [True, False, True, False, False] == [row["incremental"]["leaks_future_classes"] for row in results]
    assert evaluation["incremental"]["leaks_future_classes"]
    for step, batch in enumerate((10, 50)):  # GIFT's rule sees 6 and 12 images
        points = [row["incremental"]["curve"][step] for row in results]
        assert 1 == len({tuple(point["samples_seen"]) for point in points})
        assert [[batch]] * 5 == [point["batch"] for point in points]
        assert all("bundle_minus_this" in point for point in points[1:])


def test_views_that_mix_in_later_images_are_left_out(run_cli, files, tmp_path: Path) -> None:
    """fkd labels train step by step; of one view per image nothing may be left."""
    codes = []
    for views in (40, 1):
        made = run_cli(
            "augment-labels", files.base, "--teacher", files.teacher, "--kind", "fkd", "--set", f"views={views}",
            "-o", tmp_path / f"{views}.ddset",
        )  # fmt: skip
        assert made.code == 0, made.err
        outcome = run_cli(
            "evaluate", tmp_path / f"{views}.ddset", "--data", files.data, *QUICK, "--arch", "mlp", "--incremental",
            "4", "--orders", "1",
        )  # fmt: skip
        codes.append(outcome.code)

    assert [0, 2] == codes
    assert "use more views" in outcome.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--incremental", "5"], "5 steps, the data has 4 classes"),
        (["--orders", "2"], "'orders' is of classes that come in steps"),
        (["--picture", "steps.png"], "expected the name of a SVG file"),
        (["--incremental", "2", "--set", "future=later"], "future"),
        (["--set", "future=full"], "unknown option 'future'"),
    ],
)
def test_what_cannot_be_is_refused(run_cli, files, more: list[str], message: str) -> None:
    """Before any student."""
    outcome = run_cli("evaluate", files.soft, "--data", files.data, *QUICK, "--arch", "mlp", *more)

    assert 2 == outcome.code
    assert message in outcome.err
