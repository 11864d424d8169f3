"""Which stored samples a student sees in each epoch, and with which targets.

A student trains on (image, view) pairs. Single-view labels have one pair per image. Dense labels have N^2 sub-crop
pairs per image, and LADD's loss adds the whole image with its hard label. fkd labels have V views per image, one for
each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from . import seeding
from .distilled import DistilledSet
from .labels._labels import LabelSet, load_kind
from .labels._privileged import PrivilegedSet
from .losses._loss import Targets
from .training import Batch

__all__ = ["EpochSampler", "Pick", "Samples", "StudentData", "make_sampler"]


@dataclass(frozen=True)
class StudentData:
    """Everything a student may train on."""

    distilled: DistilledSet
    labels: LabelSet | None
    """None when training on hard labels alone."""
    privileged: PrivilegedSet | None = None
    """Feature or attention labels of the whole images beside them; of several per image, one is drawn per sample."""
    samples: int | None = None
    """Whole images in an epoch, when not each once: sets of other sizes are compared at equal samples seen."""


def make_sampler(data: StudentData, *, batch: int, estimator: str, seed: int) -> EpochSampler:
    """The sampler of one student.

    Args:
        data: images (m, c, h, w) and labels of v views each; of pruned labels, v counts the views that are left.
        batch: samples in a step, B.
        estimator: how views are visited. `views`: the labelled views alone; of dense labels drawn without
            replacement, of fkd labels view e mod v of every image in epoch e, as SRe2L replays them. LADD's three
            forms of Eq. 5 (arXiv:2409.16239): `pool` draws from all m(1+v) global and local samples without
            replacement; `balanced` fills half of each batch with global images and half with views; `full` puts
            every image with all its views into each batch, B(1+v) samples.
        seed: of the student; the visiting order is a pure function of it and the epoch.

    Returns:
        Called with an epoch and its generator. Except for `full`, an epoch is ceil(m/B) batches and m samples for every
        estimator, so that all labels are compared at an equal number of samples seen.
    """
    if data.samples is not None:
        return _Walk(data, batch, seed)
    if data.labels is None or data.labels.kind == "soft":
        return _SingleView(data, batch, seed)
    if estimator == "views" and load_kind(data.labels).in_turn:
        return _InTurn(data, batch, seed)
    if estimator == "full":
        return _EveryView(data, batch, seed)
    if estimator == "balanced":
        return _Balanced(data, batch, seed)
    return _Pool(data, batch, seed, globals_too=estimator == "pool")


Pick = Callable[[Tensor], Tensor | None]
"""Gives the feature or attention labels (b, c, h, w) of images (b,), in the order of an epoch's batches."""


class _Privileged:
    """Feature or attention labels by epoch; draws come from a stream that nothing else reads."""

    def __init__(self, data: StudentData, seed: int) -> None:
        self.values = None if data.privileged is None else data.privileged.values
        self.seed = seed

    def __call__(self, epoch: int) -> Pick:
        """What gives the labels in an epoch: the one of an image, or one of its K, drawn for each sample."""
        values = self.values
        if values is None:
            return lambda _image: None
        if values.shape[1] == 1:
            return lambda image: values[image, 0]
        draws = seeding.generator(self.seed, "privileged", epoch)
        return lambda image: values[image, torch.randint(values.shape[1], image.shape, generator=draws)]


class Samples:
    """Samples by (image, slot), slot an index into the stored label values; -1 is the whole image with its hard label.

    Without labels, and with one label of the whole image, every sample is a whole image and slots are not looked at.
    """

    def __init__(self, data: StudentData) -> None:
        self.distilled, self.labels = data.distilled, data.labels
        self.kind = None if data.labels is None or data.labels.kind == "soft" else load_kind(data.labels)
        kept = None if data.labels is None else data.labels.view_ids
        self.view_ids: Tensor | None = None if kept is None else kept.long()

    def batch(self, image: Tensor, slot: Tensor, pick: Pick) -> Batch:
        """Materialise samples: (b, c, h, w) images and their targets.

        Views carry the feature or attention label of their whole image, which only whole images may be compared with.
        """
        hard, labels = self.distilled.labels[image], self.labels
        if labels is None:
            return self.distilled.images[image], Targets(hard, None, None, None, pick(image))
        if self.kind is None:
            soft = labels.values[image, 0]
            return self.distilled.images[image], Targets(hard, soft, labels.domain, None, pick(image))
        local = slot >= 0
        pair = image[local], slot[local]
        views = self.kind.view(
            self.distilled.images, pair[0], pair[1] if self.view_ids is None else self.view_ids[pair]
        )
        images = views
        if not bool(local.all()):
            images = self.distilled.images[image]
            images[local] = views
        return images, Targets(hard, labels.values[image, slot.clamp(min=0)], labels.domain, local, pick(image))


