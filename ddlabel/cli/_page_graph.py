"""How the bundles of a page come from each other: stages as boxes, left to right, joined by content digests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ._page import Child, Html, note, section, tag
from ._page_history import Item, link, states

__all__ = ["graph", "lineage"]

MOST_NODES = 60
BOX = (168, 44)
"""Width and height of a box in pixels."""
GAP = (46, 16)
"""Pixels between boxes, across and down."""
EDGE_PX = 6
"""Around the picture."""
LETTERS = 22
"""That fit a line of a box."""


@dataclasses.dataclass
class _Node:
    """One state of a bundle, whether its file was given or not."""

    title: str
    below: str
    item: Item | None = None
    made: bool = False
    """Whether a history that was given says how."""
    layer: int = 0
    place: float = 0.0


def lineage(items: Sequence[Item], by_content: Mapping[str, Item]) -> Html:
    """The picture, and the same in words: what each bundle was made of."""
    return section(
        "Provenance",
        tag("p", "Boxes are bundles and the states between their stages, from left to right.", class_="lead"),
        graph(items),
        tag("ul", [tag("li", _sentence(item, by_content)) for item in items], class_="plain"),
        id_="provenance",
    )


def graph(items: Sequence[Item]) -> Html:
    """The picture, or a note where it would be too large to be read."""
    nodes, edges = _collect(items)
    if len(nodes) > MOST_NODES:
        return note(f"{len(nodes)} states are too many for a picture; the list below has the bundles.")
    width, height = _place(nodes, edges)
    label = "Graph of the bundles and the states between them; the list after it says the same in words"
    inside: list[Child] = [_tip()]
    inside += [_edge(nodes[source], nodes[target]) for source, target in edges]
    inside += [_box(node) for node in nodes.values()]
    picture = tag(
        "svg",
        inside,
        class_="graph",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="group",
        aria_label=label,
    )
    return tag("div", picture, class_="scroll", tabindex=0, role="region", aria_label=label)


def _collect(items: Sequence[Item]) -> tuple[dict[str, _Node], list[tuple[str, str]]]:
    """Nodes by content digest, and edges from what went in to what came out."""
    nodes: dict[str, _Node] = {}
    edges: dict[tuple[str, str], None] = {}
    for item in items:
        before: str | None = None
        for place, (entry, content) in enumerate(zip(item.bundle.manifest.history, states(item.bundle), strict=True)):
            key = content or f"{item.anchor}.{place}"  # a state whose digest nothing says
            node = nodes.setdefault(key, _Node("", ""))
            node.title, node.below, node.made = _named(entry), f"{item.bundle.kind} {key[:10]}", True
            sources = [each["content"] for each in entry["inputs"]]
            for each in entry["inputs"]:
                nodes.setdefault(each["content"], _Node(each["kind"], f"not given, {each['content'][:10]}"))
            if place and before is not None and before not in sources:
                sources.insert(0, before)
            edges.update({(source, key): None for source in sources if source != key})
            before = key
    for item in items:
        node = nodes[item.bundle.content]
        node.item, node.below = item, f"{node.title}, {item.bundle.content[:10]}"
        node.title = item.name
    return nodes, list(edges)


def _named(entry: Mapping[str, Any]) -> str:
    """A stage and what it used."""
    config = entry["config"]
    said = next((config[key] for key in ("method", "kind", "protocol", "arch") if isinstance(config.get(key), str)), "")
    return f"{entry['stage']} {said}".strip()


def _place(nodes: Mapping[str, _Node], edges: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Give every node its layer and its place in it; the size of the picture.

    Layers are longest paths. Digests cannot form a ring, but what a file says can: as many rounds as nodes end it.
    """
    for _round in nodes:
        late = [(source, target) for source, target in edges if nodes[target].layer <= nodes[source].layer]
        if not late:
            break
        for source, target in late:
            nodes[target].layer = min(nodes[source].layer + 1, len(nodes))
    layers: dict[int, list[str]] = {}
    for key, node in nodes.items():
        layers.setdefault(node.layer, []).append(key)
    for place, layer in enumerate(sorted(layers)):  # a ring leaves holes
        for key in layers[layer]:
            nodes[key].layer = place
            above = [nodes[source].place for source, target in edges if target == key and nodes[source].layer < place]
            nodes[key].place = sum(above) / len(above) if above else float(len(nodes))
        ordered = sorted(layers[layer], key=lambda key: nodes[key].place)
        lowest = -1.0
        for key in ordered:
            nodes[key].place = lowest = max(lowest + 1, round(nodes[key].place) if place else lowest + 1)
    rows = int(max(node.place for node in nodes.values())) + 1
    (wide, tall), (across, down) = BOX, GAP
    return (len(layers) * (wide + across) - across + 2 * EDGE_PX, rows * (tall + down) - down + 2 * EDGE_PX)


def _corner(node: _Node) -> tuple[float, float]:
    return (EDGE_PX + node.layer * (BOX[0] + GAP[0]), EDGE_PX + node.place * (BOX[1] + GAP[1]))


def _tip() -> Html:
    path = tag("path", d="M0 0L7 3.5L0 7z", class_="tip")
    return tag("defs", tag("marker", path, id="tip", markerWidth=7, markerHeight=7, refX=7, refY="3.5", orient="auto"))


def _edge(source: _Node, target: _Node) -> Html:
    (x0, y0), (x1, y1) = _corner(source), _corner(target)
    x0, y0, y1 = x0 + BOX[0], y0 + BOX[1] / 2, y1 + BOX[1] / 2
    bend = GAP[0] / 2
    path = f"M{x0:.0f} {y0:.0f}C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1 - 1:.0f} {y1:.0f}"
    return tag("path", d=path, class_="edge", marker_end="url(#tip)")


def _box(node: _Node) -> Html:
    x, y = _corner(node)
    kind = "given" if node.item else "made" if node.made else "absent"
    frame = tag("rect", x=f"{x:.0f}", y=f"{y:.0f}", width=BOX[0], height=BOX[1], rx=5)
    title = tag("text", _short(node.title), x=f"{x + 10:.0f}", y=f"{y + 18:.0f}")
    below = tag("text", _short(node.below, 27), x=f"{x + 10:.0f}", y=f"{y + 34:.0f}", class_="under")
    whole = tag("title", f"{node.title}: {node.below}")
    if node.item is None:
        return tag("g", whole, frame, title, below, class_=f"node {kind}")
    return tag("a", tag("g", whole, frame, title, below, class_=f"node {kind}"), href=f"#{node.item.anchor}")


def _short(text: str, most: int = LETTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _sentence(item: Item, by_content: Mapping[str, Item]) -> list[Child]:
    """A bundle, its last stage, and what went into it."""
    entry = item.bundle.manifest.history[-1]
    inputs = entry["inputs"]
    said: list[Child] = [tag("a", item.name, href=f"#{item.anchor}"), ": ", _named(entry)]
    for place, each in enumerate(inputs[:6]):
        said += [", " if place else " of ", link(each["content"], by_content, each["kind"])]
    if len(inputs) > 6:
        said.append(f" and {len(inputs) - 6} more")
    return said
