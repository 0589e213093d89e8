"""One file over https, from servers that may send anything, too much of it, or nothing at all."""

import re
import time
import urllib.request
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError

from detengine.untrusted.addresses import without_secrets

HTTPS = "https://"
TIMEOUT = 30
"""Seconds without an answer before a server is given up."""
LEAST_RATE = 1000
"""Bytes a second, on average, below which a server is given up after TIMEOUT."""
MOST_BYTES = 16 << 30
"""No detector's weights are larger."""
_CHUNK = 1 << 20
_LINKED = "X-Linked-Etag"
"""What Hugging Face says of a file that it sends on for: its sha256, in quotes."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends on to, if that is encrypted, too. linked: the sha256 that the
    server said before, if it did."""

    linked: str | None = None

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(HTTPS):
            fp.close()  # it holds the connection
            shown = without_secrets(newurl)
            raise OSError(f"the server sends on to {shown}, which is no https:// address")
        digest = re.fullmatch(r'"?([0-9a-f]{64})"?', str(headers.get(_LINKED, "")))
        if digest:
            self.linked = digest[1]
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(address: str, aside: Path) -> str | None:
    """Write what is at the address into a new file; gives the sha256 that the server told, if any.

    Raises OSError where it is no https:// address, or is sent on to another; if the server's
    certificate is none, or it does not answer, refuses, sends less than it announced, for ever, or
    too slowly ever to end; ValueError or HTTPException for what is no answer.
    """
    if not address.startswith(HTTPS):
        raise OSError("it is no https:// address")
    handler = _HttpsOnly()
    request = urllib.request.Request(address, headers={"User-Agent": "detengine"})
    try:
        answer: Any = urllib.request.build_opener(handler).open(request, timeout=TIMEOUT)
    except HTTPError as refusal:
        refusal.close()  # it holds the connection
        raise
    with answer, aside.open("xb") as file:
        received = _copy(answer, file)
    announced = answer.headers.get("Content-Length")
    if announced is not None and received != int(announced):
        raise OSError(f"{received} of {announced} bytes came")
    return handler.linked


def _copy(answer: HTTPResponse, file: IO[bytes]) -> int:
    """The number of bytes."""
    began, received = time.monotonic(), 0
    while chunk := answer.read1(_CHUNK):
        received += file.write(chunk)
        seconds = time.monotonic() - began
        if received > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES:,} bytes came")
        if seconds > TIMEOUT and received < LEAST_RATE * seconds:
            raise OSError(f"only {received:,} bytes came in {seconds:.0f} seconds")
    return received
