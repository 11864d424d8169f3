"""Header, manifest and whole files under attack; safetensors says whether what we accept was understood alike."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import random
from collections.abc import Mapping
from typing import Any

import safetensors
import zstandard

from ddlabel.bundle import Bundle
from ddlabel.cli._inspect_tables import print_bundle
from ddlabel.errors import BundleError
from ddlabel.frame import pad_frame, read_frame, write_frame
from ddlabel.header import MANIFEST, parse_header
from ddlabel.manifest import Manifest
from ddlabel.reader import read_manifest

from ..bundle.forging import Forgery, as_bytes, make_distilled, reopen, split
from .harness import Target
from .mutations import NUMBERS, damage, damage_json, text_of

__all__ = ["TARGETS", "same_to_safetensors", "survives_writing"]


@functools.cache
def _file() -> bytes:
    return as_bytes(make_distilled())


@functools.cache
def _head() -> tuple[dict[str, Any], bytes, bytes]:
    """Header as JSON, its text, and what follows it."""
    data = _file()
    document, base = split(data)
    return document, data[8:base], data[base:]


@functools.cache
def _frame() -> tuple[bytes, bytes]:
    """Manifest stream and its contents."""
    document, _text, rest = _head()
    frame = rest[: document[MANIFEST]["data_offsets"][1]]
    return frame, read_frame(frame, 2**20)


@functools.cache
def _roomy() -> tuple[bytes, bytes, dict[str, Any], int]:
    """An honest file with room for a longer manifest: what is before it and behind it, its document and its size."""
    data = Forgery.of(_file()).build()
    header, base = split(data)
    size = header[MANIFEST]["data_offsets"][1]
    document = json.loads(read_frame(data[base : base + size], 2**20))
    return data[:base], data[base + size :], document, size


def same_to_safetensors(data: bytes) -> None:
    """What our parser accepts safetensors accepts: same names, dtypes, shapes and bytes."""
    ours = parse_header(io.BytesIO(data).read, len(data), "x.ddset")
    theirs = dict(safetensors.deserialize(data))
    assert ours.entries.keys() == theirs.keys()
    for name, entry in ours.entries.items():
        tensor = theirs[name]
        assert (entry.dtype, list(entry.shape)) == (tensor["dtype"], tensor["shape"]), name
        assert data[ours.data_start + entry.start : ours.data_start + entry.end] == tensor["data"], name


def survives_writing(bundle: Bundle) -> None:
    """What was read and written again says the same, and is written the same from then on.

    Raises:
        BundleError: a tensor is not what its digest says, so that it may not be copied.
    """
    once = as_bytes(bundle)
    again = reopen(once, verify=True)
    assert bundle.content == again.content
    assert once == as_bytes(again)


# Header


def _make_header(choice: random.Random) -> bytes:
    document, text, rest = _head()
    kind = choice.random()
    if kind < 0.5:
        text = text_of(damage_json(choice, document)) + b" " * choice.choice((0, 0, 1, 7))
    elif kind < 0.8:
        text = damage(choice, text)
    else:
        data = len(text).to_bytes(8, "little") + text + rest
        length = choice.choice((*NUMBERS, len(text) + 1, len(text) - 1, len(data))) % 2**64
        return choice.choice((data[: choice.randrange(len(data))], length.to_bytes(8, "little") + data[8:]))
    return len(text).to_bytes(8, "little") + text + rest


def _check_header(data: bytes) -> None:
    parse_header(io.BytesIO(data).read, len(data), "x.ddset")
    same_to_safetensors(data)


# Manifest, in its frame and as JSON


def _make_frame(choice: random.Random) -> bytes:
    frame, text = _frame()
    kind = choice.random()
    if kind < 0.7:
        return damage(choice, frame)
    options = {"write_checksum": choice.random() < 0.7, "write_content_size": choice.random() < 0.7}
    fresh = zstandard.ZstdCompressor(level=choice.choice((1, 3, 19)), **options).compress(text)
    return choice.choice((fresh, fresh + frame, damage(choice, fresh), fresh + b"\x50\x2a\x4d\x18\0\0\0\0"))


def _check_frame(frame: bytes) -> None:
    """The checksum and the size tell: what is accepted is the text that was written."""
    assert _frame()[1] == read_frame(frame, 2**26, "manifest")


def _make_manifest(choice: random.Random) -> tuple[bytes, bytes | None]:
    """A file whose manifest is changed and framed again; with the text, where it is JSON of ours."""
    before, behind, document, size = _roomy()
    while True:
        structured = choice.random() < 0.75
        text = text_of(damage_json(choice, document)) if structured else damage(choice, text_of(document))
        frame = write_frame(text)
        if len(frame) + 8 <= size:
            return before + pad_frame(frame, size) + behind, text


def _check_manifest(case: tuple[bytes, bytes]) -> None:
    data, text = case
    bundle = reopen(data)
    assert json.loads(text) == bundle.manifest.document
    same_to_safetensors(data)
    _tensors_are_digested(bundle)
    survives_writing(bundle)


def _tensors_are_digested(bundle: Bundle) -> None:
    """A tensor whose record was not edited reads as it was written; others too, or not at all."""
    good = _good()
    for section in bundle.manifest.sections:
        for name, record in section.tensors.items():
            written = good.get(name)
            if written is None or written[0] != record:
                continue
            try:
                assert written[1] == bundle.read(name)
            except BundleError as error:
                assert error.field == "requires", error


@functools.cache
def _good() -> Mapping[str, tuple[Any, Any]]:
    bundle = make_distilled()
    sections = bundle.manifest.sections
    return {
        name: (copy.copy(section.tensors[name]), bundle.read(name)) for section in sections for name in section.tensors
    }


# What inspect shows


def _make_shown(choice: random.Random) -> bytes:
    """A manifest with a score as our own evaluation writes it; records without schema are changed most often."""
    document = json.loads(_scored())
    free = [document["evaluations"], document["history"], *(part["parameters"] for part in document["sections"])]
    if choice.random() < 0.8:
        part = choice.choice((document["evaluations"], document["evaluations"], *free))
        part_changed = damage_json(choice, part)
        if isinstance(part, list):
            part[:] = part_changed
        else:
            part.clear()
            part |= part_changed
    else:
        document = damage_json(choice, document)
    return text_of(document)


@functools.cache
def _scored() -> str:
    recipe = {"optimizer": "sgd", "lr": 0.01}
    result = {
        "images": "bundle", "labels": "dense", "loss": "kl", "arch": "mlp", "recipe": recipe, "seeds": [0],
        "accuracy": {"mean": 0.5, "std": 0.1, "ci95": 0.1, "n": 2, "values": [0.4, 0.6]},
    }  # fmt: skip
    score = {"protocol": "dc", "labels": "dense", "results": [result], "summary": [], "optimizers": []}
    bundle = make_distilled()
    document = {**bundle.manifest.document, "evaluations": [score]}
    document["sections"] = [dict(section) for section in document["sections"]]
    for section in document["sections"]:
        if section["kind"] == "teacher":
            section["parameters"] |= {"accuracy": {"train": 0.5}}
    return json.dumps(document)


def _check_shown(text: bytes) -> None:
    """Drawn whatever it holds, and without a control character."""
    manifest = Manifest.parse(text, "x.ddset")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_bundle(Bundle(manifest, {}, "x.ddset"), verified=False)
    assert all(line.isprintable() for line in out.getvalue().split("\n"))


# Whole files


def _make_file(choice: random.Random) -> bytes:
    return damage(choice, _file())


def _check_file(data: bytes) -> None:
    """Nothing but the spelling of header and frame may differ."""
    bundle = reopen(data, verify=True)
    assert make_distilled().manifest.document == bundle.manifest.document
    assert all(bundle.read(name) == tensor for name, (_record, tensor) in _good().items())
    same_to_safetensors(data)


def _make_pipe(choice: random.Random) -> bytes:
    return choice.choice((_make_header, _make_file))(choice)


def _check_pipe(data: bytes) -> None:
    """From a pipe, whose end is not known."""
    read_manifest(io.BytesIO(data), None, "<stdin>")


TARGETS = (
    Target("header", _make_header, _check_header),
    Target("frame", _make_frame, _check_frame),
    Target("manifest", _make_manifest, _check_manifest),
    Target("inspect", _make_shown, _check_shown),
    Target("file", _make_file, _check_file),
    Target("pipe", _make_pipe, _check_pipe),
)
