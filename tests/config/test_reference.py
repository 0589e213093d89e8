import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detengine.config.conventions import defaults
from detengine.config.errors import known_keys
from detengine.config.reference import (
    PAGE_FILE,
    SCHEMA_FILE,
    json_schema,
    parts,
    reference_page,
    type_in_words,
    write_documents,
)

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads(json_schema())


@pytest.mark.parametrize("name", [SCHEMA_FILE, PAGE_FILE])
def test_the_committed_document_is_the_generated_one(tmp_path: Path, name: str) -> None:
    write_documents(tmp_path)
    assert (DOCS / name).read_text() == (tmp_path / name).read_text(), (
        "run: detengine config --schema > docs/config.schema.json; "
        "detengine config --reference > docs/configuration.md"
    )


def property_of(key: str) -> dict[str, Any]:
    """What the JSON Schema says of a dotted key."""
    section = SCHEMA
    *above, name = key.split(".")
    for part in above:
        (reference, _) = section["properties"][part]["anyOf"]
        section = SCHEMA["$defs"][reference["$ref"].split("/")[-1]]
    found: dict[str, Any] = section["properties"][name]
    return found


def all_keys() -> Iterator[str]:
    return (key for key, description in known_keys() if description is not None)


def test_every_key_is_in_the_schema_and_on_the_page() -> None:
    page = reference_page()
    for key in all_keys():
        section, _, name = key.rpartition(".")
        assert property_of(key)["description"]
        title = f"## `{section}`" if section else "## At the top"
        table = page.split(f"{title}\n")[1].split("\n## ")[0]
        assert f"| `{name}` | " in table, key


def test_numbers_that_count_or_measure_say_what() -> None:
    without = {
        f"{part.path}.{option.name}".lstrip(".")
        for part in parts()
        for option in part.options
        if re.search("integer", type_in_words(option.schema)) and not option.unit
    }
    # FBNet's blocks are chosen, or have a stride of their own
    assert {key for key in without if not key.startswith("MODEL.FBNET.")} == {"SEED"}


def test_the_limits_that_only_catch_slips_stand_in_the_schema_and_once_in_the_page() -> None:
    assert property_of("MODEL.RESNETS.STEM_OUT_CHANNELS")["maximum"] == 65536
    page = reference_page()
    assert "| `STEM_OUT_CHANNELS` | integer >= 1 | " in page
    assert "of pixels, channels, classes and images, 65,536." in page


def test_a_property_names_default_unit_and_what_has_no_effect() -> None:
    assert property_of("SOLVER.MAX_ITER") == {
        "minimum": 0,
        "maximum": 1_000_000_000,
        "type": "integer",
        "description": "Iterations of the whole run. [iterations] Default: 40000; modern: 90000.",
    }
    assert "Has no effect: a configuration runs no" in property_of("PATHS_CATALOG")["description"]
    assert property_of("MODEL.GROUP_NORM.NUM_GROUPS")["minimum"] == -1
    assert property_of("MODEL.RPN.BATCH_SIZE_PER_IMAGE")["minimum"] == 1


def test_lists_may_be_the_predecessors_tuples() -> None:
    as_list, as_text = property_of("SOLVER.STEPS")["anyOf"]
    assert as_list["type"] == "array"
    for text in ("(60000, 80000)", "(60000,)", "()", "[1, 2]"):
        assert re.search(as_text["pattern"], text)
    for text in ("60000", "fast", "(60000"):
        assert not re.search(as_text["pattern"], text)


def test_unknown_keys_are_refused_and_a_base_is_known() -> None:
    assert SCHEMA["additionalProperties"] is False
    assert "_BASE_" in SCHEMA["properties"]


def test_the_page_shows_both_defaults_where_they_differ() -> None:
    page = reference_page()
    assert "| `BASE_LR` | number > 0 | `0.001` | `0.02` |  | The learning rate after" in page
    assert "| `GAMMA` | number > 0 | `0.1` |  |  | multistep: the factor" in page
    assert "**Has no effect**: this head has no fully connected layers." in page
    assert "$schema=path/to/docs/config.schema.json" in page
    assert "- `coco_2014_minival`\n" in page
    assert defaults("modern")["SOLVER"]["BASE_LR"] == 0.02


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "integer >= 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number > 0 and <= 1"),
        ({"enum": ["", "bn"], "type": "string"}, '`""` or `bn`'),
        ({"type": "array", "items": {"type": "string"}}, "list of text"),
        ({"type": "array", "minItems": 1, "items": {"type": "number"}}, "1 or more of number"),
        ({"type": "array", "prefixItems": [{"type": "boolean"}] * 2}, "(true or false, true or f"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or None"),
    ],
)
def test_types_are_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert type_in_words(schema).startswith(words)
