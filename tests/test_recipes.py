"""Recipes: every option they name exists, what is typed wins, and the recipe is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddlabel import _plugins, config
from ddlabel.bundle import Bundle
from ddlabel.cli.app import COMMANDS
from ddlabel.curriculum import Fiex
from ddlabel.errors import UsageError
from ddlabel.options import build, build_many, describe
from ddlabel.recipes import FILES, load_recipe, recipe_names, resolve
from ddlabel.schedules import Recipe
from ddlabel.stages._scores import ScoreOptions

CONFIGS = {
    "train-teacher": (config.TrainTeacherConfig, {"data": "digits"}),
    "distill": (config.DistillConfig, {"data": "digits"}),
    "augment-labels": (config.AugmentLabelsConfig, {}),
    "refine": (config.RefineConfig, {}),
    "evaluate": (config.EvaluateConfig, {"data": "digits"}),
}
SOCKETS = {
    "labels": "KIND",
    "losses": "LOSS",
    "codecs": "CODEC",
    "refine": "REFINEMENT",
    "distill": "METHOD",
    "protocols": "PROTOCOL",
}


def plugin(room: str, name: str):
    """A plugin that a recipe names."""
    return _plugins.load(room, name, SOCKETS[room])


def plugins_of(stage: str, record, recipe) -> list[type]:
    """The records whose options `--set` may name."""
    if stage == "train-teacher":
        return [Recipe, Fiex, ScoreOptions]
    if stage == "evaluate":
        plugin("protocols", record.protocol)
        return [Recipe, *(plugin("losses", name) for name in record.loss if name != "native")]
    if stage == "augment-labels":
        return [plugin("labels", record.kind), *([] if record.codec == "default" else [plugin("codecs", record.codec)])]
    settings = dict(recipe.settings[stage])
    if stage == "refine" and record.matcher is not None:
        settings["matcher"] = record.matcher
    method = plugin(stage, record.method)
    return [method.for_settings(settings) if hasattr(method, "for_settings") else method]


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("stage", CONFIGS)
def test_every_recipe_is_made_of_real_options(name: str, stage: str) -> None:
    """Stages, options, plugins and their settings all exist and are in bounds."""
    recipe = load_recipe(name)
    if stage not in recipe.stages:
        return
    cls, required = CONFIGS[stage]
    record = build(cls, {**required, **recipe.stages[stage]})

    plugins = plugins_of(stage, record, recipe)
    build_many(plugins, recipe.settings[stage])
    passed_on = {"unroll", "mask_shallow"} & recipe.stages[stage].keys()
    assert passed_on <= {option.name for cls in plugins for option in describe(cls)}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_is_and_where_it_is_from(name: str) -> None:
    """And leaves the data to the user."""
    recipe = load_recipe(name)

    assert recipe.about
    assert "arXiv" in recipe.source
    assert recipe.stages
    assert not any(
        {"data", "recipe", "seed", "device", "threads"} & options.keys() for options in recipe.stages.values()
    )


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"a": {"like": "b"}, "b": {"like": ["a"]}}, "built on each other: a -> b -> a"),
        ({"a": {"like": "a"}}, "built on each other: a -> a"),
        ({"a": {"like": ["b", "c"]}, "b": {}}, "recipe 'a' is like 'c', which does not exist"),
        ({"a": {"distil": {"ipc": 1}}}, "recipe 'a' has 'distil', expected one of like"),
    ],
    ids=["two in a circle", "its own base", "no such base", "no such stage"],
)
def test_broken_tables_are_refused(tables, message: str) -> None:
    """By name, so that the line is found."""
    with pytest.raises(ValueError, match=message):
        resolve(tables)


def test_a_base_lies_under_what_is_built_on_it() -> None:
    """Option by option in every stage and in `set`; of several bases the later one wins; lists are replaced."""
    resolved = resolve(
        {
            "_a": {"about": "a", "distill": {"ipc": 1, "arch": "mlp", "set": {"steps": 1, "lr": 1}}},
            "_b": {"like": "_a", "distill": {"set": {"lr": 2, "init": "real"}}, "evaluate": {"arch": ["x", "y"]}},
            "_c": {"distill": {"set": {"lr": 3}}},
            "r": {"like": ["_b", "_c"], "distill": {"ipc": 5}, "evaluate": {"arch": ["z"]}},
        }
    )

    assert resolved["r"] == {
        "about": "a",
        "distill": {"ipc": 5, "arch": "mlp", "set": {"steps": 1, "lr": 3, "init": "real"}},
        "evaluate": {"arch": ["z"]},
    }
    assert resolved["_a"]["distill"]["ipc"] == 1


def test_every_file_of_recipes_is_read() -> None:
    """A new one has to be named, which gives it its place in the list."""
    assert sorted(FILES) == sorted(FILES[0].parent.glob("recipes*.toml"))


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
    assert not any(line.lstrip().startswith("_") for line in listing.out.splitlines())
    assert "ddlabel train-teacher --epochs 50 --keep 10,20,30,40,50 --set lr=0.015" in one.out
    assert {stage for entry in document["recipes"] for stage in entry["stages"]} <= known
    assert 2 == run_cli("recipes", "nothing").code


@pytest.mark.parametrize("word", ["dm/", "dm", "dm/cifar100"])
def test_a_family_is_listed_by_what_its_names_begin_with(run_cli, word: str) -> None:
    """One heading with the source, then a line per recipe with the published accuracy."""
    lines = run_cli("recipes", word).out.splitlines()

    assert lines[0].startswith("dm/  distribution matching")
    assert "arXiv:2110.04181" in lines[0]
    assert all(line.startswith("  dm/") for line in lines[1:])
    assert ["dm/cifar100-ipc10", "29.7", "%"] in [line.split() for line in lines[1:]]


def test_one_recipe_is_shown_with_everything_it_says(run_cli) -> None:
    """About, note, published accuracy with its table, and what would have to be typed."""
    lines = run_cli("recipes", "dm/cifar10-ipc500", "dm/cifar10-ipc50").out.splitlines()
    entry = json.loads(run_cli("recipes", "dm/cifar10-ipc50", "--json").out)["recipes"][0]

    assert "  published: 75.1 % test accuracy, PAD Table 1 (arXiv:2408.03360)" == lines[1]
    assert lines[2].startswith(
        "  ddlabel distill --method dm --validation 0 --arch convnet-d3 --ipc 500 --set steps=20000"
    )
    assert "--set lr_images=10" in lines[2]
    assert any(line.startswith("  note: users report 57") for line in lines)
    assert ("dm", 0.63, None) == (entry["family"], entry["published"]["accuracy"], entry["published"]["std"])


def test_a_recipe_of_a_family_goes_through_its_stages(run_cli, tiny: str, tmp_path: Path) -> None:
    """A name with a slash, in distill and evaluate; the file remembers it."""
    name, bundle, scored = "dm/cifar10-ipc1", tmp_path / "d.ddset", tmp_path / "s.ddset"
    distilled = run_cli(
        "distill", "--data", tiny, "--recipe", name, "--arch", "convnet-d1-w8", "--set", "steps=2", "-o", bundle
    )
    evaluated = run_cli(
        "evaluate", bundle, "--data", tiny, "--recipe", name, "--arch", "convnet-d1-w8", "--epochs", "1",
        "--seeds", "1", "-o", scored,
    )  # fmt: skip
    history = Bundle.open(scored).manifest.history

    assert (0, 0) == (distilled.code, evaluated.code), distilled.err + evaluated.err
    assert [name, name] == [entry["config"]["recipe"] for entry in history[-2:]]
    assert (1, 0.0) == tuple(history[0]["config"][key] for key in ("ipc", "validation"))
    assert {"steps": 2, "lr_images": 1.0, "batch_real": 256}.items() <= history[0]["config"]["options"].items()


def test_an_unknown_recipe_names_the_known_ones() -> None:
    """The nearest ones, and where all are listed; from Python as well."""
    with pytest.raises(UsageError, match=r"did you mean 'mtt/cifar10-ipc.*; 'ddlabel recipes' lists all \d+$"):
        load_recipe("mtt/cifar10-ipc20")
    with pytest.raises(UsageError, match=r"unknown recipe 'pad'"):
        load_recipe("pad")
    with pytest.raises(UsageError, match=r"unknown recipe '_dm'"):
        load_recipe("_dm")


def test_settings_of_a_replaced_loss_go_with_it(run_cli, files) -> None:
    """The user typed another loss, and not the recipe's options of its own."""
    outcome = run_cli(
        "evaluate", files.dense, "--data", files.data, "--arch", "mlp", "--epochs", "2", "--seeds", "1",
        "--recipe", "gift-code", "--loss", "softce",
    )  # fmt: skip

    assert 0 == outcome.code, outcome.err
