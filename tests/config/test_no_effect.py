import logging
from collections.abc import Iterator

import pytest

from detengine.config import no_effect
from detengine.config.load import load_config
from detengine.config.no_effect import keys_without_effect

KEYS = {
    "AMP_VERBOSE": True,
    "PATHS_CATALOG": "/somewhere/paths_catalog.py",
    "MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM": 512,
    "MODEL.ROI_KEYPOINT_HEAD.MLP_HEAD_DIM": 512,
}


@pytest.fixture(autouse=True)
def nothing_said_yet() -> Iterator[None]:
    """As in a fresh process."""
    said_before = set(no_effect._warned)
    no_effect._warned.clear()
    yield
    no_effect._warned.update(said_before)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelno) == ("detengine.config", logging.WARNING)
    ]


def test_these_keys_are_without_effect() -> None:
    assert {".".join(path) for path, _ in keys_without_effect()} == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key_without_effect_is_said_once(
    caplog: pytest.LogCaptureFixture, key: str
) -> None:
    for _ in range(2):
        load_config(None, [key, KEYS[key]])
    (message,) = said(caplog)
    assert message.startswith(f"command line: {key} has no effect: ")


def test_the_default_and_what_is_not_given_are_not_said(caplog: pytest.LogCaptureFixture) -> None:
    load_config(None, ["AMP_VERBOSE", "False", "PATHS_CATALOG", ""])
    assert said(caplog) == []


def test_a_catalog_of_the_predecessor_is_not_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("catalog")
    catalog = folder / "paths_catalog.py"
    catalog.write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert str(catalog) == load_config(None, ["PATHS_CATALOG", catalog]).PATHS_CATALOG
    assert not (folder / "ran").exists()
