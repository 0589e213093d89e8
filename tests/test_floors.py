"""The house's rules about who may import whom, read from the source."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "detengine"
FLOORS = {
    0: {"structures", "distributed", "config", "disk", "untrusted"},
    1: {"monitor", "solver", "data", "modeling", "checkpoint", "evaluation"},
    2: {"engine", "report"},
    3: {
        "run",
        "agreement",
        "loading",
        "predicting",
        "picture_files",
        "exporting",
        "start",
        "scoring",
        "rescoring",
        "expectations",
        "choosing",
        "output_folder",
        "parts",
        "replaying",
        "doctor",
        "run_report",
        "showing",
        "cli",
        "__main__",
        "__init__",
    },
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# The two historic constructors take the configuration apart in their first lines.
HISTORIC = {"checkpoint/checkpointer.py", "engine/predictor.py"}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(file: Path) -> str:
    """The package, or the module at the top, in which a file stands."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """All modules of detengine that a file imports anywhere, without the leading `detengine.`."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; name the module in full"
            if node.module == "detengine":
                names = [f"detengine.{alias.name}" for alias in node.names]
            else:
                names = [str(node.module)]
        yield from (n.removeprefix("detengine.") for n in names if n.startswith("detengine."))


def imports_of(package_in: Callable[[Path, str], bool]) -> dict[str, list[str]]:
    """By file, the imports for which package_in(file, imported package) holds."""
    found = {
        name_of(file): [n for n in imported(file) if package_in(file, n.split(".")[0])]
        for file in FILES
    }
    return {file: names for file, names in found.items() if names}


def name_of(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


def test_every_package_has_its_floor() -> None:
    assert {room_of(file) for file in FILES} <= FLOOR_OF.keys()


def test_an_import_never_runs_upwards() -> None:
    def runs_upwards(file: Path, package: str) -> bool:
        return FLOOR_OF.get(package, 0) > FLOOR_OF[room_of(file)]

    assert imports_of(runs_upwards) == {}


def test_the_packages_of_floor_1_do_not_know_each_other() -> None:
    def is_a_neighbour(file: Path, package: str) -> bool:
        return room_of(file) in FLOORS[1] and package in FLOORS[1] - {room_of(file)}

    assert imports_of(is_a_neighbour) == {}


def test_below_the_top_floor_only_build_files_see_the_configuration() -> None:
    def sees_it_from_elsewhere(file: Path, package: str) -> bool:
        may_see = file.name.startswith("build") or name_of(file) in HISTORIC
        return package == "config" != room_of(file) and FLOOR_OF[room_of(file)] < 3 and not may_see

    assert imports_of(sees_it_from_elsewhere) == {}


def test_no_module_has_a_name_that_tells_nothing() -> None:
    empty = {"utils", "util", "common", "misc", "helpers"}
    assert not [
        name_of(file) for file in FILES if empty & set(Path(name_of(file)).with_suffix("").parts)
    ]


def test_packages_export_nothing_so_that_imports_name_the_module() -> None:
    packages = [file for file in FILES if file.name == "__init__.py" and file.parent != SOURCE]
    assert not [name_of(file) for file in packages if file.read_text()]


def test_the_main_entry_is_the_command_line() -> None:
    assert list(imported(SOURCE / "__main__.py")) == ["cli.main"]
