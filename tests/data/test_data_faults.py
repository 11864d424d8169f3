"""Data sets that are damaged, hostile, unreadable, or change while they are read: exit 4 with the path."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddlabel.data import _decoded, _listing, npz
from ddlabel.data._dataset import load
from ddlabel.data._images import Picture, decode
from ddlabel.errors import DataError
from ddlabel.events import Event

from .conftest import write_pictures, write_tar

NOBODY = 65_534


def colours(side: int = 8) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(3)).integers(0, 256, (side, side, 3)).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def small(tmp_path: Path, cache: Path) -> Path:
    """Two classes of two training pictures and one test picture, to be changed."""
    return write_pictures(tmp_path / "set", classes=2, train=2, test=1)


@pytest.mark.fault(75)
@pytest.mark.parametrize("name", ["gone", "set/train/class0/0.png/below", "x" * 300, "a\0b"])
def test_names_that_lead_nowhere(small: Path, name: str) -> None:
    """Below a file, too long for the system, with a zero byte."""
    with pytest.raises(DataError, match=r"no such folder|File name too long|not a readable tar"):
        load(f"folder:{small.parent / name}")


@pytest.mark.fault(76)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_class_folders(small: Path, split: str) -> None:
    """Pictures beside the class folders are no class; the split is named."""
    for folder in (small / split).iterdir():
        for file in folder.iterdir():
            file.rename(small / split / f"{folder.name}{file.name}")
        folder.rmdir()
    with pytest.raises(DataError, match=rf"{split}: no class folders, expected one folder of images per class"):
        load(f"folder:{small}")


@pytest.mark.fault(77)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_pictures(small: Path, split: str) -> None:
    """Empty, or with other files only."""
    folder = small / split / "class0"
    for file in folder.iterdir():
        file.rename(folder / f"{file.name}.txt")
    with pytest.raises(DataError, match=rf"{split}/class0: no images, expected at least one"):
        load(f"folder:{small}")


KINDS = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm")


@pytest.mark.fault(78)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures_are_decoded_or_named(kind: str) -> None:
    """Cut anywhere, bytes changed anywhere: no error but DataError, whatever Pillow makes of it."""
    source, whole = random.Random(kind), encoded(Image.fromarray(colours()), kind)
    refused = 0
    for number in range(150):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[source.randrange(len(data)) :]
        for _change in range(number % 5):
            if data:
                data[source.randrange(min(len(data), source.choice([32, 256, len(data)])))] = source.choice([0, 255, 1])
        try:
            assert decode(Picture("x", bytes(data)), None).ndim == 3
        except DataError as error:
            assert str(error).startswith("x: ")
            refused += 1

    assert 0 < refused < 150
    assert decode(Picture("x", whole), None).shape[1:] == (8, 8)


@pytest.mark.fault(78)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "png"])
def test_pictures_of_another_kind_than_their_name_says_are_what_they_are(small: Path, kind: str) -> None:
    """A JPEG called .png is a JPEG, as a browser sees it: its pixels, not a DataError and not something else."""
    data = encoded(Image.fromarray(colours()), kind)
    with Image.open(io.BytesIO(data)) as plain:
        assert plain.format != "PNG"
        expected = np.asarray(plain.convert("RGB"))
    (small / "train" / "class0" / "0.png").write_bytes(data)

    assert np.array_equal(expected.transpose(2, 0, 1), decode(Picture("0.png", data), None))
    assert len(load(f"folder:{small}", size=8, validation=0).train) == 4


@pytest.mark.fault(79)
def test_modes_become_what_the_rules_say() -> None:
    """Palette and CMYK their colours, half-transparent black on white its grey, and one bit black and white."""
    rgb = colours()
    palette = Image.fromarray(rgb).quantize(16)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    half = np.zeros((8, 8, 4), np.uint8)
    half[..., 3] = 128

    def of(image: Image.Image, kind: str) -> np.ndarray:
        return decode(Picture("x", encoded(image, kind)), None)

    assert np.array_equal(np.asarray(palette.convert("RGB")).transpose(2, 0, 1), of(palette, "png"))
    assert np.array_equal(np.asarray(cmyk.convert("RGB")).transpose(2, 0, 1), of(cmyk, "tiff"))
    assert {127} == set(of(Image.fromarray(half), "png").reshape(-1).tolist())
    assert {0, 255} == set(of(Image.fromarray(rgb[..., 0]).convert("1"), "png").reshape(-1).tolist())


def png_of_16_bits() -> bytes:
    """A PNG with 16 bits a colour, which Pillow reads but does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + bytes(range(48)) for _row in range(8))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.fault(79)
