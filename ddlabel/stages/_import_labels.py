"""The label sections of an imported bundle beside its hard labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection
from ..importers._importer import Foreign
from ..labels._labels import make_section
from ..labels._replay import check_stored, pack
from ._import_facts import Facts
from .distill import learned_labels

__all__ = ["label_sections"]


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
    size = bundle.section("images").tensors["images.pixels"]["shape"][2]
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
