"""A run's YAML file with one thing broken."""

from collections.abc import Iterator

from faults.broken_inputs import Break, Case, Harmless, Promise, Refused, rewrite, write
from faults.broken_yolo import alias_bomb
from faults.sound_inputs import configuration_of

WHOLE = configuration_of("file")
FILE = "run.yaml"


def added(text: str) -> Break:
    return write(FILE, WHOLE + text)


def mapping_bomb(under: str = "") -> str:
    """Mappings of mappings, 9**11 of them once they are written out, under keys of their own."""
    lines = ["x0: &l0 {a: 1}"]
    for n in range(1, 12):
        inside = ", ".join(f"k{k}: *l{n - 1}" for k in range(9))
        lines.append(f"x{n}: &l{n} {{{inside}}}")
    return "\n".join([*lines, f"{under}: *l11" if under else ""]) + "\n"


def _cases() -> Iterator[Case]:
    no_yaml = Refused(r"run\.yaml: is no valid YAML")
    unknown = Refused(r"run\.yaml.*unknown key")
    given: list[tuple[str, Break, Promise]] = [
        ("a tag of Python's", added("X: !!python/object/apply:os.system ['true']\n"), no_yaml),
        ("a tag of Python's name", added("X: !!python/name:os.system\n"), no_yaml),
        ("a tag that is none", added("X: !mine 5\n"), no_yaml),
        ("a bomb of lists", added(alias_bomb()), Refused(r"run\.yaml.*")),
        ("a bomb of mappings", added(mapping_bomb()), Refused(r"run\.yaml.*")),
        ("a bomb in a known key", added(mapping_bomb("SOLVER")), Refused(r"run\.yaml.*")),
        ("an alias of itself", added("X: &a [*a]\n"), Refused(r"run\.yaml.*")),
        ("a mapping of itself", added("X: &a {b: *a}\n"), Refused(r"run\.yaml.*")),
        ("a merge key of nothing", added("SOLVER2: {<<: *nothing}\n"), no_yaml),
        ("a merge of a number", added("X: {<<: 5}\n"), Refused(r"run\.yaml: << in line")),
        ("a key twice", added("REPORT: True\n"), Refused(r"run\.yaml: REPORT stands twice")),
        ("tabs", added("X:\n\tY: 5\n"), no_yaml),
        ("two documents", added("---\nX: 5\n"), no_yaml),
        ("100,000 brackets", added("X: " + "[" * 100_000), Refused(r"run\.yaml: is no")),
        ("a list", write(FILE, "- 5\n"), Refused(r"run\.yaml: the file holds list")),
        ("a number", write(FILE, "5\n"), Refused(r"run\.yaml: the file holds int")),
        ("a number as a key", added("5: 6\n"), Refused(r"run\.yaml: .*key 5; expected text")),
        ("null as a key", added("~: 6\n"), Refused(r"run\.yaml: .*key None; expected text")),
        ("a list as a key", added("[5]: 6\n"), Refused(r"run\.yaml: ")),
        ("NUL bytes", added("\0"), no_yaml),
        ("Latin-1", write(FILE, WHOLE.encode() + b"# d\xebsc"), Refused(r"run\.yaml: .*UTF-8")),
        ("UTF-16", write(FILE, WHOLE.encode("utf-16")), Refused(r"run\.yaml: .*UTF-8")),
        ("byte order mark", write(FILE, "\ufeff" + WHOLE), Harmless()),
        ("line ends of Windows", write(FILE, WHOLE.replace("\n", "\r\n")), Harmless()),
        ("not there", lambda folder: (folder / FILE).unlink(), Refused(r"yaml: cannot be read")),
        ("an unknown key", added("SOLVER_: {A: 1}\n"), unknown),
        ("an unknown data set", _instead("TRAIN: [t]", "TRAIN: [u]"), Refused(r"'u' is not defi")),
        ("no format", _instead("FORMAT: coco, ", ""), Refused(r"run\.yaml.*DATASETS\.DEFINE\.t")),
        ("another format", _instead("FORMAT: coco", "FORMAT: x"), Refused(r"DATASETS\.DEFINE\.t")),
        ("a number as folder", _instead("IMAGES: images", "IMAGES: 5"), Refused(r"IMAGES")),
        ("an impossible date", added("X: 2020-13-45\n"), no_yaml),
        ("a date", _instead("MAX_ITER: 1", "MAX_ITER: 2020-01-01"), Refused(r"SOLVER\.MAX_ITER")),
        ("nan", _instead("MAX_ITER: 1", "BASE_LR: .nan"), Refused(r"SOLVER\.BASE_LR")),
        ("infinity", _instead("MAX_ITER: 1", "BASE_LR: .inf"), Refused(r"SOLVER\.BASE_LR")),
        ("10**30", _instead("MAX_ITER: 1", f"MAX_ITER: {10**30}"), Refused(r"SOLVER\.MAX_ITER")),
        ("20,000 digits", _instead("MAX_ITER: 1", f"MAX_ITER: {'1' * 20_000}"),
         Refused(r"run\.yaml|SOLVER\.MAX_ITER")),
        ("a base of itself", added("_BASE_: run.yaml\n"), Refused(r"run\.yaml")),
        ("a base that is not there", added("_BASE_: gone.yaml\n"), Refused(r"gone\.yaml")),
        ("a base that is a list", added("_BASE_: [a, b]\n"), Refused(r"_BASE_")),
    ]  # fmt: skip
    yield from (Case(f"file: {name}", "file", spoil, promise) for name, spoil, promise in given)
    for part in range(1, 20):
        content = rewrite(FILE, lambda d, part=part: d[: len(d) * part // 20])  # type: ignore[misc]
        yield Case(f"file cut at {part} of 20", "file", content, Refused(r"run\.yaml|DATASETS"))


def _instead(old: str, new: str) -> Break:
    assert old in WHOLE
    return write(FILE, WHOLE.replace(old, new))


CASES = list(_cases())
