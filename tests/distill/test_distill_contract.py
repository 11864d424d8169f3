"""What every distillation method promises, whatever it does; a new method is tested here without an edit."""

from __future__ import annotations

import ast
import dataclasses
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import ddlabel.distill
from ddlabel import _plugins
from ddlabel.distill._method import Distilled, Method, Problem, State, run
from ddlabel.errors import DataError, DivergedError, UsageError
from ddlabel.events import Event
from ddlabel.options import as_dict, build, describe, opt

MakeProblem = Callable[..., Problem]
METHODS = _plugins.names("distill")
SELECTIONS = (
    "random", "herding", "k-center", "forgetting", "least-confidence", "entropy", "margin", "el2n", "grand", "craig",
    "glister",
)  # fmt: skip
SEEDED = ("random", "dm", "dc", "dsa")
"""Methods whose default result depends on the seed."""
QUICK = {
    "steps": "4", "batch_real": "5", "syn_steps": "3", "max_start_epoch": "3", "current_max_start_epoch": "2",
    "interval": "2", "batch_syn": "5", "init": "real",
    "outer": "2", "inner": "1",
}  # fmt: skip
"""Options that make an optimising method finish in a blink, for those that have them."""


def build_quickly(name: str) -> Any:
    cls = _plugins.load("distill", name, "METHOD")
    own = {option.name for option in describe(cls)}
    return build(cls, {option: text for option, text in QUICK.items() if option in own})


def result(distilled: Distilled) -> Tensor:
    stored = distilled.pixels if distilled.images is None else distilled.images
    assert stored is not None
    return stored


