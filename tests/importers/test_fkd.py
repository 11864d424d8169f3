"""Records of SRe2L's relabelling. The oracle makes each view as their code does: crops and mixes of whole batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import RandomSampler, TensorDataset

from ddlabel.distilled import read_distilled
from ddlabel.labels._labels import load_kind, read_labels

from .conftest import CONSTANTS, FACTS
from .test_folder import write_pictures

SIDE, BATCH, EPOCHS = 8, 5, 3


def write_records(
    root: Path, labels, mix: str, *, seed: int = 42, shift: float = 0.0, half: bool = False
) -> list[dict]:
    """Epochs of batches as the authors' code saves them; returns each view by (epoch, image)."""
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(TensorDataset(labels), generator=generator)
    source = np.random.Generator(np.random.PCG64(3))
    views: list[dict] = []
    for epoch in range(EPOCHS):
        folder = root / f"epoch_{epoch}"
        folder.mkdir(parents=True)
        order, by_image = torch.tensor(list(sampler)), {}
        for number, rows in enumerate(order.split(BATCH)):
            size = len(rows)
            sides = torch.from_numpy(source.integers(3, SIDE + 1, (size, 2)))
            starts = (torch.from_numpy(source.random((size, 2))) * (SIDE + 1 - sides)).long()
            crop, flip = torch.cat([starts, sides], dim=1), torch.from_numpy(source.integers(0, 2, size)).bool()
            partner = torch.from_numpy(source.permutation(size))
            weight = float(source.random()) * (0.6 if mix == "cutmix" else 1)  # its box covers 25 of 64 pixels
            box = [np.int64(1), np.int64(2), np.int64(6), np.int64(7)]
            main = partner if mix == "mixup" and weight < 0.5 else torch.arange(size)
            logits = 9.0 * functional.one_hot(labels[rows[main]], 4) + torch.from_numpy(source.random((size, 4)))
            logits = logits.half() if half else logits.float()
            mixed = [partner, weight, box] if mix == "cutmix" else [partner, weight, None]
            record = [crop.float() / SIDE + shift, flip, *([None] * 3 if mix == "none" else mixed), logits]
            torch.save(record, folder / f"batch_{number}.tar")
            for place, image in enumerate(rows.tolist()):
                other = place if mix == "none" else int(partner[place])
                by_image[image] = {
                    "own": (image, crop[place], bool(flip[place])),
                    "other": (int(rows[other]), crop[other], bool(flip[other])),
                    "weight": weight,
                    "logits": logits[place].float(),
                }
        views.append(by_image)
    return views


def drawn(images, image, crop, flip):
    """A crop resized to the whole side, maybe mirrored."""
    top, left, height, width = crop.tolist()
    part = images[image : image + 1, :, top : top + height, left : left + width]
    view = functional.interpolate(part, size=(SIDE, SIDE), mode="bilinear")[0]
    return view.flip(2) if flip else view


@pytest.fixture
def pictures(tmp_path: Path, units, labels) -> Path:
    return write_pictures(tmp_path / "pictures", units.repeat(4, 1, 1, 1), _many(labels), ["0", "1", "2", "3"])


def _many(labels):
    return torch.arange(4).repeat_interleave(8)


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_every_view_is_the_authors(tmp_path: Path, pictures, labels, imported, mix: str) -> None:
    records = write_records(tmp_path / "records", _many(labels), mix, half=mix == "cutmix")
    bundle = imported(tmp_path / "records", pictures, *FACTS, *CONSTANTS)
    images, found = read_distilled(bundle).images, read_labels(bundle, "fkd")
    kind = load_kind(found)

    assert found.values.shape == (32, EPOCHS, 4)
    assert found.section.codec["name"] == ("f16" if mix == "cutmix" else "f32")
    for epoch, by_image in enumerate(records):
        view = kind.view(images, torch.arange(32), torch.full((32,), epoch))
        for image, said in by_image.items():
            own, other = drawn(images, *said["own"]), drawn(images, *said["other"])
            if mix == "cutmix":
                own[:, 1:6, 2:7] = other[:, 1:6, 2:7]
            elif mix == "mixup":
                own = said["weight"] * own + (1 - said["weight"]) * other
            assert torch.allclose(view[image], own, atol=2e-4)
            assert torch.equal(found.values[image, epoch], said["logits"])
    assert bundle.manifest.history[0]["metrics"]["order_deviations"] > 4


