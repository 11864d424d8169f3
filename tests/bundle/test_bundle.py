"""Bundles written and read again: against safetensors as oracle, numpy and torch arrays, and their own files."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors import torch as safetensors_torch

from ddlabel import header
from ddlabel.bundle import Bundle, NewSection, Packed, RawTensor, Spool, StageRecord, read_manifest
from ddlabel.errors import BundleError, ResourceError, UsageError
from ddlabel.frame import write_frame
from ddlabel.header import DTYPE_BITS

from .forging import (
    DATA,
    IMAGES,
    Forgery,
    as_bytes,
    dense_section,
    hard_section,
    images_section,
    make_distilled,
    reopen,
    soft_section,
    split,
    stage_record,
    teacher_section,
)

KNOWN_TO_TORCH = sorted(set(DTYPE_BITS) - {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"})


# Round trips


def raw_tensors() -> st.SearchStrategy[Any]:
    """Tensors of every dtype and small shape, empty and rank 0 included; packed or not."""

    def build(dtype: str, shape: list[int], seed: int, packed: bool) -> Any:
        bits = math.prod(shape) * DTYPE_BITS[dtype]
        if bits % 8:
            dtype, bits = "U8", 8 * math.prod(shape)
        choice = random.Random(seed)
        data = bytes(choice.choice((0, 1)) for _byte in range(bits // 8))
        raw = RawTensor(dtype, tuple(shape), data)
        return Packed(raw) if packed else raw

    return st.builds(
        build,
        st.sampled_from(sorted(DTYPE_BITS)),
        st.lists(st.integers(0, 9), max_size=4),
        st.integers(0, 2**32),
        st.booleans(),
    )


NAMES = st.sampled_from(
    ["transform.zca", "student", "scores.el2n", "novel.x", "teacher.0.9", "teacher.0.10", "state.a"]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sections=st.dictionaries(NAMES, st.lists(raw_tensors(), min_size=1, max_size=4), max_size=5),
    count=st.integers(1, 9),
)
def test_writing_what_was_read_gives_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, sections: dict[str, list[Any]], count: int
) -> None:
    """Round trip: same bytes, same tensors; and safetensors reads every file, all tensors 64-aligned."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    more = [
        NewSection(name, name.split(".")[0], {f"{name}.t{index}": tensor for index, tensor in enumerate(tensors)})
        for name, tensors in sections.items()
    ]
    bundle = Bundle.create("distilled", DATA, stage_record(), [*more, images_section(count), hard_section(count)])
    data = as_bytes(bundle)
    again = reopen(data, verify=True)

    assert data == as_bytes(again)
    assert bundle.content == again.content
    assert len(data) == again.manifest.storage["total"]
    for name, tensors in sections.items():
        for index, tensor in enumerate(tensors):
            raw = tensor.tensor if isinstance(tensor, Packed) else tensor
            assert (raw.dtype, raw.shape, raw.data) == again.read(f"{name}.t{index}")
    check_with_safetensors(data, again)


def check_with_safetensors(data: bytes, bundle: Bundle) -> None:
    """The library accepts the file, sees the same tensors, and maps each at a multiple of 64."""
    entries, base = split(data)
    with tempfile.NamedTemporaryFile(suffix=".ddset") as file:
        file.write(data)
        file.flush()
        with safe_open(file.name, "pt") as theirs:
            assert set(entries) - {"__metadata__"} == set(theirs.keys())
            assert theirs.metadata() == {"ddset": "1"}
            for name, entry in entries.items():
                if name == "__metadata__" or name.startswith("pad."):
                    continue
                assert (base + entry["data_offsets"][0]) % 64 == 0
                if entry["dtype"] in KNOWN_TO_TORCH and name != "manifest.json.zst":
                    tensor = theirs.get_tensor(name)
                    assert tensor.data_ptr() % 64 == 0
                    if "packed" not in bundle._record(name):
                        assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == bundle.read(name)[2]


def test_files_hold_sections_in_the_promised_order(rich: Bundle) -> None:
    """Small and needed first, so that a partial download is of use."""
    entries, _base = split(as_bytes(rich))
    names = [name for name in entries if not name.startswith(("pad.", "__"))]

    assert names == [
        "manifest.json.zst",
        "images.pixels",
        "labels.hard",
        "labels.dense.codes",
        "labels.dense.scale",
        "labels.soft.values",
        "student.lr",
        "scores.loss",
        "novel.thing",
        "teacher.0.10.steps",
        "teacher.0.10.weight",
    ]
    assert [record.name for record in rich.manifest.sections][:3] == ["images", "labels.hard", "labels.dense"]


