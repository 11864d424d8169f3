"""How the students of a row are trained: a protocol's recipe and a loss, with what `--set` says of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..config import EvaluateConfig
from ..data._dataset import DatasetInfo
from ..errors import BundleError, UsageError, suggest
from ..labels._privileged import PRIVILEGED
from ..nets._groups import GROUPS, expand
from ..nets._net import canonical, default_arch, on_meta
from ..options import as_dict, build_many
from ..preprocess import data_of
from ..protocols._protocol import LossChoice, Student, loss_of
from ..training import Recipe
from ._online import ONLINE, OnlineOptions
from ._trials import AUGMENTED, Trial
from ._use_options import USE_OPTIONS

__all__ = [
    "archs_of",
    "automatic_protocol",
    "check_archs",
    "check_settings",
    "learned_lr",
    "protocol_loss",
    "recipe_and_loss",
    "student_of",
]


def archs_of(config: EvaluateConfig, size: int) -> tuple[str, ...]:
    """Canonical names of the students' nets, each once; size is the side of the images in pixels."""
    return tuple(dict.fromkeys(map(canonical, expand(config.arch or (default_arch(size),), size))))


def check_archs(archs: Sequence[str], config: EvaluateConfig, info: DatasetInfo) -> None:
    """Refuse nets that cannot take the images, before the first student is trained.

    Raises:
        UsageError: naming the groups that were asked for, which hold nets that nobody typed.
    """
    try:
        for arch in archs:
            on_meta(arch, channels=info.channels, size=info.height, classes=len(info.classes))
    except UsageError as error:
        groups = ", ".join(f"'{name}'" for name in config.arch if name.strip().lower() in GROUPS)
        if not groups:
            raise
        hint = f"it belongs to {groups}: name the other nets by --arch"
        raise UsageError(error.message, field="arch", hint=hint) from error


def student_of(bundle: Bundle, arch: str, *, online: bool, stored_images: int | None = None) -> Student:
    """What a protocol may know of a student of a bundle.

    Args:
        bundle: distilled.
        arch: canonical name of the net.
        online: whether a live teacher answers.
        stored_images: how many it trains on, where not on all.

    Raises:
        BundleError: a learned step size that is no positive number.
    """
    data = data_of(bundle)
    return Student(
        arch=arch,
        stored_images=len(bundle.tensor("labels.hard")) if stored_images is None else stored_images,
        learned_lr=learned_lr(bundle),
        classes=len(data["classes"]),
        side=data["height"],
        factor=_mosaic_factor(bundle),
        online=online,
    )


def automatic_protocol(bundle: Bundle, kind: str) -> str:
    """The protocol where nobody names one: that of the method where it learned a step size with the images."""
    learned = "datm" if kind == "soft" else "mtt"
    return learned if bundle.has("student.lr") else "dm"


def protocol_loss(bundle: Bundle, config: EvaluateConfig, labels: str) -> LossChoice | None:
    """The loss of the protocol that was asked for, on labels of a kind; None where neither says one."""
    if config.protocol is None:
        return None
    student = student_of(bundle, archs_of(config, data_of(bundle)["height"])[0], online=labels == ONLINE)
    return loss_of(_plugins.load("protocols", config.protocol, "PROTOCOL"), student, labels)


def recipe_and_loss(
    protocol: str,
    student: Student,
    trial: Trial,
    settings: Mapping[str, Any],
    *,
    epochs: int | None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Recipe, Any]:
    """The protocol's recipe for a student with the row's optimiser and the user's overrides, and the row's loss.

    Labels of augmented views are not augmented further: they are of these views and no others.

    Args:
        protocol: its name.
        student: what the protocol knows of the net and the bundle.
        trial: the row.
        settings: what `--set` says; names of neither recipe nor loss are left alone.
        epochs: in place of the protocol's.
        options: of the loss, beneath what the protocol and the user say of them.
    """
    plugin = _plugins.load("protocols", protocol, "PROTOCOL")
    published = as_dict(plugin.recipe(student)) | dict(trial.recipe)
    if trial.labels in AUGMENTED:
        published["augment"] = "none"
    if epochs is not None:
        published["epochs"] = epochs
    loss_class = _plugins.load("losses", trial.loss, "LOSS")
    known = _option_names(Recipe) | _option_names(loss_class)
    given = {name: value for name, value in settings.items() if name in known}
    choice = loss_of(plugin, student, trial.labels)
    suggested = choice.options if choice is not None and choice.name == trial.loss else {}
    recipe, loss = build_many([Recipe, loss_class], {**published, **(options or {}), **suggested, **given})
    return recipe, loss


def check_settings(
    settings: Mapping[str, Any],
    config: EvaluateConfig,
    losses: Sequence[str],
    label_kinds: str,
    refined: Mapping[str, Any],
) -> None:
    """Every setting is an option of the recipe, of one of the losses or of labels that are used.

    Args:
        settings: what `--set` says.
        config: options with places of their own.
        losses: of the evaluation.
        label_kinds: as `--labels` writes them.
        refined: how the labels were refined; empty when they were not.

    Raises:
        UsageError: all problems in one error.
    """
    known = _option_names(Recipe).union(*(_option_names(_plugins.load("losses", name, "LOSS")) for name in losses))
    has_features = any(kind in PRIVILEGED for kind in label_kinds.split("+"))
    unused = frozenset() if has_features else USE_OPTIONS - known
    known |= USE_OPTIONS - unused
    online = frozenset(_option_names(OnlineOptions))
    unasked = frozenset() if label_kinds == ONLINE else online - known
    known |= online
    problems = [f"unknown option '{name}'{suggest(name, known)}" for name in settings if name not in known | unused]
    problems += [
        f"option '{name}' is of feature and attention labels, --labels is '{label_kinds}'"
        for name in settings
        if name in unused
    ]
    problems += [
        f"option '{name}' is of a live teacher, --labels is '{label_kinds}'" for name in settings if name in unasked
    ]
    problems += [
        f"option '{name}' is given by --{name} and by --set, expected one of them"
        for name, given in (("optimizer", config.optimizer), ("epochs", config.epochs))
        if given and name in settings
    ]
    problems += [
        f"option '{name}' is {settings[name]}, the labels were refined with {refined[name]}"
        for name in ("gamma", "alpha", "form")
        if name in settings and name in refined and str(settings[name]) != str(refined[name])
    ]
    if problems:
        raise UsageError.collect(problems)


def learned_lr(bundle: Bundle) -> float | None:
    """The step size that was learned with the images; None without one.

    Raises:
        BundleError: it is no positive number.
    """
    if not bundle.has("student.lr"):
        return None
    lr = float(bundle.tensor("student.lr"))
    if not 0 < lr < math.inf:
        raise BundleError(
            f"{bundle.name}: learned step size 'student.lr' is {lr}, expected a positive number",
            field="student.lr",
            hint="distil again with a smaller step for it, or evaluate with --protocol dm",
        )
    return lr


def _mosaic_factor(bundle: Bundle) -> int | None:
    """F of the mosaics that RDED made the images of, as the history says; None for images of other methods."""
    for entry in bundle.manifest.history:
        if entry["stage"] == "distill" and entry["config"].get("method") == "rded":
            factor = entry["config"].get("options", {}).get("factor")
            return factor if type(factor) is int and factor > 0 else None
    return None


def _option_names(cls: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}
