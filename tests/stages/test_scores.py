"""Difficulty scores of a training split: computed by real nets, kept in bundles, read back, refused when foreign."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from ddlabel.bundle import Bundle, StageRecord
from ddlabel.data._dataset import Dataset, load
from ddlabel.difficulty import SCORES
from ddlabel.errors import BundleError, DataError, DivergedError, UsageError
from ddlabel.events import Event, ignore
from ddlabel.losses._loss import Targets
from ddlabel.preprocess import describe_space
from ddlabel.space import Space
from ddlabel.stages import _scores
from ddlabel.stages._score_files import filter_training, find_scores, read_scores, score_source
from ddlabel.stages._scores import Difficulty, Scored, ScoreOptions, identity, score_training_split
from ddlabel.teachers import Teacher
from ddlabel.training import predict

OPTIONS = ScoreOptions(score_nets=2, score_epoch=3, score_arch="convnet-d1-w8", score_lr=0.02)


@pytest.fixture(scope="module")
def dataset(tiny: str) -> Dataset:
    """4 classes of 11 training images, 1 held out of each."""
    return load(tiny)


def space_of(dataset: Dataset) -> Space:
    return Space(kind="normalised", mean=dataset.info.mean, std=dataset.info.std, zca=None)


def score(dataset: Dataset, name: str = "el2n", *, seed: int = 0, keep: bool = False, on_event=ignore) -> Scored:
    return score_training_split(
        name,
        OPTIONS,
        dataset,
        space_of(dataset),
        seed=seed,
        device=torch.device("cpu"),
        keep_nets=keep,
        on_event=on_event,
    )


def bundle_of(dataset: Dataset, scored: Scored, *more: Difficulty) -> Bundle:
    """A teacher bundle with the scores and the nets that gave them."""
    record = StageRecord(stage="test", config={}, seed=0, inputs=[], metrics={}, seconds=0.0, started=0.0, host={})
    data = dataset.manifest() | {"space": describe_space(space_of(dataset))}
    sections = [*(item.section() for item in (scored.difficulty, *more)), *scored.checkpoints]
    return Bundle.create("teacher", data, record, sections)


@pytest.fixture(scope="module")
def scored(dataset: Dataset) -> Scored:
    """EL2N by two nets, which are kept."""
    return score(dataset, keep=True)


@pytest.mark.parametrize("name", ["el2n", "grand"])
def test_scores_are_the_mean_over_the_kept_nets_on_plain_images(dataset: Dataset, name: str) -> None:
    """Recomputed from the stored checkpoints, all images at once."""
    result = score(dataset, name, keep=True)
    teacher = Teacher(bundle_of(dataset, result))
    space, split = space_of(dataset), dataset.train
    images = space.encode(split.pixels)
    expected = []
    for checkpoint in teacher.checkpoints:
        net = teacher.net(checkpoint)
        with torch.inference_mode():
            expected.append(SCORES[name](net(images), split.labels, net.embed(images)))

    assert [item.section for item in teacher.checkpoints] == ["teacher.0.3", "teacher.1.3"]
    torch.testing.assert_close(result.difficulty.values, torch.stack(expected).mean(dim=0).float())


def test_the_same_seed_gives_the_same_scores_and_another_one_others(dataset: Dataset, scored: Scored) -> None:
    """Whether nets are kept does not matter."""
    assert torch.equal(score(dataset).difficulty.values, scored.difficulty.values)
    assert not torch.equal(score(dataset, seed=1).difficulty.values, scored.difficulty.values)


def test_the_section_says_how_and_of_what(dataset: Dataset, scored: Scored) -> None:
    """Nets, epoch, net, accuracy and the identity of the images; float32, role difficulty."""
    section = scored.difficulty.section()

    assert (section.name, section.kind, section.role) == ("scores.el2n", "scores", "difficulty")
    assert section.parameters["arch"] == "convnet-d1-w8-instance"
    assert (section.parameters["nets"], section.parameters["epoch"]) == (2, 3)
    assert section.parameters["fingerprint"] == dataset.fingerprint
    assert 0 <= section.parameters["accuracy"]["validation"] <= 1
    assert -1 <= section.parameters["agreement"] <= 1
    assert scored.difficulty.values.dtype == torch.float32


def test_progress_is_told_by_net(dataset: Dataset) -> None:
    """An interrupt finds a safe point in every step, a user the accuracy of each net."""
    events: list[Event] = []
    score(dataset, on_event=events.append)

    assert {"scoring net 1 of 2", "scoring net 2 of 2", "scores"} <= {event.phase for event in events}
    assert sum("held" in (event.message or "") or "test" in (event.message or "") for event in events) == 2


def test_forgetting_remembers_what_each_batch_said_before_its_step() -> None:
    """Rows are epochs, columns images, whatever the order of the batches."""
    loss = _scores._Remembering(torch.tensor([0, 1, 1, 0]))
    said = {0: [1, 0], 1: [0, 1], 2: [1, 0], 3: [1, 0]}
    for epoch, order in enumerate(([3, 1, 0, 2], [0, 1, 2, 3])):
        rows = loss.at_epoch(epoch)
        for batch in (order[:2], order[2:]):
            logits = torch.tensor([[float(said[image][0]), float(said[image][1])] for image in batch])
            value = rows(logits, Targets(torch.tensor(batch), None, None, None))
            assert value > 0

    assert [row.tolist() for row in loss.correct] == [[True, True, False, True]] * 2


def test_forgetting_of_real_nets_is_counted_in_epochs(dataset: Dataset) -> None:
    """A mean of two nets' counts; 3 epochs hold one transition at most, 4 is never learned."""
    values = score(dataset, "forgetting").difficulty.values

    assert set((2 * values).tolist()) <= {0.0, 1.0, 2.0, 4.0, 5.0, 8.0}
    assert values.min() < values.max()


