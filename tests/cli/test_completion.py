"""Completion: what may follow which words, and that each shell's script gets it in its form (bash is tried)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ddlabel import _plugins
from ddlabel.cli._completion import EXTRA, VARIABLE, answer, candidates
from ddlabel.cli.app import COMMANDS
from ddlabel.recipes import load_recipe


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dis", {"distill"}),
        ("--inst", {"--install-completion"}),
        ("distill --me", {"--method"}),
        ("distill --method m", {"margin", "mtt"}),
        ("refine --method ", set(_plugins.names("refine"))),
        ("refine --method=g", {"--method=gift"}),
        ("augment-labels x.ddset --codec q8", {"q8"}),
        ("augment-labels --kind f", {"feature", "fkd"}),
        ("evaluate x.ddset --loss ce,kl_", {"ce,kl_ce", "ce,kl_t2"}),
        ("evaluate --protocol c", {"continual"}),
        ("evaluate --optimizer a", {"adam", "adamw"}),
        ("evaluate --arch convn", {"convnet"}),
        ("distill --space z", {"zca"}),
        ("distill --data ", {f"{name}:" if name in {"folder", "npz"} else name for name in _plugins.names("data")}),
        ("export x.ddset --format ", {"auto", *_plugins.names("exporters")}),
        ("import x --format m", {"mtt"}),
        ("import x --constants ci", {"cifar10", "cifar100"}),
        ("import x --domain ", {"logit", "prob"}),
        ("config dump im", {"import"}),
        ("config ", {"dump"}),
        ("config dump ref", {"refine"}),
        ("config dump refine --method d", {"dcpi"}),
        ("methods gif", {"gift"}),
        ("evaluate ", set()),
        ("distill --output ", set()),
        ("nothing ", set()),
        ("evaluate --seeds ", set()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_words_are_completed(line: str, expected: set[str]) -> None:
    """By the last of them; where files belong, nothing, so that the shell offers files."""
    *words, incomplete = line.split(" ")

    assert expected == set(candidates(words, incomplete, COMMANDS))


def test_constants_are_those_that_an_import_takes() -> None:
    """Completion does not load what knows them."""
    from ddlabel.importers._guess import CLASS_COUNTS

    assert sorted(CLASS_COUNTS) == sorted(EXTRA["constants"])


def test_recipes_are_those_of_the_stage() -> None:
    """One that does not speak of it is not offered."""
    found = candidates(["evaluate", "--recipe"], "", COMMANDS)

    assert len(found) > 20
    assert all("evaluate" in load_recipe(name).stages for name in found[:5])
    assert {"mtt/cifar10-ipc1", "mtt/cifar10-ipc10"} <= set(candidates(["recipes"], "mtt/cifar10-ipc1", COMMANDS))


def test_commands_without_files_offer_their_options_at_once() -> None:
    """`ddlabel distill <TAB>`."""
    assert {"--data", "--method", "--config"} <= set(candidates(["distill"], "", COMMANDS))


POWER = {"_TYPER_COMPLETE_WORD_TO_COMPLETE": "g"}


@pytest.mark.parametrize(
    ("shell", "environ", "expected"),
    [
        ("bash", {"COMP_WORDS": "ddlabel\nrefine\n--method\ng", "COMP_CWORD": "3"}, ("gift", 0)),
        ("bash", {"COMP_WORDS": "ddlabel\nrefine\n--method\n=\ng", "COMP_CWORD": "4"}, ("gift", 0)),
        ("bash", {"COMP_WORDS": "ddlabel\nrefine\n--method\n=", "COMP_CWORD": "3"}, ("dcpi\ngift\nrecode", 0)),
        ("bash", {"COMP_WORDS": "ddlabel\nconfig", "COMP_CWORD": "2"}, ("dump", 0)),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "ddlabel refine --method g"}, ("_arguments '*: :((\"gift\"))'", 0)),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "ddlabel distill --data np"}, ("_arguments '*: :((\"npz\\\\:\"))'", 0)),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "ddlabel inspect "}, ("_files", 0)),
        ("fish", {"_TYPER_COMPLETE_ARGS": "ddlabel refine --method "}, ("dcpi\ngift\nrecode", 0)),
        ("fish", {"_TYPER_COMPLETE_ARGS": "ddlabel inspect ", "_TYPER_COMPLETE_FISH_ACTION": "is-args"}, ("", 1)),
        ("fish", {"_TYPER_COMPLETE_ARGS": "ddlabel re", "_TYPER_COMPLETE_FISH_ACTION": "is-args"}, ("", 0)),
        ("powershell", {**POWER, "_TYPER_COMPLETE_ARGS": "ddlabel refine --method g"}, ("gift::: ", 0)),
        ("pwsh", {"_TYPER_COMPLETE_ARGS": "ddlabel refine --method"}, ("dcpi::: \ngift::: \nrecode::: ", 0)),
        ("pwsh", {"_TYPER_COMPLETE_ARGS": "ddlabel inspect"}, ("", 0)),
        ("bash", {}, None),
    ],
    ids=["bash", "bash cut at =", "bash at =", "bash next word", "zsh", "zsh colon", "zsh files", "fish", "fish files",
         "fish no files", "powershell", "powershell next word", "powershell files", "nothing"],
)  # fmt: skip
def test_scripts_get_their_form(shell: str, environ: dict[str, str], expected: tuple[str, int] | None) -> None:
    """As typer's scripts pass the words and read the answer."""
    found = answer(f"complete_{shell}", environ, COMMANDS)

    assert expected is None or expected == found


def test_the_script_of_bash_completes(run_cli, tmp_path: Path) -> None:
    """The script as printed, a command on the path, bash itself."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    command = tmp_path / "ddlabel"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ddlabel "$@"\n')
    command.chmod(0o755)
    script = run_cli("--show-completion", "bash").out
    ask = 'COMP_WORDS=(ddlabel augment-labels "a b.ddset" --kind d); COMP_CWORD=4; _ddlabel_completion ddlabel'
    line = f'PATH={tmp_path}:$PATH\n{script}\n{ask}; printf "%s|" "${{COMPREPLY[@]}}"'
    done = subprocess.run([bash, "--norc", "-c", line], capture_output=True, text=True, check=True)

    assert VARIABLE in script
    assert "dense|" == done.stdout


def test_scripts_are_shown_and_installed_for_the_shell_of_the_user(run_cli, tmp_path: Path, monkeypatch) -> None:
    """The one of $SHELL, or the one named; others are refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    shown, named, unknown = (run_cli("--show-completion", *shell) for shell in ((), ("zsh",), ("tcsh",)))
    installed = run_cli("--install-completion")

    assert "complete --command ddlabel" in shown.out
    assert "#compdef ddlabel" in named.out
    assert (2, True) == (
        unknown.code,
        "shell 'tcsh' is unknown, expected one of bash, zsh, fish, powershell, pwsh" in unknown.err,
    )
    assert f"completion for fish is in {tmp_path}/.config/fish/completions/ddlabel.fish" in installed.out
    assert "complete_powershell" in run_cli("--show-completion", "pwsh").out
    refused = run_cli("--install-completion", "pwsh")
    assert (2, True) == (refused.code, "ddlabel --show-completion pwsh >> $PROFILE" in refused.err)
    assert shown.out.strip() == (tmp_path / ".config/fish/completions/ddlabel.fish").read_text().strip()
