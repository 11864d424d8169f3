"""`evaluate` by two processes against one: whole commands, one thread each, in turns.

Run `python tests/benchmarks/bench_evaluate_team.py [rounds] [epochs] [torchrun]`. Four jobs (one net, one row, four
seeds) on digits, some 25 s each on a free core. Prints wall and CPU seconds of every command with the load of the
machine at its start, medians, the speed-up, what it would be at most by CPU seconds (which a busy machine changes
less), and whether both bundles have the same content. The two are started by `--processes 2`, or by torchrun, which is
a third process.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ddlabel.bundle import Bundle

ROOT = Path(__file__).parents[2]
ALONE = ("-m", "ddlabel")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ddlabel")


def run(*arguments: str) -> tuple[float, float]:
    """Wall and CPU seconds of a Python command with one thread per process, all its processes together."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started, before = time.perf_counter(), cpu_seconds()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - started, cpu_seconds() - before


def cpu_seconds() -> float:
    """Of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    epochs = sys.argv[2] if len(sys.argv) > 2 else "1500"
    with tempfile.TemporaryDirectory() as folder:
        base = f"{folder}/base.ddset"
        run(*ALONE, "distill", "--data", "digits", "--method", "random", "--ipc", "10", "-o", base)
        torchrun = "torchrun" in sys.argv[3:]
        two = (TORCHRUN, ()) if torchrun else (ALONE, ("--processes", "2"))
        evaluate = ("evaluate", base, "--data", "digits", "--arch", "convnet-d2-w32", "--seeds", "4")
        seconds: dict[str, list[tuple[float, float]]] = {"one process": [], "two": []}
        for index in range(rounds):
            for name, (launcher, more) in (("one process", (ALONE, ())), ("two", two)):
                load = os.getloadavg()[0]
                output = ("--threads", "1", "-o", f"{folder}/{name}.{index}.ddset")
                seconds[name].append(run(*launcher, *evaluate, "--epochs", epochs, *more, *output))
                wall, cpu = seconds[name][-1]
                print(f"{name}: {wall:.1f} s, {cpu:.1f} s of CPU (load {load:.1f})", flush=True)
        walls, cpus = (
            {name: statistics.median(each[kind] for each in values) for name, values in seconds.items()}
            for kind in (0, 1)
        )
        contents = {Bundle.open(path).content for path in Path(folder).glob("*.*.ddset")}
        ratio, bound = walls["one process"] / walls["two"], 2 * cpus["one process"] / cpus["two"]
        print(f"one process {walls['one process']:.1f} s, two {walls['two']:.1f} s: speed-up {ratio:.2f}")
        print(f"by CPU seconds at most {bound:.2f}; same content: {len(contents) == 1}")


if __name__ == "__main__":
    main()