class EpochSampler:
    """Batches of an epoch, by the samples that it visits."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        self.samples, self.privileged = Samples(data), _Privileged(data, seed)
        self.batch, self.seed, self.images = batch, seed, len(data.distilled.labels)

    def visits(self, epoch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Image and slot of every sample of an epoch in order, (m,) int64 each, as `Samples.batch` takes them."""
        raise NotImplementedError

    def __call__(self, epoch: int, generator: Generator) -> Iterator[Batch]:
        """The batches of an epoch."""
        image, slot = self.visits(epoch, generator)
        pick = self.privileged(epoch)
        for chosen in zip(image.split(self.batch), slot.split(self.batch), strict=True):
            yield self.samples.batch(*chosen, pick)


class _SingleView(EpochSampler):
    """Each image once per epoch, in random order."""

    def visits(self, epoch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """A permutation of the whole images."""
        del epoch
        order = torch.randperm(self.images, generator=generator)
        return order, torch.zeros_like(order)


class _Walk(EpochSampler):
    """Whole images with hard labels, `samples` of them per epoch from an endless sequence of permutations."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        super().__init__(StudentData(data.distilled, None), batch, seed)
        self.count = data.samples or 0
        self.order = _Permutations(self.images, seed, "walk")

    def visits(self, epoch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """The next whole images of the walk."""
        del generator
        image = self.order.take(epoch * self.count, self.count)
        return image, torch.full_like(image, -1)


class _Permutations:
    """An endless sequence of random permutations of `size` items, by position."""

    def __init__(self, size: int, seed: int, stream: str) -> None:
        self.size, self.seed, self.stream = size, seed, stream
        self._drawn: dict[int, Tensor] = {}

    def take(self, start: int, count: int) -> Tensor:
        """Positions start to start + count, (count,) int64."""
        parts = []
        while count:
            offset = start % self.size
            part = self._round(start // self.size)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)

    def _round(self, index: int) -> Tensor:
        """A permutation (size,) int64; the last two are kept, plainly, so that a sampler can be pickled."""
        if index not in self._drawn:
            kept = list(self._drawn.items())[-1:]
            drawn = torch.randperm(self.size, generator=seeding.generator(self.seed, self.stream, index))
            self._drawn = dict([*kept, (index, drawn)])
        return self._drawn[index]


class _InTurn(EpochSampler):
    """Each image once per epoch, in random order: its stored view e mod v in epoch e."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        super().__init__(data, batch, seed)
        self.views = _view_count(data)

    def visits(self, epoch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """A permutation of the images, all in the same view."""
        order = torch.randperm(self.images, generator=generator)
        return order, torch.full_like(order, epoch % self.views)


class _Pool(EpochSampler):
    """Walks through random permutations of all pairs, m of them per epoch."""

    def __init__(self, data: StudentData, batch: int, seed: int, *, globals_too: bool) -> None:
        super().__init__(data, batch, seed)
        self.first = -1 if globals_too else 0
        self.width = _view_count(data) - self.first
        self.order = _Permutations(self.images * self.width, seed, "pool")

    def visits(self, epoch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """The next pairs."""
        del generator
        return self.take(epoch * self.images, self.images)

    def take(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Image and slot of pairs start to start + count of the walk."""
        pairs = self.order.take(start, count)
        return pairs // self.width, pairs % self.width + self.first


class _Balanced(EpochSampler):
    """Half of each batch whole images, half views."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        super().__init__(data, batch, seed)
        self.pool = _Pool(data, batch, seed, globals_too=False)

    def visits(self, epoch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Whole images and views in turns."""
        del generator
        slots = torch.arange(self.images)
        image, view = torch.empty_like(slots), torch.full_like(slots, -1)
        is_local = (slots + epoch * self.images) % 2 == 1
        image[~is_local] = self._whole(epoch)[: int((~is_local).sum())]
        image[is_local], view[is_local] = self.pool.take(self._local_start(epoch), self._local_count(epoch))
        return image, view

    def _whole(self, epoch: int) -> Tensor:
        return torch.randperm(self.images, generator=seeding.generator(self.seed, "balanced", epoch))

    def _local_start(self, epoch: int) -> int:
        return epoch * self.images // 2

    def _local_count(self, epoch: int) -> int:
        return (epoch + 1) * self.images // 2 - epoch * self.images // 2


class _EveryView(EpochSampler):
    """Every image with all its views in each batch: Eq. 5 itself, 1 + v times the cost."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        self.views = _view_count(data)
        super().__init__(data, batch * (1 + self.views), seed)

    def visits(self, epoch: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """A permutation of the images, each whole and then in all its views."""
        del epoch
        order, view = torch.randperm(self.images, generator=generator), torch.arange(-1, self.views)
        return order.repeat_interleave(len(view)), view.repeat(self.images)


def _view_count(data: StudentData) -> int:
    if data.labels is None:
        raise ValueError("views need labels")
    return int(data.labels.values.shape[1])
