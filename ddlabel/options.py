"""Options, declared once: a frozen dataclass per stage, method, loss, codec or protocol, made of `opt` fields.

The same fields give the command line its options and help, the manifest its record of what ran, and the
documentation its tables. Nothing else parses or checks an option.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from .errors import UsageError, suggest

__all__ = [
    "OptionDoc",
    "as_dict",
    "build",
    "build_many",
    "check",
    "describe",
    "opt",
    "parse_assignments",
    "parse_value",
    "validate",
]

T = TypeVar("T")
MAX_SEED = 2**63 - 1
MAX_TEXT = 4096
"""Longest option value in characters; longer ones are refused rather than stored in every bundle."""


def opt(
    default: Any,
    help: str,  # noqa: A002 - the word users of typer know
    *,
    min: float | None = None,  # noqa: A002
    max: float | None = None,  # noqa: A002
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A dataclass field with everything a user must know about it.

    Args:
        default: the value when nothing is given; `...` makes the field required.
        help: what it does, with its unit, in one line.
        min, max: inclusive bounds of a number, or of every item of a tuple.
        above, below: exclusive bounds.
        choices: the only values allowed.
    """
    metadata = {
        "help": help,
        "min": min,
        "max": max,
        "above": above,
        "below": below,
        "choices": tuple(choices) if choices else None,
    }
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptionDoc:
    """One option as the documentation and the command line show it."""

    name: str
    type: str
    default: Any
    required: bool
    help: str
    bounds: str


def describe(cls: type[Any]) -> list[OptionDoc]:
    """The options of a record, in the order of their declaration."""
    hints = _hints(cls)
    return [
        OptionDoc(
            name=field.name,
            type=_type_name(hints[field.name]),
            default=None if field.default is dataclasses.MISSING else field.default,
            required=field.default is dataclasses.MISSING,
            help=str(field.metadata.get("help", "")),
            bounds=_bounds(field.metadata),
        )
        for field in _fields(cls)
    ]


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(cls: type[Any]) -> dict[str, Any]:
    """Annotations of a record, read once."""
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def build(cls: type[T], settings: Mapping[str, Any], *, what: str = "option") -> T:
    """Make a record from texts (converted by annotation) and already typed values, by name.

    Raises:
        UsageError: unknown names, unreadable values, values out of bounds: all of them in one error.
    """
    hints = _hints(cls)
    fields = {field.name: field for field in _fields(cls)}
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in fields:
            problems.append(f"unknown {what} '{name}'{suggest(name, fields)}")
            continue
        try:
            values[name] = parse_value(text, hints[name]) if isinstance(text, str) else text
        except ValueError as error:
            problems.append(f"{what} '{name}' is '{text[:80]}', expected {error}")
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in settings]
    problems += [f"{what} '{name}' is missing: {fields[name].metadata.get('help', '')}" for name in missing]
    problems += _violations(fields, values, what)
    if problems:
        raise UsageError.collect(problems)
    return cls(**values)


def build_many(classes: Sequence[type[Any]], settings: Mapping[str, Any], *, what: str = "option") -> tuple[Any, ...]:
    """Make one record of each class from shared settings; a name goes to every class that has it.

    Args:
        classes: records that share one namespace, such as a label kind and a codec.
        settings: `NAME=VALUE` texts, or typed values when called from Python.
        what: what a setting is called in messages.

    Raises:
        UsageError: unknown names and bad values of all classes in one error.
    """
    known = {field.name for cls in classes for field in _fields(cls)}
    problems = [f"unknown {what} '{name}'{suggest(name, known)}" for name in settings if name not in known]
    records = []
    for cls in classes:
        own = {name: value for name, value in settings.items() if name in {field.name for field in _fields(cls)}}
        try:
            records.append(build(cls, own, what=what))
        except UsageError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise UsageError.collect(problems)
    return tuple(records)


