"""Which teachers a method of distillation takes: what it needs of them, and whether they fit the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..bundle import Bundle
from ..config import DistillConfig
from ..data._dataset import Dataset
from ..distill._method import missing_scores
from ..errors import BundleError, UsageError
from ..nets._net import Net
from ..preprocess import check_agreement, data_of
from ..teachers import Checkpoint, Teacher
from ._score_files import holds_scores
from ._stage import IMAGENET_MEAN, Clock

__all__ = ["backbones_of", "check_teacher_fits", "check_teachers", "chosen_epoch", "experts_of"]

FEW_IPC = 10
"""Images per class up to which PAD looks through a net that has seen no hard images."""


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
    if "backbones" in needs and not teachers:
        raise UsageError(
            f"method '{name}' looks through trained nets, expected --teacher FILE",
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
    if len(teachers) > 1 and not needs & {"trajectories", "backbones"} and not filtered:
        raise UsageError(f"method '{name}' takes one teacher, {len(teachers)} were given", field="teacher")


def experts_of(config: DistillConfig, teachers: Sequence[Bundle]) -> list[Bundle]:
    """The teachers but those that give scores alone, which only --filter asks for."""
    scores = [] if config.filter is None else [bundle for bundle in teachers if not bundle.sections("trajectory")]
    return [bundle for bundle in teachers if bundle not in scores] or list(teachers)


def backbones_of(
    config: DistillConfig, teachers: Sequence[Bundle], clock: Clock
) -> tuple[tuple[Checkpoint, ...], tuple[Net, ...]]:
    """The checkpoints that `--checkpoint` means, of all teachers in their order, and their nets on the device.

    Teachers that were trained for their scores alone are left out where there are others: `--filter` reads them.

    Raises:
        UsageError: no such checkpoint, a teacher given twice.
        BundleError: teachers of different classes, image shapes or input spaces.
    """
    if len({bundle.content for bundle in teachers}) < len(teachers):
        raise UsageError("a teacher is given twice, what it sees would count double", field="teacher")
    squeezed = [bundle for bundle in teachers if not _scores_alone(bundle)] or list(teachers)
    checkpoints, nets = [], []
    for bundle in squeezed:
        check_agreement(bundle, squeezed[0])
        teacher = Teacher(bundle)
        for chosen in teacher.select(chosen_epoch(teacher, config.checkpoint, config.ipc)):
            checkpoints.append(chosen)
            nets.append(teacher.net(chosen, clock.device))
    return tuple(checkpoints), tuple(nets)


def chosen_epoch(teacher: Teacher, which: str | None, ipc: int) -> str:
    """What `Teacher.select` takes, of what `--checkpoint` says for a budget of images per class."""
    if which == "ipc":
        return str(teacher.epoch_for(ipc))
    if which == "rded":
        return str(teacher.guided_epoch(ipc))
    if which == "pad":
        return _epoch_of_curriculum(teacher, ipc)
    return which or "last"


def _epoch_of_curriculum(teacher: Teacher, ipc: int) -> str:
    """PAD's rule for a net that is used once: up to 10 images per class one that knows no hard images, else the last.

    The former is the latest kept epoch up to AEE of the curriculum that the teacher was trained with; the last one has
    forgotten the easiest images, where the training went on for long enough.

    Raises:
        UsageError: trained without a curriculum, or no epoch was kept in time.
    """
    made = [entry for entry in teacher.bundle.manifest.history if entry["stage"] == "train-teacher"]
    fiex = made[-1]["config"].get("fiex") if made else None
    if not isinstance(fiex, Mapping) or not isinstance(fiex.get("aee"), int):
        raise UsageError(
            f"--checkpoint pad is for teachers trained with a curriculum, {teacher.bundle.name} records none",
            field="checkpoint",
            hint="train one with 'ddlabel train-teacher --scores el2n --curriculum pad --keep ...', or name an epoch",
        )
    if ipc > FEW_IPC:
        return "last"
    aee, epochs = fiex["aee"], sorted({checkpoint.epoch for checkpoint in teacher.checkpoints})
    easy = [epoch for epoch in epochs if 0 < epoch <= aee]
    if not easy:
        raise UsageError(
            f"--checkpoint pad takes an epoch up to {aee} for {ipc} images per class, {teacher.bundle.name} kept "
            f"{', '.join(map(str, epochs))}",
            field="checkpoint",
            hint=f"train the teacher with --keep {aee} and the last epoch, or name an epoch",
        )
    return str(easy[-1])


def _scores_alone(bundle: Bundle) -> bool:
    made = [entry for entry in bundle.manifest.history if entry["stage"] == "train-teacher"]
    return bool(made) and made[-1]["config"].get("experts") == 0


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
        "space": (_space_name(theirs["space"]), config.space or _space_name(theirs["space"])),
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


def _space_name(record: Mapping[str, Any]) -> str:
    """As `--space` says it."""
    return "imagenet" if tuple(record.get("mean", ())) == IMAGENET_MEAN else str(record["kind"])
