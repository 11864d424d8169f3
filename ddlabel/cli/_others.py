"""The processes that the first one of a team starts: they are watched, told to stop, and seen to end.

Ctrl-C and a terminal that closes are for the first process alone, which passes every signal on as SIGTERM: at once,
also while it waits for the others inside torch, where no handler runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import (
    BundleError,
    DataError,
    DdlabelError,
    DivergedError,
    InterruptedRunError,
    ResourceError,
    UsageError,
)
from ..team import PeerGoneError
from ._signals import listening

if TYPE_CHECKING:
    import socket
    import subprocess

__all__ = ["GRACE_S", "Others"]

GRACE_S = 30.0
"""Seconds that a process has to keep its state when it is told to stop."""
_PROMPT_S = 5.0
"""Seconds within which a process ends that has said what is wrong, and whose connections are closed."""
_SAME_S = 0.2
"""Seconds within which one signal reaches all that are sent it."""


_SAID = {kind.exit_code: kind for kind in (UsageError, BundleError, DataError, DivergedError)}
"""What a process that ends with these codes has said before; other ends are a matter of resources."""


class Others:
    """Processes 1 to `size` - 1, each the same command line."""

    def __init__(self, words: Sequence[str], size: int, listener: socket.socket) -> None:
        self.listener = listener
        """Where they look for the first process."""
        self._words, self._size = words, size
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._watchers: list[threading.Thread] = []
        self._told: set[int] = set()
        self._lost: tuple[int, int] | None = None
        self._dismissed = False
        self._noticed, self._ending = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Start them, stop where one of them dies, and wait until all have ended.

        Raises:
            DdlabelError: one of them has died, or cannot be started.
        """
        with listening() as interrupts, self._passing_on():
            try:
                self._start()
                yield
            except (InterruptedRunError, PeerGoneError) as error:
                if isinstance(error, PeerGoneError):
                    self._noticed.wait(_PROMPT_S)
                if self._lost is None:
                    raise
                interrupts.forget()
                raise self._worded(error, *self._lost) from error
            finally:
                self._end()

    def dismiss(self) -> None:
        """The result is there: what becomes of them from now on does not matter."""
        self._dismissed = True
        self._ending.set()

    def _worded(self, error: InterruptedRunError | PeerGoneError, rank: int, code: int) -> DdlabelError:
        """Who died, with what the error says of the state that is kept."""
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message, hint = f"process {rank} of {self._size} {how}", "run the same command with --resume to continue"
        if isinstance(error, InterruptedRunError):
            message = error.message.replace("interrupted", message, 1)
        kind = _SAID.get(code, ResourceError)
        return kind(message, field="processes", hint=hint if kind is ResourceError else None)

    def _start(self) -> None:
        import subprocess

        here = {"", os.getcwd()} & set(sys.path)  # where -m looks first, but a console script does not
        command = [sys.executable, *([] if here else ["-P"]), "-m", "ddlabel", *self._words]
        for rank in range(1, self._size):
            environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                with _held(signal.SIGINT, signal.SIGHUP):
                    child = subprocess.Popen(  # noqa: S603 - our own command line
                        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
                    )
            except OSError as error:
                raise ResourceError(
                    f"process {rank} of {self._size} cannot be started ({error.strerror})",
                    field="processes",
                    hint="lower --processes",
                ) from error
            self._children[rank] = child
            self._watchers.append(threading.Thread(target=self._watch, args=(rank, child), daemon=True))
            self._watchers[-1].start()

    def _watch(self, rank: int, child: subprocess.Popen[bytes]) -> None:
        """Wait for the end of one of them; where nobody wanted it, all are stopped, and so is this process."""
        code = child.wait()
        if not code or self._ending.wait(_SAME_S) or self._lost is not None:
            return
        self._lost = rank, code
        self._noticed.set()
        self._tell_to_stop()
        if callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)

    def _tell_to_stop(self, *, again: bool = False) -> None:
        for rank, child in list(self._children.items()):
            if again or rank not in self._told:
                self._told.add(rank)
                child.terminate()

    @contextlib.contextmanager
    def _passing_on(self) -> Iterator[None]:
        """Pass signals on while inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._pass_on, args=(reader,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(writer)
            thread.join()
            os.close(reader)

    def _pass_on(self, reader: int) -> None:
        """The first signal once, every further one again: it says that the user will not wait."""
        seen = 0
        while number := os.read(reader, 1):
            if number[0] in {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
                if self._lost is None:
                    self._ending.set()
                self._tell_to_stop(again=seen > 0)
                seen += 1

    def _end(self) -> None:
        """Wait until all have ended, told to or by themselves where the result is there, and kill those that do not."""
        self._ending.set()
        if not self._dismissed:
            self._tell_to_stop()
        until = time.monotonic() + GRACE_S
        for watcher in self._watchers:
            while watcher.is_alive() and (left := until - time.monotonic()) > 0:
                try:
                    watcher.join(left)
                except InterruptedRunError:  # passed on; said when all have ended
                    until = min(until, time.monotonic() + _PROMPT_S)
        for child in self._children.values():
            child.kill()
        for watcher in self._watchers:
            watcher.join()
        for child in self._children.values():
            if child.stdin is not None:
                child.stdin.close()


@contextlib.contextmanager
def _held(*numbers: signal.Signals) -> Iterator[None]:
    """A process that is started inside never gets these signals; this one gets them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
