"""HTML by plain function calls: every text is escaped unless it was made here, every tag that opens closes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, TypeAlias

from ..manifest import printable

__all__ = [
    "MALFORMED",
    "Child",
    "Html",
    "capital",
    "clip",
    "data_uri",
    "document",
    "facts",
    "listing",
    "note",
    "section",
    "sentence",
    "table",
    "tag",
    "tolerant",
    "trusted",
]

EMPTY = frozenset({"br", "img", "link", "meta"})
"""Tags without an end."""
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a record of another shape than this version writes leads to; the format leaves these records open."""
MOST_LETTERS = 20_000
"""Of a record that is shown as it stands."""


class Html(str):
    """Markup made by this module; any other text is escaped where it is put in."""

    __slots__ = ()


Child: TypeAlias = "str | Html | Iterable[Child] | None"
"""What stands inside a tag: texts, markup, several of them, or nothing."""


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """One element.

    Args:
        name: of the element.
        children: texts are escaped, control and bidirectional characters shown as escapes.
        attributes: an underscore at the end is dropped, others stand for hyphens; None and False leave one out, True
            writes its name alone.

    Returns:
        The markup with its end tag, where its kind has one.
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in EMPTY:
        return Html(f"<{head}>")
    return Html(f"<{head}>{_inside(children)}</{name}>")


def trusted(markup: str) -> Html:
    """Markup of another module that escapes for itself, such as an SVG picture."""
    return Html(markup)


def table(
    title: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Child]], *, row_heads: bool = True
) -> Html:
    """A table that scrolls inside itself where it is wider than the page.

    Args:
        title: said above it, and the name of the region that scrolls.
        columns: (name, `left` or `right`).
        rows: cells.
        row_heads: whether the first cell of a row names it.
    """
    sides = [f"n{' w' if name == '' else ''}" if side == "right" else "" for name, side in columns]
    head = tag(
        "tr", [tag("th", name, scope="col", class_=side) for (name, _), side in zip(columns, sides, strict=True)]
    )
    body = [
        tag(
            "tr",
            [
                tag("th", cell, scope="row", class_=side) if row_heads and place == 0 else tag("td", cell, class_=side)
                for place, (cell, side) in enumerate(zip(row, sides, strict=True))
            ],
        )
        for row in rows
    ]
    inside = tag("table", tag("caption", title), tag("thead", head), tag("tbody", body))
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=title)


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Names and what they are, side by side."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", said)) for name, said in pairs])


def note(*children: Child, kind: str = "") -> Html:
    """A remark below what it is about; `warn` for what must not be missed."""
    return tag("p", *children, class_=f"note {kind}".rstrip())


def section(title: Child, *children: Child, level: int = 2, id_: str | None = None) -> Html:
    """A part of the page under its heading."""
    return tag("section", tag(f"h{level}", title), *children, id=id_)


def listing(record: Any) -> Html:
    """A record as it stands, as indented JSON; of a long one the beginning."""
    text = json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False, default=str)
    more = "" if len(text) <= MOST_LETTERS else f"\n… {len(text) - MOST_LETTERS} more characters"
    lines = (text[:MOST_LETTERS] + more).split("\n")
    return tag("pre", Html("\n".join(escape(printable(line)) for line in lines)), tabindex=0)


def sentence(text: str) -> str:
    """A line with a capital and a full stop."""
    return capital(text.strip().removesuffix(".")) + "."


def tolerant(what: str, record: Any, draw: Callable[[], Child]) -> Child:
    """A part of the page, or the record as it stands where it has not the shape that this version writes."""
    try:
        return draw()
    except MALFORMED:
        return [
            note(f"{what}: a record of another form than this ddlabel writes; it says:", kind="warn"),
            listing(record),
        ]


def clip(text: str, most: int = 60) -> str:
    """A text, or its beginning where it is longer than so many letters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def capital(text: str) -> str:
    """A line with a capital; a name with a dot stays as it is spelled."""
    return text if "." in text.split(":")[0] else text[:1].upper() + text[1:]


def data_uri(media: str, data: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"


def document(title: str, style: str, *body: Child) -> Html:
    """The whole page. Its policy allows its own style and embedded pictures: no script, no network, no form."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return Html(f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n")


def _attribute(key: str, value: str | int | bool | None) -> str:
    if value is None or value is False or (key == "class_" and value == ""):
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(printable(str(value)))}"'


def _inside(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return escape(printable(child))
    return "".join(map(_inside, child))
