"""fkd labels through every stage that rewrites or uses labels: refined, recoded, pruned, scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.labels._labels import load_kind, read_labels

QUICK = ("--arch", "mlp", "--epochs", "3", "--seeds", "1", "--json")


@pytest.fixture(scope="module", params=["seeded", "explicit"])
def fkd(request, run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight mixed views of twelve images, their draws from the seed or stored."""
    path = tmp_path_factory.mktemp("fkd") / f"{request.param}.ddset"
    outcome = run_cli(
        "augment-labels", files.base, "--teacher", files.teacher, "--kind", "fkd", "--set", "views=8",
        "--set", f"replay={request.param}", "--codec", "f16", "-o", path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return path


def test_gift_refines_and_trains_on_fkd_labels(run_cli, files, fkd: Path, tmp_path: Path) -> None:
    """Every view with the class of its image; both forms of the loss and refinement alone."""
    refined = run_cli("refine", fkd, "--recipe", "gift", "-o", tmp_path / "g.ddset")
    before, after = (read_labels(Bundle.open(path), "fkd") for path in (fkd, tmp_path / "g.ddset"))

    assert 0 == refined.code, refined.err
    assert ("logit", "unit") == (before.domain, after.domain)
    torch.testing.assert_close(after.values.norm(dim=-1), torch.ones(12, 8))
    for loss in ("gift", "native", "cosine"):
        outcome = run_cli("evaluate", tmp_path / "g.ddset", "--data", files.data, "--loss", loss, *QUICK)
        assert 0 == outcome.code, outcome.err
        assert 12 * 4 == json.loads(outcome.out)["evaluation"]["results"][0]["samples_seen"]


def test_pruned_fkd_labels_keep_their_views(run_cli, files, fkd: Path, tmp_path: Path) -> None:
    """A quarter of the views: their labels are those of the same views before, and they are what students see."""
    pruned = run_cli(
        "refine", fkd, "--method", "recode", "--codec", "prune", "--set", "keep=0.25", "--set", "seed=3",
        "-o", tmp_path / "p.ddset",
    )  # fmt: skip
    assert 0 == pruned.code, pruned.err
    before, after = (read_labels(Bundle.open(path), "fkd") for path in (fkd, tmp_path / "p.ddset"))
    ids = after.view_ids.long()
    picked = before.values.gather(1, ids[..., None].expand(-1, -1, 4))
    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(12).repeat_interleave(2)

    assert (12, 2) == tuple(ids.shape)
    torch.testing.assert_close(picked, after.values)
    assert torch.equal(
        load_kind(before).view(images, rows, ids.flatten()), load_kind(after).view(images, rows, ids.flatten())
    )
    assert 0 == run_cli("evaluate", tmp_path / "p.ddset", "--data", files.data, *QUICK).code


def test_pruned_labels_are_not_recoded_as_if_they_were_whole(run_cli, fkd: Path, tmp_path: Path) -> None:
    """Another codec would forget which views they are of."""
    prune = ("--method", "recode", "--codec", "prune", "--set", "keep=0.5")
    run_cli("refine", fkd, *prune, "-o", tmp_path / "p.ddset")
    other = run_cli("refine", tmp_path / "p.ddset", "--method", "recode", "--codec", "q4", "-o", tmp_path / "q.ddset")
    inner = run_cli("refine", tmp_path / "p.ddset", *prune, "--set", "values=q4", "-o", tmp_path / "r.ddset")

    assert other.code in {2, 3}
    assert "prune" in other.err
    assert 0 == inner.code, inner.err


def test_baselines_label_random_images_with_the_same_views(run_cli, files, fkd: Path) -> None:
    """Crops, mixes and codec alike."""
    outcome = run_cli(
        "evaluate", fkd, "--data", files.data, "--baselines", "--teacher", files.teacher, "--equal-bytes", *QUICK
    )
    results = json.loads(outcome.out)["evaluation"]["results"]

    assert 0 == outcome.code, outcome.err
    assert ["kl_t2", "ce", "kl_t2", "ce", "ce"] == [result["loss"]["name"] for result in results]
    assert 1 == len({result["samples_seen"] for result in results})


def test_the_smallest_codec_within_a_divergence_is_chosen(run_cli, files, fkd: Path, tmp_path: Path) -> None:
    """On labels alone; the table is kept in the history; without auto, --max-kl is refused."""
    outcome = run_cli(
        "refine", fkd, "--method", "recode", "--codec", "auto", "--max-kl", "0.01", "-o", tmp_path / "a.ddset"
    )
    bundle = Bundle.open(tmp_path / "a.ddset")
    entry, section = bundle.manifest.history[-1], bundle.section("labels.fkd")
    fitting = [row for row in entry["metrics"]["candidates"] if row["kl_t1"] <= 0.01]
    wrong = run_cli("refine", fkd, "--method", "recode", "--max-kl", "0.01", "-o", tmp_path / "b.ddset")

    assert 0 == outcome.code, outcome.err
    assert min(row["bytes"] for row in fitting) == next(
        row["bytes"] for row in fitting if row["codec"] == section.codec["name"]
    )
    assert section.record["fidelity"]["kl_t1"] <= 0.01
    assert entry["config"]["codec"] == section.codec["name"]
    assert 2 == wrong.code


def test_views_are_not_augmented_further_unless_asked(run_cli, files, fkd: Path) -> None:
    """Labels are of these views; students of hard labels keep what the protocol gives them, and its loss is taken."""
    rows, losses = {}, {}
    for protocol in ("dm", "fkd"):
        outcome = run_cli(
            "evaluate",
            fkd,
            "--data",
            files.data,
            "--baselines",
            "--teacher",
            files.teacher,
            "--protocol",
            protocol,
            *QUICK,
        )
        results = json.loads(outcome.out)["evaluation"]["results"]
        rows[protocol] = [(result["labels"], result["recipe"]["augment"]) for result in results]
        losses[protocol] = [result["loss"]["name"] for result in results]
    asked = run_cli("evaluate", fkd, "--data", files.data, "--set", "augment=flip", *QUICK)

    assert [("fkd", "none"), ("hard", "dsa"), ("fkd", "none")] == rows["dm"]
    assert [("fkd", "none"), ("hard", "imagenet-crop"), ("fkd", "none")] == rows["fkd"]
    assert {"dm": ["kl_t2", "ce", "kl_t2"], "fkd": ["kl", "ce", "kl"]} == losses
    assert "flip" == json.loads(asked.out)["evaluation"]["results"][0]["recipe"]["augment"]


def test_no_codec_is_chosen_for_pruned_labels(run_cli, fkd: Path, tmp_path: Path) -> None:
    """Refused before candidates are tried."""
    prune = ("--method", "recode", "--codec", "prune", "--set", "keep=0.5")
    run_cli("refine", fkd, *prune, "-o", tmp_path / "p.ddset")
    outcome = run_cli(
        "refine", tmp_path / "p.ddset", "--method", "recode", "--codec", "auto", "-o", tmp_path / "q.ddset"
    )

    assert 2 == outcome.code
    assert "for which no codec can be chosen" in outcome.err
