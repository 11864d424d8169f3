"""What must hold of feature and attention labels: their codec, their net's shapes, how they say they are used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import _plugins
from ..bundle import Bundle
from ..codecs._codec import Codec
from ..errors import BundleError, UsageError
from ..manifest import Section
from ..privileged._form import Form, make_form
from ..privileged._objective import Norm, Objective
from ._checks import RELABEL, Place, check_identity, check_size, identity_of
from ._stored import NORM, load_record

__all__ = ["DEFAULTS", "DOMAIN", "check_codec", "check_parameters", "feature_codecs", "objective_of", "read_norm"]

DOMAIN = "feature"
MODES = ("noise", "assigned", "learned")
"""Drawn from N(0, 1), as a teacher gave them, or learned from real data."""
MATCHERS = (None, "dc", "mtt", "datm")
"""What learned them."""
MIRRORS = ("none", "hflip")
"""`label_aug`: whether labels are mirrored with their images; optional, older sections do not say it."""
DEFAULTS: Mapping[str, Any] = {"matcher": None, "lambda_task": 0.0, "soft": 0.0}
"""What labels that nobody learned say of their learning."""
FORM = ("arch", "layer", "attention", "pool", "shape", "size")


def feature_codecs() -> tuple[str, ...]:
    """Codecs that hold features: those made for distributions, and those that leave views out, do not."""
    return tuple(name for name in _plugins.names("codecs") if not _refusal(_plugins.load("codecs", name, "CODEC")()))


def check_codec(name: str, codec: Codec) -> None:
    """Refuse a codec that cannot hold features, naming those that can.

    Raises:
        UsageError: it is for distributions, or leaves labels out.
    """
    problem = _refusal(codec)
    if problem is not None:
        raise UsageError(
            f"codec '{name}' {problem}",
            field="codec",
            hint=f"use --codec f16, or another of {', '.join(feature_codecs())}",
        )


def _refusal(codec: Codec) -> str | None:
    """Why a codec cannot hold features, as the end of a sentence; None when it can."""
    if type(codec).view_ids is not Codec.view_ids:
        return "leaves labels out, and features have few"
    try:
        return None if codec.domain(DOMAIN) == DOMAIN else "is for distributions over classes, these are features"
    except UsageError:
        return "is for distributions over classes, these are features"


def objective_of(parameters: Mapping[str, Any], place: Place | None = None) -> Objective:
    """The objective that a section says its labels are for.

    Raises:
        BundleError: impossible values, or some missing.
    """
    place = place or Place("these labels", "labels")
    names = [field.name for field in dataclasses.fields(Objective)]
    _check_present(place, parameters, names)
    made: Objective = load_record(Objective, {name: parameters[name] for name in names}, place)
    return made


def _check_present(place: Place, parameters: Mapping[str, Any], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in parameters]
    if missing:
        raise BundleError(f"{place} does not say its {', '.join(missing)}", field=place.section, hint=RELABEL)


def check_parameters(place: Place, kind: str, parameters: Mapping[str, Any], data: Mapping[str, Any] | None) -> Form:
    """The form that the parameters say, once all of them are possible and of the images' data."""
    if data is None:
        raise BundleError(f"{place}: nothing says the data of its images, which labels need", field="data")
    _check_present(place, parameters, (*FORM, *identity_of(data), "mode", *DEFAULTS))
    check_size(place, parameters["size"], data)
    check_identity(place, parameters, data)
    objective_of(parameters, place)
    if parameters.get("label_aug", MIRRORS[0]) not in MIRRORS:
        said = str(parameters["label_aug"])[:80]
        raise BundleError(f"{place} was written with impossible label_aug '{said}'", field=place.section, hint=RELABEL)
    weights = [parameters["lambda_task"], parameters["soft"]]
    if (
        parameters["mode"] not in MODES
        or parameters["matcher"] not in MATCHERS
        or not all(type(weight) in {int, float} and 0 <= weight < math.inf for weight in weights)
    ):
        values = ", ".join(f"{name} {parameters[name]!r}" for name in ("mode", *DEFAULTS))
        raise BundleError(f"{place} was written with impossible {values}"[:400], field=place.section, hint=RELABEL)
    return _form_of(place, kind, parameters, data)


def _form_of(place: Place, kind: str, parameters: Mapping[str, Any], data: Mapping[str, Any]) -> Form:
    """The form by the net itself; it must be what the parameters say."""
    said = {name: parameters[name] for name in FORM if name != "size"}
    try:
        form = make_form(
            str(said["arch"]),
            channels=data["channels"],
            size=data["height"],
            classes=len(data["classes"]),
            layer=str(said["layer"]),
            attention=said["attention"],
            pool=str(said["pool"]),
        )
    except UsageError as error:
        raise BundleError(f"{place}: {error.message}", field=place.section, hint=RELABEL) from error
    made = dataclasses.asdict(form) | {"shape": list(form.shape)}
    wrong = [name for name in made if made[name] != said[name] or type(made[name]) is not type(said[name])]
    if wrong:
        raise BundleError(
            f"{place} says {wrong[0]} {str(said[wrong[0]])[:80]}, its net has {made[wrong[0]]}",
            field=place.section,
            hint=RELABEL,
        )
    if (form.attention is not None) != (kind == "attention"):
        raise BundleError(f"{place} says attention {form.attention}, which is no {kind}", field=place.section)
    return form


def read_norm(bundle: Bundle, section: Section, place: Place, form: Form) -> Norm | None:
    """The stored norm: finite, its scale positive, there if and only if it is needed."""
    names = {name for name in section.tensors if name.startswith(f"{section.name}.{NORM}")}
    wanted = {f"{section.name}.{NORM}{part}" for part in ("mean", "scale")}
    if names != (wanted if section.parameters["norm"] == "zscore" else set()):
        raise BundleError(
            f"{place} has norm '{section.parameters['norm']}' and norm tensors {', '.join(sorted(names)) or 'none'}",
            field=section.name,
            hint=RELABEL,
        )
    if not names:
        return None
    mean, scale = (bundle.tensor(name) for name in sorted(names))
    for name, tensor in (("mean", mean), ("scale", scale)):
        fits = tensor.dtype == torch.float32 and tuple(tensor.shape) == form.shape
        if not fits or not bool(torch.isfinite(tensor).all()) or (name == "scale" and not bool((tensor > 0).all())):
            raise BundleError(
                f"{place}: its norm's {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected finite float32 "
                f"of shape {form.shape}{', above 0' if name == 'scale' else ''}",
                field=section.name,
                hint=RELABEL,
            )
    return Norm(mean, scale)
