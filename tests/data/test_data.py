"""Data sources: round trips between them, and faults 75 to 89, each with a picture or archive that shows it."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddlabel import _plugins
from ddlabel.data import _cache
from ddlabel.data._dataset import load, statistics
from ddlabel.errors import DataError, DdlabelError, UsageError
from ddlabel.events import Event

CLASSES = ("ant", "bee")


def picture(seed: int, side: int = 8) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (side, side, 3)).astype(np.uint8)


def png(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png", **options)
    return stream.getvalue()


def tree(root: Path, *, test: str = "test", side: int = 8) -> Path:
    """Two classes of three training and two test pictures."""
    for split, count, first in (("train", 3, 0), (test, 2, 50)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(png(picture(first + 10 * label + index, side)))
    return root


def archive(root: Path, path: Path, splits: tuple[str, ...] = ("train", "test"), *, reverse: bool = False) -> Path:
    files = [file for split in splits for file in sorted((root / split).rglob("*.png"))]
    with tarfile.open(path, "w") as tar:
        for file in reversed(files) if reverse else files:
            tar.add(file, file.relative_to(root))
    return path


def fingerprint(spec: str) -> str:
    return load(spec).fingerprint


@pytest.mark.fault(89)
def test_the_same_pictures_have_one_fingerprint_from_every_source(tmp_path: Path) -> None:
    """Folder, folder with val, one tar, two tars, members in another order (fault 89)."""
    root = tree(tmp_path / "set")
    archive(root, tmp_path / "one.tar")
    archive(root, tmp_path / "back.tar", reverse=True)
    archive(root, tmp_path / "two-train.tar", ("train",))
    archive(root, tmp_path / "two-test.tar", ("test",))
    tree(tmp_path / "other", test="val")
    specs = [f"folder:{tmp_path / name}" for name in ("set", "one.tar", "one", "back.tar", "two", "other")]

    assert 1 == len({fingerprint(spec) for spec in specs})


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    """Sorted by class and file name; statistics by numpy."""
    dataset = load(f"folder:{tree(tmp_path / 'set')}", validation=0)
    first = torch.from_numpy(picture(0)).permute(2, 0, 1)
    arrays = np.stack([picture(10 * label + index) for label in range(2) for index in range(3)]) / 255

    assert torch.equal(first, dataset.train.pixels[0])
    assert [0, 0, 0, 1, 1, 1] == dataset.train.labels.tolist()
    assert CLASSES == dataset.info.classes
    assert pytest.approx(arrays.mean(axis=(0, 1, 2)), abs=1e-5) == dataset.info.mean
    assert pytest.approx(arrays.std(axis=(0, 1, 2)), abs=1e-5) == dataset.info.std


def test_the_validation_part_is_stratified_and_repeatable() -> None:
    """A function of the images: the same for every stage, disjoint from training."""
    first, second = load("digits", validation=0.2), load("digits", validation=0.2)
    counts = torch.bincount(first.validation.labels, minlength=10)
    whole = load("digits", validation=0)

    assert torch.equal(first.validation.pixels, second.validation.pixels)
    assert int(counts.max() - counts.min()) <= 2
    assert len(whole.train) == len(first.train) + len(first.validation)


def test_digits_are_the_published_images() -> None:
    """1,797 of them, ten classes, exact enlargement, no flip."""
    data, small = load("digits", validation=0), load("digits", size=8, validation=0)

    assert (1797, 16) == (len(data.train) + len(data.test), data.info.height)
    assert int(small.train.pixels.max()) == 255
    assert not data.info.flip
    assert (10, 1) == (len(data.info.classes), data.info.channels)
    with pytest.raises(UsageError, match="8, 16 or 32"):
        load("digits", size=20)


def test_statistics_of_a_constant_channel_do_not_divide_by_zero() -> None:
    """Deviation 1."""
    assert ((0.2,), (1.0,)) == statistics(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8))


@pytest.mark.parametrize("name", _plugins.names("data"))
def test_contract_every_set_loads_or_says_what_it_needs(name: str, tmp_path: Path, monkeypatch) -> None:
    """In an empty folder: data, or an error that names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDLABEL_DATA_DIR", str(tmp_path))
    try:
        dataset = load(name)
    except DdlabelError as error:
        assert name in str(error) or str(tmp_path) in str(error) or "torchvision" in str(error)
    else:
        assert len(dataset.train)


