"""The label sections of an imported bundle beside its hard labels."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection
from ..codecs._codec import Codec
from ..errors import BundleError, DdlabelError, UsageError
from ..events import Event, OnEvent
from ..importers._importer import Exported, Foreign
from ..labels._checks import Place, as_distributions, identity_of
from ..labels._features import check_parameters
from ..labels._kind import PRIVILEGED
from ..labels._labels import make_section, read_labels
from ..labels._privileged import make_privileged, read_privileged
from ..labels._replay import MIX_PARTS, check_stored, pack
from ..labels._stored import load_record
from ..privileged._objective import Norm
from ._import_facts import Facts
from .distill import learned_labels

__all__ = ["check_exported", "exported_sections", "label_sections", "without_places"]

EXACT = "f32"
"""Codec of labels that their own codec does not give again."""
ROUNDING = 2.0**-22
"""Of numbers up to 1 in float32, a few times."""


def label_sections(bundle: Bundle, foreign: Foreign, facts: Facts) -> list[NewSection]:
    """Sections of soft labels, as `distill` stores learned ones, and of labels of views with their draws.

    Raises:
        BundleError: rows that are not of their domain.
        UsageError: draws that cannot be replayed.
    """
    sections = []
    if foreign.soft is not None and foreign.learned and facts.domain == "logit":
        sections.append(learned_labels(bundle, foreign.soft, ()))
    elif foreign.soft is not None:
        learned = {"learned": True} if foreign.learned else {}
        kind = _plugins.load("labels", "soft", "KIND")()
        sections.append(_section(bundle, "soft", kind, foreign.soft[:, None], str(facts.domain), "f32", learned, {}))
    views = foreign.views
    if views is not None:
        count, number, side = *views.values.shape[:2], foreign.images.shape[2]
        kind = _plugins.load("labels", "fkd", "KIND")(views=number, mix=views.mix, replay="explicit")
        draws = check_stored(views.draws, views.mix, views=number, side=side)
        packed = pack(draws, views.mix, images=count, views=number, side=side)
        sections.append(_section(bundle, "fkd", kind, views.values, "logit", views.codec, {}, packed))
    return sections


def exported_sections(bundle: Bundle, foreign: Foreign, on_event: OnEvent) -> list[NewSection]:
    """Sections of the labels of an export, value by value, by the codec that they had where it gives them again.

    Labels of views and features that were made for other classes or another input space than the bundle's are left
    out, with a note: what they would be compared with is not what they were made from.

    Raises:
        BundleError: labels that are not what their kind makes.
    """
    sections = []
    for labels in foreign.exported:
        other = [
            key
            for key, ours in identity_of(bundle.manifest.data).items()
            if labels.kind != "soft" and labels.parameters.get(key, ours) != ours
        ]
        if other:
            _note(on_event, f"{labels.kind} labels are left out, they were made for another {' and '.join(other)}")
            continue
        name, codec = _codec(labels, labels.values.flatten(2))
        if codec is None and labels.view_ids is not None:
            _note(on_event, f"{labels.kind} labels are left out, what chose their views is not known")
        elif codec is None:
            exact = _plugins.load("codecs", EXACT, "CODEC")()
            with _of_the_file(bundle, foreign):
                sections.append(_exported(bundle, labels, EXACT, exact))
            _note(on_event, f"{labels.kind} labels are stored by codec {EXACT}, their own does not give them again")
        else:
            with _of_the_file(bundle, foreign):
                sections.append(_exported(bundle, labels, name, codec))
    return sections


def check_exported(bundle: Bundle, foreign: Foreign) -> None:
    """Read the labels of an export back, as every command will; raises BundleError where none could."""
    have = {section.role for section in bundle.sections("labels")}
    for labels in foreign.exported:
        if labels.kind in have:
            with _of_the_file(bundle, foreign):
                (read_privileged if labels.kind in PRIVILEGED else read_labels)(bundle, labels.kind)


def without_places(foreign: Foreign) -> Foreign:
    """The same set for another order of its images, without labels whose views are drawn by an image's place."""
    kept = [labels for labels in foreign.exported if not _has_place(labels)]
    gone = [labels.kind for labels in foreign.exported if _has_place(labels)]
    note = f"{foreign.name}: {' and '.join(gone)} labels are left out, their views follow from the order of the images"
    return dataclasses.replace(foreign, exported=tuple(kept), notes=(*foreign.notes, note) if gone else foreign.notes)


def _has_place(labels: Exported) -> bool:
    if labels.kind in {"soft", *PRIVILEGED}:
        return False
    return labels.view_ids is not None or not (labels.draws or _plugins.load("labels", labels.kind, "KIND").own_image)


