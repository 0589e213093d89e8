"""Image files that are none, are not what they are called, or are of absurd sizes."""

import io
import json
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from faults.broken_inputs import (
    GONE,
    Break,
    Case,
    Harmless,
    Promise,
    Refused,
    both,
    change_json,
    made,
    rewrite,
    write,
)
from faults.sound_inputs import MASK_R_CNN, SIZES, picture

FILE = "images/a.jpg"
SIZE = SIZES["a.jpg"]
TURNED = Refused(r"a\.jpg has 30 x 40 pixels.*EXIF")
UNREADABLE = Refused(r"a\.jpg cannot be read as an image")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def in_place(kind: str, mode: str = "RGB", **options: Any) -> Break:
    """Another format or mode under the same name."""
    return made(FILE, lambda: saved(picture(SIZE).convert(mode), kind, **options))


def with_exif(kind: int, values: bytes, count: int = 1) -> bytes:
    """A JPEG whose one tag is its orientation. kind: TIFF's type of the value, 3 for a short."""
    entry = struct.pack("<HHI", 0x0112, kind, count) + values.ljust(4, b"\0")
    tags = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return saved(picture(SIZE), "JPEG", exif=tags)


def png_of(width: int, height: int, pixels: bytes = b"", *, colour: int = 0) -> bytes:
    """A grey PNG that says this size, whatever pixels there are."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def text_bomb() -> bytes:
    """A PNG with a compressed text of 3 MB, more than Pillow reads, before its pixels."""
    text = b"Comment\0\0" + zlib.compress(bytes(3_000_000), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = png_of(*SIZE, (b"\0" + bytes(SIZE[0])) * SIZE[1])
    return whole[:33] + chunk + whole[33:]


def special(make: str, name: str = "b.jpg") -> Break:
    """In an image's place something that is no file, or leads to one."""

    def spoil(folder: Path) -> None:
        path = folder / "images" / name
        path.unlink()
        if make == "directory":
            path.mkdir()
        elif make == "fifo":
            os.mkfifo(path)
        elif make == "loop":
            path.symlink_to(path.name)
        elif make == "link to nowhere":
            path.symlink_to("nowhere")
        elif make == "zeros":
            path.symlink_to("/dev/zero")
        elif make == "link to a file":
            shutil.copy(path.with_name("c.jpg"), folder / "elsewhere")
            path.symlink_to("../elsewhere")

    return spoil


def _cut(kind: str, mode: str = "RGB", **options: Any) -> Iterator[Case]:
    """The file up to each twentieth of it."""
    whole = in_place(kind, mode, **options)
    for part in range(20):
        cut = both(whole, rewrite(FILE, partial(_first, part / 20)))
        yield Case(f"{kind} cut at {part} of 20", "coco", cut, UNREADABLE)


def _first(share: float, content: bytes) -> bytes:
    return content[: int(share * len(content))]


