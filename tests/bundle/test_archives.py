"""Files of every released format: each must open, verify, mean what it meant, and survive being written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.distilled import read_distilled
from ddlabel.labels._labels import load_kind, read_labels

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


def test_labels_of_the_archive_decode_to_what_they_did() -> None:
    """Every kind, through codecs, refinement, pruning and stored draws; views can be made."""
    bundle = Bundle.open(FOLDER / "v1" / "labels.ddset")
    said = json.loads((FOLDER / "v1" / "labels.values.json").read_text(encoding="utf-8"))
    images = read_distilled(bundle).images
    index = torch.arange(len(images))

    assert {"soft", "dense", "fkd"} == said.keys()
    for kind, expected in said.items():
        labels = read_labels(bundle, kind)
        kept = None if labels.view_ids is None else labels.view_ids.tolist()
        assert (expected["domain"], expected["view_ids"]) == (labels.domain, kept)
        assert torch.equal(torch.tensor(expected["values"]), labels.values)
        assert images.shape == load_kind(labels).view(images, index, torch.zeros_like(index)).shape
