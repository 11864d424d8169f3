"""LADD as its paper runs it: the ablation of Table 6, whitened images, any grid, and a gain on learnable textures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.distilled import read_distilled
from ddlabel.labels._labels import load_kind, read_labels
from ddlabel.teachers import Teacher

QUICK = ("--arch", "mlp", "--epochs", "3", "--seeds", "1", "--json")
TABLE_6 = [
    ("ladd-full-hard", "hard", "ce"),
    ("ladd-full-soft", "soft", "softce"),
    ("ladd-full-both", "soft", "softce_ce"),
    ("ladd-sub-hard", "dense", "ce"),
    ("ladd-sub-dense", "dense", "softce"),
    ("ladd-sub-both", "dense", "softce_ce"),
    ("ladd-4.1", "dense", "ladd"),
]


@pytest.fixture(scope="module")
def both(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with soft and dense labels."""
    path = tmp_path_factory.mktemp("ladd") / "both.ddset"
    outcome = run_cli("augment-labels", files.dense, "--teacher", files.teacher, "--kind", "soft", "-o", path)
    assert outcome.code == 0, outcome.err
    return path


@pytest.mark.parametrize(("recipe", "labels", "loss"), TABLE_6)
def test_every_row_of_the_ablation_is_a_recipe(run_cli, files, both: Path, recipe: str, labels: str, loss: str) -> None:
    """Full or sub-crops, hard, soft or both; all at the same number of samples."""
    outcome = run_cli("evaluate", both, "--data", files.data, "--recipe", recipe, *QUICK)
    (result,) = json.loads(outcome.out)["evaluation"]["results"]

    assert 0 == outcome.code, outcome.err
    assert (labels, loss) == (result["labels"], result["loss"]["name"])
    assert 12 * 3 == result["samples_seen"]
    assert 1.0 == result["loss"]["options"].get("weight", 1.0)


@pytest.mark.parametrize(("grid", "ratio"), [(1, "1/2"), (2, "3/4"), (5, "5/8"), (7, "1/2"), (8, "1/8"), (3, "1/1")])
def test_any_grid_and_ratio_label_whitened_images(run_cli, files, tmp_path: Path, grid: int, ratio: str) -> None:
    """Views are cut and resized in the whitened space, where the images are stored; students see the same views."""
    paths = {name: tmp_path / f"{name}.ddset" for name in ("t", "b", "d")}
    zca = ("--data", files.data, "--space", "zca")
    run_cli("train-teacher", *zca, "--arch", "convnet-d1-w8", "--epochs", "1", "-o", paths["t"])
    run_cli("distill", *zca, "--method", "random", "--ipc", "2", "-o", paths["b"])
    outcome = run_cli(
        "augment-labels", paths["b"], "--teacher", paths["t"], "--kind", "dense", "--grid", grid, "--ratio", ratio,
        "--self-test", "0", "-o", paths["d"],
    )  # fmt: skip
    bundle, teacher = Bundle.open(paths["d"]), Teacher(Bundle.open(paths["t"]))
    labels, images = read_labels(bundle, "dense"), read_distilled(bundle).images
    kind, index = load_kind(labels), torch.arange(len(images))
    views = kind.view(images, index, torch.full_like(index, grid * grid - 1))
    with torch.inference_mode():
        expected = teacher.net(teacher.checkpoints[-1])(views)

    assert 0 == outcome.code, outcome.err
    assert torch.float32 == bundle.tensor("images.pixels").dtype
    torch.testing.assert_close(labels.values[:, -1], expected, rtol=1e-4, atol=1e-5)
    assert 0 == run_cli("evaluate", paths["d"], "--data", files.data, *QUICK).code


def textures(count: int, seed: int) -> np.ndarray:
    """Stripes of four directions, phases and strengths in noise, 16 px: a crop of a texture is the texture."""
    source = np.random.Generator(np.random.PCG64(seed))
    row, column = np.mgrid[0:16, 0:16]
    images = []
    for direction in ((1, 0), (0, 1), (1, 1), (1, -1)):
        phase = source.uniform(0, 2 * np.pi, (count, 1, 1))
        wave = np.sin((direction[0] * row + direction[1] * column) * 0.9 + phase)
        noise = source.normal(0, 0.9, (count, 16, 16))
        images.append((wave * source.uniform(0.4, 1.0, (count, 1, 1)) + noise) * 30 + 128)
    return np.concatenate(images).clip(0, 255).astype(np.uint8)


@pytest.mark.slow
def test_dense_labels_beat_hard_ones_on_the_same_images(run_cli, tmp_path: Path) -> None:
    """10 images per class, N = 3: the paper's claim where it must hold, with a teacher that knows more."""
    arrays = {}
    for name, count, seed in (("train", 200, 1), ("test", 100, 2)):
        arrays |= {f"{name}_images": textures(count, seed), f"{name}_labels": np.repeat(np.arange(4), count)}
    np.savez(tmp_path / "textures.npz", **arrays)
    data, net = f"npz:{tmp_path / 'textures.npz'}", ("--arch", "convnet-d2-w16")
    teacher, base, dense = (tmp_path / f"{name}.ddset" for name in ("t", "b", "d"))
    run_cli(
        "train-teacher", "--data", data, *net, "--epochs", "15", "--set", "lr=0.1", "--set", "batch=32", "-o", teacher
    )
    run_cli("distill", "--data", data, "--method", "random", "--ipc", "10", "-o", base)
    run_cli(
        "augment-labels", base, "--teacher", teacher, "--kind", "dense", "--self-test", "0", "--grid", "3", "-o", dense
    )
    means = {}
    for name, bundle in (("hard", base), ("dense", dense)):
        students = ("--epochs", "150", "--seeds", "2", "--set", "lr=0.05", "--json")
        outcome = run_cli("evaluate", bundle, "--data", data, *net, *students)
        means[name] = json.loads(outcome.out)["evaluation"]["results"][0]["accuracy"]["mean"]

    assert means["dense"] > means["hard"] + 0.02
