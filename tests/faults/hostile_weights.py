"""Files of weights that mean harm: those that would run a program, never end, or fill the memory.

A pickle that gets its way touches the file of HIDDEN's name in its working folder.
"""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

HIDDEN = "it_ran"
_COMMAND = f"touch {HIDDEN}"
_TEXT = b"X" + struct.pack("<I", len(_COMMAND)) + _COMMAND.encode()


class _Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _opcodes() -> Iterator[tuple[str, bytes]]:
    """Pickles that ask for a program by each of the ways there are."""
    two = b"\x80\x02"
    system = b"cos\nsystem\n"
    yield "GLOBAL and REDUCE", two + system + _TEXT + b"\x85R."
    yield "STACK_GLOBAL", b"\x80\x04\x8c\x02os\x8c\x06system\x93" + _TEXT + b"\x85R."
    yield "INST", b"(" + _TEXT + b"ios\nsystem\n."
    yield "OBJ", b"(" + system + _TEXT + b"o."
    yield "NEWOBJ", two + system + _TEXT + b"\x85\x81."
    yield "NEWOBJ_EX", b"\x80\x04" + system + _TEXT + b"\x85}\x92."
    yield "as a key", two + b"}" + system + _TEXT + b"\x85RK\x01s."
    yield "as a state", two + b"ccollections\nOrderedDict\n)R" + system + _TEXT + b"\x85Rb."
    yield "behind a dot", b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__class__\x93)R."
    yield "a submodule", two + b"cnumpy.core.multiarray\n__builtins__\n."
    yield "eval", two + b"cbuiltins\neval\n" + _TEXT + b"\x85R."
    yield "old eval", two + b"c__builtin__\neval\n" + _TEXT + b"\x85R."
    yield "import", two + b"cbuiltins\n__import__\nX\x0b\0\0\0antigravity\x85R."
    yield "Popen", two + b"csubprocess\nPopen\n](X\x05\0\0\0touchX\x06\0\0\0it_rane\x85R."
    yield "torch's own", two + b"ctorch.hub\nload\nX\x01\0\0\0xX\x01\0\0\0x\x86R."
    yield "load of storage", two + b"ctorch.storage\n_load_from_bytes\nC\x01x\x85R."
    yield "EXT1", two + b"\x82\x01."
    yield "PERSID", b"Pos.system\n."
    yield "BINPERSID", two + _TEXT + b"Q."
    yield (
        "a function's attributes",
        (two + b"c_codecs\nencode\n}X\x08\0\0\0__code__" + system + b"sN\x86b."),
    )


def _never_ending() -> Iterator[tuple[str, bytes]]:
    numbers = [bytes([number]) for number in range(60)]
    doubled = b"".join(b"q" + each + b"h" + each + b"\x86" for each in numbers)
    lists = b"".join(b"q" + each + b"0](h" + each + b"h" + each + b"e" for each in numbers)
    yield "a key of 2**60 items", b"\x80\x02})" + doubled + b"K\x01s."
    yield "a value of 2**60 items", b"\x80\x02}X\x05\0\0\0model](" + b"]" + lists + b"es."
    yield "a name of 2**60 items", b"\x80\x02}X\x05\0\0\0model}X\x01\0\0\0a])" + doubled + b"as."
    yield "a key 100,000 deep", b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s."
    yield "lists 100,000 deep", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "a list in itself", pickle.dumps((ring := [], ring.append(ring))[0], 2)


def _filling() -> Iterator[tuple[str, bytes]]:
    many = struct.pack("<I", 0x7FFF_FFFF)
    yield "a memo", b"\x80\x02]r\xff\xff\xff\x7f."
    yield "a text", b"\x80\x02X" + many + b"x."
    yield "bytes", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x."
    yield "a frame", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."
    yield "a number", b"\x80\x02\x8b" + many + b"x."
    yield "bytes of zeros", b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R."
    yield "an array", b"\x80\x02}U\x03a_wcnumpy\nndarray\n(\x8a\x06\0\0\0\0\0\x10tR s."
    yield "a tensor", b"\x80\x02ctorch\nTensor\n\x8a\x06\0\0\0\0\0\x10\x85R."


