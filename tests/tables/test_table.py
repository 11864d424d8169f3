"""Tables of all papers: every row's commands are what the command line takes, at every budget."""

from __future__ import annotations

import pytest

from ddlabel.cli import app
from ddlabel.errors import UsageError
from ddlabel.recipes import load_recipe, recipe_names
from ddlabel.tables._table import BUDGETS, axes_of, find_rows, load_table, missing, steps_of, table_names

TABLES = table_names()
VALID: set[tuple[str, ...]] = set()
"""Commands that were checked: many tables share them."""


def everything(row) -> dict[str, str]:
    """What a user could give: any name is a data set or something a row needs."""
    return {row.data: "digits", **{name: f"{name}.safetensors" for name in row.needs}}


def check_commands(rows, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, options and values of every step, as `config dump` checks them; bundles are not read."""
    lines = {
        (*step.words, "-o", step.output)
        for row in rows
        for budget in BUDGETS
        if not missing(row, budget, everything(row))
        for step in steps_of(row, budget, everything(row))
    }
    problems = []
    for line in sorted(lines - VALID):
        try:
            app.dispatch(["config", "dump", *line])
        except UsageError as error:
            problems.append(f"{' '.join(line)}: {error}")
    capsys.readouterr()
    assert not problems, "\n".join(problems)
    VALID.update(lines)


@pytest.mark.parametrize("name", TABLES)
def test_commands_of_every_pipeline_are_valid(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One row for each pipeline of a table."""
    check_commands({row.given["use"]: row for row in load_table(name).rows}.values(), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_commands_of_every_row_are_valid(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All rows: a thousand commands."""
    check_commands(load_table(name).rows, capsys)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_runs_at_some_budget_or_says_what_is_missing(name: str) -> None:
    """A row that no budget takes says why; cells have labels that the full budget's axes know."""
    for row in load_table(name).rows:
        assert row.cells, row.full_name
        for budget in BUDGETS:
            if not missing(row, budget, everything(row)):
                axes = axes_of(row, budget)
                for cell in row.cells:
                    parts = cell.label.split("/") if axes else []
                    assert len(parts) == len(axes), (row.full_name, cell.label)
                    if budget == "full":
                        unknown = [part for part, axis in zip(parts, axes.values(), strict=True) if part not in axis]
                        assert not unknown, (row.full_name, unknown)


def test_tables_and_recipes_have_different_names() -> None:
    """A word on the command line is of one of them."""
    families = {name.partition("/")[0] for name in recipe_names()}

    assert not families & set(TABLES)


def test_equal_steps_of_two_rows_are_one_file() -> None:
    """Names of files follow from commands and inputs, not from rows."""
    first, second = find_rows("pad-1/cifar10-ipc1-random")[0], find_rows("pad-1/cifar10-ipc10-random")[0]
    use = {"cifar10": "digits"}

    assert [step.file for step in steps_of(first, "smoke", use)] == [
        step.file for step in steps_of(second, "smoke", use)
    ]
    assert not {step.file for step in steps_of(first, "full", use)} & {
        step.file for step in steps_of(second, "full", use)
    }


@pytest.mark.parametrize("budget", ["cpu", "full"])
def test_images_of_the_question_of_bytes_fit_their_budget(budget: str) -> None:
    """Side and number of images against the kilobytes in the row's name."""
    for row in load_table("question-bytes").rows:
        most = int(row.name.split("-")[1].removesuffix("kb"))
        distill = next(
            step.words for step in steps_of(row, budget, {"cifar10": "digits"}) if step.words[0] == "distill"
        )
        side = int(distill[distill.index("--size") + 1]) if "--size" in distill else 32
        ipc = int(distill[distill.index("--ipc") + 1])
        assert 10 * ipc * 3 * side * side <= 1000 * most, row.full_name


def said(step, option: str) -> str | None:
    """What a step types for an option, or its recipe has."""
    if f"--{option}" in step.words:
        return step.words[step.words.index(f"--{option}") + 1]
    if "--recipe" not in step.words:
        return None
    return load_recipe(step.words[step.words.index("--recipe") + 1]).stages[step.words[0]].get(option)


@pytest.mark.parametrize("name", TABLES)
def test_no_recipe_loses_its_settings(name: str) -> None:
    """Another method, loss or kind than the recipe's takes all of its --set away: it is typed without the recipe."""
    for row in load_table(name).rows:
        if missing(row, "full", everything(row)):
            continue
        for step in steps_of(row, "full", everything(row)):
            if "--recipe" in step.words:
                recipe = load_recipe(step.words[step.words.index("--recipe") + 1])
                own = recipe.stages[step.words[0]]
                other = [key for key in ("method", "loss", "kind") if said(step, key) != own.get(key)]
                assert not other or not recipe.settings[step.words[0]], (row.full_name, step.words)


@pytest.mark.parametrize("name", TABLES)
def test_bundles_that_meet_are_of_one_space(name: str) -> None:
    """Images, their experts and the nets that label them see the same inputs, where two of them say which."""
    for row in load_table(name).rows:
        if missing(row, "full", everything(row)):
            continue
        spaces: dict[str, str | None] = {}
        for step in steps_of(row, "full", everything(row)):
            met = {spaces.get(word) for word in step.words} - {None}
            own = said(step, "space")
            assert len(met | ({own} - {None})) < 2, (row.full_name, step.words, met, own)
            spaces[step.output] = own or next(iter(met), None)
