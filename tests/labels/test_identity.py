"""Labels know whose they are: class order and input space of their images, naming both sides when they differ."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle
from ddlabel.errors import BundleError
from ddlabel.labels._labels import read_labels
from ddlabel.manifest import Manifest


def with_data(bundle: Bundle, **changes) -> Bundle:
    """The same file whose data record was changed afterwards."""
    record = copy.deepcopy(dict(bundle.manifest.document))
    record["data"] = {**record["data"], **changes}
    bundle.manifest = Manifest(record)
    return bundle


def test_labels_record_classes_and_space(files) -> None:
    """Beside the parameters of their kind."""
    bundle = Bundle.open(files.dense)
    parameters = bundle.section("labels.dense").parameters

    assert list(bundle.manifest.data["classes"]) == parameters["classes"]
    assert dict(bundle.manifest.data["space"]) == parameters["space"]
    assert {"grid": 3, "ratio": "1/2", "resize": "bilinear", "size": 8}.items() <= parameters.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: {"classes": [*reversed(data["classes"])]},
            "was made for classes 0, 1, 2, 3, the images have 3, 2",
        ),
        (lambda data: {"space": {**data["space"], "mean": [0.1, 0.2, 0.3]}}, "was made for space .* the images have"),
        (lambda data: {"space": {**data["space"], "kind": "zca"}}, "'kind': 'zca'"),
    ],
    ids=["class order", "normalisation", "whitening"],
)
@pytest.mark.fault(71)
def test_labels_of_another_class_order_or_normalisation_are_refused(files, change, message: str) -> None:
    """Chance accuracy from a permuted label axis is the commonest complaint of users."""
    bundle = Bundle.open(files.dense)
    changed = with_data(bundle, **change(bundle.manifest.data))

    with pytest.raises(BundleError, match=message):
        read_labels(changed, "dense")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"resize": "nearest"}, "'resize'"), ({"size": 16}, "16 px"), ({"grid": 4}, "9 views, its parameters make 16")],
)
@pytest.mark.fault(66, 67, 71)
def test_labels_of_another_crop_grid_or_resize_are_refused(files, parameters: dict, message: str) -> None:
    """The views could not be made again."""
    bundle = Bundle.open(files.dense)
    bundle.section("labels.dense").record["parameters"].update(parameters)

    with pytest.raises(BundleError, match=message):
        read_labels(bundle, "dense")


def test_refined_and_recoded_labels_keep_their_identity(run_cli, files, tmp_path: Path) -> None:
    """Through every stage that rewrites them."""
    run_cli("refine", files.gift, "--method", "recode", "--codec", "f16", "-o", tmp_path / "r.ddset")
    before = Bundle.open(files.dense).section("labels.dense").parameters

    assert before == Bundle.open(files.gift).section("labels.dense").parameters
    assert before == Bundle.open(tmp_path / "r.ddset").section("labels.dense").parameters
