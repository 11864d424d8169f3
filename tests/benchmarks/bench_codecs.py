"""What codecs cost: bytes a view after zstd, divergence, and views a second, against the targets of the plan.

    python tests/benchmarks/bench_codecs.py                          # made-up labels of 1000 and 10 classes
    python tests/benchmarks/bench_codecs.py labels --data folder:DIR/cifar10 -o labels.pt
    python tests/benchmarks/bench_codecs.py rate labels.pt           # every codec on those

`labels` trains a small ConvNet for a few minutes and labels 5 x 5 windows of 10 images a class. Its 100 classes are a
split of CIFAR-10 (JPEG copy) into 10 clusters of colour a class: not CIFAR-100, but as many classes of that size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddlabel import _plugins
from ddlabel.codecs._choose import CANDIDATES, choose, stored_bytes
from ddlabel.codecs._codec import Codec, fidelity
from ddlabel.data._dataset import load
from ddlabel.labels.dense import KIND as DENSE
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import build as build_net
from ddlabel.options import build

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


def make_labels(data: str, path: str, train: int) -> None:
    """Train, label, save {epoch: logits (n, 25, 100)}."""
    dataset = load(data, validation=0.1)
    pixels, fine = dataset.train.pixels, clustered(dataset.train.pixels, dataset.train.labels)
    images = (pixels.float() - pixels.float().mean((0, 2, 3), keepdim=True)) / 64
    source = torch.Generator().manual_seed(1)
    order = torch.randperm(len(images), generator=source)[:train]
    net = build_net("convnet-d3-w32", channels=3, size=32, classes=100, generator=source)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    chosen = torch.cat([(fine == label).nonzero().flatten()[:IMAGES] for label in range(100)])
    dense, kept = DENSE(), {}
    for epoch in range(1, max(KEPT) + 1):
        start = time.perf_counter()
        net.train()
        for batch in order[torch.randperm(len(order), generator=source)].split(128):
            flip = torch.rand((), generator=source) < 0.5
            loss = nn.functional.cross_entropy(net(images[batch].flip(3) if flip else images[batch]), fine[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.inference_mode():
            answer = torch.cat([net(images[part]) for part in order[:2000].split(500)])
            share = float((answer.argmax(1) == fine[order[:2000]]).float().mean())
            if epoch in KEPT:
                views = [_windows(dense, images[part]) for part in chosen.split(50)]
                kept[epoch] = torch.stack([torch.cat([net(w[:, v]) for w in views]) for v in range(25)], dim=1).clone()
        print(
            f"epoch {epoch}: loss {float(loss):.2f}, {share:.0%} right, {time.perf_counter() - start:.0f} s", flush=True
        )
    torch.save(kept, path)


def _windows(dense: DENSE, images: Tensor) -> Tensor:
    """(b, 25, c, h, w)."""
    image = torch.arange(len(images)).repeat_interleave(25)
    view = torch.arange(25).repeat(len(images))
    if hasattr(dense, "views"):
        return dense.views(images)
    return dense.view(images, image, view).unflatten(0, (len(images), 25))


def made_up(images: int, views: int, classes: int, spread: float = 3.0) -> Tensor:
    """Logits that views of an image share half of."""
    source = torch.Generator().manual_seed(0)
    shared = torch.randn(images, 1, classes, generator=source)
    return (shared + torch.randn(images, views, classes, generator=source)) * spread / 2**0.5


def measure(values: Tensor, name: str, options: dict[str, object]) -> dict[str, float]:
    """Stored bytes a view, divergence, views a second each way, best of three."""
    codec: Codec = build(_plugins.load("codecs", name, "CODEC"), options)
    images, views, classes = values.shape
    encode, decode = [], []
    for _round in range(3):
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
        "encode": count / min(encode),
        "decode": count / min(decode),
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
    parser.add_argument("--train", type=int, default=12_000, help="images the labelling net learns from")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", dest="output")
    chosen = parser.parse_args()
    if chosen.mode == "labels":
        make_labels(chosen.data, chosen.output, chosen.train)
    elif chosen.mode == "rate":
        rate(chosen.file)
    else:
        speed(chosen.threads)
