"""How every stage command runs: parse, open inputs, compute, write, report. The only place that touches files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..events import Event
from ._options import Invocation, Output, Resume, Talk
from ._report import Reporter, print_json, say
from ._resume import PartialFile, check_partial, partial_name
from ._signals import Interrupts, listening

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["SET_HELP", "TEACHER_HELP", "run_stage"]

SET_HELP = (
    "one option of the method, loss, codec or recipe, as NAME=VALUE; repeatable ('ddlabel methods NAME' lists them)"
)
TEACHER_HELP = "teacher bundle; repeatable"

BUNDLES = {"teachers": "teacher", "plain": "plain"}
"""Arguments of stages that are further bundles, and the repeatable options that name their files."""

Stage = Callable[..., "Bundle"]


def run_stage(
    invocation: Invocation,
    config: type[Any],
    stage: Callable[[], Stage],
    *,
    options: Callable[[Any], Sequence[tuple[str, str, str]]] = lambda _config: (),
    output_optional: bool = False,
    show: Callable[[Bundle, Talk], None] | None = None,
) -> None:
    """Run one stage from the command line.

    Args:
        invocation: the command line, as texts.
        config: the stage's option record.
        stage: imports and returns the stage's `run`; called after the cheap checks, because it imports torch.
        options: the plugins (room, name, socket) whose options `--set` may name, so that all problems are found
            before any work.
        output_optional: the stage has something to say without writing a file.
        show: prints the result on stdout; the default prints one line on stderr.
    """
    talk, output, resume = invocation.record(Talk), invocation.record(Output), invocation.record(Resume)
    settings = invocation.settings()
    if "recipe" in invocation.texts:
        invocation, settings = _follow_recipe(invocation, settings)
    record = invocation.record(config)
    _check_files(invocation, output, output_optional)
    if output is not None and Resume in invocation.command.records:
        invocation.attempt(lambda: check_partial(output, resume))
    if record is not None:
        invocation.attempt(lambda: _check_names(options(record)))
    invocation.fail_if_any()
    if output.output == "-" and talk.json:
        raise UsageError("'--output -' and '--json' both write to stdout, expected one of them", field="output")
    with listening() as interrupts:
        run = stage()
        bundles = _open(invocation.files)
        more = {
            name: _open(invocation.lists.get(option, ()))
            for name, option in BUNDLES.items()
            if name in run.__annotations__
        }
        name = partial_name(output.output) if "progress" in run.__annotations__ else None
        partial = None if name is None else PartialFile(name, output, resume, talk)
        reporter = Reporter(quiet=talk.quiet, verbose=talk.verbose)
        with contextlib.nullcontext() if partial is None else partial.keeping():
            follow = {} if partial is None else {"progress": partial.progress}
            result = _compute(run, bundles, record, settings, {**more, **follow}, reporter, interrupts)
            if output.output is not None:
                result.save(output.output, force=output.force, durable=not output.no_fsync)
        if partial is not None:
            partial.remove()
    if talk.json:
        print_json(invocation.command.name, _summary(result, output.output))
    elif show is not None and output.output != "-":
        show(result, talk)
    if output.output is not None and not talk.quiet:
        say(f"wrote {output.output}: {_size(result)}, content {result.content[:12]}")


def _follow_recipe(invocation: Invocation, settings: dict[str, str]) -> tuple[Invocation, dict[str, str]]:
    """The command line and its settings with those of the recipe beneath them; what was typed wins."""
    from ..recipes import load_recipe

    stage, name = invocation.command.name, invocation.texts["recipe"]
    recipe = invocation.attempt(lambda: load_recipe(name))
    options = invocation.attempt(lambda: recipe.options_of(stage)) if recipe is not None else None
    if options is None:
        return invocation, settings
    typed = invocation.texts
    replaced = any(typed.get(name, options.get(name)) != options.get(name) for name in ("loss", "method", "kind"))
    theirs = {} if replaced else recipe.settings[stage]  # options of a plugin that another one was typed for
    return dataclasses.replace(invocation, texts={**options, **typed}), {**theirs, **settings}


def _check_files(invocation: Invocation, output: Output | None, output_optional: bool) -> None:
    problems = invocation.problems
    files = invocation.files
    if invocation.command.files is not None and len(files) != 1 and not problems:
        problems.append(f"{len(files)} input bundles given, expected one (or - for stdin)")
    if invocation.command.files is None and files:
        problems.append(f"unexpected argument '{files[0]}'")
    if output is None:
        return
    inputs = (*files, *(file for option in BUNDLES.values() for file in invocation.lists.get(option, ())))
    if inputs.count("-") > 1:
        problems.append("two inputs are '-', expected stdin at most once")
    if output.output is None:
        if not output_optional:
            problems.append("option 'output' is missing, expected -o FILE, or -o - for stdout")
        return
    from ..fsio import check_output

    target = output.output
    invocation.attempt(lambda: check_output(target, force=output.force, inputs=inputs))


def _check_names(plugins: Sequence[tuple[str, str, str]]) -> None:
    from .._plugins import is_known, names
    from ..errors import suggest

    nouns = {"distill": "method", "losses": "loss", "codecs": "codec", "labels": "label kind", "refine": "refinement"}
    problems = [
        f"unknown {nouns.get(room, room.rstrip('s'))} '{name}'{suggest(name, names(room))}"
        for room, name, _socket in plugins
        if not is_known(room, name)
    ]
    if problems:
        raise UsageError.collect(problems)


def _open(files: Sequence[str]) -> list[Bundle]:
    from ..bundle import Bundle

    return [Bundle.open(file) for file in files]


def _compute(
    run: Stage,
    bundles: Sequence[Bundle],
    config: Any,
    settings: Mapping[str, str],
    more: Mapping[str, Any],
    reporter: Reporter,
    interrupts: Interrupts,
) -> Bundle:
    """Call the stage with progress on stderr and interrupts at its safe points."""

    def on_event(event: Event) -> None:
        interrupts.safe_point()
        reporter(event)

    with reporter.running(), interrupts.deferred():
        return run(*bundles, config, settings, on_event=on_event, **more)


def _summary(bundle: Bundle, output: str | None) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "output": output,
        "content": bundle.content,
        "kind": bundle.kind,
        "history": manifest.history[-1],
        "evaluation": manifest.evaluations[-1] if manifest.evaluations else None,
        "sections": [section.name for section in manifest.sections],
    }


def _size(bundle: Bundle) -> str:
    from ._tables import readable_bytes

    return readable_bytes(
        sum(record["bytes"] for section in bundle.manifest.sections for record in section.tensors.values())
    )
