"""Files that break exactly one rule of the manifest, made by an independent writer: each gives one BundleError.

The same writer's honest files open, so what is refused is the broken rule and not the forgery.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ddlabel import manifest_rules, reader
from ddlabel.bundle import Bundle, NewSection, RawTensor
from ddlabel.errors import BundleError
from ddlabel.header import MAX_HEADER_BYTES

from ..fuzzing.harness import Target, fuzz
from .forging import (
    DATA,
    Forgery,
    as_bytes,
    case,
    fault,
    hard_section,
    images_section,
    make_distilled,
    reopen,
    split,
    stage_record,
)

Change = Callable[[Forgery], Any]
SKIPPABLE = b"\x50\x2a\x4d\x18"


def compress(text: bytes, **options: Any) -> bytes:
    """A frame as we write them, but for the options."""
    return zstandard.ZstdCompressor(**({"write_checksum": True} | options)).compress(text)


def streamed(text: bytes) -> bytes:
    """A frame that does not say its size."""
    machine = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    return machine.compress(text) + machine.flush()


def with_dictionary(text: bytes) -> bytes:
    samples = [json.dumps({"a": index, "b": index * 7 % 13}).encode() * 3 for index in range(2000)]
    dictionary = zstandard.train_dictionary(1024, samples)
    return zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True).compress(text)


def with_window(text: bytes) -> bytes:
    """A frame that asks for a window of 1 GiB and has a size: descriptor, window byte, 8-byte size."""
    inner = compress(text)
    body = inner[zstandard.frame_header_size(inner) :]
    return inner[:4] + bytes([0b11000100, (30 - 10) << 3]) + struct.pack("<Q", len(text)) + body


def liar(_text: bytes) -> bytes:
    """A frame that says 1 MiB and holds 4 GiB: 32,768 blocks that repeat one byte 131,072 times."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0b10000100, (20 - 10) << 3]) + struct.pack("<I", 2**20)
    return head + (struct.pack("<I", 1 << 1 | 2**17 << 3)[:3] + b"x") * 2**15 + bytes(4)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        case(fault(39), "wrong magic", lambda text: b"\x28\xb5\x2f\xfe" + compress(text)[4:], "zstd frame"),
        case(fault(40), "one byte short", lambda text: compress(text)[:-1], "cut off"),
        case(fault(40), "truncated frame", lambda text: compress(text)[: len(text) // 9], "cut off"),
        case(fault(41), "flipped bit", lambda text: flipped(compress(text), 300), "damaged|promised|cut off"),
        case(fault(41), "no checksum", lambda text: compress(text, write_checksum=False), "no checksum"),
        case(
            fault(41),
            "flipped bit, no checksum",
            lambda text: flipped(compress(text, write_checksum=False), 300),
            "no checksum",
        ),
        case(fault(42), "1 MiB said, 4 GiB held", liar, "damaged|holds more than"),
        case(fault(42), "32 KB say 1 GiB", lambda _text: compress(bytes(2**30)), "expected at most"),
        case(fault(42), "32 MiB at once", lambda _text: compress(bytes(2**25)), "more than 1000:1"),
        case(fault(43), "bomb without size", lambda _text: streamed(bytes(2**25)), "does not say its size"),
        case(
            fault(44),
            "13 bytes say 7.2e18",
            lambda _text: bytes.fromhex("28b52ffde06c06060663636363"),
            "holds 7161677109403190892 bytes, expected",
        ),
        case(fault(45), "window of 1 GiB", with_window, "window"),
        case(fault(46), "dictionary", with_dictionary, "dictionary"),
        case(fault(47), "two frames", lambda text: compress(text) * 2, "do not belong"),
        case(fault(48), "skippable frame first", lambda text: SKIPPABLE + bytes(4) + compress(text), "does not start"),
        case(
            fault(48), "two skippable frames", lambda text: compress(text) + (SKIPPABLE + bytes(4)) * 2, "do not belong"
        ),
        case(
            fault(48), "skippable not zero", lambda text: compress(text) + SKIPPABLE + b"\x01\0\0\0x", "something else"
        ),
        case(
            fault(48), "skippable too long", lambda text: compress(text) + SKIPPABLE + b"\x09\0\0\0\0", "do not belong"
        ),
        case(
            fault(48),
            "skippable hides something before another",
            lambda text: compress(text) + SKIPPABLE + b"\x0f\0\0\0" + b"secret!" + SKIPPABLE + bytes(4),
            "something else",
        ),
        case(fault(49), "trailing junk", lambda text: compress(text) + b"junk", "do not belong"),
    ],
)
def test_frames_that_are_refused(forged: Forgery, refuses, frame: Callable[[bytes], bytes], expected: str) -> None:
    """Faults 39 to 49: one error, naming the manifest, before anything large is allocated."""
    data = forged.build(frame=frame, manifest_last=True)
    tracemalloc.start()
    with pytest.raises(BundleError, match=expected) as caught:
        reopen(data)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "manifest" in str(caught.value)
    assert peak < 8 * 2**20
    refuses(data, expected)


