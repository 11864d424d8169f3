"""`--processes N`: the content of one process, nobody started by a wrong command line, nobody left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle
from ddlabel.cli import _others, _processes
from ddlabel.cli._processes import _without_option, team_size
from ddlabel.config import EvaluateConfig, TrainTeacherConfig

ROOT = Path(__file__).parents[2]
QUICK = ("--epochs", "2", "--seeds", "3", "--arch", "mlp")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a process fails."""
    monkeypatch.setattr(_others.Others, "_start", None)


def test_two_processes_make_what_one_makes(run_cli, files, tmp_path: Path, monkeypatch, capfd) -> None:
    """The same content and tables, from half of the cores each; the other one is silent, and is gone."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(_processes, "_usable_cores", lambda: 2)
    before = dict(os.environ)
    command = ("evaluate", files.base, "--data", files.data, *QUICK)
    two = run_cli(*command, "--processes", "2", "-o", tmp_path / "two.ddset")
    one = run_cli(*command, "--threads", "1", "-o", tmp_path / "one.ddset")
    bundles = {name: Bundle.open(tmp_path / f"{name}.ddset") for name in ("one", "two")}

    assert (0, 0) == (two.code, one.code), two.err
    assert one.out == two.out
    assert bundles["one"].content == bundles["two"].content
    assert 1 == bundles["two"].manifest.history[-1]["host"]["threads"]
    assert ["one.ddset", "two.ddset"] == sorted(os.listdir(tmp_path))
    assert ("", "") == tuple(capfd.readouterr())
    assert before == dict(os.environ)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("count", ["0", "two", "-1", "1025", "1.5"])
def test_a_number_is_expected(run_cli, files, tmp_path: Path, nobody, count: str) -> None:
    """Said with everything else that is wrong, before anybody starts."""
    outcome = run_cli("evaluate", files.base, "--processes", count, "-o", tmp_path / "x.ddset")

    assert 2 == outcome.code
    assert f"option 'processes' is {count}" in outcome.err.replace("'" + count + "'", count)
    assert "option 'data' is missing" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluate", "-", "--data", "digits"), "2 processes cannot read the same stdin"),
        (("evaluate", "--data", "digits"), "0 input bundles given"),
        (("distill", "--data", "digits", "--method", "none-such"), "unknown method"),
        (("refine", "x.ddset"), "unknown option '--processes'"),
        (("evaluate", "{base}", "--data", "digits", "-o", "{base}"), "is also an input"),
    ],
)
def test_a_wrong_command_line_starts_nobody(run_cli, files, nobody, arguments: Sequence[str], said: str) -> None:
    """Exit 2, from one process."""
    words = [word.format(base=files.base) for word in arguments]
    more = [] if "-o" in words else ["-o", files.folder / "never.ddset"]
    outcome = run_cli(*words, *more, "--processes", "2")

    assert 2 == outcome.code
    assert said in outcome.err


@pytest.mark.parametrize(
    "variables", [{"RANK": "0", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}]
)
def test_torchrun_and_processes_are_not_for_each_other(run_cli, files, nobody, monkeypatch, variables) -> None:
    """Also where torchrun started one."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = ("evaluate", files.base, "--data", files.data, "-o", files.folder / "never.ddset")
    outcome = run_cli(*command, "--processes", "2")

    assert 2 == outcome.code
    assert "'processes' starts processes, and so did torchrun" in outcome.err


def test_a_file_of_options_does_not_say_how_many(run_cli, files, tmp_path: Path, nobody) -> None:
    """Nor does `config dump`."""
    config = tmp_path / "x.toml"
    config.write_text("[evaluate]\nprocesses = 2\n")
    outcome = run_cli("evaluate", files.base, "--data", files.data, "--config", config, "-o", tmp_path / "x.ddset")
    dumped = run_cli("config", "dump", "evaluate", "--data", "digits", "--processes", "2")

    assert (2, 0) == (outcome.code, dumped.code)
    assert "unknown option 'processes' in [evaluate]; it is for the command line alone" in outcome.err
    assert "processes" not in dumped.out


