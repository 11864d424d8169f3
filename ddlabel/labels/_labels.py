"""Label sections: what they hold, how they are written, and how they are read back after every check."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection, Packed
from ..codecs._codec import Codec, Shape, error_of, fidelity
from ..errors import BundleError, DivergedError, UsageError
from ..manifest import Section
from ..options import as_dict
from ..storage import zip_bytes
from ._checks import (
    RELABEL,
    Place,
    as_distributions,
    check_classes,
    check_finite,
    check_identity,
    check_kept,
    check_rows,
    check_size,
    check_views,
    identity_of,
)
from ._kind import PRIVILEGED, Kind
from ._stored import DRAWS, check_current, decode, load_codec, load_record

__all__ = [
    "Kind",
    "LabelSet",
    "available_kinds",
    "choose_kind",
    "load_kind",
    "make_section",
    "read_labels",
    "through_codec",
]

RICHEST_FIRST = ("dense", "fkd", "soft", "hard")


@dataclass(frozen=True)
class LabelSet:
    """Decoded labels."""

    kind: str
    values: Tensor
    """(n, v, k) float32."""
    domain: str
    parameters: Mapping[str, Any]
    refined: Mapping[str, Any] | None
    section: Section
    augmentation: Mapping[str, Tensor] = field(default_factory=dict)
    """Draws stored with the labels, (n, v, ...) by name; empty where views follow from the parameters."""
    view_ids: Tensor | None = None
    """(n, v) int64: which of the kind's views the values are of, ascending; None when they are of all."""


def available_kinds(bundle: Bundle) -> list[str]:
    """Kinds of class labels in a bundle, richest first: those that students answer with, not feature or attention."""
    roles = {section.role for section in bundle.sections("labels")} - set(PRIVILEGED)
    known = [kind for kind in RICHEST_FIRST if kind in roles]
    return known + sorted(role for role in roles if role is not None and role not in RICHEST_FIRST)


def choose_kind(bundle: Bundle) -> str:
    """The richest kind of class labels that is not stale: dense before fkd before soft before hard."""
    stale = {section.role for section in bundle.sections("labels") if section.stale}
    usable = [kind for kind in available_kinds(bundle) if kind not in stale]
    return usable[0] if usable else "hard"


def load_kind(labels: LabelSet) -> Kind:
    """The kind with the options, and the stored draws, that its labels were made with.

    Raises:
        BundleError: options that the kind does not have; draws that it cannot replay.
    """
    place = Place("these labels", labels.section.name)
    kind = _load_kind(labels.kind, labels.parameters, place)
    return _replaying(kind, labels.augmentation, labels.parameters, place)


def make_section(
    bundle: Bundle,
    kind: str,
    parameters: Mapping[str, Any],
    values: Tensor,
    *,
    domain: str,
    codec_name: str,
    codec: Codec,
    teachers: Sequence[str],
    refined: Mapping[str, Any] | None = None,
    augmentation: Mapping[str, Tensor] | None = None,
    view_ids: Tensor | None = None,
) -> NewSection:
    """Encode labels as section `labels.<kind>` for the images of a bundle.

    Args:
        bundle: whose images the labels are of.
        kind: soft, dense or fkd.
        parameters: from `Kind.parameters`.
        values: (n, v, k) float32.
        domain: of the values: logit, prob, logprob or unit. The section has the domain of what the codec decodes.
        codec_name, codec: how they are stored; each part is compressed where that makes it smaller.
        teachers: content digests of the teachers.
        refined: the refinement, if any.
        augmentation: from `Kind.augmentation`, (n, v, ...) by name.
        view_ids: of values that were pruned before, `LabelSet.view_ids`.

    Raises:
        DivergedError: values that are not finite, naming image and view.
        BundleError: values of other classes than the data, or rows that are not of their domain.
        UsageError: values, domain or views beyond the codec.
    """
    count, views, classes = values.shape
    name = f"labels.{kind}"
    place = Place(bundle.name, name)
    check_finite(place, values, DivergedError)
    check_classes(place, classes, bundle.manifest.data)
    check_rows(place, values, domain, torch.zeros(count, views))
    becomes = codec.domain(domain)
    codec = codec.bind(views if view_ids is None else _load_kind(kind, parameters, place).view_count)
    kept = codec.view_ids(count)
    check_kept(place, view_ids, kept)
    parts = codec.encode(values)
    if kept is not None and kept.shape[1] < views:
        values = values.gather(1, kept[..., None].expand(-1, -1, classes))
    decoded = codec.decode(parts, _shape(values))
    report = fidelity(values, as_distributions(decoded, becomes), domain)
    tensors = {f"{name}.{part}": Packed(tensor) for part, tensor in parts.items()}
    tensors |= {f"{name}.{DRAWS}{part}": Packed(tensor) for part, tensor in (augmentation or {}).items()}
    return NewSection(
        name,
        "labels",
        tensors,
        role=kind,
        codec={"name": codec_name, "parameters": as_dict(codec)},
        domain=becomes,
        views=values.shape[1],
        parameters=dict(parameters) | identity_of(bundle.manifest.data),
        of=bundle.images_digest(),
        teacher=list(teachers),
        fidelity=report | {"max_error": float(error_of(decoded, values).max())},
        refined=refined,
        zip_bytes=zip_bytes([values.float().contiguous().numpy().data]),
    )


