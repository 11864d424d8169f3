"""The header parser against files that each break one rule, and against safetensors as the oracle."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from ddlabel import __version__, header
from ddlabel.errors import BundleError
from ddlabel.header import (
    ALIGNMENT,
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    TensorEntry,
    build_header,
    misaligned,
    parse_header,
)

from .forging import case, fault

META = '"__metadata__":{"ddset":"1"}'


def whole(text: str, data: bytes = b"") -> bytes:
    """A file with that header text."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + data


def parse(data: bytes):
    return parse_header(io.BytesIO(data).read, len(data), "x.ddset")


def entry(name: str = "a", dtype: str = "U8", shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def tensors(*entries: str) -> str:
    return "{" + ",".join([META, *entries]) + "}"


GOOD = whole(tensors(entry()), b"abcd")


def test_a_good_header_is_read() -> None:
    """The smallest one."""
    header = parse(GOOD)

    assert {"a": TensorEntry("a", "U8", (4,), 0, 4)} == header.entries
    assert len(GOOD) == header.data_start + header.data_bytes


BROKEN = [
    case(fault(1), "empty file", b"", "0 bytes long"),
    *(case(fault(2), f"{size} bytes", bytes(size), f"{size} bytes long") for size in range(1, 8)),
    case(fault(3), "length zero", bytes(8), "header length is 0"),
    case(fault(4), "length 2^63", (2**63).to_bytes(8, "little") + b"{}", "no .ddset file"),
    case(fault(5), "above the cap", (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "at most"),
    case(fault(6), "length beyond the end", (100).to_bytes(8, "little") + b"{}", "the file ends after 2"),
    case(fault(7), "not UTF-8", whole("\udc80{}"), "not UTF-8"),
    case(fault(8), "broken JSON", whole("{nonsense"), "no JSON"),
    case(fault(8), "an endless text of escapes", whole('{"' + '\\"' * 100_000), "no JSON"),
    case(fault(8), "an endless text that ends with half an escape", whole('{"' + '\\"' * 100_000 + "\\"), "no JSON"),
    case(fault(9), "an array", whole("[1,2]"), "does not start with '{'"),
    case(fault(10), "nesting", whole('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested deeper"),
    case(fault(11), "NaN", whole('{"a":NaN}'), "finite"),
    case(fault(11), "overflow", whole('{"a":1e999}'), "finite"),
    case(fault(12), "a number of 5,000 digits", whole(f'{{"a":{"9" * 5000}}}'), "5000 digits"),
    case(fault(13), "lone surrogate", whole(tensors(entry("\\ud800"))), "surrogate"),
    case(fault(14), "leading space", whole(" " + tensors(entry()), b"abcd"), "does not start"),
    case(fault(14), "byte order mark", whole("\ufeff" + tensors(entry()), b"abcd"), "does not start"),
    case(fault(15), "padding other than spaces", whole(tensors(entry()) + "\n\t", b"abcd"), "other white space"),
    case(fault(15), "padding with zeros", whole(tensors(entry()) + "\0\0", b"abcd"), "no JSON"),
    case(fault(16), "duplicate name, same offsets", whole(tensors(entry(), entry()), b"abcd"), "twice"),
    case(fault(17), "duplicate name", whole(tensors(entry(), entry(offsets="[4,8]")), b"abcdefgh"), "twice"),
    case(fault(18), "duplicate metadata key", whole('{"__metadata__":{"ddset":"1","ddset":"1"}}'), "twice"),
    case(
        fault(19),
        "unknown field",
        whole(tensors('"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}'), b"abcd"),
        "exactly dtype, shape and data_offsets",
    ),
    case(fault(20), "metadata null", whole('{"__metadata__":null}'), "not a ddset"),
    case(fault(20), "metadata value no text", whole('{"__metadata__":{"ddset":1}}'), "not a ddset"),
    case(fault(20), "plain safetensors", whole('{"__metadata__":{"format":"pt"}}'), "but not a ddset"),
    case(fault(20), "version no number", whole('{"__metadata__":{"ddset":"one"}}'), "whole number"),
    case(fault(20), "version null", whole('{"__metadata__":{"ddset":null}}'), "not a ddset"),
    case(fault(20), "version a fraction", whole('{"__metadata__":{"ddset":"1.0"}}'), "whole number"),
    case(fault(20), "version in other digits", whole('{"__metadata__":{"ddset":"\u0661"}}'), "whole number"),
    case(fault(20), "no metadata", whole("{}"), "not a ddset"),
    case(
        fault(58),
        "newer container",
        whole('{"__metadata__":{"ddset":"2"}}'),
        f"needs a ddlabel newer than {__version__}",
    ),
    case(fault(21), "a path as a name", whole(tensors(entry("../x")), b"abcd"), "tensor name '../x'"),
    case(fault(21), "empty name", whole(tensors(entry("")), b"abcd"), "tensor name ''"),
    case(fault(21), "escape codes", whole(tensors(entry("a\\u001b[31m")), b"abcd"), "\\x1b"),
    case(fault(21), "NUL", whole(tensors(entry("a\\u0000b")), b"abcd"), "tensor name 'a\\x00b'"),
    case(fault(21), "newline", whole(tensors(entry("a\\nb")), b"abcd"), "tensor name 'a\\nb'"),
    case(fault(21), "an absolute path", whole(tensors(entry("/etc/passwd")), b"abcd"), "tensor name '/etc/passwd'"),
    case(fault(21), "10 kB of name", whole(tensors(entry("a" * 10_000)), b"abcd"), "tensor name"),
    case(fault(22), "hole at the start", whole(tensors(entry(offsets="[1,5]")), b"abcde"), "a hole"),
    case(fault(22), "hole", whole(tensors(entry(), entry("b", offsets="[5,9]")), b"abcdefghi"), "a hole"),
    case(fault(23), "overlap", whole(tensors(entry(), entry("b", offsets="[3,7]")), b"abcdefg"), "overlaps"),
    case(fault(24), "end before start", whole(tensors(entry(offsets="[4,0]")), b"abcd"), "data_offsets"),
    case(fault(25), "negative offset", whole(tensors(entry(offsets="[-4,0]")), b""), "data_offsets"),
    case(fault(25), "float in the shape", whole(tensors(entry(shape="[4.0]")), b"abcd"), "shape"),
    case(fault(25), "float offset", whole(tensors(entry(offsets="[0.0,4]")), b"abcd"), "data_offsets"),
    case(fault(25), "truth value as an offset", whole(tensors(entry(offsets="[false,4]")), b"abcd"), "data_offsets"),
    case(fault(25), "three offsets", whole(tensors(entry(offsets="[0,4,4]")), b"abcd"), "data_offsets"),
    case(fault(25), "negative shape", whole(tensors(entry(shape="[-4]")), b"abcd"), "shape"),
    case(fault(26), "overflow", whole(tensors(entry(shape=f"[{2**40},{2**40}]")), b"abcd"), "impossible shape"),
    case(
        fault(27),
        "a huge side beside a zero",
        whole(tensors(entry(shape=f"[0,{2**63 - 1},9]", offsets="[0,0]"))),
        "impossible shape",
    ),
    case(
        fault(27),
        "sides that overflow before a zero",
        whole(tensors(entry(shape=f"[{2**31},{2**31},0]", offsets="[0,0]"))),
        "impossible shape",
    ),
    case(
        fault(27),
        "sides that overflow after a zero",
        whole(tensors(entry(shape=f"[0,{2**40},{2**40}]", offsets="[0,0]"))),
        "impossible shape",
    ),
    case(fault(28), "size against shape", whole(tensors(entry(shape="[3]")), b"abcd"), "need 3"),
    case(fault(29), "unknown dtype", whole(tensors(entry(dtype="U7")), b"abcd"), "unknown dtype"),
    case(fault(31), "trailing bytes", GOOD + b"x", "1 bytes follow"),
    case(fault(32), "cut off", GOOD[:-1], "was cut off"),
    case(
        fault(33),
        "misaligned images",
        whole(tensors(entry("a", shape="[1]", offsets="[0,1]"), entry("images.x", "F32", "[1]", "[1,5]")), b"abcde"),
        "not a multiple of its element size",
    ),
]
"""Files and what is said of them."""


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_one_broken_rule_is_one_named_error(data: bytes, message: str) -> None:
    """Every violation is a BundleError that names the file, before anything of a megabyte is allocated."""
    tracemalloc.start()
    with pytest.raises(BundleError) as caught:
        parse(data)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert str(caught.value).startswith("x.ddset: ")
    assert message in str(caught.value)
    assert peak < 2**20


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_the_command_line_refuses_with_one_printable_line(run_cli, tmp_path: Path, data: bytes, message: str) -> None:
    """Exit 3, file named, no traceback, no control character; as JSON too. The file is left as it is."""
    path = tmp_path / "x.ddset"
    path.write_bytes(data)
    plain, machine = run_cli("inspect", path), run_cli("inspect", path, "--json")
    error = json.loads(machine.out)["error"]

    assert (3, 3, 3) == (plain.code, machine.code, error["code"])
    assert plain.err.startswith(f"error: {path}: ")
    assert plain.err.endswith("\n")
    assert plain.err[:-1].isprintable()
    assert "" == plain.out
    assert message in error["message"] + f"; {error['hint']}"
    assert error["field"]
    assert data == path.read_bytes()


@pytest.mark.fault(4, 5, 6)
@pytest.mark.parametrize("length", [2**63, MAX_HEADER_BYTES + 1, MAX_HEADER_BYTES], ids=["2^63", "too long", "a lie"])
def test_a_pipe_that_lies_about_its_header_costs_no_memory(length: int) -> None:
    """Its end is not known in advance: what is announced is not allocated."""
    tracemalloc.start()
    with pytest.raises(BundleError, match="header"):
        parse_header(io.BytesIO(length.to_bytes(8, "little") + b"{}").read, None, "<stdin>")
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**20


@pytest.mark.fault(35)
def test_100_000_tensors_are_above_the_limit(monkeypatch: pytest.MonkeyPatch, refuses) -> None:
    """The number that is allowed is named; as many as that are read."""
    empty = '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    data = whole("{" + META + "".join(f',"t{index}{empty}' for index in range(100_000)) + "}")
    with pytest.raises(BundleError, match="100000 tensors, expected at most 65536"):
        parse(data)
    two = whole(tensors(f'"a{empty}', f'"b{empty}'))
    for limit in (2, 1):
        monkeypatch.setattr(header, "MAX_TENSORS", limit)
        if limit == 2:
            assert {"a", "b"} == set(parse(two).entries)
        else:
            refuses(two, "2 tensors, expected at most 1")


@pytest.mark.fault(33)
def test_fault_33_a_misaligned_tensor_elsewhere_is_only_reported() -> None:
    """Foreign tensors are kept as they are."""
    data = whole(tensors(entry("a", shape="[1]", offsets="[0,1]"), entry("b", "F32", "[1]", "[1,5]")), b"abcde")

    assert misaligned(parse(data).entries["b"])


@pytest.mark.fault(36)
def test_fault_36_empty_and_scalar_tensors_are_fine() -> None:
    """Zero elements, and rank 0."""
    text = tensors(entry("a", shape="[0,5]", offsets="[0,0]"), entry("b", "F32", "[]", "[0,4]"))

    assert {"a", "b"} == set(parse(whole(text, bytes(4))).entries)


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
whole_bytes = [name for name, bits in DTYPE_BITS.items() if bits % 8 == 0 and name != "F8_E8M0"]


@given(st.lists(st.tuples(st.sampled_from(whole_bytes), shapes), max_size=6))
@settings(max_examples=100, deadline=None)
def test_what_is_built_is_aligned_and_read_alike_by_safetensors(specs) -> None:
    """Differential test: our layout is a valid safetensors file with the same names, dtypes and shapes."""
    sizes = []
    for index, (dtype, shape) in enumerate(specs):
        count = 1
        for side in shape:
            count *= side
        sizes.append((f"t.{index}", dtype, shape, count * DTYPE_BITS[dtype] // 8))
    header, entries = build_header(sizes)
    data = header + bytes(entries[-1].end if entries else 0)
    parsed = parse(data)
    theirs = safetensors.torch.load(data)

    assert 0 == parsed.data_start % ALIGNMENT
    assert all(item.start % ALIGNMENT == 0 for item in entries if not item.name.startswith("pad."))
    assert {name: entry.shape for name, entry in parsed.entries.items()} == {
        name: tuple(tensor.shape) for name, tensor in theirs.items()
    }


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_what_our_parser_accepts_safetensors_accepts(data) -> None:
    """Random mutations of a good file: a BundleError, or the same reading by both."""
    broken = bytearray(whole(tensors(entry(), entry("b", "F32", "[2]", "[4,12]")) + "   ", bytes(12)))
    for _change in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        ours = parse(bytes(broken))
    except BundleError:
        return
    try:
        theirs = safetensors.torch.load(bytes(broken))
    except SafetensorError as error:
        pytest.fail(f"safetensors refuses what we accept: {error}")
    assert set(ours.entries) == set(theirs)


def test_the_header_is_compact_json_with_one_metadata_key() -> None:
    """Two keys would make safetensors writers differ from run to run."""
    header, _entries = build_header([("a", "U8", (1,), 1)])
    document = json.loads(header[8:])

    assert {"ddset": "1"} == document["__metadata__"]
