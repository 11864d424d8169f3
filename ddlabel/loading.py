"""`ddlabel.load`: from a distilled bundle to what an own training loop needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch.utils.data import default_collate

from . import _plugins
from .bundle import Bundle
from .config import EvaluateConfig
from .distilled import read_distilled
from .errors import UsageError, suggest
from .events import ignore
from .labels._labels import RICHEST_FIRST, choose_kind, read_labels
from .labels._privileged import PRIVILEGED
from .loaded import LoadedBundle
from .options import MAX_SEED
from .preprocess import data_of
from .protocols._protocol import is_online
from .stages._recipe import archs_of, automatic_protocol, check_settings, protocol_loss, recipe_and_loss, student_of
from .stages._trials import BUNDLE, Trial, resolve_losses

__all__ = ["load"]


def load(
    source: str | os.PathLike[str] | BinaryIO | Bundle,
    *,
    labels: str | None = None,
    loss: str | None = None,
    protocol: str | None = None,
    arch: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LoadedBundle:
    """Open a distilled bundle for training.

    Args:
        source: a `.ddset` file, or a bundle that is open.
        labels: kind of class labels: hard, soft, dense or fkd; None takes the richest that are not stale.
        loss: name of the loss; None takes the protocol's, or the one that suits the labels.
        protocol: whose recipe is followed; None takes what `evaluate` would.
        arch: a net like the own one, for protocols that go by it; None takes the ConvNet that suits the images.
        settings: options of the recipe and the loss, as `--set` takes them.
        seed: of the order of samples and of the augmentation.

    Raises:
        BundleError: not a bundle, not a distilled one; labels that are missing or stale.
        UsageError: unknown names or options; labels that are no class labels; arguments of other types.
    """
    _check_types(source, {"labels": labels, "loss": loss, "protocol": protocol, "arch": arch}, settings, seed)
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    distilled = read_distilled(bundle)
    kind = choose_kind(bundle) if labels is None else labels
    _check_kind(kind)
    _check_protocol(protocol)
    values = None if kind == "hard" else read_labels(bundle, kind)
    given = dict(settings or {})
    config = EvaluateConfig(
        data="",
        loss=() if loss is None else (loss,),
        protocol=protocol,
        arch=() if arch is None else (arch,),
        labels=kind,
        seed=seed,
    )
    choice = protocol_loss(bundle, config, kind)
    (name, *_more) = resolve_losses(config, kind, values, ignore, choice=choice)
    check_settings(given, config, [name], kind, {} if values is None else values.refined or {})
    net = archs_of(config, data_of(bundle)["height"])[0]
    followed = protocol or automatic_protocol(bundle, kind)
    student = student_of(bundle, net, online=False)
    recipe, objective = recipe_and_loss(followed, student, Trial(BUNDLE, kind, name), given, epochs=None)
    loaded = LoadedBundle(
        bundle=bundle,
        kind=kind,
        distilled=distilled,
        labels=values,
        recipe=recipe,
        loss_name=name,
        objective=objective,
        protocol=followed,
        seed=seed,
        path=("student", net, 0),
    )
    _, targets = default_collate([loaded.dataset()[0]])
    loaded.loss(torch.zeros(1, len(loaded.classes)), targets, epoch=0)  # a loss of other labels refuses them
    return loaded


def _check_types(source: Any, names: Mapping[str, Any], settings: Any, seed: Any) -> None:
    problems = []
    if not isinstance(source, str | os.PathLike | Bundle) and not callable(getattr(source, "read", None)):
        problems.append(f"source is {_shown(source)}, expected a path, a file that is open for reading, or a Bundle")
    problems += [
        f"{name} is {_shown(value)}, expected a name in a text, or None"
        for name, value in names.items()
        if value is not None and not isinstance(value, str)
    ]
    if settings is not None and not (isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)):
        problems.append(f"settings are {_shown(settings)}, expected a dict of options by name")
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        problems.append(f"seed is {_shown(seed)}, expected a whole number from 0 to {MAX_SEED}")
    if problems:
        raise UsageError.collect(problems)


def _shown(value: Any) -> str:
    return f"{value!r:.80} of type '{type(value).__name__}'"


def _check_kind(kind: str) -> None:
    named = kind.split("+")
    beside = [part for part in named if part in PRIVILEGED]
    if beside:
        raise UsageError(
            f"labels are '{kind}', expected class labels alone: {beside[0]} labels are for a layer, not for logits",
            field="labels",
            hint=f"load class labels, and take the others from .features('{beside[0]}') by the 'index' of a sample",
        )
    if kind == "online":
        raise UsageError("labels are 'online', expected stored ones: a live teacher answers in 'ddlabel evaluate'")
    known = (*RICHEST_FIRST, *(name for name in _plugins.names("labels") if name not in PRIVILEGED))
    if kind not in known:
        raise UsageError(f"unknown label kind '{kind[:40]}'{suggest(kind, set(known))}", field="labels")


def _check_protocol(protocol: str | None) -> None:
    if protocol is not None and is_online(_plugins.load("protocols", protocol, "PROTOCOL")):
        raise UsageError(
            f"protocol '{protocol}' asks a live teacher", field="protocol", hint="'ddlabel evaluate' follows it"
        )