def _formats() -> Iterator[Case]:
    same_pixels = Harmless(like=in_place("PNG"))
    given: list[tuple[str, Break, Promise]] = [
        ("PNG called jpg", in_place("PNG"), same_pixels),
        ("BMP called jpg", in_place("BMP"), same_pixels),
        ("TIFF called jpg", in_place("TIFF"), same_pixels),
        ("WebP called jpg", in_place("WEBP", lossless=True), same_pixels),
        ("GIF called jpg", in_place("GIF", "P"), Harmless(like=in_place("PNG", "P"))),
        ("grey", in_place("JPEG", "L"), Harmless(pixels=False)),
        ("1 bit", in_place("PNG", "1"), Harmless(pixels=False)),
        ("CMYK", in_place("JPEG", "CMYK"), Harmless(pixels=False)),
        ("RGBA", in_place("PNG", "RGBA"), same_pixels),
        ("16 bits", made(FILE, _sixteen_bits), Harmless(pixels=False)),
        (
            "palette with transparent entries",
            in_place("PNG", "P", transparency=bytes([0, 128])),
            Harmless(like=in_place("PNG", "P")),
        ),
        (
            "animated GIF",
            in_place("GIF", "P", save_all=True, append_images=[Image.new("P", SIZE)]),
            Harmless(like=in_place("PNG", "P")),
        ),
        (
            "animated PNG",
            in_place("PNG", save_all=True, append_images=[Image.new("RGB", SIZE)]),
            same_pixels,
        ),
        ("floats", in_place("TIFF", "F"), Refused(r"a\.jpg .*floating-point")),
        ("32 bits", made(FILE, _thirty_two_bits), Refused(r"a\.jpg .*beyond 16 bits")),
        ("text", write(FILE, "<html>404</html>"), Refused(r"a\.jpg .*it is text.*404")),
        ("empty", write(FILE, b""), Refused(r"a\.jpg .*it is empty")),
        ("zeros", write(FILE, bytes(5000)), UNREADABLE),
        ("a json file", write(FILE, "{}"), UNREADABLE),
        ("a zip file", write(FILE, b"PK\x03\x04" + bytes(200)), UNREADABLE),
        ("SVG", write(FILE, '<svg xmlns="http://www.w3.org/2000/svg"/>'), UNREADABLE),
        ("damaged AVIF", _damaged_avif, UNREADABLE),
        ("DDS of no format", write(FILE, b"DDS " + bytes(200)), UNREADABLE),
        ("BLP of no format", write(FILE, b"BLP2" + bytes(200)), UNREADABLE),
        ("PNG without pixels", write(FILE, png_of(*SIZE)), UNREADABLE),
        ("PNG with a wrong checksum", rewrite_png(lambda d: d[:29] + b"xxxx" + d[33:]), UNREADABLE),
    ]
    yield from (Case(name, "coco", spoil, promise) for name, spoil, promise in given)


def _sixteen_bits() -> bytes:
    grey = np.asarray(picture(SIZE).convert("L"), dtype=np.uint16) * 257
    return saved(Image.fromarray(grey), "PNG")


def _thirty_two_bits() -> bytes:
    return saved(Image.new("I", SIZE, 70000), "TIFF")


def _damaged_avif(folder: Path) -> None:
    """One whose index is sound, and its pixels are not."""
    whole = saved(picture(SIZE), "AVIF") if features.check("avif") else b"\0\0\0 ftypavif"
    start, _, pixels = whole.partition(b"mdat")
    (folder / FILE).write_bytes(start + b"mdat" + bytes(len(pixels)))


def rewrite_png(change: Callable[[bytes], bytes]) -> Break:
    return both(in_place("PNG"), rewrite(FILE, change))


