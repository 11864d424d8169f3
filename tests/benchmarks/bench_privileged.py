"""Learning labels by gradient matching: one pass forward (Fact D) against differentiating twice, on the same work.

Run `python tests/benchmarks/bench_privileged.py [threads]`. One class of ConvNet-D3 W128 with ten images of 32 x 32
pixels, by turns in one process. Prints the median milliseconds of the derivative by labels each way, of CPU time too,
which a busy machine changes less; their ratio; and the share of the real batch of 256 in the whole of a step's class.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from ddlabel.distill._gradients import class_gradients
from ddlabel.distill._student import Privileged
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import build
from ddlabel.privileged._form import make_form
from ddlabel.privileged._objective import Objective
from ddlabel.refine._label_gradient import Labelled, encoder_rows, label_gradients
from ddlabel.seeding import generator

SIDE, CLASSES, IPC, REAL, CHUNK = 32, 10, 10, 256, 32
FORMS = ((None, "avg"), ("spatial", "avg"), ("channel", "max"))
ROUNDS = 11


def measure(work: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Median wall and CPU milliseconds of each, by turns, after one round that is not timed."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for turn in range(ROUNDS + 1):
        for name, call in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn:
                times[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in times.items()}  # type: ignore[misc]


def bench(arch: str, attention: str | None, pool: str) -> str:
    """One line of the table."""
    source = generator(0, "bench")
    net = build(arch, channels=3, size=SIDE, classes=CLASSES, generator=source).eval()
    form = make_form(arch, channels=3, size=SIDE, classes=CLASSES, layer="last", attention=attention, pool=pool)
    real = torch.randn(REAL, 3, SIDE, SIDE, generator=source)
    hard = torch.zeros(IPC, dtype=torch.int64)
    part = Labelled(torch.randn(IPC, 3, SIDE, SIDE, generator=source), hard, None)
    labels = torch.randn(IPC, *form.shape, generator=source)
    one = Privileged(labels=labels, hard=hard, form=form, objective=Objective())
    compared = encoder_rows(net)
    target = class_gradients(net, real, 0, compared.parameters, CHUNK)
    found = measure(
        {
            "real": lambda: class_gradients(net, real, 0, compared.parameters, CHUNK),
            "jvp": lambda: label_gradients(net, part, target, compared, [one], shortcut=True),
            "double": lambda: label_gradients(net, part, target, compared, [one], shortcut=False),
        }
    )
    (real_wall, _cpu), (jvp, jvp_cpu), (double, double_cpu) = found["real"], found["jvp"], found["double"]
    kind = "feature" if attention is None else f"{attention} {pool}"
    return (
        f"{arch:28} {kind:12} jvp {jvp:6.1f} ms  double {double:6.1f} ms  ratio {double / jvp:.2f} "
        f"(CPU {double_cpu / jvp_cpu:.2f})  real batch {real_wall:6.1f} ms, "
        f"{real_wall / (real_wall + jvp):.0%} of the step"
    )


def main() -> None:
    """Every form on the default net, and a net that takes torch's forward mode."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    keep_freed_memory()
    for attention, pool in FORMS:
        print(bench("convnet-d3-w128-instance", attention, pool), flush=True)
    print(bench("convnet-d3-w128-batch", None, "avg"), flush=True)


if __name__ == "__main__":
    main()