@pytest.mark.fault(4, 5, 42, 43, 44)
def test_what_lies_about_its_size_costs_no_memory_through_stdin(
    run_cli, monkeypatch: pytest.MonkeyPatch, forged: Forgery
) -> None:
    """The whole way of the command line, by what the process occupies and not by what Python counts: 64 MiB."""
    frames = (liar, lambda _text: streamed(bytes(2**25)), lambda _text: bytes.fromhex("28b52ffde06c06060663636363"))
    files = [forged.build(frame=frame, manifest_last=True) for frame in frames]
    files += [length.to_bytes(8, "little") + b"{}" for length in (2**63, MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1)]
    codes: list[int] = []

    def check(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        codes.append(run_cli("inspect", "-", "--verify").code)

    cases = iter([files[0], *files])  # the first one pays for imports
    fuzz(Target("warm", lambda _choice: next(cases), check), 1)
    report = fuzz(Target("stdin", lambda _choice: next(cases), check), len(files))

    assert [] == report.findings
    assert [3] * (1 + len(files)) == codes


@pytest.mark.fault(48)
def test_fault_48_one_skippable_frame_of_zeros_is_padding(forged: Forgery) -> None:
    """What our writer appends is accepted."""
    data = forged.build(frame=lambda text: (packed := compress(text)) + _pad(-len(packed) % 64 + 64))

    with pytest.raises(BundleError, match="storage"):  # the frame's size is another than the honest report says
        reopen(data)
    reopen(forged.build(), verify=True)


def _pad(size: int) -> bytes:
    return SKIPPABLE + struct.pack("<I", size - 8) + bytes(size - 8)


@pytest.mark.parametrize(("over", "passes"), [(0, True), (1, False)], ids=["at the cap", "one byte above"])
@pytest.mark.fault(50)
def test_fault_50_size_at_and_above_the_cap(
    monkeypatch: pytest.MonkeyPatch, forged: Forgery, over: int, passes: bool
) -> None:
    """The cap is the largest size that passes."""
    data = forged.build()
    header, base = split(data)
    frame = data[base : base + header["manifest.json.zst"]["data_offsets"][1]]
    plain = zstandard.get_frame_parameters(frame).content_size
    monkeypatch.setattr(reader, "MAX_MANIFEST_BYTES", max(plain, len(frame)) - over)

    if passes:
        reopen(data)
    else:
        with pytest.raises(BundleError, match=r"manifest|expected 1 to"):
            reopen(data)


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        case(fault(37), "missing", ("other.json.zst", "U8", lambda n: [n]), "no tensor 'manifest"),
        case(fault(38), "not U8", ("manifest.json.zst", "I8", lambda n: [n]), "is I8 of shape"),
        case(fault(38), "not one-dimensional", ("manifest.json.zst", "U8", lambda n: [1, n]), "of shape"),
    ],
)
def test_manifest_tensors_that_are_refused(forged: Forgery, refuses, manifest: Any, expected: str) -> None:
    """Faults 37 and 38: the manifest must be one U8 stream."""
    data = forged.build(manifest=manifest)
    with pytest.raises(BundleError, match=expected):
        reopen(data)
    refuses(data, expected)


