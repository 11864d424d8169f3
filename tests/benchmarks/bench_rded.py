"""RDED's scoring of crops against the published loop, written out here: same machine, same crops, in turns.

Run `python tests/benchmarks/bench_rded.py [threads] [case...]`. The reference cuts the crops of one image at a time,
holds those of the whole pool as floats, takes all images of the pool at once through the net, crop by crop, with
rectifiers that overwrite their input as the published nets have them, and uses the C library's allocator as it is.
Both get the same crops. Prints median images per second of each, their ratio (of CPU seconds too, which a busy machine
changes less), the largest difference of scores, and peak MB at two sizes of the data set.
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

from ddlabel.distill._method import Problem
from ddlabel.distill._mosaic import centred
from ddlabel.distill._scoring import Scorer, _InPlace
from ddlabel.distill.rded import Rded
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import Net, build, calibrate_norms
from ddlabel.seeding import generator
from ddlabel.space import Space

ROUNDS = 5
CROPS = 5
CASES = {
    "convnet32": ("convnet-d3-w128-batch", 32, 300),
    "resnet32": ("resnet18-batch", 32, 100),
    "convnet128": ("convnet-d5-w128-batch", 128, 24),
    "convnet224": ("convnet-d5-w64-batch", 224, 12),
    "resnet224": ("resnet18-batch", 224, 12),
}
"""Net, side in pixels, images in the pool."""


def make_problem(case: str, copies: int) -> Problem:
    """One class of `copies` times the pool's images, which are noise."""
    arch, side, pool = CASES[case]
    source = generator(0, "bench")
    net = build(arch, channels=3, size=side, classes=10, generator=source)
    calibrate_norms(net, torch.randn(8, 3, side, side, generator=source))
    count = pool * copies
    return Problem(
        pixels=torch.randint(0, 256, (count, 3, side, side), generator=source, dtype=torch.uint8),
        labels=torch.zeros(count, dtype=torch.int64),
        classes=("only",),
        space=Space("normalised", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ipc=1,
        arch=arch,
        flip=True,
        teacher=None,
        device=torch.device("cpu"),
        seed=0,
        backbones=(net.eval().requires_grad_(False),),
    )


def method_of(case: str) -> Rded:
    """The method of a case."""
    return Rded(crops=CROPS, pool=CASES[case][2])


def reference(problem: Problem, method: Rded) -> Tensor:
    """Best loss of each image of the pool (m,): the published loop over images, then over crops."""
    net: Net = problem.backbones[0]
    side = problem.pixels.shape[-1]
    small = side // method.factor_of(problem)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (problem.space.mean, problem.space.std))
    loaded = []
    for crops in torch.cat(list(method._drawn(problem, 0, 16))):
        image = problem.pixels[crops[0, 0]].float() / 255
        patches = []
        for _image, top, left, wide in crops.tolist():
            patch = functional.interpolate(
                image[None, :, top : top + wide, left : left + wide],
                (small, small),
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )[0]
            patches.append((patch - mean) / std)
        loaded.append(torch.stack(patches))
    images = torch.stack(loaded)
    target = torch.zeros(len(images), dtype=torch.int64)
    with torch.no_grad(), _InPlace():
        losses = [
            functional.cross_entropy(net(centred(images[:, crop], side)), target, reduction="none")
            for crop in range(CROPS)
        ]
    return torch.stack(losses).min(dim=0).values


def ours(problem: Problem, method: Rded) -> Tensor:
    """The same as shipped, the folding of the net included."""
    return method._pool(problem, 0, Scorer(problem.backbones, problem.pixels.shape[1:]))[1]


def measure(side: str, case: str, threads: int, copies: int) -> None:
    """In a process of its own: images per second and per CPU second, and peak MB above what stood before it."""
    torch.set_num_threads(threads)
    problem, method = make_problem(case, copies), method_of(case)
    if side == "ours":
        keep_freed_memory()
    function = ours if side == "ours" else reference
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function(problem, method)
    start, cpu_start = time.perf_counter(), time.process_time()
    losses = function(problem, method)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    other = reference(problem, method) if side == "ours" and copies == 1 else losses
    print(len(losses) / seconds, len(losses) / cpu, peak / 1024, float((other - losses).abs().max()))


def fresh(side: str, case: str, threads: int, copies: int = 1) -> tuple[float, ...]:
    """The numbers of `measure`, from a new process."""
    command = [sys.executable, __file__, "measure", side, case, str(threads), str(copies)]
    return tuple(map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


def main(threads: int, cases: list[str]) -> None:
    """Each case in turns."""
    for case in cases:
        arch, side, pool = CASES[case]
        print(f"{arch}, {side} px, {pool} images of {CROPS} crops, {threads} threads")
        pairs = [(fresh("reference", case, threads), fresh("ours", case, threads)) for _round in range(ROUNDS)]
        for name, column in zip(("reference", "ours"), zip(*pairs, strict=True), strict=True):
            rate, cpu, megabytes, _off = (statistics.median(each) for each in zip(*column, strict=True))
            print(f"  {name:9} {rate:7.1f} images/s, {cpu:7.1f} per s of CPU, {megabytes:6.0f} MB")
        for what, index in (("images/s", 0), ("images per s of CPU", 1)):
            ratios = [mine[index] / theirs[index] for theirs, mine in pairs]
            spread = f"least {min(ratios):.2f}, most {max(ratios):.2f}"
            print(f"  ratio of {what} {statistics.median(ratios):.2f} ({spread})")
        print(f"  scores differ by {max(mine[3] for _theirs, mine in pairs):.1e} at most", end="; ")
        print(f"ours with 10 times the images: {fresh('ours', case, threads, 10)[2]:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2, sys.argv[2:] or list(CASES))
