"""The command line as a newcomer meets it: wrong names, wrong numbers, files in the way, broken pipes, signals."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ddlabel
from ddlabel.bundle import Bundle, NewSection, RawTensor, StageRecord
from ddlabel.cli import _stage
from ddlabel.cli.app import COMMANDS

from ..bundle import test_header
from ..bundle import test_hostile_manifest as hostile
from ..bundle.forging import Forgery, as_bytes, make_distilled

COMMAND = [sys.executable, "-m", "ddlabel"]


def start(*arguments: object, **keywords):
    """The real command in a new process."""
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **keywords)


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_every_command_has_help_with_an_example(run_cli, command) -> None:
    """What it does, its options, and a line to paste."""
    outcome = run_cli(command.name, "--help")

    assert 0 == outcome.code
    assert "Example:" in outcome.out
    assert f"ddlabel {command.name}" in outcome.out


def test_no_argument_prints_help(run_cli) -> None:
    """Exit 0."""
    outcome = run_cli()

    assert 0 == outcome.code
    assert "A pipeline, start to end" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "unknown command 'distil'; did you mean 'distill'?"),
        (["--data", "digits"], "unknown option '--data', expected a command first"),
        (["distill", "--data", "digit", "-o", "x.ddset"], "unknown data set 'digit'; did you mean 'digits'?"),
        (["distill", "--data", "digits", "--method", "dmm", "-o", "x.ddset"], "unknown method 'dmm'; did you mean"),
        (["distill", "--data", "digits", "--arch", "convnet-d9", "-o", "x.ddset"], "net 'convnet' has no option 'd9'"),
        (["distill", "--data", "digits", "--device", "gpu", "-o", "x.ddset"], "device 'gpu' is unknown"),
        (["distill", "--data", "digits"], "expected -o FILE"),
        (["distill", "--data", "folder", "-o", "x.ddset"], "data 'folder' needs a path, expected folder:DIR"),
        (["distill", "--data", "digits:x", "-o", "x.ddset"], "takes no path"),
        (["distill", "--data", "digits", "--set", "steps", "-o", "x.ddset"], "has no '='"),
        (["refine", "-o", "x.ddset"], "0 input bundles given, expected one"),
        (["augment-labels", "a.ddset", "--codec", "f17", "-o", "x.ddset"], "unknown codec 'f17'; did you mean 'f16'?"),
        (["inspect"], "no bundle given"),
        (["methods", "dmm"], "unknown plugin 'dmm'; did you mean 'dm'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_wrong_command_lines_say_what_was_expected(run_cli, tmp_path, monkeypatch, arguments, message) -> None:
    """Exit 2, a named value, the nearest known one; nothing is written."""
    monkeypatch.chdir(tmp_path)
    outcome = run_cli(*arguments)

    assert 2 == outcome.code
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert [] == list(tmp_path.iterdir())


def test_all_problems_of_a_command_line_come_together(run_cli, tmp_path: Path) -> None:
    """Unknown option, bad number, unknown choice, missing data and impossible output, in one go."""
    outcome = run_cli(
        "distill", "--dta", "digits", "--ipc", "abc", "--space", "lab", "-o", tmp_path / "none" / "x.ddset"
    )

    assert 2 == outcome.code
    assert 5 == outcome.err.count("error:")
    assert "did you mean '--data'?" in outcome.err


def test_errors_are_json_when_asked(run_cli) -> None:
    """One document on stdout, with code, message, field and hint."""
    outcome = run_cli("inspect", "/no/such.ddset", "--json")
    document = json.loads(outcome.out)

    assert (3, "ddlabel.error", 3) == (outcome.code, document["schema"], document["error"]["code"])
    assert "no such file" in document["error"]["message"]


@pytest.mark.fault(90)
def test_fault_90_an_existing_output_needs_force(run_cli, files, tmp_path: Path) -> None:
    """Exit 2 and the old bytes; with --force the new ones."""
    path = tmp_path / "b.ddset"
    path.write_bytes(b"precious")
    distill = ("distill", "--data", files.data, "--method", "random", "--ipc", "1", "-o", path)
    refused = run_cli(*distill)
    kept = path.read_bytes()
    forced = run_cli(*distill, "--force")

    assert (2, b"precious", 0) == (refused.code, kept, forced.code)
    assert "use --force to overwrite" in refused.err
    assert "distilled" == Bundle.open(path).kind


@pytest.mark.fault(91)
@pytest.mark.parametrize(
    ("target", "code"), [("none/x.ddset", 2), (".", 2), ("file/x.ddset", 2), ("/", 2)],
    ids=["missing folder", "a folder", "below a file", "the root"],
)  # fmt: skip
@pytest.mark.fault(91)
def test_fault_91_impossible_outputs(run_cli, files, tmp_path: Path, target: str, code: int) -> None:
    """Found before any work."""
    (tmp_path / "file").write_text("")
    outcome = run_cli("refine", files.dense, "-o", tmp_path / target)

    assert code == outcome.code
    assert "error: output" in outcome.err


@pytest.mark.fault(92)
def test_fault_92_the_output_is_not_an_input(run_cli, files) -> None:
    """Not even with --force."""
    outcome = run_cli("refine", files.dense, "--force", "-o", files.dense)

    assert 2 == outcome.code
    assert "is also an input" in outcome.err


def test_stages_compose_through_pipes_with_the_same_digests(files, tmp_path: Path) -> None:
    """`distill -o - | augment-labels - | inspect -` gives what files give."""
    distill = start("distill", "--data", files.data, "--method", "random", "--ipc", "3", "-o", "-")
    label = start("augment-labels", "-", "--teacher", files.teacher, "-o", "-", stdin=distill.stdout)
    inspect = start("inspect", "-", "--json", "--verify", stdin=label.stdout)
    for stream in (distill.stdout, label.stdout):
        stream.close()
    out, err = inspect.communicate(timeout=120)
    codes = [process.wait(timeout=60) for process in (distill, label)]
    for process in (distill, label):
        process.stderr.close()

    assert [0, 0, 0] == [*codes, inspect.returncode], err
    assert Bundle.open(files.soft).content == json.loads(out)["bundles"][0]["content"]


@pytest.mark.fault(105)
def test_fault_105_stdin_closed_empty_or_named_twice(run_cli, files, tmp_path: Path) -> None:
    """Each says what is wrong."""
    closed = subprocess.run(" ".join([*COMMAND, "inspect", "-", "<&-"]), shell=True, capture_output=True, text=True)
    empty = subprocess.run([*COMMAND, "inspect", "-"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    twice = run_cli("augment-labels", "-", "--teacher", "-", "-o", tmp_path / "x.ddset")

    assert (3, 3, 2) == (closed.returncode, empty.returncode, twice.code), closed.stderr + empty.stderr
    assert "Traceback" not in closed.stderr + empty.stderr
    assert "two inputs are '-'" in twice.err


@pytest.mark.fault(106)
def test_fault_106_a_reader_that_goes_away_is_no_error(files) -> None:
    """Exit 141, silently; the writer of a bundle does not hang."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("refine", files.dense, "--method", "recode", "-o", "-", stdout=writer)
    os.close(writer)
    _out, err = process.communicate(timeout=60)

    assert (141, b"") == (process.returncode, err)


