"""`augment-labels --kind feature|attention`: what a layer of the chosen checkpoints gives for each image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _plugins, seeding
from ..bundle import Bundle, NewSection
from ..codecs._choose import AUTO, check_max_kl, stored_bytes
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig
from ..errors import UsageError
from ..labels._privileged import PrivilegedKind, check_codec, feature_codecs, make_privileged
from ..options import as_dict, build_many
from ..preprocess import data_of
from ..privileged._form import Form
from ..privileged._objective import Objective, fit_norm
from ._labelling import Labelling, label_features

__all__ = ["build_privileged", "label_privileged"]


def build_privileged(config: AugmentLabelsConfig, settings: Mapping[str, Any]) -> tuple[PrivilegedKind, Codec]:
    """The label kind and codec records.

    Raises:
        UsageError: unknown options, or options that mean nothing for features.
    """
    refused = {
        "grid": config.grid is not None,
        "ratio": config.ratio is not None,
        "ensemble": config.ensemble != "mean",
        "checkpoint auto": config.checkpoint == "auto",
    }
    problems = [
        f"'--{name}' is for class labels, --kind is '{config.kind}'" for name, given in refused.items() if given
    ]
    if config.kind == "feature":
        problems += [
            f"option '{name}' pools a feature, which --kind attention does; --kind is 'feature'"
            for name in ("attention", "pool")
            if name in settings
        ]
    if problems:
        raise UsageError.collect(problems)
    if config.codec == AUTO:
        raise UsageError(
            "--codec auto weighs what distributions over classes lose, which features are not",
            field="codec",
            hint=f"use --codec f16, or another of {', '.join(feature_codecs())}",
        )
    check_max_kl(config.codec, config.max_kl)
    kind, codec = build_many(
        [_plugins.load("labels", config.kind, "KIND"), _plugins.load("codecs", config.codec, "CODEC")], settings
    )
    check_codec(config.codec, codec)
    return kind, codec


def label_privileged(
    labelling: Labelling, kind: PrivilegedKind, codec: Codec | None
) -> tuple[NewSection, Codec, dict[str, Any]]:
    """Section `labels.<kind>` for the images of a bundle, its codec, and what it cost.

    Args:
        labelling: images and checkpoints.
        kind, codec: what is taken, and how it is stored.

    Raises:
        UsageError: nets of several architectures; no such layer; a codec that cannot hold features.
        DivergedError: features that are not finite.
    """
    config, images = labelling.config, labelling.images
    if codec is None:
        raise ValueError("no codec is chosen for features")
    form = _form(kind, labelling)
    codec.check(len(labelling.checkpoints) if kind.keep == "all" else 1, math.prod(form.shape))
    if kind.source == "noise":
        values = _noise(config, kind, form, len(images), len(labelling.checkpoints))
        labellers: list[dict[str, Any]] = []
    else:
        values = label_features(
            images,
            form,
            labelling.nets,
            labelling.clock,
            labelling.on_event,
            keep=kind.keep,
            keeping=labelling.keeping,
        )
        labellers = labelling.describe()
    section = make_privileged(
        labelling.bundle,
        config.kind,
        form,
        values,
        codec_name=config.codec,
        codec=codec,
        teachers=[teacher.content for teacher in labelling.teachers] if labellers else [],
        parameters={
            **{name: getattr(kind, name) for name in as_dict(Objective())},
            "mode": "assigned" if labellers else "noise",
        },
        norm=fit_norm(values) if kind.norm == "zscore" else None,
    )
    metrics = {
        "form": {"arch": form.arch, "layer": form.layer, "shape": list(form.shape)},
        "labels_per_image": values.shape[1],
        "bytes_per_image": _bytes(labelling.bundle, section),
        "fidelity": dict(section.fidelity or {}),
        "labellers": labellers,
        "flops": {"labelling": labelling.flops(len(images)) if labellers else 0},
    }
    return section, codec, metrics


def _form(kind: PrivilegedKind, labelling: Labelling) -> Form:
    """The one form of the labels of all chosen nets."""
    archs = sorted({checkpoint.arch for checkpoint in labelling.checkpoints})
    if len(archs) > 1:
        raise UsageError(
            f"features of nets '{archs[0]}' and '{archs[1]}' cannot be one label, expected one architecture",
            field="teacher",
            hint="give teachers of one --arch",
        )
    data = data_of(labelling.bundle)
    form = kind.form(archs[0], channels=data["channels"], size=data["height"], classes=len(data["classes"]))
    kind.check(form)
    return form


def _noise(config: AugmentLabelsConfig, kind: PrivilegedKind, form: Form, images: int, nets: int) -> Tensor:
    """(n, K, *shape) of N(0, 1), whatever is kept: a mean of several would be smaller."""
    count = nets if kind.keep == "all" else 1
    return torch.randn(images, count, *form.shape, generator=seeding.generator(config.seed, "labels", "noise"))


def _bytes(bundle: Bundle, section: NewSection) -> dict[str, float]:
    """Stored bytes of an image's labels, of the image, and their ratio."""
    spent = bundle.section("images").tensors["images.pixels"]
    images = int(spent.get("packed", spent)["shape"][0])
    labels = stored_bytes(packed.tensor for packed in section.tensors.values()) / images
    pixels = int(spent["bytes"]) / images
    return {"labels": labels, "image": pixels, "ratio": labels / pixels}
