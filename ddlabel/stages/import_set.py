"""Stage `import`: a distilled set of another tool as a bundle, with a record of where every fact came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection, StageRecord
from ..config import ImportConfig
from ..data._dataset import Dataset, load
from ..data._whitening import cached_zca
from ..distilled import hard_section, image_section
from ..errors import BundleError, UsageError
from ..events import Event, OnEvent, ignore
from ..importers._detect import detect
from ..importers._guess import constants_of, guess, likely_sets, summary_of
from ..importers._importer import Foreign, Importer
from ..importers._sources import Sources
from ..labels._kind import PRIVILEGED
from ..options import as_dict, build_many, check
from ..preprocess import describe_space, space_sections
from ..space import Space
from ._import_classes import class_order
from ._import_doubts import check_units, contradictions
from ._import_facts import OPTION, Facts, check_data, settle
from ._import_labels import check_exported, exported_sections, label_sections, without_places
from ._import_whitening import check_twin, check_whitening
from ._stage import computing, redact
from .distill import quantised

__all__ = ["run"]

CONSTANTS_APART = 0.02
"""How far constants of a folder's own images may be from the published ones before the user is told."""


def run(
    config: ImportConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    files: Sequence[str],
    on_event: OnEvent = ignore,
) -> Bundle:
    """Make a distilled bundle of foreign files.

    Args:
        config: the format, and the facts that the files leave out.
        settings: the format's own options (`--set`).
        files: files or folders, as the format takes them.
        on_event: told of progress and of what a user should know.

    Returns:
        A bundle of kind `distilled` with sections `images`, `labels.hard`, what the input space needs, and where the
        files have them `labels.soft`, `labels.fkd` and `student.lr`. Images are class by class.

    Raises:
        UsageError: unknown or ambiguous format, impossible options, facts that nobody gives: all of them in one error.
        BundleError: damaged or hostile files, images and labels that do not fit each other or the data set.
        DataError: an unusable picture or data set.
        ResourceError: files that may not be read, or that do not fit in memory.
    """
    check(config)
    if not files:
        raise UsageError("no file given, expected files or folders of another tool", field="files")
    sources = Sources(files)
    name = detect(sources) if config.format == "auto" else config.format
    (importer,) = build_many([_plugins.load("importers", name, "IMPORTER")], settings or {})
    with computing("cpu", config.threads) as clock:
        foreign = _read(importer, sources, on_event)
        facts = settle(foreign, config)
        dataset = None
        if config.data is not None:
            dataset = load(config.data, size=foreign.images.shape[2], validation=0.0, on_event=on_event)
            check_data(foreign, dataset)
            facts.add_data(dataset)
            _check_classes(config, facts, dataset)
        foreign = _by_class(_in_our_order(foreign, facts), facts)
        space = _space(foreign, facts, dataset, on_event)
        for note in (*foreign.notes, *_doubts(foreign, facts)):
            on_event(Event(phase="import", message=f"note: {note}"))
        stored, metrics = _stored(foreign, facts, space, config)
        metrics |= check_twin(foreign, space, on_event) | dict(foreign.metrics)
        said = {"format": name, "options": as_dict(importer), "sources": sources.record()}
        said |= {"export": dict(foreign.export)} if foreign.export is not None else {}
        record = clock.record("import", _effective(config, facts) | said, seed=None, metrics=metrics | _counts(foreign))
        data = _data_record(foreign, facts, space, dataset)
        return _bundle(foreign, facts, stored, space, data, record, on_event)


def _bundle(
    foreign: Foreign,
    facts: Facts,
    stored: Tensor,
    space: Space,
    data: Mapping[str, Any],
    record: StageRecord,
    on_event: OnEvent,
) -> Bundle:
    sections = [image_section(stored, space), hard_section(_hard(foreign), len(facts.classes or ()))]
    sections += space_sections(space)
    if foreign.lr is not None:
        lr = torch.tensor(foreign.lr, dtype=torch.float32)
        sections.append(NewSection("student.lr", "student", {"student.lr": lr}))
    bundle = Bundle.create("distilled", data, record, sections)
    more = [*label_sections(bundle, foreign, facts), *exported_sections(bundle, foreign, on_event)]
    if not more:
        return bundle
    labelled = Bundle.create("distilled", data, record, [*sections, *more])
    check_exported(labelled, foreign)
    return labelled


