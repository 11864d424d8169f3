"""How a bundle came to be: stages one below the other, with inputs, settings, seeds, versions and times."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import config as stage_options
from ..options import describe
from ._inspect_tables import readable_flops
from ._page import Child, Html, clip, listing, note, section, tag, tolerant

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["Item", "digest", "history", "link", "states"]

MOST_STEPS = 40
MOST_INPUTS = 12
MOST_LETTERS = 160
"""Of one setting."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One bundle of the page."""

    bundle: Bundle
    name: str
    """File name, without its folder."""
    anchor: str
    """Where it stands on the page."""


def history(item: Item, by_content: Mapping[str, Item]) -> Html:
    """The stages of a bundle, oldest first.

    Args:
        item: whose.
        by_content: the bundles of the page, for links from inputs to them.
    """
    entries, after = item.bundle.manifest.history, states(item.bundle)
    steps = [
        tag("li", tolerant(str(entry["stage"]), entry, functools.partial(_step, entry, content, item, by_content)))
        for entry, content in zip(entries[-MOST_STEPS:], after[-MOST_STEPS:], strict=True)
    ]
    left = len(entries) - len(steps)
    said = note(f"The first {left} of {len(entries)} stages are left out here.") if left else None
    return section("Provenance", said, tag("ol", steps, class_="steps"), level=3)


def states(bundle: Bundle) -> list[str | None]:
    """Content digest of what each stage of a bundle's history made; None where the history does not say.

    The stage after it names it as its first input, if that is of the bundle's kind; the last one made the bundle.
    """
    entries = bundle.manifest.history
    found: list[str | None] = []
    for following in entries[1:]:
        first = next(iter(following["inputs"]), None)
        own = first is not None and first["kind"] in {bundle.kind, "distilled"}
        found.append(first["content"] if first is not None and own else None)
    return [*found, bundle.content]


def digest(content: str) -> Html:
    """A content digest, shortened as `inspect` shortens it."""
    return tag("span", content[:12], class_="digest", title=content)


def link(content: str, by_content: Mapping[str, Item], kind: str = "") -> Html:
    """A bundle by its digest: its name where it is on the page, as a link."""
    item = by_content.get(content)
    said = f"{kind} " if kind else ""
    if item is None:
        return tag("span", said, digest(content))
    return tag("span", said, tag("a", item.name, href=f"#{item.anchor}"), " ", digest(content))


def _step(entry: Mapping[str, Any], content: str | None, item: Item, by_content: Mapping[str, Item]) -> Child:
    inputs = entry["inputs"]
    sources: list[Child] = [link(each["content"], by_content, each["kind"]) for each in inputs[:MOST_INPUTS]]
    if len(inputs) > MOST_INPUTS:
        sources.append(f"{len(inputs) - MOST_INPUTS} more")
    made = None
    if content is not None and content != item.bundle.content:
        made = tag("p", "gave ", link(content, by_content), class_="soft")
    return [
        tag("p", tag("span", entry["stage"], class_="name"), " ", _when(entry), class_="head"),
        tag("p", "from ", _joined(sources), class_="soft") if sources else None,
        tag("p", _settings(entry), class_="set"),
        made,
        tag("details", tag("summary", "Everything recorded of this stage"), listing(entry)),
    ]


def _joined(parts: Sequence[Child]) -> list[Child]:
    return [piece for place, part in enumerate(parts) for piece in ((", ", part) if place else (part,))]


def _when(entry: Mapping[str, Any]) -> Html:
    """Start, time spent, seed, versions: what the record says of the run."""
    time, host = entry["time"], entry["host"]
    versions = host.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    flops = entry["metrics"].get("flops")
    counts = flops.items() if isinstance(flops, Mapping) else ()
    work = sum(value for name, value in counts if name != "forward" and type(value) is int)
    said = [
        time["started"],
        _spent(time["seconds"]),
        readable_flops(work) if work else "",
        "" if entry["seed"] is None else f"seed {entry['seed']}",
        f"{host['device']}" if "device" in host else "",
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    ]
    return tag("span", " · ".join(part for part in said if part), class_="soft set")


def _spent(seconds: float) -> str:
    """Seconds, from two minutes on minutes or hours too."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _settings(entry: Mapping[str, Any]) -> list[Child]:
    """Options that are not the stage's own defaults; those of methods, whose defaults are theirs, all."""
    config, usual = entry["config"], _defaults(str(entry["stage"]))
    pairs: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            told = {key for key, inner in value.items() if inner is None or (key in config and config[key] == inner)}
            own = "" if name == "options" else f"{name}."
            pairs += [(own + key, inner) for key, inner in value.items() if key not in told]
        elif name != "seed" and value != usual.get(name, ...) and value not in (None, [], ""):
            pairs.append((name, value))
    if not pairs:
        return ["all settings at their defaults"]
    return _joined([tag("span", name, "=", tag("code", _short(value))) for name, value in pairs])


def _defaults(stage: str) -> dict[str, Any]:
    """Defaults of a stage's options as the manifest would hold them; none of stages that this version does not know."""
    record = getattr(stage_options, stage.title().replace("-", "") + "Config", None)
    if record is None:
        return {}
    usual = {each.name: each.default for each in describe(record) if not each.required}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in usual.items()}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return clip(text, MOST_LETTERS)
