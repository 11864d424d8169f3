"""Sections that one process made and the first process writes: handed over piece by piece, whatever their size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..bundle import NewSection
from ..sections import Source
from ..team import Team
from ..tensors import CHUNK_BYTES, FileTensor, RawTensor

__all__ = ["Keep", "hand_over", "in_memory", "take_over"]

Keep = Callable[[str, tuple[int, ...], Iterator[bytes]], Source]
"""Puts a tensor away: dtype, shape, bytes in order."""


def hand_over(team: Team, sections: Sequence[NewSection]) -> None:
    """Give sections to the first process, which takes them over at the same time.

    Raises:
        ResourceError: it is gone.
    """
    team.send(_parts(sections))


def take_over(team: Team, rank: int, keep: Keep) -> list[NewSection]:
    """The sections that a process hands over.

    Args:
        team: whose first process this is.
        rank: of the other one.
        keep: where the tensors go, one after the other.

    Raises:
        ResourceError: it is gone, or there is no room.
    """
    return _sections(team.receive(rank), keep)


def in_memory(dtype: str, shape: tuple[int, ...], parts: Iterator[bytes]) -> Source:
    """The `Keep` of what is small."""
    return RawTensor(dtype, shape, b"".join(parts))


def _sections(parts: Iterator[bytes], keep: Keep) -> list[NewSection]:
    sections = []
    for about in json.loads(next(parts)):
        tensors = {}
        for name, dtype, shape, count in about.pop("tensors"):
            tensors[name] = keep(dtype, tuple(shape), (next(parts) for _part in range(count)))
        sections.append(NewSection(tensors=tensors, **about))
    for _end in parts:
        raise ValueError("more was handed over than was announced")
    return sections


def _parts(sections: Sequence[NewSection]) -> Iterator[bytes]:
    sources = [{name: _source(value) for name, value in section.tensors.items()} for section in sections]
    yield json.dumps([_about(*pair) for pair in zip(sections, sources, strict=True)]).encode()
    for tensors in sources:
        for source in tensors.values():
            yield from map(bytes, source.chunks())


def _about(section: NewSection, tensors: dict[str, Source]) -> dict[str, Any]:
    about = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    shapes = [
        [name, one.dtype, list(one.shape), len(range(0, one.nbytes, CHUNK_BYTES))] for name, one in tensors.items()
    ]
    return about | {"tensors": shapes}


def _source(value: Any) -> Source:
    return value if isinstance(value, FileTensor) else RawTensor.of(value)
