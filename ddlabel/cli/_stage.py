"""How every stage command runs: parse, open inputs, compute, write, report. The only place that touches files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ResourceError, UsageError
from ..events import Event
from ..streams import is_stdout
from ..team import place
from ._options import Invocation, Output, Processes, Resume, Talk
from ._others import Others
from ._processes import follow, gathering, team_size, with_own_threads
from ._report import Reporter, print_json, say
from ._resume import SUFFIX, PartialFile, alone, check_finished, check_partial, is_partial, partial_name
from ._signals import Interrupts, listening
from ._team import check_inputs, joining

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["SET_HELP", "TEACHER_HELP", "TEACHER_SET_HELP", "check_names", "follow_recipe", "run_stage"]

SET_HELP = (
    "one option of the method, loss, codec or recipe, as NAME=VALUE; repeatable ('ddlabel methods NAME' lists them)"
)
TEACHER_SET_HELP = (
    "one option of the training recipe, of computed --scores or of --curriculum, as NAME=VALUE; repeatable "
    "('ddlabel methods train-teacher' lists them)"
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
    jobs: Callable[[Any], int | None] = lambda _config: None,
    show: Callable[[Bundle, Talk], None] | None = None,
    draw: Callable[[Bundle], None] | None = None,
) -> None:
    """Run one stage from the command line.

    Args:
        invocation: the command line, as texts.
        config: the stage's option record.
        stage: imports and returns the stage's `run`; called after the cheap checks, because it imports torch.
        options: the plugins (room, name, socket) whose options `--set` may name, so that all problems are found
            before any work.
        output_optional: the stage has something to say without writing a file.
        jobs: how many jobs processes can share, where that is known without importing torch.
        show: prints the result on stdout; the default prints one line on stderr.
        draw: writes a picture of the result, after the result.
    """
    settings = invocation.settings()
    if "recipe" in invocation.texts:
        invocation, settings = follow_recipe(invocation, settings)
    record = invocation.record(config)
    follow()
    with gathering(_size(invocation, record, jobs), invocation.words) as others:
        _check(invocation, settings, record, options, output_optional)
        result = _run(invocation, settings, with_own_threads(record), stage, others)
    if result is None:
        return
    talk, output = invocation.record(Talk), invocation.record(Output)
    if draw is not None:
        draw(result)
    if talk.json:
        print_json(invocation.command.name, _summary(result, output.output))
    elif show is not None and not is_stdout(output.output):
        show(result, talk)
    if output.output is not None and not talk.quiet:
        say(f"wrote {output.output}: {_size_of(result)}, content {result.content[:12]}")


def _size(invocation: Invocation, record: Any, jobs: Callable[[Any], int | None]) -> int:
    """How many processes this one starts, itself counted."""
    wanted = invocation.record(Processes)
    if record is None or wanted is None or wanted.processes == 1:
        return 1
    return invocation.attempt(lambda: team_size(wanted.processes, record.device, jobs(record))) or 1


def _check(
    invocation: Invocation,
    settings: Mapping[str, str],
    record: Any,
    options: Callable[[Any], Sequence[tuple[str, str, str]]],
    output_optional: bool,
) -> None:
    """What can be known before any work: all that is wrong is raised together."""
    invocation.record(Talk)
    output, resume = invocation.record(Output), invocation.record(Resume)
    continues = resume.resume and Resume in invocation.command.records
    _check_files(invocation, settings, output, output_optional, continues)
    invocation.attempt(_check_clock)
    if output is not None and Resume in invocation.command.records:
        invocation.attempt(lambda: check_partial(output, resume))
    if record is not None:
        invocation.attempt(lambda: check_names(options(record)))
    invocation.refuse_json_among_output()
    invocation.fail_if_any()


def _run(
    invocation: Invocation, settings: Mapping[str, str], record: Any, stage: Callable[[], Stage], others: Others | None
) -> Bundle | None:
    """Compute and write the result; None in another process than the first."""
    talk, output, resume = invocation.record(Talk), invocation.record(Output), invocation.record(Resume)
    name = partial_name(output.output) if Resume in invocation.command.records else None
    with contextlib.ExitStack() as around:
        if others is not None:
            around.enter_context(others.at_work())
        if place()[1] > 1:
            _import_torch()
        team = around.enter_context(joining(others))
        interrupts = around.enter_context(listening())
        if name is not None:
            around.enter_context(alone(name, team))
        with interrupts.deferred():  # an import that is broken off leaves halves of modules
            run = stage()
        bundles = _open(invocation.files)
        more: dict[str, Any] = {
            name: _open(invocation.lists.get(option, ()))
            for name, option in BUNDLES.items()
            if name in run.__annotations__
        }
        if "team" in run.__annotations__:
            more["team"] = team
        elif team.size > 1:
            raise UsageError(f"'{invocation.command.name}' is for one process, this is one of {team.size}")
        partial = None if name is None else PartialFile(name, output, resume, talk, team)
        reporter = Reporter(quiet=talk.quiet or not team.leads, verbose=talk.verbose)
        with contextlib.ExitStack() as ending:
            with contextlib.nullcontext() if partial is None else partial.keeping(interrupts):
                reached = {} if partial is None else {"progress": partial.progress}
                result = _compute(run, bundles, record, settings, {**more, **reached}, reporter, interrupts)
                if partial is not None:  # no signal comes between the result and the end of its state
                    ending.enter_context(interrupts.finishing())
                if output.output is not None and team.leads:
                    result.save(output.output, force=output.force, durable=not output.no_fsync)
                if others is not None:
                    others.dismiss()
                with contextlib.suppress(ResourceError) if team.leads else contextlib.nullcontext():
                    team.exchange(b"")  # nobody gives a state up before the result is written
            if partial is not None:
                partial.remove_all()
        return result if team.leads else None


def follow_recipe(invocation: Invocation, settings: dict[str, str]) -> tuple[Invocation, dict[str, str]]:
    """The command line and its settings with those of the recipe beneath them; what was typed wins."""
    from ..recipes import load_recipe

    stage, name = invocation.command.name, invocation.texts["recipe"]
    recipe = invocation.attempt(lambda: load_recipe(name))
    options = invocation.attempt(lambda: recipe.options_of(stage)) if recipe is not None else None
    if options is None:
        return invocation, settings
    typed = invocation.texts
    replaced = any(typed.get(name, options.get(name)) != options.get(name) for name in ("loss", "method", "kind"))
    theirs = recipe.settings[stage]
    if replaced and theirs:  # options of a plugin that another one was typed for
        if not invocation.flags.get("quiet"):
            dropped = ", ".join(f"{option}={value}" for option, value in theirs.items())
            say(f"note: the --set of recipe '{name}' is of what was replaced by what is typed; left out: {dropped}")
        theirs = {}
    return dataclasses.replace(invocation, texts={**options, **typed}), {**theirs, **settings}


def _check_files(
    invocation: Invocation,
    settings: Mapping[str, str],
    output: Output | None,
    output_optional: bool,
    continues: bool,
) -> None:
    problems = invocation.problems
    files = invocation.files
    if invocation.command.files is not None and len(files) != 1 and not problems:
        more = "; repeat --teacher for each of several" if "teacher" in invocation.lists and len(files) > 1 else ""
        problems.append(f"{len(files)} input bundles given, expected one (or - for stdin){more}")
    if invocation.command.files is None and files:
        problems.append(f"unexpected argument '{files[0]}'")
    problems += [
        f"option '{option}' is empty, expected a file"
        for option in BUNDLES.values()
        if "" in invocation.lists.get(option, ())
    ]
    if output is None:
        return
    inputs = (*files, *(file for option in BUNDLES.values() for file in invocation.lists.get(option, ())))
    invocation.attempt(lambda: check_inputs(inputs))
    if inputs.count("-") > 1:
        problems.append("two inputs are '-', expected stdin at most once")
    if output.output is None:
        if not output_optional:
            problems.append("option 'output' is missing, expected -o FILE, or -o - for stdout")
        return
    from ..fsio import check_output

    target = output.output
    if is_partial(target):
        problems.append(f"output '{target}' ends with {SUFFIX} as states of unfinished runs do; give another name")
    read = (*inputs, *_other_files(invocation.texts, settings))
    found = len(problems)
    if continues and not output.force:
        invocation.attempt(lambda: check_finished(target, invocation.command.name))
    said = len(problems) > found
    invocation.attempt(lambda: check_output(target, force=output.force or said, inputs=read))


def _other_files(texts: Mapping[str, str], settings: Mapping[str, str]) -> list[str]:
    """Files that are read and are no bundles given as such: of data, scores, options and a generator."""
    named = (texts.get("data", "").partition(":")[2], texts.get("scores", ""), texts.get("config", ""))
    source = settings.get("generator", "").rpartition(":")[0]
    return [os.path.expanduser(file) for file in (*named, source) if file]


def _check_clock() -> None:
    from ..sections import fixed_clock

    fixed_clock()


def check_names(plugins: Sequence[tuple[str, str, str]]) -> None:
    """Refuse plugins (room, name, socket) that do not exist, all in one error."""
    from .._plugins import is_known, names
    from ..errors import suggest

    nouns = {"distill": "method", "losses": "loss", "codecs": "codec", "labels": "label kind", "refine": "refinement"}
    nouns |= {"importers": "format", "exporters": "format"}
    problems = [
        f"unknown {nouns.get(room, room.rstrip('s'))} '{name}'{suggest(name, names(room))}"
        for room, name, _socket in plugins
        if not is_known(room, name)
    ]
    if problems:
        raise UsageError.collect(problems)


def _import_torch() -> None:
    """A signal waits until it is done: what is broken off leaves halves of modules, or goes on without a word."""
    with listening() as interrupts, interrupts.deferred():
        import torch.distributed  # noqa: F401


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


def _size_of(bundle: Bundle) -> str:
    from ._tables import readable_bytes

    return readable_bytes(bundle.manifest.storage["total"])
