"""Tiny real work for every test: a learnable data set of 4 classes, and the command line run in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of tests share two cores

CLASSES = 4
SIDE = 8


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


def write_tiny_npz(path: Path, *, train: int = 12, test: int = 6, side: int = SIDE, seed: int = 0) -> Path:
    """Noise around one colour per class: learnable in a few steps, different in every image."""
    source = np.random.Generator(np.random.PCG64(seed))
    colours = source.integers(60, 196, (CLASSES, 1, 1, 1, 3))

    def images(count: int) -> np.ndarray:
        noise = source.integers(-60, 60, (CLASSES, count, side, side, 3))
        return (colours + noise).clip(0, 255).astype(np.uint8).reshape(-1, side, side, 3)

    arrays = {"train_images": images(train), "test_images": images(test)}
    labels = {"train_labels": np.repeat(np.arange(CLASSES), train), "test_labels": np.repeat(np.arange(CLASSES), test)}
    np.savez(path, **arrays, **labels)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`--data` of the tiny set."""
    return f"npz:{write_tiny_npz(tmp_path_factory.mktemp('data') / 'tiny.npz')}"


def run_command(*arguments: str | Path) -> Outcome:
    """Run `ddlabel` in this process."""
    from ddlabel.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., Outcome]:
    """The command line as a function."""
    return run_command


@dataclasses.dataclass(frozen=True)
class Files:
    """One small bundle of each sort."""

    folder: Path
    data: str
    teacher: Path
    base: Path
    soft: Path
    dense: Path
    gift: Path


NET = "convnet-d1-w8"
TEACHER = ("--epochs", "4", "--keep", "1,4", "--set", "lr=0.1", "--set", "batch=16")


@pytest.fixture(scope="session")
def files(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A pipeline on the tiny set, made once."""
    folder = tmp_path_factory.mktemp("bundles")
    made = Files(folder, tiny, *(folder / f"{name}.ddset" for name in ("teacher", "base", "soft", "dense", "gift")))
    labels = ["augment-labels", made.base, "--teacher", made.teacher]
    commands = (
        ["train-teacher", "--data", tiny, "--arch", NET, *TEACHER, "-o", made.teacher],
        ["distill", "--data", tiny, "--method", "random", "--ipc", "3", "-o", made.base],
        [*labels, "--kind", "soft", "-o", made.soft],
        [*labels, "--kind", "dense", "--grid", "3", "--ratio", "1/2", "--codec", "q8", "-o", made.dense],
        ["refine", made.dense, "--method", "gift", "-o", made.gift],
    )
    for command in commands:
        outcome = run_command(*command)
        assert outcome.code == 0, outcome.err
    return made


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("DDLABEL_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def real_images() -> Path | None:
    """The folder of real images, when DDLABEL_TEST_DATA names one."""
    named = os.environ.get("DDLABEL_TEST_DATA")
    return Path(named) if named else None


def _all_views(kind, images):
    import torch

    count, views = len(images), kind.view_count
    made = kind.view(images, torch.arange(count).repeat_interleave(views), torch.arange(views).repeat(count))
    return made.unflatten(0, (count, views))


@pytest.fixture(scope="session")
def all_views() -> Callable[..., object]:
    """Every view of every image, (n, v, c, h, w), as a function of kind and images."""
    return _all_views
