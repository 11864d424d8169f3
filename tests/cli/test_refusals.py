"""What is refused or said before any work: files in the way, nearly right names, other runs, dropped options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddlabel import fsio
from ddlabel.bundle import Bundle
from ddlabel.cli import _stage
from ddlabel.cli.app import COMMANDS

RANDOM = ("--method", "random", "--ipc", "1")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stage may start."""
    monkeypatch.setattr(_stage, "_compute", None)


@pytest.mark.fault(92)
@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize(
    "command",
    [
        ["distill", "--data", "npz:FILE", *RANDOM],
        ["distill", "--data", "folder:FILE", *RANDOM],
        ["train-teacher", "--data", "digits", "--scores", "FILE"],
        ["distill", "--data", "digits", "--method", "glad", "--set", "generator=FILE.py:make"],
    ],
    ids=["data", "archive", "scores", "generator"],
)
@pytest.mark.fault(92)
def test_fault_92_no_file_that_is_read_is_overwritten(run_cli, tmp_path: Path, command: list[str], force) -> None:
    """By any of its names, with and without --force."""
    file = tmp_path / ("file.py" if "glad" in command else "file")
    file.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(file)
    words = [word.replace("FILE.py", str(file)).replace("FILE", str(file)) for word in command]
    outcomes = [run_cli(*words, *force, "-o", output) for output in (file, link)]

    assert [2, 2] == [outcome.code for outcome in outcomes]
    assert all("is also an input, expected another name" in outcome.err for outcome in outcomes), outcomes
    assert b"precious" == file.read_bytes()


