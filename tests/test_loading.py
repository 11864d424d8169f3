"""`ddlabel.load` against `ddlabel evaluate`: an own loop is the students' loop, bit for bit unless shuffled."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

import ddlabel
from ddlabel import seeding
from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.distilled import image_section
from ddlabel.errors import BundleError, UsageError
from ddlabel.nets._net import build
from ddlabel.options import as_dict

NET = "convnet-d1-w8-instance"


@pytest.fixture(scope="module")
def fkd(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base images with fkd labels of 3 views, feature labels beside them."""
    folder = tmp_path_factory.mktemp("fkd")
    words = ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "fkd", "--set", "views=3")
    assert 0 == run_cli(*words, "-o", folder / "fkd.ddset").code
    words = ("augment-labels", folder / "fkd.ddset", "--teacher", files.teacher, "--kind", "feature")
    assert 0 == run_cli(*words, "-o", folder / "both.ddset").code
    return folder / "both.ddset"


def same_loop(loaded: ddlabel.LoadedBundle, epochs: int, *, name: str = NET, **loader) -> torch.nn.Module:
    """The loop of docs/python.md, on the net that the first student starts from."""
    channels, size = loaded.images.shape[1:3]
    start = seeding.generator(loaded.seed, *loaded.path, "init")
    net = build(name, channels=channels, size=size, classes=len(loaded.classes), generator=start)
    recipe = loaded.recipe
    optimizer = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    for epoch in range(epochs):
        augment = loaded.augmentation(epoch)
        optimizer.param_groups[0]["lr"] = loaded.lr(epoch)
        for images, targets in DataLoader(loaded.dataset(epoch), batch_size=recipe.batch, **loader):
            loss = loaded.loss(net(augment(images)), targets, epoch=epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("base", {}),
        ("soft", {"loss": "dkd"}),
        ("dense", {}),
        ("dense", {"settings": {"estimator": "balanced"}}),
        ("gift", {}),
        ("fkd", {"protocol": "fkd", "settings": {"optimizer": "sgd", "decay": "all"}}),
    ],
    ids=["hard", "a loss that changes", "dense", "half whole images", "refined", "fkd under its protocol"],
)
def test_an_own_loop_is_a_student_of_evaluate(run_cli, files, fkd: Path, name: str, options) -> None:
    """Every bit: images, views, targets, order, loss, augmentation and schedule are the same."""
    path = fkd if name == "fkd" else getattr(files, name)
    settings = {"lr": 0.05, "batch": 6, "schedule": "cosine", "epochs": 3, **options.get("settings", {})}
    loaded = ddlabel.load(path, arch=NET, **{**options, "settings": settings})
    words = [word for key in ("loss", "protocol") if key in options for word in (f"--{key}", options[key])]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    outcome = run_cli(
        "evaluate", path, "--data", files.data, "--arch", NET, "--seeds", "1", "--labels", loaded.kind, *words, "--json"
    )
    (result,) = json.loads(outcome.out)["evaluation"]["results"]
    net, test = same_loop(loaded, 3), loaded.test_data(files.data)
    with torch.inference_mode():
        nll = functional.cross_entropy(net(loaded.encode(test[0])).double(), test[1])

    assert result["accuracy"]["values"] == [loaded.accuracy(net, *test)]
    assert result["calibration"]["nll"]["values"] == pytest.approx([float(nll)], abs=1e-9)
    assert result["loss"]["name"] == loaded.loss_name
    assert result["recipe"] == as_dict(loaded.recipe)


