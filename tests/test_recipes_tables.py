"""Recipes of matching methods against the published tables, typed in here a second time as the papers print them."""

from __future__ import annotations

import re

import pytest

from ddlabel import _plugins
from ddlabel.options import build
from ddlabel.recipes import load_recipe, recipe_names

DATA = {"C10": "cifar10", "C100": "cifar100", "Tiny": "tiny-imagenet", "subset": "imagenet-subset", "1K": "imagenet1k"}
NETS = {"cifar10": "d3", "cifar100": "d3", "tiny-imagenet": "d4", "imagenet-subset": "d5", "imagenet1k": "d4"}
SYMBOLS = {
    "N": "syn_steps", "M": "expert_epochs", "T-": "min_start_epoch", "T": "current_max_start_epoch",
    "T+": "max_start_epoch", "Interval": "interval", "b": "batch_syn", "lr_img": "lr_images", "lr_label": "lr_label",
    "lr_lr": "lr_lr", "beta0": "syn_lr", "EMA": "ema", "init": "init", "threshold": "threshold", "mask": "mask",
    "mu": "inner_momentum",
}  # fmt: skip
"""Columns of the tables and our options; `-` and `all` are an option whose value is auto."""

MTT = """
row       N  M T+ b   ZCA lr_img lr_lr beta0 published
C10-1     50 2 2  all Y 100   1e-7 0.01  46.2
C10-10    30 2 20 all Y 100   1e-5 0.001 65.4
C10-50    30 2 40 all N 1000  1e-5 0.001 71.6
C100-1    20 3 20 all Y 1000  1e-5 0.01  24.3
C100-10   20 2 20 all N 1000  1e-5 0.01  39.7
C100-50   80 2 40 125 Y 1000  1e-5 0.01  47.7
Tiny-1    10 2 10 all N 10000 1e-4 0.01  8.8
Tiny-10   20 2 40 200 N 10000 1e-4 0.01  23.2
Tiny-50   20 2 40 300 N 10000 1e-4 0.01  28.0
subset-1  20 2 10 all N 10000 1e-6 0.01  -
subset-10 20 2 10 20  N 10000 1e-6 0.01  -
"""
TESLA = """
row     N  M T+ b   ZCA lr_img lr_lr published
C10-1   50 2 5  all N 1000  1e-7 48.5
C100-50 80 2 40 125 Y 1000  1e-5 47.9
1K-1    10 3 10 100 N 10000 1e-4 -
"""
FTD = """
row       N  M T+ b    lr_img lr_lr beta0 alpha EMA  ZCA published
C10-1     50 2 2  all  100   1e-7 .01  .3 .9999 Y 46.8
C10-10    30 2 20 all  100   1e-5 .001 .3 .9995 Y 66.6
C10-50    30 2 40 all  1000  1e-5 .01  1  .999  N 73.8
C100-1    40 3 20 all  1000  1e-5 .01  1  .9995 Y 25.2
C100-10   20 2 40 all  1000  1e-5 .01  1  .9995 N 43.4
C100-50   80 2 40 1000 1000  1e-5 .01  1  .999  Y 50.7
Tiny-1    30 2 10 all  10000 1e-4 .01  1  .999  N 10.4
Tiny-10   20 2 40 500  10000 1e-4 .01  1  .999  N 24.5
subset-1  20 2 10 64   10000 1e-4 .01  1  .999  N -
subset-10 20 2 10 64   10000 1e-4 .001 1  .999  N -
"""
AST = """
row     N  M T+ b   lr_img lr_lr beta0 mu ZCA published
C100-1  40 3 15 all 100  1e-5 .01 .9 Y -
C100-10 20 2 30 128 1000 1e-5 .01 .9 Y -
C100-50 80 2 40 700 1000 1e-5 .01 .9 Y -
"""
DATM = """
row      N   M T- T  T+ Interval b lr_img lr_label lr_lr init threshold published
C10-1    80  2 0  4  4  -   10   100   5  1e-7 correct 1.1 46.9
C10-10   80  2 0  10 20 100 100  100   2  1e-5 correct 1   66.8
C10-50   80  2 0  20 40 100 500  1000  2  1e-5 correct 1   76.1
C10-500  40  2 40 60 60 -   1000 50    10 1e-5 correct 1   83.5
C10-1000 100 2 40 60 60 -   1000 50    10 1e-5 correct 1   85.5
C100-1   40  3 0  10 20 100 all  1000  10 1e-5 correct 1   27.9
C100-10  80  2 0  30 50 100 1000 1000  10 1e-5 correct 1   47.2
C100-50  80  2 20 70 70 -   1000 1000  10 1e-5 real    1   55.0
C100-100 80  2 30 70 70 -   1000 50    10 1e-5 correct 1   57.5
Tiny-1   40  2 0  15 20 400 all  10000 10 1e-4 correct 1   17.1
Tiny-10  40  2 10 50 50 -   500  100   10 1e-4 correct 1   31.1
Tiny-50  20  2 40 70 70 -   1000 100   10 1e-4 correct 1   39.7
"""
PAD = """
row      share mask N M T- T T+ Interval b lr_label lr_img lr_lr init threshold aee r1_epoch r2 published
C10-1    0    depth 80 2 0  4  4  -   10   5  100   1e-7 correct 1.1 20 40 .1 47.2
C10-10   .25  depth 80 2 0  10 20 100 100  2  100   1e-5 correct 1   20 40 .1 67.4
C10-50   .25  depth 80 2 0  20 40 100 500  2  1000  1e-5 correct 1   20 40 .1 77.0
C10-500  .5   depth 80 2 40 60 60 -   1000 10 50    1e-5 correct 1   20 40 .1 84.6
C10-1000 .75  depth 80 2 40 60 60 -   1000 10 50    1e-5 correct 1   20 40 .1 86.7
C100-1   0    depth 40 3 0  10 20 100 100  10 1000  1e-5 correct 1   40 40 .1 28.4
C100-10  .25  depth 80 2 0  20 40 100 1000 10 1000  1e-5 correct 1   40 40 .1 47.8
C100-50  .5   depth 80 2 40 60 80 100 1000 10 1000  1e-5 correct 1   40 40 .1 55.9
C100-100 .5   depth 80 2 40 80 80 -   1000 10 50    1e-5 correct 1   40 40 .1 58.5
Tiny-1   0    depth 60 2 0  15 30 400 200  10 10000 1e-4 correct 1   40 60 .1 17.7
Tiny-10  .25  depth 60 2 0  20 40 100 250  10 100   1e-4 correct 1   40 60 .1 32.3
Tiny-50  .5   depth 80 2 20 40 60 100 250  10 100   1e-4 correct 1   40 60 .1 41.6
"""
PAD_CODE = """
row      share mask N M T- T T+ Interval b lr_label lr_img lr_lr init threshold aee r1_epoch r2 published
C10-1    0    loss 80  2 0  4  4  -   10   5  100   1e-7 correct 1.1 20 40 .2 47.2
C10-10   .5   loss 80  2 0  10 20 100 100  2  100   1e-5 correct 1   20 40 .2 67.4
C10-50   .25  loss 80  3 0  20 40 100 500  2  1000  1e-5 correct 1   20 40 .2 77.0
C10-500  .5   loss 40  2 40 60 70 200 1000 10 50    1e-5 correct 1   20 40 .2 84.6
C10-1000 .5   loss 100 2 40 60 60 -   1000 10 50    1e-5 correct 1   20 40 .2 86.7
C100-1   .5   loss 40  3 0  20 30 100 100  10 1000  1e-5 correct 1   30 40 .2 28.4
C100-10  .5   loss 80  2 0  30 50 100 1000 10 1000  1e-5 correct 1   30 40 .2 47.8
C100-50  0    loss 80  2 20 70 70 -   1000 10 1000  1e-5 real    1   30 40 .2 55.9
C100-100 .5   loss 80  2 30 70 70 -   1000 10 50    1e-5 correct 1   30 40 .2 58.5
Tiny-1   .5   loss 40  2 0  15 20 400 200  10 10000 1e-4 correct 1   40 60 .1 17.7
Tiny-10  .5   loss 40  2 10 50 50 -   500  10 100   1e-4 correct 1   40 60 .1 32.3
Tiny-50  .5   loss 20  2 40 70 70 -   1000 10 100   1e-4 correct 1   40 60 .1 41.6
"""
TABLES = {
    "mtt": MTT, "tesla": TESLA, "ftd": FTD, "ast": AST, "datm": DATM, "pad": PAD, "pad-code": PAD_CODE,
}  # fmt: skip
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10), 500: (50, 10), 1000: (50, 10)}
MATCHED = {
    "dc": "C10-1 28.3, C10-10 44.9, C10-20, C10-30, C10-40, C10-50 53.9, C10-500 72.1, C10-1000 76.6, C100-1 12.8, "
    "C100-10 25.2",
    "dsa": "C10-1 28.8, C10-10 52.1, C10-20, C10-30, C10-40, C10-50 60.6, C10-500 73.6, C10-1000 78.7, C100-1 13.9, "
    "C100-10 32.3, C100-50 42.8",
    "dm": "C10-1 26.0, C10-10 48.9, C10-50 63.0, C10-500 75.1, C10-1000 78.8, C100-1 11.4, C100-10 29.7, C100-50 43.6, "
    "Tiny-1 3.9, Tiny-10 12.9, Tiny-50 24.1",
    "pad-dc": "C10-1-fiex 29.1, C10-10-fiex 46.3, C10-500-fiex 71.9, C10-10-fiem 45.2, C10-500-fiem 73.4",
    "pad-dm": "C10-1-fiex 29.2, C10-10-fiex 50.3, C10-500-fiex 76.3, C10-10-fiem 49.5, C10-500-fiem 76.3",
    "glad": "subset-5-dc 39.8, subset-5-dm 37.2, subset-5-mtt 44.2",
}
"""Rows with the accuracy of the papers' tables."""


