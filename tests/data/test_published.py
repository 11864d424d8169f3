"""ImageNet, its subsets and Tiny-ImageNet: tiny trees in their publishers' folders."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddlabel import _plugins
from ddlabel.data import _published
from ddlabel.data._dataset import load
from ddlabel.data._listing import read_pictures
from ddlabel.errors import DataError, UsageError

IDS = (Path(__file__).parent / "imagenet_ids.txt").read_text().split()
"""The WordNet ids of ImageNet-1K, sorted: a class id is a place in this list."""
SUBSETS = {
    "imagenet-nette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagenet-woof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagenet-meow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagenet-squawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagenet-fruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imagenet-yellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}
"""As GLaD and GIFT publish them."""
WOOF = [IDS[index] for index in SUBSETS["imagenet-woof"]]
TINY = ("n02124075", "n01443537", "n09428293")
"""As wnids.txt has them: not sorted."""


def jpeg(value: int, side: int = 8, mode: str = "RGB") -> bytes:
    """A picture of about one value."""
    stream = io.BytesIO()
    Image.new(mode, (side + 3, side), (value,) * 3 if mode == "RGB" else value).save(stream, "jpeg")
    return stream.getvalue()


def woof(root: Path, *, value: Callable[[int], int] = lambda label: 20 * label, mode: str = "RGB") -> Path:
    """Two training and one validation picture of each class, the value of all says which."""
    for split, count in (("train", 2), ("val", 1)):
        for label, name in enumerate(WOOF):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                data = jpeg(value(label) + 3 * index + (split == "val"), mode=mode)
                (folder / f"{name}_{index}.JPEG").write_bytes(data)
    return root


def tiny(root: Path) -> Path:
    """Three classes in the folders of Stanford's archive."""
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in TINY))
    for label, name in enumerate(TINY):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for index in range(2):
            (folder / f"{name}_{index}.JPEG").write_bytes(jpeg(50 * label + 3 * index))
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t62\t62\n")
    order = (2, 0, 1, 0)
    for index, label in enumerate(order):
        (root / "val" / "images" / f"val_{index}.JPEG").write_bytes(jpeg(50 * label + 10 + index))
    lines = (f"val_{index}.JPEG\t{TINY[label]}\t0\t32\t44\t62\n" for index, label in enumerate(order))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def levels(split) -> list[int]:
    """The value of each picture of one value."""
    return split.pixels[:].float().mean((1, 2, 3)).round().int().tolist()


