"""Pickles as plain data: an interpreter of the few opcodes that saved tensors need, which calls nothing.

Python's own unpickler imports modules and calls what a file names. This one knows numbers, texts, lists and
dictionaries, and asks its caller what a name stands for; any other opcode or name is refused before it has an effect.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Named", "PickleRefusedError", "interpret"]

MAX_OPCODES = 5_000_000
LARGEST_KEY = 2**53
"""Beyond, many numbers share a hash, and a table of them takes quadratic time."""
MAX_DEPTH = 32
"""Tuples within tuples; plain data have two or three."""


class PickleRefusedError(ValueError):
    """The pickle is damaged, or holds more than plain data; the message says what."""


@dataclass(frozen=True)
class Named:
    """A name that stands for something of a Python module: `module name`. Nothing is imported."""

    name: str


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
     "BINSTRING", "SHORT_BINBYTES", "BINBYTES")
)  # fmt: skip
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def interpret(
    data: bytes,
    calls: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any],
    build: Callable[[Any, Any], None],
) -> Any:
    """What a pickle holds.

    Args:
        data: the pickle.
        calls: by name, `module name`: what a call of it stands for.
        persistent: what a persistent id stands for.
        build: takes an object and the state that the pickle gives it.

    Raises:
        PickleRefusedError: damaged, an opcode or name that plain data does not need, or too long.
    """
    machine = _Machine(calls, persistent, build)
    try:
        return _run(machine, data)
    except PickleRefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError, Warning) as error:
        raise PickleRefusedError("damaged") from error


def _run(machine: _Machine, data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of texts with unknown escapes
        for count, (opcode, argument, _place) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise PickleRefusedError(f"more than {MAX_OPCODES} steps")
            if opcode.name == "STOP":
                return machine.result()
            machine.step(opcode.name, argument)
    raise PickleRefusedError("damaged: it has no end")


class _Machine:
    def __init__(
        self,
        calls: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any],
        build: Callable[[Any, Any], None],
    ) -> None:
        self._calls, self._persistent, self._build = calls, persistent, build
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._nested: dict[int, tuple[int, Any]] = {}
        """Depth of tuples that hold tuples, by identity; they are kept, so that no other takes their place."""

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(self._tuple(self._pop(_TUPLES[name])))
        elif name in {"BINPUT", "LONG_BINPUT"}:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in {"BINGET", "LONG_BINGET"}:
            stack.append(self._memo[argument])
        elif name not in {"PROTO", "FRAME"}:
            self._compose(name, argument)

    def result(self) -> Any:
        if len(self._stack) != 1:
            raise PickleRefusedError("damaged: it ends too early")
        return self._stack[0]

    def _compose(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(self._tuple(self._from_mark()))
        elif name in {"APPEND", "APPENDS"}:
            items = self._pop(1) if name == "APPEND" else self._from_mark()
            _expect(stack[-1], list).extend(items)
        elif name in {"SETITEM", "SETITEMS"}:
            items = self._pop(2) if name == "SETITEM" else self._from_mark()
            _set_items(_expect(stack[-1], dict), items)
        elif name == "GLOBAL":
            stack.append(self._known(str(argument)))
        elif name == "STACK_GLOBAL":
            stack.append(self._known(" ".join(str(_expect(part, str)) for part in self._pop(2))))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(self._calls[_expect(function, Named).name](*_expect(arguments, tuple)))
        elif name == "BUILD":
            (state,) = self._pop(1)
            self._build(stack[-1], state)
        elif name == "BINPERSID":
            stack.append(self._persistent(stack.pop()))
        else:
            raise PickleRefusedError(f"holds opcode {name}, which plain data does not need")

    def _tuple(self, items: Sequence[Any]) -> tuple[Any, ...]:
        made, inner = tuple(items), [item for item in items if isinstance(item, tuple)]
        if inner:
            depth = 1 + max(self._nested.get(id(item), (1, None))[0] for item in inner)
            if depth > MAX_DEPTH:
                raise PickleRefusedError(f"holds tuples nested more than {MAX_DEPTH} deep, which plain data does not")
            self._nested[id(made)] = depth, made
        return made

    def _known(self, name: str) -> Named:
        if name not in self._calls:
            raise PickleRefusedError(f"names {ascii(name.replace(' ', '.'))[:120]}, which is no plain data")
        return Named(name)

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count or any(item is _MARK for item in self._stack[-count:]):
            raise PickleRefusedError("damaged: it takes what it did not put")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _from_mark(self) -> Sequence[Any]:
        place = len(self._stack) - 1
        while place >= 0 and self._stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise PickleRefusedError("damaged: it takes what it did not put")
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items


def _set_items(target: dict[Any, Any], items: Sequence[Any]) -> None:
    """Keys are texts and numbers: to hash anything else may take a file's author as long, and as deep, as he likes."""
    if len(items) % 2:
        raise PickleRefusedError("damaged: a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in {str, int}:
            raise PickleRefusedError(f"holds a key of type {type(key).__name__}, expected texts or whole numbers")
        if isinstance(key, int) and abs(key) > LARGEST_KEY:
            raise PickleRefusedError(f"holds a key beyond {LARGEST_KEY}, expected numbers of things")
        target[key] = value


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise PickleRefusedError(f"damaged: a {type(value).__name__} where a {kind.__name__} belongs")
    return value