def test_numbers_in_names_are_ordered_as_numbers() -> None:
    """Epoch 9 before epoch 10."""
    sections = [teacher_section(epoch=epoch) for epoch in (10, 9, 100)] + [teacher_section(1, 2)]
    bundle = Bundle.create("teacher", None, stage_record(), sections)

    assert [s.name for s in bundle.sections()] == ["teacher.0.9", "teacher.0.10", "teacher.0.100", "teacher.1.2"]


def test_packed_tensors_fill_blocks_of_64(rich: Bundle) -> None:
    """A stream says its length, ends on a block, and is a frame that any zstd reads."""
    import zstandard

    record = rich.section("labels.dense").tensors["labels.dense.codes"]
    stream = Forgery.of(as_bytes(rich)).tensors["labels.dense.codes"][2]

    assert record["bytes"] == len(stream)
    assert record["bytes"] % 64 == 0
    assert record["packed"]["length"] <= len(stream)
    assert bytes(72) == zstandard.ZstdDecompressor().decompress(stream[: record["packed"]["length"]])


def test_packing_is_used_only_when_it_saves() -> None:
    """Random bytes stay as they are; zeros shrink, but never beyond what readers accept."""
    noise = RawTensor("F32", (1000,), random.Random(0).randbytes(4000))
    zeros = RawTensor("F16", (10 * 2**20,), bytes(20 * 2**20))
    sections = [NewSection("state.a", "state", {"state.a.noise": Packed(noise), "state.a.zeros": Packed(zeros)})]
    bundle = Bundle.create("partial", None, stage_record(), sections)
    records = bundle.section("state.a").tensors
    again = reopen(as_bytes(bundle), verify=True)

    assert "packed" not in records["state.a.noise"]
    assert 20 * 2**20 / 1000 <= records["state.a.zeros"]["bytes"] < 20 * 2**20 / 900
    assert bytes(20 * 2**20) == again.read("state.a.zeros")[2]
    assert noise.data == again.read("state.a.noise")[2]


def test_a_manifest_that_compresses_too_well_can_still_be_read() -> None:
    """Readers refuse more than 1000:1; the padding of the frame keeps the writer below."""
    config = {"zeros": [0] * 700_000}
    bundle = Bundle.create("teacher", None, stage_record(config=config), [teacher_section()])

    assert config == reopen(as_bytes(bundle)).manifest.history[0]["config"]


# What tensors may be


