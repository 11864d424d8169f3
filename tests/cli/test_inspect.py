"""`inspect`: what it says of bundles, checks, draws and compares."""

from __future__ import annotations

import copy
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle


def test_the_table_says_where_every_byte_goes(run_cli, files) -> None:
    """Sections, codecs, overheads, equivalent ipc and history in one screen."""
    outcome = run_cli("inspect", files.gift)

    assert 0 == outcome.code
    for word in ("distilled", "images", "labels.dense", "q8", "total", "LADD zip", "equivalent ipc", "distill random"):
        assert word in outcome.out
    assert all(len(line) <= 100 for line in outcome.out.splitlines())


def test_feature_labels_say_their_layer_their_bytes_and_the_images_for_them(run_cli, files, tmp_path: Path) -> None:
    """Form, K and codec; what an image's label costs, and plain images for it both ways, from the bytes of the file."""
    path = tmp_path / "f.ddset"
    run_cli(
        "augment-labels", files.base, "--teacher", files.teacher, "--kind", "attention", "--checkpoint", "all",
        "--codec", "f16", "--set", "keep=all", "-o", path,
    )  # fmt: skip
    out = run_cli("inspect", path).out
    sections = Bundle.open(path).manifest.storage["sections"]
    image, label = (sections[name]["stored"] for name in ("images", "labels.attention"))

    assert "attention labels, 1x4x4, K 2" in out
    assert "labels.attention: assigned, spatial attention (avg) of layer 1 of convnet-d1-w8-instance" in out
    assert f"{label / 12:.1f} bytes an image, {label / image:.2f} of its own" in out
    assert f"plain ipc {3 * (image + label) // image} (grow), or ipc {3 * image // (image + label)} with them" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_the_total_is_the_size_of_the_file(run_cli, files) -> None:
    """In the JSON report, for every bundle."""
    paths = (files.teacher, files.base, files.soft, files.dense, files.gift)
    document = json.loads(run_cli("inspect", *paths, "--json").out)

    assert [path.stat().st_size for path in paths] == [
        entry["manifest"]["storage"]["total"] for entry in document["bundles"]
    ]


def test_a_teacher_bundle_carries_a_warning(run_cli, files) -> None:
    """Weights can reveal training data."""
    assert "holds teacher weights" in run_cli("inspect", files.teacher).out


