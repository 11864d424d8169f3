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

import torch
from torch import Tensor, nn

from ddlabel.data._dataset import load
from ddlabel.labels.dense import KIND as DENSE
from ddlabel.nets._net import build as build_net

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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", nargs="?", default="speed")
    parser.add_argument("file", nargs="?")
    parser.add_argument("--data")
    parser.add_argument("--train", type=int, default=12_000)
    parser.add_argument("-o", dest="output")
    chosen = parser.parse_args()
    if chosen.mode == "labels":
        make_labels(chosen.data, chosen.output, chosen.train)
