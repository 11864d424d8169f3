"""Signals at moments without a state: before a stage starts, while it reads its inputs, in commands without a stage."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ddlabel import __main__, bundle, inputs
from ddlabel.cli import _stage, app, augment_labels, methods


@pytest.fixture(autouse=True)
def _default_signals() -> Iterator[None]:
    """As a command of a terminal starts, however the tests themselves were started."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def sends(number: int) -> Callable[..., bytes]:
    """A function that interrupts its own process."""

    def send(*_arguments: object) -> bytes:
        os.kill(os.getpid(), number)
        return b""

    return send


def presses_ctrl_c(*_arguments: object) -> None:
    """What Python does where nobody handles the signal."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("module", ["_stage._open", "methods.names"])
def test_an_interrupt_that_nobody_handles_is_said(run_cli, files, tmp_path, monkeypatch, module: str) -> None:
    """Exit 130, in commands with a stage and without."""
    place, name = module.split(".")
    monkeypatch.setattr({"_stage": _stage, "methods": methods}[place], name, presses_ctrl_c)
    refine = ["refine", files.dense, "-o", tmp_path / "x.ddset"]
    outcome = run_cli(*(refine if place == "_stage" else ["methods"]))

    assert (130, "error: interrupted\n") == (outcome.code, outcome.err)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_commands_without_a_stage_end_by_a_signal_as_stages_do(run_cli, monkeypatch, number: int, code: int) -> None:
    """The handlers of before are back afterwards."""
    before = signal.getsignal(number)
    monkeypatch.setattr(methods, "names", sends(number))
    outcome = run_cli("methods")

    assert (code, "error: interrupted\n") == (outcome.code, outcome.err)
    assert before == signal.getsignal(number)


@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
def test_an_interrupt_while_stdin_is_read(run_cli, files, tmp_path, monkeypatch, swallowed: bool) -> None:
    """130 even where code of others swallows the error, so that the bundle seems to be empty."""

    class Stream(io.BytesIO):
        def read(self, *_size: object) -> bytes:
            with contextlib.suppress(Exception) if swallowed else contextlib.nullcontext():
                sends(signal.SIGINT)()
            return b""

    monkeypatch.setattr(inputs, "stdin_stream", lambda: Stream())
    outcome = run_cli("augment-labels", "-", "--teacher", files.teacher, "-o", tmp_path / "x.ddset")

    assert (130, "error: interrupted\n") == (outcome.code, outcome.err)


def test_an_interrupt_waits_for_the_end_of_imports(run_cli, files, tmp_path, monkeypatch) -> None:
    """Modules are whole or absent; no input is opened after it."""
    imported = []

    def stage() -> None:
        sends(signal.SIGINT)()
        imported.append("whole")

    monkeypatch.setattr(augment_labels, "_stage", stage)
    monkeypatch.setattr(bundle.Bundle, "open", presses_ctrl_c)
    outcome = run_cli("augment-labels", files.base, "--teacher", files.teacher, "-o", tmp_path / "x.ddset")

    assert (130, ["whole"]) == (outcome.code, imported)


def test_an_interrupt_before_handlers_are_installed(monkeypatch, capsys) -> None:
    """While the command line itself is imported."""
    monkeypatch.setattr(app, "main", presses_ctrl_c)
    with pytest.raises(SystemExit) as caught:
        __main__.entry()

    assert 130 == caught.value.code
    assert "error: interrupted\n" == capsys.readouterr().err


def test_next_to_nothing_is_imported_where_an_interrupt_is_not_handled() -> None:
    """Before the first line that guards: what comes before that is Python's own."""
    code = "import sys; before = {*sys.modules}; import ddlabel.__main__; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)

    assert ["__future__", "ddlabel", "ddlabel.__main__"] == done.stdout.split()