def test_verify_finds_a_flipped_bit(run_cli, files, tmp_path: Path) -> None:
    """Exit 7, naming the tensor; an intact bundle says so."""
    broken = tmp_path / "broken.ddset"
    data = bytearray(files.base.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    intact, damaged, quick = (
        run_cli("inspect", *arguments) for arguments in ([files.base, "--verify"], [broken, "--verify"], [broken])
    )

    assert (0, 7, 0) == (intact.code, damaged.code, quick.code)
    assert "every digest verified" in intact.out
    assert "digest mismatch" in damaged.err


def test_the_grid_shows_the_images_row_by_row(run_cli, files, tmp_path: Path) -> None:
    """Decoded by hand: the first pixel of image (class c, number i) is where it belongs."""
    outcome = run_cli("inspect", files.base, "--grid", tmp_path / "grid.png")
    width, height, rows = _read_png(tmp_path / "grid.png")
    pixels = Bundle.open(files.base).tensor("images.pixels")
    cell = 8 * 8 + 2

    assert 0 == outcome.code, outcome.err
    assert (3 * cell + 2, 4 * cell + 2) == (width, height)
    for label in range(4):
        for index in range(3):
            x, y = 2 + index * cell, 2 + label * cell
            assert bytes(pixels[3 * label + index, :, 0, 0].tolist()) == rows[y][3 * x : 3 * x + 3]


def test_a_pipe_is_answered_from_its_first_kilobytes(files) -> None:
    """The table is there before the tensors are; a pipe that ends early is an error all the same."""
    data = files.teacher.read_bytes()
    command = [sys.executable, "-m", "ddlabel", "inspect", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(data[:4096])
    process.stdin.flush()
    answer = process.stdout.readline().decode()
    _out, err = process.communicate(data[4096:-1], timeout=60)

    assert f"<stdin>: teacher, {Bundle.open(files.teacher).manifest.storage['total'] / 1000:.3g} kB" in answer
    assert 3 == process.returncode
    assert b"was cut off" in err


def test_the_grid_is_not_overwritten_unasked(run_cli, files, tmp_path: Path) -> None:
    """Exit 2 without --force."""
    (tmp_path / "grid.png").write_bytes(b"mine")

    assert 2 == run_cli("inspect", files.base, "--grid", tmp_path / "grid.png").code
    assert b"mine" == (tmp_path / "grid.png").read_bytes()


def test_diff_names_what_changed(run_cli, files) -> None:
    """A refinement changes labels and history, not images."""
    document = json.loads(run_cli("inspect", files.dense, files.gift, "--diff", "--json").out)
    fields = {row["field"] for row in document["diff"]}

    assert {"content", "history", "labels.dense.domain"} <= fields
    assert not any(field.startswith("images") for field in fields)
    assert "hold the same content" in run_cli("inspect", files.base, files.base, "--diff").out


@pytest.mark.fault(62)
def test_control_characters_of_a_hostile_bundle_are_escaped(run_cli, tmp_path: Path, files) -> None:
    """Fault 62: class names never reach the terminal raw."""
    bundle = Bundle.open(files.base)
    from ddlabel.bundle import NewSection, StageRecord

    data = {**(bundle.manifest.data or {}), "classes": ["\x1b[31mred", "b\x07", "c", "d"]}
    sections = [
        NewSection("images", "images", {"images.pixels": bundle.tensor("images.pixels")}, range="uint8"),
        NewSection("labels.hard", "labels", {"labels.hard": bundle.tensor("labels.hard")}, role="hard", views=1),
    ]
    record = StageRecord("distill", {"method": "\x1b]0;x\x07"}, 0, [], {}, 0.0, 0.0, {})
    Bundle.create("distilled", data, record, sections).save(tmp_path / "h.ddset")
    outcome = run_cli("inspect", tmp_path / "h.ddset")

    assert 0 == outcome.code
    assert "\x1b" not in outcome.out
    assert "\x07" not in outcome.out
    assert "\\x1b[31mred" in outcome.out


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("evaluations", [{"accuracy": 0.5}, {"results": [{}]}, {"results": 3}]),
        ("parameters", {"accuracy": "high", "epochs": {}}),
    ],
)
def test_records_of_another_form_are_said_to_be_that(run_cli, files, tmp_path: Path, key: str, free) -> None:
    """Scores and parameters have no schema: what another writer put there stops nothing."""
    bundle = Bundle.open(files.teacher)
    document = copy.deepcopy(dict(bundle.manifest.document))
    if key == "evaluations":
        document[key] = free
    else:
        for section in document["sections"]:
            section[key] = free
    Bundle(type(bundle.manifest)(document), bundle._sources, "x").save(tmp_path / "x.ddset")
    outcome = run_cli("inspect", tmp_path / "x.ddset")

    assert (0, "") == (outcome.code, outcome.err)
    assert (3 if key == "evaluations" else 0) == outcome.out.count("in another form than this ddlabel writes")


@pytest.mark.parametrize("more", [["--diff"], ["--grid", "x.png"]], ids=["diff of one", "grid of two"])
def test_options_that_do_not_fit_the_files(run_cli, files, more: list[str]) -> None:
    """Exit 2."""
    paths = [files.base] if more == ["--diff"] else [files.base, files.soft]

    assert 2 == run_cli("inspect", *paths, *more).code


def _read_png(path: Path) -> tuple[int, int, list[bytes]]:
    data = path.read_bytes()
    chunks, position = {}, 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        chunks[data[position + 4 : position + 8]] = data[position + 8 : position + 8 + length]
        position += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    raw = zlib.decompress(chunks[b"IDAT"])
    line = width * (3 if colour == 2 else 1) + 1
    assert 8 == depth
    return width, height, [raw[row * line + 1 : (row + 1) * line] for row in range(height)]