@pytest.mark.slow
def test_a_shuffled_loop_on_digits_is_in_line_with_evaluate(run_cli, tmp_path: Path) -> None:
    """Dense labels of a teacher, three nets each: means within three standard errors, and 3 points."""
    teacher, base, dense = (tmp_path / f"{name}.ddset" for name in ("teacher", "base", "dense"))
    net, recipe = "convnet-d2-w16", {"lr": 0.02, "schedule": "cosine", "epochs": 100, "batch": 25}
    for words in (
        ("train-teacher", "--data", "digits", "--arch", net, "--epochs", "10", "--set", "lr=0.05", "-o", teacher),
        ("distill", "--data", "digits", "--method", "random", "--ipc", "5", "-o", base),
        ("augment-labels", base, "--teacher", teacher, "--kind", "dense", "--grid", "3", "--ratio", "3/4", "-o", dense),
    ):
        assert 0 == run_cli(*words).code, words
    sets = [word for name, value in recipe.items() for word in ("--set", f"{name}={value}")]
    outcome = run_cli("evaluate", dense, "--data", "digits", "--arch", net, "--seeds", "3", *sets, "--json")
    theirs = torch.tensor(json.loads(outcome.out)["evaluation"]["results"][0]["accuracy"]["values"])
    ours = []
    for seed in range(3):
        loaded = ddlabel.load(dense, arch=net, settings=recipe, seed=seed)
        shuffle = torch.Generator().manual_seed(seed)
        trained = same_loop(loaded, recipe["epochs"], name=net, shuffle=True, generator=shuffle)
        ours.append(loaded.accuracy(trained, *loaded.test_data("digits")))

    error = float((theirs.var() / 3 + torch.tensor(ours).var() / 3).sqrt())
    assert abs(float(theirs.mean()) - sum(ours) / 3) < max(0.03, 3 * error)
    assert min(ours) > 0.8


def test_a_shuffled_epoch_holds_the_same_samples(files) -> None:
    """Loaders may ask in any order, for one sample or many; a second epoch goes on where the first ended."""
    loaded = ddlabel.load(files.dense)
    views, images = loaded.soft.shape[1], len(loaded.images)
    seen: Counter = Counter()
    for epoch in range(1 + views):
        data = loaded.dataset(epoch)
        batches = list(DataLoader(data, batch_size=5, shuffle=True))
        assert images == len(data) == sum(len(pictures) for pictures, _targets in batches)
        for pictures, targets in batches:
            rows = zip(pictures, targets["soft"], targets["local"], strict=True)
            seen.update((picture.numpy().tobytes(), bool(local)) for picture, _soft, local in rows)

    assert images * (1 + views) == len(seen) == sum(seen.values())
    assert images == sum(not local for _picture, local in seen)


def test_single_samples_are_those_of_batches(files) -> None:
    """By index from either end; the targets name the image, its class and the label of what is seen."""
    loaded = ddlabel.load(files.dense)
    data = loaded.dataset()
    (images, targets), *_rest = DataLoader(data, batch_size=len(data))
    for index in (0, 3, -1):
        picture, own = data[index]
        assert torch.equal(picture, images[index])
        assert all(torch.equal(value, targets[name][index]) for name, value in own.items())
    assert torch.equal(targets["hard"], loaded.hard[targets["index"]])
    assert ["hard", "index", "local", "soft"] == sorted(targets)
    with pytest.raises(IndexError, match="of an epoch of 12"):
        data[12]


def test_a_data_set_travels_to_another_process(fkd: Path) -> None:
    """Pickled, as workers get it."""
    data = ddlabel.load(fkd, labels="fkd").dataset(2)
    copied = pickle.loads(pickle.dumps(data))

    assert len(data) == len(copied)
    assert all(torch.equal(data[row][0], copied[row][0]) for row in range(len(data)))


@pytest.mark.parametrize("seen", [False, True], ids=["at once", "after an epoch"])
def test_a_bundle_travels_to_another_process(files, seen: bool) -> None:
    """Pickled with its file, whose descriptor means nothing elsewhere; what was drawn before changes nothing."""
    loaded = ddlabel.load(files.dense)
    if seen:
        loaded.dataset(3)
    copied = pickle.loads(pickle.dumps(loaded))
    pairs = zip(DataLoader(loaded.dataset(5), batch_size=5), DataLoader(copied.dataset(5), batch_size=5), strict=True)

    assert all(torch.equal(one[0], other[0]) for one, other in pairs)
    assert (loaded.bundle.content, loaded.bundle.name) == (copied.bundle.content, copied.bundle.name)
    del loaded  # and its descriptor
    assert torch.equal(copied.to_pixels(copied.images), copied.bundle.tensor("images.pixels"))
    assert [] == copied.bundle.verify()


