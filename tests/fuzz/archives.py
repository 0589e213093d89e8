"""Mutations of what torch.save writes: the archive stays whole, its checksums right."""

import io
import zipfile
from collections import OrderedDict
from random import Random
from typing import Any

import torch
from mutation import mutated_tree
from torch import Tensor

OPCODES = (
    b"cposix\nsystem\n(S'echo this must never run'\ntR", b".", b"0", b"2", b"(", b"t", b"}", b"]",
    b"N", b"a", b"s", b"u", b"R", b"b", b"Q", b"h\x00", b"j\xff\xff\xff\x7f", b"q\xff", b"\x81",
    b"\x85", b"\x8a\x04\xff\xff\xff\x7f", b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x88", b"K\x03",
    b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"\x86", b"e",
    b"X\x05\x00\x00\x00items", b"}X\x05\x00\x00\x00itemsK\x03sb", b"ccollections\nOrderedDict\n)R",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8c\x01a",
)  # fmt: skip


def saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def mutated_archive(data: bytes, generator: Random, names: tuple[str, ...]) -> bytes:
    """Another value, another pickle of it, other numbers, or other entries."""
    kind = generator.random()
    try:
        if kind < 0.6:
            return _with_other_value(data, generator, names)
        entries = _entries_of(data)
    except Exception:  # it is damaged already
        return mutated_bytes(data, generator)
    if not entries:
        return mutated_bytes(data, generator)
    name = generator.choice(sorted(entries))
    if kind < 0.85:
        name = next((each for each in entries if each.endswith("data.pkl")), name)
        entries[name] = mutated_pickle(entries[name], generator)
    elif kind < 0.95:
        entries[name] = mutated_bytes(entries[name], generator)
    else:
        del entries[name]
    return _archive_of(entries)


def mutated_pickle(data: bytes, generator: Random) -> bytes:
    """With one to three opcodes more, or in the place of others."""
    for _ in range(generator.choice((1, 1, 2, 3))):
        at = generator.randrange(len(data) + 1)
        stop = at + generator.choice((0, 0, 0, 1, 2, 9))
        data = data[:at] + generator.choice(OPCODES) + data[stop:]
    return data


def mutated_bytes(data: bytes, generator: Random) -> bytes:
    for _ in range(generator.choice((1, 1, 2, 5))):
        at = generator.randrange(len(data) + 1)
        more = generator.randbytes(generator.choice((1, 1, 1, 4, 8)))
        data = data[:at] + more + data[at + generator.choice((len(more), len(more), 0, 9)) :]
    return data


def _with_other_value(data: bytes, generator: Random, names: tuple[str, ...]) -> bytes:
    value = torch.load(io.BytesIO(data), weights_only=True)
    if generator.random() < 0.6:
        value = mutated_tree(value, generator, names)
    else:
        value = _with_other_tensor(value, generator)
    return saved(value)


def _with_other_tensor(value: Any, generator: Random) -> Any:
    """The value with one of its tensors or dictionaries exchanged for a strange one."""
    whole, places = [value], []
    stack: list[Any] = [whole]
    while stack:
        container = stack.pop()
        keys = range(len(container)) if isinstance(container, list) else list(container)
        for key in keys:
            if isinstance(container[key], Tensor | dict):
                places.append((container, key))
            if isinstance(container[key], list | dict):
                stack.append(container[key])
    if places:
        container, key = generator.choice(places)
        container[key] = _strange(container[key], generator)
    return whole[0]


def _strange(value: Any, generator: Random) -> Any:
    if isinstance(value, dict):
        strange = OrderedDict(value)
        name = generator.choice(("items", "get", "values", "keys", "copy", "a"))
        setattr(strange, name, generator.choice((3, None, {}, "a")))
        return strange
    dtypes = (torch.float16, torch.int64, torch.int32, torch.float64, torch.bool, torch.complex64)
    number = generator.choice((0, 1, -1, 2**62, -(2**62), 1 << 31))
    changes = (
        lambda: value.to(generator.choice(dtypes)),
        lambda: torch.zeros(1, dtype=value.dtype).expand(generator.choice((2**20, 2**40))),
        lambda: value[:0],
        lambda: value[:-1],
        lambda: torch.cat([value, value]),
        lambda: value.new_full(value.shape, number),
        lambda: value + 1,
        lambda: -value,
        lambda: value.flip(0),
        lambda: value.reshape(-1),
        lambda: value.new_full(value.shape, float("nan")),
        lambda: value.to("meta"),
        lambda: value.to_sparse(),
        lambda: torch.nn.Parameter(value.float()),
        lambda: torch.randint(-3, 9, value.shape).to(value.dtype),
        lambda: value[None],
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.quint8),
    )
    return generator.choice(changes)()


def _entries_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def _archive_of(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, value in entries.items():
            file.writestr(zipfile.ZipInfo(name), value)
    return content.getvalue()
