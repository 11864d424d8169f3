"""Files of every released format: each must open, verify, mean what it meant, and survive being written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

from .forging import as_bytes, reopen

FOLDER = Path(__file__).parents[1] / "archives"
FILES = sorted(FOLDER.glob("v*/*.ddset"))


def test_there_is_an_archive_of_every_format() -> None:
    """A new format comes with its file."""
    assert sorted({path.parent.name for path in FILES}) == ["v1"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_archives_open_and_say_what_they_said(path: Path) -> None:
    """All digests hold, and the manifest is the text beside the file."""
    bundle = Bundle.open(path, verify=True)
    said = json.loads(path.with_suffix(".manifest.json").read_text(encoding="utf-8"))

    assert said == bundle.manifest.document
    assert bundle.content in (path.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_archives_survive_being_written_again(path: Path) -> None:
    """Same content, same tensors, whatever zstd and whichever minor version writes now."""
    old = Bundle.open(path)
    new = reopen(as_bytes(old), verify=True)
    names = [name for section in old.manifest.sections for name in section.tensors]

    assert old.content == new.content
    assert names
    for name in names:
        assert old.read(name) == new.read(name)
        assert old.tensor(name).dtype == new.tensor(name).dtype
