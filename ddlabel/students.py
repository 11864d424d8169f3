"""Which stored samples a student sees in each epoch, and with which targets.

A student trains on (image, view) pairs. Single-view labels have one pair per image. Dense labels have N^2 sub-crop
pairs per image, and LADD's loss adds the whole image with its hard label. fkd labels have V views per image, one for
each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from . import seeding
from .distilled import DistilledSet
from .labels._labels import LabelSet, load_kind
from .labels._privileged import PrivilegedSet
from .losses._loss import Targets
from .training import Batch, Sampler

__all__ = ["StudentData", "make_sampler"]


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


def make_sampler(data: StudentData, *, batch: int, estimator: str, seed: int) -> Sampler:
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
        A function of the epoch. Except for `full`, an epoch is ceil(m/B) batches and m samples for every estimator,
        so that all labels are compared at an equal number of samples seen.
    """
    if data.samples is not None:
        return _Walk(data, batch, seed)
    views = 0 if data.labels is None else data.labels.values.shape[1]
    if data.labels is None or data.labels.kind == "soft":
        return _SingleView(data, batch, seed)
    if estimator == "views" and load_kind(data.labels).in_turn:
        return _InTurn(data, batch, seed)
    if estimator == "full":
        return _EveryView(data, batch, seed)
    if estimator == "balanced":
        return _Balanced(data, batch, seed)
    return _Pool(data, batch, seed, globals_too=estimator == "pool", views=views)


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


class _SingleView:
    """Each image once per epoch, in random order."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        self.data, self.batch, self.privileged = data, batch, _Privileged(data, seed)

    def __call__(self, epoch: int, generator: Generator) -> Iterator[Batch]:
        distilled, labels, pick = self.data.distilled, self.data.labels, self.privileged(epoch)
        order = torch.randperm(len(distilled.labels), generator=generator)
        for index in order.split(self.batch):
            soft = None if labels is None else labels.values[index, 0]
            domain = None if labels is None else labels.domain
            yield distilled.images[index], Targets(distilled.labels[index], soft, domain, None, pick(index))


class _Walk:
    """Whole images with hard labels, `samples` of them per epoch from an endless sequence of permutations."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        self.distilled, self.batch, self.samples = data.distilled, batch, data.samples or 0
        self.order = _Permutations(len(data.distilled.labels), seed, "walk")

    def __call__(self, epoch: int, generator: Generator) -> Iterator[Batch]:
        del generator
        for index in self.order.take(epoch * self.samples, self.samples).split(self.batch):
            yield self.distilled.images[index], Targets(self.distilled.labels[index], None, None, None)


