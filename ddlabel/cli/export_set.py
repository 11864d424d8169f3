"""`ddlabel export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import ExportConfig
from ..errors import UsageError
from ..streams import is_stdout, is_stream
from ._options import Command, ConfigFile, Invocation, Output, Talk, flag_of
from ._report import Reporter, print_json, say
from ._signals import listening

if TYPE_CHECKING:
    from ..exporters._exporter import Exporter

__all__ = ["COMMAND"]

MEASURING = {"data", "arch", "epochs", "seeds", "seed", "device"}
"""Options of `--measure`."""


def run(invocation: Invocation) -> None:
    r"""Write a distilled bundle as pictures, arrays or tensors that other tools read, and say what is lost.

    Folders: `folder` and `mtt`, which must be named; files: `npz`, `dc`, `parquet`, `webdataset` and `scores`, which go
    by the end of the output's name and may be written to stdout. Beside it `ddset-export.json` says what it holds.

    \b
    Example:
      ddlabel export base.ddset --format folder -o pictures
      ddlabel export dense.ddset -o dense.parquet
      ddlabel export base.ddset --format folder -o seen --measure --data digits --epochs 50
    """
    talk, output, config = invocation.record(Talk), invocation.record(Output), invocation.record(ExportConfig)
    _check_files(invocation)
    if output is not None and output.output is not None:
        form = invocation.attempt(lambda: _format_of(invocation.texts.get("format"), output.output))
        config = None if config is None else dataclasses.replace(config, format=form)
    if config is not None and config.format is not None and output.output is not None:
        _check_use(invocation, config)
        read = (*invocation.files, *filter(None, (invocation.texts.get("config"),)))
        invocation.attempt(lambda: _check_output(config, output, read))
    if config is not None and config.measure and config.data is None:
        invocation.problems.append("--measure needs test images, option 'data' is missing; add --data NAME")
    invocation.refuse_json_among_output()
    invocation.fail_if_any()
    document = _export(invocation, config, output, talk)
    if talk.json:
        print_json("export", _summary(document, output.output))
    elif document["measured"] and not is_stdout(output.output):
        _print_measured(document["measured"])
    if not talk.quiet:
        say(f"wrote {output.output}: {_said(document)}")


def _export(invocation: Invocation, config: ExportConfig, output: Output, talk: Talk) -> dict[str, Any]:
    with listening() as interrupts:
        with interrupts.deferred():  # an import that is broken off leaves halves of modules
            from ..bundle import Bundle
            from ..stages.export_set import run as stage

        bundle = Bundle.open(invocation.files[0])
        reporter = Reporter(quiet=talk.quiet, verbose=talk.verbose)

        def on_event(event: Any) -> None:
            interrupts.safe_point()
            reporter(event)

        with reporter.running(), interrupts.deferred():
            return stage(
                bundle,
                config,
                output=str(output.output),
                force=output.force,
                durable=not output.no_fsync,
                on_event=on_event,
            )


def _check_files(invocation: Invocation) -> None:
    if len(invocation.files) != 1 and not invocation.problems:
        invocation.problems.append(f"{len(invocation.files)} input bundles given, expected one (or - for stdin)")
    if "output" not in invocation.texts:
        invocation.problems.append("option 'output' is missing, expected -o FILE, -o FOLDER, or -o - for stdout")


def _format_of(named: str | None, output: str) -> str:
    """The format that is named, or that the end of the output's name means."""
    from .._plugins import is_known, load, names
    from ..errors import suggest

    known = names("exporters")
    if named is not None and named != "auto":
        if not is_known("exporters", named):
            raise UsageError(f"unknown format '{named[:80]}'{suggest(named, known)}", field="format")
        return named
    for name in known:
        if output.lower().endswith(_exporter(name).suffixes or ("\0",)):
            return name
    suffixes = [f"{suffix} ({name})" for name in known for suffix in load("exporters", name, "EXPORTER").suffixes]
    raise UsageError(
        f"the format of '{output}' does not follow from its name, expected {', '.join(suffixes)}, or --format",
        field="format",
        hint=f"add --format, one of {', '.join(known)}",
    )


def _check_output(config: ExportConfig, output: Output, inputs: tuple[str, ...]) -> None:
    """Before any work, as for stages."""
    from ..folders import check_folder
    from ..fsio import check_output

    path, exporter = str(output.output), _exporter(str(config.format))
    if exporter.suffixes:
        from ..interchange import sidecar_of

        check_output(path, force=output.force, inputs=inputs)
        if not is_stream(path):  # which has nothing beside it
            check_output(sidecar_of(path), force=output.force, inputs=inputs)
        return
    if is_stdout(path):
        raise UsageError(f"format '{config.format}' is a folder, which cannot go to stdout", field="output")
    from ..exporters._sidecar import check_ours

    check_folder(path, force=output.force, may_replace=check_ours, inputs=inputs)


def _check_use(invocation: Invocation, config: ExportConfig) -> None:
    """What is typed has an effect; a file of options may serve several exports."""
    typed = {*invocation.texts, *invocation.flags} - invocation.from_file
    if not config.measure:
        without = sorted(typed & MEASURING)
        invocation.problems.extend(f"option '{flag_of(name)}' has no effect without --measure" for name in without)
    if "view" in typed and not _exporter(str(config.format)).has_pictures:
        invocation.problems.append(f"format '{config.format}' holds no pictures, option '--view' has no effect")


def _exporter(name: str) -> Exporter:
    from .._plugins import load

    exporter: Exporter = load("exporters", name, "EXPORTER")
    return exporter


def _summary(document: Mapping[str, Any], output: str | None) -> dict[str, Any]:
    """The sidecar, its list of files summed up, under names that `print_json` leaves free."""
    files = document["files"].values()
    rest = {key: value for key, value in document.items() if key not in {"schema", "version", "files"}}
    return {**rest, "output": output, "files": {"count": len(files), "bytes": sum(item["bytes"] for item in files)}}


def _said(document: Mapping[str, Any]) -> str:
    from ._tables import readable_bytes

    size = readable_bytes(sum(item["bytes"] for item in document["files"].values()))
    labels = ", ".join(document["labels"])
    form = document["images"]["form"]
    what = f"{document['images']['count']} images ({form}), {labels} labels" if form else "scores"
    count = len(document["files"])
    return f"{document['format']}, {what}, {f'{count} files of ' if count > 1 else ''}{size}"


def _print_measured(measured: Mapping[str, Any]) -> None:
    for row in measured["rows"]:
        spread = row["accuracy"]["std"]
        text = f"{row['images']}, {row['labels']} labels: {row['accuracy']['mean']:.2%}"
        text += "" if spread is None else f" +- {100 * spread:.2f}"
        if "minus_bundle" in row:
            change = row["minus_bundle"]
            error = change["standard_error"]
            text += f", {100 * change['mean']:+.2f} points against the first row"
            text += "" if error is None else f" (standard error {100 * error:.2f}, paired)"
        print(text)


COMMAND = Command(name="export", run=run, records=(ExportConfig, Output, Talk, ConfigFile), files="BUNDLE")
