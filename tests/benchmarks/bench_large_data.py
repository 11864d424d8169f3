"""Peak memory and seconds of data sets that stay on disk, at two sizes, each step in a fresh process.

Run `python tests/benchmarks/bench_large_data.py [FOLDER] [IMAGES] [SIDE] [tar]`. It writes IMAGES (20,000) training
pictures of SIDE (64) pixels and four times as many, in ten classes, decodes them, loads them again from the cache, and
lets a net see every training image once. Peak memory is that of the whole process, torch included; what is said of the
library alone is the peak of a process that only imports it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
VARIANTS = 500
"""Different pictures; the others are copies with a byte of their own after the end of the picture."""
STEPS = {
    "import": "",
    "decode": "dataset = load(spec)",
    "load": "dataset = load(spec)",
    "score": """
from ddlabel.nets._net import build
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.training import predict
dataset = load(spec)
info = dataset.info
space = Space(kind="normalised", mean=info.mean, std=info.std, zca=None)
net = build("convnet-d2-w8", channels=info.channels, size=info.height, classes=10, generator=generator(0))
predict(net, dataset.train.pixels, space=space)
""",
}
MEASURE = """
import resource, sys, time
import torch
from ddlabel.data._dataset import load
from ddlabel.memory import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
spec, started = sys.argv[1], time.perf_counter()
{step}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, time.perf_counter() - started)
"""


def write(folder: Path, count: int, side: int) -> None:
    """Training pictures as small JPEG files of noise, and a tenth as many for testing."""
    source = np.random.Generator(np.random.PCG64(0))
    scratch = folder / "one.jpg"
    folder.mkdir(parents=True)
    pictures = []
    for _number in range(VARIANTS):
        small = source.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(small).resize((side, side)).save(scratch)
        pictures.append(scratch.read_bytes())
    scratch.unlink()
    for split, images in (("train", count), ("test", count // 10)):
        for number in range(images):
            place = folder / split / f"class{number % CLASSES}"
            if number < CLASSES:
                place.mkdir(parents=True)
            (place / f"{number:07d}.jpg").write_bytes(pictures[number % VARIANTS] + bytes([number % 251]))


def pack(folder: Path) -> Path:
    """The folder as one tar file, in its place."""
    target = folder.with_suffix(".tar")
    with tarfile.open(target, "w") as archive:
        archive.add(folder, ".")
    shutil.rmtree(folder)
    return target


def measure(step: str, data: Path, cache: Path) -> tuple[float, float]:
    """Peak MiB and seconds of one process."""
    environment = {**os.environ, "DDLABEL_CACHE_DIR": str(cache), "DDLABEL_IN_MEMORY_BYTES": "0"}
    command = [sys.executable, "-c", MEASURE.format(step=STEPS[step]), f"folder:{data}"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    peak, seconds = map(float, printed.split())
    return peak, seconds


def main(folder: Path, count: int, side: int, *, tar: bool) -> None:
    """Print a table."""
    print(f"{'images':>8} {'pixels, MiB':>12} {'step':>8} {'peak, MiB':>10} {'seconds':>8}")
    for images in (count, 4 * count):
        data, cache = folder / f"set{images}", folder / f"cache{images}"
        write(data, images, side)
        data = pack(data) if tar else data
        size = (images + images // 10) * 3 * side * side / 2**20
        for step in STEPS:
            peak, seconds = measure(step, data, cache)
            print(f"{images:8,} {size:12.0f} {step:>8} {peak:10.0f} {seconds:8.1f}", flush=True)
        (data.unlink if tar else lambda path=data: shutil.rmtree(path))()
        shutil.rmtree(cache)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "tar"]
    with tempfile.TemporaryDirectory(dir=given[0] if given else None) as scratch:
        started = time.perf_counter()
        count, side = int(given[1]) if len(given) > 1 else 20_000, int(given[2]) if len(given) > 2 else 64
        main(Path(scratch), count, side, tar="tar" in sys.argv)
        print(f"{time.perf_counter() - started:.0f} s in all")
