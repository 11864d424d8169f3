"""Recipes of SRe2L and its variants against the published numbers, typed in here a second time."""

from __future__ import annotations

import re

import pytest

from ddlabel.distill.sre2l import METHOD, preset_of
from ddlabel.options import build
from ddlabel.recipes import load_recipe, recipe_names

PUBLISHED = {
    "sre2l": {
        "imagenet1k": {10: 21.3, 50: 46.8, 100: 52.8, 200: 57.0},
        "tiny-imagenet": {50: 41.1, 100: 49.7},
        "cifar100": {1: 11.5, 10: 42.7, 50: 57.8},
    },
    "sre2l-fiex": {"cifar100": {1: 26.7, 10: 29.3, 50: 57.9}},
    "cda": {"imagenet1k": {50: None}, "tiny-imagenet": {50: None}},
    "lpld": {"imagenet1k": {50: None}, "tiny-imagenet": {50: None}},
}
ROWS = {
    f"{family}/{data}-ipc{ipc}": accuracy
    for family, sets in PUBLISHED.items()
    for data, budgets in sets.items()
    for ipc, accuracy in budgets.items()
}
SIDES = {"imagenet1k": 224, "tiny-imagenet": 64, "cifar100": 32}
OWN_RATES = {"cda/tiny-imagenet-ipc50": (0.4, 0.05), "lpld/tiny-imagenet-ipc50": (0.1, 0.05)}
"""Step size and weight of R_bn where a variant has others."""
STUDENTS = {
    "imagenet1k": ("kl", "300", "20.0", "cutmix", "300"),
    "tiny-imagenet": ("kl_t2", "100", "20.0", "none", "100"),
    "cifar100": ("kl", "400", "30.0", "mixup", "400"),
}
"""Loss, epochs, temperature, mix and views."""


def test_every_row_has_a_recipe_and_no_recipe_lacks_a_row() -> None:
    """Of the four families."""
    assert sorted(ROWS) == sorted(name for name in recipe_names() if name.partition("/")[0] in PUBLISHED)


@pytest.mark.parametrize("name", ROWS)
def test_settings_are_the_published_ones_of_the_size(name: str) -> None:
    """T, step size, weight, crops and shifts are the table's and what `auto` means; variants change what they say."""
    recipe = load_recipe(name)
    data = re.sub(r".*/|-ipc\d+", "", name)
    preset = preset_of(SIDES[data])
    method = build(METHOD, recipe.settings["distill"])
    family, options = recipe.family, recipe.stages["distill"]

    assert (preset.lr_images, preset.bn_weight) == (method.lr_images, float(method.bn_weight)) or (
        OWN_RATES[name] == (method.lr_images, float(method.bn_weight))
    )
    assert (preset.steps, preset.crop, preset.roll_min, preset.roll_max, 100) == (
        method.steps, method.crop, method.roll_min, method.roll_max, method.batch
    )  # fmt: skip
    assert ("cosine" if family == "cda" else "none", "class" if family == "lpld" else "index") == (
        method.curriculum, method.batching
    )  # fmt: skip
    assert ("sre2l", "0", name.rpartition("-ipc")[2]) == (options["method"], options["validation"], options["ipc"])
    assert options.get("size", "32") == str(SIDES[data])


@pytest.mark.parametrize("name", ROWS)
def test_students_see_as_many_views_as_they_have_epochs(name: str) -> None:
    """Loss, temperature and mix of the data set."""
    recipe = load_recipe(name)
    data = re.sub(r".*/|-ipc\d+", "", name)
    student, labels = recipe.stages["evaluate"], recipe.settings["augment-labels"]

    assert STUDENTS[data] == (
        student["loss"], student["epochs"], recipe.settings["evaluate"]["temperature"], labels["mix"], labels["views"]
    )  # fmt: skip
    assert ("fkd", "fkd", "fkd") == (recipe.stages["augment-labels"]["kind"], student["labels"], student["protocol"])


@pytest.mark.parametrize("name", ROWS)
def test_published_accuracy_stands_beside_the_settings(name: str) -> None:
    """With its table, or the reason why there is none."""
    recipe, expected = load_recipe(name), ROWS[name]

    assert (recipe.published and recipe.published.accuracy) == (
        None if expected is None else pytest.approx(expected / 100)
    )
    assert recipe.published is not None or "no accuracy" in recipe.note
    assert "validation 0" in recipe.about or "(validation 0)" in recipe.about


@pytest.mark.parametrize("name", ROWS)
def test_nets_and_input_space_are_those_of_the_data(name: str) -> None:
    """A 3x3 stem of stride 1 on small images; torchvision's net, with its weights, on ImageNet-1K."""
    recipe = load_recipe(name)
    data = re.sub(r".*/|-ipc\d+", "", name)
    squeeze, distill, student = (recipe.stages[stage] for stage in ("train-teacher", "distill", "evaluate"))
    arch = {"imagenet1k": "resnet18-plain", "tiny-imagenet": "resnet18-modified", "cifar100": "resnet18-batch"}[data]
    space = None if data == "cifar100" else "imagenet"
    trained = data == "imagenet1k"

    assert (arch, arch) == (squeeze["arch"], student["arch"])
    assert (space, space) == (squeeze.get("space"), distill.get("space"))
    assert (trained, trained) == ("--weights FILE" in recipe.note, squeeze["epochs"] == "0")
    assert bool(recipe.settings["train-teacher"]) != trained


def test_pads_filter_takes_the_side_that_suits_the_budget() -> None:
    """Hard images go for few images per class, easy ones for many; the epoch follows the same rule."""
    rows = [load_recipe(name) for name in ROWS if name.startswith("sre2l-fiex/")]

    assert ["hard:0.2", "hard:0.2", "easy:0.1"] == [recipe.stages["distill"]["filter"] for recipe in rows]
    assert {"pad"} == {recipe.stages["distill"]["checkpoint"] for recipe in rows}
    assert {"40,200"} == {recipe.stages["train-teacher"]["keep"] for recipe in rows}
    assert {"40"} == {recipe.settings["train-teacher"]["aee"] for recipe in rows}
