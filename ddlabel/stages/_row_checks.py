"""What rows of an evaluation cannot be, found before the first student is trained."""

from __future__ import annotations

from typing import Any

import torch

from .. import _plugins
from ..config import EvaluateConfig
from ..distilled import DistilledSet
from ..errors import UsageError
from ..events import Event
from ..labels._labels import LabelSet
from ..losses._loss import Targets, loss_of_epoch
from ..teachers import Teacher
from ._baselines import TUNE, check_teachers, is_tuned
from ._label_kinds import whole_image_problem
from ._online import ONLINE
from ._plan import Plan
from ._recipe import check_settings
from ._trials import BUNDLE, PLAIN_EQUAL, RANDOM_EQUAL, Trial

__all__ = ["check_before_work"]


def check_before_work(plan: Plan) -> None:
    """Refuse what cannot work before the first student is trained.

    Raises:
        UsageError: options, losses or baselines that the rows cannot have.
        BundleError: labels without the teachers that baselines need; teachers that are none.
    """
    refined = (plan.labels.refined if plan.labels else None) or {}
    losses = tuple(dict.fromkeys(trial.loss for trial in plan.trials))
    check_settings(plan.settings, plan.config, losses, plan.label_kinds, refined)
    for arch in plan.archs:
        for trial in plan.trials:
            plan.recipe_and_loss(arch, trial)
    for name in plan.losses:
        if "soft" in _plugins.load("losses", name, "LOSS").needs and plan.labels is None and plan.live is None:
            raise UsageError(
                f"loss '{name}' needs soft labels, --labels is 'hard'",
                field="loss",
                hint="use --loss ce or other --labels",
            )
    for teacher in plan.teachers:
        Teacher(teacher)
    if plan.live is not None:
        plan.live.check_losses(plan.losses)
    elif plan.config.baselines:
        _check_teachers(plan)
    _check_samples(plan)
    _check_labels_suit(plan)
    labelled = plan.labels is not None or plan.use is not None
    _check_equal_bytes(plan.config, len(plan.plain), labelled=labelled)
    _check_features(plan)


def _check_samples(plan: Plan) -> None:
    """Rows are compared at equal samples seen."""
    if len(plan.trials) > 1 and str(plan.settings.get("estimator")) == "full":
        raise UsageError(
            "estimator 'full' sees every view of every image in each epoch, which no other row does",
            field="estimator",
            hint="score it alone, without baselines and further losses",
        )


def _check_labels_suit(plan: Plan) -> None:
    """Every loss takes labels of this domain: asked on one sample."""
    for trial in plan.trials:
        if plan.labels is not None and trial.labels not in {"hard", ONLINE}:
            _check_suits(plan.recipe_and_loss(plan.archs[0], trial)[1], plan.distilled, plan.labels)


def _check_teachers(plan: Plan) -> None:
    """Random images are labelled by the teachers of the labels, as far as teachers made them."""
    if plan.labels is not None and not plan.learned:
        check_teachers(plan.kind, plan.labels.section, plan.teachers)
    if plan.use is not None and plan.use.is_assigned and not plan.learned:
        check_teachers(plan.use.kind, plan.use.stored.section, plan.teachers)


def _check_features(plan: Plan) -> None:
    """Whole images are seen under every loss, every student has the layer; what the rows do not say is said."""
    if plan.use is None:
        return
    for name in plan.losses:
        _recipe, loss = plan.recipe_and_loss(plan.archs[0], Trial(BUNDLE, plan.kind, name))
        problem = whole_image_problem(plan.kind, name, getattr(loss, "estimator", "views"))
        if problem is not None:
            hint = "use --loss ladd, which sees whole images too" if plan.kind == "dense" else "use soft labels"
            raise UsageError(problem, field="labels", hint=f"{hint}, or --labels {plan.kind}")
    plan.use.check(plan.archs, plan.dataset.info, plan.on_event)
    if plan.random_ipc < plan.equal_ipc:
        message = (
            f"the bytes of the labels buy {plan.equal_ipc} images per class, the data have {plan.random_ipc}: "
            f"{RANDOM_EQUAL} takes these"
        )
        plan.on_event(Event(phase="baselines", message=message))
    if not plan.config.equal_bytes:
        tuned = f", which are not tuned as the bundle's are: {TUNE}" if is_tuned(plan.bundle) else ""
        message = (
            f"{PLAIN_EQUAL} is not run: --equal-bytes distils {plan.equal_ipc} images per class by the same "
            f"method, or takes them from --plain FILE{tuned}"
        )
        plan.on_event(Event(phase="baselines", message=message))


def _check_suits(loss: Any, distilled: DistilledSet, labels: LabelSet) -> None:
    """Refuse labels of a domain that a loss does not take: it is asked about one sample.

    Raises:
        UsageError: by the loss.
    """
    local = torch.ones(1, dtype=torch.bool)
    targets = Targets(distilled.labels[:1], labels.values[:1, 0], labels.domain, local)
    loss_of_epoch(loss, 0)(torch.zeros(1, len(distilled.classes)), targets)


def _check_equal_bytes(config: EvaluateConfig, plain: int, *, labelled: bool) -> None:
    """Refuse baselines of equal bytes that have no meaning.

    Args:
        config: of the evaluation.
        plain: how many plain bundles were given.
        labelled: whether there are labels whose bytes could buy images.

    Raises:
        UsageError: a plain bundle without `equal_bytes`, several of them, or hard labels alone.
    """
    if plain and not config.equal_bytes:
        raise UsageError("--plain is the baseline of --equal-bytes, expected both or none", field="plain")
    if plain > 1:
        raise UsageError(f"--plain was given {plain} times, expected one bundle", field="plain")
    if config.equal_bytes and not labelled:
        raise UsageError(
            "--equal-bytes compares labels with the images that their bytes buy, --labels is 'hard'",
            field="equal_bytes",
            hint="evaluate soft, dense, fkd, feature or attention labels",
        )
