"""Recipes of RDED and what is built on it against the published tables, typed in here a second time."""

from __future__ import annotations

import re

import pytest

from ddlabel import _plugins
from ddlabel.distill.rded import factor_for
from ddlabel.options import build
from ddlabel.recipes import load_recipe, recipe_names

TABLE = """
rded        cifar10       23.5 50.2 68.4 1,10,50
rded        cifar100      19.6 48.1 57.0 1,10,50
rded        tiny-imagenet 12.0 39.6 47.6 1,10,50
rded        imagenette    -    -    -    1,10,50
rded        imagewoof     -    -    -    1,10,50
rded        imagenet10    -    -    -    1,10,50
rded        imagenet100   -    -    -    1,10,50
rded        imagenet1k    6.6  42.0 56.5 1,10,50
gift-rded   cifar100      24.7 50.6 57.9 1,10,50
gift-rded   tiny-imagenet 19.1 44.0 48.3 1,10,50
gift-rded   imagenet1k    43.2 56.5 59.3 10,50,100
dcpi-rded   cifar10       28.2 50.6 68.5 1,10,50
dcpi-rded   cifar100      32.5 48.3 57.1 1,10,50
dcpi-rded   imagenet1k    11.2 43.7 58.1 1,10,50
"""
ROWS = {
    f"{family}/{data}-ipc{ipc}": value
    for family, data, *values, ipcs in (line.split() for line in TABLE.strip().splitlines())
    for value, ipc in zip(values, ipcs.split(","), strict=True)
} | {
    "dcpi-rded/tiny-imagenet-ipc1": "15.2",
    "dcpi-rded/tiny-imagenet-ipc10": "40.8",
    "rded/cifar10-ipc50-resnet": "62.1",
    "rded/cifar100-ipc50-resnet": "62.6",
    "rded/tiny-imagenet-ipc50-resnet": "58.2",
    "gift-rded/cifar100-ipc1-resnet": "5.0",
    "gift-rded/cifar100-ipc10-resnet": "54.0",
    "gift-rded/cifar100-ipc50-resnet": "65.3",
    "gift-rded/tiny-imagenet-ipc1-resnet": "15.9",
    "gift-rded/tiny-imagenet-ipc10-resnet": "49.2",
    "gift-rded/tiny-imagenet-ipc50-resnet": "58.1",
    "rded-i-h/imagenet1k-ipc10": "12.4",
    "rded-i-s/imagenet1k-ipc10": "23.6",
    "ladd-rded-i/imagenet1k-ipc10": "28.8",
}
NAMES = [name for name in recipe_names() if re.match(r"([a-z]+-)?rded(-i(-[a-z])?)?/", name)]


def test_every_published_row_has_a_recipe_and_no_recipe_lacks_a_row() -> None:
    """All tables, and nothing of our own among them."""
    assert sorted(ROWS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_the_table_says(name: str) -> None:
    """Accuracy, images per class, mosaic by the side of the images, enough patches, ImageNet's constants."""
    recipe = load_recipe(name)
    options, settings = recipe.stages["distill"], recipe.settings["distill"]
    method = build(_plugins.load("distill", options["method"], "METHOD"), settings)
    ipc = int(name.partition("-ipc")[2].split("-")[0])

    if ROWS[name] == "-":
        assert recipe.published is None
        assert "accuracy" in recipe.note
    else:
        assert recipe.published is not None
        assert recipe.published.accuracy == pytest.approx(float(ROWS[name]) / 100)
    assert (str(ipc), "imagenet") == (options["ipc"], options["space"])
    assert method.factor == factor_for(int(options.get("size", 32)))
    assert method.pool == max(300, ipc * method.factor**2)
    assert method.crops == 5
    assert (method.eta > 0) == (name.startswith("dcpi") and ipc <= 10)
    assert options.get("size") == recipe.stages["train-teacher"].get("size")


@pytest.mark.parametrize("name", NAMES)
def test_teachers_are_trained_but_for_imagenet_1k(name: str) -> None:
    """There torchvision's weights are kept, unless DCPI wants early epochs; students have the teacher's net."""
    recipe = load_recipe(name)
    squeeze, student = recipe.stages["train-teacher"], recipe.stages["evaluate"]
    kept = "/imagenet1k-" in name and not name.startswith("dcpi-")

    assert kept == (squeeze["epochs"] == "0") == ("--weights FILE" in recipe.note)
    assert bool(recipe.settings["train-teacher"]) != kept
    assert squeeze["arch"] == student["arch"]
    if "resnet" in squeeze["arch"]:
        side = squeeze.get("size", "32")
        assert {"32": "resnet18-batch", "64": "resnet18-modified", "224": "resnet18-plain"}[side] == squeeze["arch"]


def test_the_student_of_cifar_100_has_its_own_rate_and_batch() -> None:
    """2e-3 and 25 from ConvNet to ConvNet, which no rule of the protocol gives."""
    found = {name: load_recipe(name).settings["evaluate"] for name in NAMES}
    own = {name for name, settings in found.items() if settings == {"lr": "0.002", "batch": "25"}}

    assert own == {f"rded/cifar100-ipc{ipc}" for ipc in (1, 10, 50)}
    assert all(settings == {} for name, settings in found.items() if name not in own)


def test_dcpi_gives_two_labels_by_one_early_checkpoint() -> None:
    """Soft and feature; two runs of augment-labels, of which the recipe is the second."""
    recipes = [load_recipe(name) for name in NAMES if name.startswith("dcpi-rded/")]

    assert {"soft+feature"} == {recipe.stages["evaluate"]["labels"] for recipe in recipes}
    assert {("feature", "rded")} == {
        (recipe.stages["augment-labels"]["kind"], recipe.stages["augment-labels"]["checkpoint"]) for recipe in recipes
    }
    assert {"rded"} == {recipe.stages["distill"]["checkpoint"] for recipe in recipes}
    assert all("--kind soft" in recipe.about and "--kind feature" in recipe.about for recipe in recipes)