@pytest.mark.slow
def test_loaders_with_workers_give_the_same(fkd: Path) -> None:
    """Two processes, started anew."""
    data = ddlabel.load(fkd, labels="fkd").dataset(1)
    plain, spawned = (
        list(DataLoader(data, batch_size=5, num_workers=workers, multiprocessing_context=how))
        for workers, how in ((0, None), (2, "spawn"))
    )

    assert all(torch.equal(one[0], other[0]) for one, other in zip(plain, spawned, strict=True))
    assert all(torch.equal(one[1]["soft"], other[1]["soft"]) for one, other in zip(plain, spawned, strict=True))


def test_fkd_shows_every_view_in_turn(fkd: Path) -> None:
    """View e mod v in epoch e, with its label."""
    loaded = ddlabel.load(fkd)
    for epoch in range(4):
        (_images, targets), *_rest = DataLoader(loaded.dataset(epoch), batch_size=100)
        assert torch.equal(targets["soft"], loaded.soft[targets["index"], epoch % 3])


def test_labels_are_probabilities_where_asked(files) -> None:
    """Stored logits through a softmax; refined ones are no distribution before."""
    soft, gift = ddlabel.load(files.soft), ddlabel.load(files.gift)
    (_images, targets), *_rest = DataLoader(soft.dataset(), batch_size=100)
    (_images, refined), *_rest = DataLoader(gift.dataset(), batch_size=100)

    assert torch.allclose(soft.probabilities(targets), targets["soft"].softmax(1))
    assert torch.allclose(soft.probabilities(targets, temperature=4.0), (targets["soft"] / 4).softmax(1))
    assert torch.allclose(gift.probabilities(refined).sum(1), torch.ones(12))


def test_feature_labels_are_tensors_by_image(fkd: Path) -> None:
    """Beside the class labels, which a loop trains on."""
    loaded = ddlabel.load(fkd)
    features = loaded.features()

    assert features.values.shape == (12, 1, *features.form.shape)
    assert features.form.arch.startswith("convnet")


