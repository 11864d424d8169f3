"""What the exact gradient through a student's run costs: time, share of the machine's peak, and memory.

    python tests/benchmarks/bench_trajectories.py              # reference against ours, 20 steps of 100 images
    python tests/benchmarks/bench_trajectories.py --long       # and other ways, feature labels, 10 and 50 steps

Every figure is of a fresh process. `reference` is the published loop written plainly: every step's graph is kept, the
batch goes at once, and torch's allocator is as it comes. The peak is an sgemm of 1536 on the same threads just before.
CPU time at one thread is the figure to trust on a machine that others use.
Work counts convolutions and the linear layer, in forward passes F of an image: 9 for the reference (3 forward and back,
6 to differentiate both), 12 for the adjoint by automatic differentiation (3 for the run, then 9), 11 by hand.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddlabel.augment._augment import Step, apply
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distill import _unroll
from ddlabel.distill._student import Privileged
from ddlabel.distill._unroll import Unrolled, Waypoint, match
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._flops import forward_flops
from ddlabel.nets._net import Net, build
from ddlabel.privileged._form import LAST, make_form
from ddlabel.privileged._objective import Objective

ARCH, SIZE, CLASSES = "convnet-d3-w128", 32, 10
WORK = {"reference": 9, "adjoint": 11, "labels": 11, "automatic": 12, "tesla": 9}
"""Forward passes for each image of each step; TESLA by hand leaves the weights' part, 2, out."""


def reference(
    net: Net, images: Tensor, labels: Tensor, start: Tensor, expert: Tensor, lr: Tensor, draws: list[tuple[Step, ...]]
) -> tuple[Tensor, Tensor]:
    """Gradients of the images and of lr by automatic differentiation through all steps."""
    images, lr = images.requires_grad_(True), lr.requires_grad_(True)
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
    reached = start.clone().requires_grad_(True)
    for drawn in draws:
        pieces = reached.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        loss = cross_entropy(functional_call(net, named, (apply(images, drawn),)), labels)
        (gradient,) = torch.autograd.grad(loss, reached, create_graph=True)
        reached = reached - lr * gradient
    distance = (reached - expert).square().sum() / (start - expert).square().sum()
    distance.backward()
    assert images.grad is not None
    assert lr.grad is not None
    return images.grad, lr.grad


def feature_labels(net: Net, images: Tensor, labels: Tensor) -> Privileged:
    """Whole features of the last block, as labels in every step."""
    form = make_form(ARCH, channels=3, size=SIZE, classes=CLASSES, layer=LAST, attention=None, pool="avg")
    with torch.no_grad():
        features = net.tap(images, form.layer)[0]
    return Privileged(labels=features, hard=labels, form=form, objective=Objective())


def peak_gflops() -> float:
    """Best of ten large products."""
    side = 1536
    one, other = torch.randn(side, side), torch.randn(side, side)
    times = []
    for _round in range(10):
        start = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times) / 1e9


def measure(mode: str, steps: int, batch: int, threads: int, part: int | None) -> None:
    """One run in this process: seconds, peak sgemm, megabytes above the start, norm of the gradient, CPU seconds."""
    torch.set_num_threads(threads)
    if mode != "reference":
        keep_freed_memory()
    source = torch.Generator().manual_seed(0)
    net = build(ARCH, channels=3, size=SIZE, classes=CLASSES, generator=source)
    start = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])
    expert = start + 0.01 * torch.randn(len(start), generator=source)
    images = torch.randn(batch, 3, SIZE, SIZE, generator=source)
    labels = torch.arange(batch) % CLASSES
    augmentation = build_augmentation("dsa")
    draws = [augmentation.draw(batch, SIZE, SIZE, source) for _step in range(steps)]
    if mode == "automatic":
        _unroll.fits = lambda _net: False  # type: ignore[attr-defined]

    def run(count: int) -> Tensor:
        if mode == "reference":
            return reference(net, images.clone(), labels, start, expert, torch.tensor(0.01), draws[:count])[0]
        unrolled = Unrolled(
            net=net,
            images=images,
            labels=labels,
            logits=None,
            start=start,
            waypoints=(Waypoint(count, expert),),
            lr=0.01,
            batches=(torch.arange(batch),) * count,
            draws=tuple(draws[:count]),
            microbatch=part,
            privileged=feature_labels(net, images, labels) if mode == "labels" else None,
        )
        return match(unrolled, "tesla" if mode == "tesla" else "adjoint").images

    peak, before = peak_gflops(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(1)
    begin, busy = time.perf_counter(), time.process_time()
    gradient = run(steps)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(seconds, peak, megabytes, float(gradient.norm()), busy)


def fresh(mode: str, steps: int, options: argparse.Namespace) -> tuple[float, ...]:
    """What `measure` prints, in a process of its own."""
    command = [sys.executable, __file__, "--measure", mode, "--steps", str(steps), "--batch", str(options.batch)]
    command += ["--threads", str(options.threads), *(["--part", str(options.part)] if options.part else [])]
    return tuple(map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


def report(mode: str, steps: int, batch: int, rows: list[tuple[float, ...]]) -> None:
    """Medians over rounds."""
    seconds, peak, megabytes, norm, busy = (statistics.median(column) for column in zip(*rows, strict=True))
    flops = forward_flops(ARCH, channels=3, size=SIZE, classes=CLASSES) * WORK[mode] * steps * batch
    rate = flops / seconds / 1e9
    print(
        f"{mode:10} {steps:3} steps: {seconds:6.1f} s ({busy:.1f} s of CPU), {rate:4.0f} GFLOP/s, "
        f"{rate / peak:4.0%} of {peak:.0f}, {megabytes:6.0f} MB, |dX| {norm:.6g}",
        flush=True,
    )


def compare(options: argparse.Namespace) -> None:
    """The reference and ours, one after the other in every round."""
    rounds = [
        (fresh("reference", options.steps, options), fresh("adjoint", options.steps, options))
        for _round in range(options.rounds)
    ]
    theirs, ours = [pair[0] for pair in rounds], [pair[1] for pair in rounds]
    report("reference", options.steps, options.batch, theirs)
    report("adjoint", options.steps, options.batch, ours)
    for name, column in (("time", 0), ("CPU time", 4), ("memory", 2)):
        ratios = sorted(their[column] / our[column] for their, our in rounds)
        print(f"reference / ours, {name}: {statistics.median(ratios):.2f} of", *(f"{ratio:.2f}" for ratio in ratios))
    if options.long:
        for mode, steps in (("automatic", 20), ("tesla", 20), ("labels", 20), ("adjoint", 10), ("adjoint", 50)):
            report(mode, steps, options.batch, [fresh(mode, steps, options)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=tuple(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", type=int, help="images per graph; the default is the package's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="more rows: minutes more")
    chosen = parser.parse_args()
    if chosen.measure:
        measure(chosen.measure, chosen.steps, chosen.batch, chosen.threads, chosen.part)
    else:
        compare(chosen)
