"""Trajectory matching through the command line: experts in several files, what is stored, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddlabel.bundle import Bundle, NewSection
from ddlabel.stages.distill import run as distill_stage
from ddlabel.trajectories import Trajectories

from ..conftest import Outcome, run_command, write_tiny_npz

NET = "convnet-d1-w8"
QUICK = ("--set", "steps=3", "--set", "syn_steps=3", "--set", "expert_epochs=1", "--set", "max_start_epoch=2")


def train(data: str, path: Path, *more: str) -> Outcome:
    base = ("train-teacher", "--data", data, "--arch", NET, "--experts", "2", "--epochs", "3", "--set", "batch=16")
    return run_command(*base, *more, "-o", path)


def distill(data: str, path: Path, method: str, experts: list[Path], *more: str) -> Outcome:
    teachers = [part for file in experts for part in ("--teacher", str(file))]
    return run_command("distill", "--data", data, "--method", method, "--ipc", "2", *teachers, *more, "-o", path)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> dict[str, Path]:
    """Experts 0 and 1, experts 2 and 3, and others that do not fit them."""
    folder = tmp_path_factory.mktemp("experts")
    made = {
        "first": (),
        "second": ("--first-expert", "2"),
        "wider": ("--arch", "convnet-d1-w4", "--first-expert", "4"),
        "white": ("--space", "zca", "--first-expert", "6"),
        "more-data": ("--validation", "0.3", "--first-expert", "8"),
        "short": ("--keep-epochs", "0-1", "--first-expert", "10"),
    }
    for name, options in made.items():
        outcome = train(tiny, folder / f"{name}.ddset", *options)
        assert outcome.code == 0, outcome.err
    plain = ("train-teacher", "--data", tiny, "--arch", NET, "--epochs", "1", "-o", folder / "plain.ddset")
    assert run_command(*plain).code == 0
    return {name: folder / f"{name}.ddset" for name in (*made, "plain")}


def test_trajectories_of_several_files_are_matched(tiny: str, experts: dict[str, Path], tmp_path: Path) -> None:
    """Images, the learned step size, and the experts' digests in the history."""
    files = [experts["first"], experts["second"]]
    outcome = distill(tiny, tmp_path / "mtt.ddset", "mtt", files, *QUICK)
    assert outcome.code == 0, outcome.err
    bundle = Bundle.open(tmp_path / "mtt.ddset", verify=True)
    entry = bundle.manifest.history[0]

    assert [Bundle.open(file).content for file in files] == [item["content"] for item in entry["inputs"]]
    assert 0 < float(bundle.tensor("student.lr")) < 1
    assert not bundle.has("labels.soft")
    assert {"gated_steps", "skipped_steps", "clamped_steps"} <= set(entry["metrics"])


def test_learned_labels_are_logits_that_students_train_on(tiny: str, experts: dict[str, Path], tmp_path: Path) -> None:
    """`evaluate` takes them and the learned step size without being told."""
    options = (*QUICK, "--set", "current_max_start_epoch=1", "--set", "interval=1", "--set", "init=real")
    outcome = distill(tiny, tmp_path / "pad.ddset", "pad", [experts["first"]], *options, "--mask-shallow", "0.5")
    assert outcome.code == 0, outcome.err
    bundle = Bundle.open(tmp_path / "pad.ddset", verify=True)
    evaluate = ("evaluate", tmp_path / "pad.ddset", "--data", tiny, "--arch", NET, "--epochs", "2", "--seeds", "1")
    scored = run_command(*evaluate, "-o", tmp_path / "scored.ddset")
    evaluation = Bundle.open(tmp_path / "scored.ddset").manifest.evaluations[0]
    result = evaluation["results"][0]

    assert bundle.section("labels.soft").domain == "logit"
    assert bundle.section("labels.soft").teacher == [Bundle.open(experts["first"]).content]
    assert bundle.manifest.history[0]["config"]["options"]["mask_shallow"] == 0.5
    assert scored.code == 0, scored.err
    assert evaluation["protocol"] == "datm"
    assert result["labels"] == "soft"
    assert result["recipe"]["lr"] == pytest.approx(float(bundle.tensor("student.lr")))


