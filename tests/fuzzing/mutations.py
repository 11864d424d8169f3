"""Deterministic damage: to bytes, to JSON documents, to tensors. Everything is drawn from the `random.Random` given."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

NUMBERS: tuple[int, ...] = (
    0, 1, -1, 2, 3, 7, 8, 9, 63, 64, 65, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**47, 2**48, 2**53 + 1,
    2**62, 2**63 - 1, 2**63, 2**64, 10**19, 10**21,
)  # fmt: skip
"""Where types, limits and address spaces end."""
VALUES: tuple[Any, ...] = (
    *NUMBERS, None, True, False, 0.5, -0.0, 1.0, 1e-9, 1e308, float("nan"), float("inf"), "", "x", "0", "1/2", "auto",
    "U8", "F32", "F16", "F4", "F6_E2M3", "F8_E8M0", "BOOL", "I64", "C64", "../x", "\x1b[2J\n", "\u202e", "\ud800",
    "a" * 300, "f" * 64, "zstd", "q8", "images", "labels.hard", "pad.0", "__metadata__", "manifest.json.zst",
    [], {}, [0], [[]], [1, 0], {"x": 0}, [0, 2**48, 2**48], [2**31, 2**31, 0],
)  # fmt: skip
TOKENS = (
    b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"-Infinity", b"1e999",
    b"-1", b"1.0", b"9" * 25, b" ", b"\n", b"\xef\xbb\xbf", b"\xff", b'"ddset":"1"', b'"shape":[0]', b"\0",
)  # fmt: skip


def damage(choice: random.Random, data: bytes) -> bytes:
    """Bytes after one to four changes: flips, sets, splices, cuts, repeats, numbers at boundaries, JSON tokens."""
    changed = bytearray(data)
    for _change in range(choice.choice((1, 1, 1, 2, 2, 3, 4))):
        choice.choice(_BYTES)(choice, changed)
    return bytes(changed)


def damage_json(choice: random.Random, document: Any, others: Sequence[Any] = ()) -> Any:
    """A copy of a JSON document after one to three changes of a place.

    Args:
        choice: of place and change.
        document: an object or a list.
        others: values that may be put somewhere, besides boundary values and values of the document itself.
    """
    changed = json.loads(json.dumps(document))  # several times faster than a deep copy
    for _change in range(choice.choice((1, 1, 1, 2, 3))):
        parent, key = _place(choice, changed)
        if parent is None:
            continue
        choice.choice(_JSON)(choice, changed, parent, key, others)
    return changed


def text_of(document: Any) -> bytes:
    """JSON that may hold what JSON does not: NaN, and half a character."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def damage_tensor(choice: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with other bytes, or of another dtype or shape."""
    kind = choice.random()
    if kind < 0.7 and tensor.numel():
        plain = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        data = bytearray(plain)
        for _change in range(choice.choice((1, 1, 2, 8))):
            choice.choice((_flip, _set, _boundary, _fill))(choice, data)
        return torch.frombuffer(data[: len(plain)], dtype=tensor.dtype).reshape(tensor.shape)
    if kind < 0.8:
        dtypes = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32)
        return tensor.to(choice.choice((*dtypes, torch.bfloat16, torch.float64, torch.bool)))
    shape = list(tensor.shape)
    if kind < 0.9 and shape:
        axis = choice.randrange(len(shape))
        return torch.cat([tensor, tensor], axis) if choice.random() < 0.5 else tensor.narrow(axis, 0, shape[axis] // 2)
    return choice.choice(
        (tensor[None], tensor.reshape(-1), tensor[..., None], tensor.reshape(shape[::-1]), tensor.new_zeros(()))
    )


# Bytes


def _flip(choice: random.Random, data: bytearray) -> None:
    if data:
        data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)


def _set(choice: random.Random, data: bytearray) -> None:
    if data:
        data[choice.randrange(len(data))] = choice.choice((0, 1, 0x20, 0x22, 0x7F, 0x80, 0xFF, choice.randrange(256)))


def _fill(choice: random.Random, data: bytearray) -> None:
    if data:
        start = choice.randrange(len(data))
        length = choice.choice((2, 4, 8, len(data)))
        data[start : start + length] = bytes([choice.choice((0, 0x7C, 0x7F, 0x80, 0xFF))]) * len(
            data[start : start + length]
        )


