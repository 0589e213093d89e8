"""Names and messages that may be anybody's, for a terminal and for a log."""

import re

_UNUSUAL = re.compile(r"[^\n\t -~]")
"""Most lines have none of it, and are left alone at once."""


def printable(text: str, *, keep: str = "\n") -> str:
    """The text, with escapes for what is no character to be seen, but those to keep.

    So a name in somebody's data cannot break a table, or command the terminal.
    """
    if keep == "\n\t" and _UNUSUAL.search(text) is None:
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )
