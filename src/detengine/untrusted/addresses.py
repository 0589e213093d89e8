"""Web addresses, as far as they may be shown and written down."""

import re

_QUERY = re.compile(r"(\w+://[^\s?#'\"]*)\?[^\s#'\"]*")
_USER = re.compile(r"(\w+://)[^\s/?#'\"]*@")


def without_secrets(text: str) -> str:
    """The text, whose addresses have no user and nothing behind a question mark any more.

    A signed address has its signature there, and whoever has that may fetch the file.
    """
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))
