"""COCO's json files with one thing broken: keys, ids, boxes, masks, and the file's own form."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.broken_inputs import (
    GONE,
    Break,
    Case,
    Counted,
    Harmless,
    Promise,
    Refused,
    annotation,
    both,
    change_json,
    replaced,
    rewrite,
    write,
)
from faults.sound_inputs import RUNS, coco_content

HUGE = 10**30
WHOLE = json.dumps(coco_content())
ODD_VALUES = {
    "null": None,
    "text": "7",
    "a fraction": 1.5,
    "a boolean": True,
    "a list": [],
    "an object": {},
    "negative": -1,
    "huge": HUGE,
}
NO_MASK = Counted(r"(have|without a|annotations?) .*mask")


def edited(change: Any) -> Break:
    """change: is given the file's content, and alters it."""

    def spoil(folder: Path) -> None:
        path = folder / "a.json"
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def _missing_keys() -> Iterator[Case]:
    for key in ("images", "annotations", "categories"):
        promise = Refused(rf"a\.json: the file has no '{key}'")
        yield Case(f"no {key}", "coco", change_json(**{key: GONE}), promise)
    for part, key in (
        *(("images", key) for key in ("id", "file_name")),
        *(("categories", key) for key in ("id", "name")),
        *(("annotations", key) for key in ("image_id", "category_id", "bbox")),
    ):
        promise = Refused(rf"has no '{key}'")
        yield Case(f"{part} without {key}", "coco", change_json(part, 1, **{key: GONE}), promise)
    sound: dict[str, Promise] = {
        "area": Harmless(),
        "iscrowd": Harmless(),
        "segmentation": NO_MASK,
        "id": Harmless(like=annotation(id=2)),
    }
    for key, promise in sound.items():
        yield Case(f"annotation without {key}", "coco", annotation(**{key: GONE}), promise)
    for key in ("width", "height"):
        spoil = change_json("images", 0, **{key: GONE})
        yield Case(f"image without {key}", "coco", spoil, Harmless())


def _wrong_types() -> Iterator[Case]:
    """Every key with every odd value; where it is not refused, what comes of it."""
    harmless: dict[tuple[str, str], Promise] = {
        ("annotations.id", "negative"): Harmless(like=annotation(id=-1)),
        ("annotations.area", "null"): Harmless(),
        ("annotations.area", "a fraction"): Harmless(like=annotation(area=1.5)),
        ("annotations.area", "huge"): Harmless(like=annotation(area=1e30)),
        ("annotations.iscrowd", "null"): Harmless(),
        ("annotations.iscrowd", "a boolean"): Harmless(like=annotation(iscrowd=1)),
        ("annotations.segmentation", "null"): NO_MASK,
        ("annotations.segmentation", "a list"): NO_MASK,
        ("annotations.segmentation", "an object"): NO_MASK,
        ("images.file_name", "text"): Refused(r"7"),
        ("images.id", "negative"): Refused(r"belongs to image 1"),
        ("categories.id", "negative"): Refused(r"unknown category 3"),
        ("categories.name", "text"): Harmless(like=change_json("categories", 0, name="7")),
        ("categories.name", "negative"): Harmless(like=change_json("categories", 0, name="-1")),
        ("categories.keypoints", "null"): Harmless(),
        ("categories.keypoints", "a list"): Harmless(),
        ("categories.keypoints", "an object"): Harmless(),
    }
    keys = {
        "images": ("id", "file_name", "width", "height"),
        "categories": ("id", "name", "keypoints"),
        "annotations": (
            *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
        ),
    }
    for part, names in keys.items():
        for key in names:
            for what, value in ODD_VALUES.items():
                promise = harmless.get((f"{part}.{key}", what), Refused(rf"{key}|{part[:5]}"))
                place = 1 if part == "annotations" else 0
                spoil = change_json(part, place, **{key: value})
                yield Case(f"{part}: {key} is {what}", "coco", spoil, promise)
    for key in ("images", "annotations", "categories"):
        for what, value in ODD_VALUES.items():
            promise = Refused(rf"'{key}' must be a list of objects")
            if what == "a list":
                promise = {
                    "images": Refused(r"belongs to image 1|lists no images"),
                    "annotations": Counted(r"none of its images has an annotation"),
                    "categories": Refused(r"unknown category 3"),
                }[key]
            yield Case(f"{key} is {what}", "coco", change_json(**{key: value}), promise)
    yield Case("falsy segmentation", "coco", annotation(segmentation=""), Refused("segmentation"))
    yield Case("no iscrowd but 0.0", "coco", annotation(iscrowd=0.0), Harmless())
    yield Case("ids are texts", "coco", replaced("a.json", '"image_id": 1', '"image_id": "1"'),
               Refused(r"'image_id' of annotation 11 must be an integer, but is '1'"))  # fmt: skip
    yield Case("id 2**63", "coco", annotation(id=2**63), Refused(r"which 64 bits do not hold"))
    last = annotation(id=2**63 - 1)
    yield Case("id 2**63 - 1", "coco", last, Harmless(like=last))
    twice = both(last, change_json("annotations", 0, id=2**63 - 1))
    promise = Refused(r"annotation id 9223372036854775807 stands (2 times|twice)")
    yield Case("id 2**63 - 1 twice", "coco", twice, promise)