def test_a_state_of_more_processes_is_refused_by_their_number(run_cli, files, tmp_path: Path, nobody) -> None:
    """The hint names the option."""
    (tmp_path / "x.ddset.partial-2").write_bytes(b"half")
    command = ("evaluate", files.base, "--data", files.data, "-o", tmp_path / "x.ddset", "--resume")
    outcome = run_cli(*command, "--processes", "2")

    assert 2 == outcome.code
    assert "is the state of process 2 of a run of 3 or more, this run has 2" in outcome.err
    assert "use as many --processes as it was started with" in outcome.err


def test_the_others_run_the_same_words_without_the_option() -> None:
    """Wherever it stands; behind -- are files."""
    words = ["evaluate", "--processes", "3", "x", "--processes=2", "--set", "a=b", "--", "--processes"]

    assert ["evaluate", "x", "--set", "a=b", "--", "--processes"] == _without_option(words)


@pytest.mark.parametrize(
    ("device", "visible", "jobs", "size"),
    [
        ("cpu", None, None, 6),
        ("cpu", None, 4, 4),
        ("cpu", None, 0, 1),
        ("cpu", None, 100, 6),
        ("auto", "0,1,2", None, 3),
        ("auto", "0,1,2", 2, 2),
        ("cuda", "GPU-a", None, 1),
        ("cuda", "-1", None, 6),
        ("cuda:1", "0,1", None, 1),
        ("mps", "", None, 1),
    ],
)
def test_auto_is_one_for_each_core_gpu_or_job(monkeypatch, device, visible, jobs, size) -> None:
    """Whichever there are the fewest of; where all would share a device, one."""
    monkeypatch.setattr(_processes, "_usable_cores", lambda: 6)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert size == team_size(None, device, jobs)
    assert 7 == team_size(7, device, jobs)


def test_students_and_nets_are_counted_where_the_command_line_says_them() -> None:
    """Not where a group of nets, a protocol or scores hide their number."""
    from ddlabel.cli.evaluate import _students
    from ddlabel.cli.train_teacher import _nets

    evaluate, train = EvaluateConfig(data="digits", seeds=3), TrainTeacherConfig(data="digits")
    few = dataclasses.replace(evaluate, arch=("mlp", "convnet-d1-w8"), loss=("ce", "kl"))
    hidden = ({"arch": ("4-cae",)}, {"baselines": True}, {"protocol": "ddranking"}, {"incremental": (5,)})

    assert (3, 12) == (_students(evaluate), _students(few))
    assert {None} == {_students(dataclasses.replace(evaluate, **more)) for more in hidden}
    assert (1, 8) == (_nets(train), _nets(dataclasses.replace(train, experts=8)))
    assert _nets(dataclasses.replace(train, scores="el2n")) is None


@pytest.mark.parametrize(("given", "size", "threads"), [(0, 2, 4), (0, 3, 2), (0, 16, 1), (5, 2, 5)])
def test_cores_are_shared_where_nobody_says_how_many_threads(monkeypatch, given: int, size: int, threads: int) -> None:
    """By the first process and by the others alike."""
    monkeypatch.setattr(_processes, "_usable_cores", lambda: 8)
    config = EvaluateConfig(data="digits", threads=given)
    with _processes.gathering(size, ["evaluate"]):
        assert threads == _processes.with_own_threads(config).threads
    assert config == _processes.with_own_threads(config)


LONG = ("--epochs", "20000", "--seeds", "2", "--arch", "mlp", "--threads", "1", "--no-fsync")


