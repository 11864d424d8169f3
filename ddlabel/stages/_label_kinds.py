"""Which kinds of labels an evaluation trains on: what `--labels` says, and what goes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..errors import UsageError, suggest
from ..events import Event, OnEvent
from ..labels._labels import RICHEST_FIRST, choose_kind
from ..labels._privileged import PRIVILEGED, choose_privileged

__all__ = ["parse_labels", "usable_beside", "whole_image_problem"]


def parse_labels(text: str | None, bundle: Bundle) -> tuple[str, str | None]:
    """The kind of class labels and the kind of feature or attention labels that `--labels` means.

    Args:
        text: kinds joined by `+`; None takes the richest class labels and, where there are some, the others.
        bundle: what is in it decides for None.

    Raises:
        UsageError: unknown or empty kinds, one named twice, two of one sort: all problems in one error.
    """
    if text is None:
        return choose_kind(bundle), choose_privileged(bundle)
    named = [part.strip() for part in text.split("+")]
    known = {*RICHEST_FIRST, *_plugins.names("labels"), *PRIVILEGED}
    problems = [
        f"unknown label kind '{part[:40]}' in --labels{suggest(part, known)}" for part in named if part not in known
    ]
    problems += [f"--labels names '{part}' twice" for part in dict.fromkeys(named) if named.count(part) > 1]
    beside = list(dict.fromkeys(part for part in named if part in PRIVILEGED))
    classes = list(dict.fromkeys(part for part in named if part in known and part not in PRIVILEGED))
    if len(beside) > 1:
        problems.append(f"--labels names {' and '.join(beside)}, expected at most one of them")
    if len(classes) > 1:
        problems.append(f"--labels names {' and '.join(classes)}, expected at most one kind of class labels")
    if problems:
        raise UsageError.collect(problems)
    return classes[0] if classes else "hard", beside[0] if beside else None


def whole_image_problem(kind: str, loss: str, estimator: str) -> str | None:
    """Why students under a loss never see whole images, which alone have features; None when they do."""
    if kind in {"hard", "soft"} or (kind != "fkd" and estimator != "views"):
        return None
    if kind == "fkd":
        return "fkd labels are of augmented crops, feature and attention labels of whole images"
    return f"loss '{loss}' trains on the views of {kind} labels alone, feature and attention labels are of whole images"


def usable_beside(
    privileged: str,
    kind: str,
    losses: Sequence[str],
    settings: Mapping[str, Any],
    on_event: OnEvent,
    *,
    incremental: bool = False,
) -> str | None:
    """Labels that `--labels auto` found beside class labels, or None, said aloud, where they cannot be used.

    That is where no whole images are seen, and where classes come in steps.
    """
    if incremental:
        on_event(Event(phase="labels", message=f"{privileged} labels are left out: their net knew classes to come"))
        return None
    for loss in losses:
        default = getattr(_plugins.load("losses", loss, "LOSS"), "estimator", "views")
        problem = whole_image_problem(kind, loss, str(settings.get("estimator", default)))
        if problem is not None:
            on_event(Event(phase="labels", message=f"{privileged} labels are left out: {problem}"))
            return None
    return privileged
