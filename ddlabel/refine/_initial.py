"""The nets that first labels come from: one epoch on all real images each, and their place in a learner's state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .. import _plugins
from ..augment._augment import build as build_augmentation
from ..distill._method import Problem, State
from ..distill._real import random_net
from ..nets._net import Net
from ..privileged._form import Form
from ..schedules import Recipe
from ..training import encoder, minibatches, train

__all__ = ["ONE_EPOCH", "features_of", "labels_of_nets", "net_in", "nets_as_state"]

ONE_EPOCH = Recipe(optimizer="sgd", lr=0.01, momentum=0.0, weight_decay=0.0, epochs=1, batch=256, augment="none")
"""As published: plain SGD without augmentation."""


def labels_of_nets(problem: Problem, count: int, generator: Generator) -> list[Net]:
    """New nets after one epoch on all real images, in eval mode: about 36 % on CIFAR-10.

    Args:
        problem: the real data.
        count: K.
        generator: the nets' parameters; the order of images has streams of its own.
    """
    encode = encoder(problem.pixels, problem.space, problem.device)
    batches = minibatches(
        problem.pixels,
        problem.labels,
        batch=ONE_EPOCH.batch,
        space=problem.space,
        device=problem.device,
        encode=encode,
    )
    loss = _plugins.load("losses", "ce", "LOSS")()
    augmentation = build_augmentation(ONE_EPOCH.augment, flip=problem.flip)
    return [
        train(
            random_net(problem, generator),
            batches,
            ONE_EPOCH,
            loss,
            augmentation,
            seed=problem.seed,
            seed_path=("refine", "one-epoch", index),
        )
        for index in range(count)
    ]


def features_of(net: Net, images: Tensor, form: Form) -> Tensor:
    """What a net gives for images (n, c, h, w), reduced to labels (n, *shape), in eval mode and without a graph."""
    device, mode = next(net.parameters()).device, net.training
    net.eval()
    with torch.no_grad():
        found = [form.reduce(net.tap(part.to(device), form.layer)[0]) for part in images.split(256)]
    net.train(mode)
    return torch.cat(found)


def nets_as_state(nets: Sequence[Net]) -> State:
    """Parameters and buffers of nets as entries `net<k>.<name>`, copies."""
    return {
        f"net{index}.{name}": tensor.detach().clone()
        for index, net in enumerate(nets)
        for name, tensor in net.state_dict().items()
    }


def net_in(state: State, index: int, net: Net) -> Net:
    """The net that `nets_as_state` stored, in `net`, frozen and in eval mode."""
    prefix = f"net{index}."
    net.load_state_dict({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    return net.eval().requires_grad_(False)
