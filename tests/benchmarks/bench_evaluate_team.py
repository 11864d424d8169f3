"""`evaluate` by two processes against one: whole commands, one thread each, in turns.

Run `python tests/benchmarks/bench_evaluate_team.py [rounds] [epochs]`. Four jobs (one net, one row, four seeds) on
digits. Prints the wall seconds of every command with the load of the machine at its start, medians, the speed-up, and
whether both bundles have the same content. `torchrun` starts three interpreters where the other command is one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ddlabel.bundle import Bundle

ROOT = Path(__file__).parents[2]
ALONE = ("-m", "ddlabel")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ddlabel")


def run(*arguments: str) -> float:
    """Wall seconds of a Python command with one thread per process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    epochs = sys.argv[2] if len(sys.argv) > 2 else "600"
    with tempfile.TemporaryDirectory() as folder:
        base = f"{folder}/base.ddset"
        run(*ALONE, "distill", "--data", "digits", "--method", "random", "--ipc", "10", "-o", base)
        evaluate = ("evaluate", base, "--data", "digits", "--arch", "convnet-d2-w32", "--seeds", "4")
        seconds: dict[str, list[float]] = {"one process": [], "two": []}
        for index in range(rounds):
            for name, launcher in (("one process", ALONE), ("two", TWO)):
                load = os.getloadavg()[0]
                output = ("--threads", "1", "-o", f"{folder}/{name}.{index}.ddset")
                seconds[name].append(run(*launcher, *evaluate, "--epochs", epochs, *output))
                print(f"{name}: {seconds[name][-1]:.1f} s (load {load:.1f})", flush=True)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        contents = {Bundle.open(path).content for path in Path(folder).glob("*.*.ddset")}
        print(", ".join(f"{name} {value:.1f} s" for name, value in medians.items()))
        print(f"speed-up {medians['one process'] / medians['two']:.2f}; same content: {len(contents) == 1}")


if __name__ == "__main__":
    main()
