"""What a work is, how one side of it is measured in this process, and what samples of several processes say."""

from __future__ import annotations

import importlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).resolve().parent
SIDES: tuple[Side, ...] = ("reference", "ours")
Side = Literal["reference", "ours"]
PEAK_SIDE = {"cpu": 1536, "cuda": 8192}
"""Of the square matrices whose product is the machine's peak."""
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Work:
    """One repetition of something worth timing, as we do it and as the published loop does."""

    name: str
    about: str
    """One line: shapes, and what a repetition does."""
    sizes: Mapping[str, Mapping[str, Any]]
    """Arguments of the functions below by the name of the size; more than one where growth is of interest."""
    ours: Callable[..., Callable[[], object]]
    """ours(device, **size) prepares, and returns one repetition."""
    reference: Callable[..., Callable[[], object]] | None = None
    """The same work by the published loop."""
    flops: Callable[..., float] | None = None
    """Useful FLOPs of a repetition by size, 2 per multiply-add of convolutions and linear layers, same for both."""
    target: float | None = None
    """Ratio reference / ours that is wanted."""
    repeat: int = 2
    """Repetitions timed in a process."""
    warm: int = 1
    """Repetitions before those; 0 where preparing has run a small one."""
    processes: bool = False
    """Whether a repetition starts processes: their CPU seconds count, their memory is not seen."""
    items: Callable[..., float] | None = None
    """How many of `unit` a repetition takes, by size."""
    unit: str = ""
    """What is counted, such as crops."""
    rounds: int | None = None
    """Rounds at most, where one takes a minute."""
    extra: bool = False
    """Whether it runs only when it is named."""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a size that takes milliseconds: tests run it, and compare the tensors that both sides return."""


@dataclass(frozen=True)
class Sample:
    """What one process measured of one side."""

    seconds: float
    """Median over the repetitions, as all but the peaks."""
    cpu_seconds: float
    peak_mb: float
    """Of the whole process, torch included; on CUDA of what torch allocates there."""
    own_mb: float
    """The peak above what the process held before it prepared the work."""
    matmul_gflops: float
    """Best of ten float32 matrix products."""


def works() -> dict[str, Work]:
    """All works by name: those of `WORKS` in every file of the folder `works`, in alphabetical order of files."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    found: dict[str, Work] = {}
    for path in sorted((HERE / "works").glob("*.py")):
        for work in importlib.import_module(f"works.{path.stem}").WORKS:
            if work.name in found:
                raise ValueError(f"two works are called '{work.name}', the second one in {path.name}")
            found[work.name] = work
    return found


def measure(work: Work, size: str, side: Side, device: torch.device) -> Sample:
    """Prepare one side of a work in this process and time its repetitions.

    Ours runs as every stage does, with freed memory kept. TF32 is off on both sides: shares are of float32's peak.
    """
    import torch

    from ddlabel.memory import keep_freed_memory

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rate = matmul_gflops(device)
    if side == "ours":
        keep_freed_memory()
    before = forget_peak(device)
    prepare = work.ours if side == "ours" else work.reference
    if prepare is None:
        raise ValueError(f"work '{work.name}' has no {side}")
    run = prepare(device, **work.sizes[size])
    for _repetition in range(work.warm):
        run()
    times = [timed(run, device) for _repetition in range(work.repeat)]
    seconds, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    peak = peak_mb(device)
    return Sample(seconds, cpu, peak, max(0.0, peak - before), rate)


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of a call, processes it waits for included."""
    synchronise(device)
    start, busy = time.perf_counter(), cpu_seconds()
    run()
    synchronise(device)
    return time.perf_counter() - start, cpu_seconds() - busy


def cpu_seconds() -> float:
    """User and system time of this process and of those it has waited for."""
    return sum(os.times()[:4])


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> float:
    """Begin to measure peak memory anew, where the system can: what is held now, in MB."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_mb(device)


def peak_mb(device: torch.device) -> float:
    """Most memory held since `forget_peak`, in MB of 2^20 bytes."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if STATUS.exists():  # ru_maxrss would include the process that started this one
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def matmul_gflops(device: torch.device) -> float:
    """GFLOP/s of a float32 matrix product, the best of ten: what shares of the peak are of."""
    import torch

    side = PEAK_SIDE[device.type]
    matrix = torch.randn(side, side, device=device)
    matrix @ matrix
    return 2 * side**3 / min(timed(lambda: matrix @ matrix, device)[0] for _turn in range(10)) / 1e9


def summary(work: Work, size: str, samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """A row: medians of each side over rounds, and ratios reference / ours round by round.

    Args:
        work, size: what was measured.
        samples: of each side one a round.
    """
    flops, items = (None if count is None else count(**work.sizes[size]) for count in (work.flops, work.items))
    row: dict[str, Any] = {
        "work": work.name,
        "about": work.about,
        "size": size,
        "target": work.target,
        "unit": work.unit,
        "processes": work.processes,
        "sides": {side: _side(taken, flops, items) for side, taken in samples.items()},
        "samples": {side: [asdict(sample) for sample in taken] for side, taken in samples.items()},
    }
    if len(samples) == len(SIDES):
        for name in ("seconds", "cpu_seconds"):
            pairs = zip(*(samples[side] for side in SIDES), strict=True)
            row[f"ratio_{name}"] = spread([getattr(theirs, name) / getattr(ours, name) for theirs, ours in pairs])
    return row


def _side(taken: Sequence[Sample], flops: float | None, items: float | None) -> dict[str, float | None]:
    made = {
        name: statistics.median(getattr(sample, name) for sample in taken)
        for name in ("seconds", "cpu_seconds", "peak_mb", "own_mb")
    }
    seconds, best = made["seconds"], max(sample.matmul_gflops for sample in taken)
    rate = None if flops is None else flops / seconds / 1e9
    return {
        **made,
        "matmul_gflops": best,
        "gflops": rate,
        "share": None if rate is None else rate / best,
        "items_per_second": None if items is None else items / seconds,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Of the rows of one work, in the order of its sizes, our time and peak memory against the first one."""
    first = rows[0]["sides"]["ours"]
    return [{name: row["sides"]["ours"][name] / first[name] for name in ("seconds", "peak_mb")} for row in rows]
