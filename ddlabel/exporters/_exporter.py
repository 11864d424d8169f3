"""What an export format is: which labels it holds, what it says of itself, and how it is written."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import UsageError
from ..events import Event, OnEvent, ignore
from ..interchange import array_of_labels, draws_of_labels, norm_of_labels, view_ids_of_labels
from ..manifest import Section

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..bundle import Bundle
    from ..distilled import StoredSet
    from ..labels._labels import LabelSet
    from ..labels._privileged import PrivilegedSet
    from ._pictures import Pictures

__all__ = [
    "BATCH",
    "Content",
    "Description",
    "Exporter",
    "Open",
    "Sink",
    "check_channels",
    "describe_labels",
    "label_arrays",
    "norm_arrays",
]

BATCH = 256
"""Images that are decoded at a time."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What goes into an export: a distilled bundle, decoded as far as the format needs."""

    bundle: Bundle
    stored: StoredSet
    labels: Mapping[str, LabelSet] = field(default_factory=dict)
    """Class labels beside the hard ones, by kind."""
    privileged: Mapping[str, PrivilegedSet] = field(default_factory=dict)
    """Feature and attention labels, by kind."""
    lr: float | None = None
    """Step size that was learned with the images."""
    pictures: Pictures | None = None
    """Of formats that hold pictures."""
    on_event: OnEvent = ignore

    def images(self) -> Tensor:
        """(n, c, h, w) float32 in model-input space: exactly what students train on."""
        return self.stored.encode()

    def richer(self) -> dict[str, LabelSet | PrivilegedSet]:
        """All labels beside the hard ones, by kind."""
        return {**self.labels, **self.privileged}

    def step(self, done: int) -> None:
        """Report how many images are written; an interrupt may be raised."""
        self.on_event(Event(phase="exporting", done=min(done, len(self.stored)), total=len(self.stored)))


@dataclass(frozen=True)
class Description:
    """What an export holds, and what it cannot hold."""

    images: Mapping[str, Any]
    """`form`: `exact8` (the stored uint8 pixels), `viewable` (pictures of float images) or `float32`; and where."""
    labels: Mapping[str, Any]
    """By kind, `hard` among them: where they are, and as what."""
    lost: tuple[str, ...] = ()
    """One sentence for each thing that is in the bundle and not in the export."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the sidecar; under `classes` lists of a value for each class."""


class Sink(io.RawIOBase):
    """A file that can only be written from its beginning to its end; counts and hashes what it is given."""

    def __init__(self, write: Callable[[memoryview], None]) -> None:
        super().__init__()
        self._write = write
        self._digest = hashlib.sha256()
        self._count = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Write all of the data."""
        view = memoryview(data).cast("B")
        self._write(view)
        self._digest.update(view)
        self._count += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written."""
        return self._count

    def record(self) -> dict[str, Any]:
        """Size and digest, as the sidecar has them."""
        return {"bytes": self._count, "sha256": self._digest.hexdigest()}


Open = Callable[[str], AbstractContextManager[Sink]]
"""Opens a file of the export for writing; formats of one file open `""`, once."""


class Exporter(ABC):
    """A format. Its module must import without torch, because its suffixes are looked at first."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Ends of file names that mean this format; none for formats that are folders."""
    has_pictures: ClassVar[bool] = False
    """Whether images become pictures, so that something may be lost."""

    def holds(self, kind: str) -> bool:
        """Whether labels of that kind, beside the hard ones, can be in such a file."""
        del kind
        return False

    def takes(self, section: Section) -> bool:
        """Whether labels are exported that nobody asked for by name."""
        return self.holds(str(section.role))

    def check(self, content: Content) -> None:
        """Refuse what cannot be exported, before anything is written; raises UsageError."""
        del content

    @abstractmethod
    def describe(self, content: Content) -> Description:
        """What the export will hold."""

    @abstractmethod
    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """Write everything but the sidecar.

        Args:
            content: what goes in.
            document: the sidecar without its list of files; formats that have a place for it keep it inside too.
            file: opens what is written to.
        """


def label_arrays(content: Content) -> dict[str, np.ndarray]:
    """All labels but the hard ones as arrays whose first axis is the image, under the names that formats use.

    `labels_<kind>` (n, v, k) float32, and (n, K, c, h, w) of feature and attention labels; `labels_<kind>_view_ids`
    (n, v) int64 where views were left out; `labels_<kind>_draws_<name>` (n, v, ...) where draws are stored.
    """
    arrays = {}
    for kind, labels in content.labels.items():
        arrays[array_of_labels(kind)] = labels.values.numpy()
        if labels.view_ids is not None:
            arrays[view_ids_of_labels(kind)] = labels.view_ids.numpy()
        for draw, values in labels.augmentation.items():
            arrays[draws_of_labels(kind, draw)] = values.numpy()
    for kind, features in content.privileged.items():
        arrays[array_of_labels(kind)] = features.values.numpy()
    return arrays


def norm_arrays(content: Content) -> dict[str, np.ndarray]:
    """Mean and scale, (c, h, w) or (f,) float32, of norms that feature and attention labels are compared under."""
    return {
        norm_of_labels(kind, part): getattr(features.norm, part).numpy()
        for kind, features in content.privileged.items()
        if features.norm is not None
        for part in ("mean", "scale")
    }


def describe_labels(content: Content) -> dict[str, Any]:
    """What `label_arrays` gives, by kind: domain, shape, and what must be known to make the views again."""
    described: dict[str, Any] = {}
    for kind, labels in content.richer().items():
        section = labels.section
        described[kind] = {
            "in": array_of_labels(kind),
            "domain": section.domain,
            "shape": list(labels.values.shape),
            "parameters": dict(section.parameters),
            "codec": dict(section.codec or {}),
            "teacher": list(section.record.get("teacher") or ()),
            "refined": section.refined,
        }
    return described


def check_channels(content: Content, name: str) -> None:
    """Pictures are grey or of three colours.

    Raises:
        UsageError: these images are neither.
    """
    channels = int(content.stored.pixels.shape[1])
    if channels not in (1, 3):
        raise UsageError(
            f"format '{name}' holds pictures of 1 or 3 channels, {content.bundle.name} has {channels}",
            field="format",
            hint="use --format npz",
        )
