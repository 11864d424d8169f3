"""Recipes of privileged labels against DCPI's Tables 1, 3, 8, 9 and 10, typed in here a second time."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from ddlabel import _plugins
from ddlabel.options import build
from ddlabel.recipes import load_recipe, recipe_names

TABLE_8 = """
fraction DC            MTT             DATM
C10-1    1.5/.1/1      .5/.001/1       .5/.001/5
C10-10   .5/.1/1       .0005/.01/3     .05/.1/3
C10-50   .01/.01/1     .05/.001/1      .05/.001/1
C100-1   1.5/.1/1      .5/.01/3        .05/.01/1
C100-10  .001/.005/1   .005/.001/1     .05/.001/1
C100-50  .5/.1/1       .5/.01/3        .0005/.001/1
Tiny-1   -             .5/.0001/3      .005/.001/1
Tiny-10  -             .005/.001/1     .005/.001/1
"""
"""lambda_reg / lambda_task / K."""
TABLE_9 = """
ipc nette woof fruit meow   yellow
1   .005  .005 .005  .00005 .005
10  .005  .5   .5    .5     .5
"""
"""lambda_reg; lambda_task is .01 and K 1."""
TABLE_10 = """
method C10-1 C10-10 C10-50 C100-1 C100-10 C100-50 Tiny-1 Tiny-10
DC     31.5  47.3   55.3   14.9   25.6    31.6    -      -
MTT    47.4  65.9   72.7   25.6   41.0    48.4    11.2   24.9
DATM   48.0  68.1   76.2   28.4   47.6    55.2    17.6   -
"""
TABLE_3 = """
ipc nette woof fruit meow yellow
1   50.5  31.3 29.1  34.0 46.6
10  65.7  37.5 43.0  43.8 62.2
"""
TABLE_1 = """
set        C10-1 C10-5 C10-10 C10-20 C10-50 C100-1 C100-5 C100-10 C100-20 C100-50
herding    27.9  37.3  45.8   51.0   54.0   14.0   20.4   25.5    28.9    31.4
k-center   29.7  40.0  46.2   50.8   54.3   13.5   20.0   25.9    29.1    32.0
forgetting 30.0  39.7  46.6   51.3   54.5   14.0   20.1   25.8    29.3    32.2
"""
DATA = {"C10": "cifar10", "C100": "cifar100", "Tiny": "tiny-imagenet"}
LOOPS = {"1": (1, 1), "5": (5, 100), "10": (10, 50), "20": (20, 25), "50": (50, 10)}
CORESETS = ("herding", "k-center", "forgetting")
HOSTS = ("dc", "mtt", "datm", *CORESETS)
FAMILY = [name for name in recipe_names() if name.startswith("dcpi/")]


def rows_of(table: str) -> list[dict[str, str]]:
    """A table as texts by column."""
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def of_column(column: str, method: str) -> str:
    """The recipe of C10-1: dcpi/cifar10-ipc1-METHOD."""
    data, ipc = column.split("-")
    return f"dcpi/{DATA[data]}-ipc{ipc}-{method}"


def cells(table: str, method: str | None = None) -> dict[str, str]:
    """Every cell of a table by its recipe; rows are methods, or numbers of images per class of ImageNet subsets."""
    found = {}
    for row in rows_of(table):
        (_, first), *rest = row.items()
        for column, cell in rest:
            subset = f"dcpi/image{column}-ipc{first}-{method}"
            found[subset if method else of_column(column, first.lower())] = cell
    return found


PUBLISHED = cells(TABLE_1) | cells(TABLE_3, "mtt") | cells(TABLE_10)
SETTINGS = {
    of_column(row["fraction"], method.lower()): row[method]
    for row in rows_of(TABLE_8)
    for method in ("DC", "MTT", "DATM")
}
SETTINGS |= {name: f"{cell}/.01/1" for name, cell in cells(TABLE_9, "mtt").items()}
SETTINGS |= {name: f"{5 if 'cifar100' in name else 0.5}/.001/1" for name in cells(TABLE_1)}


def members(host: str) -> list[str]:
    """Recipes for the images of a method."""
    return [name for name in FAMILY if re.sub(r".*-ipc\d+-", "", name) == host]


def test_every_row_has_a_recipe_and_no_recipe_lacks_a_row() -> None:
    """Six, eight and eight of Table 8, ten of Table 9, thirty coresets."""
    assert sorted(name for name, cell in SETTINGS.items() if cell != "-") == sorted(FAMILY)
    assert 6 + 8 + 8 + 10 + 30 == len(FAMILY)


@pytest.mark.parametrize("host", HOSTS)
def test_weights_and_numbers_of_labels_are_the_published_ones(host: str) -> None:
    """Cell by cell."""
    for name in members(host):
        settings = load_recipe(name).settings["refine"]

        assert [float(part) for part in SETTINGS[name].split("/")] == [
            float(settings[key]) for key in ("lambda_reg", "lambda_task", "k")
        ]


@pytest.mark.parametrize("host", HOSTS)
def test_published_accuracy_stands_beside_the_settings(host: str) -> None:
    """The number with its table, or the reason why there is none."""
    for name in members(host):
        recipe = load_recipe(name)

        if PUBLISHED[name] == "-":
            assert recipe.published is None
            assert "no published accuracy" in recipe.note
        else:
            assert recipe.published
            assert recipe.published.accuracy == pytest.approx(float(PUBLISHED[name]) / 100, abs=1e-12)
            table = " 1 " if host in CORESETS else " 3 " if "/image" in name else "s 2, 10 and 11 "
            assert recipe.published.table.startswith(f"DCPI Table{table}")
            assert re.search(r"\d\d?\.\d (without labels|as chosen)", recipe.note)


@pytest.mark.parametrize("host", HOSTS)
def test_names_say_host_data_and_ipc(host: str) -> None:
    """And all stages agree with the name."""
    for name in members(host):
        recipe, ipc = load_recipe(name), re.search(r"-ipc(\d+)-", name)
        depth = "convnet-d4" if "tiny" in name else "convnet-d5" if "/image" in name else "convnet-d3"
        experts = ("train-teacher",) if host in {"mtt", "datm"} else ()

        assert ipc
        assert ipc[1] == recipe.stages["distill"]["ipc"]
        assert host == recipe.stages["distill"]["method"]
        assert {depth} == {
            recipe.stages[stage]["arch"]
            for stage in ("refine", "evaluate", *experts)
            if "arch" in recipe.stages.get(stage, {})
        }
        assert all(recipe.stages[stage].get("validation", "0") == "0" for stage in ("distill", *experts))
        assert "validation 0" in recipe.about


@pytest.mark.parametrize("host", HOSTS)
def test_labels_are_learned_by_the_loops_of_the_host(host: str) -> None:
    """What both stages can set is set alike, and experts have recorded what is matched."""
    for name in members(host):
        recipe = load_recipe(name)
        distill, refine = recipe.settings["distill"], recipe.settings["refine"]
        matcher = recipe.stages["refine"]["matcher"]
        labels = _plugins.load("refine", "dcpi", "REFINEMENT").for_settings({"matcher": matcher})
        learner, method = build(labels, refine), build(_plugins.load("distill", host, "METHOD"), distill)
        shared = {field.name for field in fields(learner)} & {field.name for field in fields(method)}
        shared -= {"init", "syn_lr"}  # of labels; the bundle's

        assert len(shared) >= (8 if host == "dc" else 20 if matcher == host else 0)
        assert not [name for name in sorted(shared) if getattr(learner, name) != getattr(method, name)]
        assert matcher == (host if host in {"mtt", "datm"} else "dc")
        if matcher == "dc":
            assert LOOPS[recipe.stages["distill"]["ipc"]] == (int(refine["outer"]), int(refine["inner"]))
        else:
            last = int(refine["max_start_epoch"]) + int(refine["expert_epochs"])
            assert recipe.stages["train-teacher"]["keep_epochs"] == f"{refine['min_start_epoch']}-{last}"


@pytest.mark.parametrize("host", HOSTS)
def test_images_move_where_the_paper_or_its_code_moves_them(host: str) -> None:
    """With trajectories and on coresets; in the rows of DC it is not stated."""
    for name in members(host):
        recipe = load_recipe(name)
        evaluate = recipe.stages["evaluate"]

        assert recipe.settings["refine"]["tune_images"] == str(host != "dc").lower()
        assert evaluate["labels"] == ("soft+feature" if host == "datm" else "feature")
        assert evaluate["protocol"] == (host if host in {"mtt", "datm"} else "dc")


def test_the_family_has_one_heading() -> None:
    """What the list prints once for all."""
    assert 1 == len({(load_recipe(name).about, load_recipe(name).source) for name in FAMILY})