@pytest.mark.fault(38)
def test_fault_38_empty_manifest(forged: Forgery, refuses) -> None:
    """No bytes are no frame."""
    data = forged.build(frame=lambda _text: b"")
    with pytest.raises(BundleError, match="of shape"):
        reopen(data)
    refuses(data, "of shape")


def test_the_manifest_may_stand_anywhere(forged: Forgery) -> None:
    """Only our writer promises an order; readers take any, of files and of pipes."""
    data = forged.build(manifest_last=True)

    reopen(data, verify=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        case(fault(51), "duplicate key", lambda text: b'{"format":[1,0],' + text[1:], "key 'format' twice"),
        case(fault(51), "deep duplicate key", lambda text: text.replace(b'"dtype"', b'"bytes"', 1), "twice"),
        case(fault(11), "NaN", lambda text: text.replace(b"0.25", b"NaN", 1), "NaN"),
        case(fault(11), "overflowing number", lambda text: text.replace(b"0.25", b"1e999", 1), "1e999"),
        case(fault(7), "not UTF-8", lambda text: text.replace(b"tiny", b"ti\xffny", 1), "UTF-8"),
        case(fault(13), "half a character", lambda text: text.replace(b"tiny", b"\\ud800", 1), "surrogate"),
        case(fault(14), "leading space", lambda text: b" " + text, "does not start"),
        case(fault(9), "list", lambda text: b"[" + text + b"]", "does not start"),
        case(fault(8), "broken JSON", lambda text: text[:-1], "no JSON"),
        case(fault(10), "nesting", lambda text: b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"," + text[1:], "nested"),
    ],
)
def test_json_that_is_refused(forged: Forgery, refuses, text: Callable[[bytes], bytes], expected: str) -> None:
    """The faults of header JSON are refused in the manifest too."""
    plain = json.dumps(forged.document, separators=(",", ":")).encode()
    data = forged.build(text=text(plain), frame=compress, manifest_last=True)

    with pytest.raises(BundleError, match=expected):
        reopen(data)
    refuses(data, expected)


def _drop_listed(forged: Forgery) -> None:
    del forged.tensors["labels.soft.values"]


def _add_unlisted(forged: Forgery) -> None:
    forged.extra.append(("labels.soft.more", "U8", [2], b"ab"))


def _two_owners(forged: Forgery) -> None:
    shared = forged.section("labels.soft")["tensors"]
    forged.section("scores.loss")["tensors"] |= shared


def _two_sections(forged: Forgery) -> None:
    forged.section("scores.loss")["name"] = "student"


def _reserved(forged: Forgery) -> None:
    forged.tensors["pad.7"] = ("U8", [2], b"ab")
    record = {"dtype": "U8", "shape": [2], "bytes": 2, "sha256": hashlib.sha256(b"ab").hexdigest()}
    forged.section("scores.loss")["tensors"]["pad.7"] = record


def _set(tensor: str, key: str, value: Any) -> Change:
    def change(forged: Forgery) -> None:
        for record in forged.document["sections"]:
            if tensor in record["tensors"]:
                record["tensors"][tensor][key] = value

    return change


def _overflow(forged: Forgery) -> None:
    """No element, and sides whose product no machine holds."""
    packed = forged.section("labels.dense")["tensors"]["labels.dense.codes"]["packed"]
    packed |= {"shape": [4, 9, 2**62, 0], "bytes": 0}


