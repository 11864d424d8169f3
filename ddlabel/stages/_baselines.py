"""What a bundle is compared with: random images, alike or of equal bytes, and the same method with more images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import _plugins, seeding
from ..bundle import Bundle
from ..config import DistillConfig
from ..data._dataset import Dataset
from ..distilled import DistilledSet, read_distilled
from ..errors import BundleError, UsageError
from ..events import Event, OnEvent
from ..labels._checks import Place
from ..labels._labels import LabelSet, load_kind, through_codec
from ..labels._privileged import PrivilegedSet
from ..labels._stored import load_codec
from ..manifest import Section
from ..options import build_many
from ..preprocess import check_agreement, data_of
from ..selection import select_random
from . import distill
from ._labelling import label_features, label_views, stored_of, teacher_nets
from ._stage import Clock

__all__ = [
    "TUNE",
    "check_plain",
    "check_teachers",
    "equal_bytes_ipc",
    "is_tuned",
    "plain_bundle",
    "plain_bytes",
    "random_set",
    "relabel",
    "relabel_features",
    "spent_bytes",
]

PLAIN = ("images", "labels.hard")
"""Sections that grow with the number of images."""
TUNE = "tune images of 'ddlabel distill' the same way by 'ddlabel refine', and pass them with --plain FILE"
"""What makes plain images fair beside tuned ones."""


def spent_bytes(bundle: Bundle, kind: str, privileged: str | None = None) -> int:
    """Stored bytes of what students need: images, hard labels, transforms, step size, and labels of the kinds given.

    Args:
        bundle: whose file it is.
        kind: of class labels.
        privileged: feature or attention labels beside them, with the norm that is stored with them.
    """
    wanted = {*PLAIN, f"labels.{kind}", f"labels.{privileged}"}
    sections = bundle.manifest.sections
    return sum(
        record["bytes"]
        for section in sections
        if section.name in wanted or section.kind in {"transform", "student"}
        for record in section.tensors.values()
    )


def equal_bytes_ipc(bundle: Bundle, kind: str, classes: int, privileged: str | None = None) -> int:
    """The fewest images per class whose stored bytes, with hard labels, are at least those spent for all labels.

    Rounding up favours the baseline.
    """
    own, count = _own_bytes(bundle), len(bundle.tensor("labels.hard"))
    wanted = spent_bytes(bundle, kind, privileged) - spent_bytes(bundle, "hard") + own
    return -(-wanted * count // (own * classes))


def plain_bytes(bundle: Bundle, images: int) -> float:
    """What so many images with hard labels cost in a bundle like this one, with what all images share."""
    own = _own_bytes(bundle)
    return float(spent_bytes(bundle, "hard") - own + own * images / len(bundle.tensor("labels.hard")))


def random_set(distilled: DistilledSet, dataset: Dataset, seed: int, index: int, *, ipc: int | None) -> DistilledSet:
    """Random training images: as many of each class as the distilled set has, or `ipc` of each.

    Args:
        distilled: gives counts and input space.
        dataset: at the image size of the set.
        seed, index: of the evaluation and of the student; the stream is `baseline`, index.
        ipc: images per class, or None.

    Raises:
        DataError: a class has fewer training images.
    """
    counts = torch.bincount(distilled.labels, minlength=len(distilled.classes))
    if ipc is not None:
        counts = torch.full_like(counts, ipc)
    train = dataset.train
    indices = select_random(train.labels, counts, seeding.generator(seed, "baseline", index))
    images = distilled.space.encode(train.pixels[indices])
    return dataclasses.replace(distilled, images=images, labels=train.labels[indices])


def relabel(
    bundle: Bundle, labels: LabelSet, random: DistilledSet, teachers: Sequence[Bundle], clock: Clock
) -> LabelSet:
    """Label random images exactly as a bundle's were: every stage that made or changed its labels, once again.

    Teachers, checkpoints, ensemble and views first, then each refinement and each codec in the order of the history.
    """
    kind = labels.kind
    made = _stage_entry(
        bundle, "augment-labels", kind, "random images cannot be labelled the same way", "drop --baselines"
    )
    origin = made["config"]
    makers = [
        next(teacher for teacher in teachers if teacher.content == digest) for digest in labels.section.teacher or ()
    ]
    nets = teacher_nets(makers, origin.get("checkpoints") or [origin["checkpoint"]] * len(makers), clock)
    values = label_views(stored_of(random), load_kind(labels), nets, clock, ensemble=origin.get("ensemble", "mean"))
    fresh = dataclasses.replace(labels, values=values, domain="logit", refined=None, view_ids=None)
    fresh = through_codec(fresh, origin["codec"], origin["options"])
    history = bundle.manifest.history
    for entry in history[max(index for index, each in enumerate(history) if each is made) + 1 :]:
        said = entry["config"]
        if entry["stage"] == "refine" and said["labels"] == kind:
            refinement = _plugins.load("refine", said["method"], "REFINEMENT")
            own = {field.name for field in dataclasses.fields(refinement)}
            (chosen,) = build_many([refinement], {name: said["options"][name] for name in own})
            fresh = through_codec(chosen.apply(fresh, random.labels), said["codec"], said["options"])
    return fresh


def relabel_features(
    bundle: Bundle, stored: PrivilegedSet, random: DistilledSet, teachers: Sequence[Bundle], clock: Clock
) -> PrivilegedSet:
    """Give random images the feature or attention labels that teachers gave a bundle's: same nets, form and codec."""
    section = stored.section
    made = _stage_entry(
        bundle, "augment-labels", stored.kind, "random images cannot be labelled the same way", "drop --baselines"
    )
    origin = made["config"]
    makers = [next(each for each in teachers if each.content == digest) for digest in section.teacher or ()]
    nets = teacher_nets(makers, origin["checkpoints"], clock)
    values = label_features(stored_of(random), stored.form, nets, clock, keep=origin["options"]["keep"])
    codec = load_codec(section, Place(bundle.name, section.name))
    images, labels, *_shape = values.shape
    flat = values.flatten(2).contiguous()
    decoded = codec.decode(codec.encode(flat), (images, labels, flat.shape[2]))
    return dataclasses.replace(stored, values=decoded.reshape(values.shape))


