"""Recipes: the published settings of a method as named options, one table per stage, in `recipes.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UsageError, suggest

__all__ = ["Recipe", "load_recipe", "recipe_names"]

FILE = Path(__file__).with_name("recipes.toml")


@dataclass(frozen=True)
class Recipe:
    """One named set of options."""

    name: str
    about: str
    source: str
    stages: Mapping[str, Mapping[str, str]]
    """Options by stage, as texts, without those of `--set`."""
    settings: Mapping[str, Mapping[str, str]]
    """`--set` options by stage, as texts."""

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
    """All recipes, sorted."""
    return tuple(sorted(_tables()))


def load_recipe(name: str) -> Recipe:
    """One recipe by name.

    Raises:
        UsageError: there is none, naming the nearest.
    """
    tables = _tables()
    if name not in tables:
        raise UsageError(f"unknown recipe '{name[:80]}'{suggest(name, tables)}", field="recipe")
    table = tables[name]
    stages = {stage: dict(options) for stage, options in table.items() if isinstance(options, dict)}
    settings = {stage: _texts(options.pop("set", {})) for stage, options in stages.items()}
    texts = {stage: _texts(options) for stage, options in stages.items()}
    return Recipe(name, table["about"], table["source"], texts, settings)


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _texts(options: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in options.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
