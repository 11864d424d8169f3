"""The picture and the tables of diagnosed labels, from a record written here."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ddlabel.cli._diagnostics import print_diagnostics
from ddlabel.cli._picture import COLOURS, HEIGHT, VARIANTS, WIDTH, diagnostics_png, draw_diagnostics
from ddlabel.errors import UsageError

MEASURES = {
    "fisher_ratio": None,
    "between_variance": 8.5,
    "nearest_mean_accuracy": 0.1433,
    "head_accuracy": 0.1,
    "head_cross_entropy": 15.3,
    "within_class_spread": None,
    "effective_rank": 35.7,
    "vendi": 12.2,
    "uniformity": -1.94,
    "deviation": 0.45,
}


def stages(*cosines: float) -> dict[str, Any]:
    stage = {"cosine": sum(cosines) / 3, "cosine_by_net": list(cosines), "distance": 20.6}
    return {"init": stage, "trained": copy.deepcopy(stage)}


def record() -> dict[str, Any]:
    return {
        "form": {"arch": "convnet-d3-w16", "layer": 3, "attention": None, "pool": "avg", "shape": [16, 4, 4]},
        "kind": "feature",
        "mode": "learned",
        "matcher": "dc",
        "measures": {"labels": MEASURES, "noise": {**MEASURES, "effective_rank": 81.7}},
        "told_apart_by": "held-out nets",
        "alignment": {"none": stages(0.3, 0.2, 0.4), "noise": stages(0.2, 0.2, 0.2), "labels": stages(0.5, 0.6, 0.7)},
        "setting": {"nets": 3, "steps": 60, "real_images": 256, "classes": 2},
        "scale": {"lambda_reg": 0.5, "ratio": 0.3, "rho": 0.15, "warning": None},
        "picture": {
            "points": [[-2.0, 0.5], [1.5, -1.0], [2.0, 1.0]],
            "hard": [0, 1, 1],
            "explained": [0.6, 0.2],
            "classes": ["cat", "dog"],
        },
    }


def pixels(changed: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(diagnostics_png(changed))).convert("RGB")


def count(image: Image.Image, colour: str, box: tuple[int, int, int, int] | None = None) -> int:
    wanted = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
    data = image.crop(box).tobytes() if box else image.tobytes()
    return sum(tuple(data[at : at + 3]) == wanted for at in range(0, len(data), 3))


def test_points_have_the_colours_of_their_classes_and_bars_the_length_of_their_cosines() -> None:
    image = pixels(record())
    points = (40, 58, 400, 360)
    one, two = (count(image, COLOURS[label], points) for label in (0, 1))
    bars = {name: count(image, colour, (600, 60, WIDTH, 330)) for name, (_said, colour) in VARIANTS.items()}

    assert image.size == (WIDTH, HEIGHT)
    assert one > 20
    assert 1.5 * one < two < 3 * one
    assert bars["labels"] > 1.7 * bars["none"] > 2 * bars["noise"] > 0


def test_the_same_numbers_give_the_same_bytes_and_others_do_not() -> None:
    other = record()
    other["alignment"]["labels"]["trained"]["cosine"] = 0.1

    assert diagnostics_png(record()) == diagnostics_png(record())
    assert diagnostics_png(other) != diagnostics_png(record())


@pytest.mark.parametrize(
    "change",
    [
        {"points": [[0.0, 0.0]], "hard": [1]},
        {"points": [[float(index), 0.0] for index in range(40)], "hard": list(range(40))},
    ],
    ids=["one point", "forty classes on a line"],
)
def test_few_points_and_many_classes_are_drawn(change: dict[str, Any]) -> None:
    unusual = record()
    unusual["picture"] |= change | {"classes": ["a very long name of a class"] * 40, "explained": [1.0, 0.0]}
    unusual["alignment"]["noise"] = stages(-0.2, -0.1, -0.3)

    assert pixels(unusual).size == (WIDTH, HEIGHT)


def test_a_picture_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    draw_diagnostics(record(), str(path), force=False)

    with pytest.raises(UsageError):
        draw_diagnostics(record(), str(path), force=False)


def test_tables_show_every_number_and_dashes_for_those_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    print_diagnostics("score 1", {"diagnostics": record()})
    out = capsys.readouterr().out

    assert "score 1: learned feature labels, 16x4x4, layer 3 of convnet-d3-w16" in out
    assert "Fisher ratio" in out
    assert "35.7" in out
    assert "81.7" in out
    assert "0.600 ± 0.058" in out
    assert "labels pull 0.15 times as strongly as classes" in out


def test_evaluations_without_diagnostics_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_diagnostics("score 1", {"results": []})

    assert capsys.readouterr().out == ""


def test_neither_needs_torch() -> None:
    code = "import sys, ddlabel.cli._picture, ddlabel.cli._diagnostics; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
