"""Downloads: over https alone, and compared with a checksum, whatever a server answers."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from detengine.checkpoint import download
from detengine.checkpoint.catalog import find_weights
from fault_record import Record
from https_server import Server

pytestmark = pytest.mark.faults

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DETENGINE_CACHE", "TORCH_MODEL_ZOO", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "DETENGINE_CACHE"


@pytest.fixture
def plain_server() -> Iterator[Server]:
    server = Server(None)
    server.files["/a.pth"] = CONTENT
    yield server
    server.close()


def test_no_address_is_asked_that_is_not_encrypted_or_has_no_checksum(
    server: Server, plain_server: Server, record_fault: Record
) -> None:
    server.files["/a.pth"] = CONTENT
    authority = server.address.removeprefix("https://")
    refused = {
        f"{plain_server.address}/a.pth#sha256={SHA256}": "is not encrypted.*expected https://",
        f"{plain_server.address}/a-{SHA256[:8]}.pth": "is not encrypted",
        f"ftp://127.0.0.1/a.pth#sha256={SHA256}": "no address of a known kind",
        f"file:///etc/hostname#sha256={SHA256}": "no address of a known kind",
        "data:///,weights": "no address of a known kind",
        f"{server.address}/a.pth": "has no checksum.*#sha256=<64 hexadecimal digits>",
        f"{server.address}/a.pth?x=1": "has no checksum",
        f"{server.address}/a.pth#sha256={SHA256[:63]}": "expected #sha256= and 64",
        f"{server.address}/a.pth#md5={OTHER[:32]}": "expected #sha256= and 64",
        f"https://user:word@{authority}/a.pth#sha256={SHA256}": "a user's name or password",
        f"{server.address}/a.pth.sha256#sha256={SHA256}": "names no file of weights",
        f"{server.address}/%2e%2e#sha256={SHA256}": "names no file of weights",
        f"{server.address}/a%1b.pth#sha256={SHA256}": "names no file of weights",
    }
    for address, message in refused.items():
        with pytest.raises(ValueError, match=message) as error:
            find_weights(address)
        assert "word" not in str(error.value).replace("password", "")
    assert server.requests == plain_server.requests == []
    record_fault(
        "Security",
        "addresses that are not safe",
        made="http, ftp, file and data; https without a checksum, with half of one, with a "
        "password, with the name of a checksum's file",
        promised="refused with the cure; no server is asked",
        tried=f"{len(refused)} addresses",
        happened=f"{len(refused)} refused, no request",
    )


@pytest.mark.parametrize("name", ["..%2f..%2fa.pth", "..%5c..%5ca.pth", "c%3aa.pth", "a%20b.pth"])
def test_a_files_name_cannot_leave_the_cache(name: str, server: Server, cache: Path) -> None:
    server.files[f"/{name}"] = CONTENT
    path = find_weights(f"{server.address}/{name}#sha256={SHA256}")
    assert path.parent == cache
    assert not set("/\\:") & set(path.name)


def test_whatever_a_server_does_nothing_is_kept_but_the_file_that_was_meant(
    server: Server,
    plain_server: Server,
    cache: Path,
    make_certificate: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    record_fault: Record,
) -> None:
    server.files |= {"/a.pth": CONTENT, "/cut.pth": CONTENT, "/b.pth": b"others"}
    server.redirects |= {
        "/to_http.pth": f"{plain_server.address}/a.pth",
        "/to_ftp.pth": "ftp://127.0.0.1/a.pth",
        "/to_file.pth": "file:///etc/hostname",
        "/round.pth": "/round.pth",
        "/on.pth": "/b.pth",
    }
    server.dripping |= {"/stalls.pth": 5.0, "/drips.pth": 0.05}
    not_trusted = Server(make_certificate())
    not_trusted.files["/a.pth"] = CONTENT
    refused = {
        f"{server.address}/to_http.pth": "sends on to http://.*no https:// address",
        f"{server.address}/to_ftp.pth": "sends on to ftp://",
        f"{server.address}/to_file.pth": "url .file:.* is not allowed",
        f"{server.address}/round.pth": "infinite loop",
        f"{server.address}/on.pth": f"but {SHA256} was expected; nothing was kept",
        f"{server.address}/gone.pth": "HTTP Error 404",
        f"{server.address}/b.pth": f"but {SHA256} was expected; nothing was kept",
        f"{not_trusted.address}/a.pth": "CERTIFICATE_VERIFY_FAILED",
        "https://127.0.0.1:9/a.pth": "refused",
    }
    for address, message in refused.items():
        with pytest.raises((ValueError, OSError), match=message):
            find_weights(f"{address}#sha256={SHA256}")
    not_trusted.close()
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    for address in (f"{server.address}/stalls.pth", f"{server.address}/drips.pth"):
        with pytest.raises(OSError, match=r"timed out|only .* bytes came in"):
            find_weights(f"{address}#sha256={SHA256}")
    monkeypatch.setattr(download, "TIMEOUT", 30)
    server.announce_more = 3
    with pytest.raises(OSError, match="7000 of 7003 bytes came"):
        find_weights(f"{server.address}/cut.pth#sha256={SHA256}")
    server.announce_more = 0
    monkeypatch.setattr(download, "MOST_BYTES", 6999)
    with pytest.raises(OSError, match="more than 6,999 bytes came"):
        find_weights(f"{server.address}/a.pth#sha256={SHA256}")
    assert list(cache.iterdir()) == []
    assert plain_server.requests == []
    monkeypatch.setattr(download, "MOST_BYTES", 7000)
    assert find_weights(f"{server.address}/a.pth#sha256={SHA256}").read_bytes() == CONTENT
    record_fault(
        "Security",
        "servers that mean harm",
        made="a server that sends on to http, ftp or a file, in a ring or to another file; whose "
        "certificate is its own; that stalls, drips, breaks off, sends too much, or another file",
        promised="an error with the address and the cure; nothing is kept",
        tried=f"{len(refused) + 4} answers",
        happened=f"{len(refused) + 4} refused, the cache empty",
    )


def test_what_a_hub_says_of_a_file_it_sends_on_for_is_compared(server: Server, cache: Path) -> None:
    """Of timm's models no checksum is known before."""
    server.files["/far"] = CONTENT
    server.redirects["/model.safetensors"] = "/far"
    for digest, fits in ((OTHER, False), (SHA256, True)):
        server.headers["X-Linked-Etag"] = f'"{digest}"'
        aside = cache.parent / f"{digest}.part"
        told = download.download(f"{server.address}/model.safetensors", aside)
        assert told == digest
        assert (hashlib.sha256(aside.read_bytes()).hexdigest() == told) is fits