def test_a_diverging_net_names_its_own_option(dataset: Dataset) -> None:
    """Not the learning rate of the teachers."""
    with pytest.raises(DivergedError, match=r"scoring net 1: .*; lower --set score_lr \(now 1e\+30\)"):
        score_training_split(
            "el2n",
            dataclasses.replace(OPTIONS, score_lr=1e30),
            dataset,
            space_of(dataset),
            seed=0,
            device=torch.device("cpu"),
            keep_nets=False,
            on_event=ignore,
        )


def test_the_net_suits_the_images_unless_named() -> None:
    """ResNet18 with batch norm from 16 px on."""
    assert ScoreOptions().arch(32) == "resnet18-batch"
    assert ScoreOptions().arch(8) == "convnet-d1-w128-instance"
    assert ScoreOptions(score_arch="convnet-d3-w64").arch(32) == "convnet-d3-w64-instance"


def test_harder_images_score_higher(dataset: Dataset, scored: Scored) -> None:
    """Wrongly classified ones by the mean net above rightly classified ones."""
    teacher = Teacher(bundle_of(dataset, scored))
    nets = [teacher.net(checkpoint) for checkpoint in teacher.checkpoints]
    split = dataset.train
    probabilities = sum(predict(net, split.pixels, space=teacher.space).softmax(dim=1) for net in nets) / len(nets)
    true = probabilities[torch.arange(len(split)), split.labels]
    values = scored.difficulty.values

    assert values[true < true.median()].mean() > values[true >= true.median()].mean()


def test_scores_survive_a_file(dataset: Dataset, scored: Scored, tmp_path: Path) -> None:
    """Bit for bit, by bundle and by path."""
    path = tmp_path / "scores.ddset"
    bundle_of(dataset, scored).save(path)
    for source in (path, Bundle.open(path)):
        read = read_scores(source, dataset)

        assert read.name == "el2n"
        assert torch.equal(read.values, scored.difficulty.values)
        assert read.section().parameters == dict(scored.difficulty.parameters)


@pytest.mark.parametrize("change", ["validation", "data", "order"])
def test_scores_of_other_images_are_refused(
    dataset: Dataset, scored: Scored, tiny: str, tmp_path: Path, change: str
) -> None:
    """Naming both sides: the held-out share, the data, and even the order of the same images."""
    arrays = dict(np.load(tiny.partition(":")[2]))
    if change == "validation":
        other, message = load(tiny, validation=0.2), r"held-out share 0.1, the data set 'tiny' has 0.2"
    elif change == "data":
        np.savez(tmp_path / "other.npz", **(arrays | {"train_images": 255 - arrays["train_images"]}))
        other = load(f"npz:{tmp_path / 'other.npz'}")
        message = rf"training data {dataset.fingerprint[:12]}, the data set 'other' has {other.fingerprint[:12]}"
    else:
        reversed_ones = {key: arrays[key][::-1] for key in ("train_images", "train_labels")}
        np.savez(tmp_path / "tiny.npz", **(arrays | reversed_ones))
        other, message = load(f"npz:{tmp_path / 'tiny.npz'}"), r"order of training images"
        assert other.fingerprint == dataset.fingerprint

    with pytest.raises(BundleError, match=message):
        read_scores(bundle_of(dataset, scored), other)


