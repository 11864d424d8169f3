"""Students of RDED-I: RDED's post-training on stored labels, as LADD scores it (arXiv:2409.16239)."""

from __future__ import annotations

from dataclasses import dataclass

from ..training import Recipe
from ._protocol import Student

__all__ = ["PROTOCOL", "augmentation_for", "batch_for", "rate_for", "rded_recipe"]

RATES = {
    "vgg11": 5e-4,
    "efficientnet": 2e-3,
    "mobilenet": 2.5e-3,
    "alexnet": 1e-4,
    "vit": 1e-4,
    "swin": 1e-4,
}
"""Step size by the family of the net; 1e-3 for all others (ConvNets and ResNets)."""
MOSAIC_SIDE = 128
"""Side in pixels from which RDED stitches images from patches, F = 2, where no history says it."""


def rate_for(arch: str) -> float:
    """RDED's step size for a net.

    >>> [rate_for(name) for name in ("convnet-d3-w128", "vgg11", "alexnet")]
    [0.001, 0.0005, 0.0001]
    """
    return next((rate for family, rate in RATES.items() if arch.startswith(family)), 1e-3)


def batch_for(stored_images: int, classes: int) -> int:
    """RDED's batch size: by images per class, doubled for 100 or 1000 classes, at most all images.

    RDED gives 10, 50 and 100 for 1, 10 and 50 images per class, and 100 for the 200 classes of Tiny-ImageNet at any;
    between them the nearest below is taken, from 5 and 30 images per class on.

    >>> [batch_for(*pair) for pair in ((10, 10), (100, 10), (500, 10), (1000, 100), (2000, 200))]
    [10, 50, 100, 100, 100]
    """
    ipc = stored_images / classes
    base = 10 if ipc < 5 else 50 if ipc < 30 else 100
    if classes == 200:
        base = 100
    return min(stored_images, 2 * base if classes in {100, 1000} else base)


def augmentation_for(student: Student) -> str:
    """RDED's augmentation: mirroring alone of images that are one patch, F = 1, else crops of 1/F to all as well.

    Patches are shuffled first where a live teacher answers; no stored label is of such an image. F is what the history
    says; where it says nothing 2 from 128 px on, 1 below.

    >>> known = {"arch": "mlp", "stored_images": 10, "learned_lr": None, "classes": 10}
    >>> [augmentation_for(Student(**known, side=side, online=True)) for side in (32, 224)]
    ['flip', 'shuffle-patches']
    >>> augmentation_for(Student(**known, side=32, factor=3))
    'resized-crop-3'
    """
    factor = student.factor or (1 if student.side < MOSAIC_SIDE else 2)
    if factor == 1:
        return "flip"
    return ("shuffle-patches" if student.online else "resized-crop") + ("" if factor == 2 else f"-{factor}")


def rded_recipe(student: Student) -> Recipe:
    """Step size by the family of the net, batch by images and classes, augmentation by the mosaics."""
    return Recipe(
        optimizer="adamw",
        lr=rate_for(student.arch),
        momentum=0.0,
        weight_decay=0.01,
        decay="weights",
        schedule="half-cosine",
        epochs=300,
        batch=batch_for(student.stored_images, student.classes),
        augment=augmentation_for(student),
    )


@dataclass(frozen=True)
class RdedProtocol:
    """AdamW, weight decay 0.01 on weights, rate by net, half a cosine, 300 epochs, batch by set size, crops and flips.

    Crops take 1/F to all of an image: with F = 1, as below 128 px where the history does not say otherwise, they are
    the image, and mirroring is all that is left. With `--labels online` it is protocol `kd`.

    Differs from the authors' code in: labels are those stored in the bundle, where the code asks the teacher for every
    augmented batch; so neither CutMix nor the shuffling of mosaic patches takes place, because no stored label is of
    such an image; the rate and batch of CIFAR-100 with three-layer ConvNets (2e-3 and 25) are left to `--set`, which
    recipes rded/cifar100-* give; numbers of images per class that the code does not know get a batch size; test images
    are resized to s and cropped as the data set loads them, where the code resizes them to s // 7 * 8 and crops; the
    code's second forward pass of the student on every batch, in training mode, which counts its statistics twice, is
    not offered; the last of six test evaluations, spread over all epochs, is reported, where the code takes the best
    of those after 240 epochs.
    """

    test_evaluations: int = 6

    def recipe(self, student: Student) -> Recipe:
        """See `rded_recipe`."""
        return rded_recipe(student)


PROTOCOL = RdedProtocol()
