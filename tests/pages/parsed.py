"""Pages read back."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags of a page, with what they refer to; fails where they do not close each other."""

    VOID = ("meta", "link", "img", "br", "input", "rect", "line", "circle", "polyline", "polygon")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str, style: str = "") -> list[dict[str, str | None]]:
        """Return what the tags of a name say, of those with a class if one is given."""
        return [attrs for name, attrs in self.tags if name == tag and (not style or style in (attrs.get("class") or "").split())]

    @property
    def sections(self) -> set[str | None]:
        return {attrs.get("id") for attrs in self.of("section")}


def check_whole(page: Page) -> None:
    """See that a page needs nothing from outside, and that everything in it is named."""
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        source = attrs.get("src") or "data:"
        assert source.startswith("data:"), (tag, source)
        target = attrs.get("href") or "#"
        assert target.startswith(("data:", "#", "../")), (tag, target)
        assert target[0] != "#" or target[1:] in ["", *ids]
        assert tag != "img" or attrs["alt"]
        if tag == "svg":
            assert attrs["role"] == "img"
            assert set((attrs["aria-labelledby"] or "").split()) <= set(ids)