def test_views_follow_their_images_into_another_order_of_classes(tmp_path: Path, units, labels, imported) -> None:
    names = ["ant", "bee", "cat", "dog"]
    pictures = write_pictures(tmp_path / "pictures", units.repeat(4, 1, 1, 1), _many(labels), names)
    write_records(tmp_path / "records", _many(labels), "cutmix")
    given = (pictures, tmp_path / "records", "--name", "x", "--mirror", "no", *CONSTANTS, "--classes")
    made = []
    for classes in ("ant,bee,cat,dog", "dog,cat,bee,ant"):
        bundle = imported(*given, classes)
        found = read_labels(bundle, "fkd")
        view = load_kind(found).view(read_distilled(bundle).images, torch.arange(32), torch.full((32,), 1))
        made.append((view, found.values))
    turned = torch.arange(32).reshape(4, 8).flip(0).flatten()

    assert torch.equal(made[1][0], made[0][0][turned])
    assert torch.equal(made[1][1], made[0][1][turned].flip(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({2: None}, "but no partners"),
        ({2: None, 4: None}, "but no partners"),
        ({3: 0.9}, "its box covers 0.39 of a view, its lambda leaves 0.10"),
        ({3: None}, "lambda is no number"),
        ({3: 1.5, 4: None}, "lambda is no number"),
    ],
)
def test_mixes_that_contradict_themselves_are_refused(tmp_path: Path, pictures, labels, refused, change, words) -> None:
    write_records(tmp_path / "records", _many(labels), "cutmix")
    path = tmp_path / "records" / "epoch_0" / "batch_0.tar"
    record = torch.load(path, weights_only=False)
    torch.save([change.get(place, part) for place, part in enumerate(record)], path)

    assert words in refused(3, tmp_path / "records", pictures, *FACTS, *CONSTANTS)


def test_only_the_first_epochs_can_be_taken(tmp_path: Path, pictures, labels, imported) -> None:
    write_records(tmp_path / "records", _many(labels), "none")
    bundle = imported(pictures, tmp_path / "records", *FACTS, *CONSTANTS, "--set", "views=2")

    assert bundle.section("labels.fkd").views == 2


def test_an_order_that_the_labels_contradict_is_refused(tmp_path: Path, pictures, labels, imported, refused) -> None:
    write_records(tmp_path / "records", _many(labels), "none", seed=7)
    given = (pictures, tmp_path / "records", *FACTS, *CONSTANTS)

    assert "no more often than by chance" in refused(3, *given)
    assert imported(*given, "--set", "shuffle_seed=7").section("labels.fkd").views == EPOCHS


def test_what_cannot_be_replayed_is_refused(tmp_path: Path, pictures, labels, refused) -> None:
    write_records(tmp_path / "shifted", _many(labels), "none", shift=0.03)
    assert "so that it cannot be replayed" in refused(3, pictures, tmp_path / "shifted", *FACTS, *CONSTANTS)
    write_records(tmp_path / "fewer", _many(labels)[:30], "none")
    assert "records of 30 images, there are 32 pictures" in refused(3, pictures, tmp_path / "fewer", *FACTS, *CONSTANTS)
    write_records(tmp_path / "gap", _many(labels), "none")
    (tmp_path / "gap" / "epoch_1" / "batch_1.tar").unlink()
    assert "without a gap" in refused(3, pictures, tmp_path / "gap", *FACTS, *CONSTANTS)
    assert "expected two folders" in refused(2, pictures, "--format", "fkd", *FACTS, *CONSTANTS)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, torch.zeros(5, 3), "coordinates"),
        (1, torch.tensor([0, 1, 2, 0, 0]), "outside 0 to 1"),
        (2, torch.tensor([0, 1, 2, 3, 9]), "outside 0 to 4"),
        (4, [0, 0, 9, 9], "box"),
        (5, torch.full((5, 4), float("nan")), "NaN"),
        (5, torch.zeros(5), "logits"),
    ],
)
def test_impossible_records_are_refused(tmp_path: Path, pictures, labels, refused, place, value, words) -> None:
    root = tmp_path / "records"
    write_records(root, _many(labels), "cutmix")
    path = root / "epoch_0" / "batch_0.tar"
    record = [
        torch.tensor([[0.0, 0, 1, 1]] * 5),
        torch.zeros(5).bool(),
        torch.arange(5),
        0.5,
        [0, 0, 4, 4],
        torch.zeros(5, 4),
    ]
    record[place] = value
    torch.save(record, path)

    assert words in refused(3, pictures, root, *FACTS, *CONSTANTS)
