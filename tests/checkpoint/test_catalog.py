import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detengine.checkpoint.catalog import (
    SHA256,
    cache_folder,
    find_kept,
    find_source,
    find_weights,
)
from https_server import Server

SHARED = Path(__file__).parents[2] / "../shared"
CATALOGS = SHARED / "golden/small/catalogs.json"
RECORDED = json.loads(CATALOGS.read_text())["models"] if CATALOGS.exists() else {}
R50 = "catalog://ImageNetPretrained/MSRA/R-50"


def checked(server: Server, path: str) -> str:
    """The address of what the server has at a path, with its checksum."""
    return f"{server.address}{path}#sha256={hashlib.sha256(server.files[path]).hexdigest()}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder; the predecessor's is the folder `old` beside it."""
    monkeypatch.setenv("DETENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_MODEL_ZOO", str(tmp_path / "old"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.mark.skipif(not RECORDED, reason="../shared is absent")
@pytest.mark.parametrize("name", RECORDED)
def test_a_name_has_the_address_it_had_in_the_predecessor(name: str) -> None:
    source = find_source(f"catalog://{name}")
    assert source is not None
    assert source.address == RECORDED[name]


def test_caffe2s_models_do_not_overwrite_each_other() -> None:
    names = ("35858933/e2e_mask_rcnn_R-50-FPN_1x", "35861795/e2e_mask_rcnn_R-101-FPN_1x")
    sources = [find_source(f"catalog://Caffe2Detectron/COCO/{name}") for name in names]
    files = [source.file_name for source in sources if source]
    assert len(set(files)) == 2
    assert all("/" not in file and file.endswith("model_final.pkl") for file in files)


def test_a_path_stays_what_it_is() -> None:
    assert find_source("runs/a/model_final.pth") is None
    assert find_weights("runs/a/model_final.pth") == Path("runs/a/model_final.pth")


def test_an_unknown_name_gets_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"R-55 is not .* mean catalog://\S+/R-50\? .*/R-101-GN,"):
        find_weights("catalog://ImageNetPretrained/MSRA/R-55")


@pytest.mark.parametrize("fragment", ["sha256=12", "md5=" + "0" * 64])
def test_a_checksum_that_is_none_is_refused(fragment: str) -> None:
    with pytest.raises(ValueError, match=rf"ends with #{fragment}; expected #sha256= and 64"):
        find_weights(f"https://example.org/a.pth#{fragment}")


@pytest.mark.parametrize("path", ["", "..", "x/%2e%2e", "a%00b.pth"])
def test_an_address_without_a_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=rf"https://example\.org/{path} names no file"):
        find_weights(f"https://example.org/{path}")


def test_a_broken_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"https://\[::1/x\.pth is no address: Invalid IPv6 URL"):
        find_weights("https://[::1/x.pth")


