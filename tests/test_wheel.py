"""The wheel: it builds, installs, runs, and has in it what it should, and nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import detengine

pytest.importorskip("hatchling", reason="the wheel is built without a network")
PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run("-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(PROJECT))
    [built] = folder.glob("detengine-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--quiet", "--no-compile")
    run("-m", "pip", "install", *options, "--target", str(folder), str(wheel))
    return folder


def run(*arguments: str, folder: Path | None = None, path: str = "") -> str:
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_every_file_of_the_package_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith("detengine-")}
    source = PROJECT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "detengine").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected


def test_what_is_no_python_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
    assert "detengine/py.typed" in held
    assert "detengine/demo_data/recipe.yaml" in held
    assert sum(name.endswith(".png") for name in held) == 60
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_it_runs_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    program = "import detengine; print(detengine.__file__)"
    place = run("-c", program, folder=tmp_path, path=str(installed))
    assert Path(place.strip()) == installed / "detengine" / "__init__.py"
    version = run("-m", "detengine", "--version", folder=tmp_path, path=str(installed))
    assert version == f"detengine {detengine.__version__}\n"


def test_it_trains_nothing_but_knows_its_demo(installed: Path, tmp_path: Path) -> None:
    demo = installed / "detengine" / "demo_data" / "demo.yaml"
    shown = run("-m", "detengine", "config", str(demo), folder=tmp_path, path=str(installed))
    assert "demo_train" in shown


def test_its_command_and_its_extras_are_declared(installed: Path) -> None:
    [metadata] = installed.glob("detengine-*.dist-info")
    points = (metadata / "entry_points.txt").read_text(encoding="utf-8")
    assert "detengine = detengine.cli.main:main" in points
    declared = (metadata / "METADATA").read_text(encoding="utf-8")
    for extra in ("timm", "tensorboard", "wandb", "video", "onnx"):
        assert f"Provides-Extra: {extra}" in declared
