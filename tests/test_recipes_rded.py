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
