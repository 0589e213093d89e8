"""A page as its reader has it: the text of its sections."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """The text of each section of a page; `tags` are all that it has, `images` their addresses."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sections: dict[str, str] = {"": ""}
        self.tags: list[str] = []
        self.images: list[str] = []
        self._open: list[str] = []
        self._section = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [], "an element is not closed"
        self.sections = {name: " ".join(text.split()) for name, text in self.sections.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = values["id"] or ""
            self.sections[self._section] = ""
        if tag == "img":
            self.images.append(values["src"] or "")
        assert not [name for name in values if name.startswith("on")], "a handler in the markup"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["script"]):
            self.sections[self._section] += f" {data}"
