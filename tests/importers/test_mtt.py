"""Folders as MTT, FTD, DATM and PAD write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.distilled import read_distilled
from ddlabel.labels._labels import read_labels
from ddlabel.preprocess import read_space

from .conftest import CONSTANTS, FACTS

NORMALISED = (*FACTS, *CONSTANTS, "--space", "normalised")


def write_set(folder: Path, images, labels, *, iteration: str = "best", lr: float | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(images, folder / f"images_{iteration}.pt")
    torch.save(labels, folder / f"labels_{iteration}.pt")
    if lr is not None:
        torch.save(torch.tensor(lr), folder / f"lr_{iteration}.pt")
    return folder


@pytest.fixture
def images(units):
    return (units - 0.5) / 0.25


@pytest.fixture
def logits(labels):
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    return noise + 6 * torch.nn.functional.one_hot(labels, 4)


def test_images_and_classes_are_those_of_the_files(tmp_path: Path, images, labels, imported) -> None:
    bundle = imported(write_set(tmp_path / "set", images, labels), *NORMALISED)
    distilled = read_distilled(bundle)
    data, entry = bundle.manifest.data, bundle.manifest.history[0]

    assert torch.equal(distilled.images, images)
    assert torch.equal(distilled.labels, labels)
    assert distilled.space.mean == (0.5, 0.4, 0.3)
    assert (data["name"], data["classes"], data["flip"]) == ("pets", ["ant", "bee", "cat", "dog"], True)
    assert data["fingerprint"] is None
    assert data["train_images"] is None
    assert entry["stage"] == "import"
    assert entry["config"]["facts"]["values"] == "format"
    assert entry["config"]["facts"]["space"] == "option"
    assert [source["name"] for source in entry["config"]["sources"]] == ["images_best.pt", "labels_best.pt"]
    assert all(len(source["sha256"]) == 64 for source in entry["config"]["sources"])
    assert str(tmp_path).encode() not in bundle.manifest.to_json()


def test_learned_logits_and_step_size_are_stored_as_distill_stores_them(
    tmp_path: Path, images, labels, logits, imported
) -> None:
    bundle = imported(write_set(tmp_path / "set", images, logits, lr=0.0125), *NORMALISED)
    soft = read_labels(bundle, "soft")

    assert torch.equal(soft.values[:, 0], logits)
    assert soft.domain == "logit"
    assert soft.parameters["learned"] is True
    assert float(bundle.tensor("student.lr")) == pytest.approx(0.0125)
    assert torch.equal(read_distilled(bundle).labels, labels)
    assert "largest soft label" in bundle.manifest.history[0]["config"]["facts"]["labels"]


def test_the_iteration_is_that_of_the_file_given_else_best_else_the_only_one(
    tmp_path: Path, images, labels, imported, refused
) -> None:
    folder = write_set(tmp_path / "set", images, labels, iteration="100")
    write_set(folder, images * 2, labels, iteration="20")

    assert "100" in refused(2, folder, *NORMALISED)
    assert torch.equal(imported(folder, *NORMALISED, "--set", "iteration=20").tensor("images.pixels"), images * 2)
    assert torch.equal(imported(folder / "images_100.pt", *NORMALISED).tensor("images.pixels"), images)
    write_set(folder, images * 3, labels, iteration="best")
    bundle = imported(folder, *NORMALISED)
    assert torch.equal(bundle.tensor("images.pixels"), images * 3)
    assert bundle.manifest.history[0]["metrics"]["iteration"] == "best"


def test_the_unwhitened_twin_is_pixels(tmp_path: Path, images, units, labels, imported) -> None:
    folder = write_set(tmp_path / "set", images, labels)
    torch.save(units, folder / "images_zca_best.pt")
    bundle = imported(folder / "images_zca_best.pt", *FACTS, *CONSTANTS)

    assert torch.allclose(read_space(bundle).decode(bundle.tensor("images.pixels")), units, atol=1e-6)
    assert bundle.manifest.history[0]["config"]["values"] == "units"


def test_whitened_images_get_the_whitening_of_the_data_and_the_files_check_it(
    tmp_path: Path, tiny, labels, run_cli, imported
) -> None:
    from ddlabel.data._dataset import load
    from ddlabel.zca import fit_zca

    dataset = load(tiny, validation=0.0)
    zca = fit_zca(dataset.train.pixels)
    units = dataset.train.pixels[::6].float() / 255
    folder = write_set(tmp_path / "set", zca.whiten(units), dataset.train.labels[::6])
    torch.save(units, folder / "images_zca_best.pt")
    bundle = imported(folder, "--data", tiny, "--space", "zca")
    entry = bundle.manifest.history[0]

    assert torch.equal(bundle.tensor("transform.zca.matrix"), zca.matrix)
    assert entry["metrics"]["twin_rmse"] < 1e-5
    assert entry["config"]["facts"]["zca"] == "fitted on 48 training images"
    assert bundle.manifest.data["fingerprint"] == dataset.fingerprint
    assert bundle.manifest.data["validation"]["fraction"] == 0
    torch.save(units, folder / "images_zca_10.pt")
    torch.save(zca.whiten(units), folder / "images_10.pt")
    torch.save(dataset.train.labels[::6], folder / "labels_10.pt")
    (folder / "images_zca_best.pt").unlink()
    metrics = imported(folder, "--data", tiny, "--space", "zca").manifest.history[0]["metrics"]
    assert metrics["twin_rmse"] < 1e-5
    assert metrics["twin_iteration"] == "10"
    torch.save(1 - units, folder / "images_zca_best.pt")
    outcome = run_cli("import", folder, "--data", tiny, "--space", "zca", "-o", tmp_path / "odd.ddset")
    assert "warning: decoded images differ from those that the files show" in outcome.err


def test_everything_that_is_missing_is_listed_at_once_with_the_guess(tmp_path: Path, images, labels, refused) -> None:
    folder = write_set(tmp_path / "set", images, labels)
    error = refused(2, folder)

    assert len(error.splitlines()) == 5
    for option in ("--space normalised, imagenet or zca", "--mean and --std", "--name NAME", "--classes", "--mirror"):
        assert option in error
    assert "look normalised: --space normalised" in error
    assert "ZCA-whitened: --space zca" in refused(2, write_set(tmp_path / "set", images * 0.2, labels))
    assert "--data SPEC" in refused(2, folder, *FACTS, "--space", "zca")


def test_a_guess_is_taken_only_when_the_user_says_so(tmp_path: Path, images, labels, imported) -> None:
    bundle = imported(write_set(tmp_path / "set", images, labels), *FACTS, *CONSTANTS, "--accept-guess")

    assert bundle.manifest.history[0]["config"]["facts"]["space"] == "guess accepted"


def test_logits_need_a_negative_value_to_be_known_as_such(tmp_path: Path, images, logits, imported, refused) -> None:
    """DATM and PAD learn logits; a file of numbers from 0 may hold anything."""
    folder = write_set(tmp_path / "set", images, logits - logits.min() + 0.5)

    assert "rows are no distributions: --domain logit" in refused(2, folder, *NORMALISED)
    bundle = imported(folder, *NORMALISED, "--domain", "logit")
    assert bundle.manifest.history[0]["config"]["facts"]["domain"] == "option"
    assert read_labels(bundle, "soft").parameters["learned"] is True
    bundle = imported(write_set(folder, images, logits), *NORMALISED)
    assert bundle.manifest.history[0]["config"]["facts"]["domain"] == "format (DATM, PAD)"


def test_what_was_learned_for_whitened_inputs_is_said_to_be(
    tmp_path: Path, images, units, logits, run_cli, imported
) -> None:
    folder = write_set(tmp_path / "set", images, logits, lr=0.1)
    torch.save(units, folder / "images_zca_best.pt")
    given = (folder / "images_zca_best.pt", *FACTS, *CONSTANTS)
    facts = imported(*given).manifest.history[0]["config"]["facts"]
    outcome = run_cli("import", *given, "-o", tmp_path / "x.ddset")

    assert "its labels and step size were learned for whitened inputs" in outcome.err
    assert facts["domain"] == "format (DATM, PAD), learned for whitened inputs"
    assert facts["lr"] == "lr_best.pt, learned for whitened inputs"


def test_a_step_size_that_is_none_can_be_left_out(tmp_path: Path, images, labels, run_cli) -> None:
    folder = write_set(tmp_path / "set", images, labels, lr=-0.5)
    given = ("import", folder, *NORMALISED, "-o", tmp_path / "x.ddset")
    refusal, outcome = run_cli(*given), run_cli(*given, "--set", "lr=drop")

    assert refusal.code == 3
    assert "leave it out with --set lr=drop" in refusal.err
    assert outcome.code == 0
    assert "its step size is left out" in outcome.err


def test_rows_that_are_distributions_are_no_logits_unless_somebody_says_so(
    tmp_path: Path, images, logits, imported, refused
) -> None:
    folder = write_set(tmp_path / "set", images, logits.softmax(dim=1))

    assert "all rows are distributions: --domain prob" in refused(2, folder, *NORMALISED)
    bundle = imported(folder, *NORMALISED, "--domain", "prob")
    assert read_labels(bundle, "soft").domain == "prob"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"images": torch.zeros(8, 8, 8)}, 3, "where images belong"),
        ({"images": torch.zeros(8, 5, 8, 8)}, 3, "1 or 3"),
        ({"images": torch.full((8, 3, 8, 8), float("nan"))}, 3, "image 0 holds NaN"),
        ({"images": [1, 2]}, 3, "a list where images belong"),
        ({"images": torch.zeros(7, 3, 8, 8)}, 3, "7 images and 8 labels"),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])}, 3, "image 7 has class 4, expected 0 to 3"),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 2, 3, -1])}, 3, "label -1 of image 7"),
        ({"labels": torch.full((8,), 0.5)}, 3, "label 0.5"),
        ({"labels": -torch.ones(8, 5)}, 3, "labels of 5 classes, there are 4 names"),
        ({"labels": torch.full((8, 4), float("inf"))}, 3, "NaN or infinity"),
        ({"lr": torch.tensor(-0.1)}, 3, "above 0"),
        ({"lr": torch.tensor(float("nan"))}, 3, "above 0"),
    ],
)
def test_impossible_contents_are_refused(tmp_path: Path, images, labels, refused, change, code, words) -> None:
    content = {"images": images + 0.0, "labels": labels} | change
    folder = write_set(tmp_path / "set", content["images"], content["labels"])
    if "lr" in content:
        torch.save(content["lr"], folder / "lr_best.pt")

    assert words in refused(code, folder, *NORMALISED)


def test_labels_that_are_missing_are_refused(tmp_path: Path, images, labels, refused) -> None:
    folder = write_set(tmp_path / "set", images, labels)
    (folder / "labels_best.pt").unlink()

    assert "no 'labels_best.pt'" in refused(3, folder, *NORMALISED)


def test_images_are_stored_class_by_class(tmp_path: Path, images, labels, imported) -> None:
    order = torch.tensor([5, 0, 3, 6, 1, 2, 7, 4])
    bundle = imported(write_set(tmp_path / "set", images[order], labels[order].float()), *NORMALISED)

    assert torch.equal(read_distilled(bundle).labels, labels)
    assert torch.equal(bundle.tensor("images.pixels")[:2], images[[0, 1]])


def test_an_imported_bundle_goes_through_all_stages(tmp_path: Path, files, tiny, run_cli) -> None:
    """Like one of `distill`: looked at, labelled, refined, scored."""
    from ddlabel.bundle import Bundle

    base = Bundle.open(files.base)
    images, hard = read_distilled(base).images, read_distilled(base).labels
    folder, out = write_set(tmp_path / "set", images, hard, lr=0.05), tmp_path / "a.ddset"
    labelled, refined, scored = (tmp_path / f"{name}.ddset" for name in ("soft", "gift", "scored"))
    for command in (
        ["import", folder, "--data", tiny, "--space", "normalised", "-o", out],
        ["inspect", out, "--verify", "--grid", tmp_path / "a.png"],
        ["augment-labels", out, "--teacher", files.teacher, "--kind", "soft", "-o", labelled],
        ["refine", labelled, "--method", "gift", "-o", refined],
        ["evaluate", refined, "--data", tiny, "--arch", "convnet-d1-w8", "--seeds", "1", "--epochs", "2", "-o", scored],
    ):
        outcome = run_cli(*command)
        assert outcome.code == 0, outcome.err

    assert torch.equal(read_distilled(Bundle.open(out)).images, images)
    assert Bundle.open(out).manifest.data["space"] == base.manifest.data["space"]
    assert Bundle.open(scored).manifest.history[0]["stage"] == "import"
    assert Bundle.open(scored).manifest.evaluations[-1]["same_source"] is True
