"""Numbers of published tables that are no single row of an evaluation: means over nets, and work of a schedule."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ddlabel.cli._measure import METRICS
from ddlabel.errors import BundleError
from ddlabel.nets._flops import forward_flops

AXES = {"arch": {"two": "convnet-d5,vgg11-glad", "4-CAE": "4-cae", "ConvNetD5": "convnet-d5"}}


def scored(*nets: tuple[str, list[float], float | None]) -> SimpleNamespace:
    """What a bundle of 128 px images says of nets with these accuracies and intervals."""
    results = [
        {
            "arch": arch,
            "images": "bundle",
            "labels": "dense",
            "loss": {"name": "ladd"},
            "recipe": {"optimizer": "sgd"},
            "accuracy": {"mean": sum(values) / len(values), "values": values, "ci95": interval},
            "stored_bytes": 1000,
        }
        for arch, values, interval in nets
    ]
    manifest = SimpleNamespace(evaluations=[{"results": results}], data={"height": 128}, history=[])
    return SimpleNamespace(name="scored.ddset", manifest=manifest)


CONVNET = ("convnet-d5-w128-instance", [0.5, 0.7], 0.04)
VGG = ("vgg11-glad-instance", [0.3, 0.35], 0.08)


def test_a_mean_of_nets_keeps_the_seeds_apart_and_averages_the_intervals() -> None:
    """By hand: means 60 and 32.5; seeds 40 and 52.5; half widths 4 and 8."""
    found = METRICS["accuracy"].read(scored(CONVNET, VGG), AXES, "two")

    assert found.mean == pytest.approx(46.25)
    assert found.values == pytest.approx((40.0, 52.5))
    assert found.interval == pytest.approx(6.0)
    assert found.stored == 1000


def test_one_net_is_itself_and_an_interval_that_one_net_lacks_is_none() -> None:
    """A cell of one net is as recorded."""
    assert METRICS["accuracy"].read(scored(CONVNET, VGG), AXES, "ConvNetD5").mean == pytest.approx(60.0)
    assert METRICS["accuracy"].read(scored(CONVNET, (*VGG[:2], None)), AXES, "two").interval is None


def test_a_net_of_the_group_that_was_not_scored_is_named() -> None:
    """The mean of fewer nets would pass for that of all."""
    with pytest.raises(BundleError, match=r"0 results are of .*alexnet"):
        METRICS["accuracy"].read(scored(CONVNET, VGG), AXES, "4-CAE")


def test_a_schedule_costs_its_passes() -> None:
    """LADD's labeler, 10 epochs of 13,000 images: 0.67 PFLOP; dense labels of 50 images: 0.00215 (evaluation.md 10)."""
    forward = forward_flops("convnet-d5", channels=3, size=128, classes=10)
    history = [{"stage": "train-teacher", "metrics": {"flops": {"forward": forward}}}]
    teacher = SimpleNamespace(name="t.ddset", manifest=SimpleNamespace(history=history))
    axes = {"passes": {"labeler": "3*10*13000", "labels": "50*25", "both": "3*10*13000+50*25"}}
    labeler, labels, both = (METRICS["schedule"].read(teacher, axes, label).mean for label in axes["passes"])

    assert labeler == pytest.approx(0.67, abs=0.005)
    assert labels == pytest.approx(0.00215, abs=0.000005)
    assert both == pytest.approx(labeler + labels)
    with pytest.raises(BundleError, match="no stage 'train-teacher'"):
        METRICS["schedule"].read(scored(CONVNET), axes, "labels")
