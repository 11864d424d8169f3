"""Pages as programs: the blocks of a Markdown page, and a small shell that runs their commands in this process.

A page is run in one empty folder, its blocks in order. Blocks of `sh` are command lines; blocks of `python` run in one
interpreter; a block right after a line that ends with a file name in backticks and a colon is that file. Blocks without
a language are what programs print, and are not run.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GENERATED = ("cli.md", "methods.md", "recipes.md")
"""Pages that `docs/generate.py` writes; recipes and options there are checked by other tests."""
PROGRAMS = ("gzip",)
"""What pages may call beside ddlabel and scripts of their own."""
BLOCK = re.compile(r"^([^\n]*)\n+```([a-z]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FEWER = {"--epochs": 3, "--seeds": 1, "--experts": 2, "--orders": 2}
FEWER_SETTINGS = {
    "steps": 2, "syn_steps": 2, "max_start_epoch": 1, "views": 4, "real_epochs": 1, "score_nets": 2, "score_epoch": 2,
}  # fmt: skip
"""At most so many of what only takes time."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    file: str | None
    """The name under which it is to be saved, when the line before it says one."""


def pages() -> list[str]:
    """Paths of README and of all pages that people write, from the root of the repository."""
    found = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    return ["README.md", *(name for name in found if Path(name).name not in GENERATED)]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    made = []
    for before, language, body in BLOCK.findall(text):
        named = re.search(r"`([\w./-]+\.\w+)`:$", before)
        made.append(Block(language, body, named[1] if named else None))
    return made


def command_lines(text: str) -> list[str]:
    """Every command line of the shell blocks, without comments, continued lines joined, blanks single."""
    joined = "".join(block.text for block in blocks(text) if block.language == "sh").replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in joined.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def stages_of(line: str) -> list[list[str]]:
    """A command line as the words of each command of its pipe, `>` and `FILE` at the end of the last one."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    stages: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


def ddlabel_words(line: str) -> list[list[str]]:
    """What each ddlabel of a command line is given, also behind torchrun and without what goes to a file."""
    found = []
    for stage in stages_of(line):
        words = stage[: stage.index(">")] if ">" in stage else stage
        if words[0] == "torchrun":
            words = words[words.index("-m") + 1 :]
        if words[0].endswith("ddlabel"):
            found.append(words[1:])
    return found


def shorter(words: list[str]) -> list[str]:
    """The same command with fewer epochs, steps, seeds and experts."""
    made: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before in FEWER and word.isdecimal():
            word = str(min(int(word), FEWER[before]))
        elif before in {"--keep", "--checkpoint"} and re.fullmatch(r"[\d,]+", word):
            epochs = (str(min(int(epoch), FEWER["--epochs"])) for epoch in word.split(","))
            word = ",".join(dict.fromkeys(epochs))
        elif before == "--set":
            name, _, value = word.partition("=")
            most = FEWER_SETTINGS.get(name)
            word = f"{name}={min(int(value), most)}" if most and value.isdecimal() else word
        made.append(word)
    unsaid = {"--epochs": "2", "--seeds": "1"} if made[0] == "evaluate" else {}
    return [*made, *(word for name, value in unsaid.items() if name not in made for word in (name, value))]


@dataclass
class Shell:
    """Runs command lines as `sh` would, every ddlabel in this process."""

    not_run: Mapping[str, str] = field(default_factory=dict)
    """Command lines that are skipped, with the reason."""
    skipped: list[str] = field(default_factory=list)
    printed: str = ""

    def run(self, line: str) -> None:
        """Run one line.

        Raises:
            AssertionError: a command failed, or is none that pages may call.
        """
        if line in self.not_run:
            self.skipped.append(line)
            return
        if assignment := re.fullmatch(r"export (\w+)=(\S+)", line):
            os.environ[assignment[1]] = assignment[2]
            return
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open(os.devnull, "rb"))
            for words in stages_of(line):
                target = stack.enter_context(tempfile.TemporaryFile())
                kept, into = (words[:-2], Path(words[-1])) if ">" in words else (words, None)
                code, errors = self._call([found for word in kept for found in _expanded(word)], source, target)
                assert code == 0, f"{line}\nexit {code}: {errors}"
                target.seek(0)
                if into is not None:
                    into.write_bytes(target.read())
                source = target
            self.printed += source.read().decode(errors="replace")

    def _call(self, words: list[str], source, target) -> tuple[int, str]:
        program, *arguments = words
        if program in PROGRAMS:
            done = subprocess.run(words, stdin=source, stdout=target, stderr=subprocess.PIPE, timeout=60)
            return done.returncode, done.stderr.decode()
        if program == "python":
            runpy.run_path(arguments[0], run_name="__main__")
            return 0, ""
        assert program == "ddlabel", f"'{program}' is not run: list the line in tests/docs/test_pages.py with a reason"
        return in_process(shorter(arguments), source, target)


def in_process(arguments: list[str], source, target) -> tuple[int, str]:
    """Run one ddlabel on two files; exit code and what it wrote to stderr."""
    from ddlabel.cli.app import main

    usual = sys.stdin
    with (
        tempfile.TemporaryFile("w+") as errors,
        open(os.dup(target.fileno()), "w") as out,
        open(os.dup(source.fileno())) as sys.stdin,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            code = main(arguments)
            out.flush()
        finally:
            sys.stdin = usual
        errors.seek(0)
        return code, errors.read()


def _expanded(word: str) -> list[str]:
    """File names that a pattern matches, in the order of sh; the word itself where there are none."""
    return (sorted(glob.glob(word)) if "*" in word else []) or [word]


def play(text: str, shell: Shell, run_python: Callable[[str], None]) -> None:
    """Run all blocks of a page in order, in the current folder."""
    for block in blocks(text):
        if block.file is not None:
            Path(block.file).write_text(block.text)
        elif block.language == "sh":
            for line in command_lines(f"\n```sh\n{block.text}```\n"):
                shell.run(line)
        elif block.language == "python":
            run_python(block.text)
