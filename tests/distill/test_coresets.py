"""Coreset methods on the tiny problem and through the command line, against sorts written here in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddlabel import _plugins
from ddlabel.bundle import Bundle
from ddlabel.data._dataset import load
from ddlabel.difficulty import SCORES
from ddlabel.distill._method import Distilled, Problem, run
from ddlabel.errors import DataError, UsageError
from ddlabel.events import Event
from ddlabel.teachers import Teacher

MakeProblem = Callable[..., Problem]
SCORED = {"least-confidence": "confidence", "entropy": "entropy", "margin": "margin", "el2n": "el2n", "grand": "grand"}
DETERMINISTIC = ("herding", "k-center", "forgetting", *SCORED, "craig", "glister")
ON_HEADS = (*SCORED, "craig", "glister")
"""Methods that look at logits."""


def method(name: str, **options: Any) -> Any:
    return _plugins.load("distill", name, "METHOD")(**options)


def chosen(distilled: Distilled) -> list[list[int]]:
    """Indices class by class."""
    assert distilled.indices is not None
    return distilled.indices.reshape(3, -1).tolist()


def key(scores: np.ndarray, pick: str) -> np.ndarray:
    return {"hard": -scores, "easy": scores, "middle": np.abs(scores - np.median(scores))}[pick]


def by_net(problem: Problem, name: str) -> np.ndarray:
    """(n,) scores of the problem's teacher, in the precision of recorded ones."""
    logits, features = problem.teacher.outputs(problem.pixels)  # type: ignore[union-attr]
    return SCORES[name](logits, problem.labels, features).float().double().numpy()


def hardest(problem: Problem, first: np.ndarray, second: np.ndarray, pick: str, ipc: int) -> list[list[int]]:
    rows = []
    for label in range(3):
        members = (problem.labels == label).nonzero().flatten().numpy()
        order = np.lexsort((members, key(second[members], pick), key(first[members], pick)))
        rows.append(members[order][:ipc].tolist())
    return rows


@pytest.mark.parametrize("pick", ["hard", "easy", "middle"])
@pytest.mark.parametrize("name", sorted(SCORED))
def test_a_score_orders_each_class(name: str, pick: str, make_problem: MakeProblem) -> None:
    """By the teacher's net, ties by index."""
    problem = make_problem()
    scores = by_net(problem, SCORED[name])

    assert hardest(problem, scores, 0 * scores, pick, 4) == chosen(run(method(name, pick=pick), problem))


@pytest.mark.parametrize("name", sorted(SCORED))
def test_recorded_scores_come_before_the_net(name: str, make_problem: MakeProblem) -> None:
    """A teacher bundle's mean over ten nets beats one net; the notes and the record say which was used."""
    scores = torch.arange(28.0).flip(0)
    plain, recorded = make_problem(), make_problem(scores={SCORED[name]: scores})
    said: list[str | None] = []
    distilled = run(method(name), recorded, on_event=lambda event: said.append(event.message))

    assert hardest(recorded, scores.numpy(), 0 * scores.numpy(), "hard", 4) == chosen(distilled)
    assert chosen(run(method(name), plain)) != chosen(distilled)
    assert f"difficulty '{SCORED[name]}' as recorded in the teacher's bundle" in said
    assert method(name).record(recorded) == {"difficulty": {SCORED[name]: "recorded"}}
    assert method(name).record(plain) == {"difficulty": {SCORED[name]: "computed"}}


@pytest.mark.parametrize("pick", ["hard", "easy", "middle"])
def test_equal_forgetting_counts_are_decided_by_el2n(pick: str, make_problem: MakeProblem) -> None:
    """Then by index; how many were cut is said class by class and in all."""
    problem = make_problem(ipc=3)
    counts = problem.scores["forgetting"].double().numpy()
    el2n = by_net(problem, "el2n")
    cut: list[float] = []
    distilled = run(method("forgetting", pick=pick), problem, on_event=lambda event: cut.extend(event.metrics.values()))
    expected = hardest(problem, counts, el2n, pick, 3)
    left_out = []
    for label, row in enumerate(expected):
        members = (problem.labels == label).nonzero().flatten().numpy()
        keys = dict(zip(members.tolist(), key(counts[members], pick).tolist(), strict=True))
        left_out.append(sum(keys[index] == keys[row[-1]] for index in keys if index not in row))

    assert expected == chosen(distilled)
    assert left_out == cut
    assert distilled.metrics == {"ties_cut": sum(left_out)}
    assert sum(left_out) > 0
    assert hardest(problem, counts, 0 * el2n, pick, 3) == chosen(
        run(method("forgetting", pick=pick, ties="index"), problem)
    )


