"""`--resume` as a user meets it: real signals to real processes, files in the way, damaged states."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ddlabel import _plugins, fsio
from ddlabel.bundle import Bundle
from ddlabel.stages import distill as stage

EAGER = "import sys, ddlabel.stages._partial as p; p.INTERVAL_S, p.SHARE = 0.0, 1e9; "
"""Code that makes a process keep its state after every step."""
MAIN = "from ddlabel.cli.app import main; sys.exit(main(sys.argv[1:]))"
NET = ("--arch", "convnet-d1-w8", "--threads", "1")
CLOCK = "1700000000"


def distil(data: str, steps: int = 4) -> list[str]:
    """A short run of dm."""
    sizes = ["--set", f"steps={steps}", "--set", "batch_real=4"]
    return ["distill", "--data", data, "--method", "dm", "--ipc", "1", *NET, *sizes]


@pytest.fixture(autouse=True)
def _fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that equal bundles have equal bytes."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", CLOCK)


def process_of(arguments: list[str], code: str = EAGER + MAIN) -> subprocess.Popen:
    """A process of its own that handles signals as one of a terminal does."""

    def default_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default_signals,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until a file is there."""
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no file"
        time.sleep(0.01)


def steps_in(path: Path) -> int:
    """How many steps a state has done."""
    return Bundle.open(path, verify=True).section("state.progress").parameters["done"]


def interrupt_inside(monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]) -> None:
    """Let a step of dm fail; the first steps are real."""
    method = _plugins.load("distill", "dm", "METHOD")
    real = method.step

    def step(self: Any, problem: Any, state: Any, index: int, generator: Any) -> Any:
        if index == at:
            raise error()
        return real(self, problem, state, index, generator)

    monkeypatch.setattr(method, "step", step)


