"""The fewest and the most classes: refused with exit 4, or read and written like any other number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.codecs.topk_ms import CODEC as TOPK
from ddlabel.distilled import image_section, read_distilled
from ddlabel.errors import BundleError, DataError
from ddlabel.labels._labels import make_section, read_labels
from ddlabel.selection import check_budget
from ddlabel.space import Space

from .bundle.forging import DATA, as_bytes, reopen

RECORD = StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {})
MANY = 10_000


def hard(labels: torch.Tensor) -> NewSection:
    """Hard labels, without the zip of their one-hot form, which takes long for so many classes."""
    return NewSection("labels.hard", "labels", {"labels.hard": labels.int()}, role="hard", views=1)


@pytest.mark.fault(73)
@pytest.mark.parametrize(
    "command", [("distill", "--method", "random", "--ipc", "1"), ("train-teacher", "--arch", "mlp")]
)
def test_data_of_one_class_are_refused(run_cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Nothing can be told apart: exit 4, nothing written."""
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    outcome = run_cli(*command, "--data", f"npz:{tmp_path / 'a.npz'}", "-o", tmp_path / "x.ddset")

    assert 4 == outcome.code
    assert "a.npz: 1 class, expected at least 2" in outcome.err
    assert ["a.npz"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.fault(73)
def test_10_000_classes_are_classes_like_others(run_cli, tmp_path: Path) -> None:
    """Hard and top-k labels through a file, shown by inspect; a label beyond the last class is named."""
    classes = [f"class {index}" for index in range(MANY)]
    labels, data = torch.arange(MANY), {**DATA, "classes": classes, "height": 1, "width": 1}
    images = image_section(torch.zeros(MANY, 1, 1, 1, dtype=torch.uint8), Space("normalised", (0.5,), (0.25,)))
    one_each = [images, hard(labels)]
    base = reopen(as_bytes(Bundle.create("distilled", data, RECORD, one_each)), verify=True)
    read = read_distilled(base)
    base.save(tmp_path / "x.ddset", durable=False)
    shown = run_cli("inspect", tmp_path / "x.ddset")
    beyond = base.with_stage(RECORD, add=[hard(torch.full((MANY,), 9_999))])
    beyond.manifest.data["classes"].pop()

    assert torch.equal(labels, read.labels)
    assert (MANY, 1) == (len(read.classes), read.ipc)
    assert (0, "10000 classes of 1x1x1" in shown.out) == (shown.code, True)
    with pytest.raises(BundleError, match="image 0 class 9999, expected 0 to 9998"):
        read_distilled(beyond)


@pytest.mark.fault(73)
def test_soft_labels_of_10_000_classes() -> None:
    """The kept classes are found again among as many."""
    data = {**DATA, "classes": [f"class {index}" for index in range(MANY)]}
    images = image_section(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), Space("normalised", (0.5,), (0.25,)))
    base = Bundle.create("distilled", data, RECORD, [images, hard(torch.arange(4))])
    values = torch.randn(4, 1, MANY, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    section = make_section(
        base, "soft", {"size": 4}, values, domain="logprob", codec_name="topk-ms", codec=TOPK(k=10), teachers=["0" * 64]
    )
    read = read_labels(base.with_stage(RECORD, add=[section]), "soft").values

    assert torch.equal(values.topk(10).indices.sort(-1).values, read.topk(10).indices.sort(-1).values)


@pytest.mark.fault(73)
def test_budgets_of_10_000_classes() -> None:
    """One class of all that has too few images is named."""
    names, labels = [f"class {index}" for index in range(MANY)], torch.arange(MANY).repeat(2)
    check_budget(labels, names, 2)
    with pytest.raises(DataError, match="class 'class 9999' has 1 training images, --ipc asks for 2"):
        check_budget(labels[:-1], names, 2)