ARRAYS: dict[str, tuple[Any, Any]] = {
    "contiguous": (lambda: torch.arange(24.0).reshape(2, 3, 4), torch.arange(24.0).reshape(2, 3, 4)),
    "transposed": (lambda: torch.arange(6.0).reshape(2, 3).t(), torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])),
    "channels last": (
        lambda: torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(24.0).reshape(1, 2, 3, 4),
    ),
    "expanded": (lambda: torch.tensor([1.5]).expand(3, 2), torch.full((3, 2), 1.5)),
    "view of a big storage": (lambda: torch.arange(1000)[10:20:5], torch.tensor([10, 15])),
    "needs gradient": (lambda: torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
    "scalar": (lambda: torch.tensor(3, dtype=torch.int64), torch.tensor(3)),
    "empty": (lambda: torch.zeros(0, 3), torch.zeros(0, 3)),
    "bool": (lambda: torch.tensor([True, False]), torch.tensor([True, False])),
    "bfloat16": (
        lambda: torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    ),
    "float8": (lambda: torch.ones(3).to(torch.float8_e4m3fn), torch.ones(3).to(torch.float8_e4m3fn)),
    "conjugated": (lambda: torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
    "numpy": (lambda: np.arange(6, dtype=np.int16).reshape(2, 3), torch.arange(6, dtype=torch.int16).reshape(2, 3)),
    "numpy big-endian": (lambda: np.arange(3, dtype=">f8"), torch.arange(3, dtype=torch.float64)),
    "numpy Fortran order": (
        lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        torch.arange(6.0).double().reshape(2, 3),
    ),
    "numpy reversed": (lambda: np.arange(4, dtype=np.uint8)[::-1], torch.tensor([3, 2, 1, 0], dtype=torch.uint8)),
    "numpy scalar array": (lambda: np.array(7, dtype=np.int32), torch.tensor(7, dtype=torch.int32)),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("layout", ARRAYS)
def test_arrays_of_any_layout_are_stored_row_major(layout: str, packed: bool) -> None:
    """What is read is what was given, bit for bit, and contiguous."""
    make, expected = ARRAYS[layout]
    given_array = make()
    bundle = state_bundle(Packed(given_array) if packed else given_array)
    restored = reopen(as_bytes(bundle)).tensor("state.a.x")

    assert (expected.dtype, expected.shape) == (restored.dtype, restored.shape)
    assert torch.equal(expected.reshape(-1).view(torch.uint8), restored.reshape(-1).view(torch.uint8))
    assert restored.is_contiguous()


def state_bundle(tensor: Any) -> Bundle:
    return Bundle.create("partial", None, stage_record(), [NewSection("state.a", "state", {"state.a.x": tensor})])


@pytest.mark.parametrize("dtype", KNOWN_TO_TORCH)
def test_every_dtype_of_torch_comes_back_bit_for_bit(dtype: str) -> None:
    """All bytes, NaNs and negative zeros included, as safetensors gives them."""
    data = bytes([0, 1] * 8) if dtype == "BOOL" else bytes(range(240, 256)) + bytes(range(16))
    shape = (8 * len(data) // DTYPE_BITS[dtype],)
    tensor = state_bundle(RawTensor(dtype, shape, data)).tensor("state.a.x")

    assert safetensors_torch._TYPES[dtype] == tensor.dtype
    assert data == bytes(tensor.view(torch.uint8).numpy())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (torch.zeros(2, 2).to_sparse(), "sparse"),
        (torch.zeros(2, device="meta"), "meta"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (np.array(["a"]), "numpy array of <U1"),
        (np.array([None]), "numpy array of object"),
        ([1, 2], "cannot store a list"),
    ],
    ids=["sparse", "meta", "complex128", "numpy texts", "numpy objects", "list"],
)
def test_what_is_no_dense_array_is_refused(array: Any, expected: str) -> None:
    """One kind of error, naming what was given."""
    with pytest.raises(UsageError, match=expected):
        state_bundle(array)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"), [("F32", (2,), 7), ("U8", (), 0), ("X", (1,), 1)], ids=["short", "none", "unknown"]
)
def test_raw_tensors_must_fit_their_shape(dtype: str, shape: tuple[int, ...], size: int) -> None:
    """A mistake of the caller is found where it is made."""
    with pytest.raises(ValueError, match=r"bytes|unknown dtype"):
        RawTensor(dtype, shape, bytes(size))


def test_a_bundle_does_not_change_with_the_tensor_it_was_made_from() -> None:
    """Bundles are immutable: they copy."""
    tensor, buffer = torch.zeros(3), bytearray(3)
    bundle = state_bundle(tensor)
    other = state_bundle(RawTensor("U8", (3,), buffer))  # type: ignore[arg-type]
    tensor += 1
    buffer[0] = 9
    bundle.tensor("state.a.x").add_(5)

    assert bundle.tensor("state.a.x").tolist() == [0.0, 0.0, 0.0]
    assert other.tensor("state.a.x").tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"])
@pytest.mark.fault(30)
def test_fault_30_dtype_that_torch_does_not_know(dtype: str) -> None:
    """The section is kept when copied; loading it says so."""
    data = bytes(range(6))
    bundle = reopen(as_bytes(state_bundle(RawTensor(dtype, (48 // DTYPE_BITS[dtype],), data))), verify=True)

    with pytest.raises(BundleError, match=f"unsupported dtype {dtype}; the section is kept"):
        bundle.tensor("state.a.x")
    assert data == reopen(as_bytes(bundle.with_stage(stage_record()))).read("state.a.x")[2]


@pytest.mark.fault(34)
def test_fault_34_truth_values_other_than_0_and_1() -> None:
    """safetensors shows 7 as True; we refuse."""
    bundle = state_bundle(RawTensor("BOOL", (3,), b"\x00\x01\x07"))

    with pytest.raises(BundleError, match=r"'state\.a\.x': truth values other than 0 and 1"):
        bundle.tensor("state.a.x")


@pytest.mark.fault(36)
def test_fault_36_empty_and_scalar_tensors() -> None:
    """Both are tensors like others."""
    bundle = reopen(as_bytes(state_bundle(RawTensor("F32", (0, 3), b""))))

    assert tuple(bundle.tensor("state.a.x").shape) == (0, 3)
    assert tuple(bundle.slice("state.a.x", 0, 0).shape) == (0, 3)
    assert int(state_bundle(RawTensor("I8", (), b"\x05")).tensor("state.a.x")) == 5


# Slices


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 7), (2, 5), (6, 7)], ids=["nothing", "all", "middle", "last"])
def test_slices_are_those_of_safetensors(tmp_path: Path, start: int, stop: int) -> None:
    """Rows of a big tensor, as the library slices them; from memory and from the file."""
    values = torch.arange(7 * 6).reshape(7, 2, 3).to(torch.int16)
    path = tmp_path / "a.ddset"
    bundle = state_bundle(values)
    bundle.save(path)
    with safe_open(path, "pt") as theirs:
        expected = theirs.get_slice("state.a.x")[start:stop]

    assert torch.equal(expected, Bundle.open(path).slice("state.a.x", start, stop))
    assert torch.equal(expected, bundle.slice("state.a.x", start, stop))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 8)], ids=["negative", "reversed", "beyond"])