def _splice(choice: random.Random, data: bytearray) -> None:
    start, other = choice.randrange(len(data) + 1), choice.randrange(len(data) + 1)
    length = choice.choice((1, 4, 16, 64))
    data[start : start + choice.choice((0, length))] = data[other : other + length]


def _remove(choice: random.Random, data: bytearray) -> None:
    start = choice.randrange(len(data) + 1)
    del data[start : start + choice.choice((1, 1, 2, 8, 64))]


def _cut(choice: random.Random, data: bytearray) -> None:
    del data[choice.randrange(len(data) + 1) :]


def _append(choice: random.Random, data: bytearray) -> None:
    data += choice.choice(
        (b"\0", b" ", b"junk", bytes(64), data[:64], b"\x50\x2a\x4d\x18\0\0\0\0", b"\x28\xb5\x2f\xfd")
    )


def _boundary(choice: random.Random, data: bytearray) -> None:
    width = choice.choice((1, 2, 4, 8))
    if len(data) >= width:
        start = choice.randrange(len(data) - width + 1)
        number = choice.choice(NUMBERS) % 2 ** (8 * width)
        data[start : start + width] = number.to_bytes(width, "little")


def _token(choice: random.Random, data: bytearray) -> None:
    start = choice.randrange(len(data) + 1)
    token = choice.choice(TOKENS) * choice.choice((1, 1, 1, 1, 40, 2000))
    data[start : start + choice.choice((0, 0, len(token)))] = token


_BYTES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _flip, _set, _fill, _splice, _splice, _remove, _cut, _append, _boundary, _token, _token,
)  # fmt: skip


# JSON

Change = Callable[[random.Random, Any, Any, Any, Sequence[Any]], None]


def _place(choice: random.Random, document: Any) -> tuple[Any, Any]:
    """A random place: its container and the key in it; deep ones as likely as shallow ones."""
    parent, key, value = None, None, document
    while isinstance(value, dict | list) and value and (parent is None or choice.random() < 0.8):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        parent, key = value, choice.choice(keys)
        value = parent[key]
    return parent, key


def _replace(choice: random.Random, _root: Any, parent: Any, key: Any, others: Sequence[Any]) -> None:
    parent[key] = copy.deepcopy(choice.choice((*VALUES, *others)))


def _nudge(choice: random.Random, _root: Any, parent: Any, key: Any, others: Sequence[Any]) -> None:
    value = parent[key]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        _replace(choice, _root, parent, key, others)
    elif isinstance(value, str):
        at = choice.randrange(len(value) + 1)
        parent[key] = value[:at] + choice.choice(("", "0", "x", "\0", "\x1b", "é", value)) + value[at + 1 :]
    else:
        parent[key] = choice.choice((value + 1, value - 1, -value, value * 2, value / 2, str(value), [value]))


def _delete(_choice: random.Random, _root: Any, parent: Any, key: Any, _others: Sequence[Any]) -> None:
    del parent[key]


def _duplicate(choice: random.Random, _root: Any, parent: Any, key: Any, _others: Sequence[Any]) -> None:
    if isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(parent[key]) for _copy in range(choice.choice((1, 1, 70)))]
    else:
        parent[choice.choice((f"{key}x", f"{key}.1", "novel", "\x1b[2J", "a" * 70_000))] = copy.deepcopy(parent[key])


def _rename(choice: random.Random, root: Any, parent: Any, key: Any, others: Sequence[Any]) -> None:
    if isinstance(parent, list):
        parent.insert(choice.randrange(len(parent) + 1), parent.pop(key))
    else:
        _duplicate(choice, root, parent, key, others)
        parent.pop(key, None)


def _transplant(choice: random.Random, root: Any, parent: Any, key: Any, _others: Sequence[Any]) -> None:
    other, name = _place(choice, root)
    parent[key] = copy.deepcopy(other[name]) if other is not None else None


def _nest(choice: random.Random, _root: Any, parent: Any, key: Any, _others: Sequence[Any]) -> None:
    for _level in range(choice.choice((1, 1, 33))):
        parent[key] = choice.choice(({"x": parent[key]}, [parent[key]]))


_JSON: tuple[Change, ...] = (
    _replace,
    _replace,
    _replace,
    _nudge,
    _nudge,
    _delete,
    _duplicate,
    _rename,
    _transplant,
    _nest,
)