def plain_bundle(
    bundle: Bundle, data: str, ipc: int, teachers: Sequence[Bundle], on_event: OnEvent, *, device: str, threads: int
) -> Bundle:
    """Distil again as the history says, with `ipc` images per class: LADD's baseline++ (arXiv:2409.16239).

    Images that learning labels moved afterwards are not moved here: `is_tuned` tells such bundles.

    Raises:
        BundleError: the history does not say how the images were made.
        UsageError: the method needs its teacher and it was not given, or code that only a user may name.
    """
    entry = _stage_entry(bundle, "distill", None, "the plain baseline cannot be distilled", "pass it with --plain FILE")
    said = dict(entry["config"])
    options = said.pop("options", {})
    if ":" in str(options.get("generator", "")):
        raise UsageError(
            f"--equal-bytes distils with '{said['method']}' again, whose generator '{options['generator']}' is code "
            "outside ddlabel: a bundle does not get to run it",
            field="generator",
            hint="distil the baseline yourself and pass it with --plain FILE",
        )
    names = {field.name for field in dataclasses.fields(DistillConfig)}
    same = {name: value for name, value in said.items() if name in names}
    if "backbones" in _plugins.load("distill", said["method"], "METHOD").needs:
        same["arch"] = None  # that of its teachers, which is what the history says
    config = DistillConfig(**{**same, "data": data, "ipc": ipc, "device": device, "threads": threads})
    used = {record["content"] for record in entry["inputs"]}
    given = [teacher for teacher in teachers if teacher.content in used]
    if len(given) < len(used):
        raise UsageError(
            f"--equal-bytes distils with '{config.method}' again, which used a teacher that was not given",
            field="teacher",
            hint="pass it with --teacher FILE, or the distilled baseline with --plain FILE",
        )
    on_event(Event(phase="plain baseline", message=f"distilling the plain baseline with {config.method}, ipc {ipc}"))
    return distill.run(config, options, teachers=given, on_event=on_event)