def cloned(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def global_states() -> tuple[object, ...]:
    """Where the generators of torch, numpy and Python stand."""
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def test_methods_are_found() -> None:
    """Names as typed on the command line."""
    assert {*SELECTIONS, "dm"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    """Crossed with all plugins of the room."""

    def test_images_and_labels_have_the_promised_form(self, name: str, make_problem: MakeProblem) -> None:
        """k*ipc images, class-major labels, uint8 pixels or finite float32 images, not both."""
        distilled = run(build_quickly(name), make_problem())
        stored = result(distilled)

        assert (distilled.images is None) != (distilled.pixels is None)
        assert tuple(stored.shape) == (12, 3, 8, 8)
        assert (torch.uint8 if distilled.images is None else torch.float32) == stored.dtype
        assert bool(torch.isfinite(stored.float()).all())
        assert distilled.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert torch.int64 == distilled.labels.dtype
        assert all(math.isfinite(value) for value in distilled.metrics.values())

    def test_same_seed_same_bits(self, name: str, make_problem: MakeProblem) -> None:
        """Twice the same run."""
        first, again = (result(run(build_quickly(name), make_problem())) for _ in range(2))

        assert torch.equal(first, again)

    def test_another_seed_changes_seeded_methods_only(self, name: str, make_problem: MakeProblem) -> None:
        """Herding and k-center from the medoid are deterministic."""
        first, other = (result(run(build_quickly(name), make_problem(seed=seed))) for seed in (0, 1))

        assert (name not in SEEDED) == torch.equal(first, other) or name not in (*SEEDED, *SELECTIONS)

    def test_global_generators_are_left_alone(self, name: str, make_problem: MakeProblem) -> None:
        """Neither read nor set."""
        before = global_states()
        first = result(run(build_quickly(name), make_problem()))

        assert before == global_states()
        with torch.random.fork_rng():
            torch.rand(3)
            assert torch.equal(first, result(run(build_quickly(name), make_problem())))

    def test_the_data_are_not_changed(self, name: str, make_problem: MakeProblem) -> None:
        """Pixels and labels are read only."""
        problem = make_problem()
        before = problem.pixels.clone(), problem.labels.clone()
        run(build_quickly(name), problem)

        assert torch.equal(before[0], problem.pixels)
        assert torch.equal(before[1], problem.labels)

    def test_fault_114_continuing_from_every_checkpoint_gives_the_same_bits(
        self, name: str, make_problem: MakeProblem
    ) -> None:
        """States are kept as they are handed out, without a copy: steps must not write into them."""
        method, kept, copies = build_quickly(name), [], []

        def keep(done: int, state: State) -> None:
            kept.append((done, state))
            copies.append(cloned(state))

        whole = run(method, make_problem(), on_checkpoint=keep)

        assert list(range(1, method.total_steps(make_problem()) + 1)) == [done for done, _ in kept]
        for start, copy in zip(kept, copies, strict=True):
            assert same(copy, start[1])
            continued = run(method, make_problem(), start=start)
            assert torch.equal(result(whole), result(continued))
            assert (whole.indices is None) == (continued.indices is None)

    def test_every_step_is_reported_after_its_checkpoint(self, name: str, make_problem: MakeProblem) -> None:
        """An interrupt raised by the listener finds the state of the step saved; notes before it do not count."""
        trace: list[tuple[str, int]] = []
        run(
            build_quickly(name),
            make_problem(),
            on_event=lambda event: trace.append(("event", event.done)) if event.total else None,
            on_checkpoint=lambda done, state: trace.append(("checkpoint", done)),
        )
        total = len(trace) // 2

        assert total >= 1
        assert [(kind, done + 1) for done in range(total) for kind in ("checkpoint", "event")] == trace

    @pytest.mark.fault(73)
    def test_fault_73_fewer_images_than_ipc_names_class_and_count(self, name: str, make_problem: MakeProblem) -> None:
        """Before any work."""
        with pytest.raises(DataError, match="class 'blue' has 7 training images, --ipc asks for 8"):
            run(build_quickly(name), make_problem(ipc=8), on_event=refuse)

    @pytest.mark.fault(73)
    def test_fault_73_ipc_of_the_smallest_class_works(self, name: str, make_problem: MakeProblem) -> None:
        """All images of the smallest class."""
        assert len(run(build_quickly(name), make_problem(ipc=7)).labels) == 21

    @pytest.mark.fault(73)
    def test_fault_73_ipc_zero_is_a_usage_error(self, name: str, make_problem: MakeProblem) -> None:
        """Exit code 2."""
        with pytest.raises(UsageError, match="option 'ipc' is 0, expected at least 1"):
            run(build_quickly(name), make_problem(ipc=0), on_event=refuse)

    @pytest.mark.fault(73)
    def test_fault_73_a_single_class_works(self, name: str, make_problem: MakeProblem) -> None:
        """One class is no special case."""
        whole = make_problem()
        only = whole.labels == 0
        problem = make_problem(pixels=whole.pixels[only], labels=whole.labels[only], classes=("red",))

        assert run(build_quickly(name), problem).labels.tolist() == [0] * 4

    def test_a_missing_teacher_is_refused_before_any_work(self, name: str, make_problem: MakeProblem) -> None:
        """Methods that need none run without one."""
        method = build_quickly(name)
        whole = make_problem()
        without: dict[str, Any] = {"teacher": None, "trajectories": None, "backbones": (), "scores": {}}
        given = {name: getattr(whole, name) for name in without}
        if not method.needs:
            assert len(run(method, make_problem(**without)).labels) == 12
            return
        wanted = {need.partition(".")[0] for need in method.needs}
        assert len(run(method, make_problem(**{**without, **{need: given[need] for need in wanted}})).labels) == 12
        with pytest.raises(UsageError, match=r"expected a teacher|expected teachers"):
            run(method, make_problem(**without), on_event=refuse)
        for need in wanted:
            with pytest.raises(UsageError, match=r"expected a teacher|expected teachers"):
                run(method, make_problem(**{need: without[need]}), on_event=refuse)

    def test_options_survive_the_manifest(self, name: str, make_problem: MakeProblem) -> None:
        """What is stored builds the same method again; every option has a help text."""
        method = build_quickly(name)
        texts = {option: str(value) for option, value in as_dict(method).items()}

        assert method == build(type(method), texts)
        assert all(option.help for option in describe(type(method)))

    def test_the_docstrings_name_the_source_and_the_differences(self, name: str, make_problem: MakeProblem) -> None:
        """A year or "baseline" in the module's first line, "Differs from" in the class."""
        del make_problem
        path = Path(ddlabel.distill.__path__[0]) / f"{name.replace('-', '_')}.py"
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]

        assert re.search(r"\b(19|20)\d\d\b|arXiv:\d{4}\.\d{5}|baseline", first)
        assert "Differs from the authors' code in:" in (_plugins.load("distill", name, "METHOD").__doc__ or "")


def refuse(event: Event) -> None:
    raise AssertionError(f"work was done: {event}")


@pytest.mark.parametrize("name", SELECTIONS)
class TestSelections:
    """Methods that choose real images."""

    def test_pixels_are_real_ones_bit_for_bit(self, name: str, make_problem: MakeProblem) -> None:
        """With their indices, all different, each of its class."""
        problem = make_problem()
        distilled = run(build_quickly(name), problem)
        assert distilled.indices is not None
        assert distilled.pixels is not None

        assert torch.equal(problem.pixels[distilled.indices], distilled.pixels)
        assert torch.equal(problem.labels[distilled.indices], distilled.labels)
        assert len(set(distilled.indices.tolist())) == 12

    def test_smaller_budgets_are_prefixes(self, name: str, make_problem: MakeProblem) -> None:
        """In selection order, class by class."""
        large, small = (run(build_quickly(name), make_problem(ipc=ipc)).indices for ipc in (6, 2))
        assert large is not None
        assert small is not None

        assert large.reshape(3, 6)[:, :2].tolist() == small.reshape(3, 2).tolist()


@pytest.mark.parametrize("name", ["herding", "k-center"])
class TestFeatureMethods:
    """Methods that look through a teacher."""

    def test_reordering_the_data_chooses_the_same_images(self, name: str, make_problem: MakeProblem) -> None:
        """The choice depends on images, not on their places."""
        problem = make_problem()
        order = torch.randperm(len(problem.labels), generator=torch.Generator().manual_seed(1))
        moved = make_problem(pixels=problem.pixels[order], labels=problem.labels[order])
        first, second = (run(build_quickly(name), each) for each in (problem, moved))

        assert torch.equal(result(first), result(second))

    def test_normalising_makes_the_length_of_features_irrelevant(self, name: str, make_problem: MakeProblem) -> None:
        """A teacher that scales every feature differently changes nothing; without the option it does."""
        method = _plugins.load("distill", name, "METHOD")
        whole = make_problem()

        class Stretched:
            def features(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> Tensor:
                plain = whole.teacher.features(pixels, device=device)  # type: ignore[union-attr]
                return plain * (1 + 30 * pixels[:, 0, 0, :1].float())

        results = [
            [run(method(normalize=option), make_problem(teacher=teacher)).indices.tolist() for option in (True, False)]  # type: ignore[union-attr]
            for teacher in (whole.teacher, Stretched())
        ]

        assert results[0][0] == results[1][0]
        assert results[0][1] != results[1][1]

    def test_a_feature_that_is_not_finite_names_the_image(self, name: str, make_problem: MakeProblem) -> None:
        """A broken teacher is told from a broken data set."""
        whole = make_problem()
        broken = int((whole.labels == 1).nonzero()[3])

        class Broken:
            def features(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> Tensor:
                plain = whole.teacher.features(pixels, device=device)  # type: ignore[union-attr]
                plain[(pixels == whole.pixels[broken]).flatten(1).all(dim=1)] = math.nan
                return plain

        with pytest.raises(DataError, match=rf"features of training image {broken} \(class 'green'\) are not finite"):
            run(build_quickly(name), make_problem(teacher=Broken()))


def test_k_center_can_start_at_random(make_problem: MakeProblem) -> None:
    """Then the seed decides, per class."""
    method = _plugins.load("distill", "k-center", "METHOD")(start="random")
    firsts = {tuple(run(method, make_problem(seed=seed, ipc=1)).indices.tolist()) for seed in range(6)}

    assert len(firsts) > 2


@dataclass(frozen=True, kw_only=True)
class Failing:
    """Counts, until at one step a number is spoilt."""

    needs: ClassVar[frozenset[str]] = frozenset()
    lr_images: float | None = opt(0.5, "step size")
    at: int = opt(3, "step that fails, from 1")
    where: str = opt("loss", "loss or images")
    value: float = opt(0.0, "what appears there")

    def total_steps(self, problem: Problem) -> int:
        del problem
        return 6

    def prepare(self, problem: Problem, generator: Generator) -> State:
        del problem, generator
        return {"images": torch.zeros(2), "count": torch.zeros(1, dtype=torch.int64)}

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        del problem, generator
        spoil = index + 1 == self.at
        images = state["images"] + (self.value if spoil and self.where == "images" else 1.0)
        loss = self.value if spoil and self.where == "loss" else 1.0
        return {"images": images, "count": state["count"] + 1}, {"loss": loss}

    def finish(self, problem: Problem, state: State) -> Distilled:
        return Distilled(labels=problem.labels, images=state["images"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("where", ["loss", "images"])
def test_fault_115_numbers_that_are_not_finite_stop_the_run(
    where: str, value: float, make_problem: MakeProblem
) -> None:
    """Step, quantity and option are named; the checkpoints before are finite, none follows."""
    method: Method = Failing(where=where, value=value)
    kept: list[tuple[int, State]] = []
    with pytest.raises(DivergedError) as caught:
        run(method, make_problem(), on_checkpoint=lambda done, state: kept.append((done, state)))

    assert re.match(rf"'{where}' .* at step 3 of 6; lower --set lr_images \(now 0.5\)$", str(caught.value))
    assert [done for done, _ in kept] == [1, 2]
    assert all(bool(torch.isfinite(tensor).all()) for _, state in kept for tensor in state.values())


def test_fault_115_the_run_can_go_on_from_the_last_good_state(make_problem: MakeProblem) -> None:
    """With a changed option, from the checkpoint before the failure."""
    kept: list[tuple[int, State]] = []
    method = Failing(value=math.nan)
    with pytest.raises(DivergedError):
        run(method, make_problem(), on_checkpoint=lambda done, state: kept.append((done, state)))
    distilled = run(dataclasses.replace(method, at=99), make_problem(), start=kept[-1])

    assert result(distilled).tolist() == [6.0, 6.0]


def test_an_automatic_step_size_is_called_auto(make_problem: MakeProblem) -> None:
    """A rule has no number to show."""
    with pytest.raises(DivergedError, match=r"lower --set lr_images \(now auto\)$"):
        run(Failing(lr_images=None, value=math.nan), make_problem())