def _orientations() -> Iterator[Case]:
    for orientation in range(2, 9):
        turned = orientation >= 5
        yield Case(
            f"orientation {orientation}, size as it is stored",
            "coco",
            made(FILE, partial(with_exif, 3, bytes([orientation]))),
            TURNED if turned else Harmless(pixels=False),
        )
    given: list[tuple[str, tuple[Any, ...], Promise]] = [
        ("0", (3, b"\0"), Harmless()),
        ("9", (3, b"\x09"), Harmless()),
        ("a text", (2, b"abc", 4), Harmless()),
        ("a digit as text", (2, b"6", 2), Harmless()),
        ("a fraction", (5, b"\xff\xff\xff\x7f"), Harmless()),
        ("a float", (11, struct.pack("<f", 6.5)), Harmless()),
        ("a NaN", (11, struct.pack("<f", math.nan)), Harmless()),
        ("bytes", (7, b"\x06\x06\x06\x06", 4), Harmless()),
        ("two numbers", (3, b"\x06\0\x06\0", 2), TURNED),
        ("a billion numbers", (3, b"\x06", 10**9), Harmless()),
    ]
    for name, tag, promise in given:
        yield Case(f"orientation {name}", "coco", made(FILE, partial(with_exif, *tag)), promise)
    broken: list[tuple[str, bytes, bytes]] = [
        ("that ends too early", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\xff"),
        ("of no byte order", b"Exif\0\0II*\0", b"Exif\0\0XX*\0"),
        ("of random bytes", b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0\x9f\x01\xfe\x00\x07abc"),
    ]
    for name, old, new in broken:
        spoil = both(made(FILE, partial(with_exif, 3, b"\x01")), replaced_once(old, new))
        yield Case(f"EXIF {name}", "coco", spoil, Harmless())


def replaced_once(old: bytes, new: bytes) -> Break:
    def change(content: bytes) -> bytes:
        at = content.index(old)
        return content[:at] + new + content[at + len(new) :]

    return rewrite(FILE, change)


def _special_files() -> Iterator[Case]:
    no_file = Refused(r"b\.jpg cannot be read as an image: it is no file")
    given: list[tuple[str, Promise]] = [
        ("directory", Refused(r"b\.jpg cannot be read as an image")),
        ("fifo", no_file),
        ("loop", Refused(r"b\.jpg cannot be read as an image")),
        ("link to nowhere", Refused(r"b\.jpg does not exist")),
        ("zeros", no_file),
        ("link to a file", Refused(r"b\.jpg has 36 x 36 pixels")),
    ]
    for make, promise in given:
        yield Case(f"in its place a {make}", "coco", special(make), promise)
        # the first is looked for at once; one without a size is opened while the json is read
        spoil = special(make, "a.jpg")
        yield Case(f"in the first one's place a {make}", "coco", spoil, Refused(r"a\.jpg"))
        spoil = both(special(make), change_json("images", 1, width=GONE))
        promise = Refused("annotation 14|b\\.jpg")
        yield Case(f"without a size, in its place a {make}", "coco", spoil, promise)


def of_size(width: int, height: int) -> Break:
    """The first image and its entry, without objects; the picture is in truth of that size."""
    file = made(FILE, lambda: saved(Image.new("RGB", (width, height), "grey"), "PNG"))
    return both(file, entry_of_size(width, height), _without_its_objects)


def entry_of_size(width: object, height: object) -> Break:
    return change_json("images", 0, width=width, height=height)


def _without_its_objects(folder: Path) -> None:
    path = folder / "a.json"
    content = json.loads(path.read_text())
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 1]
    path.write_text(json.dumps(content))


def _sizes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 10_000), (10_000, 1), (2, 3000)):
        spoil = of_size(width, height)
        yield Case(f"{width} x {height}", "coco", spoil, Harmless(like=spoil), MASK_R_CNN)
    other = Refused(r"a\.jpg has 40 x 30 pixels.*77 x 30")
    spoil = both(_without_its_objects, entry_of_size(77, 30))
    yield Case("another size than the json says", "coco", spoil, other)
    bomb = both(
        _without_its_objects, entry_of_size(50_000, 50_000), made(FILE, lambda: bomb_of(50_000))
    )
    yield Case("bomb of 50,000 x 50,000", "coco", bomb, Refused(r"a\.jpg.*MAX_IMAGE_PIXELS"))
    unsaid = both(bomb, change_json("images", 0, width=GONE))
    said = Refused(r"a\.jpg.*MAX_IMAGE_PIXELS")
    yield Case("bomb of 50,000 x 50,000 without a size", "coco", unsaid, said)
    short = both(_without_its_objects, entry_of_size(12_000, 9000))
    promised = both(short, write(FILE, png_of(12_000, 9000)))
    yield Case("12,000 x 9000 without pixels", "coco", promised, UNREADABLE)
    yield Case("bomb in a PNG's text", "coco", made(FILE, text_bomb), UNREADABLE)
    zero = write(FILE, png_of(0, 0))
    yield Case("PNG of 0 x 0", "coco", zero, UNREADABLE)


def bomb_of(side: int) -> bytes:
    """A PNG of side x side black pixels of which the first rows are there."""
    return png_of(side, side, bytes((side + 1) * 20))


CASES = [
    *_formats(),
    *_cut("JPEG"),
    *_cut("PNG"),
    *_orientations(),
    *_special_files(),
    *_sizes(),
]
