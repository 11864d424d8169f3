"""Herding and k-center over 50,000 x 2,048 features: seconds and peak memory, each in a fresh process.

Run `python tests/benchmarks/bench_coresets.py [THREADS]`. Once with all features in one class, once as ten classes of
5,000; ten images are chosen of each. Peak memory is that of the whole process, features and torch included.
"""

from __future__ import annotations

import subprocess
import sys

METHODS = ("herding", "k_center")
SHAPES = ((1, 50_000), (10, 5_000))
CHOOSE = """
import resource, sys, time, torch
from ddlabel import selection
name, (classes, count, threads) = sys.argv[1], map(int, sys.argv[2:])
torch.set_num_threads(threads)
features = torch.randn(classes * count, 2048, generator=torch.Generator().manual_seed(0))
before, wall, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), time.process_time()
for label in range(classes):
    getattr(selection, name)(features[label * count : (label + 1) * count], 10)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{wall:.1f} s, {cpu:.1f} s of CPU, peak {peak / 2**10:,.0f} MiB, {before / 2**10:,.0f} MiB before")
"""


def measure(name: str, classes: int, count: int, threads: int) -> str:
    """What one process printed."""
    arguments = [sys.executable, "-c", CHOOSE, name, *map(str, (classes, count, threads))]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    for name in METHODS:
        for classes, count in SHAPES:
            what = f"{name}, {classes} class{'es' * (classes > 1)} of {count:,} x 2,048, {threads} thread(s)"
            print(f"{what}: {measure(name, classes, count, threads)}", flush=True)