def _ids() -> Iterator[Case]:
    twice = edited(lambda c: c["images"].append({**c["images"][0], "file_name": "b.jpg"}))
    yield Case("image id twice", "coco", twice, Refused(r"image id 1 stands (2 times|twice)"))
    spoil = annotation(id=11)
    promise: Promise = Refused(r"annotation id 11 stands (2 times|twice)")
    yield Case("annotation id twice", "coco", spoil, promise)
    spoil = change_json("categories", 1, id=3)
    yield Case("category id twice", "coco", spoil, Refused(r"id '?3'? stands twice"))
    spoil = change_json("categories", 1, name="disc")
    yield Case("category name twice", "coco", spoil, Refused(r"name 'disc' stands twice"))
    unknown = Refused(r"annotation 12 has the unknown category 8")
    yield Case("unknown category", "coco", annotation(category_id=8), unknown)
    promise = Refused(r"annotation 12 belongs to image 9")
    yield Case("unknown image", "coco", annotation(image_id=9), promise)
    spoil = edited(lambda c: c["images"].append({**c["images"][0], "id": 9}))
    yield Case("file twice", "coco", spoil, Counted(r"1 picture is there more than once"))
    spoil = edited(lambda c: c["categories"].append({"id": 9, "name": "unused"}))
    yield Case("a class without objects", "coco", spoil, Counted(r"unused"))
    spoil = edited(_with_category_ids_of_62_bits)
    yield Case("category ids of 62 bits", "coco", spoil, Harmless(like=spoil))
    spoil = edited(lambda c: c.update(annotations=[]))
    yield Case("no annotation", "coco", spoil, Counted(r"none of its images has an annotation"))
    spoil = edited(lambda c: c.update(images=[], annotations=[]))
    yield Case("no image", "coco", spoil, Refused(r"lists no images"))
    spoil = edited(lambda c: c.update(categories=[], annotations=[]))
    yield Case("no category", "coco", spoil, Refused(r"no class is named"))


def _with_category_ids_of_62_bits(content: dict[str, Any]) -> None:
    for each in content["categories"]:
        each["id"] += 1 << 62
    for each in content["annotations"]:
        each["category_id"] += 1 << 62