class _Permutations:
    """An endless sequence of random permutations of `size` items, by position."""

    def __init__(self, size: int, seed: int, stream: str) -> None:
        self.size, self.seed, self.stream = size, seed, stream
        self._round = lru_cache(maxsize=2)(self._draw_round)

    def take(self, start: int, count: int) -> Tensor:
        """Positions start to start + count, (count,) int64."""
        parts = []
        while count:
            offset = start % self.size
            part = self._round(start // self.size)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)

    def _draw_round(self, index: int) -> Tensor:
        return torch.randperm(self.size, generator=seeding.generator(self.seed, self.stream, index))


class _Views:
    """Samples given by (image, slot) indices into the stored values; slot -1 is the whole image with its hard label."""

    def __init__(self, data: StudentData, seed: int) -> None:
        if data.labels is None:
            raise ValueError("views need labels")
        self.labels, self.privileged = data.labels, _Privileged(data, seed)
        self.distilled = data.distilled
        self.kind = load_kind(data.labels)
        kept = data.labels.view_ids
        self.view_ids: Tensor | None = None if kept is None else kept.long()

    def batch(self, image: Tensor, slot: Tensor, pick: Pick) -> Batch:
        """Materialise samples: (b, c, h, w) images and their targets.

        Views carry the feature or attention label of their whole image, which only whole images may be compared with.
        """
        local = slot >= 0
        pair = image[local], slot[local]
        views = self.kind.view(
            self.distilled.images, pair[0], pair[1] if self.view_ids is None else self.view_ids[pair]
        )
        images = views
        if not bool(local.all()):
            images = self.distilled.images[image]
            images[local] = views
        soft = self.labels.values[image, slot.clamp(min=0)]
        return images, Targets(self.distilled.labels[image], soft, self.labels.domain, local, pick(image))


class _InTurn:
    """Each image once per epoch, in random order: its stored view e mod v in epoch e."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        self.views = _Views(data, seed)
        self.batch, self.images, self.count = batch, len(data.distilled.labels), _view_count(data)

    def __call__(self, epoch: int, generator: Generator) -> Iterator[Batch]:
        order, pick = torch.randperm(self.images, generator=generator), self.views.privileged(epoch)
        for image in order.split(self.batch):
            yield self.views.batch(image, torch.full_like(image, epoch % self.count), pick)


class _Pool:
    """Walks through random permutations of all pairs, m of them per epoch."""

    def __init__(self, data: StudentData, batch: int, seed: int, *, globals_too: bool, views: int) -> None:
        self.views = _Views(data, seed)
        self.batch = batch
        self.seed = seed
        self.first = -1 if globals_too else 0
        self.width = views - self.first
        self.images = len(data.distilled.labels)
        self.order = _Permutations(self.images * self.width, seed, "pool")

    def __call__(self, epoch: int, generator: Generator) -> Iterator[Batch]:
        del generator
        pairs, pick = self.order.take(epoch * self.images, self.images), self.views.privileged(epoch)
        for chunk in pairs.split(self.batch):
            yield self.views.batch(chunk // self.width, chunk % self.width + self.first, pick)


class _Balanced:
    """Half of each batch whole images, half views."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        self.pool = _Pool(data, batch, seed, globals_too=False, views=_view_count(data))
        self.views, self.batch, self.images = self.pool.views, batch, self.pool.images

    def __call__(self, epoch: int, generator: Generator) -> Iterator[Batch]:
        del generator
        whole, local = self._whole(epoch), self.pool.order.take(self._local_start(epoch), self._local_count(epoch))
        slots = torch.arange(self.images)
        image, view = torch.empty_like(slots), torch.full_like(slots, -1)
        is_local = (slots + epoch * self.images) % 2 == 1
        image[~is_local] = whole[: int((~is_local).sum())]
        image[is_local], view[is_local] = local // self.pool.width, local % self.pool.width
        pick = self.views.privileged(epoch)
        for chunk in slots.split(self.batch):
            yield self.views.batch(image[chunk], view[chunk], pick)

    def _whole(self, epoch: int) -> Tensor:
        return torch.randperm(self.images, generator=seeding.generator(self.pool.seed, "balanced", epoch))

    def _local_start(self, epoch: int) -> int:
        return epoch * self.images // 2

    def _local_count(self, epoch: int) -> int:
        return (epoch + 1) * self.images // 2 - epoch * self.images // 2


class _EveryView:
    """Every image with all its views in each batch: Eq. 5 itself, 1 + v times the cost."""

    def __init__(self, data: StudentData, batch: int, seed: int) -> None:
        self.views = _Views(data, seed)
        self.batch, self.images, self.count = batch, len(data.distilled.labels), _view_count(data)

    def __call__(self, epoch: int, generator: Generator) -> Iterator[Batch]:
        order, pick = torch.randperm(self.images, generator=generator), self.views.privileged(epoch)
        view = torch.arange(-1, self.count)
        for index in order.split(self.batch):
            yield self.views.batch(index.repeat_interleave(len(view)), view.repeat(len(index)), pick)


def _view_count(data: StudentData) -> int:
    if data.labels is None:
        raise ValueError("views need labels")
    return int(data.labels.values.shape[1])
