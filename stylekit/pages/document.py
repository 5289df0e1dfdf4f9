"""The scaffolding that all pages share: head, sections, tables, tiles."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        anchor: Its id.
        title: Its heading, HTML.
        content: Its HTML; a section without any is left out.
    """

    anchor: str
    title: str
    content: str


@dataclass(frozen=True)
class Document:
    """A whole page; every part is HTML, but `title` is text.

    Attributes:
        title: What the browser's tab says.
        header: What stands above the links to the sections.
        sections: In order; empty ones are left out.
        footer: The last lines.
        styles: Style sheets beyond the one all pages share.
        scripted: Whether sliders and films come alive (`page.js`); without it the page holds no script.
    """

    title: str
    header: str
    sections: Sequence[Section]
    footer: str
    styles: Sequence[str] = ()
    scripted: bool = False

    def __str__(self) -> str:
        """Return the page: it may load nothing, and run no script but its own."""
        shown = [section for section in self.sections if section.content]
        links = " ".join(f'<a href="#{section.anchor}">{section.title}</a>' for section in shown)
        body = "\n".join(
            f'<section id="{each.anchor}" aria-labelledby="{each.anchor}-title"><h2 id="{each.anchor}-title">{each.title}</h2>\n'
            f"{each.content}\n</section>"
            for each in shown
        )
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        script = ""
        if self.scripted:
            source = resource("page.js")
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            policy += f"; script-src 'sha256-{digest}'"
            script = f"<script>{source}</script>\n"
        style = "\n".join([resource("page.css"), resource("charts.css"), *self.styles])
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(self.title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
{self.header}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
<footer>{self.footer}</footer>
{script}</body>
</html>
"""


def resource(name: str) -> str:
    """Return a style sheet or script that lies beside this file."""
    return files("stylekit.pages").joinpath(name).read_text("utf-8")


def tiles(values: Mapping[str, str]) -> str:
    """Return large figures in a row, each above its name; both are text."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="tiles">{rows}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str | None = None) -> str:
    """Return a table of text that scrolls inside itself where it is too wide.

    Args:
        head: Its columns.
        rows: As many cells each.
        label: What a screen reader calls it; the first column by default.
    """
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows)
    names = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return wide(f"<table><tr>{names}</tr>{body}</table>", label or head[0])


def wide(content: str, label: str) -> str:
    """Return HTML in a box that scrolls inside itself, by keyboard too."""
    return f'<div class="wide" role="region" aria-label="{escape(label, quote=True)}" tabindex="0">{content}</div>'


def paragraphs(texts: Iterable[str], style: str = "note") -> str:
    """Return each text as a paragraph of that class."""
    return "\n".join(f'<p class="{style}">{escape(text)}</p>' for text in texts)