def _set_packed(key: str, value: Any) -> Change:
    def change(forged: Forgery) -> None:
        forged.section("labels.dense")["tensors"]["labels.dense.codes"]["packed"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        case(fault(53), "absent", _drop_listed, "lists tensor 'labels.soft.values', the file does not"),
        case(fault(53), "unlisted, ours", _add_unlisted, "'labels.soft.more' belongs to no section"),
        case(fault(53), "listed twice", _two_owners, "two tensors are called 'labels.soft.values'"),
        pytest.param(_two_sections, "two sections are called 'student'", id="two sections of one name"),
        pytest.param(_reserved, "'pad.7', which the container keeps", id="reserved name"),
        case(fault(54), "dtype", _set("labels.hard", "dtype", "I8"), "has dtype U8, its manifest says I8"),
        case(fault(54), "shape", _set("scores.loss", "shape", [1, 3]), r"has shape \[3\], its manifest"),
        case(fault(54), "bytes", _set("scores.loss", "bytes", 13), "has bytes 12, its manifest says 13"),
        case(fault(54), "packed bytes", _set_packed("bytes", 71), "unpacks to 71 bytes, its shape"),
        case(fault(54), "packed dtype", _set_packed("dtype", "F99"), "unpacks to"),
        case(fault(54), "packed shape overflows", _overflow, "unpacks to an impossible"),
        case(fault(54), "packed length", _set_packed("length", 65), "stream of at least 65"),
        case(fault(73), "no class", lambda f: f.document["data"].update(classes=[]), "'data.classes' has 0 items"),
    ],
)
def test_tables_that_disagree(forged: Forgery, refuses, change: Change, expected: str) -> None:
    """Faults 53 and 54: section table and header must describe the same tensors."""
    change(forged)
    data = forged.build()

    with pytest.raises(BundleError, match=expected):
        reopen(data)
    refuses(data, expected)


@pytest.mark.fault(54)
def test_fault_54_packed_tensor_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch, forged: Forgery) -> None:
    """A tiny stream cannot ask for a huge array."""
    data = forged.build()
    reopen(data)
    monkeypatch.setattr(manifest_rules, "MAX_PACKED_BYTES", 71)

    with pytest.raises(BundleError, match="unpacks to 72 bytes"):
        reopen(data)


@pytest.mark.fault(53)
def test_fault_53_unlisted_foreign_tensors_are_kept(forged: Forgery) -> None:
    """Another tool may add tensors; they are copied as they are and their bytes are accounted for."""
    forged.extra += [("adapter.b", "F32", [2], b"12345678"), ("adapter.a", "U8", [3], b"abc")]
    bundle = reopen(forged.build(), verify=True)
    longer = reopen(as_bytes(bundle.with_stage(stage_record("evaluate"))), verify=True)
    order = list(Forgery.of(as_bytes(longer)).tensors)

    assert longer.manifest.storage["container"]["unlisted"] == 11
    assert [Forgery.of(as_bytes(longer)).tensors[name] for name in ("adapter.a", "adapter.b")] == [
        ("U8", [3], b"abc"),
        ("F32", [2], b"12345678"),
    ]
    assert order.index("scores.loss") < order.index("adapter.a") < order.index("teacher.0.10.steps")
    with pytest.raises(BundleError, match=r"no tensor 'adapter\.a'"):
        bundle.read("adapter.a")


@pytest.mark.fault(55)
def test_fault_55_digest_edited_in_the_manifest(forged: Forgery, refuses, tmp_path: Path) -> None:
    """The file opens; the tensor does not load, and `verify` names it: a check that was asked for, so exit 7."""
    _set("images.pixels", "sha256", "0" * 64)(forged)
    forged.section("labels.soft").pop("of")
    forged.section("labels.dense").pop("of")
    data = forged.build()

    with pytest.raises(BundleError, match=r"'images\.pixels': digest mismatch"):
        reopen(data).read("images.pixels")
    with pytest.raises(BundleError, match=r"'images\.pixels': digest mismatch"):
        reopen(data, verify=True)
    assert len(reopen(data).verify()) == 1
    refuses(data, r"'images\.pixels': digest mismatch", "--grid", str(tmp_path / "x.png"))
    refuses(data, r"'images\.pixels': digest mismatch", "--verify", code=7, exact_field=False)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("tensor", ["images.pixels", "labels.dense.codes", "labels.soft.values", "teacher.0.10.steps"])
