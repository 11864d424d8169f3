"""What `export` writes, `import` reads back without options: images, labels of every kind, classes, space."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.distilled import read_distilled
from ddlabel.labels._kind import PRIVILEGED
from ddlabel.labels._labels import load_kind, read_labels
from ddlabel.labels._privileged import read_privileged

SUFFIXES = {"npz": ".npz", "parquet": ".parquet", "dc": ".pt", "webdataset": ".tar"}
FACTS = ("name", "classes", "flip", "space")


@pytest.fixture(scope="module")
def learned(tiny: str, run_cli, tmp_path_factory) -> Path:
    """Float images with learned soft labels and a step size."""
    folder = tmp_path_factory.mktemp("learned")
    noise = torch.Generator().manual_seed(5)
    torch.save(torch.randn(8, 3, 8, 8, generator=noise), folder / "images_best.pt")
    hot = torch.nn.functional.one_hot(torch.arange(4).repeat_interleave(2), 4)
    torch.save(5.0 * hot - torch.rand(8, 4, generator=noise), folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr_best.pt")
    outcome = run_cli(
        "import", folder, "--data", tiny, "--space", "normalised", "--mirror", "no", "-o", folder / "x.ddset"
    )
    assert outcome.code == 0, outcome.err
    return folder / "x.ddset"


@pytest.fixture(scope="module")
def whitened(tiny: str, run_cli, tmp_path_factory) -> Path:
    """Whitened images with learned logits and a step size, and the whitening that no file of MTT holds."""
    folder = tmp_path_factory.mktemp("whitened")
    noise = torch.Generator().manual_seed(6)
    torch.save(0.3 * torch.randn(8, 3, 8, 8, generator=noise), folder / "images_best.pt")
    hot = torch.nn.functional.one_hot(torch.arange(4).repeat_interleave(2), 4)
    torch.save(5.0 * hot - torch.rand(8, 4, generator=noise), folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr_best.pt")
    outcome = run_cli("import", folder, "--data", tiny, "--space", "zca", "-o", folder / "x.ddset")
    assert outcome.code == 0, outcome.err
    assert "the whitening is not verified" in outcome.err
    return folder / "x.ddset"


@pytest.fixture(scope="module")
def labelled(files, run_cli, tmp_path_factory) -> Path:
    """One bundle with labels of every kind: dense by q8, fkd with stored draws, feature and attention."""
    folder = tmp_path_factory.mktemp("labelled")
    path = files.dense
    for kind, more in (
        ("fkd", ("--set", "views=3", "--set", "replay=explicit", "--codec", "f16")),
        ("feature", ("--set", "norm=zscore")),
        ("attention", ()),
        ("soft", ("--codec", "q4")),
    ):
        output = folder / f"{kind}.ddset"
        outcome = run_cli("augment-labels", path, "--teacher", files.teacher, "--kind", kind, *more, "-o", output)
        assert outcome.code == 0, outcome.err
        path = output
    return path


def there_and_back(run_cli, source: Path, tmp_path: Path, name: str, *more: str) -> Bundle:
    target, output = tmp_path / f"export-{name}", tmp_path / "back.ddset"
    target = target.with_suffix(SUFFIXES.get(name, ""))
    for command in (["export", source, "--format", name, "-o", target, *more], ["import", target, "-o", output]):
        outcome = run_cli(*command)
        assert outcome.code == 0, outcome.err
    return Bundle.open(output, verify=True)


def check_labels(found: Bundle, source: Bundle, kind: str, *, said: tuple[str, ...] = ("codec",)) -> None:
    """Values, and everything that is needed to make their views again; by the same codec, unless it is not `said`."""
    read = read_privileged if kind in PRIVILEGED else read_labels
    ours, theirs = read(found, kind), read(source, kind)

    if theirs.section.domain in {"prob", "unit"}:  # rows that are normalised when they are read
        torch.testing.assert_close(ours.values, theirs.values, atol=3e-7, rtol=0)
    else:
        assert torch.equal(ours.values, theirs.values)
    assert dict(ours.parameters) == dict(theirs.parameters)
    for key in ("domain", "refined", *said):
        assert getattr(ours.section, key) == getattr(theirs.section, key)
    assert ours.section.record["teacher"] == theirs.section.record["teacher"]


@pytest.mark.parametrize("name", ["npz", "mtt", "dc"])
def test_float_images_come_back_bit_for_bit(learned: Path, run_cli, tmp_path: Path, name: str) -> None:
    bundle, source = there_and_back(run_cli, learned, tmp_path, name), Bundle.open(learned)

    assert torch.equal(bundle.tensor("images.pixels"), source.tensor("images.pixels"))
    assert torch.equal(read_distilled(bundle).labels, read_distilled(source).labels)
    for key in FACTS:
        assert bundle.manifest.data[key] == source.manifest.data[key]
    if name != "dc":  # which has no place for them
        assert read_labels(bundle, "soft").parameters["learned"] is True
        check_labels(bundle, source, "soft")
    assert torch.equal(bundle.tensor("student.lr"), source.tensor("student.lr"))


@pytest.mark.parametrize("name", ["folder", "npz", "parquet", "webdataset"])
def test_pixels_come_back_bit_for_bit(files, run_cli, tmp_path: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    bundle, source = there_and_back(run_cli, files.soft, tmp_path, name), Bundle.open(files.soft)

    assert torch.equal(bundle.tensor("images.pixels"), source.tensor("images.pixels"))
    assert torch.equal(read_distilled(bundle).labels, read_distilled(source).labels)
    for key in FACTS:
        assert bundle.manifest.data[key] == source.manifest.data[key]
    if name != "folder":
        check_labels(bundle, source, "soft")
    export = bundle.manifest.history[0]["config"]["export"]
    assert export["source"]["content"] == source.content
    assert export["format"] == name


@pytest.mark.parametrize("name", ["npz", "parquet", "webdataset"])
def test_labels_of_every_kind_come_back(labelled: Path, run_cli, tmp_path: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    bundle, source = there_and_back(run_cli, labelled, tmp_path, name), Bundle.open(labelled)
    kinds = ["dense", "fkd", "soft", "attention", *(["feature"] if name == "npz" else [])]

    for kind in kinds:
        check_labels(bundle, source, kind)
    images = read_distilled(source).images
    image, view = torch.arange(len(images)), torch.full((len(images),), 2)
    again, before = (load_kind(read_labels(each, "fkd")).view(images, image, view) for each in (bundle, source))
    assert torch.equal(again, before)


def test_refined_labels_stay_refined(files, run_cli, tmp_path: Path) -> None:
    bundle, source = there_and_back(run_cli, files.gift, tmp_path, "npz"), Bundle.open(files.gift)

    assert read_labels(source, "dense").refined
    check_labels(bundle, source, "dense", said=())  # q8 of normalised rows is not q8 of the rows before
    export = bundle.manifest.history[0]["config"]["export"]["labels"]["dense"]
    assert export["codec"]["name"] == "q8"
    assert export["refined"]["method"] == "gift"


def test_pruned_labels_come_back(files, run_cli, tmp_path: Path) -> None:
    pruned = tmp_path / "pruned.ddset"
    given = ("--teacher", files.teacher, "--kind", "fkd", "--set", "views=6", "--codec", "prune", "--set", "keep=0.5")
    outcome = run_cli("augment-labels", files.base, *given, "-o", pruned)
    assert outcome.code == 0, outcome.err
    bundle, source = there_and_back(run_cli, pruned, tmp_path, "npz"), Bundle.open(pruned)

    check_labels(bundle, source, "fkd")
    assert torch.equal(read_labels(bundle, "fkd").view_ids, read_labels(source, "fkd").view_ids)


def test_the_whitening_comes_back(whitened: Path, run_cli, tmp_path: Path) -> None:
    bundle, source = there_and_back(run_cli, whitened, tmp_path, "npz"), Bundle.open(whitened)

    for name in ("mean", "matrix", "inverse"):
        assert torch.equal(bundle.tensor(f"transform.zca.{name}"), source.tensor(f"transform.zca.{name}"))
    assert bundle.manifest.data["space"] == source.manifest.data["space"]
    assert torch.equal(read_distilled(bundle).images, read_distilled(source).images)


def test_the_unwhitened_file_of_an_export_is_not_whitened(whitened: Path, run_cli, tmp_path: Path) -> None:
    """The space of the description is that of the other images; what was learned for those is said to be."""
    folder, output = tmp_path / "mtt", tmp_path / "back.ddset"
    assert run_cli("export", whitened, "--format", "mtt", "-o", folder).code == 0
    outcome = run_cli("import", folder / "images_zca_best.pt", "-o", output)
    assert outcome.code == 0, outcome.err
    bundle, source = Bundle.open(output), read_distilled(Bundle.open(whitened))
    facts = bundle.manifest.history[0]["config"]["facts"]

    assert bundle.manifest.data["space"]["kind"] == "normalised"
    shown = read_distilled(bundle)
    assert torch.allclose(shown.space.decode(shown.images), source.space.decode(source.images), atol=1e-5)
    assert "labels and step size were learned for whitened inputs" in outcome.err
    assert facts["lr"].endswith("learned for whitened inputs")
    assert facts["domain"].endswith("learned for whitened inputs")


def test_classes_of_one_name_stay_apart(run_cli, imported, units, labels, tmp_path: Path) -> None:
    """ImageNet has two cranes."""
    from .test_npz import described, save

    names = [{"name": name} for name in ("crane", "bee", "cat", "crane")]
    arrays = {"images_float": units.numpy(), "labels": labels.numpy()}
    text = json.dumps(described(classes=names, images={"form": "float32"}))
    first = tmp_path / "first.ddset"
    imported(save(tmp_path / "x.npz", **arrays, ddset_export=np.array(text))).save(first)
    for name in ("npz", "folder"):
        (tmp_path / name).mkdir()
        bundle = there_and_back(run_cli, first, tmp_path / name, name)
        assert read_distilled(bundle).labels.tolist() == labels.tolist()
        assert bundle.manifest.data["classes"] == ["crane", "bee", "cat", "crane"]


def test_pictures_of_stretched_contrast_come_back_within_half_a_step(learned: Path, run_cli, tmp_path: Path) -> None:
    bundle = there_and_back(run_cli, learned, tmp_path, "folder", "--view", "contrast")
    found, wanted = (read_distilled(each) for each in (bundle, Bundle.open(learned)))
    said = json.loads((tmp_path / "export-folder" / "ddset-export.json").read_text())["images"]
    expected = wanted.space.decode(wanted.images).clamp(said["low"], said["high"])
    half = (said["high"] - said["low"]) / 510

    assert float((found.space.decode(found.images) - expected).abs().max()) < half + 1e-5
    assert 0.001 < said["clipped"] < 0.1


@pytest.mark.parametrize("name", ["npz", "dc"])
def test_an_export_of_one_file_is_checked_too_and_may_be_renamed(
    learned: Path, run_cli, refused, imported, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"a{SUFFIXES[name]}"
    assert run_cli("export", learned, "--format", name, "-o", path).code == 0
    renamed = path.rename(tmp_path / f"b{SUFFIXES[name]}")
    Path(f"{path}.ddset-export.json").rename(f"{renamed}.ddset-export.json")
    imported(renamed)
    data = json.loads(Path(f"{renamed}.ddset-export.json").read_text())
    data["files"][path.name]["sha256"] = "0" * 64
    Path(f"{renamed}.ddset-export.json").write_text(json.dumps(data))

    assert "was changed after it was exported" in refused(3, renamed)


def test_a_step_size_can_be_left_out(learned: Path, run_cli, imported, tmp_path: Path) -> None:
    for name in ("mtt", "npz", "dc"):
        path = (tmp_path / f"x-{name}").with_suffix(SUFFIXES.get(name, ""))
        assert run_cli("export", learned, "--format", name, "-o", path).code == 0
        assert "student.lr" not in [section.name for section in imported(path, "--set", "lr=drop").sections()]


def test_labels_of_another_input_space_are_left_out(labelled: Path, run_cli, tmp_path: Path) -> None:
    """They were made from other inputs than the ones that students would see."""
    path, output = tmp_path / "x.npz", tmp_path / "x.ddset"
    assert run_cli("export", labelled, "--format", "npz", "-o", path).code == 0
    outcome = run_cli("import", path, "--mean", "0,0,0", "--std", "1,1,1", "-o", output)

    assert outcome.code == 0, outcome.err
    assert "note: dense labels are left out, they were made for another space" in outcome.err
    assert {section.role for section in Bundle.open(output).sections("labels")} == {"hard", "soft"}


def test_views_follow_their_images_where_draws_are_stored(labelled: Path, files, run_cli, tmp_path: Path) -> None:
    """A seed draws the views of a place; images in another order would have others."""
    seeded = tmp_path / "seeded.ddset"
    given = ("--teacher", files.teacher, "--kind", "fkd", "--set", "views=3", "--codec", "f32")
    assert run_cli("augment-labels", files.base, *given, "-o", seeded).code == 0
    turned, mixed = torch.arange(12).reshape(4, 3).flip(1).flatten(), torch.arange(12).reshape(4, 3).T.flatten()
    for source, kept in ((labelled, True), (seeded, False)):
        path, output = tmp_path / "x.npz", tmp_path / "x.ddset"
        assert run_cli("export", source, "--format", "npz", "-o", path, "--force").code == 0
        with np.load(path) as arrays:
            changed = {
                key: array[turned.numpy()][mixed.numpy()] if array.shape[:1] == (12,) and "norm" not in key else array
                for key, array in arrays.items()
            }
        order = turned[mixed]
        place = torch.argsort(order).numpy()
        if kept:
            partner = changed["labels_fkd_draws_partner"]
            changed["labels_fkd_draws_partner"] = place[partner.astype(np.int64)]
        np.savez(path, **changed)
        Path(f"{path}.ddset-export.json").unlink()
        outcome = run_cli("import", path, "-o", output, "--force")
        assert outcome.code == 0, outcome.err
        bundle = Bundle.open(output)
        if not kept:
            assert "note: x.npz: fkd labels are left out, their views follow from the order" in outcome.err
            continue
        every, view = torch.arange(12), torch.full((12,), 1)
        found, before = (
            load_kind(read_labels(each, "fkd")).view(read_distilled(each).images, every, view)
            for each in (bundle, Bundle.open(source))
        )
        assert torch.equal(found, before[turned])
        values = read_labels(Bundle.open(source), "fkd").values
        assert torch.equal(read_labels(bundle, "fkd").values, values[turned])


def test_columns_of_an_export_are_what_its_description_says(labelled: Path, run_cli, refused, tmp_path: Path) -> None:
    """Lists of numbers that are features are no soft labels."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    assert run_cli("export", labelled, "--format", "parquet", "--labels", "attention", "-o", path).code == 0
    output = tmp_path / "x.ddset"
    assert run_cli("import", path, "-o", output).code == 0

    assert {section.role for section in Bundle.open(output).sections("labels")} == {"hard", "attention"}
    assert "says itself which labels it holds" in refused(2, path, "--set", "soft=labels_attention")
