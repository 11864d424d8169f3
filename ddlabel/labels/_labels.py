"""Label sections: what they hold, how they are written, and every check before they are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection, Packed
from ..codecs._codec import Codec, fidelity
from ..config import build
from ..errors import BundleError, UsageError
from ..manifest import Section
from ..storage import zip_bytes

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

RICHEST_FIRST = ("dense", "soft", "hard")
PROB_TOLERANCE = 1e-4
"""How far a row of probabilities may be from summing to 1, before it is renormalised."""


class Kind(Protocol):
    """A kind of labels: which views of an image are labelled."""

    @property
    def view_count(self) -> int:
        """Labelled views per image, v."""
        ...

    def views(self, images: Tensor) -> Tensor:
        """All views of images (b, c, h, w): (b, v, c, h, w)."""
        ...

    def view(self, images: Tensor, index: Tensor) -> Tensor:
        """View index[i] of image i: (b, c, h, w)."""
        ...

    def parameters(self, size: int) -> dict[str, Any]:
        """What the section must record so that views can be made again."""
        ...


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


def available_kinds(bundle: Bundle) -> list[str]:
    """Kinds of labels in a bundle, richest first."""
    roles = {section.role for section in bundle.sections("labels")}
    known = [kind for kind in RICHEST_FIRST if kind in roles]
    return known + sorted(role for role in roles if role is not None and role not in RICHEST_FIRST)


def choose_kind(bundle: Bundle) -> str:
    """The richest kind that is not stale: dense before soft before hard."""
    stale = {section.role for section in bundle.sections("labels") if section.stale}
    usable = [kind for kind in available_kinds(bundle) if kind not in stale]
    return usable[0] if usable else "hard"


def load_kind(labels: LabelSet) -> Kind:
    """The kind with the options its labels were made with.

    Raises:
        BundleError: options that the kind does not have.
    """
    plugin = _plugins.load("labels", labels.kind, "KIND")
    names = {field.name for field in dataclasses.fields(plugin)}
    options = {name: value for name, value in labels.parameters.items() if name in names}
    kind: Kind = _record(plugin, options, labels.section)
    return kind


def _load_codec(section: Section) -> Codec:
    """The codec that wrote a section, with its options."""
    name, parameters = (section.codec or {})["name"], (section.codec or {})["parameters"]
    codec: Codec = _record(_plugins.load("codecs", str(name), "CODEC"), parameters, section)
    return codec


def _record(plugin: type[Any], options: Mapping[str, Any], section: Section) -> Any:
    """A plugin with options that came from a file."""
    try:
        return build(plugin, options)
    except UsageError as error:
        raise BundleError(
            f"'{section.name}' was written with impossible options: {error}", field=section.name
        ) from error


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
) -> NewSection:
    """Encode labels as section `labels.<kind>` for the images of a bundle.

    Args:
        bundle: whose images the labels are of.
        kind: soft or dense.
        parameters: from `Kind.parameters`.
        values: (n, v, k) float32.
        domain: logit, prob, logprob or unit.
        codec_name, codec: how they are stored; each part is compressed where that makes it smaller.
        teachers: content digests of the teachers.
        refined: the refinement, if any.

    Raises:
        UsageError: values that are not finite or beyond the codec, naming the view.
    """
    count, views, classes = values.shape
    rows = values.reshape(-1, classes)
    parts = codec.encode(rows)
    decoded = codec.decode(parts)
    name = f"labels.{kind}"
    tensors = {
        f"{name}.{part}": Packed(tensor.reshape(count, views, *tensor.shape[1:])) for part, tensor in parts.items()
    }
    return NewSection(
        name,
        "labels",
        tensors,
        role=kind,
        codec={"name": codec_name, "parameters": _options(codec)},
        domain=domain,
        views=views,
        parameters=dict(parameters),
        of=bundle.images_digest(),
        teacher=list(teachers),
        fidelity=fidelity(rows, decoded, domain),
        refined=refined,
        zip_bytes=zip_bytes([rows.float().numpy().tobytes()]),
    )


def read_labels(bundle: Bundle, kind: str) -> LabelSet:
    """Decode the labels of one kind, after every check.

    Raises:
        BundleError: no such labels; stale; of other images, classes or image size; not finite; no probabilities.
    """
    section = _section(bundle, kind)
    if section.codec is None or section.domain is None or section.views is None:
        raise BundleError(
            f"{bundle.name}: '{section.name}' does not say its codec, domain and views", field=section.name
        )
    prefix = f"{section.name}."
    parts = {name.removeprefix(prefix): bundle.tensor(name) for name in section.tensors}
    codec = _load_codec(section)
    first = next(iter(parts.values()))
    try:
        decoded = codec.decode({part: tensor.flatten(0, 1) for part, tensor in parts.items()})
        values = decoded.reshape(first.shape[0], section.views, -1)
    except (KeyError, RuntimeError, IndexError) as error:
        raise BundleError(
            f"{bundle.name}: '{section.name}' does not hold what codec '{section.codec['name']}' wrote",
            field=section.name,
        ) from error
    labels = LabelSet(kind, values, section.domain, section.parameters, section.refined, section)
    return _checked(bundle, labels)


def through_codec(labels: LabelSet) -> LabelSet:
    """The same labels after encoding and decoding with their section's codec."""
    if labels.section.codec is None:
        return labels
    codec = _load_codec(labels.section)
    rows = labels.values.reshape(-1, labels.values.shape[-1])
    return dataclasses.replace(labels, values=codec.decode(codec.encode(rows)).reshape(labels.values.shape))