def test_the_same_command_gives_the_same_content(tiny: str, experts: dict[str, Path], tmp_path: Path) -> None:
    """And another seed another one."""
    for name, more in (("a", ()), ("b", ()), ("c", ("--seed", "1"))):
        assert distill(tiny, tmp_path / f"{name}.ddset", "mtt", [experts["first"]], *QUICK, *more).code == 0
    contents = [Bundle.open(tmp_path / f"{name}.ddset").content for name in "abc"]

    assert contents[0] == contents[1] != contents[2]


def test_whitened_experts_make_whitened_images(tiny: str, experts: dict[str, Path], tmp_path: Path) -> None:
    """The space is that of the experts; images are float32 and travel with the whitening."""
    outcome = distill(tiny, tmp_path / "white.ddset", "mtt", [experts["white"]], *QUICK)
    assert outcome.code == 0, outcome.err
    bundle = Bundle.open(tmp_path / "white.ddset")

    assert bundle.section("images").record["range"] == "float32"
    assert bundle.has("transform.zca")


def test_a_whitened_bundle_without_its_whitening_is_refused(
    tiny: str, experts: dict[str, Path], tmp_path: Path
) -> None:
    """Its images mean nothing without it."""
    assert distill(tiny, tmp_path / "white.ddset", "mtt", [experts["white"]], *QUICK).code == 0
    bundle = Bundle.open(tmp_path / "white.ddset")
    record = bundle_record()
    stripped = tmp_path / "stripped.ddset"
    bundle.with_stage(record, drop=["transform.zca"]).save(stripped)
    outcome = run_command("evaluate", stripped, "--data", tiny, "--arch", NET, "--epochs", "1", "--seeds", "1")

    assert outcome.code == 3
    assert "transform.zca" in outcome.err


def bundle_record() -> Any:
    from ddlabel.bundle import StageRecord

    return StageRecord("refine", {}, 0, [], {}, 0.0, 0.0, {})


