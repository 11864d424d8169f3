"""FKD's labels of many random crops and mixes, replayed from a seed instead of stored (SRe2L, arXiv:2306.13092)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from torch import Tensor

from .. import seeding
from ..errors import UsageError
from ..options import opt
from ._draws import MAX_SIDE, Seeded
from ._kind import Alone, Kind
from ._replay import Stored, check_stored, mixed_views, pack, restrict
from ._share import parse_share

__all__ = ["KIND"]

ALPHA = {"none": 1.0, "cutmix": 1.0, "mixup": 0.8}
"""a of Beta(a, a) in SRe2L."""
UNBOUND = "auto"


@dataclass(frozen=True, kw_only=True)
class Fkd(Kind):
    """V random views: RandomResizedCrop, mirrored with probability one half, then CutMix or Mixup with another image.

    What is drawn for a view is a function of (stream, image, view): no byte per view is stored, and labels hold for
    any batch size, order and number of workers. The label is the teacher's answer for the mixed image, never a mixture
    of labels. Losses that also use the hard label see the class of the first image, whatever was mixed into it.

    Differs from the authors' code in: a view is drawn and replayed by itself, where the code stores the draws of whole
    batches and must see the same batches again; lambda and box are drawn per view, where a batch shares them; the
    partner of a mix is any stored image, where it is another of the batch; crops are whole pixels, where replay
    multiplies stored fractions; resizing is bilinear on images in model-input space, where the code resizes files
    before it normalises them.
    """

    in_turn: ClassVar[bool] = True

    views: int = opt(100, "V: views per image (SRe2L and LPLD: 300 on ImageNet)", min=1, max=100_000)
    scale_min: str = opt("0.08", "least area of a crop as a share of the image, a decimal or P/Q in (0, 1]")
    mix: str = opt("cutmix", "what is mixed into a crop: none, cutmix or mixup", choices=("none", "cutmix", "mixup"))
    alpha: float | None = opt(None, "a of lambda ~ Beta(a, a); auto is 1 for cutmix, 0.8 for mixup", min=0.1, max=10)
    flip: bool = opt(True, "mirror half of the crops, where the data may be mirrored")
    replay: str = opt(
        "seeded", "seeded makes the draws again from the stream, explicit stores them", choices=("seeded", "explicit")
    )
    stream: str = opt(UNBOUND, "64-bit seed of the draws, 16 hexadecimal digits; auto derives it from --seed")

    @property
    def view_count(self) -> int:
        """V."""
        return self.views

    def bound(self, *, seed: int, flip: bool) -> Kind:
        """With its stream, a, and without mirroring where the data forbids it."""
        stream = f"{seeding.stream_seed(seed, 'fkd'):016x}" if self.stream == UNBOUND else self.stream
        return dataclasses.replace(self, stream=stream, flip=self.flip and flip, alpha=self._alpha())

    def view(self, images: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """Views from the stream."""
        side = _side_of(images)
        return mixed_views(self._draws(len(images), side), self.mix, images, image, view)

    def parameters(self, size: int) -> dict[str, Any]:
        """All options and the image size; of stored draws only what their views need."""
        _check_side(size)
        common = {"views": self.views, "mix": self.mix, "replay": self.replay, "resize": "bilinear", "size": size}
        if self.replay == "explicit":
            return common
        _parse_stream(self.stream)
        self._least()
        return common | {
            "scale_min": self.scale_min,
            "alpha": self._alpha(),
            "flip": self.flip,
            "stream": self.stream,
        }

    def augmentation(self, images: int, size: int) -> dict[str, Tensor]:
        """The draws of every view, for `explicit`."""
        if self.replay == "seeded":
            return {}
        return pack(self._draws(images, size), self.mix, images=images, views=self.views, side=size)

    def replaying(self, augmentation: Mapping[str, Tensor], size: int) -> Kind:
        """With stored draws, where they are stored."""
        if self.replay == "seeded":
            return Kind.replaying(self, augmentation, size)
        return _Replayed(self, check_stored(augmentation, self.mix, views=self.views, side=size))

    def alone(self, chosen: Tensor, *, images: int, size: int) -> Alone:
        """With the draws of these images stored; views that mix in another image are not usable."""
        explicit = dataclasses.replace(self, replay="explicit")
        kept, usable = restrict(explicit.augmentation(images, size), chosen)
        return Alone(explicit.parameters(size), kept, usable)

    def _draws(self, images: int, side: int) -> Seeded:
        return Seeded(
            key=_parse_stream(self.stream),
            images=images,
            side=side,
            scale_min=self._least(),
            flip=self.flip,
            alpha=str(self._alpha()),
        )

    def _least(self) -> Fraction:
        return parse_share(self.scale_min, "scale_min", "0.08")

    def _alpha(self) -> float:
        return ALPHA[self.mix] if self.alpha is None else self.alpha


@dataclass(frozen=True)
class _Replayed(Kind):
    """fkd with stored draws."""

    in_turn: ClassVar[bool] = True

    kind: Fkd
    draws: Stored

    @property
    def view_count(self) -> int:
        """V."""
        return self.kind.view_count

    def view(self, images: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """Views from the stored draws."""
        _side_of(images)
        return mixed_views(self.draws, self.kind.mix, images, image, view)

    def parameters(self, size: int) -> dict[str, Any]:
        """Those of the kind."""
        return self.kind.parameters(size)

    def alone(self, chosen: Tensor, *, images: int, size: int) -> Alone:
        """As for draws that follow from the stream."""
        del images
        return Alone(self.kind.parameters(size), *restrict(self.draws.parts, chosen))


def _side_of(images: Tensor) -> int:
    height, width = images.shape[-2:]
    if height != width:
        raise UsageError(
            f"fkd labels need square images, these have {height} x {width} px", field="kind", hint="use --kind soft"
        )
    _check_side(int(width))
    return int(width)


def _check_side(side: int) -> None:
    if not 1 <= side <= MAX_SIDE:
        raise UsageError(
            f"fkd labels are for images of 1 to {MAX_SIDE} px, these have {side}", field="kind", hint="use --kind soft"
        )


def _parse_stream(text: str) -> int:
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise UsageError(f"option 'stream' is '{text[:40]}', expected 16 hexadecimal digits", field="stream")
    return int(text, 16)


KIND = Fkd
