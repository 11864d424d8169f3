"""Times works: what we do against the published loops, side by side on this machine.

    python tests/benchmarks/bench.py --list
    python tests/benchmarks/bench.py dc-step dm-step --threads 2 --rounds 3 --json FILE

Every side of every size of a work is measured in a fresh process, sides in turns, several rounds; figures are medians,
ratios are of the pairs of a round. On a busy machine CPU seconds with `--threads 1` say more than seconds.
`python docs/tables_speed.py FILE...` writes docs/results-speed.md from the JSON.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from _work import HERE, SIDES, Sample, Side, Work, growth, measure, summary, works

FORMAT = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the works that were named, or list all."""
    chosen = parser().parse_args(arguments)
    known = works()
    if chosen.sample:
        return sample(known[chosen.sample[0]], chosen.sample[1], chosen.sample[2], chosen)
    if chosen.list:
        for work in known.values():
            print(f"{work.name:20} {', '.join(work.sizes)}: {work.about}{' (when named)' if work.extra else ''}")
        return 0
    usual = [name for name, work in known.items() if not work.extra]
    names = [name for name in known if any(fnmatch.fnmatch(name, wanted) for wanted in chosen.works)] or usual
    unknown = [wanted for wanted in chosen.works if not fnmatch.filter(known, wanted)]
    if unknown:
        print(f"unknown work {', '.join(unknown)}; known are {', '.join(known)}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"format": FORMAT, "origin": origin(chosen), "rows": []}
    for name in names:
        report["rows"] += run(known[name], chosen)
        if chosen.json:
            chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """Options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "works",
        nargs="*",
        metavar="WORK",
        help="names or patterns such as 'mtt*'; those of the published figures when none is given",
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--size", help="only sizes of this name")
    made.add_argument("--json", type=Path, help="where all figures go")
    made.add_argument("--list", action="store_true", help="works and their sizes")
    made.add_argument("--sample", nargs=3, metavar=("WORK", "SIZE", "SIDE"), help=argparse.SUPPRESS)
    return made


def sample(work: Work, size: str, side: str, chosen: argparse.Namespace) -> int:
    """In a process of its own: measure one side and print it as JSON."""
    import torch

    torch.set_num_threads(chosen.threads)
    print(json.dumps(asdict(measure(work, size, cast(Side, side), torch.device(chosen.device)))))
    return 0


def run(work: Work, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a work, printed as they are made."""
    print(f"{work.name}: {work.about}", flush=True)
    rows = []
    for size in work.sizes:
        if chosen.size not in {None, size}:
            continue
        sides = SIDES if work.reference is not None else ("ours",)
        taken: dict[str, list[Sample]] = {side: [] for side in sides}
        for _round in range(min(chosen.rounds, work.rounds or chosen.rounds)):
            for side in sides:
                taken[side].append(fresh(work, size, side, chosen))
        rows.append(summary(work, size, taken))
        tell(rows[-1])
    for row, grown in zip(rows, growth(rows) if rows else [], strict=True):
        row["growth"] = grown
        if len(rows) > 1:
            print(f"  growth {row['size']}: {grown['seconds']:.2f} times the time, {grown['peak_mb']:.2f} the memory")
    return rows


def fresh(work: Work, size: str, side: str, chosen: argparse.Namespace) -> Sample:
    """What `sample` prints, in a new process."""
    command = [sys.executable, str(HERE / "bench.py"), "--sample", work.name, size, side]
    command += ["--device", chosen.device, "--threads", str(chosen.threads)]
    own = {name: str(chosen.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    own["PYTHONPATH"] = str(HERE.parents[1])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **own})
    return Sample(**json.loads(done.stdout.splitlines()[-1]))


def tell(row: dict[str, Any]) -> None:
    """A size on two or three lines."""
    for side, seen in row["sides"].items():
        rate = "" if seen["gflops"] is None else f", {seen['gflops']:5.0f} GFLOP/s, {seen['share']:4.0%} of the peak"
        rate += "" if seen["items_per_second"] is None else f", {seen['items_per_second']:,.1f} {row['unit']} a second"
        memory = "" if row["processes"] else f", {seen['peak_mb']:6.0f} MB ({seen['own_mb']:.0f} own)"
        times = f"{seen['seconds']:8.4f} s ({seen['cpu_seconds']:.4f} of CPU)"
        print(f"  {row['size']:12} {side:9} {times}{rate}{memory}", flush=True)
    for name, what in (("ratio_seconds", "seconds"), ("ratio_cpu_seconds", "CPU seconds")):
        if name in row:
            found, target = row[name], "" if row["target"] is None else f", target {row['target']}"
            limits = f"least {found['least']:.2f}, most {found['most']:.2f}"
            print(f"  {row['size']:12} ratio of {what} {found['median']:.2f} ({limits}){target}", flush=True)


def origin(chosen: argparse.Namespace) -> dict[str, Any]:
    """Where figures come from: no names of machines and no paths."""
    import torch

    return {
        "commit": commit(),
        "device": chosen.device,
        "hardware": torch.cuda.get_device_name() if chosen.device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": chosen.threads,
        "rounds": chosen.rounds,
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "command": "python tests/benchmarks/bench.py "
        + " ".join(
            [*chosen.works, f"--device {chosen.device}", f"--threads {chosen.threads}", f"--rounds {chosen.rounds}"]
        ),
    }


def processor() -> str:
    """The CPU by the name that the system gives it, else by its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """Of the checkout, with `-dirty` where files differ from it."""
    at = ["git", "-C", str(HERE)]
    name = subprocess.run([*at, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*at, "status", "--porcelain"], capture_output=True, text=True, check=True)
    return name.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


if __name__ == "__main__":
    raise SystemExit(main())