@pytest.mark.parametrize("kind", ["colours", "grey", "floats"])
def test_pictures_of_more_than_8_bits_are_refused(small: Path, kind: str) -> None:
    """Colours too, which Pillow would cut to 8 bits without a word."""
    made = {
        "colours": png_of_16_bits,
        "grey": lambda: encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "png"),
        "floats": lambda: encoded(Image.fromarray(np.ones((8, 8), np.float32)), "tiff"),
    }
    (small / "train" / "class0" / "0.png").write_bytes(made[kind]())
    with pytest.raises(DataError, match=r"class0/0\.png: mode .* of 16 bits or more, expected 8 bits a channel"):
        load(f"folder:{small}")


@pytest.mark.fault(80)
def test_mixed_sizes_in_a_tar_file_name_both_members(small: Path, tmp_path: Path) -> None:
    """As in folders."""
    (small / "test" / "class1" / "0.png").write_bytes(encoded(Image.fromarray(colours(9)), "png"))
    with pytest.raises(DataError, match=r"test/class1/0\.png is 9 x 9, .*train/class0/0\.png is 8 x 8.*use --size"):
        load(f"folder:{write_tar(small, tmp_path / 'x.tar')}")


@pytest.mark.fault(81)
@pytest.mark.parametrize("side", [9_460, 65_000, 2**31 - 1])
def test_a_header_that_claims_a_huge_picture(side: int) -> None:
    """Just above the limit and far above it; nothing of that size is reserved."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(DataError, match=r"^x: (more than 89478485 pixels|\d+ x \d+ pixels, expected at most)"):
        decode(Picture("x", data), 8)


@pytest.mark.fault(82)
@pytest.mark.parametrize("place", ["train", "train/class0", "train/class0/0.png"])
@pytest.mark.parametrize("target", ["outside", "circle", "nowhere"])
def test_links_out_of_the_set_are_refused_at_every_level(small: Path, tmp_path: Path, place: str, target: str) -> None:
    """The split, a class, a picture; also those that lead in circles or nowhere."""
    link, moved = small / place, tmp_path / "outside"
    link.rename(moved)
    link.symlink_to({"outside": moved, "circle": link, "nowhere": tmp_path / "none"}[target])
    with pytest.raises(DataError, match=rf"{place}: (a symbolic link|no such folder)") as caught:
        load(f"folder:{small}")

    assert str(link) in str(caught.value)


@pytest.mark.fault(82)
def test_links_inside_the_set_are_followed(small: Path) -> None:
    """A class by another name."""
    (small / "train" / "class0").rename(small / "real")
    (small / "train" / "class0").symlink_to(small / "real")

    assert 4 == len(load(f"folder:{small}", validation=0).train)


@pytest.mark.fault(83)
def test_strange_names_are_shown_so_that_they_can_be_printed(small: Path, run_cli, tmp_path: Path) -> None:
    """Escape codes, newlines and bytes that are no UTF-8, in the message of the command line."""
    folder = os.fsencode(small / "train" / "class0")
    Path(os.fsdecode(folder + b"/\xff\x1b[31m\n.png")).write_bytes(b"no picture")
    outcome = run_cli(
        "distill", "--data", f"folder:{small}", "--method", "random", "--ipc", "1", "-o", tmp_path / "x.ddset"
    )

    assert 4 == outcome.code
    assert "\\xff" in outcome.err
    assert "\x1b" not in outcome.err
    assert 1 == len([line for line in outcome.err.splitlines() if "not a readable picture" in line])


def at_the_first(change: Callable[[], object]) -> Callable[[Event], None]:
    """Does something once, when the first picture was read."""
    changes = iter([change])

    def on_event(event: Event) -> None:
        if event.phase == "decoding images":
            next(changes, lambda: None)()

    return on_event


@pytest.mark.fault(84)
@pytest.mark.parametrize("what", ["rewritten", "added", "removed after it was read", "tar", "npz"])
def test_a_set_that_changes_while_it_is_read(
    small: Path, tmp_path: Path, cache: Path, stored: Callable[[int], None], what: str
) -> None:
    """It would be a mixture that nobody could make again: refused, and nothing of it is kept; then it is read anew."""
    first, last = small / "train" / "class0" / "0.png", small / "test" / "class1" / "0.png"
    changes: dict[str, Callable[[], object]] = {
        "rewritten": lambda: last.write_bytes(encoded(Image.fromarray(colours()), "png")),
        "added": lambda: (small / "train" / "class0" / "7.png").write_bytes(first.read_bytes()),
        "removed after it was read": first.unlink,
        "tar": lambda: os.utime(tmp_path / "x.tar", (1, 1)),
        "npz": lambda: os.utime(tmp_path / "x.npz", (1, 1)),
    }
    data = f"folder:{write_tar(small, tmp_path / 'x.tar') if what == 'tar' else small}"
    if what == "npz":
        images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 0, 1, 1])
        np.savez(
            tmp_path / "x.npz", train_images=images, train_labels=labels, test_images=images + 1, test_labels=labels
        )
        data = f"npz:{tmp_path / 'x.npz'}"
    with pytest.raises(DataError, match=r": changed while it was read; run again when it is complete"):
        load(data, on_event=at_the_first(changes[what]))
    left = list(cache.iterdir())

    assert [] == left
    assert 1 < len(load(data).train)


@pytest.mark.fault(84)
def test_a_tar_file_that_is_cut_while_it_is_read(small: Path, tmp_path: Path) -> None:
    """The member that is no more is named."""
    path = write_tar(small, tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"train/class0/1\.png: not a readable picture \(0 bytes\)"):
        load(f"folder:{path}", on_event=at_the_first(lambda: os.truncate(path, 3000)))


@pytest.mark.fault(84)
def test_a_folder_that_vanishes_while_it_is_listed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at its files and the look into it."""
    listed = _listing._walk_class

    def late(root: Path, split: str, label: Path) -> Iterator[_listing.Entry]:
        for file in label.iterdir():
            file.unlink()
        label.rmdir()
        return listed(root, split, label)

    monkeypatch.setattr(_listing, "_walk_class", late)
    with pytest.raises(DataError, match=r"train/class0: cannot be read \(No such file or directory\)"):
        load(f"folder:{small}")