def test_el2n_between_equal_counts_is_the_recorded_one_where_there_is_one(make_problem: MakeProblem) -> None:
    """The tie breaker follows the rule of scores."""
    counts, el2n = make_problem().scores["forgetting"], torch.arange(28.0)
    problem = make_problem(scores={"forgetting": counts, "el2n": el2n})

    assert hardest(problem, counts.numpy(), el2n.numpy(), "hard", 4) == chosen(run(method("forgetting"), problem))


def refuse(event: Event) -> None:
    raise AssertionError(f"work was done: {event}")


def test_forgetting_needs_counts_that_training_recorded(make_problem: MakeProblem) -> None:
    """No net can say them afterwards: refused before any work, with the command that makes them."""
    with pytest.raises(UsageError, match="needs difficulty scores 'forgetting'") as caught:
        run(method("forgetting"), make_problem(scores={}), on_event=refuse)

    assert "ddlabel train-teacher --experts 0 --scores forgetting" in str(caught.value.hint)


@pytest.mark.parametrize("name", DETERMINISTIC)
class TestDeterministic:
    """Everything but random draws."""

    def test_reordering_the_data_chooses_the_same_images(self, name: str, make_problem: MakeProblem) -> None:
        """In the same order. In CRAIG the last two neighbours tie, so that its first choices alone are without ties."""
        ipc = 2 if name == "craig" else 4
        problem = make_problem(ipc=ipc)
        order = torch.randperm(28, generator=torch.Generator().manual_seed(1))
        moved = make_problem(pixels=problem.pixels[order], labels=problem.labels[order], ipc=ipc)
        first, second = (run(method(name), each).pixels for each in (problem, moved))

        assert first is not None
        assert second is not None
        assert torch.equal(first, second)

    def test_ties_take_the_lowest_index(self, name: str, make_problem: MakeProblem) -> None:
        """All images equal: the first of each class."""
        problem = make_problem()
        pixels = problem.pixels[:1].expand_as(problem.pixels).contiguous()
        same = make_problem(pixels=pixels)

        assert [(problem.labels == label).nonzero().flatten()[:4].tolist() for label in range(3)] == chosen(
            run(method(name), same)
        )

    def test_a_budget_of_the_whole_class_takes_all(self, name: str, make_problem: MakeProblem) -> None:
        """Each image once."""
        problem = make_problem(ipc=7)
        smallest = (problem.labels == 2).nonzero().flatten().tolist()

        assert smallest == sorted(chosen(run(method(name), problem))[2])

    def test_a_missing_class_is_named(self, name: str, make_problem: MakeProblem) -> None:
        """A class of the list without images."""
        with pytest.raises(DataError, match="class 'elk' has 0 training images"):
            run(method(name), make_problem(classes=("red", "green", "blue", "elk")), on_event=refuse)


