"""`ddlabel report`: one self-contained HTML page of what bundles hold, cost, score and come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..options import opt
from ._options import Command, Invocation, Output, Talk
from ._report import print_json, say

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["COMMAND"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What stands above the page."""

    title: str = opt("ddlabel report", "title of the page")


def run(invocation: Invocation) -> None:
    r"""Make one HTML page of bundles: pictures, accuracy against bytes, label fidelity, provenance, all scores.

    The page holds everything it shows: no script, nothing from the network. The same bundles give the same bytes.

    \b
    Example:
      ddlabel report *.ddset -o report.html
      ddlabel report base.ddset dense.ddset scored.ddset --title "Digits, ipc 1" -o report.html
    """
    talk, output, options = invocation.record(Talk), invocation.record(Output), invocation.record(ReportOptions)
    problems, files = invocation.problems, invocation.files
    if not files and not problems:
        problems.append("no bundle given, expected FILE..., or - for stdin")
    if files.count("-") > 1:
        problems.append("two inputs are '-', expected stdin at most once")
    if output is not None:
        _check_output(invocation, output)
    invocation.fail_if_any()
    from ..bundle import Bundle
    from ..fsio import atomic_output
    from ._page_parts import page

    bundles = [Bundle.open(file) for file in files]
    made = page(bundles, options.title)
    with atomic_output(output.output, force=output.force, durable=not output.no_fsync) as stream:
        stream.write(made)
    if talk.json:
        print_json("report", {"output": output.output, "bytes": len(made), "bundles": _contents(bundles)})
    if output.output != "-" and not talk.quiet:
        from ._tables import readable_bytes

        say(f"wrote {output.output}: {readable_bytes(len(made))} of {len(bundles)} bundle(s)")


def _check_output(invocation: Invocation, output: Output) -> None:
    if output.output is None:
        invocation.problems.append("option 'output' is missing, expected -o FILE, or -o - for stdout")
        return
    invocation.refuse_json_among_output()
    from ..fsio import check_output

    target, inputs = output.output, invocation.files
    invocation.attempt(lambda: check_output(target, force=output.force, inputs=inputs))


def _contents(bundles: Sequence[Bundle]) -> list[dict[str, str]]:
    return [{"name": bundle.name, "kind": bundle.kind, "content": bundle.content} for bundle in bundles]


COMMAND = Command(name="report", run=run, records=(Output, ReportOptions, Talk), files="FILE...")
