"""A small table language for JSON: one description checks a document and becomes its published JSON Schema."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Anything", "Array", "Choice", "Map", "Nullable", "Number", "Record", "Spec", "Text", "Truth", "Whole"]

MAX_TEXT = 65_536
"""Longest text of a manifest in characters."""


class Spec:
    """What a JSON value may be."""

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Sentences that say what is wrong with the value; none when it is fine."""
        del value, path
        raise TypeError("Spec is an interface")

    def json_schema(self) -> dict[str, Any]:
        """The same rule as JSON Schema (draft 2020-12)."""
        raise TypeError("Spec is an interface")


@dataclass(frozen=True)
class Text(Spec):
    """A text, optionally of a pattern."""

    pattern: str = ""
    limit: int = MAX_TEXT

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """A text within the limit that matches."""
        if not isinstance(value, str):
            yield _wrong(path, value, "a text")
        elif len(value) > self.limit:
            yield f"'{path}' has {len(value)} characters, expected at most {self.limit}"
        elif self.pattern and not re.fullmatch(self.pattern, value):
            yield f"'{path}' is {ascii(value)[:80]}, expected a text like {self.pattern}"

    def json_schema(self) -> dict[str, Any]:
        """Type, length and pattern."""
        rule: dict[str, Any] = {"type": "string", "maxLength": self.limit}
        return rule | ({"pattern": f"^{self.pattern}$"} if self.pattern else {})


@dataclass(frozen=True)
class Choice(Spec):
    """One of a few texts."""

    values: tuple[str, ...]

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Exactly one of the values."""
        if not isinstance(value, str) or value not in self.values:
            yield _wrong(path, value, "one of " + ", ".join(self.values))

    def json_schema(self) -> dict[str, Any]:
        """An enumeration."""
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Whole(Spec):
    """A whole number in [low, high]."""

    low: int = 0
    high: int = 2**63 - 1

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Not a truth value, not a float."""
        if type(value) is not int or not self.low <= value <= self.high:
            yield _wrong(path, value, f"a whole number from {self.low} to {self.high}")

    def json_schema(self) -> dict[str, Any]:
        """An integer with bounds."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Number(Spec):
    """A finite number."""

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Whole or not."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            yield _wrong(path, value, "a finite number")

    def json_schema(self) -> dict[str, Any]:
        """A number."""
        return {"type": "number"}


@dataclass(frozen=True)
class Truth(Spec):
    """True or false."""

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Nothing else counts."""
        if not isinstance(value, bool):
            yield _wrong(path, value, "true or false")

    def json_schema(self) -> dict[str, Any]:
        """A boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Anything(Spec):
    """Any JSON value whose texts are within the limit."""

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Walks the value."""
        if isinstance(value, str) and len(value) > MAX_TEXT:
            yield f"'{path}' has {len(value)} characters, expected at most {MAX_TEXT}"
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from self.problems(key, f"{path}: key")
                yield from self.problems(item, f"{path}.{key[:80]}")
        elif isinstance(value, list):
            for item in value:
                yield from self.problems(item, path)

    def json_schema(self) -> dict[str, Any]:
        """No rule: JSON Schema cannot bound texts at any depth."""
        return {}


@dataclass(frozen=True)
class Nullable(Spec):
    """A value or null."""

    inner: Spec

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Null, or what the inner rule says."""
        if value is not None:
            yield from self.inner.problems(value, path)

    def json_schema(self) -> dict[str, Any]:
        """Either."""
        return {"anyOf": [{"type": "null"}, self.inner.json_schema()]}


@dataclass(frozen=True)
class Array(Spec):
    """A list of like values."""

    item: Spec
    limit: int
    least: int = 0

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Length first, then every item."""
        if not isinstance(value, list):
            yield _wrong(path, value, "a list")
        elif not self.least <= len(value) <= self.limit:
            yield f"'{path}' has {len(value)} items, expected {self.least} to {self.limit}"
        else:
            for index, item in enumerate(value):
                yield from self.item.problems(item, f"{path}[{index}]")

    def json_schema(self) -> dict[str, Any]:
        """An array with bounds."""
        return {"type": "array", "items": self.item.json_schema(), "minItems": self.least, "maxItems": self.limit}


@dataclass(frozen=True)
class Map(Spec):
    """An object whose keys are free, or of a pattern, and whose values are alike."""

    value: Spec
    limit: int = 65_536
    keys: str = ""

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Every key and value."""
        if not isinstance(value, dict):
            yield _wrong(path, value, "an object")
        elif len(value) > self.limit:
            yield f"'{path}' has {len(value)} entries, expected at most {self.limit}"
        else:
            name = Text(self.keys)
            for key, item in value.items():
                yield from name.problems(key, f"{path}: key")
                yield from self.value.problems(item, f"{path}.{key[:80]}")

    def json_schema(self) -> dict[str, Any]:
        """An object of like values."""
        return {
            "type": "object",
            "propertyNames": Text(self.keys).json_schema(),
            "additionalProperties": self.value.json_schema(),
            "maxProperties": self.limit,
        }


@dataclass(frozen=True)
class Record(Spec):
    """An object with known keys; further keys are kept, because newer minor versions may add some."""

    required: Mapping[str, Spec]
    optional: Mapping[str, Spec] = field(default_factory=dict)

    def problems(self, value: Any, path: str) -> Iterator[str]:
        """Missing keys, then every known one."""
        if not isinstance(value, dict):
            yield _wrong(path, value, "an object")
            return
        prefix = f"{path}." if path else ""
        for key, spec in self.required.items():
            if key in value:
                yield from spec.problems(value[key], prefix + key)
            else:
                yield f"'{prefix}{key}' is missing"
        for key, spec in self.optional.items():
            if key in value:
                yield from spec.problems(value[key], prefix + key)
        for key in sorted(value.keys() - self.required.keys() - self.optional.keys()):
            yield from Anything().problems(value[key], prefix + key[:80])

    def json_schema(self) -> dict[str, Any]:
        """An object with required and optional properties."""
        known = {**self.required, **self.optional}
        return {
            "type": "object",
            "properties": {key: spec.json_schema() for key, spec in known.items()},
            "required": sorted(self.required),
        }


def _wrong(path: str, value: Any, expected: str) -> str:
    return f"'{path}' is {ascii(value)[:60]}, expected {expected}"
