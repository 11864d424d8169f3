"""IDC's grids of small images; the oracle resizes each cell with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddlabel.importers.idc import cells

from .conftest import CONSTANTS, FACTS


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (9, 3), (10, 3), (8, 1)])
def test_cells_are_cut_row_by_row_and_resized(side: int, factor: int) -> None:
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = cells(images, factor)
    part = -(-side // factor)

    assert found.shape == (2 * factor**2, 3, side, side)
    for place, image in enumerate(found):
        stored, row, column = place // factor**2, place % factor**2 // factor, place % factor
        padded = np.full((part * factor, part * factor), 0.5, np.float32)
        padded[:side, :side] = images[stored, 1].numpy()
        cell = padded[row * part : (row + 1) * part, column * part : (column + 1) * part]
        wanted = np.asarray(Image.fromarray(cell).resize((side, side), Image.Resampling.BILINEAR))
        assert np.allclose(image[1].numpy(), wanted, atol=1e-5)


def test_a_data_pt_is_decoded_by_its_factor(tmp_path: Path, units, labels, imported, refused) -> None:
    torch.save([units, labels], tmp_path / "data.pt")
    given = (tmp_path / "data.pt", *FACTS, *CONSTANTS)

    assert "--set factor=N" in refused(2, *given)
    bundle = imported(*given, "--set", "factor=2")
    assert bundle.tensor("labels.hard").tolist() == labels.repeat_interleave(4).tolist()
    assert (
        bundle.manifest.history[0]["metrics"] | {"images": 32, "factor": 2, "stored_images": 8}
        == (bundle.manifest.history[0]["metrics"])
    )
    assert bundle.manifest.history[0]["config"]["format"] == "idc"


def test_what_is_no_pair_is_refused(tmp_path: Path, units, labels, refused) -> None:
    for content, words in (([units], "no pair"), ([units, labels[:3]], "3 labels"), ([units.byte(), labels], "uint8")):
        torch.save(content, tmp_path / "data.pt")
        assert words in refused(3, tmp_path, *FACTS, *CONSTANTS, "--format", "idc", "--set", "factor=2")


def test_a_pair_under_another_name_is_said_to_be_idcs(tmp_path: Path, units, labels, refused) -> None:
    torch.save((units, labels), tmp_path / "mine.pt")

    assert "as IDC writes them: --format idc" in refused(3, tmp_path / "mine.pt")