@pytest.mark.fault(106)
def test_fault_106_a_broken_pipe_of_a_table(files) -> None:
    """`inspect | head` ends quietly too."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("inspect", files.dense, stdout=writer)
    os.close(writer)
    _out, err = process.communicate(timeout=60)

    assert 141 == process.returncode
    assert b"" == err


@pytest.mark.fault(107)
def test_fault_107_a_bundle_that_arrives_byte_by_byte(tmp_path: Path) -> None:
    """Short reads change nothing: at the start, and where the header is longer than a pipe holds (64 KiB)."""
    tensors = {f"state.a.t{number:04}": RawTensor("U8", (3,), b"abc") for number in range(900)}
    record = StageRecord("distill", {}, 0, [], {}, 1.0, 1.7e9, {"device": "cpu"})
    Bundle.create("partial", None, record, [NewSection("state.a", "state", tensors)]).save(tmp_path / "x.ddset")
    data = (tmp_path / "x.ddset").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert header > 2**16 + 500
    process = start("inspect", "-", "--json", stdin=subprocess.PIPE, bufsize=0)
    slowly = [*range(2000), *range(2**16 - 500, 2**16 + 500), *range(header - 200, header + 200)]
    position = 0
    for index in [*slowly, len(data) - 1]:
        if index > position:
            process.stdin.write(data[position:index])
        process.stdin.write(data[index : index + 1])
        position = index + 1
    out, _err = process.communicate(timeout=60)

    assert Bundle.open(tmp_path / "x.ddset").content == json.loads(out)["bundles"][0]["content"]


@pytest.mark.fault(93)
def test_a_full_device_is_a_resource_error(files) -> None:
    """Fault 93: /dev/full is written to, never replaced; exit 6."""
    outcome = start("refine", files.dense, "--method", "recode", "--force", "-o", "/dev/full")
    _out, err = outcome.communicate(timeout=60)

    assert 6 == outcome.returncode
    assert b"No space left" in err


LONG = ("--method", "dm", "--ipc", "1", "--arch", "convnet-d1-w8", "--set", "steps=10000000", "--set", "batch_real=4")


def default_signals() -> None:
    """What a command of a terminal starts with, however the tests themselves were started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)