def name_of(family: str, row: str) -> str:
    """The recipe of a row: `C10-1` of mtt is mtt/cifar10-ipc1."""
    data, rest = row.split("-", 1)
    return f"{family}/{DATA[data]}-ipc{rest}"


def rows_of(table: str) -> list[dict[str, str]]:
    """A table as texts by column."""
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


TRAJECTORIES = [(family, row) for family, table in TABLES.items() for row in rows_of(table)]
ROWS = {name_of(family, row["row"]): row["published"] for family, row in TRAJECTORIES} | {
    name_of(family, entry.split()[0]): (*entry.split(), "-")[1]
    for family, entries in MATCHED.items()
    for entry in entries.split(", ")
}
ELSEWHERE = (
    "dcpi/", "sre2l/", "sre2l-fiex/", "cda/", "lpld/", "g-vbsm/",
    "rded/", "rded-i-h/", "rded-i-s/", "ladd-rded-i/", "gift-rded/", "dcpi-rded/",
)  # fmt: skip
"""Families that are compared in test_recipes_dcpi.py, _sre2l.py, _gvbsm.py and _rded.py."""
FAMILIES = [name for name in recipe_names() if "/" in name and not name.startswith(ELSEWHERE)]
FAMILIES = [name for name in recipe_names() if "/" in name and not name.startswith(ELSEWHERE)]