@pytest.fixture(scope="module")
def kept_woof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageWoof among classes and a test split that are no pictures; not to be changed."""
    root = woof(tmp_path_factory.mktemp("published") / "woof")
    for folder in ("train/n01440764", "val/n01440764", "train/notes", "test"):
        (root / folder).mkdir()
        (root / folder / "other.JPEG").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def kept_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return tiny(tmp_path_factory.mktemp("published") / "tiny-imagenet-200")


@pytest.mark.parametrize(("name", "indices"), SUBSETS.items(), ids=SUBSETS)
def test_subsets_have_the_published_classes(name: str, indices: tuple[int, ...]) -> None:
    """In the published order."""
    assert tuple(IDS[index] for index in indices) == _plugins.load("data", name, "DATASET").classes


def test_a_subset_has_its_own_order_of_labels_and_reads_no_other_class(kept_woof: Path) -> None:
    """Pictures of other classes and of ImageNet's unlabelled test split would not decode."""
    data = load(f"imagenet-woof:{kept_woof}", size=8, validation=0)

    assert ("imagenet-woof", tuple(WOOF)) == (data.info.name, data.info.classes)
    assert np.allclose([20 * (index // 2) + 3 * (index % 2) for index in range(20)], levels(data.train), atol=1)
    assert np.allclose([20 * label + 1 for label in range(10)], levels(data.test), atol=1)
    assert ([label for label in range(10) for _ in "12"], list(range(10))) == (
        data.train.labels.tolist(),
        data.test.labels.tolist(),
    )
    assert ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True) == (data.info.mean, data.info.std, data.info.flip)


@pytest.mark.parametrize("kind", ["one", "two", "beside"])
def test_tar_files_hold_the_same_set(kind: str, kept_woof: Path, tmp_path: Path) -> None:
    """One archive, one per split in a folder, or with the split in its name."""
    parts = {"one": {"set.tar": ("train", "val")}, "two": {"train.tar": ("train",), "val.tar": ("val",)}}
    for name, splits in parts.get(kind, {"set-train.tar": ("train",), "set-val.tar": ("val",)}).items():
        with tarfile.open(tmp_path / name, "w") as archive:
            for split in splits:
                archive.add(kept_woof / split, f"data/{split}")
    path = tmp_path if kind == "two" else tmp_path / ("set.tar" if kind == "one" else "set")

    whole = load(f"imagenet-woof:{kept_woof}", size=8)

    assert whole.fingerprint == load(f"imagenet-woof:{path}", size=8).fingerprint
    with pytest.raises(DataError, match=f"{path}: no pictures train/n02123045/FILE in the tar files"):
        load(f"imagenet-meow:{path}", size=8)


def test_a_subset_is_cached_under_its_own_key(kept_woof: Path, tmp_path: Path, cache: Path, stored) -> None:
    """Kept where they do not fit in memory; changes of its own classes make another key, others none."""
    root = tmp_path / "set"
    shutil.copytree(kept_woof, root)
    first = load(f"imagenet-woof:{root}", size=8)
    for file in ("val/n01440764/more.JPEG", "test/more.JPEG"):
        (root / file).write_bytes(b"no picture")
    (root / "train" / WOOF[3] / "notes.txt").unlink(missing_ok=True)
    again = load(f"imagenet-woof:{root}", size=8)

    assert (1, first.fingerprint) == (len(list(cache.glob("*.pixels"))), again.fingerprint)
    added = root / "train" / WOOF[3] / "z.JPEG"
    added.write_bytes(jpeg(200))
    assert len(load(f"imagenet-woof:{root}", size=8, validation=0).train) == 21
    added.rename(root / "train" / WOOF[4] / "z.JPEG")
    moved = load(f"imagenet-woof:{root}", size=8, validation=0)
    assert 3 == moved.train.labels.tolist().count(4)
    assert len(list(cache.glob("*.pixels"))) == 3


def test_grey_pictures_have_three_channels(tmp_path: Path) -> None:
    """Published constants are of three."""
    data = load(f"imagenet-woof:{woof(tmp_path / 'grey', mode='L')}", size=8)

    assert (10, 3, 8, 8) == data.test.pixels.shape
    assert data.test.pixels[:].float().std(1).max() == 0


def test_imagenette_is_the_set_that_folder_reads(tmp_path: Path) -> None:
    """Classes are called by WordNet ids in both, and ImageNette's are in sorted order: bundles go with either."""
    root = woof(tmp_path / "set")
    for split in ("train", "val"):
        for index, name in zip(SUBSETS["imagenet-nette"], WOOF, strict=True):
            (root / split / name).rename(root / split / IDS[index])
    folder, named = load(f"folder:{root}", size=8), load(f"imagenet-nette:{root}", size=8)

    assert (folder.info.classes, folder.fingerprint) == (named.info.classes, named.fingerprint)


def test_imagenet_takes_all_its_classes_and_no_others(tmp_path: Path) -> None:
    """A thousand classes in one tar file; one of another name is refused."""
    data = b"P6 2 2 255\n" + bytes(range(12))

    def write(names: list[str], path: Path) -> Path:
        with tarfile.open(path, "w") as archive:
            for member in (f"{split}/{name}/a.ppm" for split in ("val", "train") for name in reversed(names)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    whole = load(f"imagenet:{write(IDS, tmp_path / 'whole.tar')}", size=2, validation=0)
    assert (tuple(IDS), list(range(1000))) == (whole.info.classes, whole.train.labels.tolist())
    path = write(["n00000001", *IDS[1:]], tmp_path / "other.tar")
    with pytest.raises(DataError, match=f"{path}: other names, expected ImageNet-1K's 1000") as caught:
        load(f"imagenet:{path}", size=2)
    assert "folder:PATH" in str(caught.value.hint)


def test_folders_of_imagenet_are_looked_at_first(kept_woof: Path) -> None:
    """Before any picture is."""
    with pytest.raises(DataError, match=f"{kept_woof}/train: 12 classes, expected ImageNet-1K's 1000"):
        load(f"imagenet:{kept_woof}", size=8)


def test_sizes_are_needed_and_kept(kept_woof: Path, kept_tiny: Path) -> None:
    """ImageNet has none of its own, Tiny-ImageNet has 64 px."""
    for name in ("imagenet", "imagenet-woof"):
        with pytest.raises(UsageError, match=f"data '{name}' needs --size"):
            load(f"{name}:{kept_woof}")

    assert 64 == load(f"tiny-imagenet:{kept_tiny}").info.height


def _without(path: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("train"), "{root}/train: no such folder"),
        (_without("val"), "{root}/val: no such folder"),
        (_without(f"train/{WOOF[9]}"), f"{{root}}/train/{WOOF[9]}: no such folder"),
        (_without(f"val/{WOOF[0]}"), f"{{root}}/val/{WOOF[0]}: no such folder"),
        (lambda root: (root / f"val/{WOOF[0]}/{WOOF[0]}_0.JPEG").unlink(), f"{{root}}/val/{WOOF[0]}: no images"),
        (
            lambda root: (root / f"train/{WOOF[1]}/bad.JPEG").write_bytes(b"x"),
            f"{{root}}/train/{WOOF[1]}/bad.JPEG: not a readable picture",
        ),
        (
            lambda root: (_without("val")(root), (root / "val").symlink_to("/")),
            "{root}/val: a symbolic link out of {root}",
        ),
    ],
    ids=["train", "val", "class of train", "class of val", "empty", "picture", "link"],
)
def test_what_is_missing_from_a_subset_is_named(change, message: str, kept_woof: Path, tmp_path: Path, run_cli) -> None:
    """Exit 4, with the path."""
    root = tmp_path / "set"
    shutil.copytree(kept_woof, root)
    change(root)
    outcome = run_cli("distill", "--data", f"imagenet-woof:{root}", "--size", "8", "-o", tmp_path / "out.ddset")

    assert (4, True) == (outcome.code, message.format(root=root) in " ".join(outcome.err.split())), outcome.err


def test_tiny_imagenet_has_sorted_labels_and_those_of_its_annotations(kept_tiny: Path, cache: Path) -> None:
    """n01443537 is label 0 though wnids.txt has it second; the cached set is the same."""
    for _again in range(2):
        data = load(f"tiny-imagenet:{kept_tiny}", size=8, validation=0)

        assert ("tiny-imagenet", tuple(sorted(TINY))) == (data.info.name, data.info.classes)
        assert ([0, 0, 1, 1, 2, 2], [0, 1, 1, 2]) == (data.train.labels.tolist(), data.test.labels.tolist())
        assert np.allclose([50, 53, 0, 3, 100, 103], levels(data.train), atol=1)
        assert np.allclose([62, 11, 13, 110], levels(data.test), atol=1)
        assert ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) == (data.info.mean, data.info.std)
    assert 1 == len(list(cache.glob("*.pixels")))


