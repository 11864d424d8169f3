"""How much memory a step of a matching method takes, counted on the meta device, where nothing is computed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ..nets._net import Net
from ._method import Problem
from ._real import largest_map, net_on_meta

__all__ = [
    "embedding_bytes",
    "first_order_bytes",
    "logit_bytes",
    "map_bytes",
    "net_bytes",
    "real_bytes",
    "saved_bytes",
    "second_order_bytes",
    "set_bytes",
]


def map_bytes(problem: Problem) -> int:
    """Bytes of the three largest maps of one image, which a pass without a graph holds at a time."""
    return 3 * 4 * largest_map(problem)


def embedding_bytes(problem: Problem) -> int:
    """Bytes per image that the graph of an embedding holds for a backward pass by the image."""
    net = net_on_meta(problem).requires_grad_(False)
    with saved_bytes(net) as seen:
        net.embed(_image(problem).requires_grad_(True))
    return sum(seen.values())


def logit_bytes(net: Net, problem: Problem) -> int:
    """Bytes per image that the graph of a net's logits holds for a backward pass by the image."""
    twin = copy.deepcopy(net).to("meta").requires_grad_(False)
    with saved_bytes(twin) as seen:
        twin(_image(problem).requires_grad_(True))
    return sum(seen.values())


def first_order_bytes(problem: Problem) -> int:
    """Bytes per image that the graph of a loss holds for a backward pass by the parameters."""
    net = net_on_meta(problem)
    with saved_bytes(net) as seen:
        functional.cross_entropy(net(_image(problem)), torch.zeros(1, dtype=torch.int64, device="meta"))
    return sum(seen.values())


def second_order_bytes(problem: Problem) -> int:
    """Bytes per image that the graph of a gradient holds for a backward pass by the image."""
    net = net_on_meta(problem)
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    with saved_bytes(net) as seen:
        image = _image(problem).requires_grad_(True)
        loss = functional.cross_entropy(net(image), torch.zeros(1, dtype=torch.int64, device="meta"))
        torch.autograd.grad(loss, weights, create_graph=True)
    return sum(seen.values())


def set_bytes(problem: Problem) -> int:
    """Bytes of the distilled images, their momentum, their gradient, and the next images and momentum."""
    return 5 * 4 * len(problem.classes) * problem.ipc * problem.pixels[0].numel()


def real_bytes(problem: Problem, batch: int) -> int:
    """Bytes of a real batch and of its augmented copy."""
    return 2 * 4 * min(batch, len(problem.labels)) * problem.pixels[0].numel()


def net_bytes(problem: Problem, copies: int) -> int:
    """Bytes of a net and of as many vectors as long as its parameters."""
    return (1 + copies) * 4 * sum(parameter.numel() for parameter in net_on_meta(problem).parameters())


def _image(problem: Problem) -> Tensor:
    return torch.empty(1, *problem.pixels.shape[1:], device="meta")


@contextlib.contextmanager
def saved_bytes(net: Net) -> Iterator[dict[int, int]]:
    """Bytes of what graphs save, by storage, without the net's own parameters; the tensors are kept alive."""
    seen: dict[int, int] = {}
    kept: list[Tensor] = []
    parameters = {parameter.untyped_storage()._cdata for parameter in net.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            seen[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen
