"""`ddlabel recipes run`: rows of published tables become bundles and lines of a file of results."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from ddlabel.cli import _recipes_run
from ddlabel.errors import DivergedError

from ..conftest import run_command

ROW = "pad-1/cifar10-ipc1-random"


def run(run_cli, folder: Path, *words: str):
    return run_cli("recipes", "run", *words, "--folder", str(folder))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder in which the row was run, and what the command printed."""
    folder = tmp_path_factory.mktemp("ran")
    done = run(run_command, folder, ROW, "--json")
    assert done.code == 0, done.err
    return folder, json.loads(done.out)


def test_a_row_is_run_once_and_its_number_is_recorded(run_cli, ran: tuple[Path, dict]) -> None:
    """Bundles lie in the folder; the same command again does nothing and adds nothing."""
    folder, printed = ran
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.ddset")}
    assert {name.partition("-")[0] for name in made} == {"random", "scored"}

    again = run(run_cli, folder, ROW)

    assert again.code == 0, again.err
    assert "$ ddlabel" not in again.err
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.ddset")} == made
    (line,) = (folder / "results.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record == printed["results"][0]
    assert (record["row"], record["published"], record["n"], record["data"]) == (ROW, 15.4, 2, "digits")
    assert record["commands"][-1].startswith("ddlabel evaluate random.ddset --data digits")
    assert str(folder) not in line
    assert "15.40" in again.out
    assert record["digest"][:8] in again.out


def test_a_bundle_cut_in_half_is_made_again(run_cli, ran: tuple[Path, dict], tmp_path: Path) -> None:
    """What is no bundle is not taken for a finished step."""
    folder = tmp_path / "cut"
    shutil.copytree(ran[0], folder)
    (base,) = folder.glob("random-*.ddset")
    content = base.read_bytes()
    base.write_bytes(content[: len(content) // 2])

    assert run(run_cli, folder, ROW).code == 0
    assert len(base.read_bytes()) == len(content)
    assert len((folder / "results.jsonl").read_text().splitlines()) == 1


def test_a_bundle_that_another_command_made_is_refused(run_cli, ran: tuple[Path, dict], tmp_path: Path) -> None:
    """Its numbers would pass for those of the row; nothing is overwritten."""
    folder = tmp_path / "swapped"
    shutil.copytree(ran[0], folder)
    (base,), (scored,) = folder.glob("random-*.ddset"), folder.glob("scored-*.ddset")
    scored.write_bytes(base.read_bytes())

    done = run(run_cli, folder, ROW)

    assert done.code == 3
    assert "is not what 'ddlabel evaluate" in done.err
    assert scored.read_bytes() == base.read_bytes()


def test_values_that_the_user_gives_stay_whole_words(run_cli, tmp_path: Path) -> None:
    """Spaces, quotes and braces of a path are part of it, in the script too."""
    path = "npz:it's {ipc} of my\\ set.npz"
    done = run(run_cli, tmp_path, ROW, "--budget", "cpu", "--use", f"cifar10={path}", "--print")

    assert done.code == 0, done.err
    lines = [shlex.split(line) for line in done.out.splitlines() if line.startswith("ddlabel")]
    assert [line[line.index("--data") + 1] for line in lines] == [path] * 2


def test_results_that_cannot_be_read_are_found_before_any_work(run_cli, tmp_path: Path) -> None:
    """A file that is no file of results is left alone."""
    for content in (b"\xff\xfe\n", b'{"row": [1], "cell": "", "budget": "", "digest": ""}\n'):
        (tmp_path / "results.jsonl").write_bytes(content)
        done = run(run_cli, tmp_path, ROW)

        assert done.code == 2
        assert "has no result in line 1" in done.err
        assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_the_script_is_what_would_be_run(run_cli, tmp_path: Path) -> None:
    """Every command once, in order, with names of files; nothing is run."""
    done = run(
        run_cli, tmp_path / "none", "pad-1/cifar10-ipc1", "--budget", "full", "--use", "cifar10=npz:set.npz", "--print"
    )

    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("ddlabel")]
    assert len(lines) == len(set(lines))
    assert all(line.startswith("ddlabel ") and "--data npz:set.npz" in line for line in lines if "-o" in line)
    assert not (tmp_path / "none").exists()


def test_rows_without_their_data_are_left_out_by_name(run_cli, tmp_path: Path) -> None:
    """Exit 2 when nothing remains, saying what to give."""
    done = run(run_cli, tmp_path, ROW, "--budget", "cpu")

    assert done.code == 2
    assert f"left out: {ROW}: data set cifar10 (--use cifar10=NAME[:PATH])" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no table or row given"),
        (("pda-1",), "did you mean 'pad-1'"),
        (("pad-1/cifar10-ipc1-rndom",), "did you mean 'pad-1/cifar10-ipc1-random'"),
        ((ROW, "--budget", "huge"), "one of smoke, cpu, full"),
        ((ROW, "--use", "cifar=digits"), "expected one of cifar10"),
        ((ROW, "--use", "cifar10"), "NAME=VALUE"),
        ((ROW, "--use", "cifar10="), "gives nothing"),
    ],
)
def test_wrong_words_are_refused_before_any_work(run_cli, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """Exit 2, the near name or the choice in the message."""
    done = run(run_cli, tmp_path / "none", *words)

    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "none").exists()


def test_options_of_run_are_refused_without_it(run_cli) -> None:
    """They would say nothing."""
    done = run_cli("recipes", "pad-1", "--budget", "cpu", "--use", "a=b")

    assert done.code == 2
    assert "'--budget' is of 'ddlabel recipes run'" in done.err
    assert "'--use' is of 'ddlabel recipes run'" in done.err


def test_a_table_lists_its_rows_and_a_row_its_commands(run_cli) -> None:
    """With published numbers; commands of every budget."""
    listed, shown = run_cli("recipes", "pad-1"), run_cli("recipes", ROW)

    assert f"{ROW} " in listed.out
    assert "15.4" in listed.out
    assert [line.strip() for line in shown.out.splitlines() if line.endswith(":")] == ["smoke:", "cpu:", "full:"]
    assert "ddlabel distill --data digits --method random" in shown.out


def test_recipes_and_tables_are_not_mixed(run_cli) -> None:
    """One listing is of one of them."""
    done = run_cli("recipes", "pad/", "pad-1")

    assert done.code == 2
    assert "expected recipes alone or tables alone" in done.err


def test_a_row_that_fails_does_not_stop_the_others(run_cli, ran: tuple[Path, dict], monkeypatch) -> None:
    """The failure is told at once and at the end, with the exit code of its kind; other rows are recorded."""
    plain = _recipes_run.run_row

    def run_row(row, *words, **more):
        if row.full_name != ROW:
            raise DivergedError("loss is nan")
        return plain(row, *words, **more)

    monkeypatch.setattr(_recipes_run, "run_row", run_row)
    done = run(run_cli, ran[0], "pad-1/cifar10-ipc10-random", ROW, "--json")

    assert done.code == 5
    assert "failed: pad-1/cifar10-ipc10-random: loss is nan" in done.err
    assert [record["row"] for record in json.loads(done.out)["results"]] == [ROW]