@pytest.mark.usefixtures("no_work")
def test_a_clock_that_is_no_time_is_refused_first(run_cli, files, tmp_path: Path, monkeypatch) -> None:
    """Together with everything else that is wrong."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    outcome = run_cli("refine", files.dense, "--method", "gitf", "-o", tmp_path / "x.ddset")

    assert 2 == outcome.code
    assert "SOURCE_DATE_EPOCH is 'yesterday', expected whole seconds since 1970" in outcome.err
    assert "did you mean 'gift'?" in outcome.err


@pytest.mark.parametrize(
    ("command", "near"),
    [
        (["distill", "--data", "DATA", "--method", "k_center"], "k-center"),
        (["augment-labels", "BASE", "--codec", "topk_ms"], "topk-ms"),
        (["train-teacher", "--data", "DATA", "--epochs", "1", "--set", "augment=dsa_composite"], "dsa-composite"),
        (["evaluate", "BASE", "--data", "DATA", "--loss", "kl-t2"], "kl_t2"),
        (["distill", "--data", "fashion_mnist", *RANDOM], "fashion-mnist"),
        (["methods", "k_center"], "k-center"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_are_typed_as_they_are_listed(run_cli, files, tmp_path: Path, command: list[str], near: str) -> None:
    """Exit 2 with the name that was meant."""
    words = [{"DATA": files.data, "BASE": str(files.base)}.get(word, word) for word in command]
    outcome = run_cli(*words, *([] if command[0] == "methods" else ["-o", tmp_path / "x.ddset"]))

    assert 2 == outcome.code, outcome.err
    assert f"did you mean '{near}'?" in outcome.err
    assert [] == list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("extra", [[], ["--force"], ["--resume"]], ids=["", "force", "resume"])
def test_two_runs_on_one_output(run_cli, tiny: str, tmp_path: Path, extra: list[str]) -> None:
    """The second is refused at its start, naming what the first one writes, whether there is a state yet or not."""
    output = tmp_path / "x.ddset"
    outcomes = []
    with fsio.exclusive(str(tmp_path / ".x.ddset.partial.lock")):
        for state in (None, b"of the first run"):
            if state:
                Path(f"{output}.partial").write_bytes(state)
            outcomes.append(run_cli("distill", "--data", tiny, *RANDOM, *extra, "-o", output))

    assert [6, 6] == [outcome.code for outcome in outcomes]
    assert all(f"another run keeps its state in '{output}.partial'" in outcome.err for outcome in outcomes)
    assert b"of the first run" == Path(f"{output}.partial").read_bytes()


def test_a_lock_that_a_kill_left_is_in_nobodys_way(run_cli, tiny: str, tmp_path: Path) -> None:
    """Nothing but the output is there in the end."""
    (tmp_path / ".x.ddset.partial.lock").touch()
    outcome = run_cli("distill", "--data", tiny, *RANDOM, "-o", tmp_path / "x.ddset")

    assert 0 == outcome.code, outcome.err
    assert ["x.ddset"] == [path.name for path in tmp_path.iterdir()]


def test_the_longest_names_are_locked_too(run_cli, tiny: str, tmp_path: Path) -> None:
    """That of the state has 255 bytes, all that file systems take."""
    output = tmp_path / ("x" * 241 + ".ddset")
    outcome = run_cli("distill", "--data", tiny, *RANDOM, "-o", output)

    assert 0 == outcome.code, outcome.err
    assert [output] == list(tmp_path.iterdir())


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_a_finished_bundle_is_no_state_to_delete(run_cli, tiny: str, files, tmp_path: Path, force: list[str]) -> None:
    """Its kind is named, and it stays."""
    bundle = tmp_path / "x.ddset.partial"
    bundle.write_bytes(files.base.read_bytes())
    outcome = run_cli("distill", "--data", tiny, *RANDOM, *force, "-o", tmp_path / "x.ddset")

    assert 2 == outcome.code
    assert f"'{bundle}' is a finished bundle of kind 'distilled'" in outcome.err
    assert files.base.read_bytes() == bundle.read_bytes()


def test_what_is_no_bundle_is_deleted_by_force_alone(run_cli, tiny: str, tmp_path: Path) -> None:
    """As half a state is."""
    state = tmp_path / "x.ddset.partial"
    state.write_bytes(b"half a state")
    refused, forced = (
        run_cli("distill", "--data", tiny, *RANDOM, *extra, "-o", tmp_path / "x.ddset") for extra in ([], ["--force"])
    )

    assert (2, 0) == (refused.code, forced.code), forced.err
    assert ["x.ddset"] == [path.name for path in tmp_path.iterdir()]


def test_outputs_are_not_named_as_states(run_cli, files, tmp_path: Path) -> None:
    """A state of another run would be taken for it."""
    outcome = run_cli("refine", files.dense, "-o", tmp_path / "x.partial")

    assert 2 == outcome.code
    assert "ends with .partial as states of unfinished runs do; give another name" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher", "--ipc", "1"], "option '--teacher' needs a file"),
        (["--ipc", "1", "--teacher"], "option '--teacher' needs a file"),
        (["--method", "--ipc", "1"], "option '--method' needs a value"),
        (["--teacher", ""], "option 'teacher' is empty, expected a file"),
        (["--ipc", "-1"], "option 'ipc' is -1, expected a number >= 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_without_a_value(run_cli, tmp_path: Path, words: list[str], message: str) -> None:
    """The next option is not taken for it; a negative number is."""
    outcome = run_cli("distill", "--data", "digits", "-o", tmp_path / "x.ddset", *words)

    assert 2 == outcome.code
    assert f"error: {message}" in outcome.err
    assert 1 == outcome.err.count("error:")


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_examples_of_the_help_can_be_pasted(run_cli, command) -> None:
    """Line by line as they were written, on a narrow terminal too."""
    text = command.run.__doc__
    examples = [line.strip() for line in text.partition("Example:")[2].splitlines() if line.strip()]
    outcome = run_cli(command.name, "--help")

    assert examples
    assert set(examples) <= {line.strip() for line in outcome.out.splitlines()}
    assert "\\b" not in outcome.out


@pytest.mark.usefixtures("no_work")
def test_options_of_a_recipe_that_are_left_out_are_said(run_cli, tiny: str, tmp_path: Path) -> None:
    """They are of another method; --quiet keeps it to itself."""
    # the missing folder stops the command before its work
    command = ["distill", "--data", tiny, "--recipe", "mtt/cifar10-ipc10", "-o", tmp_path / "none" / "x.ddset"]
    other, same, quiet = (run_cli(*command, *extra) for extra in (RANDOM, [], [*RANDOM, "--quiet"]))

    assert [2, 2, 2] == [outcome.code for outcome in (other, same, quiet)]
    assert "note: the --set of recipe 'mtt/cifar10-ipc10' " in other.err
    assert "syn_steps=" in other.err
    assert "note:" not in same.err + quiet.err


def test_methods_lists_what_train_teacher_takes(run_cli) -> None:
    """By part, with the defaults of that stage; not among the plugins."""
    outcome = run_cli("methods", "train-teacher")

    assert 0 == outcome.code, outcome.err
    for words in ("--set rho=", "--set alpha=", "--set score_nets=", "--set r1_epoch=", "--set batch=int"):
        assert words in outcome.out
    assert "samples per step [>= 1 and <= 1000000] (default 256)" in outcome.out
    assert "train-teacher" not in run_cli("methods", "dm").out
    assert "ddlabel methods train-teacher" in " ".join(run_cli("train-teacher", "--help").out.split())


def test_the_size_said_is_that_of_the_file(run_cli, files, tmp_path: Path) -> None:
    """With its header and manifest."""
    output = tmp_path / "x.ddset"
    outcome = run_cli("refine", files.dense, "--method", "recode", "-o", output)

    size = output.stat().st_size
    assert f"wrote {output}: {size / 1000:.3g} kB, content {Bundle.open(output).content[:12]}\n" == outcome.err


def test_verify_names_a_damaged_file_once(run_cli, files, tmp_path: Path) -> None:
    """Beside intact ones."""
    broken = tmp_path / "broken.ddset"
    broken.write_bytes(files.base.read_bytes()[:-1] + bytes([files.base.read_bytes()[-1] ^ 1]))
    outcome = run_cli("inspect", files.base, broken, "--verify")

    assert 7 == outcome.code
    assert 1 == outcome.err.count(str(broken))
    assert str(files.base) not in outcome.err


def test_verify_with_json_prints_one_document(run_cli, files, tmp_path: Path) -> None:
    """Which says what is damaged; the exit code says that something is."""
    broken = tmp_path / "broken.ddset"
    broken.write_bytes(files.base.read_bytes()[:-1] + bytes([files.base.read_bytes()[-1] ^ 1]))
    outcome = run_cli("inspect", broken, "--verify", "--json")

    assert 7 == outcome.code
    assert "digest" in str(json.loads(outcome.out))
