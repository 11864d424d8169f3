"""Where a student looks: Grad-CAM maps of test images, and how much can be made of them.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017, as LADD
(arXiv:2409.16239) shows it. Insertion and deletion after Petsiuk et al., "RISE: Randomized Input Sampling for
Explanation of Black-box Models", BMVC 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import seeding
from ..data._dataset import Dataset, DatasetInfo
from ..errors import UsageError
from ..events import Event, OnEvent
from ..nets._net import Net, on_meta
from ..space import Space

__all__ = [
    "GradCam",
    "OnOverlays",
    "Overlays",
    "centre_share",
    "class_maps",
    "enlarge",
    "faithfulness",
    "has_maps",
    "select_images",
    "stretch",
]

PER_CLASS = 2
"""Test images of each class."""
MOST_IMAGES = 100
"""Of all classes together; with more, some classes are drawn and have one image each."""
CENTRE_AREA = 0.5
"""Share of the image that the centre box has."""
STEPS = 20
"""Steps in which pixels come and go, for the areas under both curves."""


@dataclass(frozen=True)
class Overlays:
    """The maps of one student."""

    arch: str
    classes: tuple[str, ...]
    indices: Tensor
    """(m,) int64, into the test split."""
    pixels: Tensor
    """(m, c, h, w) uint8."""
    labels: Tensor
    """(m,) int64, the true classes, which the maps are of."""
    predicted: Tensor
    """(m,) int64, what the student says."""
    raw: Tensor
    """(m, h', w') float32 >= 0, as the layer gives them."""
    maps: Tensor
    """(m, h, w) float32 in [0, 1], in the size of the images, each stretched to its own range."""


OnOverlays = Callable[[Overlays], None]


class GradCam:
    """Makes the maps of students, wherever they are trained; afterwards gives them away and keeps their numbers."""

    def __init__(
        self, dataset: Dataset, space: Space, *, seed: int, on_overlays: OnOverlays | None, on_event: OnEvent
    ) -> None:
        self.dataset, self.space = dataset, space
        self.on_overlays, self.on_event = on_overlays, on_event
        self.indices = select_images(dataset.test.labels, len(dataset.info.classes), seed)
        self.record: list[dict[str, Any]] = []

    def check(self, archs: tuple[str, ...]) -> None:
        """Refuse nets of which none has maps, before any is trained.

        Raises:
            UsageError: there would be nothing to show.
        """
        if not any(has_maps(arch, self.dataset.info) for arch in archs):
            raise UsageError(
                f"--gradcam needs maps (b, c, h, w) before the last pooling, {', '.join(archs)} has none",
                field="gradcam",
                hint="add a convolutional net to --arch, such as convnet",
            )

    def look(self, net: Net, arch: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The record of a trained student, and what `show` needs beside it: `raw`, its maps as the layer gives them.

        A net without maps is skipped, and that is said and recorded.
        """
        if not has_maps(arch, self.dataset.info):
            self.on_event(Event(phase="gradcam", message=f"gradcam: {arch} is skipped, it has no maps before its end"))
            return {"arch": arch, "skipped": "no maps (b, c, h, w) before its end"}, {}
        device = next(net.parameters()).device
        pixels, labels = self._images()
        images, targets = self.space.on(device).encode(pixels.to(device)), labels.to(device)
        raw, logits = (found.cpu().contiguous() for found in class_maps(net, images, targets))
        large = enlarge(raw, images.shape[2:])
        maps, shares, predicted = stretch(large), centre_share(large), logits.argmax(dim=1)
        insertion, deletion = faithfulness(net, images, targets, maps.to(device))
        seen = shares[~shares.isnan()]
        record = {
            "arch": arch,
            "indices": self.indices.tolist(),
            "map": list(raw.shape[1:]),
            "predicted": predicted.tolist(),
            "without_evidence": int(shares.isnan().sum()),
            "centre_share": float(seen.mean()) if len(seen) else None,
            "insertion_auc": float(insertion.mean()),
            "deletion_auc": float(deletion.mean()),
        }
        return record, {"raw": raw}

    def show(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep the record of one student, and give its maps away."""
        self.record.append(dict(record))
        if self.on_overlays is None or "raw" not in tensors:
            return
        pixels, labels = self._images()
        raw = tensors["raw"].clone()  # in memory of its own, aligned as torch does: kernels round by it
        maps, predicted = stretch(enlarge(raw, tuple(pixels.shape[2:]))), torch.tensor(record["predicted"])
        info = self.dataset.info
        self.on_overlays(Overlays(record["arch"], info.classes, self.indices, pixels, labels, predicted, raw, maps))

    def _images(self) -> tuple[Tensor, Tensor]:
        split = self.dataset.test
        return split.pixels[self.indices], split.labels[self.indices]


def has_maps(arch: str, info: DatasetInfo) -> bool:
    """Whether a net gives maps (b, c, h, w) before its last pooling; tokens of a ViT are none."""
    net = on_meta(arch, channels=info.channels, size=info.height, classes=len(info.classes)).eval()
    if net.gives_tokens:
        return False
    maps, _logits = net.last_maps(torch.empty(1, info.channels, info.height, info.width, device="meta"))
    return maps.ndim == 4


def select_images(labels: Tensor, classes: int, seed: int) -> Tensor:
    """Indices (m,) int64 of `PER_CLASS` images of each class, class by class, from the stream `gradcam` of a seed.

    Classes with fewer give all they have; where the classes are too many, some are drawn and give one image each.
    """
    per_class, chosen = PER_CLASS, list(range(classes))
    if classes * PER_CLASS > MOST_IMAGES:
        per_class = 1
        drawn = torch.randperm(classes, generator=seeding.generator(seed, "gradcam", "classes"))
        chosen = drawn[:MOST_IMAGES].sort().values.tolist()
    picks = []
    for label in chosen:
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=seeding.generator(seed, "gradcam", label))
        picks.append(members[order[:per_class]])
    return torch.cat(picks)


def class_maps(net: Net, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-CAM of images (b, c, h, w) for the classes (b,), and the logits (b, k); the net must be in eval mode.

    A map is ReLU(sum_k a_k A_k) of the maps A_k of `Net.last_maps`, with a_k the mean over space of the gradient of the
    class's logit: (b, h', w'), float32.
    """
    with torch.enable_grad():
        maps, logits = net.last_maps(images.detach().requires_grad_())
        # images of a batch do not see each other in eval mode: the gradient of the sum has each image's own
        (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return functional.relu((weights * maps.detach()).sum(dim=1)), logits.detach()


def enlarge(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (b, h', w') in the size (h, w) of the images, bilinear with pixel centres in place."""
    return functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def stretch(maps: Tensor) -> Tensor:
    """Each map (b, h, w) moved and scaled to [0, 1]; one that is the same everywhere becomes 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), 0)


def centre_share(maps: Tensor) -> Tensor:
    """Share (b,) float64 of the positive mass of maps (b, h, w), on the CPU, in the centre box of half the area.

    It is nan where there is no mass. Both sides of the box are those of the image over sqrt(2); a pixel that the border
    cuts counts by the part inside. A map that is the same everywhere has 0.5.
    """
    values = maps.double().clamp(min=0)
    across, down = (_inside(side, CENTRE_AREA**0.5) for side in (maps.shape[2], maps.shape[1]))
    inside = (values * down[:, None] * across).sum(dim=(1, 2))
    return inside / values.sum(dim=(1, 2))


def faithfulness(net: nn.Module, images: Tensor, targets: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Areas (b,) float64 under the insertion and the deletion curve: chance of the class over the share of pixels.

    Pixels of images (b, c, h, w) come (insertion, more is better) or go (deletion, less is better) in the order of
    falling values of maps (b, h, w), ties from the top left, in `STEPS` equal steps; a pixel that is not there is 0 in
    model-input space, the mean colour. Trapezoids; both areas are in [0, 1].

    Differs from the authors' code in: images without pixels are the mean colour in both curves, where theirs start
    insertion from a blurred image.
    """
    pixels = maps[0].numel()
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).reshape(len(maps), 1, *maps.shape[1:])
    curves: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for step in range(STEPS + 1):
            first = rank < round(pixels * step / STEPS)
            for curve, there in zip(curves, (first, ~first), strict=True):
                chances = torch.softmax(net(torch.where(there, images, 0)).cpu().double(), dim=1)
                curve.append(chances.gather(1, targets.cpu()[:, None])[:, 0])
    insertion, deletion = (torch.trapezoid(torch.stack(curve), dx=1 / STEPS, dim=0) for curve in curves)
    return insertion, deletion


def _inside(side: int, share: float) -> Tensor:
    """(side,) float64: how much of each pixel is in the middle `share` of a side."""
    margin = side * (1 - share) / 2
    starts = torch.arange(side, dtype=torch.float64)
    ends = (starts + 1).clamp(max=side - margin)
    return (ends - starts.clamp(min=margin)).clamp(0, 1)