def test_slices_outside_are_refused(start: int, stop: int) -> None:
    """Python would clip silently."""
    with pytest.raises(BundleError, match=f"no rows {start} to {stop}"):
        state_bundle(torch.zeros(7)).slice("state.a.x", start, stop)


def test_scalars_and_packed_tensors_have_no_rows(rich: Bundle) -> None:
    """Slices are for plain tensors."""
    for name in ("labels.dense.codes", "student.lr"):
        with pytest.raises(BundleError, match="no rows 0 to 1 to slice"):
            rich.slice(name, 0, 1)
    with pytest.raises(BundleError, match="no tensor 'nothing'"):
        rich.slice("nothing", 0, 1)


# Files that change or fail while they are open


@pytest.mark.fault(103)
def test_fault_103_file_truncated_while_open(tmp_path: Path) -> None:
    """An error, not a bus error; in loading, slicing and copying."""
    path = tmp_path / "a.ddset"
    state_bundle(torch.zeros(100_000)).save(path)
    bundle = Bundle.open(path)
    os.truncate(path, 4096)

    for use in (
        lambda: bundle.tensor("state.a.x"),
        lambda: bundle.slice("state.a.x", 99_999, 100_000),
        lambda: as_bytes(bundle),
    ):
        with pytest.raises(BundleError, match=r"'state\.a\.x': the file was cut off while it was read"):
            use()


@pytest.mark.fault(104)
def test_fault_104_file_edited_in_place_while_open(tmp_path: Path) -> None:
    """The digest is taken from the bytes that are used, each time."""
    path = tmp_path / "a.ddset"
    state_bundle(torch.zeros(1000)).save(path)
    bundle = Bundle.open(path, verify=True)
    bundle.tensor("state.a.x")
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"x")

    with pytest.raises(BundleError, match="digest mismatch"):
        bundle.tensor("state.a.x")


@pytest.mark.fault(102)
def test_fault_102_file_replaced_while_open(tmp_path: Path) -> None:
    """An open bundle keeps reading the file it opened, even the one it is saved over."""
    path = tmp_path / "a.ddset"
    state_bundle(torch.zeros(1000)).save(path)
    bundle = Bundle.open(path)
    state_bundle(torch.ones(7)).save(path, force=True)
    bundle.with_stage(stage_record("evaluate")).save(path, force=True)

    assert float(bundle.tensor("state.a.x").sum()) == 0
    assert list(Bundle.open(path, verify=True).tensor("state.a.x").shape) == [1000]


@pytest.mark.fault(97)
def test_fault_97_disk_fails_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO is not damage: the file may be fine elsewhere."""
    path = tmp_path / "a.ddset"
    state_bundle(torch.zeros(10)).save(path)
    bundle = Bundle.open(path)

    def fail(descriptor: int, count: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(ResourceError, match=r"'state\.a\.x': cannot be read \(Input/output error\)"):
        bundle.tensor("state.a.x")


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may give fewer bytes than asked for."""
    path = tmp_path / "a.ddset"
    state_bundle(torch.arange(10)).save(path)
    bundle, pread = Bundle.open(path), os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, count, offset: pread(descriptor, min(count, 3), offset))

    assert list(range(10)) == bundle.tensor("state.a.x").tolist()


def test_files_are_closed_when_nothing_reads_from_them(tmp_path: Path) -> None:
    """Descriptors do not pile up, whether opening worked or not."""
    good, bad = tmp_path / "a.ddset", tmp_path / "b.ddset"
    state_bundle(torch.zeros(1)).save(good)
    bad.write_bytes(good.read_bytes()[:-1])
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _round in range(20):
        derived = Bundle.open(good).with_stage(stage_record())
        with pytest.raises(BundleError):
            Bundle.open(bad)
    opened = len(os.listdir("/proc/self/fd"))
    values = derived.tensor("state.a.x")
    del derived
    gc.collect()

    assert before + 1 >= opened
    assert before == len(os.listdir("/proc/self/fd"))
    assert values.numel() == 1


