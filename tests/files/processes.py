"""Real processes at work on the same files: a script that forks, so that the interpreter starts once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORKING = """
import json, os, signal, sys, time
from ddlabel import fsio
from ddlabel.bundle import Bundle, NewSection, RawTensor, StageRecord
from ddlabel.errors import DdlabelError
from ddlabel.filesystem import FileSystem

FOLDER = sys.argv[1]
PATH = os.path.join(FOLDER, "x.ddset")

def bundle(number, size=3000):
    record = StageRecord("distill", {"number": number}, 0, [], {}, 1.0, 1.7e9, {"device": "cpu"})
    section = NewSection("state.a", "state", {"state.a.x": RawTensor("U8", (size,), bytes([number % 256]) * size)})
    return Bundle.create("partial", None, record, [section])

def number_of(path):
    opened = Bundle.open(path, verify=True)
    number = opened.manifest.history[-1]["config"]["number"]
    assert set(opened.read("state.a.x")[2]) == {number % 256}, "a mixture"
    return number

def fork(work, *arguments):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = work(*arguments) or 0
    except DdlabelError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)

def wait(*children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
"""


def forking(script: str, folder: Path, *, timeout: float = 120, wrapper: Sequence[str] = ()) -> tuple[Any, str]:
    """Run a script that forks; it prints one JSON document, and its children complain on stderr."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", FORKING + script, str(folder)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr
