"""The table of an evaluation as a picture: bars net by net, curves step by step, names that do not meet."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from ddlabel.cli._chart import BAR, LETTER, chart
from ddlabel.cli._row_tables import kind_names, summary_cells
from ddlabel.scores import summarise
from ddlabel.stages._summary import summaries_over_nets

SVG = "{http://www.w3.org/2000/svg}"


def row(net: str, loss: str, values: list[float], images: str = "bundle", **more) -> dict:
    """A result as `evaluate` records it."""
    return {
        "arch": net,
        "images": images,
        "labels": "soft",
        "loss": {"name": loss},
        "recipe": {"optimizer": "sgd", "lr": 0.1, "epochs": 3},
        "accuracy": summarise(values),
        **more,
    }


def evaluation(rows: list[dict], **more) -> dict:
    """An evaluation as far as pictures look at it."""
    return {"results": rows, "test": {"name": "<a & b>"}, "protocol": "glad", **more}


def curve(*steps: list[float]) -> dict:
    """The record of a row with as many classes as steps."""
    points = [{"classes": 1 + step, "images": [3], "accuracy": summarise(values)} for step, values in enumerate(steps)]
    return {"steps": len(steps), "leaks_future_classes": True, "curve": points}


NETS = [
    row("convnet-d3-w128-instance", "gift", [0.6, 0.7]),
    row("convnet-d3-w128-instance", "ce", [0.5, 0.5], images="random"),
    row("vgg11-instance", "gift", [0.3, 0.5]),
    row("vgg11-instance", "ce", [0.2, 0.4], images="random"),
]


def test_nets_are_summarised_as_ladd_does() -> None:
    """By hand: mean of means, mean of stds, std of means; differences of averages over nets, seed by seed."""
    first, second = summaries_over_nets(NETS)

    assert pytest.approx((0.525, (0.5**0.5 * 0.1 + 0.5**0.5 * 0.2) / 2, 0.5**0.5 * 0.25)) == (
        first["mean"],
        first["average_std"],
        first["std_over_nets"],
    )
    assert pytest.approx(0.125) == second["bundle_minus_this"]["mean"]
    assert pytest.approx(0.025) == second["bundle_minus_this"]["standard_error"]
    assert not {"arch", "recipe"} & set(first)
    assert [] == summaries_over_nets(NETS[:2])


def test_the_table_over_nets() -> None:
    """Its convention is named in the head of the column."""
    columns, rows = summary_cells(summaries_over_nets(NETS), lambda entry: "x" if "bundle_minus_this" in entry else "")

    assert ["row", "mean %", "± (mean of stds)", "std over nets", "bundle − row"] == [name for name, _side in columns]
    assert ["bundle, soft, gift", "52.50", "10.61", "17.68", ""] == rows[0]


def test_bars_stand_side_by_side_with_their_numbers() -> None:
    """Two nets and their mean, two bars each; no bar touches another, all stand in the frame."""
    text = chart(evaluation(NETS, summary=summaries_over_nets(NETS)))
    root = ElementTree.fromstring(text)
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    words = [each.text for each in root.iter(f"{SVG}text")]
    starts = [float(bar.get("x")) for bar in bars]

    assert 6 == len(bars)
    assert all(right - left >= BAR for left, right in itertools.pairwise(starts))
    assert {"65.0", "50.0", "40.0", "30.0", "52.5"} <= set(words)
    assert "mean of nets" in words
    assert max(starts) + BAR < float(root.get("width"))
    assert "vgg11-instance: random, soft, ce: 30.00 %, std 14.14" in {bar.find(f"{SVG}title").text for bar in bars}


def test_curves_have_a_band_and_a_shape_each() -> None:
    """One panel; percentages from a round number; the title says whose classes labels tell of."""
    rows = [
        row("mlp", "gift", [0.7, 0.6], incremental=curve([0.9, 0.8], [0.5, 0.4])),
        row("mlp", "ce", [0.7, 0.6], incremental=curve([0.9, 0.9], [0.4, 0.2])),
    ]
    root = ElementTree.fromstring(chart(evaluation(rows, incremental={})))
    words = " ".join(each.text for each in root.iter(f"{SVG}text"))
    titles = [each.text for each in root.iter(f"{SVG}title")]

    assert 2 == len(list(root.iter(f"{SVG}polyline")))
    assert 2 == sum(each.get("fill-opacity") == "0.13" for each in root.iter(f"{SVG}polygon"))
    assert "Test accuracy on the classes so far, <a & b>, mlp" in words
    assert "labels tell of classes to come" in words
    assert "bundle, soft, ce, 2 classes: 30.00 %, std 14.14" in titles


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("steps", [False, True])
def test_one_student_and_more_rows_than_colours(count: int, steps: bool) -> None:
    """No spread is drawn for one student; names stand one below the other, inside the picture."""
    more = {"incremental": curve([0.5], [0.4])} if steps else {}
    rows = [row("mlp", f"loss-{index}", [0.5], **more) for index in range(count)]
    root = ElementTree.fromstring(chart(evaluation(rows, **({"incremental": {}} if steps else {}))))
    names = [each for each in root.iter(f"{SVG}text") if (each.text or "").startswith("bundle, ")]
    heights = [float(name.get("y")) for name in names]

    assert count == len(names)
    assert all(below - above > 12 for above, below in itertools.pairwise(heights))
    assert max(heights) < float(root.get("height"))
    assert all(float(name.get("x")) + LETTER * len(name.text) <= float(root.get("width")) for name in names)
    assert not any(each.get("fill-opacity") == "0.13" for each in root.iter(f"{SVG}polygon"))


def test_rows_are_named_by_what_tells_them_apart() -> None:
    """The optimiser only where there are several."""
    other = row("mlp", "ce", [0.5])
    other["recipe"] = {"optimizer": "adam", "lr": 1e-3, "epochs": 3}

    assert ["bundle, soft, gift, sgd 0.1", "bundle, soft, ce, adam 0.001"] == kind_names([NETS[0], other])
    assert ["bundle, soft, gift", "random, soft, ce"] == kind_names(NETS[:2])
