"""Signals: the first one stops a long stage at its next safe point, the second one stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ..errors import InterruptedRunError

__all__ = ["Interrupts", "listening"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Remembers a signal until the running stage reaches a safe point.

    Outside `deferred` a signal raises `InterruptedRunError` where it arrives, so that files are cleaned up, and is
    remembered too, because code of others may swallow the error.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending: int | None = None

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        del frame
        waits = self._deferring and self._pending is None
        self._pending = signum
        if not waits:
            raise InterruptedRunError(signum)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While inside, the first signal waits for `safe_point`."""
        self.safe_point()
        self._deferring = True
        try:
            yield
            self.safe_point()
        finally:
            self._deferring = False

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """While inside, what is written last is written: one signal changes nothing, a second one raises.

        What was pending before is pending afterwards.
        """
        deferring, pending = self._deferring, self._pending
        self._pending, self._deferring = None, True
        try:
            yield
        finally:
            self._deferring, self._pending = deferring, pending

    def forget(self) -> None:
        """The signal so far was answered otherwise."""
        self._pending = None

    def safe_point(self) -> None:
        """Raise the remembered signal, if there is one."""
        if self._pending is not None:
            signum, self._pending = self._pending, None
            raise InterruptedRunError(signum)


@contextlib.contextmanager
def listening() -> Iterator[Interrupts]:
    """Handle SIGINT, SIGTERM and SIGHUP while inside; one that the parent process ignores stays ignored.

    Only the main thread can: elsewhere nothing changes.
    """
    interrupts = Interrupts()
    previous = {}
    for number in _SIGNALS if threading.current_thread() is threading.main_thread() else ():
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            previous[number] = signal.signal(number, interrupts.handle)
    try:
        yield interrupts
        interrupts.safe_point()
    except InterruptedRunError:
        raise
    except Exception:
        interrupts.safe_point()  # what followed from a signal that was swallowed is no error of its own
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