def _effective(config: ImportConfig, facts: Facts) -> dict[str, Any]:
    """The options that were followed, without paths, and where facts came from."""
    said = as_dict(config) | {
        "data": redact(config.data) if config.data else None,
        "values": facts.values,
        "space": facts.space,
        "domain": facts.domain,
        "facts": dict(sorted(facts.origins.items())),
    }
    del said["classes"]  # in the data record; a file's name would be a path of this machine
    return said


def _counts(foreign: Foreign) -> dict[str, int]:
    labels = _hard(foreign)
    return {"images": len(labels), "ipc": int(torch.bincount(labels).max())}


def _read(importer: Importer, sources: Sources, on_event: OnEvent) -> Foreign:
    """What the files say, as many labels as images."""
    on_event(Event(phase="reading", done=0, total=1))
    foreign = importer.read(sources)
    on_event(Event(phase="reading", done=1, total=1))
    count = len(foreign.images)
    parts = {"labels": foreign.labels, "soft labels": foreign.soft}
    for noun, part in parts.items():
        if part is not None and len(part) != count:
            raise BundleError(f"{foreign.name}: {count} images and {len(part)} {noun}")
    return foreign


def _check_classes(config: ImportConfig, facts: Facts, dataset: Dataset) -> None:
    if config.classes and facts.classes != dataset.info.classes:
        raise UsageError(
            f"--classes gives {', '.join(facts.classes or ())[:80]}, the data set '{dataset.info.name}' has "
            f"{', '.join(dataset.info.classes)[:80]}",
            field="classes",
            hint="drop --classes, or name another data set",
        )


def _in_our_order(foreign: Foreign, facts: Facts) -> Foreign:
    """Class numbers, and columns of soft labels, in the order of the facts.

    Raises:
        BundleError: other classes, numbers outside them, or labels of another width.
    """
    places, classes = (
        class_order(foreign, facts.classes, typed=facts.origins.get("classes") == OPTION),
        len(facts.classes or ()),
    )
    views = foreign.views
    of_classes = [labels for labels in foreign.exported if labels.kind not in PRIVILEGED]
    parts = [foreign.soft, None if views is None else views.values, *(labels.values for labels in of_classes)]
    widths = [part.shape[-1] for part in parts if part is not None]
    if any(width != classes for width in widths):
        raise BundleError(f"{foreign.name}: labels of {widths[0]} classes, there are {classes} names", field="classes")
    limit = classes if places is None else len(places)
    if foreign.labels is not None:
        outside = foreign.labels >= limit
        if bool(outside.any()):
            index = int(outside.nonzero()[0])
            raise BundleError(
                f"{foreign.name}: image {index} has class {int(foreign.labels[index])}, expected 0 to {limit - 1}",
                field="labels",
            )
    if places is None or torch.equal(places, torch.arange(classes)):
        return foreign
    columns = torch.argsort(places)
    if widths and len(places) != classes:
        raise BundleError(f"{foreign.name}: soft labels of {len(places)} classes, there are {classes}", field="classes")
    return dataclasses.replace(
        foreign,
        labels=None if foreign.labels is None else places[foreign.labels],
        soft=None if foreign.soft is None else foreign.soft[:, columns],
        views=None if views is None else dataclasses.replace(views, values=views.values[..., columns]),
        exported=tuple(
            dataclasses.replace(labels, values=labels.values[..., columns]) if labels.kind not in PRIVILEGED else labels
            for labels in foreign.exported
        ),
    )