def test_own_images_are_encoded_as_the_bundle_was(files) -> None:
    """One or many; `to_pixels` is the way back."""
    loaded = ddlabel.load(files.base)
    pixels, classes = loaded.test_data(files.data)
    images = loaded.encode(pixels)

    assert images.dtype == torch.float32
    assert torch.equal(images[3], loaded.encode(pixels[3]))
    assert torch.equal(pixels, loaded.to_pixels(images))
    assert torch.equal(pixels[0], loaded.to_pixels(images[0]))
    assert torch.equal(Bundle.open(files.base).tensor("images.pixels"), loaded.to_pixels(loaded.images))
    assert len(pixels) == len(classes)
    for wrong in (pixels.float(), pixels[:, :1], pixels[None]):
        with pytest.raises(UsageError, match="expected uint8 pixels in 0 to 255, of shape"):
            loaded.encode(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "sotf"}, "unknown label kind 'sotf'; did you mean 'soft'"),
        ({"labels": "soft+feature"}, "expected class labels alone: feature labels are for a layer"),
        ({"labels": "online"}, "a live teacher answers in 'ddlabel evaluate'"),
        ({"loss": "lad"}, "unknown loss 'lad'; did you mean 'ladd'"),
        ({"protocol": "kd"}, "protocol 'kd' asks a live teacher"),
        ({"protocol": "mt"}, "unknown protocol 'mt'"),
        ({"settings": {"lrr": 1, "temprature": 2}}, "unknown option 'lrr'.*unknown option 'temprature'"),
        ({"settings": {"lr": -1.0}}, "'lr' is -1.0, expected a number > 0"),
        ({"labels": "hard", "loss": "kl"}, "needs soft labels"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(f"{k} {v}" for k, v in value.items()),
)
def test_what_cannot_be_trained_on_is_refused_when_it_is_loaded(files, options, message: str) -> None:
    """Names and options, before any epoch."""
    with pytest.raises(UsageError, match=message):
        ddlabel.load(files.dense, **options)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (3, {}, "source is 3 of type 'int', expected a path, a file that is open for reading, or a Bundle"),
        (None, {}, "source is None of type 'NoneType'"),
        (b"x", {}, "source is b'x' of type 'bytes'"),
        ("dense", {"labels": 1}, "labels is 1 of type 'int', expected a name in a text, or None"),
        ("dense", {"loss": 1, "protocol": 2, "arch": 3}, "loss is 1 .*protocol is 2 .*arch is 3 "),
        ("dense", {"settings": [1]}, r"settings are \[1\] of type 'list', expected a dict of options by name"),
        ("dense", {"settings": {1: 2}}, "settings are {1: 2} of type 'dict', expected a dict of options by name"),
        ("dense", {"seed": "0"}, "seed is '0' of type 'str', expected a whole number"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) > 10 else repr(value),
)
def test_arguments_of_other_types_are_refused(files, source, options, message: str) -> None:
    """With what was expected."""
    with pytest.raises(UsageError, match=message):
        ddlabel.load(files.dense if source == "dense" else source, **options)