# Stages


def test_history_grows_by_one_and_old_bundles_stay(rich: Bundle) -> None:
    """A stage returns a new bundle."""
    before = rich.content
    longer = rich.with_stage(stage_record("refine", inputs=[rich], seed=7, config={"alpha": 0.1}))
    entry = longer.manifest.history[-1]

    assert [*(e["stage"] for e in rich.manifest.history), "refine"] == [e["stage"] for e in longer.manifest.history]
    assert before == rich.content != longer.content
    assert {"content": before, "kind": "distilled"} == entry["inputs"][0]
    assert (entry["seed"], entry["config"], entry["metrics"]) == (7, {"alpha": 0.1}, {"loss": 0.25})
    assert entry["time"] == {"started": "2023-11-14T22:13:20Z", "seconds": 1.5}


def test_evaluations_are_added(rich: Bundle) -> None:
    """A score is a history entry and an evaluation."""
    scored = reopen(as_bytes(rich.with_evaluation(stage_record("evaluate"), {"accuracy": 0.75})))

    assert scored.manifest.evaluations == [{"accuracy": {"mean": 0.5}}, {"accuracy": 0.75}]
    assert len(scored.manifest.history) == 4


@pytest.mark.parametrize("how", ["replaced", "dropped"])
def test_labels_become_stale_with_their_images(rich: Bundle, how: str) -> None:
    """Every label section made for other images is marked, unless it is replaced too; hard labels depend on none."""
    if how == "replaced":
        changed = rich.with_stage(stage_record(), add=[images_section(first=1)])
    else:
        partial = Bundle.create(
            "partial", DATA, stage_record(), [images_section(), soft_section(rich.images_digest()), state()]
        )
        changed = partial.with_stage(stage_record(), drop=["images"])
    again = reopen(as_bytes(changed), verify=True)
    stale = {section.name for section in again.sections() if section.stale}

    assert ({"labels.soft", "labels.dense"} if how == "replaced" else {"labels.soft"}) == stale


def state() -> NewSection:
    return NewSection("state.a", "state", {"state.a.x": RawTensor("U8", (1,), b"x")})


def test_labels_replaced_with_their_images_are_fresh(rich: Bundle) -> None:
    """The stage that changes images may bring new labels; those left are stale for good."""
    images = images_section(first=1)
    digest = Bundle.create("distilled", DATA, stage_record(), [images, hard_section()]).images_digest()
    changed = rich.with_stage(stage_record(), add=[images, soft_section(digest)])
    back = changed.with_stage(stage_record(), add=[images_section()])

    assert not changed.section("labels.soft").stale
    assert changed.section("labels.dense").stale
    assert back.section("labels.dense").stale
    assert back.section("labels.soft").stale


def test_the_same_images_again_leave_labels_fresh(rich: Bundle) -> None:
    """Staleness follows the digest, not the act of writing."""
    again = rich.with_stage(stage_record(), add=[images_section()])

    assert [section.name for section in again.sections() if section.stale] == []


def test_sections_are_replaced_and_dropped_by_name(rich: Bundle) -> None:
    """Tensors of the old section do not linger."""
    smaller = NewSection("teacher.0.10", "teacher", {"teacher.0.10.bias": RawTensor("F32", (1,), bytes(4))})
    changed = reopen(as_bytes(rich.with_stage(stage_record(), add=[smaller], drop=["labels.soft"])), verify=True)

    assert list(changed.section("teacher.0.10").tensors) == ["teacher.0.10.bias"]
    assert not changed.has("labels.soft")
    with pytest.raises(BundleError, match=r"no tensor 'teacher\.0\.10\.weight'"):
        changed.tensor("teacher.0.10.weight")
    with pytest.raises(UsageError, match=r"no section 'labels\.soft' to drop"):
        changed.with_stage(stage_record(), drop=["labels.soft"])


def test_missing_sections_are_named_with_those_there_are(rich: Bundle) -> None:
    """The message helps to find the right name."""
    with pytest.raises(
        BundleError, match=r"<distill>: no section 'labels\.fkd' \(sections: images, labels\.hard, labels"
    ):
        rich.section("labels.fkd")
    with pytest.raises(BundleError, match="<distill>: no tensor 'x'"):
        rich.tensor("x")


def test_sections_by_kind(rich: Bundle) -> None:
    """In file order."""
    assert [section.name for section in rich.sections("labels")] == ["labels.hard", "labels.dense", "labels.soft"]
    assert rich.sections("trajectory") == []
    assert rich.has("student")


