"""Recipes of G-VBSM against its published table, and against what auto takes at the same sizes."""

from __future__ import annotations

import dataclasses

import pytest

from ddlabel.distill.g_vbsm import METHOD, published
from ddlabel.options import build
from ddlabel.recipes import load_recipe, recipe_names

ROWS = """
cifar10-ipc10         53.5 5    0.05 1000 mean       0.15 1000 100
cifar10-ipc50         59.2 5    0.05 1000 mean       0.15 1000 100
cifar100-ipc1         25.9 50   0.05 1000 mean       0.15 1000 64
cifar100-ipc10        59.5 50   0.05 1000 mean       0.15 1000 64
cifar100-ipc50        65.0 50   0.05 1000 mean       0.15 1000 64
tiny-imagenet-ipc50   47.6 50   0.1  100  mean       0.1  100  100
tiny-imagenet-ipc100  51.0 50   0.1  100  mean       0.1  100  100
imagenet1k-ipc10      31.4 0    -    300  equal-norm 0.1  300  1024
imagenet1k-ipc50      51.8 0    -    300  equal-norm 0.1  300  1024
imagenet1k-ipc100     55.7 0    -    300  equal-norm 0.1  300  1024
"""
"""Row, ResNet-18, squeeze's epochs and rate, views, ensemble, weight of the hard loss, student's epochs and batch."""
LINES = [line.split() for line in ROWS.strip().splitlines()]
SIDES = {"cifar10": 32, "cifar100": 32, "tiny-imagenet": 64, "imagenet1k": 224}


def test_every_published_row_has_a_recipe() -> None:
    """And none is our own."""
    assert [f"g-vbsm/{line[0]}" for line in LINES] == [name for name in recipe_names() if name.startswith("g-vbsm/")]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_recipes_are_the_published_rows(line: list[str]) -> None:
    """Stage by stage; nets of ImageNet-1K come trained."""
    name, accuracy, *expected = line
    recipe = load_recipe(f"g-vbsm/{name}")
    squeeze = recipe.stages["train-teacher"], recipe.settings["train-teacher"]
    labels, student = recipe.settings["augment-labels"], recipe.settings["evaluate"]
    found = [
        squeeze[0]["epochs"], squeeze[1].get("lr", "-"), labels["views"],
        recipe.stages["augment-labels"]["ensemble"], student["weight"], recipe.stages["evaluate"]["epochs"],
        student["batch"],
    ]  # fmt: skip

    assert recipe.published
    assert recipe.published.accuracy == pytest.approx(float(accuracy) / 100)
    assert expected == found
    assert recipe.stages["evaluate"]["protocol"] == "gvbsm"
    assert "mobilenet" in recipe.note.lower()


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_what_recipes_write_out_is_what_auto_takes(line: list[str]) -> None:
    """So that a run without a recipe has the published settings of its size."""
    data, ipc = line[0].rsplit("-ipc", 1)
    recipe = load_recipe(f"g-vbsm/{line[0]}")
    method = build(METHOD, recipe.settings["distill"])
    auto = published(SIDES[data], int(ipc))
    given = {name: getattr(method, name) for name in dataclasses.asdict(auto)}

    assert ipc == recipe.stages["distill"]["ipc"]
    assert auto == dataclasses.replace(auto, **{name: value for name, value in given.items() if value is not None})
    assert METHOD(steps=4000, **given) == method


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_nets_and_input_space_are_those_of_the_size(line: list[str]) -> None:
    """No net changes its stride on small images; torchvision's, that come trained, see ImageNet's constants."""
    side = SIDES[line[0].rsplit("-ipc", 1)[0]]
    recipe = load_recipe(f"g-vbsm/{line[0]}")
    squeeze, distill, student = (recipe.stages[stage] for stage in ("train-teacher", "distill", "evaluate"))
    arch = {32: "resnet18-batch", 64: "resnet18-modified", 224: "resnet18-plain"}[side]
    space = "imagenet" if side == 224 else None

    assert (arch, arch) == (squeeze["arch"], student["arch"])
    assert (space, space) == (squeeze.get("space"), distill.get("space"))
    assert (distill.get("size"), "0") == (squeeze.get("size"), squeeze["validation"])
    assert ("--weights FILE" in recipe.note) == (side == 224)
    assert ("mobilenet-v2-modified" in recipe.note and "shufflenet-v2-x0_5-modified" in recipe.note) == (side < 224)
    assert ("CIFAR-100's constants" in recipe.note) == line[0].startswith("cifar10-")
