"""The command line in several processes: what is refused, who speaks, and whose states are in the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddlabel.cli import _team
from ddlabel.cli._team import SPREAD, Told, joining
from ddlabel.errors import DdlabelError, DivergedError, InterruptedRunError, UsageError
from ddlabel.team import Team

AsProcess = Callable[[int, int], None]
RANDOM = ("distill", "--method", "random", "--ipc", "2")


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> AsProcess:
    """Makes this process one of several of this machine, as far as the environment says."""

    def make(rank: int, size: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(size))

    return make


def test_a_command_that_cannot_be_shared_is_refused_once(run_cli, files, as_process: AsProcess) -> None:
    """The first process names those that can; the others end with the same code and say nothing."""
    as_process(0, 2)
    first = run_cli("inspect", files.base)
    as_process(1, 2)
    other = run_cli("inspect", files.base)

    assert (2, 2, "") == (first.code, other.code, other.err)
    assert "'inspect' is for one process, this is one of 2" in first.err
    assert all(name in first.err for name in SPREAD)


def test_a_wrong_option_is_said_once(run_cli, tiny: str, tmp_path: Path, as_process: AsProcess) -> None:
    """Before the processes look for each other, in words and in JSON."""
    command = ("train-teacher", "--data", tiny, "--epochs", "x", "--json", "-o", tmp_path / "x.ddset")
    as_process(0, 2)
    first = run_cli(*command)
    as_process(1, 2)
    other = run_cli(*command)

    assert (2, 2, "", "") == (first.code, other.code, other.err, other.out)
    assert "option 'epochs' is 'x'" in first.err


def test_the_first_process_of_every_machine_says_what_it_lacks(
    run_cli, tiny: str, tmp_path: Path, as_process: AsProcess, monkeypatch
) -> None:
    """The folder of the output may be there on the first machine alone."""
    as_process(3, 4)
    command = (*RANDOM, "--data", tiny, "-o", tmp_path / "none" / "x.ddset")
    silent = run_cli(*command)
    monkeypatch.setenv("LOCAL_RANK", "0")
    said = run_cli(*command)

    assert (2, 2, "") == (silent.code, said.code, silent.err)
    assert said.err.startswith("process 3 of 4: error: output '")
    assert "does not exist" in said.err


def test_stdin_is_for_one_process(run_cli, files, tmp_path: Path, as_process: AsProcess) -> None:
    """Two would each read some of it."""
    as_process(0, 2)
    outcome = run_cli("augment-labels", "-", "--teacher", files.teacher, "-o", tmp_path / "x.ddset")

    assert 2 == outcome.code
    assert "2 processes cannot read the same stdin" in outcome.err


def test_numbers_that_torchrun_would_not_set_are_refused(run_cli, files, monkeypatch) -> None:
    """Named, with what they are."""
    monkeypatch.setenv("WORLD_SIZE", "two")
    outcome = run_cli("inspect", files.base)

    assert 2 == outcome.code
    assert "WORLD_SIZE is 'two', expected a number" in outcome.err


@pytest.mark.parametrize("name", ["x.ddset.partial", "x.ddset.partial-3"])
def test_outputs_are_not_named_as_states(run_cli, tiny: str, tmp_path: Path, name: str) -> None:
    """Whoever's."""
    outcome = run_cli(*RANDOM, "--data", tiny, "-o", tmp_path / name)

    assert 2 == outcome.code
    assert "as states of unfinished runs do" in outcome.err


def test_states_of_other_processes_are_in_the_way(run_cli, tiny: str, tmp_path: Path) -> None:
    """One process neither overlooks what two have left, nor continues it, and removes it by force alone."""
    output, state = tmp_path / "x.ddset", tmp_path / "x.ddset.partial-1"
    state.write_bytes(b"half")
    command = (*RANDOM, "--data", tiny, "-o", output)
    plain, resumed = run_cli(*command), run_cli(*command, "--resume")
    left = state.read_bytes()
    forced = run_cli(*command, "--force")

    assert [2, 2, 0] == [outcome.code for outcome in (plain, resumed, forced)]
    assert f"'{state}' holds the state of an unfinished run" in plain.err
    assert "is the state of process 1 of a run of 2 or more, this run has 1" in resumed.err
    assert b"half" == left
    assert [output] == list(tmp_path.iterdir())


class Member(Team):
    """One of two processes; what the first one told is fixed."""

    word: str | None = None

    def told(self) -> str | None:
        """What the first process said when it failed."""
        return self.word


@pytest.mark.parametrize(
    ("error", "word", "said"),
    [
        (UsageError.collect(["this", "that"]), "this; that", ""),
        (UsageError.collect(["this", "that"]), None, "process 1 of 2: error: this\nprocess 1 of 2: error: that\n"),
        (DivergedError("'loss' is nan"), "'loss' is inf", "process 1 of 2: error: 'loss' is nan\n"),
        (InterruptedRunError(2, "interrupted; the state is in x-1"), "interrupted", ""),
        (
            InterruptedRunError(15),
            None,
            "process 1 of 2: error: stopped by SIGTERM, which torchrun sends when it is stopped or another process "
            "has died\n",
        ),
    ],
)
def test_another_process_says_what_the_first_does_not(
    capsys, monkeypatch, as_process: AsProcess, error: DdlabelError, word: str | None, said: str
) -> None:
    """With its rank before it; the code is that of the error."""
    as_process(1, 2)
    member = Member(1, 2)
    object.__setattr__(member, "word", word)

    @contextlib.contextmanager
    def joined(_listener: object) -> Iterator[Team]:
        yield member

    monkeypatch.setattr(_team, "joined", joined)
    with pytest.raises(Told) as caught, joining():
        raise error

    assert said == capsys.readouterr().err
    assert (128 + error.signum if isinstance(error, InterruptedRunError) else error.exit_code) == caught.value.code