def _exported(bundle: Bundle, labels: Exported, name: str, codec: Codec) -> NewSection:
    if labels.kind in PRIVILEGED:
        return _privileged(bundle, labels, name, codec)
    return make_section(
        bundle,
        labels.kind,
        {"size": _side(bundle), **labels.parameters},
        labels.values,
        domain=labels.domain,
        codec_name=name,
        codec=codec,
        teachers=labels.teacher,
        refined=labels.refined,
        augmentation=_packed(bundle, labels),
        view_ids=labels.view_ids,
    )


def _codec(labels: Exported, flat: Tensor) -> tuple[str, Codec | None]:
    """The codec that stored the labels, if it gives all values (n, v, d) again; codecs are lossless to their own."""
    name = str(labels.codec.get("name"))
    parameters = labels.codec.get("parameters", {})
    if not _plugins.is_known("codecs", name) or not isinstance(parameters, dict):
        return name, None
    try:
        codec: Codec = load_record(_plugins.load("codecs", name, "CODEC"), parameters, Place("these labels", name))
        images, views, width = flat.shape
        bound = codec.bind(codec.made_from(views))
        kept, same = bound.view_ids(images), bound.domain(labels.domain) == labels.domain
        if not same or (kept is None) != (labels.view_ids is None):
            return name, None
        if kept is not None and (labels.view_ids is None or not torch.equal(kept, labels.view_ids)):
            return name, None
        again = bound.decode(bound.encode(flat), (images, views, width))
    except DdlabelError:
        return name, None
    return name, codec if _same(again, flat, labels.domain) else None


def _same(again: Tensor, flat: Tensor, domain: str) -> bool:
    """Bit for bit; to the rounding of float32 where rows are normalised whenever they are read."""
    if domain not in {"prob", "unit"}:
        return torch.equal(again, flat)
    return bool(((as_distributions(again, domain) - flat).abs() <= ROUNDING).all())


def _privileged(bundle: Bundle, labels: Exported, name: str, codec: Codec) -> NewSection:
    data = bundle.manifest.data
    parameters = dict(labels.parameters) | identity_of(data)
    form = check_parameters(Place(bundle.name, f"labels.{labels.kind}"), labels.kind, parameters, data)
    if tuple(labels.values.shape[2:]) != form.shape:
        raise BundleError(f"{labels.kind} labels of shape {tuple(labels.values.shape[2:])}, their net has {form.shape}")
    norm = Norm(labels.norm["mean"], labels.norm["scale"]) if parameters["norm"] == "zscore" else None
    return make_privileged(
        bundle,
        labels.kind,
        form,
        labels.values,
        codec_name=name,
        codec=codec,
        teachers=labels.teacher,
        parameters=parameters,
        norm=norm,
    )


def _packed(bundle: Bundle, labels: Exported) -> Mapping[str, Tensor]:
    """Stored draws as the smallest whole numbers that hold them, as `fkd` has them."""
    mix = str(labels.parameters.get("mix"))
    if not labels.draws or mix not in MIX_PARTS:
        return labels.draws
    count, views = labels.draws[next(iter(labels.draws))].shape[:2]
    side = _side(bundle)
    try:
        draws = check_stored(labels.draws, mix, views=views, side=side)
    except UsageError as error:
        raise BundleError(f"{labels.kind} labels: {error.message}") from error
    return pack(draws, mix, images=count, views=views, side=side)


def _side(bundle: Bundle) -> int:
    side: int = bundle.section("images").tensors["images.pixels"]["shape"][2]
    return side


@contextlib.contextmanager
def _of_the_file(bundle: Bundle, foreign: Foreign) -> Iterator[None]:
    """What a section of the new bundle cannot be is what the file holds."""
    try:
        yield
    except BundleError as error:
        raise BundleError(
            f"{foreign.name}: {error.message.removeprefix(f'{bundle.name}: ')}", hint="export it again"
        ) from error


def _note(on_event: OnEvent, text: str) -> None:
    on_event(Event(phase="import", message=f"note: {text}"))


def _section(
    bundle: Bundle,
    name: str,
    kind: Any,
    values: Tensor,
    domain: str,
    codec: str,
    more: Mapping[str, Any],
    draws: Mapping[str, Tensor],
) -> NewSection:
    size = _side(bundle)
    return make_section(
        bundle,
        name,
        dict(kind.parameters(size)) | dict(more),
        values,
        domain=domain,
        codec_name=codec,
        codec=_plugins.load("codecs", codec, "CODEC")(),
        teachers=[],
        augmentation=draws,
    )