@pytest.fixture
def unfinished(run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`x.ddset.partial`, left by a run of four steps that ran out of memory in its third."""
    with monkeypatch.context() as patch:
        interrupt_inside(patch, 2, MemoryError)
        outcome = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset")
    assert 6 == outcome.code, outcome.err
    return tmp_path / "x.ddset.partial"


OTHER_SIGNALS = ((signal.SIGTERM, 143), (signal.SIGHUP, 129))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHER_SIGNALS)],
    ids=["interrupt", "terminate", "hang-up"],
)  # fmt: skip
@pytest.mark.fault(110)
def test_fault_110_a_signal_keeps_the_state_and_says_how_to_continue(
    run_cli, tiny: str, tmp_path: Path, number: int, code: int
) -> None:
    """Exit 130, 143 or 129; continued, the file has the bytes of a run that nobody disturbed."""
    partial = tmp_path / "x.ddset.partial"
    arguments = [*distil(tiny, steps=100), "-o", str(tmp_path / "x.ddset")]
    process = process_of(arguments)
    wait_for(partial, process)
    process.send_signal(number)
    _out, err = process.communicate(timeout=120)
    done = steps_in(partial)
    left = sorted(path.name for path in tmp_path.iterdir())
    continued = run_cli(*arguments, "--resume")
    run_cli(*distil(tiny, steps=100), "-o", tmp_path / "whole.ddset")

    assert code == process.returncode, err
    assert f"the state after {done} of 100 steps is in {partial}; run the same command with --resume" in err
    assert "Traceback" not in err
    assert ["x.ddset.partial"] == left
    assert 0 == continued.code, continued.err
    assert f"continuing after {done} of 100 steps" in continued.err
    assert (tmp_path / "whole.ddset").read_bytes() == (tmp_path / "x.ddset").read_bytes()
    assert not partial.exists()


@pytest.mark.slow
@pytest.mark.fault(110)
def test_fault_110_a_killed_expert_run_continues_to_the_same_bytes(run_cli, tiny: str, tmp_path: Path) -> None:
    """SIGTERM in a run of several experts; other settings are refused with both sides named."""
    partial = tmp_path / "x.ddset.partial"
    arguments = ["train-teacher", "--data", tiny, *NET, "--epochs", "20", "--experts", "3", "--set", "batch=8"]
    process = process_of([*arguments, "-o", str(tmp_path / "x.ddset")])
    wait_for(partial, process)
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=60)
    done = steps_in(partial)
    other = run_cli(*arguments, "--set", "lr=0.5", "-o", tmp_path / "x.ddset", "--resume")
    continued = run_cli(*arguments, "-o", tmp_path / "x.ddset", "--resume")
    run_cli(*arguments, "-o", tmp_path / "whole.ddset")

    assert 143 == process.returncode, err
    assert f"the state after {done} of 60 epochs is in {partial}" in err
    assert 2 == other.code
    assert f"{partial}: option 'recipe.lr' is 0.01, this run has 0.5" in other.err
    assert 0 == continued.code, continued.err
    assert (tmp_path / "whole.ddset").read_bytes() == (tmp_path / "x.ddset").read_bytes()
    assert not partial.exists()


SLOW_STEP = """
import sys, time
import ddlabel.distill.dm as dm
real = dm.METHOD.step
def step(self, problem, state, index, generator):
    if index == 2:
        open(sys.argv[-1] + ".waiting", "w").close()
        time.sleep(100)
    return real(self, problem, state, index, generator)
dm.METHOD.step = step
"""


@pytest.mark.slow
@pytest.mark.fault(110)
def test_fault_110_a_second_signal_ends_a_step_that_does_not_end(tiny: str, tmp_path: Path) -> None:
    """The first waits for a safe point, the second does not; steps that were finished are kept all the same."""
    output = tmp_path / "x.ddset"
    process = process_of([*distil(tiny), "-o", str(output)], SLOW_STEP + MAIN)
    wait_for(tmp_path / "x.ddset.waiting", process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    waiting = process.poll() is None
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=20)

    assert waiting
    assert 143 == process.returncode, err
    assert 2 == steps_in(tmp_path / "x.ddset.partial")


SLOW_DISK = """
import sys, time
import ddlabel.stages._partial as p
p.INTERVAL_S, p.SHARE = 0.0, 1e9
from ddlabel import fsio
class Slow(fsio.FileSystem):
    def fsync(self, descriptor):
        open(sys.argv[-1] + ".writing", "w").close()
        time.sleep(1)
        super().fsync(descriptor)
fsio.current = Slow()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "whole"), [(1, True), (2, False)], ids=["once", "twice"])
@pytest.mark.fault(110)
def test_fault_110_a_signal_while_the_timer_writes(tiny: str, tmp_path: Path, signals: int, whole: bool) -> None:
    """One lets the write finish; two break it off, and the state is written again as the process ends."""
    process = process_of([*distil(tiny, steps=100), "-o", str(tmp_path / "x.ddset")], SLOW_DISK + MAIN)
    wait_for(tmp_path / "x.ddset.writing", process)
    for _signal in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _out, err = process.communicate(timeout=60)
    left = {path.name for path in tmp_path.iterdir()} - {"x.ddset.writing"}

    assert 130 == process.returncode, err
    assert {"x.ddset.partial"} == left
    assert f"the state after {steps_in(tmp_path / 'x.ddset.partial')} of 100 steps is in" in err
    assert whole or "Traceback" not in err


