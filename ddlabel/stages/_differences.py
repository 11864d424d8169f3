"""What differs between two runs of a stage, in sentences that name both sides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["differences"]

_ELSEWHERE = {"device", "threads"}
"""Options that name a wish; what came of it is compared instead."""
_ABSENT = "(absent)"


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare a run with the one that left a state.

    Args:
        ours, theirs: history entries with the records `data` and `images` of what is read; ours also with the names
            of the input `files`, where they are known.

    Returns:
        Sentences about options, seed, device and threads, and sentences about files, data and versions.
    """
    options = [
        *_compare("option", _wishes(theirs["config"]), _wishes(ours["config"])),
        *_compare("", _pick(theirs["host"], "device", "threads"), _pick(ours["host"], "device", "threads")),
    ]
    if "seed" not in ours["config"]:
        options += _compare("", _pick(theirs, "seed"), _pick(ours, "seed"))
    files = [
        *_compare("data", theirs["data"] or {}, ours["data"] or {}),
        *_compare("digest of", theirs["images"], ours["images"]),
        *_named(_compare("", _inputs(theirs["inputs"]), _inputs(ours["inputs"])), ours.get("files", ())),
        *_compare("version of", _versions(theirs["host"]), _versions(ours["host"])),
    ]
    return options, files


def _compare(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for key in (*theirs, *(key for key in ours if key not in theirs)):
        left, right = _plain(theirs.get(key, _ABSENT)), _plain(ours.get(key, _ABSENT))
        if left != right:
            yield f"{f'{what} ' if what else ''}'{key}' is {_shown(left)}, this run has {_shown(right)}"


def _named(sentences: Iterator[str], files: Sequence[str]) -> Iterator[str]:
    """Sentences about inputs, ending with the file that this run read."""
    for sentence in sentences:
        number = int(sentence.split("'")[1].removeprefix("input "))
        yield f"{sentence} ({files[number - 1]})" if number <= len(files) else sentence


def _wishes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, those of the method and of the recipe of training beside the stage's own."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        elif name not in _ELSEWHERE:
            flat[name] = value
    return flat


def _pick(record: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: record.get(key, _ABSENT) for key in keys}


def _inputs(inputs: Any) -> dict[str, Any]:
    return {f"input {number}": item["content"] for number, item in enumerate(inputs, start=1)}


def _versions(host: Mapping[str, Any]) -> dict[str, Any]:
    versions = host.get("versions", {})
    return _pick(versions, "ddlabel", "torch") if isinstance(versions, Mapping) else {}


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    hexadecimal = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:12] if hexadecimal else text if len(text) <= 80 else text[:77] + "..."