@pytest.mark.fault(60)
def test_fault_60_history_that_is_full(monkeypatch: pytest.MonkeyPatch, rich: Bundle) -> None:
    """A bundle at the limit still opens; it does not grow."""
    full = rich
    document = dict(rich.manifest.document)
    document["history"] = [*document["history"]] * 1365 + [document["history"][0]]
    full = Bundle(type(rich.manifest)(document), rich._sources, "full")

    assert len(reopen(as_bytes(full)).manifest.history) == 4096
    with pytest.raises(BundleError, match="'history' has 4097 items"):
        full.with_stage(stage_record())


# Identity


def test_content_depends_on_what_a_bundle_says_and_holds() -> None:
    """A tensor bit, a config value, a seed or a parameter changes the digest."""
    base = make_distilled(rich=False)
    pixels = bytearray(range(64))
    pixels[-1] ^= 1
    other_images = NewSection("images", "images", {IMAGES: RawTensor("U8", (4, 1, 4, 4), bytes(pixels))}, range="uint8")
    parts = [images_section(), hard_section()]
    others = [
        Bundle.create("distilled", DATA, stage_record(), [other_images, hard_section()]),
        Bundle.create("distilled", DATA, stage_record(config={"ipc": 2, "lr": 0.5000001}), parts),
        Bundle.create("distilled", DATA, stage_record(seed=1), parts),
        Bundle.create("distilled", DATA | {"flip": False}, stage_record(), parts),
        Bundle.create("distilled", DATA, stage_record(metrics={"loss": 0.5}), parts),
    ]

    assert len({base.content, *(other.content for other in others)}) == 6


def test_content_does_not_depend_on_clock_host_order_or_compression(
    monkeypatch: pytest.MonkeyPatch, rich: Bundle
) -> None:
    """Only bytes of the container change."""
    later = stage_record(started=1_800_000_000.0, seconds=99.0, host={"device": "cuda", "threads": 64})
    swapped = Bundle.create("distilled", DATA, later, [hard_section(), images_section()])
    forged = Forgery.of(as_bytes(rich))
    forged.tensors = dict(sorted(forged.tensors.items(), key=lambda item: (len(item[1][2]) % 8, item[0])))
    forged.document["sections"].reverse()
    backwards = reopen(forged.build(), verify=True)
    monkeypatch.setattr("ddlabel.packing.write_frame", lambda data, level: write_frame(data, level=level - 2))
    digest = rich.images_digest()
    looser = rich.with_stage(stage_record(), add=[dense_section(digest, views=9)])
    monkeypatch.undo()

    assert make_distilled(rich=False).content == swapped.content
    assert rich.content == backwards.content
    assert rich.with_stage(stage_record(), add=[dense_section(digest)]).content == looser.content
    assert as_bytes(rich) == as_bytes(backwards)


def test_content_does_not_depend_on_packing() -> None:
    """The digest is of the array, not of the stream."""
    zeros = RawTensor("F32", (100,), bytes(400))
    plain, packed = state_bundle(zeros), state_bundle(Packed(zeros))

    assert "packed" in packed.section("state.a").tensors["state.a.x"]
    assert plain.read("state.a.x") == packed.read("state.a.x")
    assert (
        plain.manifest.document["sections"][0]["tensors"]["state.a.x"]["sha256"]
        == (packed.manifest.document["sections"][0]["tensors"]["state.a.x"]["packed"]["sha256"])
    )
    assert plain.content == packed.content


def test_source_date_epoch_fixes_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same content and clock, same file, whenever it is written."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    first, second = (
        Bundle.create(
            "distilled", DATA, stage_record(started=start, seconds=start / 7), [images_section(), hard_section()]
        )
        for start in (1.6e9, 1.7e9)
    )

    assert as_bytes(first) == as_bytes(second)
    assert first.manifest.history[0]["time"] == {"started": "2009-02-13T23:31:30Z", "seconds": 0}