@pytest.fixture
def own_signals() -> Iterator[None]:
    """As a command of a terminal starts, however the tests themselves were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def presses_while_written(monkeypatch: pytest.MonkeyPatch, ending: str, times: int) -> None:
    """Ctrl-C, so many times, whenever a file of a name is about to be made."""

    class Pressed(fsio.FileSystem):
        def create(self, path: str, mode: int) -> int:
            name = os.path.basename(path).replace(".partial.", "-state.")
            for _time in range(times if f"{ending}." in name else 0):
                os.kill(os.getpid(), signal.SIGINT)
            return super().create(path, mode)

    monkeypatch.setattr(fsio, "current", Pressed())


def presses_in_step(monkeypatch: pytest.MonkeyPatch, at: int, times: int) -> None:
    """Ctrl-C in a step of dm."""
    method = _plugins.load("distill", "dm", "METHOD")
    real = method.step

    def step(self: Any, problem: Any, state: Any, index: int, generator: Any) -> Any:
        for _time in range(times if index == at else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, problem, state, index, generator)

    monkeypatch.setattr(method, "step", step)


@pytest.mark.parametrize(
    ("in_step", "while_written", "said"),
    [
        (1, 1, "interrupted; the state after 3 of 4 steps is in"),
        (2, 1, "interrupted; the state after 2 of 4 steps is in"),
        (1, 2, "interrupted; the newest state could not be kept (interrupted)\n"),
    ],
)
@pytest.mark.fault(110)
def test_fault_110_a_signal_while_the_state_is_kept_at_the_end(
    run_cli, tiny: str, tmp_path: Path, monkeypatch, own_signals, in_step: int, while_written: int, said: str
) -> None:
    """One does not stop that; two do, and what is lost is said. Never half a file."""
    presses_in_step(monkeypatch, 2, in_step)
    presses_while_written(monkeypatch, "x.ddset-state", while_written)
    outcome = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset")

    assert 130 == outcome.code
    assert said in outcome.err
    assert (["x.ddset.partial"] if while_written == 1 else []) == [path.name for path in tmp_path.iterdir()]


@pytest.mark.fault(110)
def test_fault_110_a_signal_while_the_result_is_written(run_cli, tiny: str, tmp_path: Path, monkeypatch, own_signals):
    """One lets the run end as it would, with nothing left to continue; two leave the state of all steps."""
    output = tmp_path / "x.ddset"
    with monkeypatch.context() as patch:
        presses_while_written(patch, "x.ddset", 2)
        stopped = run_cli(*distil(tiny), "-o", output)
    left = [path.name for path in tmp_path.iterdir()]
    presses_while_written(monkeypatch, "x.ddset", 1)
    written = run_cli(*distil(tiny), "-o", output, "--resume")

    assert 130 == stopped.code
    assert "the state after 4 of 4 steps is in" in stopped.err
    assert ["x.ddset.partial"] == left
    assert (0, [output]) == (written.code, list(tmp_path.iterdir())), written.err
    assert f"wrote {output}" in written.err


def test_resume_beside_a_finished_output_says_what_is_there(run_cli, tiny: str, unfinished: Path) -> None:
    """A state that is left is named, and so is the end of a run that left none; nothing is touched."""
    output = unfinished.with_suffix("")
    state = unfinished.read_bytes()
    unfinished.unlink()
    output.write_bytes(b"of somebody else")
    foreign = run_cli(*distil(tiny), "-o", output, "--resume")
    run_cli(*distil(tiny), "-o", output, "--force")
    whole = output.read_bytes()
    nothing = run_cli(*distil(tiny), "-o", output, "--resume")
    unfinished.write_bytes(state)
    beside = run_cli(*distil(tiny), "-o", output, "--resume")
    kept = (output.read_bytes(), unfinished.read_bytes())
    continued = run_cli(*distil(tiny), "-o", output, "--resume", "--force")

    assert (2, 2, 2, 0) == (foreign.code, nothing.code, beside.code, continued.code)
    assert f"error: output '{output}' is a whole result of 'distill', and there is no '{unfinished}' to" in nothing.err
    assert f"error: output '{output}' exists, expected a new name; use --force to overwrite\n" == foreign.err
    assert f"output '{output}' exists, and so does '{unfinished}', the state of an unfinished run" in beside.err
    assert "--resume --force" in beside.err
    assert (whole, state) == kept
    assert "continuing after 2 of 4 steps" in continued.err
    assert whole == output.read_bytes()
    assert not unfinished.exists()


@pytest.mark.slow
@pytest.mark.fault(99, 114)
def test_fault_99_and_114_killed_at_random_moments(run_cli, tiny: str, tmp_path: Path) -> None:
    """SIGKILL cannot be caught: what the timer kept is continued, again and again, to the same bytes."""
    moments = random.Random(1)
    arguments = [*distil(tiny, steps=100), "-o", str(tmp_path / "x.ddset")]
    partial = tmp_path / "x.ddset.partial"
    done = [0]
    for attempt in range(3):
        process = process_of([*arguments, *(["--resume"] if attempt else [])])
        if not attempt:
            wait_for(partial, process)
        before = partial.read_bytes()
        until = time.monotonic() + 60
        while partial.read_bytes() == before and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate(timeout=60)
        done.append(steps_in(partial))
    continued = run_cli(*arguments, "--resume")
    run_cli(*distil(tiny, steps=100), "-o", tmp_path / "whole.ddset")

    assert 0 == continued.code, continued.err
    assert sorted(set(done)) == done, "every run goes further"
    assert (tmp_path / "whole.ddset").read_bytes() == (tmp_path / "x.ddset").read_bytes()
    assert ["whole.ddset", "x.ddset"] == sorted(path.name for path in tmp_path.iterdir())


def test_an_unfinished_run_is_neither_lost_nor_continued_unasked(run_cli, tiny: str, unfinished: Path) -> None:
    """Exit 2 with advice; --force starts over, and nothing is left of the state."""
    output = unfinished.with_suffix("")
    before = unfinished.read_bytes()
    refused = run_cli(*distil(tiny), "-o", output)
    kept = unfinished.read_bytes()
    forced = run_cli(*distil(tiny), "-o", output, "--force")

    assert 2 == refused.code
    assert f"'{unfinished}' holds the state of an unfinished run; use --resume to continue it, or" in refused.err
    assert before == kept
    assert 0 == forced.code, forced.err
    assert "continuing" not in forced.err
    assert not unfinished.exists()


def test_resume_without_a_state_starts_from_the_beginning(run_cli, tiny: str, tmp_path: Path) -> None:
    """So that one command line serves the first and every further try; it is said."""
    fresh = run_cli(*distil(tiny), "-o", tmp_path / "a.ddset", "--resume")
    plain = run_cli(*distil(tiny), "-o", tmp_path / "b.ddset")

    assert (0, 0) == (fresh.code, plain.code)
    assert f"no {tmp_path / 'a.ddset.partial'}, starting from the beginning" in fresh.err
    assert (tmp_path / "a.ddset").read_bytes() == (tmp_path / "b.ddset").read_bytes()


def test_pipes_and_devices_keep_no_state(run_cli, tiny: str) -> None:
    """Nothing beside them; --resume is refused."""
    beside = Path("/dev/null.partial")
    device = run_cli(*distil(tiny), "-o", "/dev/null", "--force")
    refused = [run_cli(*distil(tiny), "-o", output, "--resume") for output in ("-", "/dev/null")]

    assert 0 == device.code, device.err
    assert [2, 2] == [outcome.code for outcome in refused]
    assert all("keeps no state" in outcome.err for outcome in refused)
    assert not beside.exists()


@pytest.mark.fault(112)
def test_fault_112_differences_are_listed_together(run_cli, tiny: str, unfinished: Path) -> None:
    """Exit 2, both sides of every one, and the state stays."""
    before = unfinished.read_bytes()
    changed = [word.replace("steps=4", "steps=5") for word in distil(tiny)]
    outcome = run_cli(*changed, "--seed", "7", "--threads", "2", "-o", unfinished.with_suffix(""), "--resume")

    assert 2 == outcome.code
    for sentence in (
        "option 'options.steps' is 4, this run has 5",
        "option 'seed' is 0, this run has 7",
        "'threads' is 1, this run has 2",
    ):
        assert f"{unfinished}: {sentence}" in outcome.err
    assert before == unfinished.read_bytes()
    assert not unfinished.with_suffix("").exists()


def test_another_teacher_is_named_by_its_file(run_cli, files, tmp_path: Path, monkeypatch) -> None:
    """A digest alone says nothing to its reader."""
    method = _plugins.load("distill", "herding", "METHOD")
    command = ["distill", "--data", files.data, "--method", "herding", "--ipc", "1", "--threads", "1"]
    other = tmp_path / "other.ddset"
    teach = run_cli("train-teacher", "--data", files.data, *NET, "--epochs", "1", "--seed", "1", "-o", other)
    with monkeypatch.context() as patch:
        patch.setattr(method, "finish", lambda *_arguments: (_ for _ in ()).throw(MemoryError()))
        stopped = run_cli(*command, "--teacher", files.teacher, "-o", tmp_path / "x.ddset")
    outcome = run_cli(*command, "--teacher", other, "-o", tmp_path / "x.ddset", "--resume")

    assert (0, 6, 3) == (teach.code, stopped.code, outcome.code), stopped.err + outcome.err
    assert f"this run has {Bundle.open(other).content[:12]} ({other})" in outcome.err


DAMAGE = {
    "cut off": lambda data: data[: len(data) * 3 // 4],
    "empty": lambda _data: b"",
    "no bundle": lambda _data: b"not a bundle at all, but long enough to have a header length" * 9,
    "flipped bit": lambda data: data[:-70] + bytes([data[-70] ^ 1]) + data[-69:],
}


@pytest.mark.parametrize("damage", [*DAMAGE, "another kind", "a folder"])
@pytest.mark.fault(113)
def test_fault_113_damaged_states_are_never_a_silent_restart(
    run_cli, tiny: str, files, unfinished: Path, damage: str
) -> None:
    """Exit 3 (2 for a folder), nothing written, the file as it was."""
    if damage == "a folder":
        unfinished.unlink()
        unfinished.mkdir()
    elif damage == "another kind":
        unfinished.write_bytes(files.base.read_bytes())
    else:
        unfinished.write_bytes(DAMAGE[damage](unfinished.read_bytes()))
    before = None if unfinished.is_dir() else unfinished.read_bytes()
    outcome = run_cli(*distil(tiny), "-o", unfinished.with_suffix(""), "--resume")

    assert (2 if damage == "a folder" else 3) == outcome.code, outcome.err
    assert str(unfinished) in outcome.err
    assert damage in {"a folder", "another kind"} or "; use --force to start over\n" in outcome.err
    assert not unfinished.with_suffix("").exists()
    assert unfinished.is_dir() or before == unfinished.read_bytes()


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.fault(115)
def test_fault_115_the_state_before_a_divergence_is_kept(
    run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Exit 5; the last good state is there, and once the cause is gone it continues to the same bytes."""
    method = _plugins.load("distill", "dm", "METHOD")
    real = method.step

    def step(self: Any, problem: Any, state: Any, index: int, generator: Any) -> Any:
        after, metrics = real(self, problem, state, index, generator)
        if index == at:
            after = {**after, "images": torch.full_like(after["images"], float("nan"))}
        return after, metrics

    with monkeypatch.context() as patch:
        patch.setattr(method, "step", step)
        diverged = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset")
    done = steps_in(tmp_path / "x.ddset.partial")
    continued = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset", "--resume")
    run_cli(*distil(tiny), "-o", tmp_path / "whole.ddset")

    assert (5, 0) == (diverged.code, continued.code)
    assert at == done
    assert f"the state after {at} of 4 steps is in" in diverged.err
    assert "'images' became non-finite" in diverged.err
    assert (tmp_path / "whole.ddset").read_bytes() == (tmp_path / "x.ddset").read_bytes()