@pytest.mark.fault(56)
def test_fault_56_data_edited(rich: Bundle, refuses, tensor: str) -> None:
    """One flipped bit of a tensor: refused when that tensor loads, at open with verify, and when it is copied.

    `inspect --verify` exits with 7, as of every check that was asked for.
    """
    data = as_bytes(rich)
    header, base = split(data)
    start = base + header[tensor]["data_offsets"][0]
    edited = flipped(data, start + 3)
    bundle = reopen(edited)

    with pytest.raises(BundleError, match=rf"'{tensor}': digest mismatch"):
        bundle.read(tensor)
    with pytest.raises(BundleError, match=rf"'{tensor}': digest mismatch"):
        as_bytes(bundle)
    with pytest.raises(BundleError, match=rf"'{tensor}': digest mismatch"):
        reopen(edited, verify=True)
    for other in {"images.pixels", "labels.hard", "labels.soft.values"} - {tensor}:
        assert rich.read(other) == bundle.read(other)
    refuses(edited, f"'{tensor}': digest mismatch", "--verify", code=7, exact_field=False)


@pytest.mark.fault(56)
def test_fault_56_packed_tensor_edited_with_its_stream_digest(forged: Forgery) -> None:
    """Digest and stream changed together: the digest of the array still tells."""
    fresh = compress(bytes(71) + b"\x01")
    fresh += SKIPPABLE + struct.pack("<I", 64 - len(fresh) - 8) + bytes(64 - len(fresh) - 8)
    forged.replace_data("labels.dense.codes", fresh)
    bundle = reopen(forged.build(), verify=True)

    with pytest.raises(BundleError, match=r"'labels\.dense\.codes': digest mismatch after decompression"):
        bundle.read("labels.dense.codes")


@pytest.mark.fault(69)
def test_fault_69_packed_stream_of_another_length(forged: Forgery) -> None:
    """The manifest says how many bytes a stream holds."""
    fresh = compress(bytes(70))
    fresh += _pad(64 - len(fresh))
    forged.replace_data("labels.dense.codes", fresh)

    with pytest.raises(BundleError, match="holds 70 bytes, expected 72"):
        reopen(forged.build()).read("labels.dense.codes")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.update(total=s["total"] + 1), "'storage.total' is"),
        (lambda s: s["container"].update(header=s["container"]["header"] + 64), "'storage.total' is"),
        (lambda s: _move(s["container"], "header", "padding"), "storage.container.header' says"),
        (lambda s: _move(s["container"], "manifest", "unlisted"), "storage.container.manifest' says"),
        (lambda s: _move(s["sections"]["images"], "stored", "stored", s["container"], "padding"), "sections.images"),
        (lambda s: s["sections"].pop("student"), "sections.student' says None"),
        (lambda s: s["sections"].update(ghost={"kind": "labels", "raw": 0, "stored": 0}), "sections.ghost"),
    ],
    ids=[
        "fault 61: total",
        "fault 61: part",
        "fault 61: header for padding",
        "fault 61: manifest for foreign",
        "fault 61: section for padding",
        "fault 61: section missing",
        "fault 61: section of nothing",
    ],
)
@pytest.mark.fault(61)
def test_fault_61_storage_that_does_not_add_up(forged: Forgery, refuses, change: Change, expected: str) -> None:
    """The report is checked against the table, the file, and itself."""
    forged.document = json.loads(json.dumps(Forgery.of(forged.build()).document))
    change(forged.document["storage"])

    data = forged.build(honest=False)

    with pytest.raises(BundleError, match=expected):
        reopen(data)
    refuses(data, expected)


def _move(source: dict[str, int], key: str, to: str, target: dict[str, int] | None = None, other: str = "") -> None:
    source[key] -= 1
    (source if target is None else target)[other or to] += 1


@pytest.mark.parametrize(
    "section",
    [
        hard_section(3),
        NewSection(
            "labels.soft", "labels", {"labels.soft.values": RawTensor("F32", (5, 1, 2), bytes(40))}, role="soft"
        ),
        NewSection("labels.soft", "labels", {"labels.soft.values": RawTensor("F32", (), bytes(4))}, role="soft"),
        NewSection(
            "labels.soft",
            "labels",
            {"labels.soft.values": RawTensor("F32", (4, 8, 2), bytes(256))},
            role="soft",
            views=9,
            codec={"name": "f32", "parameters": {}},
        ),
    ],
    ids=["too few", "too many", "no image axis", "other number of views"],
)
@pytest.mark.fault(66)
def test_fault_66_label_count_differs_from_the_images(section: NewSection) -> None:
    """Labels are counted when written, and when read."""
    bundle = make_distilled(rich=False)

    with pytest.raises(BundleError, match="expected 4 images of"):
        bundle.with_stage(stage_record(), add=[section])