def read_labels(bundle: Bundle, kind: str) -> LabelSet:
    """Decode the labels of one kind, after every check.

    Raises:
        BundleError: no such labels; stale; of other images, classes, image size or views; not what their codec wrote;
            not finite; rows that are not of their domain.
        UsageError: feature or attention labels, which `read_privileged` reads.
    """
    section = _section(bundle, kind)
    place = Place(bundle.name, section.name)
    domain, views = check_current(bundle, section, place)
    codec, data = load_codec(section, place), bundle.manifest.data
    if data is None:
        raise BundleError(f"{bundle.name} does not say its classes, which labels need", field="data")
    values = decode(bundle, section, codec, place, len(data["classes"]))
    check_size(place, section.parameters.get("size"), data)
    check_identity(place, section.parameters, data)
    kind_made = _load_kind(kind, section.parameters, place)
    check_views(place, kind_made, section.parameters, codec.made_from(views))
    kept = codec.view_ids(len(values))  # only now: it takes memory for all views that the codec says there were
    augmentation = _read_draws(bundle, section)
    _replaying(kind_made, augmentation, section.parameters, place)
    check_finite(place, values, BundleError)
    check_rows(place, values, domain, _slack(section, codec, values))
    values = as_distributions(values, domain)
    return LabelSet(kind, values, domain, section.parameters, section.refined, section, augmentation, kept)


def through_codec(labels: LabelSet, name: str, options: Mapping[str, Any]) -> LabelSet:
    """The same labels after encoding and decoding, which may leave views out.

    Args:
        labels: of all views of their kind, or pruned by the same codec before.
        name: of the codec.
        options: its own, and others that are not looked at.
    """
    place, plugin = Place("these labels", labels.section.name), _plugins.load("codecs", name, "CODEC")
    own = {field.name for field in dataclasses.fields(plugin)}
    made: Codec = load_record(plugin, {key: value for key, value in options.items() if key in own}, place)
    codec = made.bind(load_kind(labels).view_count)
    kept, (images, views, classes) = codec.view_ids(len(labels.values)), labels.values.shape
    check_kept(place, labels.view_ids, kept)
    shape = (images, views if kept is None else kept.shape[1], classes)
    domain = codec.domain(labels.domain)
    decoded = as_distributions(codec.decode(codec.encode(labels.values), shape), domain)
    return dataclasses.replace(labels, values=decoded, domain=domain, view_ids=kept)


def _section(bundle: Bundle, kind: str) -> Section:
    if kind in PRIVILEGED:
        raise UsageError(
            f"'{kind}' labels say what a layer gives, not which class; expected class labels",
            field="labels",
            hint=f"name class labels, and train on both with 'evaluate --labels soft+{kind}'",
        )
    have = available_kinds(bundle)
    if kind not in have:
        raise BundleError(
            f"{bundle.name}: no {kind} labels (labels: {', '.join(have) or 'none'})",
            field="labels",
            hint=f"run 'ddlabel augment-labels {bundle.name} --kind {kind} --teacher FILE' first",
        )
    return bundle.section(f"labels.{kind}")


def _load_kind(kind: str, parameters: Mapping[str, Any], place: Place) -> Kind:
    plugin = _plugins.load("labels", kind, "KIND")
    names = {field.name for field in dataclasses.fields(plugin)}
    made: Kind = load_record(plugin, {name: value for name, value in parameters.items() if name in names}, place)
    return made


def _replaying(kind: Kind, augmentation: Mapping[str, Tensor], parameters: Mapping[str, Any], place: Place) -> Kind:
    try:
        return kind.replaying(augmentation, int(parameters["size"]))
    except UsageError as error:
        raise BundleError(f"{place}: {error.message}", field=place.section, hint=RELABEL) from error


def _read_draws(bundle: Bundle, section: Section) -> dict[str, Tensor]:
    prefix = f"{section.name}.{DRAWS}"
    names = [name for name in section.tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): bundle.tensor(name) for name in names}


def _shape(values: Tensor) -> Shape:
    images, views, classes = values.shape
    return images, views, classes


def _slack(section: Section, codec: Codec, values: Tensor) -> Tensor:
    """(n, v) by how much the originals may differ from values: the codec's bound, or the error the section records."""
    if section.domain not in {"prob", "unit"}:
        return torch.zeros(values.shape[:2])  # no rule to be off from
    measured = (section.record.get("fidelity") or {}).get("max_error")
    bound = 2 * codec.tolerance(values)  # twice: the bound is of the values before encoding
    return bound if measured is None else bound.clamp(min=float(measured))