@dataclasses.dataclass
class Running:
    """A command of two processes in a process group of its own."""

    process: subprocess.Popen[bytes]
    said: Path

    @property
    def other(self) -> int:
        """Number of the other process."""
        (number,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(number)

    def wait_for(self, word: str, *, limit_s: float = 120.0) -> None:
        """Until it is said."""
        until = time.monotonic() + limit_s
        while word not in self.said.read_text():
            assert time.monotonic() < until, self.said.read_text()
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `ddlabel ARGUMENTS`; what it says goes to a file."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str | Path) -> Running:
        said = tmp_path / "said.txt"
        with said.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, arguments)],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        return Running(process, said)

    yield run
    for process in started:
        process.kill()
        process.wait()


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, however the tests were started
from ddlabel.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def gone(number: int, *, limit_s: float) -> bool:
    """Whether a process ends in time; a zombie has."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


ENDS: dict[str, tuple[Callable[[Running], None], int, str]] = {
    "the other killed": (lambda run: os.kill(run.other, signal.SIGKILL), 6, "process 1 of 2 was killed by SIGKILL; "),
    "the other stopped": (lambda run: os.kill(run.other, signal.SIGTERM), 6, "process 1 of 2 ended with exit code 143"),
    "the first killed": (lambda run: run.process.kill(), -9, "process 1 of 2: error: "),
    "the first stopped": (lambda run: run.process.terminate(), 143, "error: interrupted; the state after "),
    "ctrl-c": (lambda run: os.killpg(run.process.pid, signal.SIGINT), 130, "error: interrupted; the state after "),
}


@pytest.fixture(scope="module")
def alone(run_cli, files) -> str:
    """Content of what one process makes."""
    output = files.folder / "alone.ddset"
    assert 0 == run_cli("evaluate", files.base, "--data", files.data, *LONG, "-q", "-o", output).code
    return Bundle.open(output).content


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ENDS)
def test_whoever_is_stopped_nobody_stays_and_nothing_is_lost(
    run_cli, files, tmp_path: Path, start, alone: str, monkeypatch, how: str
) -> None:
    """Promptly, with the words of one of them; what was killed goes on to what one process makes without a stop."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    send, code, words = ENDS[how]
    command = ("evaluate", files.base, "--data", files.data, *LONG)
    output = tmp_path / "x.ddset"
    run = start(*command, "-v", "--processes", "2", "-o", output)
    run.wait_for("/20001, ")  # ten seconds of training: there is a student to keep
    other, sent = run.other, time.monotonic()
    send(run)

    assert code == run.process.wait(60)
    assert gone(other, limit_s=60)
    assert time.monotonic() - sent < 60
    said = run.said.read_text()
    assert words in said
    assert "--resume" in said
    assert 1 == said.count("error: ")
    assert output.with_name("x.ddset.partial-1" if how == "the first killed" else "x.ddset.partial").exists()
    if how.endswith("killed"):
        resumed = run_cli(*command, "--processes", "2", "--resume", "-o", output)
        assert 0 == resumed.code, resumed.err
        assert alone == Bundle.open(output).content
        assert ["said.txt", "x.ddset"] == sorted(os.listdir(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("early", [0.0, 0.3, 1.0, 2.0])
def test_ctrl_c_while_they_start_ends_all(files, tmp_path: Path, start, early: float) -> None:
    """Before they have met too: 130, and only the first one speaks."""
    run = start("evaluate", files.base, "--data", files.data, *LONG, "--processes", "3", "-o", tmp_path / "x.ddset")
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
    while len(others := children.read_text().split()) < 2:
        time.sleep(0.005)
    time.sleep(early)
    os.killpg(run.process.pid, signal.SIGINT)

    assert 130 == run.process.wait(60)
    assert all(gone(int(other), limit_s=1) for other in others)
    assert "error: interrupted\n" == run.said.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("evaluate", "{base}", "--data", "npz:/none.npz"), 4, "none.npz"),
        (("distill", "--data", "{data}", "--method", "g-vbsm", "--teacher", "{teacher}", "--set", "compat=true"), 2,
         "run it without --processes or torchrun"),
    ],
)  # fmt: skip
def test_what_all_find_wrong_is_said_once(run_cli, files, tmp_path, monkeypatch, capfd, arguments, code, said) -> None:
    """By the first process, with the code that one alone ends with."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = [word.format(base=files.base, data=files.data, teacher=files.teacher) for word in arguments]
    outcome = run_cli(*words, "--processes", "2", "-o", tmp_path / "x.ddset")

    assert code == outcome.code
    assert said in outcome.err
    assert 1 == outcome.err.count("error: ")
    assert ("", "") == tuple(capfd.readouterr())
    assert [] == os.listdir(tmp_path)


@pytest.mark.slow
def test_one_that_fails_alone_gives_its_code(run_cli, files, tmp_path, monkeypatch, capfd) -> None:
    """It says why; the first process ends with it."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import os, sys\nif os.environ.get('RANK') == '1':\n    print('no', file=sys.stderr); os._exit(5)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    command = ("evaluate", files.base, "--data", files.data, *QUICK, "--processes", "2", "-o", tmp_path / "x.ddset")
    outcome = run_cli(*command)

    assert 5 == outcome.code
    assert "error: process 1 of 2 ended with exit code 5\n" == outcome.err
    assert "no\n" == capfd.readouterr().err