def test_a_bundle_without_scores_is_refused(dataset: Dataset, files) -> None:
    """Telling how to make them; scores of a selection are none."""
    with pytest.raises(BundleError, match=r"no difficulty scores \(it holds: none\); run 'ddlabel train-teacher --sc"):
        read_scores(Bundle.open(files.base), dataset)


def test_several_scores_need_a_name(dataset: Dataset, scored: Scored) -> None:
    """Listed; a name takes one."""
    loss = Difficulty("loss", torch.arange(44.0), identity(dataset))
    bundle = bundle_of(dataset, scored, loss)

    with pytest.raises(UsageError, match=r"holds the difficulty scores el2n, loss, expected one"):
        read_scores(bundle, dataset)
    assert torch.equal(read_scores(bundle, dataset, name="loss").values, loss.values)
    with pytest.raises(BundleError, match=r"no difficulty scores 'lost' \(it holds: el2n, loss\)"):
        read_scores(bundle, dataset, name="lost")


def test_damaged_sections_are_refused(dataset: Dataset, scored: Scored) -> None:
    """Of another length, shape or type, not finite, beyond float32, or silent about their images."""
    said = identity(dataset)
    nan = torch.full((44,), math.nan)
    cases = (
        (Difficulty("el2n", torch.arange(43.0), said), BundleError, r"float32 \[43\], expected floats \[44\]"),
        (Difficulty("el2n", torch.arange(44), said), BundleError, r"int64 \[44\], expected floats \[44\]"),
        (Difficulty("el2n", torch.zeros(44, 1), said), BundleError, r"float32 \[44, 1\], expected floats \[44\]"),
        (Difficulty("el2n", torch.full((44,), 1e300, dtype=torch.float64), said), DataError, r"1e\+300, beyond flo"),
        (Difficulty("el2n", nan, said), DataError, r"'scores.el2n': the score of image 0 is nan"),
        (Difficulty("el2n", torch.arange(44.0), {}), BundleError, r"does not say its training data"),
    )
    for difficulty, error, message in cases:
        with pytest.raises(error, match=message):
            read_scores(bundle_of(dataset, dataclasses.replace(scored, difficulty=difficulty)), dataset)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_an_array_of_floats_is_read_as_scores(dataset: Dataset, tmp_path: Path) -> None:
    """Any float type, in the order of the training split."""
    values = np.linspace(-1, 1, 44)
    read = read_scores(save(tmp_path / "s.npy", values), dataset)

    assert read.name == "file"
    np.testing.assert_allclose(read.values.numpy(), values, rtol=1e-6)
    assert read.section().parameters["fingerprint"] == dataset.fingerprint


def test_an_order_is_read_as_places_in_its_rows(dataset: Dataset, tmp_path: Path) -> None:
    """PAD's form: row c holds the images of class c, easiest first."""
    labels, source = dataset.train.labels.numpy(), np.random.Generator(np.random.PCG64(0))
    rows = np.stack([source.permutation(np.flatnonzero(labels == label)) for label in range(4)])
    values = read_scores(save(tmp_path / "o.npy", rows), dataset).values.numpy()

    for label, row in enumerate(rows):
        members = np.flatnonzero(labels == label)
        assert members[np.argsort(values[members])].tolist() == row.tolist()