@pytest.mark.parametrize("name", ["s3://b/x.pth", "file:///x.pth", "hf://a/b", "catalog:/x"])
def test_an_address_of_another_kind_is_no_path(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is no address of a known kind; .*timm://"):
        find_source(name)
    assert find_source("C:/x.pth") is None


def test_a_file_is_downloaded_once_with_its_checksum_beside_it(server: Server, cache: Path) -> None:
    server.files["/some/a.pth"] = b"weights"
    address = checked(server, "/some/a.pth")
    for _ in range(2):
        path = find_weights(address)
        assert (path, path.read_bytes()) == (cache / "a.pth", b"weights")
    assert server.requests == ["/some/a.pth"]
    digest = hashlib.sha256(b"weights").hexdigest()
    assert (cache / "a.pth.sha256").read_text() == f"{digest}  a.pth\n"
    assert {file.name for file in cache.iterdir()} == {"a.pth", "a.pth.sha256", "a.pth.address"}


def test_what_is_kept_is_found_and_nothing_is_downloaded_for_it(server: Server) -> None:
    server.files["/x.pth"] = b"weights"
    address = checked(server, "/x.pth")
    assert find_kept(address) is None
    assert server.requests == []
    assert find_kept("x.pth") == Path("x.pth")
    assert find_weights(address) == find_kept(address)


def test_two_addresses_with_one_file_name_are_two_files(server: Server) -> None:
    server.files |= {"/one/a.pth": b"one", "/two/a.pth": b"two"}
    for _ in range(2):
        for name in ("one", "two"):
            assert find_weights(checked(server, f"/{name}/a.pth")).read_text() == name
    assert server.requests == ["/one/a.pth", "/two/a.pth"]


def test_damage_is_noticed_at_every_use(server: Server, cache: Path) -> None:
    server.files["/a.pth"] = b"weights"
    find_weights(checked(server, "/a.pth"))
    (cache / "a.pth").write_bytes(b"weighTs")
    for address in (checked(server, "/a.pth"), f"{server.address}/a.pth"):
        with pytest.raises(ValueError, match=r"cache/a\.pth are damaged, or are others: .*Delete"):
            find_weights(address)


def test_a_given_checksum_is_compared(server: Server, cache: Path) -> None:
    server.files["/a.pth"] = b"weights"
    address, digest = f"{server.address}/a.pth", hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(ValueError, match=f"sha256 {digest}, but {'0' * 64} was expected; nothing"):
        find_weights(f"{address}#sha256={'0' * 64}")
    assert not (cache / "a.pth").exists()
    assert find_weights(f"{address}#sha256={digest.upper()}").read_bytes() == b"weights"
    with pytest.raises(ValueError, match="are damaged, or are others"):
        find_weights(f"{address}#sha256={'0' * 64}")


def test_a_download_that_breaks_off_leaves_nothing(server: Server, cache: Path) -> None:
    server.files["/a.pth"] = b"weights"
    server.announce_more = 3
    with pytest.raises(OSError, match=r"could not be downloaded: 7 of 10 bytes came"):
        find_weights(checked(server, "/a.pth"))
    assert list(cache.iterdir()) == []


def test_without_the_file_and_the_net_one_error_says_what_to_do(
    server: Server, cache: Path
) -> None:
    address = f"{server.address}/a.pth#sha256={'0' * 64}"
    with pytest.raises(OSError, match="could not be downloaded") as error:
        find_weights(address)
    for part in (
        f"{server.address}/a.pth",
        "HTTP Error 404",
        f"Looked for {cache}/a.pth and ",
        f"put it at {cache}/a.pth",
        "MODEL.WEIGHT",
    ):
        assert part in str(error.value)
    server.close()
    with pytest.raises(OSError, match=r"could not be downloaded: .*refused"):
        find_weights(address)


def test_a_file_put_there_by_hand_is_taken(cache: Path) -> None:
    cache.mkdir()
    (cache / "a.pth").write_bytes(b"mine")
    assert find_weights("https://example.org/x/a.pth") == cache / "a.pth"


def test_the_predecessors_own_downloads_are_taken(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    source = find_source("catalog://Caffe2Detectron/COCO/35857197/e2e_faster_rcnn_R-50-C4_1x")
    assert source is not None
    (tmp_path / "old" / source.file_name).write_bytes(b"old")
    name = "catalog://Caffe2Detectron/COCO/35857197/e2e_faster_rcnn_R-50-C4_1x"
    assert find_weights(name).read_bytes() == b"old"


def test_another_addresss_file_is_not_taken_for_an_old_download_of_its_name(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a.pth").write_bytes(b"old")
    server.files["/a.pth"] = b"new"
    with pytest.raises(ValueError, match="has no checksum"):
        find_weights(f"{server.address}/a.pth")


def test_an_empty_checksum_is_none(server: Server, cache: Path) -> None:
    server.files["/a.pth"] = b"weights"
    find_weights(checked(server, "/a.pth"))
    (cache / "a.pth.sha256").write_text("")
    assert find_weights(f"{server.address}/a.pth") == cache / "a.pth"


def test_a_wrong_file_under_a_known_name_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / "R-50.pkl").write_bytes(b"not it")
    with pytest.raises(ValueError, match="are damaged, or are others"):
        find_weights(R50)


@pytest.mark.skipif(not (SHARED / "weights/R-50.pkl").exists(), reason="../shared is absent")
def test_the_known_checksum_is_that_of_the_published_file(cache: Path) -> None:
    cache.mkdir()
    (cache / "R-50.pkl").symlink_to((SHARED / "weights/R-50.pkl").resolve())
    assert find_weights(R50) == cache / "R-50.pkl"
    assert len(SHA256) == 1


def test_the_cache_is_in_the_home_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DETENGINE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/detengine/weights"


def test_rank_0_downloads_and_all_ranks_get_the_file_or_the_error(
    server: Server, certificate: Path, tmp_path: Path, run_ranks: Callable[..., list[str]]
) -> None:
    server.files["/a.pth"] = b"weights"
    program = Path(__file__).parent / "catalog_program.py"
    run_ranks(2, program, tmp_path, certificate, checked(server, "/a.pth"))
    texts = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("weights\nOSError: the weights https://127.0.0.1")
    assert server.requests == ["/a.pth", "/a.pth.missing"]


def test_each_machine_fetches_once_into_a_cache_of_its_own(
    server: Server, certificate: Path, tmp_path: Path, run_ranks: Callable[..., list[str]]
) -> None:
    server.files["/a.pth"] = b"weights"
    program = Path(__file__).parent / "catalog_program.py"
    run_ranks(2, program, tmp_path, certificate, checked(server, "/a.pth"), "apart")
    texts = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert [text.splitlines()[0] for text in texts] == ["weights"] * 2
    assert all((tmp_path / f"cache{rank}/a.pth").is_file() for rank in range(2))
    assert server.requests == ["/a.pth", "/a.pth", "/a.pth.missing"]


def test_machines_that_share_a_cache_fetch_once_together(
    server: Server, certificate: Path, tmp_path: Path, run_ranks: Callable[..., list[str]]
) -> None:
    server.files["/a.pth"] = b"weights"
    program = Path(__file__).parent / "catalog_program.py"
    run_ranks(2, program, tmp_path, certificate, checked(server, "/a.pth"), "sharing")
    assert server.requests == ["/a.pth", "/a.pth.missing"]
