"""How much sooner two processes are done than one, with one thread each: wall clock, and CPU time of the busier one.

Run `python tests/benchmarks/bench_team.py [ROUNDS]`. Of each stage the first process measures itself alone and then
together with the second, round by round; the medians of the ratios are printed. What starting a process takes is left
out. On a machine that does other work the ratio of CPU times says more: it is what the wall clock says of an idle one.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

ROUNDS = 3


def jobs() -> dict[str, Callable[..., object]]:
    """Stages of one to a few seconds."""
    from ddlabel.config import AugmentLabelsConfig, DistillConfig, TrainTeacherConfig
    from ddlabel.stages import augment_labels, distill, train_teacher

    def trained(arch: str, **more: object) -> Callable[..., object]:
        config = TrainTeacherConfig(data="digits", arch=arch, threads=1, **more)
        return lambda **team: train_teacher.run(config, **team)

    def distilled(method: str, settings: dict[str, object], teachers: tuple[object, ...] = ()) -> Callable[..., object]:
        config = DistillConfig(data="digits", method=method, ipc=10, threads=1, self_test=0)
        return lambda **team: distill.run(config, settings, teachers=teachers, **team)

    net = trained("convnet-d2-w32-bn", epochs=1)()
    base = distilled("random", {})()
    labels = AugmentLabelsConfig(kind="dense", grid=9, ratio="1/2", threads=1, self_test=0)
    return {
        "train-teacher --experts 4": trained("convnet-d2-w16", epochs=10, experts=4),
        "distill --method dm": distilled("dm", {"steps": 10}),
        "distill --method sre2l": distilled("sre2l", {"steps": 60}, (net,)),
        "augment-labels --kind dense": lambda **team: augment_labels.run(base, labels, {}, teachers=[net], **team),
    }


def measure(rounds: int) -> None:
    """As one of two processes: the first one prints ratios by stage."""
    from ddlabel.team import joined

    with joined() as team:
        for name, job in jobs().items():
            ratios = []
            for _round in range(rounds):
                alone = _seconds(job) if team.leads else (0.0, 0.0)
                team.exchange(b"")
                together = _seconds(lambda job=job: job(team=team))
                busiest = max(float(cpu) for _wall, cpu in team.exchange_json(together))
                ratios.append((alone[0] / together[0], alone[1] / busiest, alone[1]))
            if team.leads:
                wall, cpu, seconds = (statistics.median(column) for column in zip(*ratios, strict=True))
                print(json.dumps({"stage": name, "wall": wall, "cpu": cpu, "alone_cpu_s": seconds}), flush=True)


def _seconds(job: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(rounds: int) -> None:
    """Start both and print a table."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rounds)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert processes[0].stdout is not None
    for line in processes[0].stdout:
        row = json.loads(line)
        print(f"{row['stage']:30s} wall {row['wall']:.2f}x, CPU {row['cpu']:.2f}x, {row['alone_cpu_s']:.1f} s alone")
    for process in processes:
        process.wait()


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    (measure if "RANK" in os.environ else main)(chosen)
