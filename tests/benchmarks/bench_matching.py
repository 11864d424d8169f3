"""DC and DM steps against the reference loops, written out here: same machine, same run, same work, in turns.

Run `python tests/benchmarks/bench_matching.py [threads]`. The reference loops keep the graphs of all classes until one
backward pass, take every batch at once, and use the C library's allocator as it is. Prints the median seconds of each,
their ratio (of CPU seconds too, which a busy machine changes less), GFLOP/s of the convolutions and linear layers,
their share of a measured matrix product, and peak MB.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.augment._augment import apply
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distill._method import Problem
from ddlabel.distill.dc import GradientMatching
from ddlabel.distill.dm import DistributionMatching
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import Net
from ddlabel.nets._net import build as build_net
from ddlabel.seeding import generator
from ddlabel.space import Space

ROUNDS = 5
STEPS = 2
"""Steps timed in a process, after one that is not."""
ARCH = "convnet-d3-w128-instance"
SIDE, CLASSES, IPC, REAL = 32, 2, 10, 256
FORWARD_MACS = 50.7e6
"""Of ConvNet-D3 W128 per image of 32 x 32 pixels."""
WORK = {"dc": 2 * FORWARD_MACS * CLASSES * (3 * REAL + 7 * IPC), "dm": 2 * FORWARD_MACS * CLASSES * (REAL + 2 * IPC)}
"""FLOPs of a step: forward 1, backward 2, second order 4 passes; DM needs no weight gradients."""


def make_problem() -> Problem:
    source = generator(0, "bench")
    count = CLASSES * (REAL + 50)
    return Problem(
        pixels=torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=source, dtype=torch.uint8),
        labels=torch.arange(count) % CLASSES,
        classes=tuple(str(label) for label in range(CLASSES)),
        space=Space("normalised", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ipc=IPC,
        arch=ARCH,
        flip=True,
        teacher=None,
        device=torch.device("cpu"),
        seed=0,
    )


class PlainNet(torch.nn.Module):
    """The net as the reference has it: in-place activations, torch's own pooling, parameters from ours."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.blocks, self.classifier = net.blocks, net.classifier

    def embed(self, images: Tensor) -> Tensor:
        for block in self.blocks:
            images = functional.avg_pool2d(functional.relu(block.norm(block.conv(images)), inplace=True), 2)
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.embed(images))
        return logits


def reference_distance(given: tuple[Tensor, ...], wanted: list[Tensor]) -> Tensor:
    """1 - cosine of the rows of weights."""
    total = torch.zeros(())
    for a, b in zip(given, wanted, strict=True):
        if a.ndim > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


class Reference:
    """The authors' loops: one loss over all classes, one backward pass, torch's SGD on the images."""

    def __init__(self, problem: Problem, kind: str) -> None:
        self.problem, self.kind = problem, kind
        self.real = problem.space.encode(problem.pixels)
        self.images = torch.randn(CLASSES * IPC, 3, SIDE, SIDE, generator=generator(0, "start"), requires_grad=True)
        self.optimizer = torch.optim.SGD([self.images], lr=0.1, momentum=0.5)

    def step(self, index: int) -> None:
        source = generator(0, "step", index)
        net = PlainNet(build_net(ARCH, channels=3, size=SIDE, classes=CLASSES, generator=source))
        loss = torch.zeros(())
        for label in range(CLASSES):
            members = (self.problem.labels == label).nonzero().flatten()
            real = self.real[members[torch.randperm(len(members), generator=source)[:REAL]]]
            own = self.images[label * IPC : (label + 1) * IPC]
            loss = loss + (self.gradients if self.kind == "dc" else self.means)(net, real, own, label, source)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def gradients(self, net: PlainNet, real: Tensor, own: Tensor, label: int, source: torch.Generator) -> Tensor:
        del source
        parameters = list(net.parameters())
        wanted = torch.autograd.grad(functional.cross_entropy(net(real), torch.full((len(real),), label)), parameters)
        given = torch.autograd.grad(
            functional.cross_entropy(net(own), torch.full((IPC,), label)), parameters, create_graph=True
        )
        return reference_distance(given, [tensor.clone() for tensor in wanted])

    def means(self, net: PlainNet, real: Tensor, own: Tensor, label: int, source: torch.Generator) -> Tensor:
        del label
        net.requires_grad_(False)
        steps = build_augmentation("dsa").draw(1, SIDE, SIDE, source, siamese=True)
        wanted = net.embed(apply(real, steps)).detach().mean(dim=0)
        return (net.embed(apply(own, steps)).mean(dim=0) - wanted).square().sum()


class Ours:
    """One step of the method as shipped; DC with one loop, as the reference step here."""

    def __init__(self, problem: Problem, kind: str) -> None:
        keep_freed_memory()
        self.problem = problem
        self.method = GradientMatching(outer=1) if kind == "dc" else DistributionMatching()
        self.state = self.method.prepare(problem, generator(0, "start"))

    def step(self, index: int) -> None:
        self.state, _metrics = self.method.step(self.problem, self.state, index, generator(0, "step", index))


def measure(side: str, kind: str, threads: int) -> None:
    """In a process of its own: seconds and CPU seconds of a step, peak MB above what stood before it, sgemm GFLOP/s."""
    torch.set_num_threads(threads)
    problem = make_problem()
    runner = (Ours if side == "ours" else Reference)(problem, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runner.step(0)
    times, cpu_times = [], []
    for index in range(1, STEPS + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        runner.step(index)
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(statistics.median(times), statistics.median(cpu_times), peak / 1024, sgemm())


def sgemm() -> float:
    """GFLOP/s of a matrix product that fits the cache: the best of ten."""
    a = torch.randn(1536, 1536)
    best = 0.0
    for _turn in range(10):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * 1536**3 / (time.perf_counter() - start) / 1e9)
    return best


def fresh(side: str, kind: str, threads: int) -> tuple[float, ...]:
    """The numbers of `measure`, from a new process."""
    command = [sys.executable, __file__, "measure", side, kind, str(threads)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(map(float, text.split()))


def main(threads: int) -> None:
    """Both methods, in turns."""
    print(f"{ARCH}, {SIDE} px, {CLASSES} classes, ipc {IPC}, {REAL} real images per class, {threads} threads")
    for kind, flops in WORK.items():
        pairs = [(fresh("reference", kind, threads), fresh("ours", kind, threads)) for _round in range(ROUNDS)]
        peak = max(side[3] for pair in pairs for side in pair)
        for name, column in zip(("reference", "ours"), zip(*pairs, strict=True), strict=True):
            seconds, cpu, megabytes, _gflops = (statistics.median(each) for each in zip(*column, strict=True))
            rate = flops / seconds / 1e9
            print(
                f"{kind} {name:9} {seconds:6.3f} s ({cpu:6.3f} s of CPU)"
                f"  {rate:5.0f} GFLOP/s  {100 * rate / peak:3.0f} % of {peak:.0f}"
                f"  {megabytes:6.0f} MB"
            )
        for what, index in (("seconds", 0), ("CPU seconds", 1)):
            ratios = [theirs[index] / ours[index] for theirs, ours in pairs]
            spread = f"least {min(ratios):.2f}, most {max(ratios):.2f}"
            print(f"{kind} ratio of {what} {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
