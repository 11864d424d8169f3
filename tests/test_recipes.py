"""Recipes: every option they name exists, what is typed wins, and the recipe is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddlabel import _plugins, config
from ddlabel.bundle import Bundle
from ddlabel.cli.app import COMMANDS
from ddlabel.errors import UsageError
from ddlabel.options import build, build_many
from ddlabel.recipes import load_recipe, recipe_names
from ddlabel.training import Recipe

CONFIGS = {
    "train-teacher": (config.TrainTeacherConfig, {"data": "digits"}),
    "distill": (config.DistillConfig, {"data": "digits"}),
    "augment-labels": (config.AugmentLabelsConfig, {}),
    "refine": (config.RefineConfig, {}),
    "evaluate": (config.EvaluateConfig, {"data": "digits"}),
}
SOCKETS = {"labels": "KIND", "losses": "LOSS", "codecs": "CODEC", "refine": "REFINEMENT", "distill": "METHOD"}


def plugins_of(stage: str, record) -> list[type]:
    """The records whose options `--set` may name."""
    if stage == "train-teacher":
        return [Recipe]
    if stage == "evaluate":
        losses = [name for name in record.loss if name != "native"]
        return [Recipe, *(_plugins.load("losses", name, "LOSS") for name in losses)]
    rooms = {
        "augment-labels": [("labels", record.kind), ("codecs", record.codec)] if stage == "augment-labels" else [],
        "refine": [("refine", record.method)] if stage == "refine" else [],
        "distill": [("distill", record.method)] if stage == "distill" else [],
    }
    return [_plugins.load(room, name, SOCKETS[room]) for room, name in rooms[stage]]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_made_of_real_options(name: str) -> None:
    """Stages, options, plugins and their settings all exist and are in bounds; the source is named."""
    recipe = load_recipe(name)

    assert recipe.about
    assert "arXiv" in recipe.source
    for stage, options in recipe.stages.items():
        cls, required = CONFIGS[stage]
        record = build(cls, {**required, **options})
        build_many(plugins_of(stage, record), recipe.settings[stage])
        if stage == "evaluate":
            assert record.protocol in _plugins.names("protocols")


def test_the_two_labelers_of_ladd_differ_where_the_paper_does() -> None:
    """0.015 for 50 epochs against 0.01 for 10; both label with epoch 10."""
    first, second = load_recipe("ladd-3.2"), load_recipe("ladd-4.1")
    rates = [recipe.settings["train-teacher"]["lr"] for recipe in (first, second)]

    assert ["0.015", "0.01"] == rates
    assert ["50", "10"] == [recipe.stages["train-teacher"]["epochs"] for recipe in (first, second)]
    assert first.stages["augment-labels"] == second.stages["augment-labels"]
    assert "10" == first.stages["augment-labels"]["checkpoint"]


def test_what_is_typed_wins_and_the_recipe_is_recorded(run_cli, files, tmp_path: Path) -> None:
    """Grid of the recipe, checkpoint of the user."""
    outcome = run_cli(
        "augment-labels", files.base, "--teacher", files.teacher, "--recipe", "ladd-4.1", "--checkpoint", "4",
        "-o", tmp_path / "d.ddset",
    )  # fmt: skip
    entry = Bundle.open(tmp_path / "d.ddset").manifest.history[-1]

    assert 0 == outcome.code, outcome.err
    assert ("ladd-4.1", "dense", "4") == tuple(entry["config"][key] for key in ("recipe", "kind", "checkpoint"))
    assert {"grid": 5, "ratio": "5/8"}.items() <= entry["config"]["options"].items()


def test_settings_of_a_recipe_yield_to_set(run_cli, files, tmp_path: Path) -> None:
    """gamma typed, alpha and form from the recipe."""
    outcome = run_cli(
        "refine", files.dense, "--recipe", "gift-code", "--set", "gamma=0.2", "-o", tmp_path / "g.ddset"
    )  # fmt: skip
    refined = Bundle.open(tmp_path / "g.ddset").section("labels.dense").refined

    assert 0 == outcome.code, outcome.err
    assert (0.1, 0.2, "code") == tuple(refined[key] for key in ("alpha", "gamma", "form"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--recipe", "ladd-4.2"], "did you mean 'ladd-4.1'"), (["--recipe", "rded-i-h"], "has nothing for 'refine'")],
)
def test_a_wrong_recipe_is_refused_before_any_work(run_cli, files, tmp_path: Path, arguments, message: str) -> None:
    """Exit 2 with the nearest name, or with the stages the recipe speaks of."""
    outcome = run_cli("refine", files.dense, *arguments, "-o", tmp_path / "g.ddset")

    assert 2 == outcome.code
    assert message in outcome.err


def test_recipes_are_listed_and_spelled_out(run_cli) -> None:
    """Text for people, JSON for scripts; the lines can be typed."""
    listing, one = run_cli("recipes"), run_cli("recipes", "ladd-3.2")
    document = json.loads(run_cli("recipes", "--json").out)
    known = {command.name for command in COMMANDS}

    assert all(name in listing.out for name in recipe_names())
    assert "ddlabel train-teacher --epochs 50 --keep 10,20,30,40,50 --set lr=0.015" in one.out
    assert {stage for entry in document["recipes"] for stage in entry["stages"]} <= known
    assert 2 == run_cli("recipes", "nothing").code


def test_an_unknown_recipe_names_the_known_ones() -> None:
    """From Python as well."""
    with pytest.raises(UsageError, match=r"unknown recipe 'pad'"):
        load_recipe("pad")


def test_settings_of_a_replaced_loss_go_with_it(run_cli, files) -> None:
    """The user typed another loss, and not the recipe's options of its own."""
    outcome = run_cli(
        "evaluate", files.dense, "--data", files.data, "--arch", "mlp", "--epochs", "2", "--seeds", "1",
        "--recipe", "gift-code", "--loss", "softce",
    )  # fmt: skip

    assert 0 == outcome.code, outcome.err
