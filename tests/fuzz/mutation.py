"""Mutations that keep a file's form, so that they come past the first look at it."""

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
    -(1 << 63), 10**30, 0.5, -0.0, 1.5, 1e9, 1e19, 1e300, -1e300, 1e-320, float("nan"),
    float("inf"),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "a", "1", "\0", "é\u2028\U0001f600", "x" * 4000, "../a", [],
    {}, [[]], [1] * 600, [0, 0], {"a": 1}, [None], [True],
)  # fmt: skip
Node = tuple[Any, Any]
"""A container, and the key or the index of something in it."""


def mutated_tree(tree: Any, generator: Random, names: Sequence[str]) -> Any:
    """The lists, dictionaries and plain values with one to four changes. names: likely keys."""
    whole = [tree]
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        nodes = list(_nodes(whole))
        container, key = generator.choice(nodes)
        change = generator.choice(_CHANGES)
        change(container, key, generator, nodes, names)
        if not whole:
            return None
    return whole[0]


def _nodes(container: Any) -> Any:
    stack = [container]
    while stack:
        each = stack.pop()
        keys = range(len(each)) if isinstance(each, list) else list(each)
        for key in keys:
            yield each, key
            if isinstance(each[key], list | dict):
                stack.append(each[key])


def _replace(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    container[key] = copied(generator.choice(VALUES))


def _renumber(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    value = container[key]
    if isinstance(value, int | float) and abs(value) < 1e300:
        others = (value + 1, value - 1, -value, 2 * value, value * 0.5, value != 0, str(value))
        container[key] = generator.choice((*others, *NUMBERS))
    elif isinstance(value, str) and value:
        at = generator.randrange(len(value))
        container[key] = value[:at] + generator.choice("0o/~ \nZ") + value[at + 1 :]


def _delete(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    del container[key]


def _copy_other(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    other, at = generator.choice(nodes)
    container[key] = copied(other[at])


def _swap(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    other, at = generator.choice(nodes)
    container[key], other[at] = copied(other[at]), copied(container[key])


def _repeat(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    count = generator.choice((1, 1, 2, 60))
    if isinstance(container, list):
        container[key:key] = [copied(container[key]) for _ in range(count)]
    else:
        container[key] = [copied(container[key]) for _ in range(count)]


def _add(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    value = copied(generator.choice(VALUES))
    if isinstance(container, list):
        container.insert(key, value)
    elif names:
        container[generator.choice(names)] = value


def _rename(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    if isinstance(container, dict) and names:
        container[generator.choice(names)] = container.pop(key)


def _nest(container: Any, key: Any, generator: Random, nodes: Any, names: Any) -> None:
    value = container[key]
    for _ in range(generator.choice((1, 1, 2, 50, 1000))):
        value = [value] if generator.random() < 0.8 else {"a": value}
    container[key] = value


_CHANGES: tuple[Callable[..., None], ...] = (
    *[_replace] * 4, *[_renumber] * 4, *[_copy_other] * 2, _delete, _delete, _swap, _repeat, _add,
    _add, _rename, _nest,
)  # fmt: skip


def copied(value: Any) -> Any:
    """A copy of lists and dictionaries, however deep; at most some thousand levels of it."""
    if isinstance(value, list):
        return [copied(each) for each in value] if _depth_is_small(value) else []
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()} if _depth_is_small(value) else {}
    return value


def _depth_is_small(value: Any) -> bool:
    for _ in range(300):
        if not isinstance(value, list | dict) or not value:
            return True
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
    return False


def mutated_json(data: bytes, generator: Random, names: Sequence[str]) -> bytes:
    """JSON of another tree; of what is no JSON, and every sixth time, with other words."""
    if generator.random() < 0.85:
        try:
            tree = mutated_tree(json.loads(data), generator, names)
            return json.dumps(tree, ensure_ascii=False).encode(errors="surrogatepass")
        except (ValueError, RecursionError):
            pass
    return mutated_words(data, generator, _JSON_WORD, JSON_WORDS)


_JSON_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|[\[\]{},:]|\w+|\s+|.', re.DOTALL)
JSON_WORDS = (
    b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"1e999", b"-", b"NaN", b'"\\ud800"',
    b'"\xff"', b'"\\u0000"', b"[" * 1100, b"/**/", b"\xef\xbb\xbf", b'"id":1,', b"0x1", b"01",
    b"9" * 400,
)  # fmt: skip


def mutated_words(
    data: bytes, generator: Random, word: re.Pattern[bytes], known: Sequence[bytes]
) -> bytes:
    """The text with one to four of its words gone, doubled, exchanged or replaced."""
    words = word.findall(data)
    for _ in range(generator.choice((1, 1, 2, 4))):
        at = generator.randrange(len(words) + 1)
        other = generator.randrange(len(words) + 1)
        start, stop = min(at, other), max(at, other)
        kind = generator.randrange(7)
        if kind == 0:
            words[at:at] = [generator.choice(known)]
        elif kind in (1, 2):
            words[at : at + 1] = [generator.choice(known)]
        elif kind == 3:
            words[at : at + generator.choice((1, 1, 3, 10))] = []
        elif kind == 4 and stop - start < 200:
            words[start:start] = words[start:stop]
        elif kind == 5 and max(at, other) < len(words):
            words[at], words[other] = words[other], words[at]
        elif kind == 6 and at < len(words) and words[at]:
            place = generator.randrange(len(words[at]))
            byte = bytes([generator.randrange(256)])
            words[at] = words[at][:place] + byte + words[at][place + 1 :]
    return b"".join(words)
