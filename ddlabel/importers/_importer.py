"""What an importer is: it reads files of another tool and says what they say, and nothing that they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..zca import Zca
from ._sources import Sources

__all__ = ["Exported", "Foreign", "Importer", "Twin", "Views"]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Labels of many views of each image, with the draws that make the views again."""

    values: Tensor
    """(n, v, k) float32 logits."""
    draws: Mapping[str, Tensor]
    """(n, v, ...) whole numbers by name, as `labels/fkd.py` stores them."""
    mix: str
    """none, cutmix or mixup."""
    codec: str
    """Of the section: f16 where the files hold half precision, else f32."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Labels of one kind that `ddlabel export` wrote, with what it says of them."""

    kind: str
    values: Tensor
    """(n, v, k) float32, finite; (n, K, c, h, w) of feature and attention labels."""
    domain: str
    parameters: Mapping[str, Any]
    codec: Mapping[str, Any]
    """What stored them: name and parameters."""
    teacher: tuple[str, ...]
    """Content digests."""
    refined: Mapping[str, Any] | None
    draws: Mapping[str, Tensor]
    """(n, v, ...) whole numbers by name, where they were stored."""
    view_ids: Tensor | None
    """(n, v) int64, where views were left out."""
    norm: Mapping[str, Tensor]
    """`mean` and `scale` of features that are compared under a norm, each of the shape of one."""

    def in_order(self, order: Tensor) -> Exported:
        """The same labels of images in another order, (n,) int64."""
        return dataclasses.replace(
            self,
            values=self.values[order],
            draws=_moved(self.draws, order),
            view_ids=None if self.view_ids is None else self.view_ids[order],
        )


@dataclass(frozen=True)
class Twin:
    """Images that the files hold twice, which shows whether a whitening is theirs."""

    units: Tensor
    """(m, c, h, w) float32 in [0, 1] units."""
    images: Tensor | None
    """The same ones as nets were fed; None where they are those of the set."""
    iteration: str
    """Of which they are."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What the files say; None where they do not say it."""

    name: str
    """Of the file that holds the images, for messages."""
    images: Tensor
    """(n, c, h, w) uint8 pixels or finite float32."""
    values: str | None
    """What floats are: `units` (pixels in [0, 1]) or `space` (what nets were fed). None where nobody says."""
    labels: Tensor | None
    """(n,) int64, the class of each image; None where there are soft labels alone."""
    soft: Tensor | None = None
    """(n, k) float32, finite."""
    domain: str | None = None
    """Of the soft labels: `logit` or `prob`."""
    learned: bool = False
    """Whether the soft labels were learned with the images, rather than said by a teacher."""
    lr: float | None = None
    """Learned step size of the student, positive."""
    classes: tuple[str, ...] | None = None
    """In label order."""
    by_name: bool = False
    """Whether `classes` are names that can be looked up in another order, rather than an order of their own."""
    twin: Twin | None = None
    views: Views | None = None
    exported: tuple[Exported, ...] = ()
    export: Mapping[str, Any] | None = None
    """What the history keeps of the export that the files are."""
    stated: Mapping[str, Any] = field(default_factory=dict)
    """Facts that the files themselves state: name, flip, space (normalised or zca), mean and std."""
    zca: Zca | None = None
    """The whitening, where the files hold it."""
    said: Mapping[str, str] = field(default_factory=dict)
    """Where facts were found, by name of the fact."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers of the files, such as published accuracies."""
    notes: tuple[str, ...] = ()
    """What a user should know."""

    def in_order(self, order: Tensor) -> Foreign:
        """The same set with its images in another order, (n,) int64; partners of mixed views follow."""
        views, twin = self.views, self.twin
        if views is not None:
            views = dataclasses.replace(views, values=views.values[order], draws=_moved(views.draws, order))
        if twin is not None and twin.images is None:
            twin = dataclasses.replace(twin, units=twin.units[order])
        return dataclasses.replace(
            self,
            images=self.images[order],
            labels=None if self.labels is None else self.labels[order],
            soft=None if self.soft is None else self.soft[order],
            twin=twin,
            views=views,
            exported=tuple(labels.in_order(order) for labels in self.exported),
        )


def _moved(draws: Mapping[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """Draws of images in another order; partners, which are places, follow."""
    moved = {name: part[order] for name, part in draws.items()}
    if "partner" in moved:
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        moved["partner"] = place[moved["partner"].long()].to(moved["partner"].dtype)
    return moved


class Importer(Protocol):
    """A format; a module of this room defines one as `IMPORTER`, a frozen dataclass whose fields are its options."""

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """Whether the files look like this format, by their names and first bytes."""
        ...

    def read(self, sources: Sources) -> Foreign:
        """Read the files.

        Raises:
            BundleError: damaged files, objects that would have to be unpickled, impossible shapes or values.
            DataError: a picture that cannot be read.
            UsageError: an option, or files that do not belong together.
        """
        ...
