"""Out of memory: exit 6, and advice that the command can take."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddlabel.cli._options import known_options
from ddlabel.cli.app import COMMANDS, LESS_MEMORY


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_advice_is_of_the_command(
    run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """An export has no --ipc to lower, a report no net."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("ddlabel.stages.export_set.read_stored", fail)
    monkeypatch.setattr("ddlabel.cli._page_parts.page", fail)
    exported = run_cli("export", files.base, "-o", tmp_path / "x.npz")
    reported = run_cli("report", files.base, "-o", tmp_path / "x.html")

    assert [6, 6] == [exported.code, reported.code]
    assert "error: out of memory; leave label kinds out, as with --labels hard" in exported.err
    assert "error: out of memory; give fewer bundles at a time" in reported.err
    assert not list(tmp_path.iterdir())


def test_other_errors_of_torch_are_not_called_memory(run_cli, files, tmp_path: Path, monkeypatch) -> None:
    """They are bugs, with their traceback."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("ddlabel.stages.export_set.read_stored", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_cli("export", files.base, "-o", tmp_path / "x.npz")


def test_advice_names_options_that_the_command_has() -> None:
    """Every `--word` of it."""
    commands = {command.name: command for command in COMMANDS}
    for name, advice in LESS_MEMORY.items():
        known = known_options(commands[name])
        assert [] == [word for word in advice.replace(",", "").split() if word[:2] == "--" and word not in known], name
