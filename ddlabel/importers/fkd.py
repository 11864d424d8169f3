"""SRe2L's FKD labels: pictures in class folders, and `epoch_E/batch_B.tar` with crops, mixes and logits.

The records name no image: batches follow a shuffle that a seed gives (arXiv:2306.13092, its relabelling code).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BundleError, ResourceError, UsageError
from ..labels._draws import WEIGHT_ONE
from ..memory import free_memory
from ..options import opt
from ._fkd_records import Record, read_record
from ._importer import Foreign, Views
from ._pictures import has_class_folders, read_pictures
from ._sources import Sources, entries_of, shown

__all__ = ["IMPORTER", "shuffles"]

EPOCH, BATCH = re.compile(r"epoch_([0-9]{1,6})"), re.compile(r"batch_([0-9]{1,6})\.tar")
RULES = (2, 1)
"""Permutations that torch's RandomSampler draws in one epoch: two, and one in old versions."""
LEAST_DEVIATIONS = 4.0
"""By how many standard deviations labels must name the class of their image more often than chance."""


@dataclass(frozen=True, kw_only=True)
class Fkd:
    """Two folders: the pictures, and the records, in either order.

    Every epoch becomes one view of labels of kind `fkd` with stored draws: the crop in whole pixels, whether it is
    mirrored, the partner and the box or weight of its mix, and the logits. Refused: crops that are no whole pixels of
    these pictures, batches of other images than these, and an order that the labels contradict.

    Differs from the authors' code in: the weight of a Mixup is rounded to 2^-16; how views are resized, as `labels/fkd`
    says.
    """

    shuffle_seed: int = opt(42, "seed of the shuffle that made the batches: the authors' --fkd-seed", min=0)
    views: int | None = opt(None, "how many epochs become views; auto takes all", min=1, max=100_000)

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """Two folders, one with epochs and one with classes."""
        return _split(sources.paths) is not None

    def read(self, sources: Sources) -> Foreign:
        """Pictures and all records."""
        split = _split(sources.paths)
        if split is None:
            raise UsageError(
                "expected two folders, one of pictures in class folders and one with epoch_0/batch_0.tar",
                hint="FKD labels are of pictures: give both",
            )
        pictures = read_pictures(sources, split[0])
        count, _channels, height, width = pictures.pixels.shape
        if height != width:
            raise BundleError(f"pictures of {width} x {height} px, crops are replayed on squares")
        epochs = list(self._epochs(sources, split[1], count, width))
        order, deviations = _order(self.shuffle_seed, epochs, pictures.labels)
        draws = [_draws(records, where) for records, where in zip(epochs, order, strict=True)]
        logits = [
            _placed([record.logits for record in records], where) for records, where in zip(epochs, order, strict=True)
        ]
        first = epochs[0][0]
        return Foreign(
            name=shown(split[0]),
            images=pictures.pixels,
            values=None,
            labels=pictures.labels,
            classes=pictures.classes,
            by_name=pictures.classes is not None,
            views=Views(
                values=torch.stack(logits, dim=1).float(),
                draws={name: torch.stack([each[name] for each in draws], dim=1) for name in draws[0]},
                mix=first.mix,
                codec="f16" if first.logits.dtype == torch.float16 else "f32",
            ),
            said={"labels": "names of the folders", "order of the records": f"shuffle of seed {self.shuffle_seed}"},
            metrics={"views": len(epochs), "order_deviations": round(deviations, 1)},
        )

    def _epochs(self, sources: Sources, root: Path, count: int, side: int) -> Iterator[list[Record]]:
        """The records of each epoch, every one of all images."""
        folders = _numbered(root, EPOCH)[: self.views]
        first: Record | None = None
        for folder in folders:
            paths = _numbered(folder, BATCH)
            records = [read_record(sources, path, f"{folder.name}/{path.name}", side=side) for path in paths]
            if first is None:
                first = records[0]
                _check_memory(count, len(folders), first.logits.shape[1])
            total = sum(len(record.logits) for record in records)
            if total != count:
                raise BundleError(
                    f"{shown(folder)}: records of {total} images, there are {count} pictures",
                    hint="give the pictures that were labelled",
                )
            if any((record.mix, record.logits.shape[1], record.logits.dtype) != _kind(first) for record in records):
                raise BundleError(f"{shown(folder)}: another mix, type or number of classes than the first record")
            yield records


