"""Decoded sets on disk: the same data set as in memory, whole or not there, continued after a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddlabel.data import _cache, _decoded, _pixel_writer
from ddlabel.data._dataset import Dataset, load
from ddlabel.data._pixel_file import open_pixels
from ddlabel.data._stored_pixels import StoredPixels
from ddlabel.errors import DataError, InterruptedRunError, ResourceError
from ddlabel.events import Event

from .conftest import write_pictures, write_tar

Limit = Callable[[int], None]


def spec(path: Path) -> str:
    return f"folder:{path}"


def same(one: Dataset, other: Dataset) -> None:
    """Every number of two data sets, and which images are where; a tar file may have another name."""
    assert replace(one.info, name="") == replace(other.info, name="")
    assert one.fingerprint == other.fingerprint
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.pixels[:], theirs.pixels[:])


def load_stored(path: Path | str, **options) -> Dataset:
    dataset = load(path if isinstance(path, str) else spec(path), **options)

    assert all(isinstance(getattr(dataset, part).pixels, StoredPixels) for part in ("train", "validation", "test"))
    return dataset


@pytest.mark.parametrize("grey", [0, 2, 6], ids=["colour", "mixed", "grey"])
def test_a_set_on_disk_is_the_set_in_memory(
    grey: int, tmp_path: Path, cache: Path, stored: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder and tar, colour, mixed and grey, resized or not; decoded here or by a run with another limit."""
    monkeypatch.setattr(_pixel_writer, "PENDING_BYTES", 500)
    root = write_pictures(tmp_path / "set", grey=grey)
    archive = write_tar(root, tmp_path / "set2.tar")
    stored(2**30)
    whole = load(spec(root))
    stored(0)
    other = load_stored(archive)
    same(whole, other)
    same(whole, load_stored(root))
    stored(2**30)
    same(whole, load(spec(archive)))

    assert isinstance(whole.train.pixels, torch.Tensor)
    assert (1 if grey == 6 else 3) == whole.info.channels
    assert [] == leftovers(cache)


def leftovers(cache: Path) -> list[str]:
    return [file.name for file in cache.iterdir() if not file.name.endswith(".pixels")]


def test_the_second_start_reads_no_image(pictures: Path, cache: Path, stored: Limit) -> None:
    """Statistics, splits and fingerprint come from the end of the file: all images may be gone."""
    first = load_stored(pictures)
    (file,) = cache.iterdir()
    contents = open_pixels(file)
    data = bytearray(file.read_bytes())
    data[4096 : 4096 + 24 * 192] = bytes(24 * 192)
    file.write_bytes(data)
    second = load_stored(pictures)

    assert contents is not None
    assert (first.info, first.fingerprint) == (second.info, second.fingerprint)
    with pytest.raises(DataError, match=r"\.pixels: decoded image \d+ is not what was written"):
        second.train.pixels[0]


@pytest.mark.parametrize("cut", [1, 100, 4000], ids=["digest", "labels", "images"])
def test_a_cut_or_vanished_file_is_made_again(pictures: Path, cache: Path, stored: Limit, cut: int) -> None:
    """It is believed only when its end is whole."""
    first = load_stored(pictures)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    same(first, load_stored(pictures))
    file.unlink()
    same(first, load_stored(pictures))


@pytest.mark.parametrize("byte", [3, 30, -33, -1], ids=["magic", "header", "notes", "sha256"])
def test_a_flipped_byte_beside_the_images_is_noticed(pictures: Path, cache: Path, stored: Limit, byte: int) -> None:
    """In the header and at the end."""
    first = load_stored(pictures)
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)

    assert open_pixels(file) is None
    same(first, load_stored(pictures))


def stop_after(count: int) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if event.phase == "decoding images" and event.done >= count:
            raise InterruptedRunError("stopped")

    return on_event