@pytest.mark.parametrize(
    ("names", "more", "code", "words"),
    [
        (["plain"], (), 3, ["plain.ddset holds no trajectories", "--experts N"]),
        (["first", "plain"], (), 3, ["plain.ddset holds no trajectories"]),
        (
            ["first", "wider"],
            (),
            3,
            ["'trajectory.0' has net convnet-d1-w8-instance", "'trajectory.4' has convnet-d1-w4-instance"],
        ),
        (["first", "white"], (), 3, ["disagree on 'space.kind'", "normalised", "zca"]),
        (["first", "more-data"], (), 3, ["different held-out share: 0.1 and 0.3"]),
        (["first", "short"], (), 3, ["'trajectory.0' has epochs 0-3", "'trajectory.10' has 0-1"]),
        (["first", "first"], (), 2, ["is the same trajectory as", "--first-expert"]),
        (["short"], (), 2, ["need epochs 0 to 2", "recorded 0 to 1"]),
        (["first"], ("--arch", "convnet-d1-w4"), 3, ["convnet-d1-w8-instance", "convnet-d1-w4-instance"]),
        (["first"], ("--validation", "0.3"), 3, ["held-out share 0.1", "0.3"]),
        (["first"], ("--space", "zca"), 3, ["space normalised", "zca"]),
        ([], (), 2, ["method 'mtt' needs trajectories, expected --teacher FILE"]),
    ],
)
def test_experts_that_do_not_fit_are_refused_with_both_sides(
    names: list[str],
    more: tuple[str, ...],
    code: int,
    words: list[str],
    tiny: str,
    experts: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Other nets, spaces, data, epochs; the same twice; none at all."""
    out = tmp_path / "out.ddset"
    outcome = distill(tiny, out, "mtt", [experts[name] for name in names], *QUICK, *more)

    assert code == outcome.code, outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert not out.exists()


def test_experts_of_other_images_are_refused(experts: dict[str, Path], tmp_path: Path) -> None:
    """The fingerprint of the training images decides, not their number."""
    other = f"npz:{write_tiny_npz(tmp_path / 'other.npz', seed=1)}"
    outcome = distill(other, tmp_path / "out.ddset", "mtt", [experts["first"]], *QUICK)

    assert outcome.code == 3
    assert "training images" in outcome.err


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("random", ("--unroll", "full"), "method 'random' has no option 'unroll'"),
        ("herding", ("--mask-shallow", "0.5"), "method 'herding' has no option 'mask_shallow'"),
        ("mtt", ("--unroll", "full", "--set", "unroll=tesla"), "option 'unroll' is given twice"),
        ("mtt", ("--unroll", "exact"), "adjoint, full, tesla"),
    ],
)
def test_options_without_an_effect_are_refused(
    method: str, more: tuple[str, ...], words: str, tiny: str, experts: dict[str, Path], tmp_path: Path
) -> None:
    """Exit code 2, before any work."""
    outcome = distill(tiny, tmp_path / "out.ddset", method, [experts["first"]], *more)

    assert outcome.code == 2
    assert words in outcome.err


def test_adjoint_and_full_agree_and_tesla_does_not(tiny: str, experts: dict[str, Path], tmp_path: Path) -> None:
    """The same images from two ways to the exact gradient."""
    images = {}
    for unroll in ("adjoint", "full", "tesla"):
        out = tmp_path / f"{unroll}.ddset"
        more = ("--unroll", unroll, "--pixels", "float32", "--set", "lr_images=1", "--set", "syn_lr=0.3")
        assert distill(tiny, out, "mtt", [experts["first"]], *QUICK, *more).code == 0
        images[unroll] = Bundle.open(out).tensor("images.pixels")

    assert torch.allclose(images["adjoint"], images["full"], atol=1e-4)
    assert not torch.allclose(images["tesla"], images["full"], atol=1e-2)


def test_checkpoints_are_read_by_slice(experts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trajectory is read through once, for its digest; from then on a row at a time."""
    source = Trajectories([Bundle.open(experts["first"])])
    reads: list[int] = []
    original: Callable[..., bytes] = type(source._experts[0].bundle._sources["trajectory.0"].file).pread

    def counting(self: Any, start: int, count: int, label: str) -> bytes:
        reads.append(count)
        return original(self, start, count, label)

    monkeypatch.setattr("ddlabel.tensors.OpenFile.pread", counting)
    row = source.checkpoint(0, 2)
    source.checkpoint(0, 1)

    assert [4 * 4 * len(row), 4 * len(row), 4 * len(row)] == reads


def test_a_flipped_bit_in_a_trajectory_is_refused(experts: dict[str, Path], tiny: str, tmp_path: Path) -> None:
    """Although only some of its rows are used."""
    bundle = Bundle.open(experts["first"])
    source = bundle._sources["trajectory.0"]
    content = bytearray(experts["first"].read_bytes())
    content[source.offset + source.nbytes - 5] ^= 1  # type: ignore[union-attr]
    (tmp_path / "flipped.ddset").write_bytes(bytes(content))
    outcome = distill(tiny, tmp_path / "out.ddset", "mtt", [tmp_path / "flipped.ddset"], *QUICK)

    assert outcome.code == 3
    assert "'trajectory.0': digest mismatch" in outcome.err


def test_scores_of_another_bundle_serve_the_filter_alone(tiny: str, experts: dict[str, Path], tmp_path: Path) -> None:
    """Its nets are no experts: labels and start points come from those that have trajectories."""
    scores = tmp_path / "scores.ddset"
    made = ("--scores", "el2n", "--experts", "0", "--set", "score_nets=1", "--set", "score_epoch=1")
    assert run_command("train-teacher", "--data", tiny, *made, "--set", f"score_arch={NET}", "-o", scores).code == 0
    files = [scores, experts["first"]]
    refused = distill(tiny, tmp_path / "a.ddset", "mtt", files, *QUICK)
    outcome = distill(tiny, tmp_path / "b.ddset", "mtt", files, *QUICK, "--filter", "hard:0.2")

    assert refused.code == 3
    assert "scores.ddset holds no trajectories" in refused.err
    assert outcome.code == 0, outcome.err


def test_learned_labels_have_a_baseline_with_hard_labels_alone(
    tiny: str, experts: dict[str, Path], tmp_path: Path
) -> None:
    """No teacher can make such labels for random images, and none is asked for."""
    options = (*QUICK, "--set", "init=real")
    assert distill(tiny, tmp_path / "datm.ddset", "datm", [experts["first"]], *options).code == 0
    evaluate = ("evaluate", tmp_path / "datm.ddset", "--data", tiny, "--arch", NET, "--epochs", "1", "--seeds", "1")
    outcome = run_command(*evaluate, "--baselines", "-o", tmp_path / "scored.ddset")
    assert outcome.code == 0, outcome.err
    results = Bundle.open(tmp_path / "scored.ddset").manifest.evaluations[0]["results"]

    assert [("bundle", "soft"), ("random", "hard")] == [(row["images"], row["labels"]) for row in results]


def test_images_too_large_for_their_own_norm_end_the_run(tiny: str, experts: dict[str, Path], tmp_path: Path) -> None:
    """At the step, naming the step sizes."""
    outcome = distill(tiny, tmp_path / "out.ddset", "mtt", [experts["first"]], *QUICK, "--set", "lr_images=1e25")

    assert outcome.code == 5
    assert "at step 1 of 3" in outcome.err
    assert "--set lr_images (now 1e+25)" in outcome.err


def test_a_refused_option_leaves_the_state_of_another_run_alone(
    tiny: str, experts: dict[str, Path], tmp_path: Path
) -> None:
    """Also with --force: options are checked before anything is given up."""
    out = tmp_path / "out.ddset"
    partial = tmp_path / "out.ddset.partial"
    bundle = Bundle.open(experts["first"])
    state = NewSection("state.progress", "state", {}, parameters={})
    Bundle.create("partial", bundle.manifest.data, bundle_record(), [state]).save(partial)
    outcome = distill(tiny, out, "mtt", [experts["first"]], *QUICK, "--set", "max_start_epoch=9", "--force")

    assert outcome.code == 2
    assert partial.exists()


@pytest.mark.parametrize("optimizer", ["sgd", "smooth"])
def test_options_of_gsam_need_gsam(tiny: str, tmp_path: Path, optimizer: str) -> None:
    """As options of scores need scores."""
    outcome = train(tiny, tmp_path / "t.ddset", "--optimizer", optimizer, "--set", "rho=0.1")

    assert outcome.code == 2
    assert "option 'rho' is of gsam, the optimiser is 'sgd'" in outcome.err


def test_a_trajectory_that_is_not_finite_is_named(experts: dict[str, Path], tiny: str, tmp_path: Path) -> None:
    """File, section and epoch."""
    bundle = Bundle.open(experts["first"])
    values = bundle.tensor("trajectory.1")
    values[1, 5] = torch.inf
    parameters = bundle.section("trajectory.1").parameters
    damaged = NewSection("trajectory.1", "trajectory", {"trajectory.1": values}, parameters=parameters)
    bundle.with_stage(bundle_record(), add=[damaged]).save(tmp_path / "damaged.ddset")
    outcome = distill(tiny, tmp_path / "out.ddset", "mtt", [tmp_path / "damaged.ddset"], *QUICK, "--set", "steps=12")

    assert outcome.code == 3
    assert "'trajectory.1' is not finite at epoch 1" in outcome.err


def test_the_stage_runs_from_python(tiny: str, experts: dict[str, Path]) -> None:
    """Bundles in, a bundle out."""
    from ddlabel.config import DistillConfig

    settings = {"steps": 2, "syn_steps": 2, "expert_epochs": 1, "max_start_epoch": 2}
    config = DistillConfig(data=tiny, method="mtt", ipc=1)
    bundle = distill_stage(config, settings, teachers=[Bundle.open(experts["first"])])

    assert bundle.kind == "distilled"
