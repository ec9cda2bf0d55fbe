"""An HTML page as a tree that tests can ask."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Node:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, dict(attributes), parent
        self.children, self.texts = [], []

    def __getitem__(self, key):
        return self.attributes.get(key)

    def every(self, *tags):
        """All nodes below with one of these tags, in the page's order."""
        for child in self.children:
            if not tags or child.tag in tags:
                yield child
            yield from child.every(*tags)

    @property
    def text(self):
        """The words in it."""
        return " ".join(" ".join(self._words()).split())

    def _words(self):
        for part in self.texts:
            yield part if isinstance(part, str) else part.text


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = self.at = Node("", (), None)

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes, self.at)
        self.at.children.append(node)
        self.at.texts.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag, attributes):
        node = Node(tag, attributes, self.at)
        self.at.children.append(node)

    def handle_endtag(self, tag):
        assert tag == self.at.tag, f"<{self.at.tag}> is closed by </{tag}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.texts.append(data)


def parse(text):
    """The page's root; an AssertionError where an element is closed by another one's end."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.at is parser.root, f"<{parser.at.tag}> is never closed"
    return parser.root
