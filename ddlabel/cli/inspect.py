"""`ddlabel inspect`: reads header and manifest only, so it costs the same for 10 kB and 10 GB."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CheckFailedError
from ..options import opt
from ._options import Command, Invocation, Talk
from ._report import print_json, say

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["COMMAND"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """What to show of a bundle."""

    verify: bool = opt(False, "read every tensor and check its digest; exit 7 when one is wrong")
    grid: str | None = opt(None, "also draw the images, class by class, into this PNG file")
    curve: str | None = opt(None, "also draw accuracy against stored bytes of all scored bundles into this SVG file")
    diff: bool = opt(False, "compare two bundles: sections, bytes, history")
    force: bool = opt(False, "overwrite an existing picture")


def run(invocation: Invocation) -> None:
    r"""Show what bundles hold and what every byte is spent on; `-` reads stdin.

    \b
    Example:
      ddlabel inspect base.ddset dense.ddset
      ddlabel inspect dense.ddset --verify --grid dense.png
      ddlabel inspect *-scored.ddset --curve bytes.svg
    """
    talk, options = invocation.record(Talk), invocation.record(InspectOptions)
    problems, files = invocation.problems, invocation.files
    if not files and not problems:
        problems.append("no bundle given, expected FILE..., or - for stdin")
    if options is not None and options.diff and len(files) != 2:
        problems.append(f"--diff compares two bundles, {len(files)} were given")
    if options is not None and options.grid and len(files) != 1:
        problems.append(f"--grid draws one bundle, {len(files)} were given")
    if options is not None and options.curve == "-" and talk is not None and talk.json:
        problems.append("'--curve -' and '--json' both write to stdout, expected one of them")
    if files.count("-") > 1:
        problems.append("two inputs are '-', expected stdin at most once")
    invocation.fail_if_any()
    from ..bundle import Bundle

    finish: list[Callable[[], None]] = []
    lists_only = not options.verify and not options.grid
    bundles = [_peek(finish) if file == "-" and lists_only else Bundle.open(file) for file in files]
    _note_misaligned(bundles, talk)
    damage = {bundle.name: bundle.verify() for bundle in bundles} if options.verify else {}
    if options.grid:
        from ._grid import write_grid

        write_grid(bundles[0], options.grid, force=options.force)
        say(f"wrote {options.grid}")
    if options.curve:
        _draw_curve(bundles, options, talk)
    elif not talk.json:
        _show(bundles, talk, options, damage)
    for read_rest in finish:
        read_rest()
    if talk.json:  # one document, and an error would be it
        _show(bundles, talk, options, damage)
    broken = [problem for problems in damage.values() for problem in problems]
    if broken:
        raise CheckFailedError("; ".join(broken[:10]))


def _note_misaligned(bundles: Sequence[Bundle], talk: Talk) -> None:
    """One note for each bundle whose tensors cannot be mapped into memory as they are."""
    from ..manifest import printable

    for bundle in bundles:
        if bundle.misaligned and not talk.quiet:
            names = ", ".join(f"'{name}'" for name in bundle.misaligned[:5])
            say(
                f"note: {printable(bundle.name)}: {len(bundle.misaligned)} tensors start at no multiple of their "
                f"element size: {names}; a copy written by ddlabel aligns them"
            )


def _draw_curve(bundles: Sequence[Bundle], options: InspectOptions, talk: Talk) -> None:
    """Write the picture and print its table in place of the bundles."""
    from ._curve import points_of, print_points, write_curve

    points = points_of(bundles)
    write_curve(points, str(options.curve), force=options.force)
    say(f"wrote {options.curve}")
    if not talk.json and options.curve != "-":
        print_points(points)


def _peek(finish: list[Callable[[], None]]) -> Bundle:
    """A bundle from the first kilobytes of stdin, for its manifest alone.

    Args:
        finish: gets what reads the rest, so that the writer of the pipe is not cut off, and checks its length.
    """
    from ..bundle import Bundle
    from ..fsio import stdin_stream
    from ..header import MANIFEST, check_size, misaligned
    from ..reader import read_manifest

    stream, name = stdin_stream(), "<stdin>"
    header, manifest = read_manifest(stream, None, name)

    def read_rest() -> None:
        read = header.data_start + header.entries[MANIFEST].end
        promised = header.data_start + header.data_bytes
        while read <= promised and (chunk := stream.read(2**20)):  # what is endless is too long
            read += len(chunk)
        check_size(header, read, name)

    finish.append(read_rest)
    return Bundle(manifest, {}, name, (), [entry.name for entry in header.entries.values() if misaligned(entry)])


def _show(bundles: Sequence[Bundle], talk: Talk, options: InspectOptions, damage: Mapping[str, Sequence[str]]) -> None:
    from . import _inspect_tables as tables

    if talk.json:
        document: dict[str, Any] = {"bundles": [_document(bundle, damage) for bundle in bundles]}
        if options.diff:
            document["diff"] = differences(*bundles)
        print_json("inspect", document)
    elif options.diff:
        tables.print_diff(bundles[0].name, bundles[1].name, differences(*bundles))
    else:
        for bundle in bundles:
            tables.print_bundle(bundle, verified=bundle.name in damage and not damage[bundle.name])


def _document(bundle: Bundle, damage: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Everything known of a bundle without reading its tensors, as JSON."""
    manifest = bundle.manifest
    return {
        "name": bundle.name,
        "content": bundle.content,
        "kind": bundle.kind,
        "verified": None if bundle.name not in damage else not damage[bundle.name],
        "problems": list(damage.get(bundle.name, ())),
        "manifest": json.loads(manifest.to_json()),
    }


def differences(left: Bundle, right: Bundle) -> list[dict[str, Any]]:
    """What differs between two bundles: one entry per field, `left` and `right` None where absent."""
    rows: list[dict[str, Any]] = []

    def compare(field: str, ours: Any, theirs: Any) -> None:
        if ours != theirs:
            rows.append({"field": field, "left": ours, "right": theirs})

    compare("content", left.content, right.content)
    compare("kind", left.kind, right.kind)
    ours, theirs = left.manifest.data or {}, right.manifest.data or {}
    for key in sorted({*ours, *theirs}):
        compare(f"data.{key}", ours.get(key), theirs.get(key))
    for name in sorted({*_sections(left), *_sections(right)}):
        mine, other = _sections(left).get(name), _sections(right).get(name)
        if mine is None or other is None:
            compare(name, mine and mine["bytes"], other and other["bytes"])
            continue
        for key in mine:
            compare(f"{name}.{key}", mine[key], other[key])
    histories = [[entry["stage"] for entry in bundle.manifest.history] for bundle in (left, right)]
    compare("history", " > ".join(histories[0]), " > ".join(histories[1]))
    compare("bytes", left.manifest.storage["total"], right.manifest.storage["total"])
    return rows


def _sections(bundle: Bundle) -> dict[str, dict[str, Any]]:
    return {
        section.name: {
            "bytes": sum(record["bytes"] for record in section.tensors.values()),
            "codec": (section.codec or {}).get("name"),
            "domain": section.domain,
            "views": section.views,
            "parameters": section.parameters,
            "stale": section.stale,
            "tensors": {name: record["sha256"][:12] for name, record in section.tensors.items()},
        }
        for section in bundle.manifest.sections
    }


COMMAND = Command(name="inspect", run=run, records=(InspectOptions, Talk), files="FILE...")
