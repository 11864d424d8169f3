"""Make `ddlabel/generators/digits.safetensors`: a conditional VAE of the embedded digits, its decoder kept.

Run `python docs/train_digits_generator.py` (a few minutes on one core). The same machine and torch version give the
same bytes. Looks at the 1,288 training digits alone; the 509 test digits are for the figures it prints.
"""

from __future__ import annotations

import math
import sys

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from ddlabel.data._dataset import load
from ddlabel.generators.digits import CLASSES, NOISE, WEIGHTS, DigitsGenerator
from ddlabel.nets._net import build
from ddlabel.seeding import generator

EPOCHS, BATCH, PEAK = 400, 64, 4e-3
SHARPNESS = 0.5
"""Weight of the divergence from the prior: below 1, so that images are sharper than those of a plain VAE."""


class Encoder(nn.Module):
    """q(noise | image, class): mean and logarithm of the variance, (n, 12) each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1 + CLASSES, 32, 4, stride=2, padding=1)
        self.second = nn.Conv2d(32, 64, 4, stride=2, padding=1)
        self.head = nn.Linear(64 * 16, 2 * NOISE)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        planes = functional.one_hot(labels, CLASSES).float()[:, :, None, None].expand(-1, -1, *images.shape[2:])
        maps = functional.leaky_relu(self.first(torch.cat([images, planes], dim=1)), 0.2)
        mean, logvar = self.head(functional.leaky_relu(self.second(maps), 0.2).flatten(1)).chunk(2, dim=1)
        return mean, logvar


def fill(module: nn.Module, *path: str) -> None:
    """Every parameter from its own named stream: matrices with the variance of He et al., vectors zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.zero_()
            else:
                fan = parameter[0].numel()
                drawn = torch.randn(parameter.shape, generator=generator(0, "digits-generator", *path, name))
                parameter.copy_(drawn * math.sqrt(1.6 / fan) * (0.3 if "style" in name and "." in name else 1.0))


def train(images: Tensor, labels: Tensor) -> tuple[DigitsGenerator, Encoder]:
    """Both halves, by Adam with a cosine schedule."""
    decoder, encoder = DigitsGenerator(), Encoder()
    fill(decoder, "decoder")
    fill(encoder, "encoder")
    parameters = [*decoder.parameters(), *encoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=PEAK, betas=(0.9, 0.99))
    for epoch in range(EPOCHS):
        source = generator(0, "digits-generator", "epoch", epoch)
        for group in optimizer.param_groups:
            group["lr"] = PEAK * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
        total = 0.0
        for rows in torch.randperm(len(images), generator=source).split(BATCH):
            mean, logvar = encoder(images[rows], labels[rows])
            noise = mean + torch.randn(mean.shape, generator=source) * (logvar / 2).exp()
            w = decoder.style_of(noise, labels[rows])
            logits = decoder.logits_of(w, decoder.maps_of(w))
            error = functional.binary_cross_entropy_with_logits(logits, images[rows], reduction="sum")
            divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
            loss = (error / 4 + SHARPNESS * divergence) / len(rows)  # 4: each of 8 x 8 pixels is shown four times
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        if epoch % 20 == 19:
            print(f"epoch {epoch + 1}: loss {total / len(images):.3f}", file=sys.stderr)
    return decoder.requires_grad_(False), encoder.requires_grad_(False)


def train_judge(images: Tensor, labels: Tensor) -> nn.Module:
    """A classifier of real digits, to see whether it finds the class in decoded ones."""
    judge = build("convnet-d2-w32", channels=1, size=16, classes=CLASSES, generator=generator(0, "judge"))
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
    for epoch in range(30):
        for rows in torch.randperm(len(images), generator=generator(0, "judge", epoch)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(judge(images[rows]), labels[rows]).backward()
            optimizer.step()
    return judge.requires_grad_(False)


def main() -> None:
    """Train, round to float16, save, and say how good the result is."""
    torch.set_num_threads(1)
    data = load("digits", size=16, validation=0.0)
    (images, labels), (unseen, unseen_labels) = (
        (split.pixels.float() / 255, split.labels) for split in (data.train, data.test)
    )
    decoder, encoder = train(images, labels)
    rounded = {name: tensor.half() for name, tensor in decoder.state_dict().items()}
    save_file(rounded, WEIGHTS)
    decoder.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
    w = decoder.style_of(encoder(unseen, unseen_labels)[0], unseen_labels)
    rebuilt = decoder.decode({"w": w, "f": decoder.maps_of(w)}, unseen_labels)
    judge = train_judge(images, labels)
    wanted = torch.arange(CLASSES).repeat_interleave(100)
    drawn = decoder.decode(decoder.init_latents(wanted, generator(0, "samples")), wanted)
    print(f"weights: {WEIGHTS.stat().st_size:,} bytes, {sum(t.numel() for t in rounded.values()):,} numbers")
    print(f"test digits rebuilt: rmse {float((rebuilt - unseen).square().mean().sqrt()):.4f} in [0, 1] units")
    print(f"class means instead: rmse {class_mean_error(images, labels, unseen, unseen_labels):.4f}")
    print(f"classifier on test digits: {share(judge, unseen, unseen_labels):.2%}")
    print(f"classifier on 1,000 decoded samples: {share(judge, drawn, wanted):.2%}")


def class_mean_error(images: Tensor, labels: Tensor, unseen: Tensor, unseen_labels: Tensor) -> float:
    """What one image per class would miss by: the figure that rebuilding must beat."""
    means = torch.stack([images[labels == label].mean(dim=0) for label in range(CLASSES)])
    return float((means[unseen_labels] - unseen).square().mean().sqrt())


def share(judge: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy, a fraction."""
    return float((judge(images).argmax(dim=1) == labels).float().mean())


if __name__ == "__main__":
    main()