@pytest.mark.parametrize(
    "value", ["soon", "-1", "1.5", "9" * 30, "٣"], ids=["word", "negative", "float", "far", "other digits"]
)
def test_source_date_epoch_must_be_a_time(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A typing error must not silently give other bytes."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)

    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is"):
        stage_record().entry()


# Files, streams, pipes


def test_save_writes_what_write_to_writes(tmp_path: Path, rich: Bundle) -> None:
    """One layout, two ways out."""
    path = tmp_path / "a.ddset"
    rich.save(path)

    assert as_bytes(rich) == path.read_bytes()
    assert str(path) == Bundle.open(path).name


def test_a_damaged_source_leaves_no_output(tmp_path: Path, rich: Bundle) -> None:
    """The digest of a copied tensor is checked while copying; the output then never appears."""
    data = bytearray(as_bytes(rich))
    data[-1] ^= 1
    damaged = reopen(bytes(data))

    with pytest.raises(BundleError, match="digest mismatch"):
        damaged.save(tmp_path / "copy.ddset")
    assert list(tmp_path.iterdir()) == []


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    """The message starts with the path."""
    with pytest.raises(BundleError, match=r"a\.ddset: no such file"):
        Bundle.open(tmp_path / "a.ddset")
    with pytest.raises(BundleError, match="is a folder"):
        Bundle.open(tmp_path)


class OneByteAtATime(io.RawIOBase):
    """A slow pipe: each read gives one byte, and what was taken is counted."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data, self.taken = data, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self.data[self.taken : self.taken + 1]
        self.taken += len(piece)
        return piece


@pytest.mark.fault(107)
def test_fault_107_manifest_from_the_first_bytes_of_a_slow_pipe(rich: Bundle) -> None:
    """Header and manifest come first and are all that is read; the rest of the pipe is the caller's."""
    data = as_bytes(rich)
    pipe = OneByteAtATime(data)
    head, manifest = read_manifest(pipe)  # type: ignore[arg-type]
    container = manifest.storage["container"]

    assert container["header"] + container["manifest"] == pipe.taken < len(data) - 300
    assert rich.content == manifest.content
    assert len(data) == head.data_start + head.data_bytes


def test_manifest_behind_tensors_is_found_in_a_pipe(forged: Forgery) -> None:
    """Other writers may put it anywhere; then the pipe is read up to it."""
    data = forged.build(manifest_last=True)
    _head, manifest = read_manifest(OneByteAtATime(data))  # type: ignore[arg-type]

    assert reopen(data).content == manifest.content


def test_streams_are_opened_like_files(rich: Bundle) -> None:
    """A stream of bytes is spooled, so that tensors can be read at random."""
    bundle = Bundle.open(OneByteAtATime(as_bytes(rich)), verify=True)  # type: ignore[arg-type]

    assert bundle.name == "<stream>"
    assert rich.read("labels.soft.values") == bundle.read("labels.soft.values")


def test_opening_imports_nothing_heavy_and_reads_no_tensor(tmp_path: Path) -> None:
    """A sparse bundle of 20 GiB opens in the time of a small one, without torch, numpy, safetensors or rich."""
    path = tmp_path / "huge.ddset"
    forged = Forgery.of(as_bytes(state_bundle(RawTensor("U8", (2,), b"ab"))))
    size = 20 * 2**30
    forged.tensors["state.a.x"] = ("U8", [size], Sized(size))  # type: ignore[assignment]
    record = forged.section("state.a")["tensors"]["state.a.x"]
    record |= {"shape": [size], "bytes": size}
    head = forged.build_head()
    path.write_bytes(head)
    os.truncate(path, len(head) + size)
    code = (
        "import sys, time; from ddlabel.bundle import Bundle; start = time.process_time(); "
        f"bundle = Bundle.open({str(path)!r}); bundle.content; spent = time.process_time() - start; "
        "heavy = sorted({'torch', 'numpy', 'safetensors', 'rich'} & set(sys.modules)); "
        "print(bundle.manifest.storage['total'], heavy, spent < 0.1)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert f"{len(head) + size} [] True" == found.stdout.strip()


class Sized(bytes):
    """Bytes that are only counted."""

    def __new__(cls, size: int) -> Sized:
        made = super().__new__(cls)
        made.size = size  # type: ignore[attr-defined]
        return made

    def __len__(self) -> int:
        return self.size  # type: ignore[attr-defined,no-any-return]


# Larger than memory


SPOOLED = r"""
import re, sys
from ddlabel.bundle import Bundle, NewSection, Spool, StageRecord
blocks, block = 256, bytes(4 * 2**20)
record = StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {})
with Spool() as spool:
    tensor = spool.tensor("F32", (blocks, 2**20), (block for _index in range(blocks)))
    section = NewSection("state.a", "state", {"state.a.x": tensor})
    Bundle.create("partial", None, record, [section]).save(sys.argv[1], durable=False)
copy = Bundle.open(sys.argv[1]).with_stage(record)
with open("/dev/null", "wb") as sink:
    copy.write_to(sink)
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])  # ru_maxrss is inherited from the parent
"""


@pytest.mark.slow
def test_bundles_larger_than_memory_are_written_and_copied_in_constant_memory(tmp_path: Path) -> None:
    """1 GiB, spooled, written and copied, in a process that never holds 100 MiB."""
    free = os.statvfs(tmp_path)
    if free.f_bavail * free.f_frsize < 3 * 2**30:
        pytest.skip("less than 3 GiB free on the disk of temporary files")
    path = tmp_path / "big.ddset"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SPOOLED, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    size = path.stat().st_size
    path.unlink()

    assert size > 2**30
    assert int(done.stdout) * 1024 < 100 * 2**20


def test_spooled_tensors_are_tensors_like_others() -> None:
    """Several tensors in one spool, empty ones too."""
    with Spool() as spool:
        first = spool.tensor("I16", (3,), [b"\x01\x00", b"\x02\x00\x03\x00"])
        empty = spool.tensor("F32", (0,), [])
        section = NewSection("state.a", "state", {"state.a.x": first, "state.a.y": empty})
        bundle = Bundle.create("partial", None, stage_record(), [section])
        data = as_bytes(bundle)

    assert reopen(data, verify=True).tensor("state.a.x").tolist() == [1, 2, 3]
    with pytest.raises(BundleError, match="its file is closed"):
        bundle.tensor("state.a.x")


def test_spooled_bytes_must_fit_the_shape() -> None:
    """Neither more nor fewer."""
    with Spool() as spool, pytest.raises(ValueError, match=r"F32 of shape \(2,\) has 8 bytes, got 12"):
        spool.tensor("F32", (2,), [bytes(4)] * 3)


@pytest.mark.fault(96)
def test_fault_96_disk_full_while_spooling() -> None:
    """A full disk is a shortage, not damage."""
    with Spool() as spool:
        spool._file.close()
        spool._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
        with pytest.raises(ResourceError, match="cannot be written"):
            spool.tensor("U8", (1,), [b"x"])


# Small things


@pytest.mark.fault(35)
def test_fault_35_tensors_beyond_the_limit_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What readers refuse is refused when written: tensors, padding between them, and header bytes."""
    tensors = {f"state.a.x{index}": RawTensor("U8", (1,), b"x") for index in range(40)}
    sections = [NewSection("state.a", "state", tensors)]
    monkeypatch.setattr("ddlabel.writer.MAX_TENSORS", 80)
    Bundle.create("partial", None, stage_record(), sections)
    monkeypatch.setattr("ddlabel.writer.MAX_TENSORS", 79)
    with pytest.raises(BundleError, match="80 tensors, a bundle may have 79"):
        Bundle.create("partial", None, stage_record(), sections)
    monkeypatch.undo()
    monkeypatch.setattr("ddlabel.writer.MAX_HEADER_BYTES", 1024)
    with pytest.raises(BundleError, match="header bytes, a bundle may have 1024"):
        Bundle.create("partial", None, stage_record(), sections)


@pytest.mark.parametrize("name", ["State.X", "state/x", "../x", "state x", "", "é"], ids=repr)
@pytest.mark.fault(21)
def test_fault_21_names_that_readers_refuse_are_not_written(name: str) -> None:
    """Names are a-z, 0-9, '.', '_' and '-'."""
    with pytest.raises(BundleError, match="expected a text like"):
        Bundle.create("partial", None, stage_record(), [NewSection("state.a", "state", {name: torch.zeros(1)})])


def test_stage_records_are_made_by_stages() -> None:
    """The record's fields are the history's."""
    record = StageRecord("x", {}, None, [], {}, 0.0, 0.0, {})

    assert {"stage", "config", "seed", "inputs", "metrics", "time", "host"} == set(record.entry())


def test_foreign_files_are_said_to_be_foreign(tmp_path: Path) -> None:
    """A plain safetensors file is not a bundle."""
    data = safetensors_torch.save({"a": torch.zeros(2)})

    with pytest.raises(BundleError, match="not a ddset"):
        reopen(data)
    with pytest.raises(BundleError, match="not a ddset"):
        reopen(safetensors_torch.save({"a": torch.zeros(2)}, {"format": "pt"}))


def test_header_metadata_is_one_key(rich: Bundle) -> None:
    """Two keys would be written in random order by other libraries."""
    data = as_bytes(rich)
    (length,) = struct.unpack("<Q", data[:8])

    assert json.loads(data[8 : 8 + length])["__metadata__"] == {"ddset": "1"}
    assert (8 + length) % header.ALIGNMENT == 0