def _section(bundle: Bundle, kind: str) -> Section:
    have = available_kinds(bundle)
    if kind not in have:
        raise BundleError(
            f"{bundle.name}: no {kind} labels (labels: {', '.join(have) or 'none'})",
            field="labels",
            hint=f"run 'ddlabel augment-labels {bundle.name} --kind {kind} --teacher FILE' first",
        )
    section = bundle.section(f"labels.{kind}")
    if section.stale or section.of != bundle.images_digest():
        raise BundleError(
            f"{bundle.name}: '{section.name}' is stale: the images changed after they were labelled",
            field=section.name,
            hint="run 'ddlabel augment-labels' again",
        )
    return section


def _checked(bundle: Bundle, labels: LabelSet) -> LabelSet:
    name, values = labels.section.name, labels.values
    data = bundle.manifest.data
    classes = len(data["classes"]) if data else values.shape[-1]
    if values.shape[-1] != classes:
        raise BundleError(f"{bundle.name}: '{name}' has {values.shape[-1]} classes, the data has {classes}", field=name)
    size = labels.parameters.get("size")
    if data is not None and size != data["height"]:
        raise BundleError(
            f"{bundle.name}: '{name}' was made for images of {size} px, these have {data['height']}", field=name
        )
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        image, view, _class = (int(index) for index in bad.nonzero()[0])
        raise BundleError(f"{bundle.name}: '{name}', image {image}, view {view} is not finite", field=name)
    if labels.domain != "prob":
        return labels
    sums = values.sum(dim=-1)
    wrong = ((sums - 1).abs() > PROB_TOLERANCE) | (values < 0).any(dim=-1)
    codec = labels.section.codec or {}
    if bool(wrong.any()) and codec.get("name") == "f32":
        image, view = (int(index) for index in wrong.nonzero()[0])
        raise BundleError(
            f"{bundle.name}: '{name}', image {image}, view {view} is no distribution: sum {float(sums[image, view]):g}",
            field=name,
        )
    positive = values.clamp(min=0)
    return dataclasses.replace(labels, values=positive / positive.sum(dim=-1, keepdim=True))


def _options(codec: Codec) -> dict[str, Any]:
    if not dataclasses.is_dataclass(codec) or isinstance(codec, type):
        raise UsageError(f"codec {type(codec).__name__} is no dataclass of options")
    return {field.name: getattr(codec, field.name) for field in dataclasses.fields(codec)}
