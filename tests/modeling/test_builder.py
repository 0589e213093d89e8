import sys

import pytest

from detengine.modeling.builder import build_by_name

MODULE = """
import torch
def linear(cfg): return torch.nn.Linear(cfg, 1)
def nothing(cfg): return None
number = 3
"""


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    (tmp_path / "users_models.py").write_text(MODULE)
    (tmp_path / "broken_models.py").write_text("import a_library_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield
    sys.modules.pop("users_models", None)


def test_a_function_of_the_working_folder_is_called_with_the_configuration():
    assert build_by_name("users_models:linear", 5).in_features == 5


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("users_models.linear", ValueError, "not of the form 'package.module:function'"),
        (":linear", ValueError, "not of the form"),
        ("user_models:linear", ValueError, "no module 'user_models'.*working folder"),
        ("users_models:linaer", ValueError, "has no function 'linaer'; it has linear, nothing"),
        ("users_models:number", ValueError, "has no function 'number'"),
        ("os:nope", ValueError, r"has no function 'nope'; it has (\w+, ){10}\.\.\.$"),
        ("users_models:nothing", ValueError, r"returned NoneType, expected a torch\.nn\.Module"),
        (
            "broken_models:build",
            ModuleNotFoundError,
            "No module named 'a_library_that_is_not_there'",
        ),
    ],
)
def test_a_builder_that_cannot_be_used_is_explained(name, error, message):
    with pytest.raises(error, match=message):
        build_by_name(name, 5)
