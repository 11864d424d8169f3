"""Commands at the same time on the same files: whole files, the promised exit codes, clear words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import contextlib, io, json, os, sys
import torch
from ddlabel.bundle import Bundle
from ddlabel.cli.app import main

torch.set_num_threads(1)  # so that forking is safe
SPEC, FOLDER, ROUNDS = sys.argv[1], sys.argv[2], int(sys.argv[3])
OUTPUT = os.path.join(FOLDER, "x.ddset")
RANDOM = ("distill", "--data", SPEC, "--method", "random", "--ipc", 1, "-q", "-o", OUTPUT)

def fork(*arguments, times=1):
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        said, codes = io.StringIO(), []
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            for _time in range(times):
                codes.append(main([str(each) for each in arguments]))
        errors = [line for line in said.getvalue().splitlines() if "error" in line]
        os.write(writer, json.dumps([codes, errors]).encode())
    finally:
        os._exit(0)

def answers(*children):
    found = []
    for child, reader in children:
        with open(reader) as stream:
            found.append(json.loads(stream.read()))
        os.waitpid(child, 0)
    return found

def clean():
    for name in os.listdir(FOLDER):
        os.unlink(os.path.join(FOLDER, name))

def distil(seed, *more):
    net = ("--arch", "convnet-d1-w8", "--set", "steps=2", "--set", "batch_real=4")
    return (*RANDOM[:3], "--method", "dm", "--ipc", 1, *net, "--seed", seed, "-q", *more, "-o", OUTPUT)

with contextlib.redirect_stderr(io.StringIO()):
    main([str(each) for each in distil(0)])  # imports everything before any fork
result = {}
for name, more in (("plain", ()), ("force", ("--force",)), ("resume", ("--resume",))):
    result[name] = []
    for _round in range(ROUNDS):
        clean()
        found = answers(*[fork(*distil(seed, *more)) for seed in range(3)])
        whole = Bundle.open(OUTPUT, verify=True).manifest.history[-1]["seed"]
        result[name].append([found, whole, sorted(os.listdir(FOLDER))])
clean()
answers(fork(*distil(0)))
writer = fork(*RANDOM, "--force", times=5 * ROUNDS)
readers = [fork("inspect", OUTPUT, "--verify", times=10 * ROUNDS) for _reader in range(2)]
result["reading"] = answers(writer, *readers)
print(json.dumps(result))
"""


@pytest.mark.slow
@pytest.mark.fault(90, 101, 102)
def test_three_writers_and_two_readers_of_one_file(tiny: str, tmp_path: Path) -> None:
    """Somebody wins; who comes too late is told that the file exists or that another run is at work."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tiny, str(tmp_path), "2"],
        capture_output=True,
        text=True,
        timeout=280,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name in ("plain", "force", "resume"):
        for found, winner, left in result[name]:
            codes = [code for ((code,), _errors) in found]
            words = [error for _codes, errors in found for error in errors]
            assert 0 == codes[winner], found
            assert set(codes) <= {0, 6} if name == "force" else set(codes) <= {0, 2, 6}
            assert 1 == codes.count(0) or name == "force"
            assert len(words) == 3 - codes.count(0)
            assert all(
                "another run keeps its state in" in word or "exists, expected a new name" in word for word in words
            )
            assert ["x.ddset"] == left

    assert {0} == {code for codes, _errors in result["reading"] for code in codes}, result["reading"]