def test_what_is_asked_of_a_bundle_is_checked(files) -> None:
    """Epochs, temperatures, indices, nets, tensors: nothing makes numbers of nonsense."""
    loaded = ddlabel.load(files.dense)
    (images, targets), *_rest = DataLoader(loaded.dataset(), batch_size=12)
    pixels, classes = loaded.test_data(files.data)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 4))
    for epoch in (-1, 1.5, True, "1"):
        for asked in (loaded.dataset, loaded.lr, loaded.augmentation):
            with pytest.raises(UsageError, match="expected a whole number from 0"):
                asked(epoch)
        with pytest.raises(UsageError, match="expected a whole number from 0"):
            loaded.loss(torch.zeros(12, 4), targets, epoch=epoch)
    for temperature in (0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(UsageError, match=r"temperature is .*, expected a number above 0"):
            loaded.probabilities(targets, temperature=temperature)
    for value in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="images have 12 values that are not finite"):
            spoilt = images.clone()
            spoilt[:, 0, 0, 0] = value
            loaded.to_pixels(spoilt)
    with pytest.raises(TypeError, match="sample 'x' of an epoch, expected a whole number"):
        loaded.dataset()["x"]
    for wrong, message in (
        ((torch.nn.Flatten(), pixels, classes), "net has no parameters"),
        ((len, pixels, classes), "net is of type 'builtin_function_or_method', expected a torch.nn.Module"),
        ((net, "x", classes), "pixels are of type 'str'"),
        ((net, pixels, classes[1:]), r"labels have shape \(23,\), expected \(24,\)"),
        ((net, pixels[:0], classes[:0]), "the class of each of 1 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            loaded.accuracy(*wrong)
    for call in (loaded.encode, loaded.to_pixels, lambda value: loaded.loss(value, targets)):
        with pytest.raises(UsageError, match=r"of type 'list', expected a torch\.Tensor"):
            call([1])
    with pytest.raises(UsageError, match="targets are of type 'Tensor', expected the dict"):
        loaded.probabilities(targets["soft"])


def test_files_that_cannot_be_trained_on_are_refused(files, tmp_path: Path) -> None:
    """Teachers, labels that are not there, no file."""
    for source, options, message in (
        (files.teacher, {}, "kind 'teacher', expected a distilled bundle; run 'ddlabel distill' first"),
        (files.soft, {"labels": "dense"}, r"no dense labels \(labels: soft, hard\)"),
        (files.base, {"labels": "fkd"}, "no fkd labels"),
        (tmp_path / "none.ddset", {}, "no such file"),
    ):
        with pytest.raises(BundleError, match=message):
            ddlabel.load(source, **options)
    with pytest.raises(BundleError, match="no feature labels"):
        ddlabel.load(files.soft).features()


def test_stale_labels_are_passed_over_and_refused_by_name(files) -> None:
    """After the images changed, the labels of the old ones are of no use."""
    old = Bundle.open(files.soft)
    distilled = ddlabel.load(old).distilled
    record = StageRecord("test", {}, 0, [], {}, 0.0, 0.0, {})
    stale = old.with_stage(record, add=[image_section(distilled.images + 0.5, distilled.space)])

    assert "hard" == ddlabel.load(stale).kind
    with pytest.raises(BundleError, match="is stale: the images changed"):
        ddlabel.load(stale, labels="soft")


def test_a_learned_step_size_is_the_step_size(files) -> None:
    """Under the protocol that takes it, which is the one that `evaluate` follows; no positive number is refused."""
    record, old = StageRecord("test", {}, 0, [], {}, 0.0, 0.0, {}), Bundle.open(files.soft)
    learned, broken = (
        old.with_stage(record, add=[NewSection("student.lr", "student", {"student.lr": torch.tensor(lr)})])
        for lr in (0.03125, -1.0)
    )
    loaded = ddlabel.load(learned)

    assert ("datm", 0.03125, 0.03125) == (loaded.protocol, loaded.recipe.lr, loaded.learned_lr)
    assert "mtt" == ddlabel.load(learned, labels="hard").protocol
    assert 0.003125 == pytest.approx(loaded.lr(loaded.recipe.epochs))
    with pytest.raises(BundleError, match=r"learned step size 'student.lr' is -1\.0, expected a positive number"):
        ddlabel.load(broken)


def test_whitened_images_come_with_their_whitening(run_cli, files, tmp_path: Path) -> None:
    """Own pixels are whitened alike, and come back."""
    words = ("distill", "--data", files.data, "--method", "random", "--ipc", "2", "--space", "zca")
    assert 0 == run_cli(*words, "-o", tmp_path / "zca.ddset").code
    loaded = ddlabel.load(tmp_path / "zca.ddset")
    pictures = loaded.to_pixels(loaded.images)

    assert "zca" == loaded.space.kind
    assert torch.allclose(loaded.encode(pictures), loaded.images, atol=1e-3)
    assert torch.equal(pictures, loaded.to_pixels(loaded.encode(pictures)))


def test_a_net_of_other_outputs_is_refused(files) -> None:
    """Rather than trained on the first classes."""
    loaded = ddlabel.load(files.base)
    (_images, targets), *_rest = DataLoader(loaded.dataset(), batch_size=12)
    with pytest.raises(UsageError, match=r"logits have shape \(12, 1000\), expected \(batch, 4\)"):
        loaded.loss(torch.zeros(12, 1000), targets)
    with pytest.raises(UsageError, match="'dkd' changes with the epoch; pass epoch="):
        ddlabel.load(files.soft, loss="dkd").loss(torch.zeros(12, 4), targets)
    with pytest.raises(UsageError, match="epoch is -1, expected a whole number from 0"):
        loaded.dataset(-1)


def test_the_package_itself_is_cheap() -> None:
    """`import ddlabel` and its public names, without torch."""
    code = "import ddlabel, sys; dir(ddlabel); print(sorted({'torch', 'numpy', 'typer'} & sys.modules.keys()))"

    assert "[]" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout[:2]
    assert {"load", "Bundle", "LoadedBundle", "EpochDataset"} <= set(dir(ddlabel))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = ddlabel.lod