def _boxes() -> Iterator[Case]:
    outside = Refused(r"the box of annotation 12 lies entirely outside of its image")
    no_box = Refused(r"the bbox of annotation 12 must be \[x, y, width, height\]")
    clipped = Counted(r"1 (of 4 )?annotations? .*reach.* out of (their|its) image by more than a")
    flat = Counted(r"1 (of 4 )?annotations? .*(without area|without width or height)")
    given: list[tuple[str, Any, Promise]] = [
        ("of three numbers", [1, 2, 3], no_box),
        ("of five numbers", [1, 2, 3, 4, 5], no_box),
        ("of texts", ["1", "2", "3", "4"], no_box),
        ("with null", [1, None, 3, 4], no_box),
        ("with a boolean", [1, True, 3, 4], no_box),
        ("nested", [[1, 2, 3, 4]], no_box),
        ("inverted", [20, 20, -10, -10], Refused(r"annotation 12 has a negative size")),
        ("of negative width", [20, 20, -0.5, 5], Refused(r"annotation 12 has a negative size")),
        ("to the right", [41, 1, 3, 3], outside),
        ("to the left", [-9, 1, 3, 3], outside),
        ("above", [1, -9, 3, 3], outside),
        ("below", [1, 31, 3, 3], outside),
        ("far away", [1e9, 1e9, 3, 3], outside),
        ("huge", [0, 0, 1e12, 1e12], clipped),
        ("around the image", [-100, -100, 500, 500], clipped),
        ("of 10**30", [0, 0, HUGE, HUGE], clipped),
        ("whose corner is infinite", [1e308, 0, 1e308, 3], Refused(r"annotation 12 is not finite")),
        ("whose area is infinite", [0, 0, 1e200, 1e200], Refused(r"annotation 12 is not finite")),
        ("without width", [5, 5, 0, 9], flat),
        ("without an extent", [5, 5, 0, 0], flat),
        ("at -0.0", [-0.0, -0.0, 3, 3], Harmless(like=annotation(bbox=[-0.0, -0.0, 3, 3]))),
        ("of 1e-300", [5, 5, 1e-300, 1e-300], flat),
        ("in whole floats", [1.0, 18.0, 3.0, 12.0], Harmless()),
    ]  # fmt: skip
    for name, box, promise in given:
        yield Case(f"box {name}", "coco", annotation(bbox=box), promise)
    for word in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 400, "0x10", "01", ".5"):
        spoil = replaced("a.json", "[1, 18, 3, 12]", f"[1, {word}, 3, 12]")
        name = f"box with {word[:9]}"
        yield Case(name, "coco", spoil, Refused(r"a\.json is no complete JSON file"))
    spoil = annotation(area=-40)
    yield Case("negative area", "coco", spoil, Refused(r"area of annotation 12"))