def same(expected: str, found: object) -> bool:
    """Whether a cell says what an option is set to: a text, a number, or None, which is auto."""
    if expected in {"-", "all"}:
        return found in {None, "auto"}
    if found is None or found == "auto":
        return False
    return expected == found or bool(re.match(r"[\d.]", expected) and float(expected) == float(str(found)))


def test_every_published_row_has_a_recipe_and_no_recipe_lacks_a_row() -> None:
    """All tables, and nothing of our own among them."""
    assert sorted(ROWS) == sorted(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_names_say_family_data_and_ipc(name: str) -> None:
    """And the ipc of the name is the one that is distilled."""
    parts = re.fullmatch(
        r"([a-z-]+)/(?:cifar10|cifar100|tiny-imagenet|imagenet-subset|imagenet1k)-ipc(\d+)(-[a-z]+)?", name
    )

    assert parts
    assert parts[2] == load_recipe(name).stages["distill"]["ipc"]
    assert parts[1] == load_recipe(name).family


@pytest.mark.parametrize("name", FAMILIES)
def test_published_accuracy_stands_beside_the_settings(name: str) -> None:
    """The number of the table as a fraction, or the reason why there is none."""
    recipe, expected = load_recipe(name), ROWS[name]

    if expected == "-":
        assert recipe.published is None
        assert "accuracy" in recipe.note
    else:
        assert recipe.published
        assert recipe.published.accuracy == pytest.approx(float(expected) / 100, abs=1e-12)
        assert "arXiv" in recipe.published.table


@pytest.mark.parametrize("family", sorted({*TABLES, *MATCHED}))
def test_a_family_has_one_heading(family: str) -> None:
    """What the list prints once for all."""
    members = [load_recipe(name) for name in FAMILIES if name.startswith(f"{family}/")]

    assert len({member.about for member in members}) == 1


@pytest.mark.parametrize(
    ("family", "row"), TRAJECTORIES, ids=lambda part: part if isinstance(part, str) else part["row"]
)
def test_trajectory_recipes_are_the_published_rows(family: str, row: dict[str, str]) -> None:
    """Every cell of the table, against the options of the method that the recipe makes, defaults and all."""
    recipe = load_recipe(name_of(family, row["row"]))
    options, settings = recipe.stages["distill"], recipe.settings["distill"]
    experts, how = recipe.stages["train-teacher"], recipe.settings["train-teacher"]
    method = build(_plugins.load("distill", options["method"], "METHOD"), settings)
    made = {key: getattr(method, SYMBOLS[key]) for key in row.keys() & SYMBOLS}
    if "Interval" in made and method.current_max_start_epoch == method.max_start_epoch:
        made["Interval"] = None

    wrong = {key: value for key, value in made.items() if not same(row[key], value)}
    wrong |= {key: how[key] for key in row.keys() & {"alpha", "aee", "r1_epoch", "r2"} if not same(row[key], how[key])}
    assert not wrong
    assert options["method"] == family.removesuffix("-code")
    if "share" in row:
        assert same(row["share"], options["mask_shallow"])
    if "ZCA" in row:
        assert experts["space"] == {"Y": "zca", "N": "normalised"}[row["ZCA"]]


@pytest.mark.parametrize(
    ("family", "row"), TRAJECTORIES, ids=lambda part: part if isinstance(part, str) else part["row"]
)
def test_ranges_of_start_epochs_fit_the_trajectories(family: str, row: dict[str, str]) -> None:
    """T- < T <= T+, T+ + M <= E, and the epochs T- to T+ + M are the ones recorded."""
    recipe = load_recipe(name_of(family, row["row"]))
    settings, experts = recipe.settings["distill"], recipe.stages["train-teacher"]
    last = int(settings["max_start_epoch"])
    first, current = int(settings["min_start_epoch"]), int(settings.get("current_max_start_epoch", last))
    read = last + int(settings["expert_epochs"])

    assert first < current <= last
    assert read <= int(experts["epochs"])
    assert experts["keep_epochs"] == f"{first}-{read}"
    assert (current == last) == (settings.get("interval", "auto") == "auto")


@pytest.mark.parametrize("name", FAMILIES)
def test_nets_suit_the_data_and_no_image_is_held_out(name: str) -> None:
    """ConvNet-D3 to D5 by resolution; the papers have no validation split."""
    recipe = load_recipe(name)
    depth = f"convnet-{NETS[name.split('/')[1].rsplit('-ipc')[0]]}"
    nets = [options["arch"].split(",")[0] for options in recipe.stages.values() if "arch" in options]

    assert set(nets) == {depth}
    assert recipe.stages["distill"]["validation"] == "0"
    assert recipe.stages.get("train-teacher", {}).get("validation", "0") == "0"
    assert "validation 0" in recipe.about


@pytest.mark.parametrize("family", ["dc", "dsa", "pad-dc"])
def test_gradient_matching_has_the_loops_of_its_ipc(family: str) -> None:
    """Outer loops and inner epochs: the table of the code, and our rule where it has none."""
    for name in FAMILIES:
        if name.startswith(f"{family}/"):
            settings = load_recipe(name).settings["distill"]
            ipc = int(load_recipe(name).stages["distill"]["ipc"])
            assert LOOPS[ipc] == (int(settings["outer"]), int(settings["inner"]))
            assert ("1000", "0.1", "256") == (settings["steps"], settings["lr_images"], settings["batch_real"])


def test_the_parts_of_pad_inside_other_methods_are_the_best_published_ones() -> None:
    """Side and share of the filter, or the share that is not matched."""
    found = {
        name: load_recipe(name).stages["distill"].get("filter") or load_recipe(name).stages["distill"]["mask_shallow"]
        for name in FAMILIES
        if name.startswith(("pad-dc/", "pad-dm/"))
    }

    assert list(found.values()) == [
        "hard:0.2", "hard:0.25", "easy:0.1", "0.25", "0.75", "hard:0.5", "hard:0.2", "easy:0.15", "0.25", "0.75"
    ]  # fmt: skip


def test_experts_of_datm_and_pad_are_flat_ones_of_100_epochs() -> None:
    """GSAM with rho 0.01 and alpha 0.3, whitened, a hundred of them."""
    for name in FAMILIES:
        if name.startswith(("datm/", "pad/", "pad-code/")):
            experts, how = load_recipe(name).stages["train-teacher"], load_recipe(name).settings["train-teacher"]
            assert ("gsam", "zca", "100", "100") == tuple(
                experts[key] for key in ("optimizer", "space", "experts", "epochs")
            )
            assert ("0.01", "0.3", "0.01", "256") == tuple(how[key] for key in ("rho", "alpha", "lr", "batch"))
            assert ("datm", "soft", "softce") == tuple(
                load_recipe(name).stages["evaluate"][key] for key in ("protocol", "labels", "loss")
            )