@pytest.mark.fault(66)
def test_fault_66_label_count_is_checked_on_open(forged: Forgery) -> None:
    """A file whose labels are of five images, of four."""
    del forged.tensors["labels.hard"]
    forged.extra.append(("labels.hard", "U8", [5], bytes(5)))
    record = {"dtype": "U8", "shape": [5], "bytes": 5, "sha256": hashlib.sha256(bytes(5)).hexdigest()}
    forged.section("labels.hard")["tensors"]["labels.hard"] = record

    with pytest.raises(BundleError, match=r"'labels\.hard' has shape \(5,\), expected 4 images"):
        reopen(forged.build())


def test_labels_that_this_reader_does_not_know_are_not_counted(forged: Forgery) -> None:
    """A codec of the future may store rows otherwise."""
    dense = forged.section("labels.dense")
    dense["codec"]["name"] = "zz9"
    dense["views"] = 5

    reopen(forged.build(), verify=True)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"images.latents": RawTensor("F32", (4, 2), bytes(32))},
        {"images.pixels": RawTensor("U8", (4, 16), bytes(64))},
    ],
    ids=["none", "other name", "flat"],
)
def test_images_without_pixels_are_refused(tensors: dict[str, RawTensor]) -> None:
    """Images are `images.pixels`, (n, c, h, w)."""
    sections = [NewSection("images", "images", tensors, range="uint8"), hard_section()]

    with pytest.raises(BundleError, match=r"no tensor 'images\.pixels' of shape \(n, c, h, w\)"):
        Bundle.create("distilled", DATA, stage_record(), sections)


def test_labels_of_other_images_must_say_so(forged: Forgery) -> None:
    """`of` and the images disagree, and nothing is marked stale: the likeliest silent error."""
    forged.section("labels.soft")["of"] = "0" * 64

    with pytest.raises(BundleError, match=r"'labels\.soft' was made for other images"):
        reopen(forged.build())
    forged.section("labels.soft")["stale"] = True
    assert reopen(forged.build()).section("labels.soft").stale


@pytest.mark.parametrize(
    ("name", "dtype", "size", "expected"),
    [
        ("pad.1", "U8", 5, "expected U8 'pad.0'"),
        ("pad.x", "U8", 5, "'pad.x' belongs to no section"),
        ("pad.0", "I8", 5, "expected U8 'pad.0'"),
        ("pad.0", "U8", 64, "too long"),
    ],
    ids=["not counted from 0", "no number", "other dtype", "longer than a gap"],
)
def test_padding_that_is_refused(forged: Forgery, name: str, dtype: str, size: int, expected: str) -> None:
    """Nothing hides in padding."""
    forged.extra.append((name, dtype, [size], bytes(size)))

    with pytest.raises(BundleError, match=expected):
        reopen(forged.build())


@pytest.mark.fault(33)
def test_misaligned_tensors_are_read_told_and_aligned_by_a_copy(
    run_cli, tmp_path: Path, rich: Bundle, forged: Forgery
) -> None:
    """Another writer left them so: their numbers are right, inspect says it once, and --quiet keeps it to itself."""
    order = list(forged.tensors)
    before, behind = order[: order.index("scores.loss")], order[order.index("scores.loss") :]
    odd = {"adapter.a": ("U8", [3], b"abc")}
    forged.tensors = {name: forged.tensors[name] for name in before} | odd | {n: forged.tensors[n] for n in behind}
    (tmp_path / "x.ddset").write_bytes(forged.build())
    bundle = Bundle.open(tmp_path / "x.ddset", verify=True)
    noted, quiet = (run_cli("inspect", tmp_path / "x.ddset", *more) for more in ((), ("--quiet",)))

    assert {"scores.loss", "novel.thing", "teacher.0.10.steps"} <= {*bundle.misaligned}
    assert "labels.soft.values" not in bundle.misaligned
    assert rich.tensor("teacher.0.10.weight").equal(bundle.tensor("teacher.0.10.weight"))
    assert () == rich.misaligned == reopen(as_bytes(bundle), verify=True).misaligned
    assert (0, 0, "") == (noted.code, quiet.code, quiet.err)
    assert 1 == noted.err.count("tensors start at no multiple of their element size: ")