def _masks() -> Iterator[Case]:
    polygon = Refused(r"segmentation of annotation 12: a polygon is a list of")
    half = Harmless(like=annotation(segmentation=[[0, 0, 1e5, 0, 1e5, 1e5]]))
    neither = Refused(r"segmentation of annotation 12: (neither|its counts are neither)")
    given: list[tuple[str, Any, Promise]] = [
        ("polygon of one point", [[5, 5]], polygon),
        ("polygon of two points", [[5, 5, 9, 9]], polygon),
        ("polygon of an odd number", [[5, 5, 9, 5, 9, 9, 5]], polygon),
        ("empty polygon", [[]], polygon),
        ("empty polygon behind another", [[5, 5, 9, 5, 9, 9], []], polygon),
        ("polygon of texts", [["5", "5", "9", "5", "9", "9"]], polygon),
        ("polygon of nulls", [[None] * 6], polygon),
        ("polygon not in a list", [5, 5, 9, 5, 9, 9], polygon),
        ("polygon of pairs", [[[5, 5], [9, 5], [9, 9]]], polygon),
        ("polygon nested too deep", [[[5, 5, 9, 5, 9, 9]]], polygon),
        ("polygon of one point thrice", [[5, 5] * 3], Counted(r"mask")),
        ("polygon outside of the image", [[900, 900, 950, 900, 950, 950]], Counted(r"mask")),
        ("polygon far outside", [[1e6, 1e6, 2e6, 1e6, 2e6, 2e6]], Counted(r"mask")),
        ("polygon of 1e9", [[0, 0, 1e9, 0, 1e9, 1e9]], half),
        ("polygon of 1e30", [[0, 0, 1e30, 0, 1e30, 1e30]], half),
        ("polygon of 10**30", [[0, 0, HUGE, 0, HUGE, HUGE]], half),
        ("polygon of -1e18", [[-1e18, 0, 5, 0, 5, 5]], Harmless(like=annotation(
            segmentation=[[-1e5, 0, 5, 0, 5, 5]]))),
        ("polygon of 1e308", [[1e308, 1e308, 1e308, 0, 0, 1e308]], Refused(r"annotation 12")),
        ("no key", {"counts": RUNS}, neither),
        ("no counts", {"size": [30, 40]}, neither),
        ("counts null", {"size": [30, 40], "counts": None}, neither),
        ("counts of texts", {"size": [30, 40], "counts": ["1200"]}, neither),
        ("counts empty", {"size": [30, 40], "counts": []}, Refused(r"12: .*cover 0 pixels")),
        ("counts an empty text", {"size": [30, 40], "counts": ""}, Refused(r"12: .*cover 0")),
        ("size turned", {"size": [40, 30], "counts": RUNS}, Refused(r"12: .*image of \[40, 30\]")),
        ("size of texts", {"size": ["30", "40"], "counts": RUNS}, Refused(r"12: .*image of \['30")),
        ("size null", {"size": None, "counts": RUNS}, Refused(r"12: .*image of None")),
        ("negative run", {"size": [30, 40], "counts": [-5, 5, 1200]}, Refused(r"12: .*run length")),
        ("run of 2**32", {"size": [30, 40], "counts": [2**32, 5]}, Refused(r"12: .*run length")),
        ("run of 2**70", {"size": [30, 40], "counts": [2**70, 5]}, Refused(r"12: .*")),
        ("sum that comes around", {"size": [30, 40], "counts": [2**32 - 1, 1201]}, Refused("12: ")),
        ("too short", {"size": [30, 40], "counts": [1199]}, Refused(r"12: .*cover 1199 pixels")),
        ("too long", {"size": [30, 40], "counts": [1201]}, Refused(r"12: .*cover 1201 pixels")),
        ("fractions", {"size": [30, 40], "counts": [50.7, 20.2, 1130]}, Refused(r"12: .*50\.7")),
        ("whole floats", {"size": [30, 40], "counts": [float(each) for each in RUNS]}, Harmless()),
        ("runs of 0", {"size": [30, 40], "counts": [50, 10, 0, 10, 28, 20, 1082, 0]},
         Harmless(like=annotation(segmentation={"size": [30, 40],
                                                "counts": [50, 10, 0, 10, 28, 20, 1082, 0]}))),
        ("a bad character", {"size": [30, 40], "counts": "0\u00e94"}, Refused(r"12: .*the byte")),
        ("a space", {"size": [30, 40], "counts": "0 4"}, Refused(r"12: .*the byte b' '")),
        ("cut text", {"size": [30, 40], "counts": "04P"}, Refused(r"12: .*cut off")),
        ("overflow", {"size": [30, 40], "counts": "oooooooo0"}, Refused(r"12: .*32 bits")),
        ("negative in text", {"size": [30, 40], "counts": "5O"}, Refused(r"12: .*run of -1")),
        ("of nothing", {"size": [30, 40], "counts": [1200]}, Counted(r"mask|no pixel")),
    ]  # fmt: skip
    for name, value, promise in given:
        yield Case(f"mask: {name}", "coco", annotation(segmentation=value), promise)


