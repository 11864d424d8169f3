"""The whole report: an overview of the bundles, what they have in common, then each by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import BundleError
from ._inspect_tables import progress
from ._page import MALFORMED, Child, Html, clip, document, facts, note, section, sentence, table, tag
from ._page_bytes import bar, fidelity, nets, storage
from ._page_curve import against_bytes
from ._page_graph import lineage
from ._page_history import Item, digest, history
from ._page_pictures import pictures
from ._page_scores import evaluations
from ._page_style import STYLE
from ._tables import readable_bytes

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..manifest import Manifest

__all__ = ["page"]

MOST_CLASSES = 60
"""Names in the list of classes."""
NAVIGATED = 40
"""Bundles in the list at the top."""


def page(bundles: Sequence[Bundle], title: str) -> bytes:
    """The report as one HTML file: no script, nothing from the network, the same bundles always the same bytes.

    Raises:
        BundleError: damaged images.
    """
    items = [Item(bundle, name, f"b{number}") for number, (bundle, name) in enumerate(_names(bundles), start=1)]
    by_content = {item.bundle.content: item for item in reversed(items)}
    curve = against_bytes(items)
    several = len(items) > 1 or any(len(item.bundle.manifest.history) > 1 for item in items)
    common = [(curve, "bytes", "Accuracy against bytes")]
    common.append((lineage(items, by_content) if several else None, "lineage", "How they come from each other"))
    links = [("overview", "Overview"), *((anchor, name) for part, anchor, name in common if part is not None)]
    links += [(item.anchor, item.name) for item in items[:NAVIGATED]]
    top = tag(
        "header",
        tag("h1", title),
        tag("p", _counted(items), class_="lead"),
        tag(
            "nav",
            tag("ul", [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name in links]),
            aria_label="Contents",
        ),
    )
    main = tag(
        "main",
        section("Overview", _overview(items), id_="overview"),
        [part for part, _anchor, _name in common],
        [_bundle(item, by_content) for item in items],
    )
    foot = tag("footer", tag("p", f"Made by ddlabel {__version__} from what the bundles say of themselves."))
    return document(title, STYLE, top, main, foot).encode()


def _names(bundles: Sequence[Bundle]) -> Iterator[tuple[Bundle, str]]:
    """Bundles with their file names, without folders; a number tells equal ones apart."""
    counts: dict[str, int] = {}
    for bundle in bundles:
        name = os.path.basename(bundle.name) or bundle.name
        counts[name] = counts.get(name, 0) + 1
        yield bundle, name if counts[name] == 1 else f"{name} ({counts[name]})"


def _counted(items: Sequence[Item]) -> str:
    kinds = [item.bundle.kind for item in items]
    said = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    total = sum(item.bundle.manifest.storage["total"] for item in items)
    return f"{len(items)} bundle{'' if len(items) == 1 else 's'}: {said}; {readable_bytes(total)} in all."


def _overview(items: Sequence[Item]) -> Html:
    columns = [(name, "left") for name in ("bundle", "kind", "method")]
    columns += [
        ("ipc", "right"),
        ("labels", "left"),
        ("bytes", "right"),
        ("best test accuracy", "right"),
        ("of", "left"),
        ("data", "left"),
    ]
    rows = [_overview_row(item) for item in items]
    return table("Bundles, in the order given", columns, rows)


def _overview_row(item: Item) -> list[Child]:
    manifest = item.bundle.manifest
    score, of = _best(manifest)
    return [
        tag("a", item.name, href=f"#{item.anchor}"),
        manifest.kind,
        _method(manifest),
        _ipc(manifest),
        _labels(manifest),
        readable_bytes(manifest.storage["total"]),
        score,
        tag("span", of, class_="v"),
        "-" if manifest.data is None else str(manifest.data["name"]),
    ]


def _method(manifest: Manifest) -> str:
    """What made the images and refined the labels; of teachers their nets."""
    if manifest.kind == "teacher":
        archs = dict.fromkeys(
            str(each.parameters.get("arch", "?")) for each in manifest.sections if each.kind == "teacher"
        )
        return ", ".join(list(archs)[:3]) or "-"
    named = [entry["config"].get("method") for entry in manifest.history]
    return " + ".join(each for each in named if isinstance(each, str)) or "-"


def _ipc(manifest: Manifest) -> str:
    record = next((each.tensors.get("images.pixels") for each in manifest.sections if each.name == "images"), None)
    if record is None or manifest.data is None:
        return "-"
    shape = record.get("packed", record)["shape"]
    each = Fraction(shape[0] if shape else 0, len(manifest.data["classes"]))
    return str(each) if each.denominator == 1 else f"{float(each):.2f}"


def _labels(manifest: Manifest) -> str:
    kinds = [each for each in manifest.sections if each.kind == "labels"]
    said = [f"{each.role or each.name} {(each.codec or {}).get('name', '')}".strip() for each in kinds]
    rich = [each for each in said if each != "hard"]
    return ", ".join(rich or said) or "-"


def _best(manifest: Manifest) -> tuple[str, str]:
    """The best mean accuracy of the bundle's own rows on all classes, and how it was scored."""
    found: list[tuple[float, str, str]] = []
    for evaluation in manifest.evaluations:
        try:
            found += [
                _told(row) for row in evaluation["results"] if row["images"] == "bundle" and "incremental" not in row
            ]
        except MALFORMED:
            continue  # shown as it stands among the bundle's scores
    if not found:
        return "-", "only class-incremental scores" if manifest.evaluations else "not scored"
    _mean, score, of = max(found, key=lambda each: each[0])
    return score, of