@pytest.mark.fault(62)
def test_control_characters_reach_no_terminal_in_errors(run_cli, tmp_path: Path, forged: Forgery) -> None:
    """Of keys in a manifest, of file names and of arguments: one line of escapes."""
    forged.document["data"]["\x1b[2J\n"] = "x" * 70_000
    path = tmp_path / "x.ddset"
    path.write_bytes(forged.build())
    cases = (
        ("inspect", path), ("inspect", tmp_path / "\x1b[2J\n.ddset"), ("\x1b[2J\n",),
        ("inspect", path, "--\x1b[2J\n"),
        ("distill", "--data", "digits", "--method", "\x1b[2J\n", "-o", tmp_path / "o"),
    )  # fmt: skip
    for arguments in cases:
        outcome = run_cli(*arguments)
        assert outcome.code in {2, 3}, arguments
        assert r"\x1b[2J\n" in outcome.err, arguments
        assert all(line.isprintable() for line in outcome.err.splitlines()), arguments
        assert "\x1b" not in outcome.out


def test_padding_must_be_zero_to_verify(rich: Bundle) -> None:
    """Bytes that no digest covers are covered by being zero."""
    data = as_bytes(rich)
    header, base = split(data)
    start = base + header["pad.0"]["data_offsets"][0]

    with pytest.raises(BundleError, match=r"'pad\.0': digest mismatch"):
        reopen(flipped(data, start), verify=True)


@pytest.mark.fault(41, 56)
def test_every_flipped_bit_is_refused_or_changes_nothing() -> None:
    """Each bit of a small file: the verified bundle is exactly the same, or there is one BundleError.

    zstd can spell the same content in several ways, so some bits of the manifest's frame do not matter.
    """
    bundle = make_distilled(rich=False)
    data = as_bytes(bundle)
    harmless = 0
    for position in range(8 * len(data)):
        byte, bit = divmod(position, 8)
        edited = data[:byte] + bytes([data[byte] ^ (1 << bit)]) + data[byte + 1 :]
        try:
            survivor = reopen(edited, verify=True)
        except BundleError:
            continue
        harmless += 1

        assert bundle.manifest.document == survivor.manifest.document
        assert [bundle.read(name) for name in ("images.pixels", "labels.hard")] == [
            survivor.read(name) for name in ("images.pixels", "labels.hard")
        ]

    assert harmless < 0.01 * 8 * len(data)


@pytest.mark.parametrize("sixteenth", range(16))
@pytest.mark.fault(32)
def test_fault_32_truncated_file(rich: Bundle, refuses, sixteenth: int) -> None:
    """A download that stopped is refused at open, wherever it stopped; as a stream too."""
    data = as_bytes(rich)
    cut = data[: math.floor(len(data) * sixteenth / 16)]

    with pytest.raises(BundleError, match=r"expected|ends after|cut off"):
        reopen(cut)
    refuses(cut, r"expected a \.ddset file|ends after|cut off")


def test_labels_without_images_cannot_be_counted() -> None:
    """A partial bundle may hold labels alone; scalars among them do no harm."""
    labels = NewSection("labels.soft", "labels", {"labels.soft.t": RawTensor("F32", (), bytes(4))}, role="soft")
    state = NewSection("state.a", "state", {"state.a.x": RawTensor("U8", (1,), b"x")})
    bundle = Bundle.create("partial", DATA, stage_record(), [labels, state])

    assert bundle.manifest.storage["bits_per_view"] == {}
    assert reopen(as_bytes(bundle), verify=True).content == bundle.content


def test_the_forger_is_honest(rich: Bundle) -> None:
    """Taken apart and put together again, nothing has changed: so the faults above are the only ones."""
    forged = reopen(Forgery.of(as_bytes(rich)).build(), verify=True)

    assert rich.content == forged.content
    assert images_section().tensors["images.pixels"].data == bytes(forged.read("images.pixels")[2])