@pytest.fixture
def somebody() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Lets somebody be at work who is not root and may not read everything."""

    @contextlib.contextmanager
    def at_work() -> Iterator[None]:
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return at_work


@pytest.mark.fault(85)
@pytest.mark.parametrize("place", ["train/class0/1.png", "train/class0", "test", "", "x.npz", "x.tar"])
def test_what_may_not_be_read_is_named(
    place: str, somebody: Callable[[], contextlib.AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture, a class, a split, the whole set, a file of arrays, an archive."""
    with tempfile.TemporaryDirectory() as outside:
        home = Path(outside)
        home.chmod(0o755)
        monkeypatch.setenv("DDLABEL_CACHE_DIR", str(home / "cache"))
        root = write_pictures(home / "set", classes=2, train=2, test=1)
        data, locked = f"folder:{root}", root / place
        if place.startswith("x"):
            locked = home / place
            locked.write_bytes(b"")
            data = f"{'npz' if place == 'x.npz' else 'folder'}:{locked}"
        locked.chmod(0)
        with somebody(), pytest.raises(DataError, match=r"Permission denied|cannot be read") as caught:
            load(data)
        locked.chmod(0o755)

        assert 4 == caught.value.exit_code
        assert str(locked) in str(caught.value)


@pytest.mark.fault(85)
def test_a_picture_that_is_no_file_keeps_nobody_waiting(small: Path) -> None:
    """A pipe, a folder and a file of terabytes, all called .png."""
    odd = small / "train" / "class0" / "odd.png"
    for make, remove, message in (
        (os.mkfifo, os.unlink, "no regular file, expected a picture"),
        (os.mkdir, os.rmdir, r"cannot be read \(Is a directory\)"),
        (
            lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40),
            os.unlink,
            "has 1099511627776 bytes",
        ),
    ):
        make(odd)
        with pytest.raises(DataError, match=rf"odd\.png: {message}"):
            load(f"folder:{small}")
        remove(odd)


