"""What `export` writes, `import` reads back without options: images, labels, classes, space."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.distilled import read_distilled
from ddlabel.labels._labels import read_labels

pytest.importorskip("ddlabel.exporters", reason="needs the command export")


@pytest.fixture(scope="module")
def learned(tiny: str, run_cli, tmp_path_factory) -> Path:
    """Float images with learned soft labels and a step size."""
    folder = tmp_path_factory.mktemp("learned")
    noise = torch.Generator().manual_seed(5)
    torch.save(torch.randn(8, 3, 8, 8, generator=noise), folder / "images_best.pt")
    hot = torch.nn.functional.one_hot(torch.arange(4).repeat_interleave(2), 4)
    torch.save(5.0 * hot - torch.rand(8, 4, generator=noise), folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr_best.pt")
    outcome = run_cli(
        "import", folder, "--data", tiny, "--space", "normalised", "--mirror", "no", "-o", folder / "x.ddset"
    )
    assert outcome.code == 0, outcome.err
    return folder / "x.ddset"


def there_and_back(run_cli, source: Path, tmp_path: Path, name: str, *more: str) -> Bundle:
    target, output = tmp_path / f"export-{name}", tmp_path / "back.ddset"
    suffix = {"npz": ".npz", "parquet": ".parquet", "dc": ".pt"}.get(name, "")
    target = target.with_suffix(suffix)
    for command in (["export", source, "--format", name, "-o", target, *more], ["import", target, "-o", output]):
        outcome = run_cli(*command)
        assert outcome.code == 0, outcome.err
    return Bundle.open(output, verify=True)


@pytest.mark.parametrize("name", ["npz", "mtt", "dc"])
def test_float_images_come_back_bit_for_bit(learned: Path, run_cli, tmp_path: Path, name: str) -> None:
    bundle, source = there_and_back(run_cli, learned, tmp_path, name), Bundle.open(learned)

    assert torch.equal(bundle.tensor("images.pixels"), source.tensor("images.pixels"))
    assert torch.equal(read_distilled(bundle).labels, read_distilled(source).labels)
    for key in ("name", "classes", "flip", "space"):
        assert bundle.manifest.data[key] == source.manifest.data[key]
    if name != "dc":  # which has no place for them
        assert torch.equal(read_labels(bundle, "soft").values, read_labels(source, "soft").values)
        assert read_labels(bundle, "soft").parameters["learned"] is True
        assert torch.equal(bundle.tensor("student.lr"), source.tensor("student.lr"))


@pytest.mark.parametrize("name", ["folder", "npz", "parquet"])
def test_pixels_come_back_bit_for_bit(files, run_cli, tmp_path: Path, name: str) -> None:
    bundle, source = there_and_back(run_cli, files.soft, tmp_path, name), Bundle.open(files.soft)

    assert torch.equal(bundle.tensor("images.pixels"), source.tensor("images.pixels"))
    assert torch.equal(read_distilled(bundle).labels, read_distilled(source).labels)
    for key in ("name", "classes", "flip", "space"):
        assert bundle.manifest.data[key] == source.manifest.data[key]
    if name != "folder":
        assert torch.equal(read_labels(bundle, "soft").values, read_labels(source, "soft").values)


def test_pictures_of_stretched_contrast_come_back_within_a_step(learned: Path, run_cli, tmp_path: Path) -> None:
    bundle = there_and_back(run_cli, learned, tmp_path, "folder", "--view", "contrast")
    found, wanted = (read_distilled(each) for each in (bundle, Bundle.open(learned)))
    low, high = wanted.space.decode(wanted.images).quantile(torch.tensor([0.1, 0.9]))
    inside = (wanted.space.decode(wanted.images) > low) & (wanted.space.decode(wanted.images) < high)
    apart = (found.space.decode(found.images) - wanted.space.decode(wanted.images)).abs()[inside]

    assert float(apart.max()) < 0.02
