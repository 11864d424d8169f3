"""Pictures of the report: how many a page bears, and that their pixels are those of the bundle."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddlabel.bundle import Bundle
from ddlabel.cli import _page_pictures
from ddlabel.distilled import read_distilled


def shown(bundle: Bundle) -> list[np.ndarray]:
    """The pictures as a browser decodes them."""
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', str(_page_pictures.pictures(bundle)))
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


@pytest.mark.parametrize(
    ("count", "classes", "side", "expected"),
    [
        (50, 10, 16, (10, 5)),
        (500, 10, 16, (10, 10)),
        (1000, 1000, 8, (200, 1)),
        (5000, 100, 32, (20, 10)),
        (3000, 1000, 74, (21, 3)),
    ],
    ids=["all", "ten of each", "many classes", "many of both", "large images"],
)
def test_how_many_pictures_a_page_bears(count: int, classes: int, side: int, expected: tuple[int, int]) -> None:
    """At most 200, at most 1 MiB of pixels; fewer of each class before fewer than twenty classes."""
    rows = {label: list(range(label, count, classes)) for label in range(classes)}
    chosen = _page_pictures._choose(rows, 3 * side * side)
    shown = max(map(len, chosen.values()))

    assert expected == (len(chosen), shown)
    assert sum(map(len, chosen.values())) * 3 * side * side <= 2**20


def test_pictures_are_those_of_the_bundle(files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixel by pixel, read whole or row by row; large ones as means of blocks."""
    bundle = Bundle.open(files.base)
    stored = bundle.tensor("images.pixels").numpy().transpose(0, 2, 3, 1)

    whole = shown(bundle)
    monkeypatch.setattr(_page_pictures, "READ_WHOLE_BYTES", 0)
    sliced = shown(bundle)
    monkeypatch.setattr(_page_pictures, "LARGE_PX", 4)
    small = shown(bundle)
    means = stored.reshape(-1, 4, 2, 4, 2, 3).astype(np.float64).mean(axis=(2, 4)).round()

    assert np.array_equal(whole, stored)
    assert np.array_equal(sliced, stored)
    assert np.array_equal(small, means)


def test_float_images_are_shown_through_the_inverse_of_their_space(run_cli, files, tmp_path: Path) -> None:
    """Whitened ones too: the pictures are those of `inspect --grid`."""
    path = tmp_path / "zca.ddset"
    made = run_cli(
        "distill", "--data", files.data, "--method", "random", "--ipc", "1", "--space", "zca", "--pixels", "float32",
        "-o", path,
    )  # fmt: skip
    assert 0 == made.code, made.err
    bundle = Bundle.open(path)
    distilled = read_distilled(bundle)
    expected = distilled.space.to_pixels(distilled.images).numpy().transpose(0, 2, 3, 1)

    assert np.array_equal(expected, shown(bundle))
