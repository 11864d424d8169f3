"""`ddlabel recipes`: the published settings that `--recipe` takes, as the options they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from ..recipes import Published, Recipe, load_recipe, recipe_names
from ._options import Command, Invocation, Talk
from ._report import print_json

__all__ = ["COMMAND", "accuracy_text", "command_lines"]


def run(invocation: Invocation) -> None:
    r"""List recipes with their published accuracy, or the options that the named ones stand for, stage by stage.

    A name that ends with a slash, such as mtt/, lists a family, and mtt/cifar10 what begins so.

    \b
    Example:
      ddlabel recipes
      ddlabel recipes mtt/
      ddlabel recipes mtt/cifar10-ipc10
    """
    talk = invocation.record(Talk)
    found = [invocation.attempt(partial(_matching, word)) for word in invocation.files or ("",)]
    invocation.fail_if_any()
    recipes = [load_recipe(name) for name in dict.fromkeys(name for names in found for name in names)]
    if talk.json:
        print_json("recipes", {"recipes": [_entry(recipe) for recipe in recipes]})
    elif _are_names(invocation.files):
        print("\n".join(line for recipe in recipes for line in _details(recipe)))
    else:
        print("\n".join(_listing(recipes)))


def command_lines(stages: Mapping[str, Mapping[str, str]], settings: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What a user would type for each stage instead of naming the recipe."""
    for stage, options in stages.items():
        words = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
        words += [f"--set {name}={value}" for name, value in settings.get(stage, {}).items()]
        if words:
            yield " ".join(["ddlabel", stage, *words])


def accuracy_text(published: Published | None) -> str:
    """In percent as the table prints it, or a dash."""
    if published is None:
        return "-"
    spread = "" if published.std is None else f" ± {100 * published.std:g}"
    return f"{100 * published.accuracy:.1f}{spread}"


def _matching(word: str) -> list[str]:
    """The recipe of that name, or all whose names begin so."""
    names = recipe_names()
    if word in names:
        return [word]
    return [name for name in names if name.startswith(word)] or [load_recipe(word).name]  # which names the nearest


def _are_names(words: Sequence[str]) -> bool:
    """Whether every word is a whole name, which asks for details rather than a list."""
    return bool(words) and set(words) <= set(recipe_names())


def _listing(recipes: Sequence[Recipe]) -> Iterator[str]:
    """One line per recipe, under a line per family."""
    for index, (family, members) in enumerate(groupby(recipes, key=lambda recipe: recipe.family)):
        rows = list(members)
        yield from ("",) if index else ()
        if not family:
            yield from (f"{recipe.name:18} {recipe.about} ({recipe.source})" for recipe in rows)
            continue
        yield f"{family}/  {rows[0].about} ({rows[0].source})"
        width = max(len(recipe.name) for recipe in rows)
        for recipe in rows:
            percent = f"{accuracy_text(recipe.published)} %" if recipe.published else "-"
            yield f"  {recipe.name:{width}}  {percent:>6}  {recipe.note}".rstrip()


def _details(recipe: Recipe) -> Iterator[str]:
    """Everything about one recipe."""
    yield f"{recipe.name:18} {recipe.about} ({recipe.source})"
    if recipe.note:
        yield f"  note: {recipe.note}"
    if recipe.published is not None:
        yield f"  published: {accuracy_text(recipe.published)} % test accuracy, {recipe.published.table}"
    yield from (f"  {line}" for line in command_lines(recipe.stages, recipe.settings))
    yield ""


def _entry(recipe: Recipe) -> dict[str, Any]:
    stages = {stage: {**options, "set": recipe.settings[stage]} for stage, options in recipe.stages.items()}
    published = None if recipe.published is None else dataclasses.asdict(recipe.published)
    words = {"name": recipe.name, "family": recipe.family, "about": recipe.about, "note": recipe.note}
    return {**words, "source": recipe.source, "published": published, "stages": stages}


COMMAND = Command(name="recipes", run=run, records=(Talk,), files="[NAME...]")