@pytest.mark.parametrize(
    ("grey", "damage"), [(0, None), (2, None), (0, "image"), (0, "digest"), (0, "header"), (0, "longer")]
)
def test_a_stopped_run_is_continued(
    grey: int, damage: str | None, tmp_path: Path, cache: Path, stored: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are whole are kept, from the first one that is not they are decoded again."""
    monkeypatch.setattr(_decoded, "REPORT_EVERY", 1)
    root = write_pictures(tmp_path / "set", grey=grey)
    with pytest.raises(InterruptedRunError):
        load(spec(root), on_event=stop_after(9))
    (partial, log) = sorted(cache.iterdir())
    for file, place in ((partial, 4096 + 5 * 192), (log, 5 * 12 + 3), (partial, 0)):
        if damage == {4096 + 5 * 192: "image", 63: "digest", 0: "header"}[place]:
            data = bytearray(file.read_bytes())
            data[place] ^= 1
            file.write_bytes(data)
    if damage == "longer":
        partial.write_bytes(partial.read_bytes() + b"x" * 300)
    decoded: list[int] = []
    continued = load_stored(
        root, on_event=lambda event: decoded.append(event.done) if event.phase == "decoding images" else None
    )
    shutil.rmtree(cache)

    assert {None: 10, "longer": 10, "image": 5, "digest": 5, "header": 0}[damage] == decoded[0]
    same(load_stored(root), continued)


KILLED = """
import os, signal, sys
from ddlabel.data import _decoded, _pixel_writer
from ddlabel.data._dataset import load
_decoded.REPORT_EVERY, _pixel_writer.PENDING_BYTES = 1, 400
def on_event(event):
    if event.phase == "decoding images" and event.done == 12:
        os.kill(os.getpid(), signal.SIGKILL)
load(sys.argv[1], on_event=on_event)
"""


@pytest.mark.slow
def test_a_killed_run_is_continued_where_its_last_write_ended(
    pictures: Path, cache: Path, stored: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL: what was not written is decoded again, and the lock is gone with the process."""
    monkeypatch.setattr(_decoded, "REPORT_EVERY", 1)
    process = subprocess.run([sys.executable, "-c", KILLED, spec(pictures)], env=dict(os.environ))
    decoded: list[int] = []
    continued = load_stored(
        pictures, on_event=lambda event: decoded.append(event.done) if event.phase == "decoding images" else None
    )
    shutil.rmtree(cache)

    assert -signal.SIGKILL == process.returncode
    assert 12 == decoded[0]
    same(load_stored(pictures), continued)


def test_a_run_waits_for_one_that_decodes_the_same(
    pictures: Path, cache: Path, stored: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so, once."""
    monkeypatch.setattr(_decoded, "WAIT_S", 0.0)
    load(spec(pictures))
    (file,) = cache.iterdir()
    held = cache / f".{file.name}.partial"
    file.rename(cache / "kept")
    other = os.open(held, os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    waited: list[str | None] = []

    def on_event(event: Event) -> None:
        if event.phase == "waiting":
            waited.append(event.message)
            if len(waited) == 3:
                (cache / "kept").rename(file)
                os.close(other)

    load_stored(pictures, on_event=on_event)

    assert ["another run is decoding the same images, waiting for it", None, None] == waited
    assert [file] == list(cache.iterdir())


def test_without_a_folder_to_write_a_large_set_is_refused(
    pictures: Path, tmp_path: Path, stored: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No home, or a file in the way: exit 6, with advice; a set that fits does without."""
    for name in ("DDLABEL_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ResourceError, match=r"4,608 bytes, more than the 0 .*no home folder.*DDLABEL_CACHE_DIR"):
        load(spec(pictures))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDLABEL_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match=r"file: .*name another cache folder"):
        load(spec(pictures))
    stored(4608)

    assert isinstance(load(spec(pictures)).train.pixels, torch.Tensor)


def test_grey_and_mixed_sets_are_the_same_without_a_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded into memory."""
    for grey in (2, 6):
        root = write_pictures(tmp_path / str(grey), grey=grey)
        through = load(spec(root))
        with monkeypatch.context() as patch:
            patch.setattr(_decoded, "cache_folder", lambda: None)
            same(through, load(spec(root)))


def test_a_disk_without_room_is_refused_before_anything_is_decoded(
    pictures: Path, cache: Path, stored: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Need and free space are said; nothing is left behind."""
    monkeypatch.setattr(_pixel_writer.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match=r"take 9,472 bytes of disk .*1,000 are free; .*DDLABEL_CACHE_DIR"):
        load(spec(pictures))

    assert [] == list(cache.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(
    pictures: Path, cache: Path, stored: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResourceError of a set that does not fit in memory; a set that fits goes on without the cache."""

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_pixel_writer.os, "pwrite", lambda *_arguments: 0)
    with pytest.raises(ResourceError, match="the system wrote nothing"):
        load(spec(pictures))
    monkeypatch.setattr(_pixel_writer.os, "pwrite", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        load(spec(pictures))
    assert [] == list(cache.iterdir())
    stored(2**20)
    messages: list[str] = []
    dataset = load(spec(pictures), on_event=lambda event: messages.append(event.message or ""))

    assert any("not cached" in message for message in messages)
    assert isinstance(dataset.train.pixels, torch.Tensor)
    assert [] == list(cache.iterdir())


def test_a_bad_picture_leaves_nothing_unfinished(tmp_path: Path, cache: Path, stored: Limit) -> None:
    """Repairing it makes another set, so that what was decoded could never be used."""
    root = write_pictures(tmp_path / "set")
    (root / "test" / "class2" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a readable picture"):
        load(spec(root))

    assert [] == list(cache.iterdir())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(9, 8, 8), (9, 8, 8, 3)], ids=["grey", "colour"])
def test_arrays_of_an_npz_file_are_read_a_few_at_a_time(
    save: Callable[..., None], shape: tuple[int, ...], tmp_path: Path, cache: Path, stored: Limit
) -> None:
    """Compressed or not: as in memory."""
    source = np.random.Generator(np.random.PCG64(0))
    images = source.integers(0, 256, shape).astype(np.uint8)
    labels = np.arange(9) % 3
    save(
        tmp_path / "x.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:5] // 2,
        test_labels=labels[:5],
    )
    data = f"npz:{tmp_path / 'x.npz'}"
    on_disk = load_stored(data)
    stored(2**20)
    same(load(data), on_disk)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_images": np.zeros((6, 8, 8, 3), np.float32)}, DataError, "expected uint8"),
        ({"train_labels": np.array([0, 0, 0, 1, 1])}, DataError, "6 train_images, 5 train_labels"),
        ({"test_images": np.zeros((4, 9, 9, 3), np.uint8)}, DataError, "test images differ"),
        ({"train_images": np.asfortranarray(np.zeros((6, 8, 8, 3), np.uint8))}, ResourceError, "stored by columns"),
        (
            {"train_images": np.zeros((0, 8, 8, 3), np.uint8), "train_labels": np.zeros(0, int)},
            DataError,
            "no training",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arrays_are_refused_as_in_memory(
    changes: dict, error: type[Exception], message: str, tmp_path: Path, cache: Path, stored: Limit
) -> None:
    """Before anything is decoded."""
    good = {"train_images": np.zeros((6, 8, 8, 3), np.uint8), "train_labels": np.array([0, 0, 0, 1, 1, 1]),
            "test_images": np.zeros((4, 8, 8, 3), np.uint8), "test_labels": np.array([0, 0, 1, 1])}  # fmt: skip
    np.savez(tmp_path / "x.npz", **good | changes)
    with pytest.raises(error, match=message):
        load(f"npz:{tmp_path / 'x.npz'}")

    assert _cache.cache_folder() == cache
    assert not cache.exists()


def test_what_killed_runs_left_of_other_sets_goes_after_a_week(pictures: Path, cache: Path, stored: Limit) -> None:
    """Not before, because somebody may continue it."""
    cache.mkdir()
    for name, age in (("old", 8), ("new", 6)):
        for file in (cache / f".{name}.pixels.partial", cache / f".{name}.pixels.partial.digests"):
            file.write_bytes(b"")
            os.utime(file, (time.time() - age * 86_400,) * 2)
    load(spec(pictures))

    assert [".new.pixels.partial", ".new.pixels.partial.digests"] == sorted(leftovers(cache))
