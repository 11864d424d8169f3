"""What a running stage tells its caller: progress, metrics and messages.

A stage never prints. It calls `on_event` often: at least once per optimisation step or batch of files. The command
line turns events into a progress bar, tests into a list, and every call is a safe point where an interrupt may be
raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Event", "OnEvent", "ignore"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One report of a running stage."""

    phase: str
    """What is being done, in two or three words: "training teacher 1 of 3"."""
    done: int = 0
    """Units finished."""
    total: int = 0
    """Units in all; 0 when unknown."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers worth showing beside the progress; accuracies as fractions."""
    message: str | None = None
    """A sentence for the user (a warning or a result); None for plain progress."""


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Discard an event: the default when nobody listens."""
    del event
