"""What a bundle spends its bytes on, what its labels lost to their codecs, and the nets of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._inspect_tables import PRIVATE, costs, features, holds
from ._page import Child, Html, note, section, sentence, table, tag, tolerant
from ._tables import percent, readable_bytes

if TYPE_CHECKING:
    from ..manifest import Manifest, Section

__all__ = ["bar", "fidelity", "nets", "storage"]

MOST_SECTIONS = 40
MOST_NETS = 60
BAR = (144, 11)
"""Width and height of a bar in pixels."""
MEASURES = (
    ("kl_t1", "KL, T 1"),
    ("kl_t20", "KL, T 20"),
    ("cosine", "cosine"),
    ("top1_agreement", "top-1 agreement"),
    ("top1_probability_error", "top-1 probability error"),
    ("entropy_shift", "entropy shift"),
    ("relative_rms", "relative rms"),
    ("max_error", "bound: largest error"),
)
"""Fidelity by its name in the manifest, and the head of its column; divergences and entropies in nats."""


def bar(share: float, what: str) -> Html:
    """A bar that is filled to a share in [0, 1]; the number stands beside it."""
    width, height = BAR
    filled = width * min(max(share, 0.0), 1.0)
    ground = tag("rect", class_="ground", width=width, height=height)
    part = tag("rect", class_="part", width=f"{filled:.1f}", height=height)
    box = f"0 0 {width} {height}"
    return tag("svg", ground, part, class_="bar", viewBox=box, role="img", aria_label=f"{what}: {100 * share:.1f} %")


def storage(manifest: Manifest) -> Html:
    """Every section and the container, with bars; overheads by three rules."""
    report = manifest.storage
    total = max(1, report["total"])
    largest = sorted(manifest.sections, key=lambda each: -report["sections"][each.name]["stored"])
    shown = {section.name for section in largest[:MOST_SECTIONS]}
    rows = [_section_row(each, report, total) for each in manifest.sections if each.name in shown]
    left = [each.name for each in manifest.sections if each.name not in shown]
    if left:
        stored = sum(report["sections"][name]["stored"] for name in left)
        raw = sum(report["sections"][name]["raw"] for name in left)
        rows.append(_row(f"{len(left)} smaller sections", "left out here", "", raw, stored, total))
    for part in ("header", "manifest", "padding", "unlisted"):
        size = report["container"][part]
        if size or part != "unlisted":
            rows.append(_row(part, "container", "", None, size, total))
    rows.append(["total", "", "", "", readable_bytes(report["total"]), "100.0 %", "", ""])
    columns = [(name, "left") for name in ("section", "holds", "codec")]
    columns += [(name, "right") for name in ("raw", "stored", "share", "bits/view")] + [("of the file", "left")]
    notes = [note(sentence(line)) for line in (*costs(report), *_feature_costs(manifest))]
    private = [note("Note: " + said + ".", kind="warn") for kind, said in PRIVATE.items() if _any(manifest, kind)]
    return section("Bytes", table("Where the bytes of the file go", columns, rows), notes, private, level=3)


def fidelity(manifest: Manifest) -> Html | None:
    """What decoded labels keep of those that were made, as it was measured when they were stored."""
    labels = [each for each in manifest.sections if each.kind == "labels"]
    rich = [each for each in labels if each.name != "labels.hard"]
    if not rich:
        return None
    used = [(key, head) for key, head in MEASURES if any(key in _measured(each) for each in rich)]
    columns = [(name, "left") for name in ("labels", "codec", "domain")]
    columns += [(name, "right") for name in ("views", "bits/view", *(head for _key, head in used))]
    rows = [
        [
            each.name.removeprefix("labels."),
            _codec(each),
            each.domain or "-",
            str(each.views or "-"),
            _bits(manifest, each),
            *(_number(key, _measured(each).get(key)) for key, _head in used),
        ]
        for each in rich
    ]
    said: list[Child] = [table("Decoded labels against those that were made", columns, rows)]
    said += [note(f"{each.name}: {_refined(each)}.") for each in rich if each.refined]
    said += [
        note(f"{each.name} is stale: the images changed since it was made.", kind="warn") for each in rich if each.stale
    ]
    if not used:
        said.append(note("No fidelity is recorded."))
    elif "kl_t1" in dict(used):
        said.append(note("KL divergence and entropy in nats. Means over all labelled views; the bound is the largest."))
    return section("Label fidelity", said, level=3)


def nets(manifest: Manifest) -> Html | None:
    """Checkpoints of a teacher and recorded trajectories; None where there are none."""
    checkpoints = [each for each in manifest.sections if each.kind == "teacher"]
    paths = [each for each in manifest.sections if each.kind == "trajectory"]
    parts: list[Child] = []
    if checkpoints:
        parts.append(
            tolerant("checkpoints", [dict(each.parameters) for each in checkpoints], lambda: _nets(checkpoints))
        )
    if paths:
        parts.append(tolerant("trajectories", [dict(each.parameters) for each in paths], lambda: _paths(paths)))
    return section("Nets", parts, level=3) if parts else None


def _nets(checkpoints: Sequence[Section]) -> Child:
    names = list(dict.fromkeys(name for each in checkpoints for name in each.parameters.get("accuracy", {})))
    columns = [("checkpoint", "left"), ("net", "left"), ("member", "right"), ("epoch", "right"), ("seed", "right")]
    columns += [(f"{name} accuracy", "right") for name in names] + [("bytes", "right")]
    rows = [
        [
            each.name,
            str(each.parameters.get("arch", "?")),
            *(str(each.parameters.get(key, "-")) for key in ("member", "epoch", "seed")),
            *(percent(each.parameters.get("accuracy", {}).get(name)) for name in names),
            readable_bytes(_bytes(each)),
        ]
        for each in checkpoints[:MOST_NETS]
    ]
    return [table("Checkpoints", columns, rows), _left_out(checkpoints)]


def _paths(paths: Sequence[Section]) -> Child:
    columns = [("trajectory", "left"), ("net", "left"), ("epochs", "right"), ("points", "right")]
    columns += [("optimiser", "left"), ("test accuracy at its end", "right"), ("seed", "right"), ("bytes", "right")]
    rows = [_path(each) for each in paths[:MOST_NETS]]
    return [table("Expert trajectories", columns, rows), _left_out(paths)]


def _path(each: Section) -> list[Child]:
    said, epochs = each.parameters, each.parameters.get("epochs") or []
    recipe = said.get("recipe") or {}
    return [
        each.name,
        str(said.get("arch", "?")),
        f"{epochs[0]} to {epochs[-1]}" if epochs else "-",
        str(len(epochs)),
        " ".join(str(recipe[key]) for key in ("optimizer", "lr") if key in recipe) or "-",
        percent((said.get("accuracy") or {}).get("test")),
        str(said.get("seed", "-")),
        readable_bytes(_bytes(each)),
    ]


def _left_out(sections: Sequence[Section]) -> Html | None:
    left = len(sections) - MOST_NETS
    return note(f"{left} more are left out here; inspect --json lists them all.") if left > 0 else None


def _section_row(each: Section, report: Mapping[str, Any], total: int) -> list[Child]:
    sizes, bits = report["sections"][each.name], report["bits_per_view"].get(each.name)
    try:
        said = holds(each) + (", STALE" if each.stale else "")
    except (AttributeError, LookupError, TypeError, ValueError):  # parameters are open to newer versions
        said = f"{each.kind}, {len(each.tensors)} tensor(s)"
    codec = str((each.codec or {}).get("name", ""))
    return _row(each.name, said, codec, sizes["raw"], sizes["stored"], total, "" if bits is None else f"{bits:.1f}")


def _row(name: str, said: str, codec: str, raw: int | None, stored: int, total: int, bits: str = "") -> list[Child]:
    share = stored / total
    sizes = ["" if raw is None else readable_bytes(raw), readable_bytes(stored), f"{100 * share:.1f} %"]
    return [name, said, codec, *sizes, bits, bar(share, name)]


def _feature_costs(manifest: Manifest) -> list[str]:
    try:
        return features(manifest)
    except (AttributeError, LookupError, TypeError, ValueError):
        return []


def _any(manifest: Manifest, kind: str) -> bool:
    return any(each.kind == kind for each in manifest.sections)


def _measured(each: Section) -> Mapping[str, float | None]:
    measured: Mapping[str, float | None] = each.record.get("fidelity") or {}
    return measured


def _codec(each: Section) -> str:
    codec = each.codec or {}
    said = ", ".join(f"{name}={value}" for name, value in sorted((codec.get("parameters") or {}).items()))
    return str(codec.get("name", "-")) + (f" ({said[:80]})" if said else "")


def _bits(manifest: Manifest, each: Section) -> str:
    bits = manifest.storage["bits_per_view"].get(each.name)
    return "-" if bits is None else f"{bits:.1f}"


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "top1_agreement":
        return f"{100 * value:.2f} %"
    return f"{value:.6f}" if key == "cosine" else f"{value:.3g}"


def _refined(each: Section) -> str:
    said = dict(each.refined or {})
    method = said.pop("method", "unknown")
    options = ", ".join(f"{name} {value}" for name, value in sorted(said.items()))
    return f"refined by {method}" + (f" ({options})" if options else "")


def _bytes(each: Section) -> int:
    return int(sum(record["bytes"] for record in each.tensors.values()))