def _flagged_dtype() -> bytes:
    """An array whose numbers are said to be objects' addresses."""
    dtype = (
        b"cnumpy\ndtype\n(U\x02f8K\0K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\x01btR"
    return (
        b"\x80\x02}U\x03a_w"
        + made
        + b"(K\x01K\x04\x85"
        + dtype
        + b"\x89U\x20"
        + b"A" * 32
        + b"tbs."
    )


def pickles() -> dict[str, bytes]:
    """By what they do."""
    return {
        name: content for kind in (_opcodes, _never_ending, _filling) for name, content in kind()
    }


def archive_of(content: bytes) -> bytes:
    """What torch.save writes, with this pickle in it."""
    whole, changed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return changed.getvalue()


def old_file_of(content: bytes) -> bytes:
    """What torch before 1.6 wrote, with this pickle in it."""
    start = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}))
    return start + content + pickle.dumps([], 2)


def archives() -> dict[str, bytes]:
    """Archives whose pickle is harmless, and the rest not."""
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, whole)
    inflated, climbing = io.BytesIO(), io.BytesIO()
    with (
        zipfile.ZipFile(whole) as old,
        zipfile.ZipFile(inflated, "w", zipfile.ZIP_DEFLATED) as small,
        zipfile.ZipFile(climbing, "w") as up,
    ):
        for name in old.namelist():
            small.writestr(name, old.read(name))
            up.writestr(f"../../{name}", old.read(name))
        up.writestr("../it_ran", "")
        up.writestr("/detengine_it_ran", "")
    scripted = io.BytesIO(whole.getvalue())
    with zipfile.ZipFile(scripted, "a") as program:
        program.writestr("archive/constants.pkl", pickle.dumps((), 2))
        program.writestr("archive/code/__torch__.py", "import os")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../it_ran"))
    return {
        "an archive that inflates": inflated.getvalue(),
        "an archive that climbs": climbing.getvalue(),
        "a program of TorchScript": scripted.getvalue(),
        "a tar": packed.getvalue(),
    }


def headers() -> dict[str, bytes]:
    """Of safetensors."""

    def file(header: Any, length: int | None = None, data: bytes = b"\0" * 64) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    huge = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    return {
        "a header of 2**62 bytes": file({"a": one}, 2**62),
        "a header of 4 GiB": file({"a": one}, 2**32 - 1),
        "offsets that overlap": file({"a": one, "b": one}),
        "offsets outside": file({"a": one | {"data_offsets": [48, 2**40]}}),
        "offsets that run back": file({"a": one | {"data_offsets": [16, 0]}}),
        "a shape of terabytes": file({"a": huge}),
        "a shape that overflows": file({"a": one | {"shape": [2**63, 2**63]}}),
        "an unknown dtype": file({"a": one | {"dtype": "O"}}),
        "a header 10,000 deep": file(b'{"a":' * 10_000 + b"{" + b"}" * 10_001),
        "class names 10,000 deep": file(
            {"__metadata__": {"categories": "[" * 10_000 + "]" * 10_000}, "a": one}, data=b"\0" * 16
        ),
    }


def write_all(folder: Path) -> list[Path]:
    """All of them as files, of every format they can be in."""
    files = {f"{name}.pkl": content for name, content in pickles().items()}
    files |= {f"{name}.pth": archive_of(content) for name, content in pickles().items()}
    files |= {f"{name}, old.pth": old_file_of(content) for name, content in pickles().items()}
    files |= {f"{name}, bare.pth": content for name, content in pickles().items()}
    files |= {f"{name}.pth": content for name, content in archives().items()}
    files |= {f"{name}.safetensors": content for name, content in headers().items()}
    files["a dtype with flags.pkl"] = _flagged_dtype()
    paths = []
    for name, content in files.items():
        paths.append(folder / name)
        paths[-1].write_bytes(content)
    return paths
