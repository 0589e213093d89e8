from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from detengine.config.errors import ConfigError
from detengine.config.yaml_files import read_mapping, write_mapping

Write = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "SEED: 1\nDTYPE: float32\nSEED: 2\n",
            "SEED stands twice in one section, in lines 1 and 3",
        ),
        ("SOLVER: {GAMMA: 0.1, GAMMA: 0.2}\n", "GAMMA stands twice .* in lines 1 and 1"),
        ("SOLVER: [1, 2\n", "is no valid YAML: .*line 2"),
        ("- a\n- b\n", r"the file holds list \['a', 'b'\]; expected keys with values"),
        ("words\n", "the file holds str 'words'; expected keys"),
        ("SOLVER: {1: 2}\n", "SOLVER has the key 1; expected text"),
        ("A: !!python/object/apply:os.getcwd []\n", "is no valid YAML: .*python/object"),
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused(write: Write, text: str, message: str) -> None:
    path = write("a.yaml", text)
    with pytest.raises(ConfigError, match=rf"(?s)a\.yaml: .*{message}"):
        read_mapping(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        read_mapping(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        read_mapping(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"OUTPUT_DIR: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read \(not UTF-8 text"):
        read_mapping(tmp_path / "latin.yaml")


def test_an_empty_file_gives_nothing(write: Write) -> None:
    assert read_mapping(write("a.yaml", "# SEED: 1\n")) == {}


def test_a_merge_key_may_be_overridden(write: Write) -> None:
    text = """
        outer: {inner: &inner {<<: &base {x: 1, y: 1}, x: 2}}
        last: {<<: *inner, y: 3}
    """
    values = read_mapping(write("a.yaml", text))
    assert values == {"outer": {"inner": {"x": 2, "y": 1}}, "last": {"x": 2, "y": 3}}


def test_of_several_merged_mappings_the_first_wins(write: Write) -> None:
    text = """
        first: &first {RATE: 1, STEPS: 1}
        second: &second {RATE: 2, ITERATIONS: 2}
        both: {<<: [*first, *second], STEPS: 3}
    """
    values = read_mapping(write("a.yaml", text))
    assert values["both"] == {"RATE": 1, "ITERATIONS": 2, "STEPS": 3}


def test_merges_of_merges_do_not_grow_without_end(write: Write) -> None:
    lines = ["a0: &a0 {KEY: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], K{n}: 1}}" for n in range(1, 60)]
    values = read_mapping(write("a.yaml", "\n".join(lines)))
    assert len(values["a59"]) == 60


def test_a_mapping_merged_into_itself_is_what_it_was(write: Write) -> None:
    assert read_mapping(write("a.yaml", "a: &a {<<: *a, KEY: 1}")) == {"a": {"KEY": 1}}


@pytest.mark.parametrize("merged", ["1", "[1]", "[[{KEY: 1}]]"])
def test_a_merge_of_what_is_no_mapping_is_an_error(write: Write, merged: str) -> None:
    with pytest.raises(ConfigError, match="<< in line 1 merges what is no mapping"):
        read_mapping(write("a.yaml", f"a: {{<<: {merged}}}"))


def test_what_is_written_has_neither_anchors_nor_sorted_keys() -> None:
    shared = (1, 2)
    text = write_mapping({"B": shared, "A": shared})
    assert text == "B: [1, 2]\nA: [1, 2]\n"
    assert yaml.safe_load(text) == {"B": [1, 2], "A": [1, 2]}


def test_line_breaks_of_every_kind_survive_writing() -> None:
    text = " \n a\r\nb \x85 \u2028 c\t"
    assert yaml.safe_load(write_mapping({"A": text, "B": [text, "caf\u00e9"]})) == {
        "A": text,
        "B": [text, "caf\u00e9"],
    }
