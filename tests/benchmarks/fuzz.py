"""The long form of the fuzzer: `python tests/benchmarks/fuzz.py --count 200000 --seed 1`.

One line for each target and one for all; exit 1 and the paths that repeat them when something was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzzing.everything import shares
from tests.fuzzing.harness import fuzz


def main() -> int:
    """Run all targets, or those whose name starts with a word."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200_000, help="mutations in all")
    parser.add_argument("--seed", type=int, default=1, help="which mutations; the default suite runs seed 0")
    parser.add_argument("--start", type=int, default=0, help="number of the first mutation of each target")
    parser.add_argument("--target", default="", help="only targets whose name starts with this")
    options = parser.parse_args()
    started, reports = time.monotonic(), []
    for target, count in shares(options.count):
        if target.name.startswith(options.target):
            reports.append(fuzz(target, count, options.seed, options.start))
            print(reports[-1], *reports[-1].findings, sep="\n    ", flush=True)
    findings = sum(len(report.findings) for report in reports)
    print(
        f"all: {sum(report.count for report in reports)} mutations, seed {options.seed}, "
        f"{sum(report.refused for report in reports)} refused, {sum(report.accepted for report in reports)} accepted, "
        f"slowest {1000 * max(report.seconds for report in reports):.0f} ms, "
        f"largest {max(report.peak for report in reports) / 2**20:.1f} MiB, {findings} findings, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
