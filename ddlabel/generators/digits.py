"""Handwritten digits at 16 px: the decoder of a conditional VAE (Kingma & Welling, 2014), trained on `digits`.

`docs/train_digits_generator.py` made the weights from the training split alone, and prints how good they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = ["GENERATOR", "DigitsGenerator", "StyleOnly"]

WEIGHTS = Path(__file__).with_name("digits.safetensors")
"""float16 on disk, float32 in memory."""
CLASSES, SIDE = 10, 16
NOISE, STYLE, HIDDEN, MAPS = 12, 24, 64, 24
"""Widths: of the noise, of latent `w`, of the mapping, and of the feature maps."""
BASE = SIDE // 4
"""Side of latent `f`, which is enlarged twice."""


class _Styled(nn.Module):
    """3x3 convolution whose output is scaled and shifted, channel by channel, by what `w` says."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.style = nn.Linear(STYLE, 2 * outputs)

    def forward(self, maps: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return functional.leaky_relu(self.conv(maps) * (1 + scale) + shift, 0.2)


class DigitsGenerator(nn.Module):
    """Latents `w` (n, 24), a style per image, and `f` (n, 24, 4, 4), the feature maps that it modulates.

    As in GLaD, `f` starts as what the first layer makes of `w`; then both move on their own.
    """

    resolution = SIDE
    num_classes = CLASSES
    output_range = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(CLASSES, HIDDEN, bias=False)
        self.noise = nn.Linear(NOISE, HIDDEN)
        self.style = nn.Linear(HIDDEN, STYLE)
        self.first = nn.Linear(STYLE, MAPS * BASE * BASE)
        self.middle = _Styled(MAPS, MAPS)
        self.last = _Styled(MAPS, MAPS)
        self.paint = nn.Conv2d(MAPS, 1, 3, padding=1)

    def style_of(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Latent `w` (n, 24) of noise (n, 12) and classes (n,)."""
        chosen = functional.one_hot(labels, CLASSES).to(noise.dtype)
        style: Tensor = self.style(functional.leaky_relu(self.classes(chosen) + self.noise(noise), 0.2))
        return style

    def maps_of(self, w: Tensor) -> Tensor:
        """Latent `f` (n, 24, 4, 4) that belongs to `w`."""
        return functional.leaky_relu(self.first(w).reshape(-1, MAPS, BASE, BASE), 0.2)

    def logits_of(self, w: Tensor, f: Tensor) -> Tensor:
        """The image (n, 1, 16, 16) before the sigmoid."""
        maps = self.middle(functional.interpolate(f, scale_factor=2, mode="nearest"), w)
        maps = self.last(functional.interpolate(maps, scale_factor=2, mode="nearest"), w)
        painted: Tensor = self.paint(maps)
        return painted

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Random digits of the classes: the noise is drawn on the CPU, then moved to where the labels are."""
        noise = torch.randn(len(labels), NOISE, generator=generator).to(labels.device)
        w = self.style_of(noise, labels)
        return {"w": w, "f": self.maps_of(w)}

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """(n, 1, 16, 16) in [0, 1]. The class is in the latents; `labels` are not looked at."""
        del labels
        return torch.sigmoid(self.logits_of(latents["w"], latents["f"]))


class StyleOnly(DigitsGenerator):
    """The stronger prior: latent `w` alone. Type `--set generator=ddlabel.generators.digits:style_only`."""

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Random digits of the classes."""
        return {"w": super().init_latents(labels, generator)["w"]}

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """(n, 1, 16, 16) in [0, 1]."""
        return super().decode({"w": latents["w"], "f": self.maps_of(latents["w"])}, labels)


def _load(made: DigitsGenerator) -> DigitsGenerator:
    made.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return made.eval().requires_grad_(False)


def style_only() -> DigitsGenerator:
    """The generator without latent `f`."""
    return _load(StyleOnly())


def digits(*, channels: int, resolution: int, num_classes: int) -> DigitsGenerator:
    """The generator as trained, whatever the data are: what does not fit is refused where all generators are."""
    del channels, resolution, num_classes
    return _load(DigitsGenerator())


GENERATOR = digits