def shuffles(seed: int, count: int, epochs: int, rule: int) -> list[Tensor]:
    """Which image stands where in each epoch, (n,) int64 each, as torch's RandomSampler shuffles with a generator.

    Args:
        seed: of the generator.
        count: images, n.
        epochs: how many.
        rule: permutations drawn in each epoch; the first is used.
    """
    generator = torch.Generator()
    generator.manual_seed(seed)
    orders = []
    for _epoch in range(epochs):
        orders.append(torch.randperm(count, generator=generator))
        for _unused in range(rule - 1):
            torch.randperm(count, generator=generator)
    return orders


def _kind(record: Record) -> tuple[str, int, torch.dtype]:
    return record.mix, record.logits.shape[1], record.logits.dtype


def _order(seed: int, epochs: Sequence[list[Record]], labels: Tensor) -> tuple[list[Tensor], float]:
    """The order that the labels agree with best, and by how many standard deviations more than by chance.

    Raises:
        BundleError: the labels agree with none.
    """
    tried = [shuffles(seed, len(labels), len(epochs), rule) for rule in (RULES if len(epochs) > 1 else RULES[:1])]
    deviations = [_agreement(epochs, order, labels) for order in tried]
    best = max(range(len(tried)), key=lambda index: deviations[index])
    if deviations[best] < LEAST_DEVIATIONS:
        raise BundleError(
            f"in the order of shuffle seed {seed} the labels name the classes of the pictures no more often than by "
            f"chance ({deviations[best]:.1f} standard deviations)",
            field="shuffle_seed",
            hint="give the seed of the labelling run with --set shuffle_seed=N, and exactly its pictures and classes",
        )
    return tried[best], deviations[best]


def _agreement(epochs: Sequence[list[Record]], order: Sequence[Tensor], labels: Tensor) -> float:
    """Standard deviations above chance by which a label's largest logit is the class of the larger part of its view."""
    said, true = [], []
    for records, where in zip(epochs, order, strict=True):
        start = 0
        for record in records:
            own = where[start : start + len(record.logits)]
            main = own if record.share >= 0.5 or record.partner is None else own[record.partner]
            said.append(record.logits.float().argmax(dim=1))
            true.append(labels[main])
            start += len(own)
    answers, classes = torch.cat(said), torch.cat(true)
    width = int(max(answers.max(), classes.max())) + 1
    shares = [torch.bincount(part, minlength=width).double() / len(part) for part in (answers, classes)]
    chance = float((shares[0] * shares[1]).sum())
    spread = math.sqrt(max(chance * (1 - chance), 1e-12) / len(answers))
    return (float((answers == classes).double().mean()) - chance) / spread


def _draws(records: Sequence[Record], where: Tensor) -> dict[str, Tensor]:
    """The draws of one epoch by image, (n, ...) int64 by name."""
    parts: dict[str, list[Tensor]] = {}
    start = 0
    for record in records:
        own = where[start : start + len(record.logits)]
        start += len(own)
        found = {"crop": record.crop, "flip": record.flip}
        if record.partner is not None:
            found["partner"] = own[record.partner]
        if record.mix == "cutmix":
            found["box"] = torch.tensor(record.box).expand(len(own), 4)
        if record.mix == "mixup":
            weight = min(WEIGHT_ONE - 1, round(record.share * WEIGHT_ONE))
            found["weight"] = torch.full((len(own),), weight)
        for name, part in found.items():
            parts.setdefault(name, []).append(part)
    return {name: _placed(each, where) for name, each in parts.items()}


def _placed(parts: Sequence[Tensor], where: Tensor) -> Tensor:
    """Rows in the order of the records, put where their images are."""
    rows = torch.cat(list(parts))
    placed = torch.empty_like(rows)
    placed[where] = rows
    return placed


def _split(paths: Sequence[Path]) -> tuple[Path, Path] | None:
    """The folder of pictures and the folder of records."""
    if len(paths) != 2 or not all(path.is_dir() for path in paths):
        return None
    records = [path for path in paths if (path / "epoch_0").is_dir()]
    pictures = [path for path in paths if path not in records and has_class_folders(path)]
    return (pictures[0], records[0]) if len(records) == len(pictures) == 1 else None


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """What a folder holds of that name, numbered from 0 without a gap."""
    found = {
        int(match[1]): folder / entry.name for entry in entries_of(folder) if (match := pattern.fullmatch(entry.name))
    }
    if sorted(found) != list(range(len(found))) or not found:
        raise BundleError(
            f"{shown(folder)}: holds {len(found)} of {pattern.pattern}, expected them from 0 without a gap"
        )
    return [found[number] for number in range(len(found))]


def _check_memory(images: int, views: int, classes: int) -> None:
    needed, free = 3 * 4 * images * views * classes, free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        raise ResourceError(
            f"{views} views of {images} labels of {classes} classes need about {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free",
            hint="take fewer with --set views=N",
        )


IMPORTER = Fkd
