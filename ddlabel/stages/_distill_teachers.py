"""Which teachers a method of distillation takes: what it needs of them, and whether they fit the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..bundle import Bundle
from ..config import DistillConfig
from ..data._dataset import Dataset
from ..distill._method import missing_scores
from ..errors import BundleError, UsageError
from ..preprocess import data_of
from ..teachers import Teacher
from ._score_files import holds_scores

__all__ = ["check_teacher_fits", "check_teachers", "experts_of"]


def check_teachers(name: str, needs: frozenset[str], teachers: Sequence[Bundle], *, filtered: bool) -> None:
    """Refuse teachers that a method lacks, or does not take.

    Args:
        name: of the method.
        needs: what it says it needs.
        teachers: as given.
        filtered: whether `--filter` may read scores of more of them.

    Raises:
        UsageError: a trained net, trajectories or scores are missing; more than one teacher.
    """
    if "teacher" in needs and not teachers:
        raise UsageError(
            f"method '{name}' needs a trained net, expected --teacher FILE",
            field="teacher",
            hint="run 'ddlabel train-teacher' first",
        )
    if "trajectories" in needs and not teachers:
        raise UsageError(
            f"method '{name}' needs trajectories, expected --teacher FILE...",
            field="teacher",
            hint="run 'ddlabel train-teacher --experts N' first",
        )
    for score in sorted(need.removeprefix("scores.") for need in needs if need.startswith("scores.")):
        if not any(holds_scores(teacher, score) for teacher in teachers):
            raise missing_scores(f"method '{name}'", score)
    if len(teachers) > 1 and "trajectories" not in needs and not filtered:
        raise UsageError(f"method '{name}' takes one teacher, {len(teachers)} were given", field="teacher")


def experts_of(config: DistillConfig, teachers: Sequence[Bundle]) -> list[Bundle]:
    """The teachers but those that give scores alone, which only --filter asks for."""
    scores = [] if config.filter is None else [bundle for bundle in teachers if not bundle.sections("trajectory")]
    return [bundle for bundle in teachers if bundle not in scores] or list(teachers)


def check_teacher_fits(teacher: Teacher, dataset: Dataset, config: DistillConfig, *, trajectories: bool) -> None:
    """Refuse a teacher of other classes, image shape or space; one with trajectories of other training images.

    Raises:
        BundleError: naming both sides.
    """
    theirs, info = data_of(teacher.bundle), dataset.info
    sides: dict[str, tuple[Any, Any]] = {
        "classes": (list(theirs["classes"]), list(info.classes)),
        "image shape": (
            [theirs["channels"], theirs["height"], theirs["width"]],
            [info.channels, info.height, info.width],
        ),
        "space": (theirs["space"]["kind"], config.space or theirs["space"]["kind"]),
    }
    if trajectories:
        ours = dataset.manifest()
        sides["training images"] = (theirs["fingerprint"], ours["fingerprint"])
        sides["held-out share"] = (theirs["validation"]["fraction"], ours["validation"]["fraction"])
    for field, (of_teacher, of_data) in sides.items():
        if of_teacher != of_data:
            raise BundleError(
                f"{teacher.bundle.name} has {field} {of_teacher}, the data set '{info.name}' has {of_data}",
                field=field,
                hint="train a teacher with the same --data, --size and --space",
            )