def check_plain(bundle: Bundle, plain: Bundle, ipc: int) -> DistilledSet:
    """The images of a plain bundle, refused unless they are a fair baseline.

    One whose images were moved beside labels is taken only for a bundle of which that is true as well.

    Args:
        bundle: what is evaluated.
        plain: the baseline.
        ipc: images per class that the bytes pay for.

    Raises:
        BundleError: other data, classes, shape or space; another method; tuned images against others; images that cost
            more or less each; another number of them than `ipc` per class.
    """
    check_agreement(plain, bundle)
    hint = f"run 'ddlabel distill' as for {bundle.name}, with --ipc {ipc}, or drop --plain to have it distilled"
    found = read_distilled(plain)
    counts = torch.bincount(found.labels, minlength=len(found.classes)).tolist()
    sides = {
        "training data": (data_of(bundle)["fingerprint"], data_of(plain)["fingerprint"]),
        "held-out share": (data_of(bundle)["validation"]["fraction"], data_of(plain)["validation"]["fraction"]),
        "method": (_method(bundle), _method(plain)),
        "images tuned by 'refine'": ("no", "yes" if is_tuned(plain) and not is_tuned(bundle) else "no"),
        "bytes of an image": (_image_bytes(bundle), _image_bytes(plain)),
        "images per class": (ipc, counts[0] if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"),
    }
    for field, (wanted, given) in sides.items():
        if wanted != given:
            raise BundleError(
                f"{plain.name} is no plain baseline of {bundle.name}: {field} {given}, expected {wanted}",
                field="plain",
                hint=hint,
            )
    return found


def check_teachers(kind: str, section: Section, teachers: Sequence[Bundle]) -> None:
    """Refuse to label random images by other teachers than made a section of labels.

    Raises:
        UsageError: none was given.
        BundleError: those given are others, naming both sides.
    """
    wanted = list(section.teacher or ())
    have = [teacher.content for teacher in teachers]
    if not set(wanted) <= set(have):
        raise (BundleError if have else UsageError)(
            f"--baselines labels random images like '{kind}', expected the {len(wanted)} teacher(s) that made them "
            f"({', '.join(digest[:12] for digest in wanted)}), got {len(have)} "
            f"({', '.join(digest[:12] for digest in have) or 'none'})",
            field="teacher",
            hint="pass them with --teacher FILE",
        )


def _own_bytes(bundle: Bundle) -> int:
    """Bytes that grow with the number of images."""
    return sum(record["bytes"] for name in PLAIN for record in bundle.section(name).tensors.values())


def _method(bundle: Bundle) -> str | None:
    """The method that made the images, as the history says; None when it does not."""
    return next(
        (entry["config"].get("method") for entry in bundle.manifest.history if entry["stage"] == "distill"), None
    )


def is_tuned(bundle: Bundle) -> bool:
    """Whether a refinement that learned labels moved the images too, so that `distill` alone did not make them."""
    return any(
        entry["stage"] == "refine" and bool(entry["config"].get("options", {}).get("tune_images"))
        for entry in bundle.manifest.history
    )


def _image_bytes(bundle: Bundle) -> float:
    return plain_bytes(bundle, 1) - plain_bytes(bundle, 0)


def _stage_entry(bundle: Bundle, stage: str, kind: str | None, what: str, hint: str) -> Mapping[str, Any]:
    for entry in reversed(bundle.manifest.history):
        if entry["stage"] == stage and entry["config"].get("kind") == kind:
            found: Mapping[str, Any] = entry
            return found
    made = f"'{kind}' labels were made" if kind else "its images were made"
    raise BundleError(f"{bundle.name}: its history does not say how {made}, so {what}", field="history", hint=hint)
