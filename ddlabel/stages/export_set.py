"""`export`: a distilled bundle in a format of others, with a sidecar that says what it is and what is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..config import ExportConfig
from ..distilled import read_stored
from ..errors import UsageError
from ..events import Event, OnEvent, ignore
from ..exporters._document import make_document
from ..exporters._exporter import Content, Exporter, Sink
from ..exporters._pictures import draw
from ..exporters._sidecar import check_ours
from ..folders import atomic_folder
from ..fsio import atomic_output
from ..interchange import SIDECAR, encode_sidecar, sidecar_of
from ..labels._kind import PRIVILEGED
from ..labels._labels import read_labels
from ..labels._privileged import read_privileged
from ..options import check
from ..streams import is_stream
from ._export_measure import measure
from ._recipe import learned_lr

__all__ = ["run"]

HARD = "hard"


def run(
    bundle: Bundle,
    config: ExportConfig,
    *,
    output: str,
    force: bool = False,
    durable: bool = True,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Write a distilled bundle in another format, whole or not at all.

    Args:
        bundle: a distilled bundle.
        config: the format, which must be named here, and what goes in.
        output: a file, or a folder for formats that are folders; `-` is stdout for formats of one file.
        force: replace an existing file, or a folder that is an export.
        durable: wait for the disk.
        on_event: told of progress, and of everything that is lost.

    Returns:
        The sidecar: `ddset-export.json` in the folder, `OUTPUT.ddset-export.json` beside a file, which stdout has not.

    Raises:
        UsageError: an unknown format; labels or images that it cannot hold; an output that exists.
        BundleError: not a distilled bundle, or damaged.
        ResourceError: it cannot be written.
    """
    check(config)
    if config.format is None:
        raise UsageError("format is missing, expected one of " + ", ".join(_plugins.names("exporters")), field="format")
    exporter: Exporter = _plugins.load("exporters", config.format, "EXPORTER")
    if config.measure and not exporter.has_pictures:
        raise UsageError(
            f"format '{config.format}' holds no pictures, there is nothing to measure",
            field="measure",
            hint="drop --measure",
        )
    content = _content(bundle, config, exporter, on_event)
    exporter.check(content)
    description = exporter.describe(content)
    for sentence in description.lost:
        on_event(Event(phase="exporting", message=f"note: {sentence}"))
    measured = measure(content, config, on_event) if config.measure else None
    document = make_document(config.format, content, description, measured)
    if exporter.suffixes:
        return _write_file(exporter, content, document, output, force=force, durable=durable)
    return _write_folder(exporter, content, document, output, force=force, durable=durable)


def _content(bundle: Bundle, config: ExportConfig, exporter: Exporter, on_event: OnEvent) -> Content:
    """The bundle, decoded as far as the format needs."""
    stored = read_stored(bundle)
    kinds = _kinds(bundle, config, exporter)
    return Content(
        bundle=bundle,
        stored=stored,
        labels={kind: read_labels(bundle, kind) for kind in kinds if kind not in PRIVILEGED},
        privileged={kind: read_privileged(bundle, kind) for kind in kinds if kind in PRIVILEGED},
        lr=learned_lr(bundle),
        pictures=draw(stored, config.view) if exporter.has_pictures else None,
        on_event=on_event,
    )


def _kinds(bundle: Bundle, config: ExportConfig, exporter: Exporter) -> Sequence[str]:
    """Label kinds beside the hard ones that are exported."""
    if config.labels:
        asked = [kind for kind in dict.fromkeys(config.labels) if kind != HARD]
        wrong = [kind for kind in asked if not exporter.holds(kind)]
        if wrong:
            raise UsageError(
                f"format '{config.format}' cannot hold {wrong[0]} labels", field="labels", hint="use --format npz"
            )
        return asked
    sections = [section for section in bundle.sections("labels") if section.role not in {HARD, None}]
    return [
        str(section.role)
        for section in sections
        if not section.stale and _plugins.is_known("labels", str(section.role)) and exporter.takes(section)
    ]


def _write_file(
    exporter: Exporter, content: Content, document: dict[str, Any], output: str, *, force: bool, durable: bool
) -> dict[str, Any]:
    with atomic_output(output, force=force, durable=durable) as target:
        sink = Sink(target.write)
        exporter.write(content, document, lambda _name: contextlib.nullcontext(sink))
    done = document | {"files": {os.path.basename(output): sink.record()}}
    if not is_stream(output):  # nothing beside stdout, a device or FIFO
        with atomic_output(sidecar_of(output), force=force, durable=durable) as target:
            target.write(encode_sidecar(done))
    return done


def _write_folder(
    exporter: Exporter, content: Content, document: dict[str, Any], output: str, *, force: bool, durable: bool
) -> dict[str, Any]:
    files: dict[str, Any] = {}
    with atomic_folder(output, force=force, may_replace=check_ours, durable=durable) as folder:

        @contextlib.contextmanager
        def file(name: str) -> Iterator[Sink]:
            with folder.file(name) as target:
                sink = Sink(target.write)
                yield sink
            files[name] = sink.record()

        for entry in document["classes"]:
            if "folder" in entry:
                folder.make(entry["folder"])
        exporter.write(content, document, file)
        done = document | {"files": files}
        with folder.file(SIDECAR) as target:
            target.write(encode_sidecar(done))
    return done
