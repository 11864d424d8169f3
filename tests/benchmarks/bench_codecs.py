"""What codecs cost: bytes a view after zstd, divergence, and views a second, against the targets of the plan.

    python tests/benchmarks/bench_codecs.py                          # made-up labels of 1000 and 10 classes
    python tests/benchmarks/bench_codecs.py labels --data folder:DIR/cifar10 -o labels.pt
    python tests/benchmarks/bench_codecs.py rate labels.pt           # every codec on those

`labels` trains LADD's labeler for a few minutes and labels 5 x 5 windows of 10 images a class. Its 100 classes are a
split of CIFAR-10 (JPEG copy) into 10 clusters of colour a class: not CIFAR-100, but as many classes of that size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ddlabel import _plugins
from ddlabel.codecs._choose import CANDIDATES, choose, stored_bytes
from ddlabel.codecs._codec import Codec, fidelity
from ddlabel.config import AugmentLabelsConfig, DistillConfig, TrainTeacherConfig
from ddlabel.data._dataset import load
from ddlabel.labels._labels import read_labels
from ddlabel.memory import keep_freed_memory
from ddlabel.options import build
from ddlabel.stages import augment_labels, distill, train_teacher

CLUSTERS, IMAGES, ROUNDS = 10, 10, 20
KEPT = (2, 5, 10)
"""Epochs whose net labels: divergence at a given size depends on how sure it is."""


def clustered(pixels: Tensor, labels: Tensor) -> Tensor:
    """Class of 100 for each image: 10 clusters of 4 x 4 mean colours in each of 10 classes."""
    colours = nn.functional.adaptive_avg_pool2d(pixels.float(), 4).flatten(1)
    fine = torch.empty_like(labels)
    source = torch.Generator().manual_seed(0)
    for label in range(int(labels.max()) + 1):
        own = colours[labels == label]
        centres = own[torch.randperm(len(own), generator=source)[:CLUSTERS]]
        for _round in range(ROUNDS):
            nearest = torch.cdist(own, centres).argmin(dim=1)
            centres = torch.stack([own[nearest == index].mean(dim=0) for index in range(CLUSTERS)])
        fine[labels == label] = label * CLUSTERS + torch.cdist(own, centres).argmin(dim=1)
    return fine


def make_labels(data: str, path: str) -> None:
    """Train LADD's labeler on the 100 classes, label 5 x 5 windows of random images, save {epoch: (n, 25, 100)}."""
    dataset = load(data, validation=0.0)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {}
        for name, split in (("train", dataset.train), ("test", dataset.test)):
            arrays[f"{name}_images"] = split.pixels.permute(0, 2, 3, 1).numpy()
            arrays[f"{name}_labels"] = clustered(split.pixels, split.labels).numpy()
        np.savez(f"{folder}/clusters.npz", **arrays)
        spec = f"npz:{folder}/clusters.npz"
        print("training LADD's labeler: SGD 0.01 without momentum, batch 256, DSA", flush=True)
        teacher = train_teacher.run(
            TrainTeacherConfig(data=spec, arch="convnet-d3-w32", epochs=max(KEPT), keep=KEPT),
            on_event=lambda event: print(event.message, flush=True) if event.message else None,
        )
        base = distill.run(DistillConfig(data=spec, method="random", ipc=IMAGES))
        kept = {}
        for epoch in KEPT:
            config = AugmentLabelsConfig(kind="dense", checkpoint=str(epoch))
            labelled = augment_labels.run(base, config, teachers=[teacher])
            kept[epoch] = read_labels(labelled, "dense").values.clone()
    torch.save(kept, path)


def made_up(images: int, views: int, classes: int, spread: float = 3.0) -> Tensor:
    """Logits that views of an image share half of."""
    source = torch.Generator().manual_seed(0)
    shared = torch.randn(images, 1, classes, generator=source)
    return (shared + torch.randn(images, views, classes, generator=source)) * spread / 2**0.5


