"""HTML and SVG as text: every string that is not itself made here is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is markup already. Only `tag` and `joined` make it, so nothing else enters a page unescaped."""


def tag(name: str, *content: str | float, **attributes: object) -> Markup:
    """`<name attributes>content</name>`; `class_` for class, `_` for a dash, None for an attribute left out.

    >>> tag("a", "1 < 2", href='x"y', class_="b")
    '<a href="x&quot;y" class="b">1 &lt; 2</a>'
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{shown}>{joined(content)}</{name}>")


def joined(content: Iterable[str | float]) -> Markup:
    """Pieces one after the other, those that are no markup escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(_text(c)) for c in content))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)
