"""How `inspect` draws a bundle: what it is, where its bytes go, what they cost, how it came to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..manifest import printable
from ..storage import equal_ipc, feature_size
from ._calibration import print_calibration
from ._diagnostics import print_diagnostics
from ._ranking import print_ranking
from ._tables import console, percent, plain_table, print_evaluations, readable_bytes

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..manifest import Manifest, Section

__all__ = ["PRIVATE", "costs", "features", "holds", "print_bundle", "print_diff", "progress", "readable_flops"]

PRIVATE = {
    "teacher": "holds teacher weights: they can reveal training data; publish without them where that matters",
    "trajectory": "holds expert trajectories: they can reveal training data",
}


_OTHER_FORM = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What drawing a free record runs into where a key is missing or a value is of another type."""


def print_bundle(bundle: Bundle, *, verified: bool) -> None:
    """One bundle: headline, bytes, overheads, history, scores."""
    out = console()
    manifest = bundle.manifest
    out.print(_headline(bundle, verified), style="bold", overflow="fold")
    for line in [*_facts(manifest), *progress(bundle)]:
        out.print("  " + printable(line), overflow="fold")
    out.print(plain_table("", *_byte_table(manifest)))
    for line in costs(manifest.storage):
        out.print("  " + line)
    for line in features(manifest):
        out.print("  " + printable(line), overflow="fold")
    out.print("  history: " + printable(" → ".join(_step(entry) for entry in manifest.history)), overflow="fold")
    for kind, warning in PRIVATE.items():
        if any(section.kind == kind for section in manifest.sections):
            out.print(f"  note: {warning}", overflow="fold")
    scored = [(f"score {number}", score) for number, score in enumerate(manifest.evaluations, start=1)]
    drawn = {name: _draw(print_evaluations, [(name, score)]) for name, score in scored}
    for name, score in scored:
        for draw in (print_calibration, print_ranking, print_diagnostics):
            drawn[name] &= _draw(draw, name, score)
        if not drawn[name]:
            out.print(f"  {name} is in another form than this ddlabel writes; --json shows it")
    out.print()


def _draw(draw: Callable[..., None], *arguments: Any) -> bool:
    """Draw a part of an evaluation, which has no schema: whether it has the form that is drawn."""
    try:
        draw(*arguments)
    except _OTHER_FORM:
        return False
    return True