@pytest.mark.fault(86)
def test_shared_images_are_counted_whatever_their_files(small: Path, run_cli, tmp_path: Path) -> None:
    """By their pixels: in another format, in another class, twice; the run goes on and says how many."""
    picture = Image.open(small / "train" / "class0" / "0.png")
    for name in ("a.bmp", "b.bmp"):
        (small / "test" / "class1" / name).write_bytes(encoded(picture, "bmp"))
    outcome = run_cli(
        "distill", "--data", f"folder:{small}", "--method", "random", "--ipc", "1", "-o", tmp_path / "x.ddset"
    )

    assert 0 == outcome.code
    assert "warning: 2 test images are also training images; test accuracies are too high" in outcome.err


def arrays(path: Path) -> Path:
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 0, 1, 1])
    np.savez(path, train_images=images, train_labels=labels, test_images=images + 1, test_labels=labels)
    return path


def with_member(path: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """The file with other bytes in one member."""
    with zipfile.ZipFile(arrays(path)) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in members.items():
            archive.writestr(each, change(data) if each == name else data)
    return path


@pytest.mark.fault(87)
@pytest.mark.parametrize("limit", [0, 2**20], ids=["streamed", "in memory"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(b"(4, 8, 8, 3), }" + b" " * 12, b"(4000000000, 80, 80, 3), } "), "4000000000"),
        (lambda data: data[:-10], "claims uint8|not a readable"),
        (lambda data: data + bytes(2**21), r"member 'train_images\.npy' says it holds 209"),
        (lambda _data: b"", "holds Python objects or a damaged array"),
    ],
    ids=["a claim of terabytes", "cut", "a bomb", "nothing"],
)  # fmt: skip
def test_arrays_that_are_not_as_long_as_they_say(
    tmp_path: Path,
    stored: Callable[[int], None],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[bytes], bytes],
    message: str,
    limit: int,
) -> None:
    """Nothing is reserved for a claim."""
    monkeypatch.setattr(npz, "RATIO_FREE_BYTES", 2**20)
    stored(limit)
    path = with_member(tmp_path / "x.npz", "train_images.npy", change)
    with pytest.raises(DataError, match=message):
        load(f"npz:{path}")


@pytest.mark.fault(87)
@pytest.mark.parametrize(("place", "value"), [(6, 1), (8, 99)], ids=["encrypted", "compressed by an unknown way"])
def test_archives_that_python_cannot_read(tmp_path: Path, place: int, value: int) -> None:
    """Refused by name, not by a traceback; the other copy of the header says the same."""
    data = bytearray(arrays(tmp_path / "x.npz").read_bytes())
    for start in (data.find(b"PK\3\4"), data.find(b"PK\1\2") + 2):
        data[start + place] = value
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.npz: not a readable \.npz file"):
        load(f"npz:{tmp_path / 'x.npz'}")


