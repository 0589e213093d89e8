"""A web server on this machine, encrypted by a certificate of its own, that answers as it is told.

It needs the program openssl, which makes the certificate; where that is missing, tests are skipped.
"""

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Server:
    """files: by path. requests: the paths asked for. redirects: by path, the address to go on to.
    headers: beside the length, of every answer. announce_more: bytes that are not sent then.
    dripping: by path, the seconds between each two of the bytes that never end.
    """

    def __init__(self, certificate: Path | None) -> None:
        """certificate: a file with it and its key; None: not encrypted."""
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.announce_more = 0
        self.dripping: dict[str, float] = {}
        self.is_open = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client left
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.address = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.is_open = False
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path)
            if self.path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[self.path])
                self._end_headers()
            elif self.path in server.dripping:
                self.send_response(200)
                self._end_headers()
                while server.is_open:
                    self.wfile.write(b"x")
                    time.sleep(server.dripping[self.path])
            elif self.path.partition("?")[0] in server.files:
                content = server.files[self.path.partition("?")[0]]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content) + server.announce_more))
                self._end_headers()
                self.wfile.write(content)
            else:
                self.send_error(404)

        def _end_headers(self) -> None:
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """() -> a new file with a certificate of this machine that nobody trusts, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")

    def make() -> Path:
        path = tmp_path_factory.mktemp("certificate") / "own.pem"
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
        command = ["openssl", "req", *kind, "-days", "2", *names, *files]
        subprocess.run(command, check=True, capture_output=True)
        with path.open("ab") as file:
            file.write(path.with_suffix(".crt").read_bytes())
        return path

    return make


@pytest.fixture(scope="session")
def certificate(make_certificate: Callable[[], Path]) -> Path:
    return make_certificate()


@pytest.fixture(name="server")
def https_server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """It is trusted by this process for the test's time."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Server(certificate)
    yield server
    server.close()