def test_torchvision_sets_are_read_from_files_that_are_there(tmp_path: Path) -> None:
    """MNIST's own file format, written by hand: images, labels and published constants come through."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    source = np.random.Generator(np.random.PCG64(0))
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = source.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
        kept = pixels
    dataset = load(f"mnist:{tmp_path}", validation=0)

    assert torch.equal(torch.from_numpy(kept)[:, None], dataset.test.pixels)
    assert [0, 1, 2] == dataset.train.labels[:3].tolist()
    assert ((0.1307,), False) == (dataset.info.mean, dataset.info.flip)


@pytest.mark.fault(75)
def test_fault_75_a_missing_folder(tmp_path: Path) -> None:
    """With the names that were tried."""
    with pytest.raises(DataError, match=r"no such folder or tar file \(also tried gone.tar"):
        load(f"folder:{tmp_path / 'gone'}")


@pytest.mark.fault(76)
def test_fault_76_no_class_folders(tmp_path: Path) -> None:
    """Training folder empty, or absent, or no test folder."""
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        load(f"folder:{tmp_path}")
    (tmp_path / "test").rmdir()
    with pytest.raises(DataError):
        load(f"folder:{tmp_path}")


@pytest.mark.fault(77)
def test_fault_77_an_empty_class(tmp_path: Path) -> None:
    """The folder is named."""
    root = tree(tmp_path / "set")
    (root / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="cow: no images"):
        load(f"folder:{root}")


@pytest.mark.fault(78)
@pytest.mark.parametrize(
    "data", [b"", png(picture(1))[:60], b"plain text"], ids=["zero bytes", "truncated", "renamed text"]
)
def test_fault_78_unreadable_pictures(tmp_path: Path, data: bytes) -> None:
    """The file is named."""
    root = tree(tmp_path / "set")
    (root / "train" / "bee" / "1.png").write_bytes(data)
    with pytest.raises(DataError, match=r"bee/1\.png: not a readable picture"):
        load(f"folder:{root}")


@pytest.mark.fault(79)
def test_fault_79_other_modes_are_converted_by_rule(tmp_path: Path) -> None:
    """Palette and CMYK become RGB, transparency lies on white, EXIF orientation is ignored, grey joins as RGB."""
    root = tree(tmp_path / "set")
    folder = root / "train" / "ant"
    Image.fromarray(picture(1)).convert("P").save(folder / "a.png")
    Image.fromarray(picture(1)).convert("CMYK").save(folder / "b.jpg")
    Image.fromarray(np.zeros((8, 8, 4), np.uint8), "RGBA").save(folder / "c.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(2)).save(folder / "d.png", exif=exif)
    Image.fromarray(picture(3)[:, :, 0]).save(folder / "e.png")
    dataset = load(f"folder:{root}", validation=0)
    by_name = dict(zip(("0", "1", "2", "a", "b", "c", "d", "e"), dataset.train.pixels, strict=False))

    assert 3 == dataset.info.channels
    assert bool((by_name["c"] == 255).all())
    assert torch.equal(torch.from_numpy(picture(2)).permute(2, 0, 1), by_name["d"])
    assert torch.equal(by_name["e"][0], by_name["e"][2])


@pytest.mark.fault(79)
def test_fault_79_deep_and_animated_pictures_are_refused(tmp_path: Path) -> None:
    """16 bits a channel, and more than one frame."""
    root = tree(tmp_path / "set")
    deep = root / "train" / "ant" / "deep.png"
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(deep)
    with pytest.raises(DataError, match="convert it to 8 bits"):
        load(f"folder:{root}")
    deep.unlink()
    frames = [Image.fromarray(picture(index)) for index in range(2)]
    frames[0].save(root / "train" / "ant" / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animation of 2 frames"):
        load(f"folder:{root}")


@pytest.mark.fault(80)
def test_fault_80_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    """Two files are named, and the option; with it they are resized and cropped."""
    root = tree(tmp_path / "set")
    (root / "train" / "ant" / "9.png").write_bytes(png(picture(1, 12)))
    with pytest.raises(DataError, match=r"9\.png is 12 x 12, .*use --size"):
        load(f"folder:{root}")

    assert 10 == load(f"folder:{root}", size=10).info.height


@pytest.mark.fault(81)
def test_fault_81_a_pixel_bomb(tmp_path: Path) -> None:
    """A tiny file of 100 million pixels is refused before it is decoded."""
    root = tree(tmp_path / "set")
    stream = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(stream, "png")
    (root / "train" / "ant" / "bomb.png").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match=r"bomb\.png: (more than|10000 x 10000)"):
        load(f"folder:{root}")


@pytest.mark.fault(82)
@pytest.mark.parametrize("target", ["loop", "outside"])
def test_fault_82_symbolic_links_that_loop_or_leave(tmp_path: Path, target: str) -> None:
    """The link is named."""
    root = tree(tmp_path / "set")
    link = root / "train" / "ant" / "link.png"
    (tmp_path / "secret.png").write_bytes(png(picture(1)))
    link.symlink_to(link if target == "loop" else tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"link\.png: a symbolic link"):
        load(f"folder:{root}")


@pytest.mark.fault(83)
def test_fault_83_strange_file_names(tmp_path: Path) -> None:
    """Newlines and bytes that are no UTF-8 are fine in files, not in class names."""
    root = tree(tmp_path / "set")
    data = png(picture(1))
    (root / "train" / "ant" / "new\nline.png").write_bytes(data)
    Path(os.fsdecode(os.fsencode(root / "train" / "ant") + b"/\xff.png")).write_bytes(data)

    assert 8 == len(load(f"folder:{root}", validation=0).train)
    for split in ("train", "test"):
        folder = Path(os.fsdecode(os.fsencode(root / split) + b"/\xff"))
        folder.mkdir()
        (folder / "0.png").write_bytes(data)
    with pytest.raises(DataError, match="not UTF-8"):
        load(f"folder:{root}")


@pytest.mark.fault(84)
def test_fault_84_a_file_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    """Between the listing and the reading."""
    root = tree(tmp_path / "set")

    def on_event(event: Event) -> None:
        if event.phase == "decoding images" and event.done == 0:
            (root / "test" / "bee" / "1.png").unlink(missing_ok=True)

    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        load(f"folder:{root}", on_event=on_event)


@pytest.mark.fault(86)
def test_fault_86_test_images_that_are_training_images_are_counted(tmp_path: Path) -> None:
    """A warning, because accuracies would be too high."""
    root = tree(tmp_path / "set")
    (root / "test" / "ant" / "9.png").write_bytes((root / "train" / "ant" / "0.png").read_bytes())
    messages: list[str] = []
    load(f"folder:{root}", on_event=lambda event: messages.append(event.message or ""))

    assert any("1 test images are also training images" in message for message in messages)


def arrays(**changes) -> dict[str, np.ndarray]:
    good = {
        "train_images": np.stack([picture(index) for index in range(6)]),
        "train_labels": np.array([0, 0, 0, 1, 1, 1]),
        "test_images": np.stack([picture(50 + index) for index in range(4)]),
        "test_labels": np.array([0, 0, 1, 1]),
    }
    return {name: array for name, array in {**good, **changes}.items() if array is not None}


def test_npz_files_hold_colour_or_grey_images(tmp_path: Path) -> None:
    """[n, h, w, c] and [n, h, w]."""
    np.savez(tmp_path / "colour.npz", **arrays())
    grey = {key: arrays()[key][..., 0] for key in ("train_images", "test_images")}
    np.savez_compressed(tmp_path / "grey.npz", **arrays(**grey))
    colour = load(f"npz:{tmp_path / 'colour.npz'}", validation=0)

    assert torch.equal(torch.from_numpy(picture(0)).permute(2, 0, 1), colour.train.pixels[0])
    assert 1 == load(f"npz:{tmp_path / 'grey.npz'}").info.channels


@pytest.mark.fault(87)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "no array 'test_labels'"),
        ({"train_images": np.array([{"a": 1}] * 6, dtype=object)}, "Python objects"),
        ({"train_images": np.zeros((6, 8, 8, 3), np.float32)}, "expected uint8"),
        ({"train_labels": np.zeros(6)}, "expected whole numbers"),
        ({"train_labels": np.array([0, 0, 0, 1, 1])}, "6 train_images, 5 train_labels"),
        ({"train_labels": np.array([0, 0, 0, 1, 1, -1])}, "labels outside"),
        ({"test_images": np.zeros((4, 9, 9, 3), np.uint8)}, "test images differ"),
        ({"train_labels": np.array([0, 0, 0, 2, 2, 2])}, "no training images of class '1'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault_87_bad_arrays(tmp_path: Path, changes: dict, message: str) -> None:
    """Missing keys, pickled objects, wrong types and shapes."""
    np.savez(tmp_path / "x.npz", **arrays(**changes))
    with pytest.raises(DataError, match=message):
        load(f"npz:{tmp_path / 'x.npz'}")


@pytest.mark.fault(87)
def test_fault_87_a_deflate_bomb(tmp_path: Path) -> None:
    """Refused from the directory of the archive, before anything is inflated."""
    np.savez(tmp_path / "x.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "x.npz", "a", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("bomb.npy", bytes(100 * 2**20))
    with pytest.raises(DataError, match=r"bomb\.npy"):
        load(f"npz:{tmp_path / 'x.npz'}")


@pytest.mark.fault(88)
@pytest.mark.parametrize("kind", ["absolute", "parent", "link", "device", "twice", "text"])
def test_fault_88_hostile_archives(tmp_path: Path, kind: str) -> None:
    """Nothing is ever extracted; the member is named."""
    root = tree(tmp_path / "set")
    path = archive(root, tmp_path / "x.tar")
    if kind == "text":
        path.write_bytes(b"no archive" * 100)
    else:
        with tarfile.open(path, "a") as tar:
            member = tarfile.TarInfo(
                {"absolute": "/train/ant/x.png", "parent": "../train/ant/x.png", "twice": "train/ant/0.png"}.get(
                    kind, "train/ant/x.png"
                )
            )
            member.type = {"link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}.get(kind, tarfile.REGTYPE)
            member.linkname = "/etc/passwd" if kind == "link" else ""
            tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(DataError, match=r"x\.tar: (member|not a readable)"):
        load(f"folder:{path}")


def test_decoded_pictures_are_cached_and_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch) -> None:
    """The second load decodes nothing; a flipped byte is noticed."""
    monkeypatch.setenv("DDLABEL_CACHE_DIR", str(tmp_path / "cache"))
    spec = f"folder:{tree(tmp_path / 'set')}"
    phases: list[str] = []
    first = load(spec)
    second = load(spec, on_event=lambda event: phases.append(event.phase))
    (cached,) = (tmp_path / "cache").iterdir()
    data = bytearray(cached.read_bytes())
    data[-200] ^= 1
    cached.write_bytes(data)
    third = load(spec)

    assert "decoding images" not in phases
    assert first.fingerprint == second.fingerprint == third.fingerprint


def test_without_a_home_nothing_is_cached_and_nothing_fails(tmp_path: Path, monkeypatch) -> None:
    """A note instead (fault 117)."""
    for name in ("DDLABEL_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    messages: list[str] = []
    load(f"folder:{tree(tmp_path / 'set')}", on_event=lambda event: messages.append(event.message or ""))

    assert _cache.cache_folder() is None
    assert any("not cached" in message for message in messages)


@pytest.mark.slow
@pytest.mark.real_images
@pytest.mark.skipif("DDLABEL_TEST_DATA" not in os.environ, reason="DDLABEL_TEST_DATA names no folder of real images")
def test_real_cifar10_has_its_classes_and_sizes() -> None:
    """50,000 training and 10,000 test images, from two tar files."""
    dataset = load(f"folder:{os.environ['DDLABEL_TEST_DATA']}/cifar10")

    assert (45_000, 5_000, 10_000) == (len(dataset.train), len(dataset.validation), len(dataset.test))
    assert ("airplane", "truck", 32) == (dataset.info.classes[0], dataset.info.classes[-1], dataset.info.height)
    assert 0.47 < dataset.info.mean[0] < 0.51