@pytest.mark.parametrize("what", ["logits", "features"])
@pytest.mark.parametrize("name", ON_HEADS)
def test_outputs_that_are_not_finite_name_the_image(name: str, what: str, make_problem: MakeProblem) -> None:
    """NaN in one image of class green."""
    whole = make_problem()
    broken = int((whole.labels == 1).nonzero()[3])

    class Broken:
        def outputs(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
            logits, features = whole.teacher.outputs(pixels, device=device)  # type: ignore[union-attr]
            spoilt = logits if what == "logits" else features
            spoilt[(pixels == whole.pixels[broken]).flatten(1).all(dim=1)] = math.nan
            return logits, features

    with pytest.raises(DataError, match=rf"{what} of training image {broken} \(class 'green'\) are not finite"):
        run(method(name), make_problem(teacher=Broken()))


def test_recorded_scores_that_are_not_finite_name_the_image(make_problem: MakeProblem) -> None:
    """As for outputs."""
    whole = make_problem()
    scores = torch.arange(28.0)
    broken = int((whole.labels == 1).nonzero()[2])
    scores[broken] = math.nan

    with pytest.raises(DataError, match=rf"scores 'el2n' of training image {broken} \(class 'green'\) are not finite"):
        run(method("el2n"), make_problem(scores={"el2n": scores}))


def test_half_precision_outputs_choose_the_same(make_problem: MakeProblem) -> None:
    """float16 logits and features decide like their exact values."""
    whole = make_problem()

    class Half:
        exact = False

        def outputs(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
            parts = (part.half() for part in whole.teacher.outputs(pixels, device=device))  # type: ignore[union-attr]
            return tuple(part.double() if self.exact else part for part in parts)

    class Exact(Half):
        exact = True

    for name in ON_HEADS:
        half, exact = (run(method(name), make_problem(teacher=teacher)) for teacher in (Half(), Exact()))
        assert chosen(half) == chosen(exact)


def test_craig_gives_a_weight_to_every_image(make_problem: MakeProblem) -> None:
    """Of a class they sum to its images; the other methods give none."""
    problem = make_problem()
    weights = run(method("craig"), problem).weights

    assert weights is not None
    assert weights.dtype == torch.float32
    assert weights.reshape(3, 4).sum(dim=1).tolist() == torch.bincount(problem.labels).tolist()
    assert all(run(method(name), problem).weights is None for name in ("glister", "herding", "el2n"))


def test_far_herding_is_another_choice(make_problem: MakeProblem) -> None:
    """For comparison with DeepCore: its mean is farther from the class mean."""
    problem = make_problem()
    errors = []
    for far in (False, True):
        rows = chosen(run(method("herding", far=far), problem))
        features = [problem.features(label) for label in range(3)]
        members = [problem.members(label).tolist() for label in range(3)]
        means = [features[c][[members[c].index(index) for index in rows[c]]].mean(dim=0) for c in range(3)]
        errors.append(sum(float((means[c] - features[c].mean(dim=0)).norm()) for c in range(3)))

    assert errors[0] < errors[1]


NET = ("--arch", "convnet-d1-w8")


@pytest.fixture(scope="module")
def counted(run_cli, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher bundle with forgetting counts and the net they are of."""
    path = tmp_path_factory.mktemp("counts") / "counts.ddset"
    options = ("score_nets=1", "score_epoch=4", "score_arch=convnet-d1-w8", "score_lr=0.02")
    sets = [part for option in options for part in ("--set", option)]
    made = run_cli("train-teacher", "--data", tiny, "--experts", "0", "--scores", "forgetting", *sets, "-o", path)
    assert made.code == 0, made.err
    return path


def distill(run_cli, tiny: str, path: Path, name: str, teacher: Path, *more: str):
    return run_cli(
        "distill", "--data", tiny, *NET, "--method", name, "--teacher", teacher, "--ipc", "3", *more, "-o", path
    )


def test_forgetting_through_the_command_line(run_cli, tiny: str, counted: Path, tmp_path: Path) -> None:
    """The recorded counts order the training split; the manifest says so."""
    made = distill(run_cli, tiny, tmp_path / "a.ddset", "forgetting", counted)
    assert made.code == 0, made.err
    bundle = Bundle.open(tmp_path / "a.ddset")
    counts = Bundle.open(counted).tensor("scores.forgetting")
    train, indices = load(tiny).train, bundle.tensor("scores.selection.indices").long()

    assert torch.equal(train.pixels[indices], bundle.tensor("images.pixels"))
    for row, label in zip(indices.reshape(4, 3), range(4), strict=True):
        members = (train.labels == label).nonzero().flatten()
        assert counts[row].tolist() == counts[members].sort(descending=True).values[:3].tolist()
    config = bundle.manifest.history[-1]["config"]
    assert config["difficulty"] == {"forgetting": "recorded", "el2n": "computed"}
    assert "ties_cut" in bundle.manifest.history[-1]["metrics"]


def test_a_teacher_without_counts_is_refused(run_cli, files, tmp_path: Path) -> None:
    """Exit 2, with the command that records them."""
    outcome = distill(run_cli, files.data, tmp_path / "a.ddset", "forgetting", files.teacher)

    assert outcome.code == 2
    assert "method 'forgetting' needs difficulty scores 'forgetting'" in outcome.err
    assert "train-teacher --experts 0 --scores forgetting" in outcome.err


def test_a_filter_moves_recorded_scores_with_their_images(run_cli, tiny: str, counted: Path, tmp_path: Path) -> None:
    """Without the hardest images of each class, the hardest of the rest; indices count in the whole split."""
    made = distill(
        run_cli, tiny, tmp_path / "a.ddset", "forgetting", counted, "--filter", "hard:0.3", "--set", "ties=index"
    )
    assert made.code == 0, made.err
    counts, labels = Bundle.open(counted).tensor("scores.forgetting"), load(tiny).train.labels
    indices = Bundle.open(tmp_path / "a.ddset").tensor("scores.selection.indices").long().reshape(4, 3)
    for label, row in enumerate(indices):
        members = (labels == label).nonzero().flatten()
        easiest = members[counts[members].sort(stable=True).indices]
        kept = easiest[: len(members) - int(0.3 * len(members))].sort().values
        assert row.tolist() == kept[(-counts[kept]).sort(stable=True).indices][:3].tolist()


def test_weights_are_stored_beside_the_indices(run_cli, files, tmp_path: Path) -> None:
    """`scores.selection.weights`, float32, of a class as many as its images."""
    made = distill(run_cli, files.data, tmp_path / "a.ddset", "craig", files.teacher)
    assert made.code == 0, made.err
    bundle = Bundle.open(tmp_path / "a.ddset", verify=True)
    weights = bundle.tensor("scores.selection.weights")

    assert weights.dtype == torch.float32
    assert weights.reshape(4, 3).sum(dim=1).tolist() == torch.bincount(load(files.data).train.labels).tolist()


def test_what_a_teacher_says_together_is_what_it_says_apart(files) -> None:
    """`outputs` holds the features of `features`, and the logits of its net."""
    teacher, split = Teacher(Bundle.open(files.teacher)), load(files.data).train
    logits, features = teacher.outputs(split.pixels)
    net = teacher.net(teacher.select("last")[0])

    assert torch.equal(features, teacher.features(split.pixels))
    torch.testing.assert_close(logits, net(teacher.space.encode(split.pixels)))


def write_gaussians(path: Path) -> Path:
    """Four overlapping Gaussians in the plane; a point is drawn as a bright spot in an image of 8 x 8."""
    source = np.random.Generator(np.random.PCG64(0))
    centres = np.array([[2.2, 2.2], [2.2, 4.8], [4.8, 2.2], [4.8, 4.8]])

    def images(count: int) -> np.ndarray:
        points = (centres[:, None] + 0.9 * source.standard_normal((4, count, 2))).reshape(-1, 1, 1, 2)
        grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1)
        spots = 255 * np.exp(-((grid - points) ** 2).sum(axis=-1) / 3)
        return spots[..., None].astype(np.uint8)

    labels = {"train_labels": np.repeat(np.arange(4), 60), "test_labels": np.repeat(np.arange(4), 60)}
    np.savez(path, train_images=images(60), test_images=images(60), **labels)
    return path


def test_herding_teaches_more_than_the_least_confident_images(run_cli, tmp_path: Path) -> None:
    """Five images per class of one teacher: ordinary ones against those between the classes."""
    data = f"npz:{write_gaussians(tmp_path / 'gaussians.npz')}"
    teacher = tmp_path / "teacher.ddset"
    made = run_cli("train-teacher", "--data", data, *NET, "--epochs", "10", "--set", "lr=0.1", "-o", teacher)
    assert made.code == 0, made.err
    accuracy = {}
    for name in ("herding", "least-confidence"):
        path = tmp_path / f"{name}.ddset"
        made = run_cli("distill", "--data", data, "--method", name, "--ipc", "5", "--teacher", teacher, "-o", path)
        assert made.code == 0, made.err
        scored = run_cli("evaluate", path, "--data", data, *NET, "--epochs", "60", "--seeds", "2", "--json")
        assert scored.code == 0, scored.err
        accuracy[name] = json.loads(scored.out)["evaluation"]["results"][0]["accuracy"]["mean"]

    assert accuracy["herding"] > accuracy["least-confidence"] + 0.1