@pytest.mark.fault(87)
def test_a_single_array_is_no_set_of_arrays(tmp_path: Path) -> None:
    """`np.save` instead of `np.savez`, called .npz; and a pickle."""
    for data in (b"\x93NUMPY\1\0" + bytes(100), b"\x80\4K\1."):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(DataError, match=r"x\.npz: not a readable \.npz file"):
            load(f"npz:{tmp_path / 'x.npz'}")


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in values.items():
        setattr(made, key, value)
    return made


@pytest.mark.fault(88)
@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (member("train/class0/../../../x.png"), "points outside the archive"),
        (member("train/class0/x.png", tarfile.LNKTYPE, linkname="train/class0/0.png"), "is a link or device"),
        (member("train/class0/x.png", tarfile.FIFOTYPE), "is a link or device"),
        (member("train/class0/x.png", tarfile.BLKTYPE), "is a link or device"),
        (member("train/class0/x.png", pax_headers={"path": "/etc/x.png"}), "points outside the archive"),
        (member("train/class0/x.png", size=2**40), r"has 1099511627776 bytes"),
        (member("train/class0/x.png", size=-1024), r"has -\d+ bytes|not a readable tar"),
        (member("train/class0/x.png", size=100), r"not a readable tar file \(unexpected end of data\)"),
        (member("./train/class0/0.png"), "occurs twice"),
    ],
    ids=["dots inside", "hard link", "FIFO", "device", "pax path", "too large", "negative", "cut off", "twice"],
)
def test_archives_that_lie(small: Path, tmp_path: Path, hostile: tarfile.TarInfo, message: str) -> None:
    """The member is named; nothing is extracted, and no pass over the headers is endless."""
    path = write_tar(small, tmp_path / "x.tar")
    with tarfile.open(path, "r:") as archive:
        end = archive.getmembers()[-1]
    data = path.read_bytes()[: end.offset_data + 512 * -(-end.size // 512)]
    header = hostile.tobuf(tarfile.PAX_FORMAT if hostile.pax_headers else tarfile.GNU_FORMAT)
    path.write_bytes(data + header + bytes(1024 if hostile.size != 100 else 0))
    with pytest.raises(DataError, match=message):
        load(f"folder:{path}")

    assert {"set", "x.tar"} >= {item.name for item in tmp_path.iterdir()} - {"cache"}


@pytest.mark.fault(88)
def test_damaged_archives_are_listed_or_named(small: Path, tmp_path: Path) -> None:
    """Bytes changed anywhere, checksums of the headers made good again: no error but DataError."""
    whole, source, refused = write_tar(small, tmp_path / "x.tar").read_bytes(), random.Random(5), 0
    for _number in range(150):
        data = bytearray(whole)
        for _change in range(source.choice([1, 3, 10])):
            data[source.randrange(len(data))] = source.choice([0, 255, 0x80, 0x39])
        for start in range(0, len(data) - 511, 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        (tmp_path / "x.tar").write_bytes(data)
        try:
            _listing.list_pictures([tmp_path / "x.tar"])
        except DataError as error:
            assert "x.tar: " in str(error)
            refused += 1

    assert 0 < refused < 150


@pytest.mark.fault(89)
def test_the_order_of_a_folder_does_not_matter(small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order the file system gives names in: the same images in the same order, the same fingerprint."""
    forward = load(f"folder:{small}", validation=0)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: object = ".") -> None:
            with scandir(path) as items:
                self._items = iter(sorted(items, key=lambda item: item.name, reverse=True))

        def __enter__(self) -> Iterator[os.DirEntry]:
            return self._items

        def __exit__(self, *_error: object) -> None:
            return

        __iter__ = __enter__

        def __next__(self) -> os.DirEntry:
            return next(self._items)

    names = os.listdir
    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(names(path), reverse=True))
    monkeypatch.setattr(_decoded, "cache_folder", lambda: None)
    backward = load(f"folder:{small}", validation=0)

    assert forward.fingerprint == backward.fingerprint
    assert torch.equal(forward.train.pixels[:], backward.train.pixels[:])