def wrong_arrays(labels: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    rows = np.stack([np.flatnonzero(labels == label) for label in range(4)])
    infinite = np.zeros(44)
    infinite[7] = np.inf
    large = np.zeros(44)
    large[3] = 1e300
    return {
        "a flat order": (np.arange(44), r"int64 \[44\], expected float scores"),
        "a table of floats": (rows.astype(float), r"float64 \[4, 11\], expected float scores"),
        "too few scores": (np.zeros(48), r"48 scores, the data set 'tiny' has 44 training images; --validation 0"),
        "not finite": (infinite, r"score of image 7 is inf"),
        "too large for float32": (large, r"score of image 3 is 1e\+300, beyond float32 \(at most 3.4e\+38\)"),
        "classes of another size": (rows[:, :10], r"4 classes of 10 images, the data 'tiny' has 4 classes of 11"),
        "too few classes": (rows[:3], r"an order of 3 classes of 11 images"),
        "rows exchanged": (rows[::-1].copy(), r"row 0 is not the training images of class '0', each once"),
        "an image twice": (np.where(rows == rows[2, 3], rows[2, 4], rows), r"row 2 is not the training images"),
        "objects": (np.array([{}], dtype=object), r"not a readable .npy array of numbers: it holds Python objects"),
    }


@pytest.mark.parametrize("case", wrong_arrays(np.repeat(np.arange(4), 11)))
def test_other_arrays_are_refused(dataset: Dataset, tmp_path: Path, case: str) -> None:
    """Saying what was expected; nothing is unpickled."""
    array, message = wrong_arrays(dataset.train.labels.numpy())[case]

    with pytest.raises(DataError, match=message):
        read_scores(save(tmp_path / "a.npy", array), dataset)


def test_a_cut_array_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    """Half a download."""
    path = save(tmp_path / "a.npy", np.zeros(44))
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(DataError, match=r"not a readable .*: it was cut, 72 of 352 bytes are left"):
        read_scores(path, dataset)


def npy_file(path: Path, header: bytes, *, version: bytes = b"\x01\x00", length: int | None = None) -> Path:
    """An `.npy` file of any header, with numbers enough for 44 scores."""
    size = (len(header) if length is None else length).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    path.write_bytes(b"\x93NUMPY" + version + size + header + bytes(8 * 44))
    return path


def header_of(shape: str, descr: str = "'<f8'") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode("latin-1")


HOSTILE = {
    "negative length": (header_of("(-44,)"), r"its shape is \[-44\]"),
    "negative lengths that cancel": (header_of("(-4, -11)", "'<i8'"), r"its shape is \[-4, -11\]"),
    "a truth value for a length": (header_of("(True,)"), r"its shape is \[True\]"),
    "huge": (header_of("(4611686018427387904,)"), r"4611686018427387904 scores, the data set 'tiny' has 44"),
    "beyond 64 bit": (header_of(f"({10**40},)"), r"10000.* scores, the data set"),
    "huge order": (header_of(f"(4, {10**30})", "'<i8'"), r"an order of 4 classes of 1000.* images"),
    "objects": (header_of("(44,)", "'|O'"), r"it holds Python objects"),
    "objects within records": (header_of("(44,)", "[('a', '|O')]"), r"it holds Python objects"),
    "a record": (header_of("(44,)", "[('a', '<f8')]"), r"expected float scores \[n\]"),
    "no type": (header_of("(44,)", "'nonsense'"), "damaged"),
    "an empty type": (header_of("(44,)", "()"), "damaged"),
    "a key that cannot be one": (b"{[]: 1}\n", "damaged"),
    "keys that cannot be sorted": (b"{1: 1, 'a': 2}\n", "damaged"),
    "no dictionary": (b"[1]\n", "damaged"),
    "an expression": (b"__import__('os').abort()\n", "damaged"),
    "nested": (b"(" * 3000, "damaged"),
    "negations": (b"-" * 3900 + b"1", "damaged"),
    "open text": (b"'" * 3 + b"\n", "damaged"),
    "indented": (b"  1\n 2\n", "damaged"),
    "zero bytes": (bytes(100), "damaged"),
    "no text": (bytes(range(128, 256)), "damaged"),
    "long": (b" " * 5000, "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(dataset: Dataset, tmp_path: Path, case: str) -> None:
    """As data that cannot be read, in both formats; never a traceback, never much memory."""
    header, message = HOSTILE[case]
    for version in (b"\x01\x00", b"\x02\x00"):
        with pytest.raises(DataError, match=message):
            read_scores(npy_file(tmp_path / "a.npy", header, version=version), dataset)


@pytest.mark.parametrize(
    ("version", "length", "message"),
    [
        (b"\x02\x00", 2**32 - 1, "damaged"),
        (b"\x01\x00", 0, "damaged"),
        (b"\x03\x00", None, "format 3.0, expected 1.0 or 2.0"),
        (b"\xff\xff", None, "format 255.255"),
    ],
)
def test_hostile_lengths_and_formats_are_refused(
    dataset: Dataset, tmp_path: Path, version: bytes, length: int | None, message: str
) -> None:
    """A header of 4 GB is not waited for."""
    with pytest.raises(DataError, match=message):
        read_scores(npy_file(tmp_path / "a.npy", header_of("(44,)"), version=version, length=length), dataset)


def test_every_cut_of_a_header_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    """From the magic bytes on."""
    whole = save(tmp_path / "a.npy", np.zeros(44)).read_bytes()
    for length in range(6, 130):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        with pytest.raises(DataError, match="not a readable"):
            read_scores(tmp_path / "a.npy", dataset)


@pytest.mark.parametrize("kind", [">f8", "<f2", "<f4", "longdouble"])
def test_every_float_is_read(dataset: Dataset, tmp_path: Path, kind: str) -> None:
    """Either end first; a header of format 2.0; what float64 cannot hold is not finite."""
    values = np.arange(44).astype(kind)
    with (tmp_path / "s.npy").open("wb") as file:
        npy.write_array(file, values, version=(2, 0))
    assert read_scores(tmp_path / "s.npy", dataset).values.tolist() == list(range(44))

    if kind == "longdouble" and np.finfo(kind).max > np.finfo("f8").max:
        values[5] = np.finfo(kind).max
        with pytest.raises(DataError, match="score of image 5 is inf"):
            read_scores(save(tmp_path / "s.npy", values), dataset)


def test_an_order_stored_by_columns_is_the_same(dataset: Dataset, tmp_path: Path) -> None:
    """As numpy writes a transposed table."""
    labels = dataset.train.labels.numpy()
    rows = np.stack([np.flatnonzero(labels == label) for label in range(4)])
    by_rows, by_columns = (
        read_scores(save(tmp_path / f"{name}.npy", array), dataset).values
        for name, array in (("c", rows), ("f", np.asfortranarray(rows)))
    )

    assert torch.equal(by_rows, by_columns)


def test_a_name_computes_and_a_path_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score's name wins over a file of that name, which `./` still reaches."""
    monkeypatch.chdir(tmp_path)
    for name in ("el2n", "mine.npy"):
        (tmp_path / name).write_bytes(b"")

    assert score_source("el2n") == "el2n"
    assert score_source("uncertainty") == "entropy"
    assert score_source("./el2n") == Path("el2n")
    assert score_source("mine.npy") == Path("mine.npy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("el2m", r"unknown score 'el2m'; did you mean 'el2n'\?"),
        ("mime.npy", r"'mime.npy', no such file; did you mean 'mine.npy'\?"),
        ("nowhere/x.npy", r"'nowhere/x.npy', no such file; scores by name are"),
        ("folder", r"is the folder 'folder', expected a file"),
        ("/dev/null", r"is '/dev/null', which is no regular file, expected a file"),
        ("x" * 300 + ".npy", r"x', no such file"),
    ],
)
def test_near_misses_are_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    """Of scores for words, of files for paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.npy").write_bytes(b"")
    (tmp_path / "folder").mkdir()

    with pytest.raises(UsageError, match=message):
        score_source(text)


def test_a_filter_finds_scores_among_the_teachers(dataset: Dataset, scored: Scored, files) -> None:
    """The same scores in two bundles are one; bundles without any do not disturb."""
    bundles = [Bundle.open(files.teacher), bundle_of(dataset, scored), bundle_of(dataset, scored)]
    part, kept = filter_training("hard:0.2", bundles, dataset, 3)

    assert torch.bincount(part.train.labels).tolist() == [9, 9, 9, 9]
    assert torch.equal(part.train.pixels, dataset.train.pixels[kept])
    values = scored.difficulty.values
    dropped = torch.ones(44, dtype=torch.bool).index_fill(0, kept, False)
    for label in range(4):
        members = dataset.train.labels == label
        assert values[members & dropped].min() >= values[members & ~dropped].max()


def test_a_filter_without_scores_or_with_two_is_refused(dataset: Dataset, scored: Scored, files) -> None:
    """Exit 2, telling how to make them."""
    other = dataclasses.replace(scored, difficulty=Difficulty("el2n", torch.arange(44.0), identity(dataset)))

    with pytest.raises(UsageError, match=r"no --teacher was given; run 'ddlabel train-teacher .*--scores el2n'"):
        find_scores([], dataset)
    with pytest.raises(UsageError, match=r"teacher.ddset holds none; run"):
        find_scores([Bundle.open(files.teacher)], dataset)
    with pytest.raises(UsageError, match=r"hold different difficulty scores"):
        find_scores([bundle_of(dataset, scored), bundle_of(dataset, other)], dataset)
