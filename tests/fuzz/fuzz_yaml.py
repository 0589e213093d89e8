"""Configurations: read, refused, and what was read is the same when it is written and read."""

import re
from pathlib import Path
from random import Random

from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_words

with instrumented():
    from detengine.config.load import difference, load_config, parse_config, to_yaml

WORD = re.compile(rb"[\w.+-]+|[ \t]+|\s|.", re.DOTALL)
WORDS = (
    b"SOLVER:", b"MODEL:", b"DATASETS:", b"DEFINE:", b"BASE_LR:", b"STEPS:", b"MAX_ITER:",
    b"INPUT:", b"TEST:", b"TRAIN:", b"FORMAT:", b"CONVENTIONS: modern", b"_BASE_:", b"config.yaml",
    b"1e300", b"-1", b"nan", b".inf", b"1e-3", b"0x10", b"1:60", b"9" * 400, b"9" * 5000,
    b"2001-99-99", b"~", b"2001-09-09", b"yes", b"null", b"[", b"]", b"{", b"}", b"- ", b": ",
    b"\n", b"\n  ", b"&a ", b"*a", b"<<: *a", b"!!int ", b"!!bool x", b"!!timestamp x",
    b"!!float x", b"!!binary x", b"!!set ", b"!!omap ", b"!!python/name:os.system ", b"!x ",
    b"%YAML 9.9\n---", b"---\n", b"...\n", b"? ", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc2\x85",
    b"\xe2\x80\xa8", b"[" * 1100, b"{a: " * 400, b'"', b"'", b"|\n", b">-\n", b"#", b"@", b"\t",
    b"x" * 4000, b"a: &a [*a]", b"a: &a {b: *a}", b"- " * 600,
)  # fmt: skip


def seeds() -> list[bytes]:
    return [
        b"CONVENTIONS: modern\nSOLVER:\n  BASE_LR: 0.01\n  STEPS: [60, 80]\n  MAX_ITER: 100\n",
        b"MODEL:\n  RPN:\n    ANCHOR_SIZES: [32, 64]\nDATASETS:\n  TRAIN: [coco_2014_train]\n",
        b"DATASETS:\n  DEFINE:\n    a: {FORMAT: coco, ANNOTATIONS: a.json, IMAGES: a}\n"
        b"    b: &b {FORMAT: voc, ROOT: v, SPLIT: train}\n    c: {<<: *b, SPLIT: val}\n",
        b"INPUT: {MIN_SIZE_TRAIN: [800], MAX_SIZE_TRAIN: 1333}\nOUTPUT_DIR: x\nSEED: 3\n",
        b"TEST:\n  EXPECTED_RESULTS: [[bbox, AP, [0.377, 0.1]]]\nINPUT:\n",
    ]


def check(data: bytes, folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_bytes(data)
    (folder / "other.yaml").write_bytes(b"SEED: 4\n")
    cfg = outcome(lambda: load_config(path), path.name)
    if cfg is not None:
        for text in (to_yaml(cfg), difference(cfg)):
            path.write_text(text, encoding="utf-8")
            assert load_config(path) == cfg, "what is written is read as something else"
    outcome(
        lambda: parse_config(data.decode(errors="replace"), source="weights.pth"), "weights.pth"
    )


def mutate(data: bytes, generator: Random) -> bytes:
    return mutated_words(data, generator, WORD, WORDS)


TARGET = Target("yaml", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)
