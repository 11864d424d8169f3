"""One row of an evaluation: what it is called while it is trained, and what the record says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..nets._flops import TRAINING_STEP, forward_flops
from ..options import as_dict
from ..scores import summarise
from ..training import Recipe
from ._plan import Plan
from ._trials import Trial

__all__ = ["row_name", "row_record"]


def row_name(trial: Trial, recipe: Recipe, arch: str) -> str:
    """Images, labels, loss, optimiser where several are compared, and net."""
    how = f", {recipe.optimizer} {recipe.lr:g}" if trial.recipe else ""
    return f"{trial.images} images, {trial.label_kinds} labels, {trial.loss}{how}, {arch}"


def row_record(
    plan: Plan,
    trial: Trial,
    arch: str,
    recipe: Recipe,
    loss: Any,
    *,
    last: Sequence[float],
    best: Sequence[float],
    samples: int,
) -> dict[str, Any]:
    """The row as the manifest holds it.

    Args:
        plan, trial, arch: which row.
        recipe, loss: how it was trained.
        last: accuracies that are reported, one of each run.
        best: accuracies at the best look of each run, only noted.
        samples: seen in one run.
    """
    info = plan.dataset.info
    forward = forward_flops(arch, channels=info.channels, size=info.height, classes=len(info.classes))
    online = plan.online(trial, samples)
    return {
        "arch": arch,
        "images": trial.images,
        "labels": trial.label_kinds,
        "loss": {"name": trial.loss, "options": as_dict(loss)},
        "recipe": as_dict(recipe),
        "accuracy": summarise(last),
        "best_on_test": summarise(best),
        "samples_seen": samples,
        "flops": TRAINING_STEP * forward * samples * len(last) + online.get("teacher_flops", 0),
        "stored_bytes": plan.stored_bytes(trial),
        **online,
        **plan.tuning(trial),
    }