def print_diff(left: str, right: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The differences of two bundles side by side."""
    out = console()
    if not rows:
        out.print(f"{printable(left)} and {printable(right)} hold the same content")
        return
    cells = [(row["field"], _cell(row["left"]), _cell(row["right"])) for row in rows]
    out.print(plain_table("", [("field", "left"), (printable(left), "left"), (printable(right), "left")], cells))


def _headline(bundle: Bundle, verified: bool) -> str:
    version = ".".join(str(part) for part in bundle.manifest.format)
    seal = ", every digest verified" if verified else ""
    size = readable_bytes(bundle.manifest.storage["total"])
    return printable(f"{bundle.name}: {bundle.kind}, {size}, format {version}, content {bundle.content[:16]}{seal}")


def _facts(manifest: Manifest) -> list[str]:
    data = manifest.data
    if data is None:
        return ["data: not recorded"]
    shape = f"{data['channels']}x{data['height']}x{data['width']}"
    lines = [f"data: {data['name']}, {len(data['classes'])} classes of {shape}, {data['space']['kind']} space"]
    classes = ", ".join(data["classes"])
    lines.append("classes: " + (classes if len(classes) <= 200 else classes[:197] + "..."))
    if manifest.requires:
        lines.append("requires: " + ", ".join(manifest.requires))
    return lines


def progress(bundle: Bundle) -> list[str]:
    """How far an unfinished run is."""
    if bundle.kind != "partial" or not bundle.has("state.progress"):
        return []
    said, entry = bundle.section("state.progress").parameters, bundle.manifest.history[-1]
    done = f"{said.get('done', '?')} of {said.get('total', '?')} {said.get('unit', 'steps')} done"
    config = entry["config"]
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    groups = {entry["stage"]: plain} | {name: value for name, value in config.items() if isinstance(value, Mapping)}
    return [
        f"unfinished: {entry['stage']}, {done}; its command continues it with --resume",
        *(f"{name}: {_assigned(value)}" for name, value in groups.items() if value),
    ]


def _assigned(options: Mapping[str, Any]) -> str:
    """Options as one line; those that nothing was given for are left out."""
    return ", ".join(f"{name}={_cell(value)}" for name, value in options.items() if value is not None and value != [])


def _byte_table(manifest: Manifest) -> tuple[list[tuple[str, str]], list[tuple[str, ...]]]:
    storage = manifest.storage
    columns = [
        ("section", "left"),
        ("holds", "left"),
        ("codec", "left"),
        ("raw", "right"),
        ("stored", "right"),
        ("share", "right"),
        ("bits/view", "right"),
    ]
    rows = [_section_row(section, storage) for section in _grouped(manifest.sections)]
    container = storage["container"]
    for part in ("header", "manifest", "padding"):
        rows.append((part, "container", "", "", readable_bytes(container[part]), _share(container[part], storage), ""))
    rows.append(("total", "", "", "", readable_bytes(storage["total"]), "100.0 %", ""))
    return columns, rows


def _grouped(sections: Sequence[Section]) -> list[Section]:
    """All sections; the checkpoints of a teacher beyond the first ten are left to `--json`."""
    teachers = [section for section in sections if section.kind == "teacher"]
    hidden = {section.name for section in teachers[10:]}
    return [section for section in sections if section.name not in hidden]


def _section_row(section: Section, storage: Mapping[str, Any]) -> tuple[str, ...]:
    report = storage["sections"][section.name]
    bits = storage["bits_per_view"].get(section.name)
    try:
        kept = holds(section)
    except _OTHER_FORM:
        kept = f"{section.kind}, {len(section.tensors)} tensor(s)"
    return (
        section.name,
        kept + (", STALE" if section.stale else ""),
        str((section.codec or {}).get("name", "")),
        readable_bytes(report["raw"]),
        readable_bytes(report["stored"]),
        _share(report["stored"], storage),
        "" if bits is None else f"{bits:.1f}",
    )


def holds(section: Section) -> str:
    """What a section holds, in a few words."""
    shapes = [record.get("packed", record)["shape"] for record in section.tensors.values()]
    first = "x".join(str(size) for size in shapes[0]) if shapes else "-"
    if section.kind == "images":
        return f"{first} {section.range}"
    if section.kind == "labels":
        views = f", {section.views} views" if section.views and section.views > 1 else ""
        refined = ", refined" if section.refined else ""
        if feature_size(section.record) is not None:
            shape = "x".join(map(str, section.parameters["shape"]))
            return f"{section.role} labels, {shape}, K {section.views}"
        return f"{section.role} labels{views}{', ' + section.domain if section.domain else ''}{refined}"
    if section.kind == "teacher":
        accuracy = section.parameters.get("accuracy", {})
        shown = ", ".join(f"{name} {percent(value, 1)}" for name, value in accuracy.items())
        return f"{section.parameters.get('arch', 'net')}, epoch {section.parameters.get('epoch', '?')}, {shown}"
    if section.kind == "trajectory":
        epochs = section.parameters.get("epochs") or ["?"]
        return f"{section.parameters.get('arch', 'net')}, epochs {epochs[0]} to {epochs[-1]}"
    return f"{section.kind}, {len(shapes)} tensor(s)"


def _share(stored: int, storage: Mapping[str, Any]) -> str:
    return f"{100 * stored / storage['total']:.1f} %"


def costs(storage: Mapping[str, Any]) -> list[str]:
    """What labels cost beside images, by three rules, and what else the bytes would buy."""
    overhead = storage["overhead"]
    lines = []
    if any(overhead[rule] is not None for rule in ("raw", "stored", "ladd_zip")):
        rules = (("raw", "raw/raw"), ("stored", "stored/stored"), ("ladd_zip", "LADD zip"))
        lines.append("label overhead: " + ", ".join(f"{name} {percent(overhead[rule])}" for rule, name in rules))
    if storage["labels"].keys() - {"hard"}:
        lines.append(f"stored augmentation state: {readable_bytes(storage['augmentation_state'])}")
    if storage.get("equivalent_ipc") is not None:
        lines.append(f"equivalent ipc: {storage['equivalent_ipc']:.2f} plain images per class for the same bytes")
    return lines


def features(manifest: Manifest) -> list[str]:
    """Of feature and attention labels: what they are of, what they cost an image, and the plain images for that."""
    images = next((section for section in manifest.sections if section.name == "images"), None)
    if images is None or manifest.data is None:
        return []
    count = images.tensors["images.pixels"].get("packed", images.tensors["images.pixels"])["shape"][0]
    ipc, pixels = Fraction(count, len(manifest.data["classes"])), _bytes_of(images)
    lines = []
    for section in manifest.sections:
        if feature_size(section.record) is None or not count or not pixels:
            continue
        said, spent = section.parameters, _bytes_of(section)
        mode, pool, layer, arch = (_cell(said.get(name)) for name in ("mode", "pool", "layer", "arch"))
        pooled = f"{_cell(said['attention'])} attention ({pool}) of " if said.get("attention") else ""
        lines.append(f"{section.name}: {mode}, {pooled}layer {layer} of {arch}")
        shrunk, grown = equal_ipc(ipc, pixels, spent)
        bought = f"equal bytes: plain ipc {grown} (grow), or ipc {shrunk} with them (shrink)"
        lines.append(f"  {spent / count:.1f} bytes an image, {spent / pixels:.2f} of its own; {bought}")
    return lines


def _bytes_of(section: Section) -> int:
    return int(sum(record["bytes"] for record in section.tensors.values()))


def _step(entry: Mapping[str, Any]) -> str:
    config = entry["config"]
    named = config.get("method") or config.get("kind") or config.get("arch") or config.get("protocol") or ""
    if isinstance(named, list):
        named = ",".join(str(item) for item in named)
    flops = (entry["metrics"].get("flops") or {}) if isinstance(entry["metrics"].get("flops"), dict) else {}
    work = sum(value for key, value in flops.items() if key != "forward" and isinstance(value, int))
    spent = f"{entry['time']['seconds']:.0f} s" + (f", {readable_flops(work)}" if work else "")
    return f"{entry['stage']}{f' {named}' if named else ''} ({spent})"


def readable_flops(count: int) -> str:
    """Floating point operations with a decimal unit: 2.15 TFLOP, 0.67 PFLOP."""
    power = min(max((len(str(count)) - 1) // 3, 2), 6)
    return f"{count / 1000**power:.3g} {'  MGTPE'[power]}FLOP"


def _cell(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
