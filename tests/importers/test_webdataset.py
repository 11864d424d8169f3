"""Tar files of samples, anybody's; those of `ddlabel export` are among the round trips."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import CONSTANTS, FACTS, pixels_of


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def members(units, labels) -> dict[str, bytes]:
    found = {}
    for index, pixels in enumerate(pixels_of(units)):
        found |= {f"part/{index:04d}.png": png(pixels), f"part/{index:04d}.cls": b"%d\n" % labels[index]}
    return found


def test_samples_are_images_and_class_numbers(tmp_path: Path, members, units, labels, run_cli, imported) -> None:
    more = {f"part/{index:04d}.json": b"{}" for index in range(8)}
    given = (write_tar(tmp_path / "any.data", {**members, **more}), *FACTS, *CONSTANTS)
    bundle = imported(*given)

    assert np.array_equal(bundle.tensor("images.pixels").permute(0, 2, 3, 1).numpy(), pixels_of(units))
    assert bundle.tensor("labels.hard").tolist() == labels.tolist()
    assert bundle.manifest.history[0]["config"]["format"] == "webdataset"
    assert "left out: *.json" in run_cli("import", *given, "-o", tmp_path / "x.ddset").err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"part/0000.cls": b"-1"}, "is no number from 0"),
        ({"part/0000.cls": b"9" * 5000}, "is no number from 0"),
        ({"part/0000.cls": "\u00b2".encode()}, "is no number from 0"),
        ({"part/0009.cls": b"1"}, "0 pictures"),
        ({"part/0009.png": b"1"}, "no .cls"),
        ({"part/0000.jpg": b"1"}, "2 pictures"),
        ({"part/0000.PNG": b"1"}, "two members"),
        ({"__ddset-export__": b"["}, "no readable JSON"),
    ],
)
def test_samples_that_are_not_whole_are_refused(tmp_path: Path, members, refused, change, words: str) -> None:
    path = write_tar(tmp_path / "x.tar", {**members, **change})

    assert words in refused(3, path, *FACTS, *CONSTANTS)


def test_links_truncation_and_compression_are_refused(tmp_path: Path, members, refused) -> None:
    path = write_tar(tmp_path / "x.tar", members)
    given = (path, *FACTS, *CONSTANTS, "--format", "webdataset")
    data = path.read_bytes()
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("part/0009.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "is no plain file" in refused(3, *given)
    path.write_bytes(data[: data.find(b"part/0003.png") + 700])
    refused(3, *given)
    write_tar(path, members, "w:gz")
    assert "not a readable tar file" in refused(3, *given)
