"""Sidecars: what is written is read back, and what no export writes is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ddlabel import interchange
from ddlabel.errors import BundleError
from ddlabel.interchange import VERSION, decode_sidecar, encode_sidecar

DOCUMENT: dict[str, Any] = {
    "schema": "ddlabel.export", "version": 1, "format": "npz", "data": {"name": "pets", "flip": False},
    "space": {"kind": "normalised", "mean": [0.5], "std": [0.2]}, "classes": [{"name": "犬"}, {"name": "\ud800"}],
    "images": {"count": 2, "form": "exact8", "in": "images"}, "student_lr": None,
    "labels": {"hard": {"in": "labels"}, "soft": {"domain": "logit", "refined": {"method": "gift"}}},
    "files": {"x.npz": {"bytes": 3, "sha256": 64 * "0"}}, "later": "a key of a newer version",
}  # fmt: skip


def test_a_sidecar_comes_back_as_it_was() -> None:
    assert DOCUMENT == decode_sidecar(encode_sidecar(DOCUMENT), "x") == decode_sidecar(json.dumps(DOCUMENT), "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": VERSION + 1, "classes": "of another form"}, "its 'version' is 2, expected at most 1"),
        ({"version": True}, "'version' is True"),
        ({"schema": "mine", "version": 7}, "'schema' is 'mine'"),
        ({"space": {"kind": "normalised", "mean": [0.5], "std": [0]}}, "'space.std' is not positive"),
        ({"labels": {"soft": {"domain": "magic"}}}, "'labels.soft.domain' is 'magic'"),
        ({"files": {"x": {"bytes": 3, "sha256": "short"}}}, "'files.x.sha256' is 'short'"),
        ({"images": {"count": 0, "form": "exact8"}}, "'images.count' is 0"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:20],
)
def test_other_documents_are_refused(change: dict[str, Any], message: str) -> None:
    """A newer version before anything that it may say differently."""
    with pytest.raises(BundleError, match=r"^x: ") as caught:
        decode_sidecar(json.dumps(DOCUMENT | change), "x")

    assert message in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"\xff", "[" * 100_000, b"[1]", b"NaN"], ids=range(5))
def test_what_is_no_document_is_refused(text: bytes | str) -> None:
    with pytest.raises(BundleError, match=r"^x: "):
        decode_sidecar(text, "x")


def test_names_are_stated_once() -> None:
    """Neither room spells a name that both must agree on."""
    names = {interchange.SCHEMA, interchange.SIDECAR, interchange.NPZ_EXPORT, interchange.PARQUET_EXPORT,
             interchange.TAR_EXPORT, interchange.MTT_IMAGES, interchange.NPZ_IMAGES_FLOAT}  # fmt: skip
    package = Path(interchange.__file__).parent
    spelled = [
        (path.name, name)
        for path in package.glob("exporters/*.py")
        for name in names
        if f'"{name}"' in path.read_text(encoding="utf-8")
    ]

    assert not spelled
