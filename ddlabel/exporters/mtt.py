"""A folder of `.pt` files as MTT, FTD, DATM and PAD publish them: images in training space, labels, step size.

`images_best.pt` (n, c, h, w) float32; `labels_best.pt` (n,) int64, or (n, k) float32 logits where soft labels were
learned with the images; `lr_best.pt` 0-d float32 where a step size was learned; `images_zca_best.pt`, the images
without their whitening in [0, 1] units, where they are whitened. All open with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, cast

from ..errors import UsageError
from ..interchange import FLOAT32, MTT_IMAGES, MTT_LABELS, MTT_LR, MTT_UNITS
from ..manifest import Section
from ._exporter import Content, Description, Exporter, Open, describe_labels
from ._lost import lost_labels, lost_sections, lost_whitening

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXPORTER"]

_LOGITS = ("logit", "logprob")
"""Domains whose values training code of DATM can take for logits."""


class Mtt(Exporter):
    """What the training code of these methods opens, to the bit what students here train on."""

    def holds(self, kind: str) -> bool:
        """One label of each image."""
        return kind == "soft"

    def takes(self, section: Section) -> bool:
        """Labels that were learned with the images."""
        return section.role == "soft" and bool(section.parameters.get("learned"))

    def check(self, content: Content) -> None:
        """Soft labels must be logits."""
        soft = content.labels.get("soft")
        if soft is not None and soft.domain not in _LOGITS:
            raise UsageError(
                f"soft labels have domain '{soft.domain}', format 'mtt' holds logits",
                field="labels",
                hint="use --labels hard, or --format npz",
            )

    def describe(self, content: Content) -> Description:
        """Images exactly as students see them."""
        labels: dict[str, Any] = {"hard": {"in": MTT_LABELS}}
        lost: list[str] = []
        if content.labels:
            labels = {"soft": describe_labels(content)["soft"] | {"in": MTT_LABELS}}
            best = content.labels["soft"].values[:, 0].argmax(dim=1)
            differ = int((best != content.stored.labels).sum())
            if differ:
                lost.append(f"hard labels are left out; of {differ} images the largest logit is of another class")
        return Description(
            images={"form": FLOAT32, "in": MTT_IMAGES},
            labels=labels,
            lost=(*lost, *lost_whitening(content), *lost_labels(content), *lost_sections(content)),
        )

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """One tensor per file."""
        import torch

        del document
        images = content.images()
        soft, space = content.labels.get("soft"), content.stored.space
        tensors: dict[str, Tensor] = {
            MTT_IMAGES: images,
            MTT_LABELS: content.stored.labels if soft is None else soft.values[:, 0].contiguous(),
        }
        if content.lr is not None:
            tensors[MTT_LR] = torch.tensor(content.lr, dtype=torch.float32)
        if space.zca is not None:
            tensors[MTT_UNITS] = space.decode(images)
        for name, tensor in tensors.items():
            with file(name) as stream:
                torch.save(tensor, cast(IO[bytes], stream))
        content.step(len(images))


EXPORTER = Mtt()