def measure(values: Tensor, name: str, options: dict[str, object]) -> dict[str, float]:
    """Stored bytes a view, divergence, views a second each way, medians of seven."""
    codec: Codec = build(_plugins.load("codecs", name, "CODEC"), options)
    images, views, classes = values.shape
    encode, decode = [], []
    for _round in range(7):
        start = time.perf_counter()
        parts = codec.encode(values)
        middle = time.perf_counter()
        decoded = codec.decode(parts, (images, views, classes))
        encode.append(middle - start)
        decode.append(time.perf_counter() - middle)
    count = images * views
    return {
        "raw": sum(part.nbytes for part in parts.values()) / count,
        "stored": stored_bytes(parts.values()) / count,
        "encode": count / statistics.median(encode),
        "decode": count / statistics.median(decode),
        **fidelity(values, decoded, "logit"),
    }


def table(values: Tensor, rows: Sequence[tuple[str, dict[str, object]]]) -> None:
    """One line a codec."""
    classes = values.shape[-1]
    heads = ("bytes/view", "of f32", "KL T=1", "KL T=20", "agree", "enc/s", "dec/s")
    print(
        f"{'codec':44} " + " ".join(f"{head:>{wide}}" for head, wide in zip(heads, (10, 7, 8, 8, 6, 9, 9), strict=True))
    )
    for name, options in rows:
        seen = measure(values, name, options)
        label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        print(
            f"{label:44} {seen['stored']:10.2f} {seen['stored'] / (4 * classes):7.2%} {seen['kl_t1']:8.4f} "
            f"{seen['kl_t20']:8.5f} {seen['top1_agreement']:6.1%} {seen['encode']:9,.0f} {seen['decode']:9,.0f}"
        )


def speed(threads: int) -> None:
    """The three settings with a target."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    print(f"1000 classes, 40,000 views, {threads} threads; target: MR-50 in 60 bytes (LPQLD: 210), 200,000 views/s to")
    print("encode, 500,000 views/s to decode")
    kept = ({"k": 50, "bits": 3}, {"k": 50}, {"k": 10, "bits": 3}, {"k": 100, "bits": 3})
    table(made_up(1000, 40, 1000), [("f16", {}), ("q8", {}), ("q4", {}), *(("topk-mr", dict(one)) for one in kept),
                                    ("topk-ms", {"k": 50, "bits": 3}), ("topk-min", {"k": 50, "bits": 3})])  # fmt: skip
    print("10 classes, 25 views of 2,000 images; target: 6.88 bytes a view")
    names = ("f32", "f16", "q8", "q6", "q4", "q3", "q4-shared", "delta-view", "lowrank", "root")
    table(made_up(2000, 25, 10, 4.0), [(name, {}) for name in names])


def rate(path: str) -> None:
    """Every candidate on labels of a net; target: 12 bytes a view within 0.01 nat."""
    for epoch, values in torch.load(path, weights_only=True).items():
        print(f"100-cluster split of CIFAR-10 (JPEG copy), epoch {epoch}, {tuple(values.shape)}; target: 12 bytes")
        table(values, [(name, dict(options)) for name, options in CANDIDATES])
        for bound in (0.01, 0.03, 0.1):
            logit, logprob = choose(values, "logit", bound), choose(values, "logprob", bound)
            print(f"auto within {bound:g}: {logit.codec} for logits, {logprob.codec} for log-probabilities")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", nargs="?", default="speed", choices=("speed", "labels", "rate"))
    parser.add_argument("file", nargs="?", help="labels, for rate")
    parser.add_argument("--data", help="data set that labels are made from")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", dest="output")
    chosen = parser.parse_args()
    if chosen.mode == "labels":
        make_labels(chosen.data, chosen.output)
    elif chosen.mode == "rate":
        rate(chosen.file)
    else:
        speed(chosen.threads)
