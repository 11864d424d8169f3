"""Stage `refine`: change labels that a bundle already holds by labels alone, or learn labels from real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..codecs._choose import AUTO, check_max_kl
from ..codecs._codec import Codec
from ..config import RefineConfig
from ..distilled import read_distilled
from ..errors import BundleError, UsageError
from ..events import OnEvent, ignore
from ..labels._labels import choose_kind, make_section, read_labels
from ..labels._privileged import PRIVILEGED, choose_privileged, feature_codecs, make_privileged, read_privileged
from ..options import as_dict, build_many, check
from ._labelling import settle_codec
from ._learning import learn
from ._partial import Progress
from ._stage import computing

__all__ = ["run"]

KEEP = "keep"
RECODE = "recode"


def run(
    bundle: Bundle,
    config: RefineConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    teachers: Sequence[Bundle] = (),
    on_event: OnEvent = ignore,
    progress: Progress | None = None,
) -> Bundle:
    """Refine one section of soft labels and store it in place of the old one, or learn feature or attention labels.

    Args:
        bundle: a distilled bundle, with labels richer than hard ones unless labels are learned.
        config: refinement, label kind and codec.
        settings: options of the refinement and the codec (`--set`).
        teachers: for a refinement that learns from real data.
        on_event: told of the candidates when the codec is chosen, and of progress.
        progress: where states go, and one to continue from; refinements by labels alone keep none.

    Returns:
        The bundle with its section `labels.<kind>` replaced.

    Raises:
        UsageError: unknown refinement, codec or option.
        BundleError: no such labels, stale labels, labels refined before; and what `stages/_learning.py` refuses.
    """
    check(config)
    if hasattr(_plugins.load("refine", config.method, "REFINEMENT"), "for_settings"):
        return learn(bundle, config, settings or {}, teachers, on_event, progress or Progress())
    check_max_kl(config.codec, config.max_kl)
    del progress
    _refuse_unused(config, teachers)
    kind = config.labels or _richest(bundle, config.method)
    if kind in PRIVILEGED:
        return _recode_privileged(bundle, config, settings or {}, kind)
    if kind == "hard":
        raise BundleError(
            f"{bundle.name}: no soft labels to refine",
            field="labels",
            hint="run 'ddlabel augment-labels' first",
        )
    with computing(config.device, config.threads) as clock:
        distilled = read_distilled(bundle)
        labels = read_labels(bundle, kind)
        refinement, codec_name, codec = _refinement_and_codec(config, settings or {}, labels.section.codec)
        if codec is None and labels.view_ids is not None:
            raise UsageError(
                f"'{labels.section.name}' holds pruned labels, for which no codec can be chosen",
                field="codec",
                hint="keep '--codec prune' and change its --set values",
            )
        refined = refinement.apply(labels, distilled.labels)
        codec_name, codec, table = settle_codec(
            codec_name, codec, refined.values, refined.domain, config.max_kl, on_event
        )
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
            augmentation=refined.augmentation,
            view_ids=refined.view_ids,
        )
        record = clock.record(
            "refine",
            as_dict(config) | {"labels": kind, "codec": codec_name, "options": as_dict(refinement) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle],
            metrics={"bytes_before": _bytes(bundle, labels.section.name)} | table,
        )
        return bundle.with_stage(record, add=[section])


def _richest(bundle: Bundle, method: str) -> str:
    """Class labels where there are rich ones; for another codec also feature or attention labels."""
    kind = choose_kind(bundle)
    return (choose_privileged(bundle) or kind) if kind == "hard" and method == RECODE else kind


def _recode_privileged(bundle: Bundle, config: RefineConfig, settings: Mapping[str, Any], kind: str) -> Bundle:
    """The same feature or attention labels by another codec; everything else that their section says stays."""
    if config.method != RECODE:
        raise UsageError(
            f"refinement '{config.method}' is for labels over classes, '{kind}' labels are not",
            field="labels",
            hint="use --method recode for another codec, or --method dcpi to learn them",
        )
    if config.codec == AUTO:
        raise UsageError(
            f"codec 'auto' bounds a divergence of distributions, '{kind}' labels are none",
            field="codec",
            hint=f"name one of {', '.join(feature_codecs())}",
        )
    with computing(config.device, config.threads) as clock:
        labels = read_privileged(bundle, kind)
        refinement, codec_name, codec = _refinement_and_codec(config, settings, labels.section.codec)
        if codec is None:
            raise ValueError("a named codec must give a record")
        section = make_privileged(
            bundle,
            kind,
            labels.form,
            labels.values,
            codec_name=codec_name,
            codec=codec,
            teachers=labels.section.teacher or (),
            parameters=labels.parameters,
            norm=labels.norm,
        )
        record = clock.record(
            "refine",
            as_dict(config) | {"labels": kind, "codec": codec_name, "options": as_dict(refinement) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle],
            metrics={"bytes_before": _bytes(bundle, labels.section.name)},
        )
        return bundle.with_stage(record, add=[section])


def _refuse_unused(config: RefineConfig, teachers: Sequence[Bundle]) -> None:
    """What only learned labels take; raises UsageError."""
    given = {"teacher": bool(teachers)} | {
        name: getattr(config, name) is not None for name in ("data", "matcher", "arch")
    }
    problems = [
        f"refinement '{config.method}' takes no {name}: drop --{name}" for name, is_given in given.items() if is_given
    ]
    if problems:
        raise UsageError.collect(problems)


def _refinement_and_codec(
    config: RefineConfig, settings: Mapping[str, Any], present: Mapping[str, Any] | None
) -> tuple[Any, str, Codec | None]:
    """The refinement, and name and record of the codec: the one asked for, the present one as it is, or none yet."""
    refinement = _plugins.load("refine", config.method, "REFINEMENT")
    if config.codec == AUTO:
        return build_many([refinement], settings)[0], AUTO, None
    name = config.codec
    parameters: dict[str, Any] = {}
    if name == KEEP:
        name, parameters = ("f32", {}) if present is None else (str(present["name"]), dict(present["parameters"]))
    made, codec = build_many([refinement, _plugins.load("codecs", name, "CODEC")], {**parameters, **settings})
    return made, name, codec


def _bytes(bundle: Bundle, section: str) -> int:
    return int(sum(record["bytes"] for record in bundle.section(section).tensors.values()))
