"""What keeping freed memory buys: a training step with and without it, side by side in fresh processes.

Run `python tests/benchmarks/bench_allocator.py`. Prints the median step of several processes and their ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 3
CASES = (("convnet-d2-w32", 1, 16, 256), ("convnet-d3-w32", 3, 32, 256), ("convnet-d3-w64", 3, 32, 128))
STEP = """
import sys, time, torch
from torch.nn.functional import cross_entropy
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import build
arch, channels, size, batch, keep = sys.argv[1], *map(int, sys.argv[2:])
if keep:
    keep_freed_memory()
torch.set_num_threads(2)
source = torch.Generator().manual_seed(0)
net = build(arch, channels=channels, size=size, classes=10, generator=source)
images, labels = torch.randn(batch, channels, size, size), torch.randint(0, 10, (batch,))
times = []
for _step in range(13):
    start = time.perf_counter()
    cross_entropy(net(images), labels).backward()
    times.append(time.perf_counter() - start)
print(sorted(times[3:])[5])
"""


def seconds(case: tuple[str, int, int, int], keep: int) -> float:
    """Median step of one process."""
    arguments = [sys.executable, "-c", STEP, *map(str, case), str(keep)]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    for case in CASES:
        pairs = [(seconds(case, 0), seconds(case, 1)) for _round in range(ROUNDS)]
        without, kept = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(
            f"{case[0]} batch {case[3]}: {1000 * without:.1f} ms without, {1000 * kept:.1f} ms with, ratio {ratio:.2f}"
        )