def _forms() -> Iterator[Case]:
    no_json = Refused(r"a\.json is no complete JSON file")
    for part in range(20):
        content = WHOLE[: len(WHOLE) * part // 20]
        yield Case(f"json cut at {part} of 20", "coco", write("a.json", content), no_json)
    given: list[tuple[str, Break, Promise]] = [
        ("trailing garbage", rewrite("a.json", lambda d: d + b"garbage"), no_json),
        ("twice in a row", rewrite("a.json", lambda d: d + d), no_json),
        ("trailing comma", rewrite("a.json", lambda d: d[:-1] + b",}"), no_json),
        ("byte order mark", rewrite("a.json", lambda d: b"\xef\xbb\xbf" + d), Harmless()),
        ("UTF-16", rewrite("a.json", lambda d: d.decode().encode("utf-16")), Refused(r"UTF-16")),
        ("Latin-1", replaced("a.json", "disc", "d\u00ebsc".encode("latin-1")), no_json),
        ("NUL bytes", rewrite("a.json", lambda d: d + b"\0"), no_json),
        ("only NUL bytes", rewrite("a.json", lambda d: bytes(len(d))), no_json),
        ("comments", rewrite("a.json", lambda d: b"// made by hand\n" + d), no_json),
        ("a list at the top", write("a.json", "[]"), Refused(r"a\.json holds a list")),
        ("a number", write("a.json", "7"), Refused(r"a\.json holds a int")),
        ("null", write("a.json", "null"), Refused(r"a\.json holds a NoneType")),
        ("a text", write("a.json", '"x"'), Refused(r"a\.json holds a str")),
        ("an empty object", write("a.json", "{}"), Refused(r"a\.json: the file has no 'images'")),
        ("100,000 brackets", write("a.json", "[" * 100_000), no_json),
        ("100,000 objects", write("a.json", '{"a":' * 100_000), no_json),
        ("deep in a key that is not read", replaced("a.json", '"categories"',
         '"info": ' + "[" * 100_000 + "]" * 100_000 + ', "categories"'), no_json),
        ("deep in an annotation", replaced("a.json", '"id": 12',
         '"x": ' + "[" * 500 + "]" * 500 + ', "id": 12'), Harmless()),
        ("a key twice", replaced("a.json", '"id": 12', '"id": 99, "id": 12'), Harmless()),
        ("half a surrogate", replaced("a.json", '"disc"', '"\\ud800"'), no_json),
        ("not there", lambda folder: (folder / "a.json").unlink(), Refused(r"a\.json does not")),
        ("a directory", _as_directory, Refused(r"a\.json does not exist|a\.json is no file")),
    ]  # fmt: skip
    yield from (Case(f"json: {name}", "coco", spoil, promise) for name, spoil, promise in given)


def _as_directory(folder: Path) -> None:
    (folder / "a.json").unlink()
    (folder / "a.json").mkdir()


def _keypoints() -> Iterator[Case]:
    number = Refused(r"keypoints of annotation 12 must be 2 times x, y, visibility")
    given: list[tuple[str, dict[str, Any], Promise]] = [
        ("of five numbers", {"keypoints": [5, 6, 2, 9, 8]}, number),
        ("of three points", {"keypoints": [5, 6, 2] * 3}, number),
        ("of texts", {"keypoints": ["5"] * 6}, number),
        ("a number", {"keypoints": 5}, number),
        ("an object", {"keypoints": {"a": 5}}, number),
        ("of pairs", {"keypoints": [[5, 6, 2], [9, 8, 1]]}, number),
        ("none", {"keypoints": GONE, "num_keypoints": GONE},
         Counted(r"1 annotation without a labelled keypoint")),
        ("null", {"keypoints": None, "num_keypoints": 0},
         Counted(r"1 annotation without a labelled keypoint")),
        ("visibility 3", {"keypoints": [5, 6, 3, 9, 8, 1]}, Counted(r"1 annotation .*visibility")),
        ("visibility -1", {"keypoints": [5, 6, -1, 9, 8, 1], "num_keypoints": 1},
         Counted(r"1 annotation .*visibility")),
        ("visibility 0.5", {"keypoints": [5, 6, 0.5, 9, 8, 1]},
         Counted(r"1 annotation .*visibility")),
        ("number too large", {"num_keypoints": 7}, Counted(r"1 annotation .*num_keypoints")),
        ("number too small", {"num_keypoints": 0}, Counted(r"1 annotation .*num_keypoints")),
        ("number negative", {"num_keypoints": -1}, Refused(r"annotation 12")),
        ("number 10**30", {"num_keypoints": HUGE}, Refused(r"annotation 12")),
        ("number a fraction", {"num_keypoints": 1.5}, Refused(r"annotation 12")),
        ("number a text", {"num_keypoints": "2"}, Refused(r"annotation 12")),
        ("number not there", {"num_keypoints": GONE}, Harmless()),
        ("far outside", {"keypoints": [5e6, 6e6, 2, 9, 8, 1]}, Harmless(like=annotation(
            keypoints=[5e6, 6e6, 2, 9, 8, 1]))),
        ("at 10**30", {"keypoints": [HUGE, 6, 2, 9, 8, 1]}, Harmless(like=annotation(
            keypoints=[1e30, 6, 2, 9, 8, 1]))),
        ("at 1e300", {"keypoints": [1e300, 6, 2, 9, 8, 1]}, Refused(r"annotation 12")),
    ]  # fmt: skip
    for name, values, promise in given:
        yield Case(f"keypoints {name}", "keypoints", annotation(**values), promise)
    spoil = change_json("categories", 0, keypoints=["beak", 5])
    promise = Refused(r"keypoints of category 0 must be a list of their names")
    yield Case("keypoints' names are numbers", "keypoints", spoil, promise)


CASES = [
    *_missing_keys(),
    *_wrong_types(),
    *_ids(),
    *_boxes(),
    *_masks(),
    *_forms(),
    *_keypoints(),
]
