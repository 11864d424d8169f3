"""Stage `refine`: change labels that a bundle already holds, by labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..config import RefineConfig, as_dict, build_many, check
from ..distilled import read_distilled
from ..errors import BundleError
from ..events import OnEvent, ignore
from ..labels._labels import choose_kind, make_section, read_labels
from ._stage import computing

__all__ = ["run"]


def run(
    bundle: Bundle,
    config: RefineConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    on_event: OnEvent = ignore,
) -> Bundle:
    """Refine one section of soft labels and store it in place of the old one.

    Args:
        bundle: a distilled bundle with soft or dense labels.
        config: refinement, label kind and codec.
        settings: options of the refinement and the codec (`--set`).
        on_event: unused: refinements are closed forms that take milliseconds.

    Returns:
        The bundle with its section `labels.<kind>` replaced.

    Raises:
        UsageError: unknown refinement, codec or option.
        BundleError: no such labels, stale labels, labels refined before.
    """
    del on_event
    check(config)
    kind = config.labels or choose_kind(bundle)
    if kind == "hard":
        raise BundleError(
            f"{bundle.name}: no soft labels to refine",
            field="labels",
            hint="run 'ddlabel augment-labels' first",
        )
    with computing(config.device, config.threads) as clock:
        distilled = read_distilled(bundle)
        labels = read_labels(bundle, kind)
        codec_name, present = _codec(config, labels.section.codec)
        classes = [_plugins.load("refine", config.method, "REFINEMENT"), _plugins.load("codecs", codec_name, "CODEC")]
        refinement, codec = build_many(classes, {**present, **(settings or {})})
        refined = refinement.apply(labels, distilled.labels)
        section = make_section(
            bundle,
            kind,
            refined.parameters,
            refined.values,
            domain=refined.domain,
            codec_name=codec_name,
            codec=codec,
            teachers=labels.section.teacher,
            refined=refined.refined,
        )
        record = clock.record(
            "refine",
            as_dict(config) | {"labels": kind, "codec": codec_name, "options": as_dict(refinement) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle],
            metrics={"bytes_before": _bytes(bundle, labels.section.name)},
        )
        return bundle.with_stage(record, add=[section])


def _codec(config: RefineConfig, present: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the codec to write with: the one asked for, or the present one as it is."""
    if config.codec is not None:
        return config.codec, {}
    if present is None:
        return "f32", {}
    return str(present["name"]), dict(present["parameters"])


def _bytes(bundle: Bundle, section: str) -> int:
    return int(sum(record["bytes"] for record in bundle.section(section).tensors.values()))
