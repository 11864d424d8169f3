"""Recipes: the published settings of a method as named options, one table per stage, in `recipes*.toml`.

A table of the files is a recipe, or, where its name starts with an underscore, a base that recipes are built on:
`like = "_base"` (or a list of them, later ones win) puts the base under the table, option by option. Accuracies are
written in percent, as papers print them.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UsageError

__all__ = ["Published", "Recipe", "load_recipe", "recipe_names", "resolve"]

FILES = tuple(
    Path(__file__).with_name(f"{name}.toml")
    for name in (
        "recipes",
        "recipes_matching",
        "recipes_trajectories",
        "recipes_datm",
        "recipes_pad",
        "recipes_hosts",
        "recipes_sre2l",
        "recipes_gvbsm",
        "recipes_rded",
        "recipes_dcpi",
        "recipes_dcpi_coresets",
    )
)
HIDDEN = "_"
"""First letter of the names of bases."""
STAGES = ("train-teacher", "distill", "augment-labels", "refine", "evaluate")
WORDS = ("like", "about", "note", "source", "published")
"""Keys of a table that are no stage."""


@dataclass(frozen=True)
class Published:
    """What the paper reports for these settings."""

    accuracy: float
    """Mean test accuracy, a fraction."""
    std: float | None
    """Its standard deviation, a fraction, where the table gives one."""
    table: str
    """Where the number is printed."""


@dataclass(frozen=True)
class Recipe:
    """One named set of options."""

    name: str
    about: str
    """What all recipes of the family are."""
    note: str
    """What is particular to this one; may be empty."""
    source: str
    published: Published | None
    stages: Mapping[str, Mapping[str, str]]
    """Options by stage, as texts, without those of `--set`."""
    settings: Mapping[str, Mapping[str, str]]
    """`--set` options by stage, as texts."""

    @property
    def family(self) -> str:
        """What stands before the slash of the name; empty without one."""
        return self.name.partition("/")[0] if "/" in self.name else ""

    def options_of(self, stage: str) -> Mapping[str, str]:
        """The options for one stage.

        Raises:
            UsageError: the recipe does not speak of that stage.
        """
        if stage not in self.stages:
            raise UsageError(
                f"recipe '{self.name}' has nothing for '{stage}', expected one of {', '.join(self.stages)}",
                field="recipe",
                hint="drop --recipe here",
            )
        return self.stages[stage]


def recipe_names() -> tuple[str, ...]:
    """All recipes, in the order of the files, so that a family stands together and grows with ipc."""
    return tuple(name for name in _tables() if not name.startswith(HIDDEN))


def load_recipe(name: str) -> Recipe:
    """One recipe by name.

    Raises:
        UsageError: there is none, naming the nearest.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
        question = f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
        raise UsageError(
            f"unknown recipe '{name[:80]}'{question}", field="recipe", hint=f"'ddlabel recipes' lists all {len(names)}"
        )
    table = _tables()[name]
    stages = {stage: dict(table[stage]) for stage in STAGES if stage in table}
    settings = {stage: _texts(options.pop("set", {})) for stage, options in stages.items()}
    texts = {stage: _texts(options) for stage, options in stages.items()}
    published = _published(table.get("published", {}))
    return Recipe(name, table["about"], table.get("note", ""), table["source"], published, texts, settings)


def resolve(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every table with its bases merged under it, in the given order.

    Raises:
        ValueError: a base that does not exist, tables that are built on each other, or a key that is no stage.
    """
    done: dict[str, dict[str, Any]] = {}

    def visit(name: str, chain: tuple[str, ...]) -> dict[str, Any]:
        if name in chain:
            raise ValueError(f"recipes are built on each other: {' -> '.join((*chain, name))}")
        if name not in tables:
            raise ValueError(f"recipe '{chain[-1]}' is like '{name}', which does not exist")
        strange = sorted(tables[name].keys() - {*WORDS, *STAGES})
        if strange:
            raise ValueError(f"recipe '{name}' has '{strange[0]}', expected one of {', '.join((*WORDS, *STAGES))}")
        if name not in done:
            bases = tables[name].get("like", [])
            merged: dict[str, Any] = {}
            for base in [bases] if isinstance(bases, str) else bases:
                merged = _merge(merged, visit(base, (*chain, name)))
            own = {key: value for key, value in tables[name].items() if key != "like"}
            done[name] = _merge(merged, own)
        return done[name]

    return {name: visit(name, ()) for name in tables}


@cache
def _tables() -> dict[str, dict[str, Any]]:
    tables: dict[str, Any] = {}
    for file in FILES:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
        twice = sorted(tables.keys() & found.keys())
        if twice:
            raise ValueError(f"{file.name}: recipe '{twice[0]}' is in another file too")
        tables |= found
    return resolve(tables)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key, everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below if isinstance(below, dict) else {}, value) if isinstance(value, dict) else value
    return merged


def _published(table: Mapping[str, Any]) -> Published | None:
    if "accuracy" not in table:
        return None
    std = _fraction(table["std"]) if "std" in table else None
    return Published(_fraction(table["accuracy"]), std, table["table"])


def _fraction(percent: float) -> float:
    """A percentage as printed, as the nearest fraction: 65.4 is 0.654."""
    return round(percent / 100, 6)


def _texts(options: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in options.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