def _told(row: Mapping[str, Any]) -> tuple[float, str, str]:
    """A row's mean, the same with its interval, and how it came about."""
    accuracy, live = row["accuracy"], ", a live teacher" if str(row["labels"]).startswith("online") else ""
    half = accuracy["ci95"]
    spread = "" if half is None else f" ± {100 * float(half):.2f}"
    mean = float(accuracy["mean"])
    return mean, f"{100 * mean:.2f}{spread} %", f"{row['labels']}{live}, {row['arch']}, n {int(accuracy['n'])}"


def _bundle(item: Item, by_content: Mapping[str, Item]) -> Html:
    """Everything of one bundle."""
    manifest = item.bundle.manifest
    drawn = _pictures(item.bundle)
    return section(
        [item.name, tag("span", manifest.kind, class_="kind")],
        facts(_facts(item.bundle)),
        _classes(manifest),
        _unfinished(item.bundle),
        section("Images", drawn, level=3) if drawn is not None else None,
        nets(manifest),
        evaluations(manifest.evaluations),
        fidelity(manifest),
        storage(manifest),
        history(item, by_content),
        id_=item.anchor,
    )


def _pictures(bundle: Bundle) -> Html | None:
    """The images, or why this ddlabel cannot read them; the rest of a newer bundle can be shown."""
    try:
        return pictures(bundle)
    except BundleError as error:
        if error.field != "requires":
            raise
        return note(sentence(str(error)), kind="warn")


def _facts(bundle: Bundle) -> list[tuple[str, Child]]:
    manifest, data = bundle.manifest, bundle.manifest.data
    pairs: list[tuple[str, Child]] = [
        ("content", tag("span", digest(bundle.content))),
        ("bytes", readable_bytes(manifest.storage["total"])),
        ("format", ".".join(map(str, manifest.format))),
    ]
    if data is None:
        return [*pairs, ("data", "not recorded")]
    pairs += [
        ("data", f"{data['name']}, {len(data['classes'])} classes"),
        ("images are", f"{data['channels']} x {data['height']} x {data['width']}, {data['space']['kind']} space"),
    ]
    if manifest.kind != "teacher":
        said = (("ipc", _ipc(manifest)), ("method", _method(manifest)), ("labels", _labels(manifest)))
        pairs += [(name, cell) for name, cell in said if cell != "-"]
    if manifest.requires:
        pairs.append(("requires", ", ".join(manifest.requires)))
    return pairs


def _classes(manifest: Manifest) -> Html | None:
    """Names in label order, long ones and long lists cut."""
    if manifest.data is None:
        return None
    names = [clip(name) for name in manifest.data["classes"][:MOST_CLASSES]]
    left = len(manifest.data["classes"]) - len(names)
    return note("Classes: ", ", ".join(names), f" and {left} more" if left else "", ".")


def _unfinished(bundle: Bundle) -> Child:
    """How far an unfinished run is."""
    if bundle.kind != "partial":
        return None
    try:
        lines = progress(bundle)
        said: Mapping[str, Any] = bundle.section("state.progress").parameters if lines else {}
        share = int(said["done"]) / int(said["total"]) if said else 0.0
    except MALFORMED:
        lines, share = [], 0.0
    if not lines:
        return note("Unfinished; how far its run came is not recorded.", kind="warn")
    return [note(lines[0][:1].upper() + lines[0][1:] + ".", kind="warn"), bar(share, "done")]