def _by_class(foreign: Foreign, facts: Facts) -> Foreign:
    """Images class by class, in their own order within a class."""
    labels = _hard(foreign)
    if foreign.labels is None:
        facts.origins["labels"] = f"{facts.origins.get('labels', 'file')}: largest soft label"
    order = torch.argsort(labels, stable=True)
    return foreign if torch.equal(order, torch.arange(len(labels))) else without_places(foreign).in_order(order)


def _hard(foreign: Foreign) -> Tensor:
    """(n,) int64; the class of the largest soft label where the files have no other."""
    if foreign.labels is not None:
        return foreign.labels
    if foreign.soft is None:
        raise BundleError(f"{foreign.name}: no labels", field="labels")
    return foreign.soft.argmax(dim=1)


def _space(foreign: Foreign, facts: Facts, dataset: Dataset | None, on_event: OnEvent) -> Space:
    """The input space; a ZCA is fitted on all training images, as the authors did."""
    if facts.mean is None or facts.std is None:
        raise ValueError("constants are settled before the space is made")
    zca = foreign.zca if facts.space == "zca" else None
    if zca is not None:
        check_whitening(foreign, zca)
        facts.origins["zca"] = foreign.name
    elif facts.space == "zca" and dataset is not None:
        on_event(Event(phase="fitting ZCA", done=0, total=1))
        zca = cached_zca(dataset.train.pixels, on_event)
        on_event(Event(phase="fitting ZCA", done=1, total=1))
        facts.origins["zca"] = f"fitted on {len(dataset.train)} training images"
    return Space(kind=facts.space, mean=facts.mean, std=facts.std, zca=zca)


def _stored(foreign: Foreign, facts: Facts, space: Space, config: ImportConfig) -> tuple[Tensor, dict[str, Any]]:
    """The images as they are written, and what 8-bit storage of floats cost."""
    images = foreign.images
    if facts.values == "pixels":
        return (space.encode(images) if config.pixels == "float32" else images), {}
    if facts.values == "units":
        check_units(foreign, facts)
        images = space.from_units(images)
        if not bool(torch.isfinite(images).all()):
            raise BundleError(f"{foreign.name}: normalised images hold infinity, expected values from 0 to 1")
    return quantised(images, space) if config.pixels == "uint8" else (images, {})


def _doubts(foreign: Foreign, facts: Facts) -> list[str]:
    """What does not fit what the user said."""
    notes = contradictions(foreign)
    images = foreign.images
    seen = guess(images) if images.is_floating_point() else None
    if seen and facts.values == "space" and seen.space not in (None, facts.space):
        notes.append(f"{foreign.name}: {summary_of(images)} look {seen.space}, they are taken as {facts.space}")
    if seen and seen.values not in (None, facts.values):
        notes.append(f"{foreign.name}: {summary_of(images)} look like {seen.values}, they are taken as {facts.values}")
    if facts.values == "space" and facts.space == "normalised" and facts.origins.get("mean") == "data set":
        channels, height, width = images.shape[1:]
        for name in likely_sets(channels, height, width, len(facts.classes or ())):
            mean, std = constants_of(name)
            ours = (*(facts.mean or ()), *(facts.std or ()))
            if (
                facts.name == name
                and max(abs(a - b) for a, b in zip(ours, (*mean, *std), strict=True)) > CONSTANTS_APART
            ):
                notes.append(
                    f"mean and std are those of the images of --data; sets of {name} were published with others, which "
                    f"--constants {name} takes"
                )
    return notes


def _data_record(foreign: Foreign, facts: Facts, space: Space, dataset: Dataset | None) -> dict[str, Any]:
    """The manifest's `data`; what nobody knows of the real images is null."""
    _count, channels, height, width = foreign.images.shape
    known: dict[str, Any] = {"train_images": None, "fingerprint": None, "validation": {"fraction": 0.0}}
    if dataset is not None:
        known = dataset.manifest()
    return known | {
        "name": facts.name,
        "classes": list(facts.classes or ()),
        "channels": channels,
        "height": height,
        "width": width,
        "flip": facts.flip,
        "space": describe_space(space),
    }