def test_eight_digits_at_the_end_of_a_name_are_a_checksum_and_a_date_is_told_from_them(
    server: Server,
) -> None:
    server.files |= {f"/a-{SHA256[:8]}.pth": CONTENT, "/a-20240131.pth": CONTENT}
    assert find_weights(f"{server.address}/a-{SHA256[:8]}.pth").read_bytes() == CONTENT
    with pytest.raises(ValueError, match=r"but 20240131 was expected.*unless #sha256= follows"):
        find_weights(f"{server.address}/a-20240131.pth")
    path = find_weights(f"{server.address}/a-20240131.pth#sha256={SHA256}")
    assert path.read_bytes() == CONTENT


def test_a_signature_behind_a_question_mark_is_written_nowhere(
    server: Server, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/a.pth"] = CONTENT
    caplog.set_level("INFO", "detengine")
    path = find_weights(f"{server.address}/a.pth?sig=secret#sha256={SHA256}")
    assert server.requests == ["/a.pth?sig=secret"]
    written = [each.read_text(errors="replace") for each in cache.iterdir()]
    with pytest.raises(OSError, match="could not be downloaded") as error:
        find_weights(f"{server.address}/b.pth?sig=secret#sha256={SHA256}")
    assert not any("secret" in text for text in (*written, caplog.text, str(error.value)))
    again = find_weights(f"{server.address}/a.pth#sha256={SHA256}")  # as a record has it
    assert again == path


def test_many_processes_that_want_one_file_at_once_all_get_it_whole(
    server: Server, cache: Path, times: Callable[[int, int], int], record_fault: Record
) -> None:
    """Threads here, whose downloads stand beside each other as processes' do."""
    server.files["/a.pth"] = CONTENT
    rounds = times(1, 20)
    for number in range(rounds):
        server.files[f"/{number}/a{number}.pth"] = CONTENT
        address = f"{server.address}/{number}/a{number}.pth#sha256={SHA256}"
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _, address=address: find_weights(address), range(8)))
        assert {path.read_bytes() for path in found} == {CONTENT}
    assert not list(cache.glob("*.part"))
    record_fault(
        "Security",
        "a download at the same time",
        made="8 that want one file",
        promised="each gets it whole",
        tried=f"{rounds} times 8",
        happened=f"{rounds * 8} whole files, no leftovers",
    )