@pytest.mark.parametrize(
    "error",
    [MemoryError, lambda: torch.OutOfMemoryError("CUDA out of memory"), lambda: RuntimeError("can't allocate memory")],
    ids=["system", "device", "torch on the CPU"],
)
@pytest.mark.fault(116)
def test_fault_116_out_of_memory_keeps_the_state(
    run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    """Exit 6, an option to lower, and the way to continue on a machine with more."""
    with monkeypatch.context() as patch:
        interrupt_inside(patch, 3, error)
        outcome = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset")
    continued = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset", "--resume")

    assert (6, 0) == (outcome.code, continued.code)
    assert "out of memory; lower" in outcome.err
    assert "the state after 3 of 4 steps is in" in outcome.err
    assert "--resume continues" in outcome.err


@pytest.mark.parametrize(
    "error", [MemoryError, lambda: RuntimeError("can't allocate memory")], ids=["system", "torch on the CPU"]
)
@pytest.mark.fault(116)
def test_fault_116_out_of_memory_while_the_state_is_taken(
    run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    """It is said, also with --quiet, and hides nothing of why the run ended."""

    def fails(*_arguments: object) -> None:
        raise error()

    interrupt_inside(monkeypatch, 2, MemoryError)
    monkeypatch.setattr(stage, "state_section", fails)
    outcome = run_cli(*distil(tiny), "-q", "-o", tmp_path / "x.ddset")

    assert 6 == outcome.code
    assert "the newest state could not be kept (out of memory" in outcome.err
    assert "error: out of memory; lower" in outcome.err
    assert [] == list(tmp_path.iterdir())


@pytest.mark.fault(96)
def test_fault_96_a_full_disk_at_the_end_loses_only_the_last_writing(
    run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result does not fit: exit 6; all steps are kept, and continuing writes the result alone."""

    class Full(fsio.FileSystem):
        def create(self, path: str, mode: int) -> int:
            if ".partial." not in path:
                raise OSError(28, "No space left on device")
            return super().create(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(fsio, "current", Full())
        outcome = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset")
    with monkeypatch.context() as patch:
        interrupt_inside(patch, 0, AssertionError)
        continued = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset", "--resume")

    assert 6 == outcome.code
    assert "the state after 4 of 4 steps is in" in outcome.err
    assert 0 == continued.code, continued.err


def test_a_state_that_cannot_be_kept_hides_no_error(
    run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are said; the first one gives the exit code."""

    class Full(fsio.FileSystem):
        def create(self, path: str, mode: int) -> int:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fsio, "current", Full())
        interrupt_inside(patch, 2, MemoryError)
        outcome = run_cli(*distil(tiny), "-o", tmp_path / "x.ddset")

    assert 6 == outcome.code
    assert "error: out of memory" in outcome.err
    assert "the newest state could not be kept" in outcome.err
    assert "--resume" not in outcome.err, "nothing is there to continue"
    assert [] == list(tmp_path.iterdir())


def test_inspect_shows_how_far_a_run_is(run_cli, unfinished: Path) -> None:
    """Stage, steps done and total, and the sections; digests can be verified."""
    table = run_cli("inspect", unfinished, "--verify")
    document = json.loads(run_cli("inspect", unfinished, "--json").out)["bundles"][0]["manifest"]

    assert 0 == table.code
    assert "unfinished: distill, 2 of 4 steps done; its command continues it with --resume" in table.out
    assert "state.method" in table.out
    shown = " ".join(table.out.split())
    assert " distill: arch=convnet-d1-w8" in shown
    assert "data=npz:tiny.npz, " in shown
    assert " options: augment=" in shown
    assert "steps=4" in shown
    assert "partial" == document["kind"]
    assert "dm" == document["history"][-1]["config"]["method"]


def test_a_state_holds_no_path_of_the_machine(tiny: str, unfinished: Path) -> None:
    """As no bundle does."""
    folder = os.path.dirname(tiny.partition(":")[2])

    assert folder not in Bundle.open(unfinished).manifest.to_json().decode()
