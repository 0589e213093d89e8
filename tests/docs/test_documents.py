"""Every document does what it says: its commands and programs run, in order, in an empty folder.

One thing is put in the place of what it says: MAX_ITER, and a sweep's number of trials, is 2
wherever a number of it stands.
"""

import re
from pathlib import Path

import pytest

from detengine.config.errors import known_keys
from docs.documents import follow, steps_of
from processes import ForkServer

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENTS = sorted(DOCS.glob("*.md"))
SLOW = {"sweep.md", "tutorial.md", "your_model.md"}
ELSEWHERE = {"export.md"}
"""Its program begins with an exported model; tests/test_exporting.py runs it on one."""
FOLLOWED = [
    pytest.param(path, id=path.name, marks=[pytest.mark.slow] * (path.name in SLOW))
    for path in DOCUMENTS
    if path.name not in ELSEWHERE and any(steps_of(path.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("path", FOLLOWED)
def test_a_document_does_what_it_says(path: Path, tmp_path: Path, fork_server: ForkServer) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    follow(path.read_text(encoding="utf-8"), folder, fork_server)


def test_a_step_that_fails_is_a_failure_of_the_document(
    tmp_path: Path, fork_server: ForkServer
) -> None:
    (tmp_path / "empty").mkdir()
    document = "```console\n$ detengine train \\\n      -c absent.yaml\n```\n"
    with pytest.raises(AssertionError, match=r"exit code 1 from[^$]*absent.yaml"):
        follow(document, tmp_path / "empty", fork_server)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_names_keys_that_exist(path: Path) -> None:
    known = {key for key, _ in known_keys()}
    text = path.read_text(encoding="utf-8")
    sections = "|".join(sorted({key.split(".")[0] for key in known if "." in key}))
    named = set(re.findall(rf"\b(?:{sections})(?:\.[A-Z][A-Z0-9_]*)+\b", text))
    named = {key for key in named if not key.startswith("DATASETS.DEFINE.")}
    assert named <= known, sorted(named - known)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_documents_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(#[^)\s]+)?\)", path.read_text(encoding="utf-8"))
    broken = [
        target
        for target, _ in links
        if not target.startswith("https://") and not (path.parent / target).exists()
    ]
    assert not broken
