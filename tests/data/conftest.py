"""Small sets of pictures, as folders and tar files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddlabel.data import _stored_pixels


def write_pictures(
    root: Path, *, classes: int = 3, train: int = 6, test: int = 2, side: int = 8, grey: int = 0
) -> Path:
    """Noise around a colour per class; the first `grey` pictures of every class are grey."""
    source = np.random.Generator(np.random.PCG64(0))
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                image = source.integers(60 * label, 60 * label + 90, (side, side, 3)).astype(np.uint8)
                picture = Image.fromarray(image[:, :, 0] if index < grey else image)
                picture.save(folder / f"{index}.png", compress_level=1)
    return root


def write_tar(root: Path, path: Path) -> Path:
    """A folder of pictures as one archive."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            member = tarfile.TarInfo(str(file.relative_to(root)))
            member.size = file.stat().st_size
            archive.addfile(member, io.BytesIO(file.read_bytes()))
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 18 training and 6 test pictures, not to be changed."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "set")


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes fit in memory; 0 when the fixture alone is asked for."""

    def limit(count: int) -> None:
        monkeypatch.setenv(_stored_pixels.LIMIT_VARIABLE, str(count))

    limit(0)
    return limit


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("DDLABEL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
