"""Several processes on one cache, some of them killed: no corruption, nobody waits for the dead, nothing stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, signal, sys, time
import torch
from ddlabel import fsio
from ddlabel.data import _decoded, _pixel_writer
from ddlabel.data._dataset import load
from ddlabel.data._cache import cache_folder
from ddlabel.data._whitening import cached_zca

torch.set_num_threads(1)  # so that forking is safe
_decoded.REPORT_EVERY, _decoded.WAIT_S, _pixel_writer.PENDING_BYTES = 1, 0.01, 400
SPEC = sys.argv[1]

def fork(work):
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        os.write(writer, json.dumps(work()).encode())
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(0)

def answers(*children):
    found = []
    for child, reader in children:
        with open(reader) as stream:
            text = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found.append(json.loads(text) if text else status)
    return found

def empty():
    for file in cache_folder().iterdir():
        file.unlink()

def left():
    return sorted(file.suffix for file in cache_folder().iterdir())

def reads(on_event):
    dataset = load(SPEC, on_event=on_event)
    pixels = dataset.train.pixels[:]
    return [dataset.fingerprint, int(pixels.long().sum())]

def reader():
    return reads(lambda event: None)

def say(word):
    (cache_folder().parent / word).touch()

def hear(word):
    late = time.monotonic() + 60
    while not (cache_folder().parent / word).exists() and time.monotonic() < late:
        time.sleep(0.002)
    (cache_folder().parent / word).unlink()

def killed():
    def on_event(event):
        if event.phase == "decoding images" and event.done == 12:
            say("decoding")
            hear("waiting")
            os.kill(os.getpid(), signal.SIGKILL)
    return reads(on_event)

def waiting():
    said = []
    def on_event(event):
        said.append([event.phase, event.message, event.done])
        if event.phase == "waiting" and event.message:
            say("waiting")
    hear("decoding")
    found = reads(on_event)
    waits = [message for phase, message, _done in said if phase == "waiting" and message]
    firsts = [done for phase, _message, done in said if phase == "decoding images"][:1]
    return [*found, waits, firsts]

def whiten(pixels):
    zca = cached_zca(pixels, lambda event: print(event.message, file=sys.stderr))
    return float(zca.matrix.double().sum())

class Killed(fsio.FileSystem):
    def replace(self, source, target):
        os.kill(os.getpid(), signal.SIGKILL)

def killed_whitening(pixels):
    fsio.current = Killed()
    return whiten(pixels)
"""
DECODING = """
result = {"together": [], "killed": []}
cache_folder().mkdir(parents=True, exist_ok=True)
for _round in range(ROUNDS):
    empty()
    result["together"].append([answers(fork(reader), fork(reader), fork(reader)), left()])
    empty()
    result["killed"].append([answers(fork(killed), fork(waiting)), left()])
pixels = torch.randint(0, 256, (40, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
empty()
result["whitening"] = [answers(*[fork(lambda: whiten(pixels)) for _ in range(3)]), left()]
empty()
(status,) = answers(fork(lambda: killed_whitening(pixels)))
result["killed whitening"] = [status, left(), whiten(pixels), left()]
print(json.dumps(result))
"""


def run(pictures: Path, rounds: int) -> tuple[dict, str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{SCRIPT}\nROUNDS = {rounds}\n{DECODING}", f"folder:{pictures}"],
        capture_output=True,
        text=True,
        timeout=240,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.fault(84, 101)
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_processes_share_decoded_images_and_whitenings(
    pictures: Path, cache: Path, stored: object, rounds: int
) -> None:
    """Three at once get the same; after a kill the one that waits goes on where the dead one was, and says so."""
    found, errors = run(pictures, rounds)
    ((first, *_others), _files) = found["together"][0]
    zcas, files = found["whitening"]
    status, torn, whitened, after = found["killed whitening"]

    assert "" == errors
    assert [[[first] * 3, [".pixels"]]] * rounds == found["together"]
    for (dead, (*survivor, waits, firsts)), files_after in found["killed"]:
        assert -9 == dead
        assert first == survivor
        assert [".pixels"] == files_after
        assert ["another run is decoding the same images, waiting for it"] == waits
        assert [12] == firsts
    assert [[".safetensors"], 1] == [files, len(set(zcas))]
    assert [-9, [".tmp"], zcas[0], [".safetensors"]] == [status, torn, whitened, after]
