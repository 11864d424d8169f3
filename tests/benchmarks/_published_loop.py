"""How the published code trains and tests a ConvNet on CIFAR-10 shapes, in a straightforward version of our own.

One function for training and testing, batches by a `DataLoader`, DSA with one operation a batch and parameters per
sample, gradients on while testing (Zhao & Bilen, ICML 2021; Cazenavette et al., CVPR 2022). torch is used as it comes.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["CLASSES", "Net", "flops_per_image", "images_and_labels", "make_optimizer", "run_epoch"]

CLASSES, CHANNELS, SIDE, WIDTH, DEPTH = 10, 3, 32, 128, 3
SCALE, DEGREES, PAD, CUT = 1.2, 15.0, 0.125, 0.5


class Net(nn.Module):
    """ConvNet-D3 of width 128, instance norm, average pooling."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(DEPTH):
            layers += [
                nn.Conv2d(WIDTH if block else CHANNELS, WIDTH, 3, padding=1),
                nn.GroupNorm(WIDTH, WIDTH),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTH * (SIDE >> DEPTH) ** 2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, 10)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def make_optimizer(net: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    """SGD as students and experts take it."""
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def images_and_labels(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(count, 3, 32, 32) float32 normal noise, and its classes (count,)."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, CHANNELS, SIDE, SIDE, generator=source), torch.arange(count) % CLASSES


def run_epoch(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int,
    device: torch.device,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[float, float]:
    """One pass, in training mode with DSA if there is an optimiser; mean loss and accuracy."""
    net.train(optimizer is not None)
    loss_sum, right = 0.0, 0
    for chunk, classes in DataLoader(
        TensorDataset(images, labels), batch_size=batch, shuffle=optimizer is not None, num_workers=0
    ):
        seen, truth = chunk.float().to(device), classes.long().to(device)
        if optimizer is not None:
            seen = augment(seen)
        logits = net(seen)
        loss = functional.cross_entropy(logits, truth)
        right += int((logits.argmax(dim=1) == truth).sum())
        loss_sum += loss.item() * len(truth)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss_sum / len(images), right / len(images)


def augment(x: Tensor) -> Tensor:
    """DSA: one of six operations for the batch."""
    operations = (_color, _crop, _cutout, _flip, _scale, _rotate)
    return operations[int(torch.randint(len(operations), (1,)))](x).contiguous()


def _uniform(x: Tensor) -> Tensor:
    return torch.rand(len(x), 1, 1, 1, device=x.device)


def _color(x: Tensor) -> Tensor:
    x = x + (_uniform(x) - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * (2 * _uniform(x)) + mean
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (_uniform(x) + 0.5) + mean


def _crop(x: Tensor) -> Tensor:
    reach = int(x.shape[2] * PAD + 0.5)
    shifts = torch.randint(-reach, reach + 1, (2, len(x), 1, 1), device=x.device)
    sample, row, column = _positions(x, x.shape[2], x.shape[3])
    row, column = (row + shifts[0] + 1).clamp(0, x.shape[2] + 1), (column + shifts[1] + 1).clamp(0, x.shape[3] + 1)
    padded = functional.pad(x, (1, 1, 1, 1))
    return padded.permute(0, 2, 3, 1)[sample, row, column].permute(0, 3, 1, 2)


def _cutout(x: Tensor) -> Tensor:
    height, width = int(x.shape[2] * CUT + 0.5), int(x.shape[3] * CUT + 0.5)
    centre_row = torch.randint(0, x.shape[2] + (1 - height % 2), (len(x), 1, 1), device=x.device)
    centre_column = torch.randint(0, x.shape[3] + (1 - width % 2), (len(x), 1, 1), device=x.device)
    sample, row, column = _positions(x, height, width)
    mask = torch.ones(len(x), x.shape[2], x.shape[3], device=x.device)
    row = (row + centre_row - height // 2).clamp(0, x.shape[2] - 1)
    mask[sample, row, (column + centre_column - width // 2).clamp(0, x.shape[3] - 1)] = 0
    return x * mask.unsqueeze(1)


def _flip(x: Tensor) -> Tensor:
    return torch.where(_uniform(x) < 0.5, x.flip(3), x)


def _scale(x: Tensor) -> Tensor:
    factor = torch.rand(2, len(x), device=x.device) * (SCALE - 1 / SCALE) + 1 / SCALE
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = factor[0], factor[1]
    return _sampled(x, theta)


def _rotate(x: Tensor) -> Tensor:
    angle = (torch.rand(len(x), device=x.device) - 0.5) * 2 * DEGREES / 180 * math.pi
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos(), -angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), angle.cos()
    return _sampled(x, theta)


def _sampled(x: Tensor, theta: Tensor) -> Tensor:
    grid = functional.affine_grid(theta, list(x.shape), align_corners=True)
    return functional.grid_sample(x, grid, align_corners=True)


def _positions(x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    ranges = [torch.arange(length, device=x.device) for length in (len(x), height, width)]
    sample, row, column = torch.meshgrid(*ranges, indexing="ij")
    return sample, row, column


def flops_per_image(*, training: bool) -> float:
    """Useful FLOPs of one image, 2 per product, convolutions and linear layer: forward, and backward when training."""
    total, side = 0.0, SIDE
    for block in range(DEPTH):
        products = side * side * 9 * (WIDTH if block else CHANNELS) * WIDTH
        passes = (3 if block else 2) if training else 1  # nothing asks for the gradient of the images
        total += 2.0 * passes * products
        side //= 2
    return total + 2.0 * (3 if training else 1) * WIDTH * side * side * CLASSES


def main(place: str, *numbers: str) -> None:
    """Students one after the other: each trained for some epochs at 0.1 of the step in the second half, then tested."""
    device, (seeds, images, epochs, tested) = torch.device(place), map(int, numbers)
    train, test = images_and_labels(images), images_and_labels(tested, seed=1)
    for _seed in range(seeds):
        net = Net().to(device)
        optimizer = make_optimizer(net)
        for epoch in range(epochs):
            run_epoch(net, *train, batch=256, device=device, optimizer=optimizer)
            if epoch == (epochs - 1) // 2 + 1:
                optimizer = make_optimizer(net, lr=0.001)
        print(run_epoch(net, *test, batch=256, device=device))


if __name__ == "__main__":
    main(*sys.argv[1:])
