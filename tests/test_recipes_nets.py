"""Nets of recipes: each takes the images it is meant for, and those that come trained are taken as they are."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from ddlabel import _plugins
from ddlabel.bundle import Bundle
from ddlabel.config import TrainTeacherConfig
from ddlabel.errors import UsageError
from ddlabel.nets._groups import expand
from ddlabel.nets._net import build as build_net
from ddlabel.nets._net import on_meta
from ddlabel.options import build
from ddlabel.recipes import load_recipe, recipe_names
from ddlabel.stages._weights import check_untrained


def side_of(recipe) -> int | None:
    """Of the images, in pixels: as a stage says it, or of the data of the name; None where neither does."""
    said = {options["size"] for options in recipe.stages.values() if "size" in options}
    assert len(said) <= 1
    if said:
        return int(said.pop())
    data = re.match(r".*/(cifar|tiny|imagenet1k|imagenet-subset)", recipe.name)
    return data and {"cifar": 32, "tiny": 64, "imagenet1k": 224, "imagenet-subset": 128}[data[1]]


@cache
def fits(arch: str, side: int) -> bool:
    """Whether a net can be built for images of a size, which costs no memory; each is tried once."""
    return on_meta(arch, channels=3, size=side, classes=10) is not None


def test_every_net_of_a_recipe_takes_its_images() -> None:
    """Those of all stages, and those that notes name."""
    families = "|".join(_plugins.names("nets"))
    named = re.compile(rf"(?<![\w-])(?:{families})(?:-\w+)+")
    seen = set()
    for recipe in map(load_recipe, recipe_names()):
        side, options = side_of(recipe), [*recipe.stages.values(), *recipe.settings.values()]
        texts = [value for each in options for key, value in each.items() if key in {"arch", "score_arch"}]
        archs = [arch for text in texts for arch in text.split(",")] + named.findall(recipe.note)
        for arch in expand(archs, side or 128):
            seen.add((arch, side))
            assert fits(arch, side or 128), recipe.name

    assert {("mobilenet-v2-modified", 32), ("shufflenet-v2-x0_5", 224), ("resnet18-modified", 64)} <= seen


@pytest.mark.parametrize(
    "name", [n for n in recipe_names() if load_recipe(n).stages.get("train-teacher", {}).get("epochs") == "0"]
)
def test_a_net_that_comes_trained_is_taken_as_it_is(name: str) -> None:
    """Nothing in the recipe is of training, and the missing file is asked for."""
    recipe = load_recipe(name)
    options, settings = recipe.stages["train-teacher"], recipe.settings["train-teacher"]

    check_untrained(build(TrainTeacherConfig, {"data": "digits", "weights": "net.pt", **options}), settings)
    with pytest.raises(UsageError, match="there are no --weights"):
        check_untrained(build(TrainTeacherConfig, {"data": "digits", **options}), settings)


def test_typed_weights_go_with_the_epochs_of_a_recipe(run_cli, tiny: str, tmp_path: Path) -> None:
    """Which are none; without the file the command line is refused before any work."""
    arch, path = "convnet-d1-w4-batch", tmp_path / "net.pt"
    generator = torch.Generator().manual_seed(0)
    torch.save(build_net(arch, channels=3, size=8, classes=4, generator=generator).state_dict(), path)
    words = ("train-teacher", "--data", tiny, "--recipe", "sre2l/imagenet1k-ipc10", "-o", tmp_path / "t.ddset")
    refused, done = run_cli(*words), run_cli(*words, "--weights", path, "--arch", arch, "--size", "8")
    entry = Bundle.open(tmp_path / "t.ddset").manifest.history[-1]

    assert (2, 0) == (refused.code, done.code), done.err
    assert "there are no --weights" in refused.err
    assert (0, "net.pt") == (entry["config"]["epochs"], entry["config"]["weights"]["file"])
