import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

import detengine
from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.monitor import build
from detengine.monitor.build import OPTIONAL_SINKS, raise_if_not_installed, watching
from detengine.monitor.sinks import JsonlSink


def with_sinks(names: object) -> Config:
    return Config.model_validate({"SINKS": names})


def test_the_table_and_the_configuration_have_the_same_names() -> None:
    names: list[Any] = [
        name
        for kind in get_args(Config.model_fields["SINKS"].annotation)
        for name in get_args(kind)
    ]
    assert sorted(OPTIONAL_SINKS) == sorted(names)


def test_a_sink_that_is_not_known_is_an_error_that_offers_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'tensorboard' or 'wandb'"):
        with_sinks(["tensorbord"])


def test_a_package_that_is_missing_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raise_if_not_installed(with_sinks(["tensorboard", "wandb"]))
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    raise_if_not_installed(with_sinks([]))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'detengine\[tensorboard\]'"):
        raise_if_not_installed(with_sinks(["tensorboard"]))


def test_where_nobody_watches_there_is_metrics_jsonl_and_the_loader_itself(tmp_path: Path) -> None:
    loader = [1, 2, 3]
    with watching(load_config(None, []), loader, tmp_path, 0) as (batches, sinks):
        assert batches is loader
        assert [type(sink) for sink in sinks] == [JsonlSink]


def test_a_name_that_is_given_twice_is_one_sink(tmp_path: Path) -> None:
    with watching(with_sinks(["tensorboard"] * 2), [], tmp_path, 0) as (_, sinks):
        assert len(sinks) == 2
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_sinks_are_closed_whatever_ends_the_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError), watching(with_sinks([]), [], tmp_path, 0) as (_, sinks):
        raise KeyError
    with pytest.raises(ValueError, match="closed file"):
        sinks[0].write(20, {"train/loss": 0.5})


def test_in_a_pipe_nothing_of_the_view_or_of_other_sinks_is_loaded(tmp_path: Path) -> None:
    program = """if True:
        import json, sys
        from pathlib import Path
        from detengine.config.schema import Config
        from detengine.monitor.build import watching
        from detengine.monitor.logs import logging_to
        from detengine.monitor.progress import track
        with logging_to(None), watching(Config(), [1], Path(sys.argv[1]), 0) as (batches, sinks):
            list(track(batches, "scoring"))
        print(json.dumps(sorted(sys.modules)))
    """
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={"PYTHONPATH": str(Path(detengine.__file__).parents[1]), "PATH": ""},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    loaded = set(json.loads(printed))
    seen = {"display", "bar", "training_view", "tensorboard_sink", "wandb_sink"}
    assert not {f"detengine.monitor.{name}" for name in seen} & loaded
    assert not {"rich.live", "rich.progress", "tensorboard", "wandb", "IPython"} & loaded
