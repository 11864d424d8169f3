"""`ddlabel import`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._plugins import is_known, names
from ..config import ImportConfig
from ..errors import suggest
from ..events import Event
from ..streams import is_stdout
from ._options import Command, ConfigFile, Invocation, Output, Talk
from ._report import Reporter, print_json, say
from ._signals import listening

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["COMMAND"]


def run(invocation: Invocation) -> None:
    r"""Read a distilled set of another tool and write it as a bundle; nothing is unpickled.

    What the files do not say (input space, constants, classes, label domain) is given by options, or the command
    lists what is missing with what the pixels suggest.

    \b
    Example:
      ddlabel import mtt-folder --data folder:cifar10 --space zca -o mtt.ddset
      ddlabel import res_DC_CIFAR10_ConvNet_10ipc.pt --data cifar10:DIR --space normalised -o dc.ddset
      ddlabel import rded-images --data folder:imagenette --space imagenet -o rded.ddset
    """
    talk, output = invocation.record(Talk), invocation.record(Output)
    settings, config = invocation.settings(), invocation.record(ImportConfig)
    _check(invocation, config, output)
    invocation.fail_if_any()
    with listening() as interrupts:
        with interrupts.deferred():  # an import that is broken off leaves halves of modules
            from ..stages.import_set import run as stage
        reporter = Reporter(quiet=talk.quiet, verbose=talk.verbose)

        def on_event(event: Event) -> None:
            interrupts.safe_point()
            reporter(event)

        with reporter.running(), interrupts.deferred():
            result = stage(config, settings, files=invocation.files, on_event=on_event)
        result.save(output.output, force=output.force, durable=not output.no_fsync)
    _report(result, output.output, talk)


def _check(invocation: Invocation, config: ImportConfig | None, output: Output | None) -> None:
    """Everything that can be refused before a file is read."""
    problems, files = invocation.problems, invocation.files
    if not files and not problems:
        problems.append("no file given, expected FILE... of another tool")
    problems += [f"input '{file[:80]}' is no file that can be read twice" for file in files if file in {"-", ""}]
    if config is not None and config.format != "auto" and not is_known("importers", config.format):
        problems.append(f"unknown format '{config.format[:80]}'{suggest(config.format, ('auto', *names('importers')))}")
    if output is None:
        return
    if output.output is None:
        problems.append("option 'output' is missing, expected -o FILE, or -o - for stdout")
        return
    from ..fsio import check_output

    target = output.output
    invocation.attempt(lambda: check_output(target, force=output.force, inputs=_read(invocation, config)))
    invocation.refuse_json_among_output()
    invocation.attempt(_check_clock)


def _read(invocation: Invocation, config: ImportConfig | None) -> list[str]:
    """Files that are read."""
    data = "" if config is None or config.data is None else config.data.partition(":")[2]
    return [*invocation.files, *filter(None, (data, invocation.texts.get("config")))]


def _check_clock() -> None:
    from ..sections import fixed_clock

    fixed_clock()


def _report(bundle: Bundle, output: str, talk: Any) -> None:
    """The facts and where they came from, on stdout unless the bundle goes there."""
    entry = bundle.manifest.history[-1]
    if talk.json:
        sections = [section.name for section in bundle.manifest.sections]
        print_json(
            "import",
            {"output": output, "content": bundle.content, "kind": bundle.kind, "history": entry, "sections": sections},
        )
    elif not is_stdout(output) and not talk.quiet:
        from ._tables import console, plain_table

        table = plain_table("Facts", [("fact", "left"), ("value", "left"), ("from", "left")], _rows(bundle))
        console().print(table)
    if not talk.quiet:
        from ._tables import readable_bytes

        size = readable_bytes(bundle.manifest.storage["total"])
        say(f"wrote {output}: {size}, content {bundle.content[:12]}")


def _rows(bundle: Bundle) -> list[tuple[str, str, str]]:
    data = bundle.manifest.data or {}
    values = {name: data.get(name) for name in ("name", "classes", "flip")}
    values |= {name: data["space"][name] for name in ("mean", "std")} | {"space": data["space"]["kind"]}
    config = bundle.manifest.history[-1]["config"]
    values |= {name: config[name] for name in ("values", "domain")}
    origins = config["facts"]
    return [(fact, _short(values.get(fact)), str(origin)) for fact, origin in origins.items()]


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 48 else text[:45] + "..."


COMMAND = Command(
    name="import",
    run=run,
    records=(ImportConfig, Output, Talk, ConfigFile),
    files="FILE...",
    lists={"set": "one option of the format, as NAME=VALUE; repeatable ('ddlabel methods FORMAT' lists them)"},
)
