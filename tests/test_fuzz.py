"""The short form of the fuzzer: header, manifest, files and codecs against 5,000 mutations, the same ones every time.

`tests/benchmarks/fuzz.py` is the long form. What it found is a test beside the code that was wrong.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from ddlabel import _plugins
from ddlabel.bundle import Bundle
from ddlabel.errors import BundleError, DataError

from .bundle.forging import Forgery, as_bytes, make_distilled, reopen, split
from .fuzzing import harness
from .fuzzing.containers import same_to_safetensors, survives_writing
from .fuzzing.everything import TARGETS, shares
from .fuzzing.harness import Target, fuzz
from .fuzzing.mutations import damage, damage_json

COUNT = 5_000
PLAN = shares(COUNT)
ARCHIVES = sorted((Path(__file__).parent / "archives").glob("v*/*.ddset"))


@pytest.mark.parametrize(("target", "count"), PLAN, ids=[target.name for target, _count in PLAN])
def test_mutations_are_refused_or_harmless(target: Target, count: int) -> None:
    """An error of ours or success, within a second and 64 MiB; success means what it says. Both happen."""
    report = fuzz(target, count)

    assert not report.findings, "\n".join(report.findings[:3])
    assert count == report.count
    assert report.refused > 0
    assert report.accepted > 0 or target.name == "file"


def test_every_decoder_and_enough_mutations_are_in_the_plan() -> None:
    """A new codec is attacked from its first day."""
    assert sum(count for _target, count in PLAN) >= COUNT
    assert sum(count for _target, count in shares(200_000)) >= 200_000
    assert {f"codec {name}" for name in _plugins.names("codecs")} <= {target.name for target in TARGETS}
    assert {"header", "frame", "manifest"} <= {target.name for target in TARGETS}


def test_mutations_repeat() -> None:
    """The path in a finding is enough to see it again; another seed tries something else."""
    document = {"a": [1, {"b": "c"}], "d": None}
    for make in (lambda choice: damage(choice, b"some bytes" * 9), lambda choice: damage_json(choice, document)):
        made = [[repr(make(random.Random(f"{seed}/x/{index}"))) for index in range(30)] for seed in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
    assert {"a": [1, {"b": "c"}], "d": None} == document


def _slow(_case: object) -> None:
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass


def _large(_case: object) -> None:
    assert bytearray(80 * 2**20).count(1) == 0


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("check", "finding"),
    [
        (lambda _case: _raise(KeyError("x")), "KeyError"),
        (lambda _case: _raise(AssertionError("not the same")), "not the same"),
        (lambda _case: _raise(DataError("a folder")), "exit 4"),
        (_slow, "accepted after 0."),
        pytest.param(_large, "MiB", marks=pytest.mark.skipif(
            not Path("/proc/self/clear_refs").exists(), reason="peaks are not forgotten here")),
    ],
    ids=["another exception", "a difference", "another exit code", "too slow", "too large"],
)  # fmt: skip
def test_the_fuzzer_can_find_something(monkeypatch: pytest.MonkeyPatch, check, finding: str) -> None:
    """A planted fault is a finding, with the path that repeats it."""
    monkeypatch.setattr(harness, "MOST_SECONDS", 0.05)
    report = fuzz(Target("planted", lambda choice: choice.random(), check), 1, seed=3)

    assert [True] == [finding in text and text.startswith("3/planted/0: ") for text in report.findings]
    assert (0, 0, 1) == (report.accepted, report.refused, report.count)


def test_the_fuzzer_counts_refusals_and_successes() -> None:
    """Neither is a finding."""

    def check(number: int) -> None:
        if number % 3 == 0:
            raise BundleError("every third")

    report = fuzz(Target("thirds", lambda choice: choice.randrange(3), check), 60)

    assert (60, []) == (report.count, report.findings)
    assert report.accepted > report.refused > 0


BUNDLES = {
    **{f"archive {path.parent.name}/{path.stem}": path.read_bytes for path in ARCHIVES},
    "plain": lambda: as_bytes(make_distilled(rich=False)),
    "rich": lambda: as_bytes(make_distilled()),
    "another writer's": lambda: Forgery.of(as_bytes(make_distilled())).build(manifest_last=True),
}


@pytest.mark.parametrize("make", BUNDLES.values(), ids=BUNDLES)
def test_valid_bundles_are_the_same_to_safetensors(make) -> None:
    """Names, dtypes, shapes and bytes, by the library's own reader."""
    same_to_safetensors(make())


@pytest.mark.parametrize("kind", ["teacher", "base", "soft", "dense", "gift"])
def test_bundles_of_every_stage_are_the_same_to_safetensors_and_written_back(files, kind: str) -> None:
    """Written by the command line; byte for byte what is written from what was read."""
    data = getattr(files, kind).read_bytes()

    same_to_safetensors(data)
    assert data == as_bytes(reopen(data, verify=True))


@pytest.mark.parametrize("make", BUNDLES.values(), ids=BUNDLES)
def test_what_is_read_is_written_back(make) -> None:
    """Byte for byte, but for archives and other writers: those say the same, and are byte for byte from then on."""
    survives_writing(reopen(make(), verify=True))


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_archives_are_written_back_byte_for_byte(path: Path) -> None:
    """All but the manifest's stream, which is the same where the same zstd wrote it; its contents always are."""
    old = path.read_bytes()
    new = as_bytes(Bundle.open(path))
    (ours, start), (theirs, begin) = split(new), split(old)
    manifests = [header["manifest.json.zst"]["data_offsets"][1] for header in (ours, theirs)]

    assert Bundle.open(path).manifest.document["sections"] == reopen(new).manifest.document["sections"]
    assert new[start + manifests[0] :] == old[begin + manifests[1] :]
    assert len(new) == len(old)
    if zstd_of(old) == zstd_of(new):
        assert old == new


def zstd_of(data: bytes) -> bytes:
    """The compressed manifest, which tells versions of zstd apart."""
    header, base = split(data)
    return data[base : base + header["manifest.json.zst"]["data_offsets"][1]]