def _edit(path: str, text: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        with (root / path).open("a") as file:
            file.write(text)

    return change


ANNOTATIONS = "val/val_annotations.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "{root}/wnids.txt: no such file, expected the folders of Stanford's archive"),
        (lambda root: (root / ANNOTATIONS).unlink(), f"{{root}}/{ANNOTATIONS}: no such file"),
        (_without(f"train/{TINY[2]}"), f"{{root}}/train/{TINY[2]}: no such folder"),
        (_without("val/images"), "{root}/val/images: no such folder"),
        (_edit("wnids.txt", "cat\n"), "{root}/wnids.txt line 4: 'cat', expected a WordNet id, each once"),
        (_edit("wnids.txt", TINY[0]), f"{{root}}/wnids.txt line 4: '{TINY[0]}', expected a WordNet id, each once"),
        (_edit(ANNOTATIONS, "val_9.JPEG\n"), f"{{root}}/{ANNOTATIONS} line 5: class nothing"),
        (_edit(ANNOTATIONS, "val_9.JPEG\tn00000001\n"), f"{{root}}/{ANNOTATIONS} line 5: class 'n00000001'"),
        (_edit(ANNOTATIONS, f"val_9.JPEG\t{TINY[0]}\n"), f"{{root}}/{ANNOTATIONS} line 5: 'val_9.JPEG' is not in"),
        (_edit(ANNOTATIONS, f"val_1.JPEG\t{TINY[0]}\n"), f"{{root}}/{ANNOTATIONS} line 5: 'val_1.JPEG' is not in"),
        (lambda root: (root / "val/images/val_9.JPEG").write_bytes(b"x"), "{root}/val/images/val_9.JPEG: not named by"),
        (
            lambda root: os.truncate(root / "wnids.txt", 2**27),
            "{root}/wnids.txt: has 134217728 bytes, expected a list",
        ),
    ],
    ids=[
        "all", "annotations", "class", "val", "id", "id twice", "no class", "other class", "no picture", "line twice",
        "no line", "huge list",
    ],
)  # fmt: skip
def test_what_does_not_fit_in_tiny_imagenet_is_named(change, message: str, kept_tiny: Path, tmp_path: Path) -> None:
    """Exit 4, with file and line."""
    root = tmp_path / "set"
    shutil.copytree(kept_tiny, root)
    change(root)
    with pytest.raises(DataError) as caught:
        load(f"tiny-imagenet:{root}", size=8)

    assert message.format(root=root) in caught.value.message


def test_a_set_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not cached."""
    root = tiny(tmp_path / "set")

    def reads(entries, path: str):
        (root / "train" / TINY[0] / "images" / "late.JPEG").write_bytes(jpeg(1))
        yield from read_pictures(entries, path)

    monkeypatch.setattr(_published, "read_pictures", reads)
    with pytest.raises(DataError, match=f"{root}: changed while it was read"):
        load(f"tiny-imagenet:{root}", size=8)
    monkeypatch.undo()
    assert 7 == len(load(f"tiny-imagenet:{root}", size=8, validation=0).train)


@pytest.mark.slow
@pytest.mark.real_images
@pytest.mark.skipif("DDLABEL_TEST_DATA" not in os.environ, reason="DDLABEL_TEST_DATA names no folder of real images")
def test_real_imagenette_has_its_classes(stored) -> None:
    """600 training and 200 validation pictures a class, of the classes its publisher names, as `folder:` reads them."""
    path = f"{os.environ['DDLABEL_TEST_DATA']}/imagenette-64.tar"
    with tarfile.open(path) as archive:
        names = json.load(archive.extractfile("classes.json"))
    data = load(f"imagenet-nette:{path}", size=64)
    folder = load(f"folder:{path}", size=64)

    assert (sorted(names), [200] * 10) == (list(data.info.classes), data.test.labels.bincount().tolist())
    assert (5400, 600, "n02979186") == (len(data.train), len(data.validation), IDS[482])
    assert (folder.fingerprint, folder.info.classes) == (data.fingerprint, data.info.classes)
