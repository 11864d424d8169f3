"""Processes that do one job together, however they were started: who they are, and how they tell what they made.

Work is shared by number: what a process does follows from its rank alone, so that the result is that of one process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ResourceError, UsageError

if TYPE_CHECKING:
    import socket

    from torch import Tensor
    from torch._C._distributed_c10d import Store

__all__ = ["ALONE", "PeerGoneError", "Team", "bits", "joined", "place"]

ARRIVAL = timedelta(minutes=10)
"""How long a process waits until all have come: nobody notices that one of them died before."""
PATIENCE = timedelta(days=7)
"""How long it waits for them afterwards: shares may be unequal, and a dead process is noticed at once."""

_LAST_WORDS = timedelta(seconds=3)
"""How long a process that failed waits to learn whether the first one failed for the same reason."""
_TOLD = "told"

_T = TypeVar("_T")


class PeerGoneError(ResourceError):
    """Another process is gone or cannot be reached."""


def place() -> tuple[int, int]:
    """Rank and number of processes as torchrun tells them, (0, 1) without it: before anything is imported.

    Raises:
        UsageError: they are no such numbers.
    """
    texts = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    for name, text in texts.items():
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise UsageError(f"{name} is '{text[:20]}', expected a number as torchrun sets it", field=name)
    size = int(texts["WORLD_SIZE"])
    return (int(texts["RANK"]) if size > 1 else 0), size


@dataclass(frozen=True)
class Team:
    """One process among `size` of them; alone, everything below is free and changes nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine: the number of its GPU."""
    board: Store | None = field(default=None, compare=False, repr=False)
    """Where the first process leaves word for the others, also when it ends."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the result and talks to the user."""
        return self.rank == 0

    def mine(self, items: Sequence[_T]) -> list[_T]:
        """The share of some work that is ours: every size-th item from the rank on."""
        return list(items[self.rank :: self.size])

    def in_order(self, shares: Sequence[Sequence[_T]]) -> list[_T]:
        """What all processes made of their shares, by rank, in the order of the whole work."""
        total = sum(map(len, shares))
        return [shares[number % self.size][number // self.size] for number in range(total)]

    def exchange(self, own: bytes) -> list[bytes]:
        """Give bytes to all, and take those of all, by rank; every process must call it.

        Raises:
            ResourceError: another process is gone.
        """
        if self.size == 1:
            return [own]
        import torch
        from torch import distributed

        with _peers():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            distributed.all_gather(lengths, torch.tensor([len(own)]))
            given = []
            for rank, length in enumerate(lengths):
                data = torch.empty(int(length), dtype=torch.uint8)
                if rank == self.rank and own:
                    data = torch.frombuffer(bytearray(own), dtype=torch.uint8)
                if len(data):
                    distributed.broadcast(data, src=rank)
                given.append(data.numpy().tobytes())
        return given

    def exchange_json(self, own: Any) -> list[Any]:
        """The same with what JSON can say; floats come back with the same bits.

        Raises:
            ResourceError: another process is gone.
        """
        return [json.loads(text) for text in self.exchange(json.dumps(own).encode())]

    def exchange_tensors(self, own: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The same with named tensors, which arrive on the CPU.

        Raises:
            ResourceError: another process is gone.
        """
        if self.size == 1:
            return [dict(own)]
        from safetensors.torch import load, save

        packed = save({name: tensor.detach().cpu().contiguous() for name, tensor in own.items()})
        return [load(data) for data in self.exchange(packed)]

    def fill(self, tensor: Tensor, rank: int) -> None:
        """Overwrite a tensor, contiguous and on the CPU, with that of one process; every process must call it.

        Raises:
            ResourceError: another process is gone.
        """
        if self.size > 1 and tensor.numel():
            from torch import distributed

            with _peers():
                distributed.broadcast(tensor, src=rank)

    def send(self, parts: Iterable[bytes]) -> None:
        """Give parts of any number to the first process, which must be receiving; another process calls it.

        Raises:
            ResourceError: the first process is gone.
        """
        import torch
        from torch import distributed

        for part in itertools.chain(parts, [None]):
            with _peers():
                distributed.send(torch.tensor([-1 if part is None else len(part)]), dst=0)
                if part:
                    distributed.send(torch.frombuffer(bytearray(part), dtype=torch.uint8), dst=0)

    def receive(self, rank: int) -> Iterator[bytes]:
        """The parts that another process sends, one in memory at a time; the first process calls it.

        Raises:
            ResourceError: that process is gone.
        """
        import torch
        from torch import distributed

        while True:
            length = torch.zeros(1, dtype=torch.int64)
            with _peers():
                distributed.recv(length, src=rank)
                if int(length) < 0:
                    return
                data = torch.empty(int(length), dtype=torch.uint8)
                if len(data):
                    distributed.recv(data, src=rank)
            yield data.numpy().tobytes()

    def tell(self, text: str) -> None:
        """Leave word of a failure to the others; the first process calls it."""
        if self.board is not None:
            with contextlib.suppress(RuntimeError):
                self.board.set(_TOLD, text)

    def told(self) -> str | None:
        """Why the first process failed; None when it has not, or died without a word."""
        if self.board is None:
            return None
        try:
            self.board.wait([_TOLD], _LAST_WORDS)
            return self.board.get(_TOLD).decode()
        except RuntimeError:
            return None

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor of every process, the same bits in each of them; it travels by the CPU.

        Raises:
            ResourceError: another process is gone.
        """
        if self.size == 1:
            return tensor
        from torch import distributed

        total = tensor.detach().cpu().clone()
        with _peers():
            distributed.all_reduce(total)
        return total.to(tensor.device)

    def merge(self, tensor: Tensor) -> Tensor:
        """A tensor of which every process has made some numbers and left the others zero, put together: exact bits.

        Raises:
            ResourceError: another process is gone.
        """
        return tensor if self.size == 1 else self.add_up(bits(tensor)).view(tensor.dtype)


def bits(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as integers of the same bits, of the same shape."""
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(integers[tensor.element_size()])


ALONE = Team()
"""Nobody else."""


@contextlib.contextmanager
def joined(listener: socket.socket | None = None) -> Iterator[Team]:
    """The team of this process as the environment says, in torchrun's words; `ALONE` where it says nothing.

    Everything travels by gloo, which notices a process that is gone; NCCL waits for it.

    Args:
        listener: where the others look for the first process, when it listens at that port already; it is closed.

    Raises:
        UsageError: half of what torchrun sets is missing.
        PeerGoneError: the other processes cannot be reached, or have not come in time.
    """
    size = place()[1]
    if size == 1:
        yield ALONE
        return
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is missing, expected what torchrun sets",
            field="WORLD_SIZE",
            hint="use torchrun --nproc-per-node N -m ddlabel ..., or unset WORLD_SIZE",
        )
    from torch import distributed

    with _peers():
        rank, size, board = _heeding_signals(lambda: _meet(listener))
    try:
        yield Team(rank, size, int(os.environ["LOCAL_RANK"]), board)
    finally:
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def _meet(listener: socket.socket | None) -> tuple[int, int, Store]:
    """Wait until all processes have come; our rank, how many there are, and what all can write on."""
    from torch import distributed
    from torch._C._distributed_c10d import PrefixStore, TCPStore
    from torch.distributed.rendezvous import rendezvous

    if listener is None:
        store, rank, size = next(rendezvous("env://", timeout=ARRIVAL))
    else:
        host, port = listener.getsockname()
        (rank, size), descriptor = place(), listener.detach()
        store = TCPStore(host, port, size, True, timeout=ARRIVAL, master_listen_fd=descriptor)
    own = PrefixStore("ddlabel", store)
    distributed.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=ARRIVAL)
    _be_patient()
    return rank, size, own


def _heeding_signals(wait: Callable[[], _T]) -> _T:
    """What a call returns, made by another thread: torch's waits let no handler of a signal run in the one they block.

    A call that a signal is too soon for waits on, until the process ends.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(wait())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _be_patient() -> None:
    """All have come: from now on wait for their work. The function for it was private once."""
    from torch.distributed import distributed_c10d

    for name in ("set_timeout", "_set_pg_timeout"):
        if hasattr(distributed_c10d, name):
            getattr(distributed_c10d, name)(PATIENCE)
            return


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Word the failures of the others: torch tells them apart by text alone."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"^\[[^]]*\] ?", "", text[-1]).split(". ")[0][:120]  # without a file of torch's, and advice
        raise PeerGoneError(
            f"another process of this run is gone or cannot be reached ({reason})",
            field="processes",
            hint="see its message, then run the same command with --resume",
        ) from error
