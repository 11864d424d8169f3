"""Accuracy against stored bytes: what becomes a point, which points are best, and the picture as XML."""

from __future__ import annotations

import dataclasses
import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle
from ddlabel.cli._curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, frontier, points_of, svg

POINT = Point("bundle", "dense q8", "ladd", "mlp", 1000, 0.5, 0.02, 3)
SVG = "{http://www.w3.org/2000/svg}"


def at(stored: int, mean: float, **more) -> Point:
    """A point elsewhere."""
    return dataclasses.replace(POINT, stored=stored, mean=mean, **more)


@pytest.fixture(scope="module")
def scored(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two scored bundles that share a baseline row."""
    folder = tmp_path_factory.mktemp("curve")
    made = []
    for name, more in (("base", ["--baselines"]), ("soft", ["--labels", "hard", "--baselines"]), ("dense", [])):
        made.append(folder / f"{name}.ddset")
        outcome = run_cli(
            "evaluate", getattr(files, name), "--data", files.data, "--arch", "mlp", "--epochs", "2", "--seeds", "2",
            *more, "-o", made[-1],
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    return made


def test_every_scored_row_is_one_point(scored) -> None:
    """Equal rows of two bundles once; the codec belongs to the name."""
    points = points_of([Bundle.open(path) for path in scored])

    assert ["hard", "hard", "dense q8"] == [point.labels for point in points]
    assert {"bundle", "random"} == {point.images for point in points}
    assert sorted(point.stored for point in points) == [point.stored for point in points]
    assert all(point.stored < Bundle.open(scored[2]).manifest.storage["total"] for point in points)


def test_the_frontier_holds_what_nothing_beats() -> None:
    """Better than all that cost as much or less; ties of accuracy go to fewer bytes."""
    points = [at(10, 0.3), at(20, 0.5), at(20, 0.4), at(30, 0.5), at(40, 0.45), at(50, 0.6)]

    assert [(10, 0.3), (20, 0.5), (50, 0.6)] == [(point.stored, point.mean) for point in frontier(points)]


@pytest.mark.parametrize(
    "points",
    [
        [POINT],
        [at(1000, 0.5, ci95=None, n=1)],
        [at(1000 * 3**index, 0.1 + index / 40, labels=f"dense q{index}") for index in range(30)],
        [at(7, 0.0), at(8 * 10**9, 1.0, ci95=0.5)],
        [at(1000 + index, 0.5, labels="a & b <c>") for index in range(5)],
    ],
    ids=["one", "no interval", "many", "extremes", "markup"],
)
def test_the_picture_is_well_formed_and_stays_inside(points: list[Point]) -> None:
    """One circle and one name per point, inside the frame, names apart; the same points give the same bytes."""
    root = ElementTree.fromstring(svg(points))
    circles = root.findall(f"{SVG}circle")
    names = [each for each in root.findall(f"{SVG}text") if float(each.get("x")) > WIDTH - RIGHT]
    heights = sorted(float(each.get("y")) for each in names)

    assert len(points) == len(circles) == len(names)
    assert all(LEFT <= float(each.get("cx")) <= WIDTH - RIGHT for each in circles)
    assert all(TOP <= float(each.get("cy")) <= HEIGHT - BOTTOM for each in circles)
    assert all(above + 14 < below for above, below in itertools.pairwise(heights))
    assert heights[-1] <= HEIGHT
    assert svg(points) == svg(points)


def test_better_is_higher_and_larger_is_further_right() -> None:
    """The axes point the usual way."""
    low, high = ElementTree.fromstring(svg([at(100, 0.2), at(1000, 0.8)])).findall(f"{SVG}circle")

    assert float(low.get("cx")) < float(high.get("cx"))
    assert float(low.get("cy")) > float(high.get("cy"))


def test_inspect_draws_the_curve_and_prints_its_table(run_cli, scored, tmp_path: Path) -> None:
    """The file is kept unless --force."""
    common = ("inspect", *scored, "--curve", tmp_path / "c.svg")
    outcome, again = run_cli(*common), run_cli(*common)

    assert 0 == outcome.code, outcome.err
    assert "best for its bytes" in outcome.out
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    assert 2 == again.code
    assert 0 == run_cli(*common, "--force").code


def test_a_bundle_without_scores_is_refused(run_cli, files, tmp_path: Path) -> None:
    """Saying what to run."""
    outcome = run_cli("inspect", files.dense, "--curve", tmp_path / "c.svg")

    assert 2 == outcome.code
    assert "run 'ddlabel evaluate' first" in outcome.err
    assert not (tmp_path / "c.svg").exists()


def test_scores_of_different_kinds_do_not_share_a_picture(run_cli, files, scored, tmp_path: Path) -> None:
    """Another net, protocol or length: named, and refused."""
    for number, more in enumerate((["--arch", "convnet-d1-w4"], ["--protocol", "glad"], ["--epochs", "3"])):
        other = tmp_path / f"{number}.ddset"
        quick = ["--arch", "mlp", "--epochs", "2", *more]
        run_cli("evaluate", files.soft, "--data", files.data, *quick, "--seeds", "1", "-o", other)
        outcome = run_cli("inspect", scored[0], other, "--curve", tmp_path / "c.svg")

        assert 2 == outcome.code
        assert "scores of different kinds do not share a picture" in outcome.err


def test_every_evaluation_of_a_bundle_is_drawn(run_cli, files, scored, tmp_path: Path) -> None:
    """Scored twice, with two losses."""
    run_cli(
        "evaluate", scored[2], "--data", files.data, "--arch", "mlp", "--epochs", "2", "--seeds", "2",
        "--loss", "softce", "-o", tmp_path / "twice.ddset",
    )  # fmt: skip

    assert ["ladd", "softce"] == sorted(point.loss for point in points_of([Bundle.open(tmp_path / "twice.ddset")]))


def test_stdout_holds_the_picture_or_the_document(run_cli, scored) -> None:
    """Never both, and no table behind a picture."""
    picture, both = run_cli("inspect", *scored, "--curve", "-"), run_cli("inspect", *scored, "--curve", "-", "--json")

    assert 2 == both.code
    assert "best for its bytes" not in picture.out
