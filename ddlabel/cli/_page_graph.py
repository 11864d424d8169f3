"""How the bundles of a page come from each other: stages as boxes, left to right, joined by content digests."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ._page import Child, Html, clip, note, section, tag
from ._page_history import Item, link, states

__all__ = ["graph", "lineage"]

MOST_NODES = 60
BOX = (190, 44)
"""Width and height of a box in pixels."""
GAP = (46, 16)
"""Pixels between boxes, across and down."""
EDGE_PX = 6
"""Around the picture."""
LETTERS = (21, 27)
"""That fit the lines of a box."""


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
        "How they come from each other",
        tag("p", "Boxes are bundles and the states between their stages, from left to right.", class_="lead"),
        graph(items),
        tag("ul", [tag("li", _sentence(item, by_content)) for item in items], class_="plain"),
        id_="lineage",
    )


def graph(items: Sequence[Item]) -> Html:
    """The picture, or a note where it would be too large to be read."""
    nodes, edges = _collect(items)
    if len(nodes) > MOST_NODES:
        return note(f"{len(nodes)} states are too many for a picture; the list below has the bundles.")
    _layers(nodes, edges)
    paths = _paths(nodes, edges)
    width, height = _place(nodes, paths)
    label = "Graph of the bundles and the states between them; the list after it says the same in words"
    inside: list[Child] = [_tip()]
    inside += [_edge(path) for path in paths]
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
        if node.item is not None:
            node.below = f"also {item.name}"
            continue
        node.item, node.below, node.title = item, node.title, item.name
    return nodes, list(edges)


def _named(entry: Mapping[str, Any]) -> str:
    """A stage and what it used."""
    config = entry["config"]
    said = next((config[key] for key in ("method", "kind", "protocol", "arch") if isinstance(config.get(key), str)), "")
    return f"{entry['stage']} {said}".strip()


def _layers(nodes: Mapping[str, _Node], edges: Sequence[tuple[str, str]]) -> None:
    """Give every node its layer: the longest path to it.

    Digests cannot form a ring, but what a file says can: as many rounds as there are nodes end it.
    """
    for _round in nodes:
        late = [(source, target) for source, target in edges if nodes[target].layer <= nodes[source].layer]
        if not late:
            break
        for source, target in late:
            nodes[target].layer = min(nodes[source].layer + 1, len(nodes))
    used = {layer: place for place, layer in enumerate(sorted({node.layer for node in nodes.values()}))}
    for node in nodes.values():
        node.layer = used[node.layer]


def _paths(nodes: Mapping[str, _Node], edges: Sequence[tuple[str, str]]) -> list[list[_Node]]:
    """Edges as the places they pass: one in every layer on the way, shared by edges of one source."""
    passed: dict[tuple[str, int], _Node] = {}
    paths = []
    for source, target in edges:
        between = range(nodes[source].layer + 1, nodes[target].layer)
        lanes = [passed.setdefault((source, layer), _Node("", "", layer=layer)) for layer in between]
        paths.append([nodes[source], *lanes, nodes[target]])
    return paths


def _place(nodes: Mapping[str, _Node], paths: Sequence[Sequence[_Node]]) -> tuple[int, int]:
    """Give nodes, and places that edges pass, a row in their layer near what they come from; size of the picture."""
    everything = list(
        {id(node): node for node in (*nodes.values(), *(each for path in paths for each in path))}.values()
    )
    before: dict[int, list[_Node]] = {}
    for source, target in (pair for path in paths for pair in itertools.pairwise(path)):
        if source.layer < target.layer:
            before.setdefault(id(target), []).append(source)
    layers = 1 + max(node.layer for node in everything)
    for layer in range(layers):
        own = [node for node in everything if node.layer == layer]
        for node in own:
            above = [source.place for source in before.get(id(node), ())]
            node.place = sum(above) / len(above) if above else float(len(everything) if layer else 0)
        lowest = -1
        for node in sorted(own, key=lambda each: each.place):
            lowest = max(lowest + 1, round(node.place) if before.get(id(node)) else 0)
            node.place = lowest
    rows = 1 + max(int(node.place) for node in everything)
    (wide, tall), (across, down) = BOX, GAP
    return layers * (wide + across) - across + 2 * EDGE_PX, rows * (tall + down) - down + 2 * EDGE_PX


def _corner(node: _Node) -> tuple[float, float]:
    return (EDGE_PX + node.layer * (BOX[0] + GAP[0]), EDGE_PX + node.place * (BOX[1] + GAP[1]))


def _tip() -> Html:
    path = tag("path", d="M0 0L7 3.5L0 7z", class_="tip")
    return tag("defs", tag("marker", path, id="tip", markerWidth=7, markerHeight=7, refX=7, refY="3.5", orient="auto"))


def _edge(path: Sequence[_Node]) -> Html:
    """A curve from box to box, straight through the layers between them."""
    bend = GAP[0] / 2
    parts: list[str] = []
    for source, target in itertools.pairwise(path):
        (x0, y0), (x1, y1) = _corner(source), _corner(target)
        x0, y0, y1 = x0 + BOX[0], y0 + BOX[1] / 2, y1 + BOX[1] / 2
        parts.append(f"{'L' if parts else 'M'}{x0:.0f} {y0:.0f}")
        parts.append(f"C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1 - 1:.0f} {y1:.0f}")
    return tag("path", d="".join(parts), class_="edge", marker_end="url(#tip)")


def _box(node: _Node) -> Html:
    x, y = _corner(node)
    kind = "given" if node.item else "made" if node.made else "absent"
    frame = tag("rect", x=f"{x:.0f}", y=f"{y:.0f}", width=BOX[0], height=BOX[1], rx=5)
    title = tag("text", clip(node.title, LETTERS[0]), x=f"{x + 10:.0f}", y=f"{y + 18:.0f}")
    below = tag("text", clip(node.below, LETTERS[1]), x=f"{x + 10:.0f}", y=f"{y + 34:.0f}", class_="under")
    whole = tag("title", f"{node.title}: {node.below}")
    if node.item is None:
        return tag("g", whole, frame, title, below, class_=f"node {kind}")
    return tag("a", tag("g", whole, frame, title, below, class_=f"node {kind}"), href=f"#{node.item.anchor}")


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
