"""First and second derivatives of a ConvNet's training loss by hand: values and tangents forward, one pass back.

<d, gradient of the loss> is the derivative of the loss along d. So its own gradient is an ordinary reverse pass over a
forward pass that carries a tangent beside every value (Pearlmutter, Neural Computation 6(1), 1994): plain convolutions,
no graph, and one product per weight less than differentiating the backward pass.

It takes ConvNets with instance, group or batch norm, ReLU, and average or no pooling. Given the mask of the ReLU, all
that follows the norm is linear, so the norm's scale and shift are applied after the pooling, on a quarter of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, autograd, nn
from torch.nn.functional import avg_pool2d, conv2d, fold, interpolate, linear

from ..nets._net import Net
from ..nets.convnet import ConvNet

__all__ = ["Kept", "fits", "gradient", "layout", "pull"]

aten: Any = torch.ops.aten
Loss = Callable[[Tensor, Tensor | None], Tensor]
FEW_CHANNELS = 8
"""Up to so many input channels a convolution is transposed as a matrix product: 0.1 in place of 0.27 ms an image."""


def fits(net: Net) -> bool:
    """Whether this module can differentiate the net."""
    return isinstance(net, ConvNet) and all(
        block.activation == "relu"
        and block.pooling in {"avg", "nopool"}
        and isinstance(block.norm, nn.GroupNorm | nn.BatchNorm2d)
        for block in net.blocks
    )


def gradient(net: Net, own: Sequence[Tensor], images: Tensor, loss: Loss, *, layer: int | None = None) -> list[Tensor]:
    """Gradients in the parameters of `loss` of the (b, k) logits and, given a layer, of that block's maps.

    Args:
        net: one that `fits`; its own parameters are not used.
        own: the parameters, in the order of `named_parameters()`.
        images: (b, c, h, w), augmented.
        loss: of the logits and of the maps, or None.
        layer: the block, from 1, whose maps after pooling the loss sees.
    """
    return Kept(net, own, images).gradient(loss, layer)


class Kept:
    """A forward pass whose values are kept, so that gradients and tangents of it can be taken one after the other.

    Args:
        net, own, images: as for `gradient`; batch norm takes the statistics of these images.
    """

    def __init__(self, net: Net, own: Sequence[Tensor], images: Tensor) -> None:
        self.own = own
        self.blocks, self.flows = _forward(net, own, None, images)

    def gradient(self, loss: Loss, layer: int | None) -> list[Tensor]:
        """As `gradient`."""
        leaves = [_leaf(tensor) for tensor in (self.flows[-1][0].flatten(1), *self.own[-2:])]
        tapped = [] if layer is None else [_leaf(self.flows[layer - 1][0])]
        x, *found = autograd.grad(loss(linear(*leaves), tapped[0] if tapped else None), [*leaves, *tapped])
        found, more = found[:2], found[2:]
        for index, block in reversed(list(enumerate(self.blocks, start=1))):
            x = _joined(x, more[0]) if index == layer else x
            x, _none, pulled = block.backward(x, None, inputs=index > 1, curvature=True)
            found = [*pulled, *found]
        return found

    def tangent(self, along: Sequence[Tensor], layer: int) -> tuple[Tensor, Tensor]:
        """What block `layer`, from 1, gives, and its derivative along `along`, which is like `own`."""
        moved = None
        for index, block in enumerate(self.blocks[:layer]):
            moved = block.push(moved, along[4 * index : 4 * index + 4])
        if moved is None:
            raise ValueError("blocks count from 1")
        return self.flows[layer - 1][0], moved


def pull(
    net: Net,
    own: Sequence[Tensor],
    along: Sequence[Tensor],
    images: Tensor,
    loss: Loss,
    others: Sequence[Tensor],
    *,
    curvature: bool,
    layer: int | None = None,
) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    """The derivative of the loss along `along`, and its gradients.

    Args:
        net, own, images, loss, layer: as for `gradient`.
        along: like `own`.
        others: leaves that the loss depends on beside logits and maps.
        curvature: whether gradients in the parameters are wanted.

    Returns:
        The derivative, and its gradients in parameters (none without `curvature`), images and others.
    """
    blocks, flows = _forward(net, own, along, images)
    leaves = [_leaf(tensor) for tensor in (*(flow.flatten(1) for flow in flows[-1]), *own[-2:])]
    x, moved, weight, bias = leaves
    tapped = [] if layer is None else [_leaf(flow) for flow in flows[layer - 1]]
    logits = linear(x, weight, bias)
    seen = [logits, *tapped[:1]]
    push = autograd.grad(loss(*seen), seen, create_graph=True)
    slope = (push[0] * (linear(moved, weight) + linear(x, *along[-2:]))).sum()
    if tapped:
        slope = slope + (push[1] * tapped[1]).sum()
    x, moved, *found = autograd.grad(slope, [*leaves, *tapped, *others])
    found, more, rest = found[:2], found[2 : 2 + len(tapped)], found[2 + len(tapped) :]
    for index, block in reversed(list(enumerate(blocks, start=1))):
        if index == layer:
            x, moved = _joined(x, more[0]), _joined(moved, more[1])
        x, moved, pulled = block.backward(x, moved, inputs=True, curvature=curvature)
        found = [*pulled, *found]
    return slope.detach(), found if curvature else [], x, rest


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(True)


def _joined(flat: Tensor, maps: Tensor) -> Tensor:
    """The sum of what comes back from the rest of the net, maybe flattened, and from the tap."""
    return flat.reshape(maps.shape) + maps


def layout(images: Tensor) -> torch.memory_format:
    """Channels last on the CPU, where pooling is ten times faster so."""
    return torch.channels_last if images.device.type == "cpu" else torch.contiguous_format


def _forward(
    net: Net, own: Sequence[Tensor], along: Sequence[Tensor] | None, images: Tensor
) -> tuple[list[_Block], list[list[Tensor]]]:
    """The blocks, and of each what it gave and, with `along`, the tangent of that."""
    flows = [[images.contiguous(memory_format=layout(images))]]
    blocks: list[_Block] = []
    modules: Any = net.get_submodule("blocks")
    for index, module in enumerate(modules):
        four = slice(4 * index, 4 * index + 4)
        block, before = _Block(module, own[four]), flows[-1]
        flow = [block.forward(before[0])]
        if along is not None:
            flow.append(block.push(before[1] if index else None, along[four]))
        blocks.append(block)
        flows.append(flow)
    return blocks, flows[1:]


class _Block:
    """Convolution, norm, ReLU and pooling; keeps what its pass back needs.

    With y the convolution, r its inverse deviation, z = r (y - mean y), m the mask of the ReLU and A the pooling, the
    output is scale A(m z) + shift A(m). `_dot` is a tangent, `_bar` a cotangent; statistics are (b or 1, c, 1, 1).
    """

    def __init__(self, module: Any, own: Sequence[Tensor]) -> None:
        self.norm, self.pooled = module.norm, module.pooling == "avg"
        self.kernel, self.padding = module.conv.kernel_size, module.conv.padding
        self.weight, self.bias = own[0], own[1]
        self.scale, self.shift = (vector.reshape(1, -1, 1, 1) for vector in own[2:])

    def forward(self, x: Tensor) -> Tensor:
        """The output."""
        z = conv2d(x, self.weight, self.bias, padding=self.padding)
        z -= self._spread(_mean(z))
        r = (self._spread(_mean(z.square())) + self.norm.eps).rsqrt()
        z *= r
        m = torch.addcmul(self.shift, z, self.scale).gt_(0)
        am, az = self._pool(m), self._pool(m * z)
        self.x, self.z, self.r, self.m, self.am, self.az = x, z, r, m, am, az
        return self.scale * az + self.shift * am

    def push(self, x_dot: Tensor | None, along: Sequence[Tensor]) -> Tensor:
        """The output's tangent, of those of the input (None: it stays) and of the parameters; after `forward`."""
        self.x_dot, self.weight_dot = x_dot, along[0]
        self.scale_dot, self.shift_dot = (vector.reshape(1, -1, 1, 1) for vector in along[2:])
        y_dot = conv2d(self.x, self.weight_dot, along[1], padding=self.padding)
        if x_dot is not None:
            y_dot += conv2d(x_dot, self.weight, padding=self.padding)
        # z_dot = r (y_dot - level - lean z)
        level, lean = self._spread(_mean(y_dot)), self._spread(_mean(y_dot * self.z))
        az_dot = self.r * (self._pool(self.m * y_dot) - level * self.am - lean * self.az)
        self.y_dot, self.level, self.lean, self.az_dot = y_dot, level, lean, az_dot
        out: Tensor = self.scale_dot * self.az + self.scale * az_dot + self.shift_dot * self.am
        return out

    def backward(self, a: Tensor, b: Tensor | None, *, inputs: bool, curvature: bool) -> tuple[Any, Any, list[Tensor]]:
        """Cotangents of input, input tangent and own parameters, from those of the output and of its tangent.

        The norm's Jacobian J = r (1 - <1, .> - z <z, .>) is symmetric, and the cotangent c of z_dot = J y_dot gives y
        -r (<c, z_dot> z + <z, y_dot> J c + <c, z> z_dot), where <., .> is the mean over values that share a deviation.
        """
        a = a.reshape(self.am.shape)
        r, scale = self.r, self.scale
        a1, az, y_dot_bar = self._inner(a, self.am), self._inner(a, self.az), None
        if b is None:
            y_bar = self._unpool(r * scale * a, -r * self._spread(scale * az), -r * self._spread(scale * a1))
        else:
            b = b.reshape(self.am.shape)
            b1, bz = self._inner(b, self.am), self._inner(b, self.az)
            az = az + self._inner(b, self.az_dot)
            c1, cz = self._spread(scale * b1), self._spread(scale * bz)
            h1 = self._spread(scale * a1 + self.scale_dot * b1)
            hz = self._spread(scale * az + self.scale_dot * bz)
            y_dot_bar = self._unpool(r * scale * b, -r * cz, -r * c1)
            turn = r * self.lean
            y_bar = self._unpool(
                r * (scale * a + (self.scale_dot - turn * scale) * b),
                r * (2 * turn * cz - hz),
                r * (r * cz * self.level + turn * c1 - h1),
            ).addcmul_(self.y_dot, -r * r * cz)
        x_bar, x_dot_bar, weight_bar = self._convolve_back(y_bar, y_dot_bar, inputs, curvature)
        if weight_bar is None:
            return x_bar, x_dot_bar, []
        size = self.z.shape[2] * self.z.shape[3]
        return x_bar, x_dot_bar, [weight_bar, y_bar.sum((0, 2, 3)), az.sum(0) * size, a1.sum(0) * size]

    def _convolve_back(self, y: Tensor, y_dot: Tensor | None, inputs: bool, curvature: bool) -> list[Any]:
        """Cotangents of input, input tangent and weight, from those of the convolution and its tangent."""
        if y_dot is None:
            x, weight = self._transpose(y, self.x, self.weight, inputs, curvature)
            return [x, None, weight]
        if self.x_dot is None and self.x.shape[1] <= FEW_CHANNELS:
            _none, weight = self._transpose(y, self.x, self.weight, False, curvature)
            columns = self.weight.flatten(1).mT @ y.flatten(2) + self.weight_dot.flatten(1).mT @ y_dot.flatten(2)
            return [fold(columns, self.x.shape[2:], self.kernel, padding=self.padding), None, weight]
        x, weight = self._transpose(y, self.x, self.weight, True, curvature)
        x += self._transpose(y_dot, self.x, self.weight_dot, True, False)[0]
        if self.x_dot is None:
            return [x, None, weight]
        x_dot, more = self._transpose(y_dot, self.x_dot, self.weight, True, curvature)
        return [x, x_dot, weight + more if curvature else None]

    def _transpose(self, y: Tensor, x: Tensor, weight: Tensor, to_x: bool, to_weight: bool) -> list[Any]:
        wanted = [to_x, to_weight, False]
        if not any(wanted):
            return [None, None]
        found = aten.convolution_backward(y, x, weight, None, [1, 1], self.padding, [1, 1], False, [0, 0], 1, wanted)
        return list(found[:2])

    def _spread(self, mean: Tensor) -> Tensor:
        """From the mean of every map (b, c, 1, 1) to the mean of all values that share a deviation."""
        if isinstance(self.norm, nn.BatchNorm2d):
            return mean.mean(0, keepdim=True)
        groups, channels = self.norm.num_groups, self.norm.num_channels
        if groups == channels:
            return mean
        grouped = mean.reshape(len(mean), groups, -1).mean(2, keepdim=True)
        return grouped.expand(-1, -1, channels // groups).reshape(mean.shape)

    def _inner(self, p: Tensor, q: Tensor) -> Tensor:
        """(b, c, 1, 1) products of pooled maps, as means over the values before the pooling."""
        return (p * q).sum((2, 3), keepdim=True) / (self.z.shape[2] * self.z.shape[3])

    def _pool(self, full: Tensor) -> Tensor:
        return avg_pool2d(full, 2) if self.pooled else full

    def _unpool(self, pooled: Tensor, by_z: Tensor, constant: Tensor) -> Tensor:
        """m A^T(pooled) + by_z z + constant, written over `pooled` if it is not pooled at all."""
        full = pooled
        if self.pooled and self.z.shape[2] % 2 == self.z.shape[3] % 2 == 0:
            full = interpolate(pooled.mul_(0.25), scale_factor=2)
        elif self.pooled:
            full = aten.avg_pool2d_backward(pooled, self.z, [2, 2], [2, 2], [0, 0], False, True, None)
        return full.mul_(self.m).addcmul_(self.z, by_z).add_(constant)


def _mean(full: Tensor) -> Tensor:
    return full.mean((2, 3), keepdim=True)
