"""`ddlabel recipes`: the published settings that `--recipe` takes, as the options they stand for."""

from __future__ import annotations

from ..recipes import Recipe, load_recipe, recipe_names
from ._options import Command, Invocation, Talk
from ._report import print_json

__all__ = ["COMMAND", "command_lines"]


def run(invocation: Invocation) -> None:
    r"""List the recipes, or the options that the named ones stand for, stage by stage.

    \b
    Example:
      ddlabel recipes
      ddlabel recipes ladd-4.1
    """
    talk = invocation.record(Talk)
    invocation.fail_if_any()
    recipes = [load_recipe(name) for name in invocation.files or recipe_names()]
    if talk.json:
        print_json("recipes", {"recipes": [_entry(recipe) for recipe in recipes]})
        return
    for recipe in recipes:
        print(f"{recipe.name:18} {recipe.about} ({recipe.source})")
        if invocation.files:
            print("".join(f"  {line}\n" for line in command_lines(recipe)), end="")


def command_lines(recipe: Recipe) -> list[str]:
    """What a user would type for each stage instead of naming the recipe."""
    lines = []
    for stage, options in recipe.stages.items():
        words = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
        words += [f"--set {name}={value}" for name, value in recipe.settings[stage].items()]
        lines.append(f"ddlabel {stage} {' '.join(words)}")
    return lines


def _entry(recipe: Recipe) -> dict[str, object]:
    stages = {stage: {**options, "set": recipe.settings[stage]} for stage, options in recipe.stages.items()}
    return {"name": recipe.name, "about": recipe.about, "source": recipe.source, "stages": stages}


COMMAND = Command(name="recipes", run=run, records=(Talk,), files="[NAME...]")
