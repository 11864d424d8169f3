"""Stages on images that stay on disk: the bits of a run whose images are in memory, and memory that does not grow."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.data._dataset import load
from ddlabel.data._whitening import PARTS, cached_zca
from ddlabel.events import ignore
from ddlabel.stages._partial import _digest
from ddlabel.stages._scores import identity

from ..conftest import Outcome

Limit = Callable[[int], None]
Run = Callable[..., Outcome]
NET = ("--arch", "convnet-d1-w4")


def tensors(path: Path) -> dict[str, str]:
    """Digests of all tensors."""
    bundle = Bundle.open(path)
    names = [name for section in bundle.manifest.sections for name in section.tensors]
    return {name: hashlib.sha256(bundle.tensor(name).numpy().tobytes()).hexdigest() for name in names}


@pytest.fixture
def both(pictures: Path, tmp_path: Path, stored: Limit, run_cli: Run) -> Callable[..., tuple[Path, Path]]:
    """Runs a command with images in memory, then on disk; both results, which must hold the same tensors."""

    def run(*arguments: str | Path) -> tuple[Path, Path]:
        paths = tmp_path / "memory.ddset", tmp_path / "disk.ddset"
        for path, limit in zip(paths, (2**30, 0), strict=True):
            stored(limit)
            outcome = run_cli(*arguments, "--data", f"folder:{pictures}", "-o", path)
            assert outcome.code == 0, outcome.err

        assert tensors(paths[0]) == tensors(paths[1])
        return paths

    return run


@pytest.fixture
def teacher(pictures: Path, tmp_path: Path, run_cli: Run) -> Path:
    path = tmp_path / "teacher.ddset"
    outcome = run_cli("train-teacher", "--data", f"folder:{pictures}", *NET, "--epochs", "1", "-o", path)
    assert outcome.code == 0, outcome.err
    return path


@pytest.mark.parametrize("space", ["normalised", "zca"])
def test_a_teacher_is_the_same_from_disk(space: str, both: Callable[..., tuple[Path, Path]]) -> None:
    """One epoch and its accuracies; once with scores of all images."""
    scores = (
        "--scores",
        "el2n",
        "--set",
        "score_nets=2",
        "--set",
        "score_epoch=1",
        "--set",
        "score_arch=convnet-d1-w4",
    )
    command = ("train-teacher", *NET, "--epochs", "1", "--space", space, *(scores if space == "zca" else ()))
    memory, disk = (Bundle.open(path) for path in both(*command))

    assert memory.manifest.history[-1]["metrics"] == disk.manifest.history[-1]["metrics"]
    assert memory.manifest.data == disk.manifest.data


@pytest.mark.parametrize("method", ["random", "herding", "dm"])
def test_a_distilled_set_is_the_same_from_disk(
    method: str, both: Callable[..., tuple[Path, Path]], teacher: Path
) -> None:
    """Chosen and optimised images."""
    own = {"herding": ("--teacher", teacher), "dm": (*NET, "--set", "steps=2")}.get(method, ())
    both("distill", "--method", method, "--ipc", "2", *own)


def test_scores_made_in_memory_fit_the_set_on_disk_and_the_other_way_round(
    pictures: Path, tmp_path: Path, stored: Limit, run_cli: Run
) -> None:
    """Of the same images; scores of another order are refused in both forms."""
    data = ("--data", f"folder:{pictures}")
    small = ("--set", "score_nets=1", "--set", "score_epoch=1", "--set", "score_arch=convnet-d1-w4")
    for limit in (0, 2**30):
        stored(limit)
        scores = tmp_path / f"{limit}.ddset"
        made = run_cli("train-teacher", "--experts", "0", "--scores", "el2n", *small, *data, "-o", scores)
        assert made.code == 0, made.err
        stored(2**30 - limit)
        filtered = ("distill", *data, "--method", "random", "--ipc", "1", "--filter", "hard:0.2", "--teacher", scores)
        used = run_cli(*filtered, "-o", tmp_path / "out.ddset", "--force")
        assert used.code == 0, used.err
        other = run_cli(*filtered, "--validation", "0.3", "-o", tmp_path / "out.ddset", "--force")
        assert other.code == 3


def test_identities_of_a_set_on_disk_read_nothing(pictures: Path, cache: Path, stored: Limit) -> None:
    """For states, scores and whitenings: the digests at the end of the file are enough."""
    stored(2**30)
    whole = load(f"folder:{pictures}")
    cached_zca(whole.train.pixels, ignore)
    stored(0)
    dataset = load(f"folder:{pictures}")
    first = cached_zca(dataset.train.pixels, ignore)
    (file,) = cache.glob("*.pixels")
    data = file.read_bytes()
    file.write_bytes(data[:4096] + bytes(24 * 192) + data[4096 + 24 * 192 :])
    gone = load(f"folder:{pictures}")
    second = cached_zca(gone.train.pixels, ignore)

    assert _digest(whole.train) == _digest(gone.train)
    assert identity(dataset) == identity(gone)
    assert re.fullmatch("rows:[0-9a-f]{64}", identity(gone)["split"])
    assert identity(whole) == identity(whole, like="") != identity(whole, like="rows:")
    assert identity(whole, like="rows:") == identity(gone)
    assert all(torch.equal(getattr(first, part), getattr(second, part)) for part in PARTS)


GROWTH = """
import resource, sys
from ddlabel.data._dataset import load
from ddlabel.nets._net import build
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.training import predict
space = Space(kind="normalised", mean=(0.5,), std=(0.2,), zca=None)
net = build("convnet-d1-w4", channels=1, size=64, classes=2, generator=generator(0))
for path in sys.argv[1:]:
    dataset = load(f"npz:{path}")
    predict(net, dataset.train.pixels, space=space)
    del dataset
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path, cache: Path, stored: Limit) -> None:
    """Decoding, loading and one pass of a net: 33 MB of images more cost less than a fifth of that."""
    source = np.random.Generator(np.random.PCG64(0))
    paths = []
    for count in (2_000, 10_000):
        paths.append(tmp_path / f"{count}.npz")
        images, labels = source.integers(0, 256, (count, 64, 64), dtype=np.uint8), np.arange(count) % 2
        np.savez(paths[-1], train_images=images, train_labels=labels, test_images=images[:9], test_labels=labels[:9])
    command = [sys.executable, "-c", GROWTH, *map(str, paths)]
    small, large = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    assert (large - small) * 1024 < 6_000_000
