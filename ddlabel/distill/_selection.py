"""What methods that choose real images share: one class per step, positions within the class in order of choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..gradients import HeadGradients, head_gradients
from ..options import opt
from ..selection import PICKS, by_score, ties_cut
from ._method import Distilled, Problem, State

__all__ = ["Choice", "FeatureSelection", "ScoreSelection", "Selection", "head"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a method chose from one class."""

    order: Tensor
    """(ipc,) int64 positions within the class, in order of choice."""
    weights: Tensor | None = None
    """(ipc,) float32: how many images of the class each stands for."""
    ties_cut: int | None = None
    """How many images were left out although they score as the last one chosen."""


@dataclass(frozen=True, kw_only=True)
class Selection(ABC):
    """A method that chooses real images, class by class."""

    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def choose(self, problem: Problem, label: int) -> Choice:
        """`problem.ipc` different images of one class."""

    def total_steps(self, problem: Problem) -> int:
        """One class per step."""
        return len(problem.classes)

    def group(self, problem: Problem) -> int:
        """Classes need nothing of each other."""
        del problem
        return 1

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Nothing chosen: `indices` (k, ipc) of training images, all -1."""
        del generator
        return {"indices": torch.full((len(problem.classes), problem.ipc), -1)}

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Choose images of one class; `choose` has streams of its own, so that a class does not depend on others."""
        del generator
        choice = self.choose(problem, index)
        after = _put(state, "indices", index, problem.members(index)[choice.order])
        if choice.weights is not None:
            after = _put(after, "weights", index, choice.weights)
        if choice.ties_cut is None:
            return after, {}
        after = _put(after, "ties_cut", index, torch.tensor(choice.ties_cut))
        return after, {"ties_cut": float(choice.ties_cut)}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen real images, bit for bit."""
        indices = state["indices"].cpu().flatten()
        return Distilled(
            labels=problem.labels[indices],
            pixels=problem.pixels[indices],
            indices=indices,
            weights=state["weights"].cpu().flatten() if "weights" in state else None,
            metrics={"ties_cut": float(state["ties_cut"].sum())} if "ties_cut" in state else {},
        )


@dataclass(frozen=True, kw_only=True)
class FeatureSelection(Selection):
    """A method that looks at a teacher's features."""

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    normalize: bool = opt(False, "divide each feature by its length first")

    def features(self, problem: Problem, label: int) -> Tensor:
        """(m, f) of one class."""
        features = problem.features(label)
        return functional.normalize(features) if self.normalize else features


@dataclass(frozen=True, kw_only=True)
class ScoreSelection(Selection):
    """A method that orders a class by a difficulty score."""

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    score: ClassVar[str]
    """Its name in `difficulty.SCORES`."""
    pick: str = opt(
        "hard", "which images of a class: the hardest, the easiest, or those nearest to its median score", choices=PICKS
    )

    @property
    def reads(self) -> frozenset[str]:
        """Scores to take from the teacher's bundle where it holds them."""
        return frozenset({self.score})

    def notes(self, problem: Problem) -> tuple[str, ...]:
        """Where each score comes from."""
        origin = {
            "recorded": "as recorded in the teacher's bundle",
            "computed": "by the teacher's first net after its last epoch",
        }
        return tuple(f"difficulty '{name}' {origin[how]}" for name, how in self._origins(problem).items())

    def record(self, problem: Problem) -> dict[str, Any]:
        """Where each score comes from, for the manifest."""
        return {"difficulty": self._origins(problem)}

    def choose(self, problem: Problem, label: int) -> Choice:
        """By score; equal ones by index, unless the method has a second score."""
        scores = problem.difficulty(self.score, label)
        order = by_score(scores, problem.ipc, self.pick, ties=self.second(problem, label))
        return Choice(order=order, ties_cut=ties_cut(scores, order, self.pick))

    def second(self, problem: Problem, label: int) -> Tensor | None:
        """A score (m,) for images that tie in the first one."""
        del problem, label
        return None

    def _origins(self, problem: Problem) -> dict[str, str]:
        return {name: "recorded" if name in problem.scores else "computed" for name in sorted(self.reads)}


def head(problem: Problem, label: int) -> HeadGradients:
    """Gradients of the teacher's last layer, of the real images of one class."""
    logits, features = problem.outputs(label)
    return head_gradients(logits, problem.labels[problem.members(label)], features)


def _put(state: State, name: str, label: int, row: Tensor) -> State:
    """The state with one class's row of a tensor (k, ...) set; zeros where the tensor is new."""
    rows = state.get(name, torch.zeros(len(state["indices"]), *row.shape, dtype=row.dtype)).clone()
    rows[label] = row
    return {**state, name: rows}
