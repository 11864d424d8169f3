"""Feature and attention labels in a bundle: how they are written, and read back after every check."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..bundle import Bundle, NewSection, Packed
from ..codecs._codec import Codec, error_of, fidelity
from ..errors import BundleError, DivergedError, UsageError
from ..manifest import Section
from ..options import as_dict, opt
from ..privileged._form import LAST, Form, make_form
from ..privileged._objective import Norm, Objective
from ..storage import zip_bytes
from ._checks import RELABEL, Place, check_features, identity_of
from ._features import DEFAULTS, DOMAIN, check_codec, check_parameters, feature_codecs, objective_of, read_norm
from ._kind import PRIVILEGED
from ._stored import NORM, check_current, decode, image_count, load_codec

__all__ = [
    "PRIVILEGED",
    "PrivilegedKind",
    "PrivilegedSet",
    "check_codec",
    "choose_privileged",
    "feature_codecs",
    "make_privileged",
    "objective_of",
    "read_privileged",
]


@dataclass(frozen=True)
class PrivilegedSet:
    """Decoded labels."""

    kind: str
    values: Tensor
    """(n, K, *form.shape) float32: K labels of each image."""
    form: Form
    norm: Norm | None
    """Stored with labels that were made for `norm=zscore`."""
    parameters: Mapping[str, Any]
    """Of the section: what `Objective` takes (lambda_reg, metric, norm, ...), mode, matcher, lambda_task; of learned
    labels `label_aug`, none or hflip, which older files do not say."""
    section: Section


@dataclass(frozen=True, kw_only=True)
class PrivilegedKind(Objective):
    """Options of a kind of labels that training compares with features; what `Objective` takes is stored for it."""

    layer: str = opt(LAST, "block whose output is the label: last, or a number from 1")
    keep: str = opt("mean", "of several nets: their mean label, or all K of them", choices=("mean", "all"))
    source: str = opt("teacher", "teacher, or noise: N(0, 1) in its place, the control", choices=("teacher", "noise"))

    def pooling(self) -> tuple[str | None, str]:
        """`attention` and `pool` of the form."""
        return None, "avg"

    def form(self, arch: str, *, channels: int, size: int, classes: int) -> Form:
        """The form of labels by a net; raises as `make_form` does."""
        attention, pool = self.pooling()
        return make_form(
            arch, channels=channels, size=size, classes=classes, layer=self.layer, attention=attention, pool=pool
        )


def choose_privileged(bundle: Bundle) -> str | None:
    """Feature before attention labels, those that are not stale; None without any."""
    usable = {section.role for section in bundle.sections("labels") if not section.stale}
    return next((kind for kind in PRIVILEGED if kind in usable), None)


def make_privileged(
    bundle: Bundle,
    kind: str,
    form: Form,
    values: Tensor,
    *,
    codec_name: str,
    codec: Codec,
    teachers: Sequence[str],
    parameters: Mapping[str, Any],
    norm: Norm | None = None,
) -> NewSection:
    """Encode feature or attention labels as section `labels.<kind>` for the images of a bundle.

    Args:
        bundle: whose images the labels are of.
        kind: feature or attention.
        form: of one label.
        values: (n, K, *form.shape) float32.
        codec_name, codec: how they are stored, as (n, K, d).
        teachers: content digests of the teachers, or of the experts that the labels were learned from.
        parameters: `mode`, and how labels were learned and are compared: what is missing is `DEFAULTS` and that of
            `Objective`.
        norm: for `norm=zscore`, stored beside the labels.

    Raises:
        DivergedError: values that are not finite, naming image and label.
        BundleError: a form that the data cannot have, or impossible parameters.
        UsageError: a codec that cannot hold features, or these.
        ValueError: values of another shape than the form says, or no norm where one is needed.
    """
    place = Place(bundle.name, f"labels.{kind}")
    if kind not in PRIVILEGED or tuple(values.shape[2:]) != form.shape or len(values) != image_count(bundle):
        raise ValueError(f"{kind} labels {tuple(values.shape)} of {image_count(bundle)} images and form {form.shape}")
    check_features(place, values, DivergedError)
    said = _said(bundle, form, parameters)
    check_parameters(place, kind, said, bundle.manifest.data)
    if (norm is not None) != (said["norm"] == "zscore"):
        raise ValueError(f"norm is '{said['norm']}', expected a stored norm with zscore alone")
    check_codec(codec_name, codec)
    flat = values.float().flatten(2).contiguous()
    parts = codec.encode(flat)
    decoded = codec.decode(parts, (flat.shape[0], flat.shape[1], flat.shape[2]))
    if norm is not None:
        parts |= {f"{NORM}mean": norm.mean.float(), f"{NORM}scale": norm.scale.float()}
    return NewSection(
        place.section,
        "labels",
        {f"{place.section}.{part}": Packed(tensor) for part, tensor in parts.items()},
        role=kind,
        codec={"name": codec_name, "parameters": as_dict(codec)},
        domain=DOMAIN,
        views=flat.shape[1],
        parameters=said,
        of=bundle.images_digest(),
        teacher=list(teachers),
        fidelity=fidelity(flat, decoded, DOMAIN) | {"max_error": float(error_of(decoded, flat).max())},
        zip_bytes=zip_bytes([flat.numpy().data]),
    )


def read_privileged(bundle: Bundle, kind: str) -> PrivilegedSet:
    """Decode feature or attention labels, after every check.

    Raises:
        BundleError: no such labels; stale; of other images, classes, image size or space; of a form that their net
            does not have; not what their codec wrote; not finite; a norm that is missing, or impossible.
    """
    section = _section(bundle, kind)
    place = Place(bundle.name, section.name)
    domain, _views = check_current(bundle, section, place)
    if domain != DOMAIN:
        raise BundleError(f"{place} has domain '{domain}', expected '{DOMAIN}'", field=section.name)
    form = check_parameters(place, kind, section.parameters, bundle.manifest.data)
    codec = load_codec(section, place)
    try:
        check_codec(str((section.codec or {})["name"]), codec)
    except UsageError as error:
        raise BundleError(f"{place}: {error.message}", field=section.name, hint=RELABEL) from error
    values = decode(bundle, section, codec, place, math.prod(form.shape)).unflatten(2, form.shape)
    check_features(place, values, BundleError)
    norm = read_norm(bundle, section, place, form)
    return PrivilegedSet(kind, values, form, norm, section.parameters, section)


def _section(bundle: Bundle, kind: str) -> Section:
    if kind not in PRIVILEGED:
        raise UsageError(f"'{kind}' labels are not of {' or '.join(PRIVILEGED)}", field="labels")
    have = sorted(section.role for section in bundle.sections("labels") if section.role)
    if kind not in have:
        raise BundleError(
            f"{bundle.name}: no {kind} labels (labels: {', '.join(have)})",
            field="labels",
            hint=f"run 'ddlabel augment-labels {bundle.name} --kind {kind} --teacher FILE' first",
        )
    return bundle.section(f"labels.{kind}")


def _said(bundle: Bundle, form: Form, parameters: Mapping[str, Any]) -> dict[str, Any]:
    data = bundle.manifest.data or {}
    of_form = dataclasses.asdict(form) | {"shape": list(form.shape), "size": data.get("height")}
    return {**DEFAULTS, **as_dict(Objective()), **parameters, **of_form, **identity_of(bundle.manifest.data)}
