"""The command: what it refuses before reading, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddlabel import _plugins
from ddlabel.config import ImportConfig
from ddlabel.errors import UsageError
from ddlabel.importers._guess import constants_of, guess, likely_sets
from ddlabel.stages.import_set import run

from .conftest import CONSTANTS, FACTS


@pytest.fixture
def plain(tmp_path: Path, units, labels) -> Path:
    torch.save({"images": units, "labels": labels}, tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


def test_all_problems_of_the_command_line_are_reported_together(run_cli) -> None:
    outcome = run_cli("import", "--format", "mt", "--space", "odd", "--mean", "2,0,0", "--nope", "1")

    assert outcome.code == 2
    for words in ("'--nope'", "one of normalised, imagenet, zca", "'mean' is 2.0", "option 'output' is missing"):
        assert words in outcome.err


def test_no_file_stdin_and_unknown_formats_are_refused(run_cli, tmp_path: Path, plain: Path) -> None:
    out = ("-o", tmp_path / "out.ddset")

    missing = run_cli("import", tmp_path / "missing.pt", *out)
    assert (missing.code, missing.err) == (3, "error: missing.pt: no such file; check the path\n")
    assert "no file given" in run_cli("import", *out).err
    assert "'-' is no file that can be read twice" in run_cli("import", "-", *out).err
    assert "did you mean 'mtt'" in run_cli("import", plain, "--format", "mtg", *out).err
    assert "unknown option 'nope'" in run_cli("import", plain, *FACTS, "--set", "nope=1", *out).err


def test_options_that_do_not_fit_are_refused(plain: Path, refused, tiny) -> None:
    given = (plain, *FACTS, "--values", "space", "--space", "normalised")

    assert "belong together" in refused(2, *given, "--mean", "0.5,0.5,0.5")
    assert "given twice" in refused(2, *given, *CONSTANTS, "--constants", "cifar10")
    assert "no published constants of 'pets'" in refused(2, *given, "--constants", "pets")
    assert "no soft labels" in refused(2, *given, *CONSTANTS, "--domain", "prob")
    assert "expected 2 or more" in refused(2, *given, *CONSTANTS, "--classes", "a,a")
    assert "the data set 'tiny' has" in refused(2, *given, "--data", tiny)
    assert "has no experiments" in refused(2, *given, *CONSTANTS, "--set", "experiment=0")


def test_doubts_are_said(plain: Path, run_cli, tmp_path: Path) -> None:
    given = (*FACTS, *CONSTANTS, "--values", "space", "--space", "normalised", "-o", tmp_path / "out.ddset")
    outcome = run_cli("import", plain, *given)

    assert outcome.code == 0
    assert "look like units, they are taken as space" in outcome.err


def test_the_facts_and_where_they_came_from_are_printed(plain: Path, run_cli, tmp_path: Path) -> None:
    given = ("import", plain, *FACTS, *CONSTANTS, "--accept-guess", "--force", "-o", tmp_path / "out.ddset")
    text, document = run_cli(*given), run_cli(*given, "--json")

    assert "guess accepted" in text.out
    assert "0.2, 0.25, 0.3" in text.out
    facts = json.loads(document.out)["history"]["config"]["facts"]
    assert facts["values"] == "guess accepted"
    assert facts["classes"] == "option"


def test_counts_step_size_and_whitening_are_among_the_facts(units, labels, tiny, run_cli, tmp_path: Path) -> None:
    for name, value in (("images", 0.3 * units), ("labels", labels), ("lr", torch.tensor(0.0125))):
        torch.save(value, tmp_path / f"{name}_best.pt")
    outcome = run_cli("import", tmp_path, "--data", tiny, "--space", "zca", "-o", tmp_path / "out.ddset")

    for words in ("2 per class", "0.0125", "epsilon 0.1"):
        assert words in outcome.out


def test_no_files_are_a_usage_error_of_the_stage_too() -> None:
    with pytest.raises(UsageError, match="no file given"):
        run(ImportConfig(), files=[])


def test_the_same_files_give_the_same_bytes(plain: Path, run_cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    made = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.ddset"
        assert run_cli("import", plain, *FACTS, *CONSTANTS, "--values", "units", "-o", path).code == 0
        made.append(path.read_bytes())

    assert made[0] == made[1]


def test_every_format_says_what_it_reads() -> None:
    for name in _plugins.names("importers"):
        importer = _plugins.load("importers", name, "IMPORTER")
        assert importer().read
        assert importer.__doc__


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, ("units", None)),
        (-2.2, 2.2, ("space", "normalised")),
        (-0.6, 0.6, ("space", "zca")),
        (3, 9, (None, None)),
    ],
)
def test_guesses_follow_range_mean_and_spread(low, high, wanted) -> None:
    images = low + (high - low) * torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = guess(images)

    assert (found.values, found.space) == wanted


def test_published_sets_are_known_by_shape_and_classes() -> None:
    assert likely_sets(3, 32, 32, 10) == ["cifar10", "svhn"]
    assert likely_sets(1, 28, 28, None) == ["mnist", "fashion-mnist"]
    assert likely_sets(3, 32, 32, 7) == []
    assert constants_of("mnist") == ((0.1307,), (0.3081,))