def parse_assignments(texts: Sequence[str]) -> dict[str, str]:
    """Split `--set NAME=VALUE` texts; later ones win.

    Raises:
        UsageError: a text without '=', all such texts in one error.
    """
    problems = [f"--set '{text}' has no '=', expected NAME=VALUE" for text in texts if "=" not in text]
    if problems:
        raise UsageError.collect(problems)
    pairs = (text.split("=", 1) for text in texts)
    return {name.strip().replace("-", "_"): value.strip() for name, value in pairs}


def validate(record: Any) -> list[str]:
    """What is wrong with the values of a record built in Python; empty when nothing is."""
    fields = {field.name: field for field in _fields(type(record))}
    return _violations(fields, {name: getattr(record, name) for name in fields}, "option")


def check(record: Any) -> None:
    """Raise one UsageError for everything `validate` finds."""
    problems = validate(record)
    if problems:
        raise UsageError.collect(problems)


def as_dict(record: Any) -> dict[str, Any]:
    """The record as JSON values: tuples become lists."""
    values = {field.name: getattr(record, field.name) for field in _fields(type(record))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def parse_value(text: str, hint: Any) -> Any:
    """Convert a text by its annotation.

    Raises:
        ValueError: its message completes the sentence "expected ...".
    """
    inner, optional = _strip_optional(hint)
    if optional and text.lower() in {"none", "auto", ""}:
        return None
    if typing.get_origin(inner) is tuple:
        item = typing.get_args(inner)[0]
        return tuple(_parse_scalar(part.strip(), item) for part in text.split(",") if part.strip())
    return _parse_scalar(text, inner)


def _parse_scalar(text: str, kind: Any) -> Any:
    if kind is bool:
        return _parse_bool(text)
    if kind is int:
        return _parse_int(text)
    if kind is float:
        return _parse_float(text)
    return text


def _parse_bool(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _parse_int(text: str) -> int:
    digits = text.strip().lstrip("+-").replace("_", "")
    if not digits.isdecimal() or len(digits) > 20:
        raise ValueError("a whole number")
    return int(text)


def _parse_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("a number") from None
    if not math.isfinite(value):
        raise ValueError("a finite number")
    return value


def _violations(fields: Mapping[str, dataclasses.Field[Any]], values: Mapping[str, Any], what: str) -> list[str]:
    problems = []
    for name, value in values.items():
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            problem = _violation(fields[name].metadata, item)
            if problem:
                problems.append(f"{what} '{name}' is {_quote(item)}, expected {problem}")
                break
    return problems


def _violation(metadata: Mapping[str, Any], value: Any) -> str | None:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"at most {MAX_TEXT} characters"
    choices = metadata.get("choices")
    if choices and value is not None and value not in choices:
        return f"one of {', '.join(choices)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and abs(value) > MAX_SEED:
        return f"at most {MAX_SEED}"
    low, high, above, below = (metadata.get(key) for key in ("min", "max", "above", "below"))
    outside = (
        (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    )
    return f"a number {_bounds(metadata)}" if outside else None


def _bounds(metadata: Mapping[str, Any]) -> str:
    if metadata.get("choices"):
        return "one of " + ", ".join(metadata["choices"])
    signs = (("min", ">="), ("above", ">"), ("max", "<="), ("below", "<"))
    return " and ".join(f"{sign} {metadata[key]}" for key, sign in signs if metadata.get(key) is not None)


def _quote(value: Any) -> str:
    return f"'{value[:80]}'" if isinstance(value, str) else str(value)


def _fields(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _strip_optional(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return inner[0], len(inner) < len(typing.get_args(hint))
    return hint, False


def _type_name(hint: Any) -> str:
    inner, optional = _strip_optional(hint)
    if typing.get_origin(inner) is tuple:
        name = f"{typing.get_args(inner)[0].__name__},..."
    else:
        name = {"str": "text", "bool": "true|false"}.get(inner.__name__, inner.__name__)
    return f"{name} or auto" if optional else name