def long_run(files, tmp_path: Path, prepare=default_signals):
    """A distillation that would take hours, started and seen at work."""
    process = start("distill", "--data", files.data, *LONG, "-o", tmp_path / "x.ddset", preexec_fn=prepare)
    time.sleep(5)
    assert process.poll() is None, process.communicate()
    return process


OTHER_SIGNALS = ((signal.SIGTERM, 143), (signal.SIGHUP, 129))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHER_SIGNALS)],
    ids=["interrupt", "terminate", "hang-up"],
)  # fmt: skip
@pytest.mark.fault(110)
def test_fault_110_signals_stop_at_a_safe_point(files, tmp_path: Path, number: int, code: int) -> None:
    """The exit code names the signal; no output and no temporary file is left, at most the state of the run."""
    process = long_run(files, tmp_path)
    process.send_signal(number)
    _out, err = process.communicate(timeout=60)

    assert code == process.returncode
    assert b"Traceback" not in err
    assert b"interrupted" in err
    assert {path.name for path in tmp_path.iterdir()} <= {"x.ddset.partial"}


@pytest.mark.fault(111)
def test_fault_111_what_the_parent_ignores_has_no_handler(run_cli, files, tmp_path: Path, monkeypatch) -> None:
    """An ignored signal in the middle of a stage changes nothing; one that is not ignored ends it."""
    real, before = _stage._open, {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    handlers, sent = set(), [signal.SIGINT]

    def interrupted(*arguments: Any) -> Any:
        handlers.add(signal.getsignal(signal.SIGINT))
        for number in sent:
            os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(_stage, "_open", interrupted)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        refine = ("refine", files.dense, "--method", "gift", "-o")
        ignored = run_cli(*refine, tmp_path / "ignored")
        sent.append(signal.SIGHUP)
        ended = run_cli(*refine, tmp_path / "ended")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert (0, 129) == (ignored.code, ended.code), ignored.err + ended.err
    assert {signal.SIG_IGN} == handlers
    assert {"ignored"} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.fault(111)
def test_fault_111_an_ignored_interrupt_stays_ignored(files, tmp_path: Path) -> None:
    """As for background jobs of a non-interactive shell."""
    process = long_run(files, tmp_path, prepare=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    alive = process.poll() is None
    process.terminate()
    process.communicate(timeout=60)

    assert alive
    assert 143 == process.returncode


@pytest.mark.fault(117)
def test_fault_117_the_surroundings_do_not_change_the_content(files, tmp_path: Path) -> None:
    """Locale, time zone, hash seed, umask, a missing home, a narrow terminal, a read-only folder."""
    surroundings = {
        "TZ": "Pacific/Chatham", "LANG": "C", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7", "COLUMNS": "1",
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    path = tmp_path / "x.ddset"
    process = start(
        "distill", "--data", files.data, "--method", "random", "--ipc", "3", "-o", path,
        env=surroundings, cwd="/", umask=0o077,
    )  # fmt: skip
    _out, err = process.communicate(timeout=120)

    assert 0 == process.returncode, err
    assert Bundle.open(files.base).content == Bundle.open(path).content
    assert 0o600 == path.stat().st_mode & 0o777


@pytest.mark.slow
@pytest.mark.fault(117)
def test_fault_117_a_fixed_clock_gives_the_same_bytes(files, tmp_path: Path) -> None:
    """SOURCE_DATE_EPOCH takes the clock out of the file."""
    for name in "ab":
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        done = start("refine", files.dense, "--method", "gift", "-o", tmp_path / name, env=environment)
        done.communicate(timeout=60)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


OPTIMISED = """
import contextlib, json, os, sys
from ddlabel.bundle import Bundle
from ddlabel.cli.app import main
from ddlabel.errors import BundleError

def refused(path):
    try:
        Bundle.open(path)
    except BundleError:
        return True
    return False

folder = sys.argv[1]
accepted = [name for name in sorted(os.listdir(folder)) if not refused(os.path.join(folder, name))]
with contextlib.redirect_stdout(sys.stderr):
    codes = [main(arguments) for arguments in json.loads(sys.argv[2])]
print(json.dumps([__debug__, accepted, codes]))
"""


def broken_files() -> Iterator[bytes]:
    """All of the tables of broken headers and hostile manifests."""

    def table(test: Callable[..., None]) -> list[Any]:
        return [case.values[0] for mark in test.pytestmark if mark.name == "parametrize" for case in mark.args[1]]

    rich = as_bytes(make_distilled())
    plain = json.dumps(Forgery.of(rich).document, separators=(",", ":")).encode()
    yield from table(test_header.test_one_broken_rule_is_one_named_error)
    for frame in table(hostile.test_frames_that_are_refused):
        yield Forgery.of(rich).build(frame=frame, manifest_last=True)
    for text in table(hostile.test_json_that_is_refused):
        yield Forgery.of(rich).build(text=text(plain), frame=hostile.compress, manifest_last=True)
    for change in table(hostile.test_tables_that_disagree):
        forged = Forgery.of(rich)
        change(forged)
        yield forged.build()


@pytest.mark.fault(118)
def test_fault_118_validation_does_not_rest_on_assertions(files, tmp_path: Path) -> None:
    """Without them (-O) every broken header and manifest of our tables is refused, and so is a bad option."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for number, data in enumerate(broken_files()):
        (folder / f"{number:03}").write_bytes(data)
    (folder / "whole").write_bytes(files.base.read_bytes())
    (folder / "cut").write_bytes(files.base.read_bytes()[:-1])
    commands = [
        ["inspect", folder / "cut"], ["distill", "--data", files.data, "--ipc", "-1", "-o", tmp_path / "x"],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-O", "-c", OPTIMISED, str(folder), json.dumps(commands, default=str)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr

    assert [False, ["whole"], [3, 2]] == json.loads(done.stdout)
    assert len(list(folder.iterdir())) > 100


@pytest.mark.fault(118)
def test_fault_118_there_are_no_assertions() -> None:
    """Whatever is checked is checked by a statement that stays."""
    found = []
    for path in Path(ddlabel.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if re.search(r"^\s*assert\b", text, re.MULTILINE):
            found += [path.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]

    assert [] == found
