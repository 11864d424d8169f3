"""`ddlabel recipes`: the published settings that `--recipe` takes, and the published tables that they are rows of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from ..errors import UsageError
from ..recipes import Published, Recipe, load_recipe, recipe_names
from ..tables._table import table_names
from ._options import Command, Invocation, Talk
from ._recipes_run import RUN, RunOptions, check_no_run, describe_tables, run_rows, table_listing
from ._report import print_json

__all__ = ["COMMAND", "accuracy_text", "command_lines"]


def run(invocation: Invocation) -> None:
    r"""List recipes and published tables, show what the named ones stand for, or run rows of tables: recipes run NAME.

    A recipe is the options of one published setting, stage by stage, which --recipe takes. A name that ends with a
    slash, such as mtt/, lists a family, and mtt/cifar10 what begins so.

    A table, such as pad-1, has rows, such as pad-1/cifar10-ipc10-pad: each a chain of commands with the published
    number. 'recipes run' makes their bundles in --folder, skips what is there, goes on with what was stopped, and adds
    a line for each number to the file results.jsonl there.

    \b
    Example:
      ddlabel recipes
      ddlabel recipes mtt/cifar10-ipc10
      ddlabel recipes pad-1
      ddlabel recipes run pad-1/cifar10-ipc10 --budget smoke
      ddlabel recipes run pad-1/cifar10-ipc10-pad --budget cpu --use cifar10=folder:cifar10
      ddlabel recipes run pad-1 --budget full --use cifar10=folder:cifar10 --print
    """
    talk, options = invocation.record(Talk), invocation.record(RunOptions)
    if invocation.files[:1] == (RUN,):
        run_rows(invocation, talk, options)
        return
    check_no_run(invocation)
    if invocation.files and all(word.partition("/")[0] in table_names() for word in invocation.files):
        describe_tables(invocation, talk)
        return
    found = [invocation.attempt(partial(_matching, word)) for word in invocation.files or ("",)]
    invocation.fail_if_any()
    recipes = [load_recipe(name) for name in dict.fromkeys(name for names in found for name in names)]
    if talk.json:
        print_json("recipes", {"recipes": [_entry(recipe) for recipe in recipes]})
    elif _are_names(invocation.files):
        print("\n".join(line for recipe in recipes for line in _details(recipe)))
    else:
        print("\n".join(_listing(recipes)))
        if not invocation.files:
            print("\n".join(["", *table_listing()]))


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
    if word.partition("/")[0] in table_names():
        raise UsageError(f"'{word}' is of a table, expected recipes alone or tables alone", field="name")
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


COMMAND = Command(
    name="recipes",
    run=run,
    records=(RunOptions, Talk),
    files="[run] [NAME...]",
    lists={"use": "where a data set or something else that rows need is, as NAME=VALUE, such as cifar10=folder:DIR"},
)
