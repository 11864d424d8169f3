"""Families of torchvision's convolutional nets: a size such as b0, and a variant for images of 32 px."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ._adopted import refuse_small
from ._net import Family, Net, parse_options

__all__ = ["VariantFamily"]


class VariantFamily(Family):
    """Names `family-size...-modified`, where the size may be left out."""

    name: ClassVar[str]
    """Of the family."""
    versions: ClassVar[tuple[str, ...]] = ()
    """Words before the size that say nothing, such as v2."""
    sizes: ClassVar[tuple[str, ...]]
    """The first one is the default; where there is one only, its name is not needed."""
    stride: ClassVar[int] = 32
    """Of the last maps, in pixels."""
    modified_stride: ClassVar[int] = 16

    @abstractmethod
    def make(self, size: str, *, modified: bool, channels: int, classes: int) -> Net:
        """torchvision's net; `modified` has a stem of stride 1 and no max pooling."""

    def canonical(self, options: Sequence[str]) -> str:
        size, modified = self._parse(options)
        return "-".join([self.name, *self.versions, size, *(["modified"] if modified else [])])

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        chosen, modified = self._parse(options)
        name = self.canonical(options)
        stride = self.modified_stride if modified else self.stride
        refuse_small(name, size, stride=stride, hint="use larger images" if modified else f"use {name}-modified")
        return self.make(chosen, modified=modified, channels=channels, classes=classes)

    def _parse(self, options: Sequence[str]) -> tuple[str, bool]:
        chosen, modified = [self.sizes[0]], []

        def take_size(text: str) -> bool:
            if text in self.sizes:
                chosen.append(text)
            return text in self.sizes

        def take_modified(text: str) -> bool:
            if text == "modified":
                modified.append(text)
            return text == "modified"

        def take_version(text: str) -> bool:
            return text in self.versions

        parsers = {", ".join(self.sizes): take_size, "modified": take_modified}
        if self.versions:
            parsers[", ".join(self.versions)] = take_version
        parse_options(self.name, options, parsers)
        return chosen[-1], bool(modified)
