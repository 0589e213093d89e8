import logging
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer, DetectronCheckpointer
from detengine.checkpoint.files import load_file, save_file
from detengine.config.errors import ConfigError
from detengine.config.load import load_config, to_yaml

CONFIG = to_yaml(load_config(None, ["CONVENTIONS", "modern"]))
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


class Average:
    """Weights beside the model, as an EMA keeps them."""

    def __init__(self, model: nn.Module, value: float) -> None:
        self.weights = {n: torch.full_like(t, value) for n, t in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": 3, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]


def make_model(seed: int = 0, classes: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))


def make_run(
    folder: Path | str, optimizer: str = "sgd", seed: int = 0, **others: Any
) -> Checkpointer:
    model = make_model(seed)
    made = OPTIMIZERS[optimizer](model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(made, 0.9)
    return Checkpointer(model, made, scheduler, folder, class_names=("cat", "dog"), **others)


def train(run: Checkpointer, iterations: Iterable[int]) -> None:
    for iteration in iterations:
        images = torch.linspace(-1, 1, 15).reshape(5, 3).sin() + iteration
        run.optimizer.zero_grad()
        run.model(images).square().sum().backward()
        run.optimizer.step()
        run.scheduler.step()


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, optimizer: str
) -> None:
    unbroken = make_run("", optimizer)
    train(unbroken, range(5))
    first = make_run(tmp_path, optimizer)
    train(first, range(2))
    first.save("model_0000002", iteration=2)
    second = make_run(tmp_path, optimizer, seed=1)
    train(second, range(second.resume()["iteration"], 5))
    assert torch.equal(weights(second.model), weights(unbroken.model))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_save_resume_save_gives_identical_bytes(tmp_path: Path, optimizer: str) -> None:
    first = make_run(tmp_path, optimizer, config=CONFIG)
    train(first, range(2))
    first.save("first", iteration=2, seed=3, meters={"loss": [0.5]})
    second = make_run(tmp_path, optimizer, seed=1, config=CONFIG)
    second.save("second", **second.resume())
    assert (tmp_path / "first.pth").read_bytes() == (tmp_path / "second.pth").read_bytes()


def test_a_checkpoint_holds_the_entries_that_the_format_fixes(tmp_path: Path) -> None:
    run = make_run(tmp_path, config="SEED: 3\n")
    run.save("model_final", iteration=5, seed=3, meters={})
    data = load_file(tmp_path / "model_final.pth")
    states = {"model", "optimizer", "scheduler", "precision", "ema"}
    others = {"meters", "iteration", "seed", "world_size", "categories", "config"}
    assert data.keys() == {"format"} | states | others
    assert (data["format"], data["world_size"], data["iteration"]) == (1, 1, 5)
    assert (data["categories"], data["config"]) == (["cat", "dog"], "SEED: 3\n")
    assert data["precision"] is None
    assert list(data["model"]) == list(run.model.state_dict())


def test_a_run_that_goes_on_with_other_ranks_says_how_many_it_has(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.save("of_one", iteration=1)
    before = load_file(tmp_path / "of_one.pth") | {"world_size": 8}
    save_file(tmp_path / "of_eight.pth", before)
    run.tag_last_checkpoint("of_eight.pth")
    run.save("of_one_again", **run.resume())
    assert load_file(tmp_path / "of_one_again.pth")["world_size"] == 1


def test_last_checkpoint_holds_a_relative_name_so_that_the_folder_can_move(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    assert not run.has_checkpoint()
    run.save("model_0000001", iteration=1)
    run.save("model_0000002", iteration=2)
    assert (tmp_path / "a" / "last_checkpoint").read_text() == "model_0000002.pth\n"
    (tmp_path / "a").rename(tmp_path / "b")
    moved = make_run(tmp_path / "b")
    assert moved.has_checkpoint()
    assert moved.get_checkpoint_file() == tmp_path / "b" / "model_0000002.pth"
    assert moved.resume()["iteration"] == 2


def test_the_run_can_be_sent_back_to_an_earlier_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.save("model_0000001", iteration=1)
    run.save("model_0000002", iteration=2)
    run.tag_last_checkpoint("model_0000001.pth")
    assert run.resume()["iteration"] == 1


def test_averaged_weights_and_precision_are_resumed_too(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    first.ema = Average(first.model, 7.0)
    first.save("x", iteration=1)
    second = make_run(tmp_path)
    second.ema = Average(second.model, 0.0)
    second.resume()
    assert second.ema.weights["0.weight"].unique().tolist() == [7.0]


def test_without_a_folder_or_on_another_rank_nothing_is_written(tmp_path: Path) -> None:
    make_run("").save("x")
    make_run(tmp_path, save_to_disk=False).save("x")
    assert not list(tmp_path.iterdir())
    assert not make_run("").has_checkpoint()


def test_resuming_where_no_run_is_is_an_error_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run to resume in .*without --resume"):
        make_run(tmp_path).resume()
    with pytest.raises(FileNotFoundError, match=r"no run to resume in no folder at all"):
        make_run("").resume()


def test_a_file_that_does_not_say_its_iteration_is_not_resumed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.save("x")
    with pytest.raises(ValueError, match=r"x\.pth does not say .*'iteration' is None.*iteration="):
        run.resume()


def test_a_foreign_file_is_not_resumed(tmp_path: Path) -> None:
    torch.save({"model": make_model().state_dict()}, tmp_path / "model_final.pth")
    with pytest.raises(ValueError, match=r"model_final\.pth was not written by detengine.*WEIGHT"):
        make_run(tmp_path).resume()


def configured(folder: Path, *changes: str) -> DetectronCheckpointer:
    cfg = load_config(None, ["CONVENTIONS", "modern", *changes])
    return DetectronCheckpointer(cfg, make_model(), None, None, folder)


def test_a_run_does_not_go_on_under_another_configuration(tmp_path: Path) -> None:
    configured(tmp_path).save("x", iteration=1)
    run = configured(tmp_path, "SOLVER.BASE_LR", "0.123")
    before = weights(run.model)
    with pytest.raises(ConfigError, match=r"x\.pth was started with another(.|\n)*BASE_LR: was"):
        run.resume()
    assert torch.equal(weights(run.model), before)


def test_what_may_change_is_told_when_a_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configured(tmp_path).save("x", iteration=1)
    assert configured(tmp_path, "SOLVER.LOG_PERIOD", "7").resume()["iteration"] == 1
    assert "SOLVER.LOG_PERIOD was 20, and is 7 from here on" in caplog.text


def test_resuming_without_a_state_that_is_needed_is_an_error(tmp_path: Path) -> None:
    Checkpointer(make_model(), save_dir=tmp_path).save("x", iteration=1)
    with pytest.raises(ValueError, match=r"holds no optimizer, no scheduler, so this run cannot"):
        make_run(tmp_path).resume()


def test_a_state_that_this_run_has_not_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path).save("x", iteration=1)
    Checkpointer(make_model(), save_dir=tmp_path).resume()
    assert "not taken over: ['optimizer', 'scheduler'], which this run has not" in caplog.text


def test_another_optimizer_is_an_error_that_names_it(tmp_path: Path) -> None:
    make_run(tmp_path).save("x", iteration=1)
    run = make_run(tmp_path)
    groups = [{"params": [parameter]} for parameter in run.model.parameters()]
    run.optimizer = torch.optim.SGD(groups, lr=0.1)
    with pytest.raises(ValueError, match=r"the optimizer in .*x\.pth does not fit this run's: "):
        run.resume()


@pytest.mark.parametrize("method", ["resume", "load"])
def test_other_classes_are_an_error_with_a_table(tmp_path: Path, method: str) -> None:
    make_run(tmp_path).save("x", iteration=1)
    run = make_run(tmp_path)
    run.class_names = ["dog", "cat"]
    path = [tmp_path / "x.pth"] if method == "load" else []
    with pytest.raises(ValueError, match=r"other classes(.|\n)*1  dog    cat  <--(.|\n)*CLASSES"):
        getattr(run, method)(*path)


def test_the_format_of_a_later_version_is_an_error(tmp_path: Path) -> None:
    torch.save({"format": 2, "model": make_model().state_dict()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="has the checkpoint format 2; this detengine reads"):
        make_run("").load(tmp_path / "x.pth")


def test_loading_initialises_the_model_and_nothing_else(tmp_path: Path) -> None:
    trained = make_run(tmp_path)
    train(trained, range(2))
    trained.save("x", iteration=2, meters={})
    run = make_run(tmp_path / "other", seed=1)
    others = run.load(tmp_path / "x.pth")
    assert torch.equal(weights(run.model), weights(trained.model))
    assert run.optimizer.state_dict()["state"] == {}
    assert run.scheduler.last_epoch == 0
    assert others.keys() == {
        "format", "iteration", "meters", "world_size", "categories", "config"
    }  # fmt: skip


def test_loading_never_takes_the_last_checkpoint_instead_of_the_named_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = weights(run.model)
    run.save("first", iteration=0)
    train(run, range(2))
    run.save("second", iteration=2)
    run.load(tmp_path / "first.pth")
    assert torch.equal(weights(run.model), before)


@pytest.mark.parametrize(("use_ema", "value"), [(True, 7.0), (False, 1.0)])
def test_loading_takes_the_averaged_weights_where_there_are_some(
    tmp_path: Path, use_ema: bool, value: float
) -> None:
    run = make_run(tmp_path)
    nn.init.ones_(run.model[0].weight)
    run.ema = Average(run.model, 7.0)
    run.save("x")
    other = make_run("", seed=1)
    other.load(tmp_path / "x.pth", use_ema=use_ema)
    assert other.model[0].weight.unique().tolist() == [value]


def test_a_bare_state_dict_initialises(tmp_path: Path) -> None:
    model = make_model(seed=1)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    run = make_run("")
    assert run.load(tmp_path / "bare.pth") == {"categories": []}
    assert torch.equal(weights(run.model), weights(model))


def test_a_name_of_the_catalog_initialises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETENGINE_CACHE", str(tmp_path))
    blobs = {"res2_0_branch1_w": np.full((4, 3, 1, 1), 5.0, np.float32), "fc1000_b": np.ones(1)}
    (tmp_path / "R-101.pkl").write_bytes(pickle.dumps(blobs, protocol=2))
    stage = nn.ModuleList(
        [nn.ModuleDict({"downsample": nn.Sequential(nn.Conv2d(3, 4, 1, bias=False))})]
    )
    body = nn.ModuleDict({"layer1": stage})
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"body": body})})
    Checkpointer(model).load("catalog://ImageNetPretrained/MSRA/R-101", strict=False)
    assert model.state_dict()["backbone.body.layer1.0.downsample.0.weight"].unique() == 5.0


def test_initialising_for_other_classes_says_which_weights_are_fresh(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Checkpointer(make_model(classes=3), save_dir=tmp_path, class_names="abc").save("x")
    run = make_run("", seed=1)
    fresh = run.model[2].weight.clone()
    run.load(tmp_path / "x.pth", strict=False)
    assert torch.equal(run.model[2].weight, fresh)
    assert "2.weight: [3, 4] -> [2, 4]" in caplog.text
    assert "The model's 2 classes are not the file's 3" in caplog.text


def test_initialising_a_trunk_is_said_calmly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole = nn.ModuleDict({"trunk": nn.Linear(2, 3), "head": nn.Linear(3, 4)})
    torch.save(whole["trunk"].state_dict(), tmp_path / "trunk.pth")
    Checkpointer(whole).load(tmp_path / "trunk.pth", strict=False)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "2 of the model are not in the file and stay as they were" in caplog.text


def test_a_full_match_says_nothing_but_what_was_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_run(tmp_path).save("x")
    make_run("").load(tmp_path / "x.pth")
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "loading the weights of" in caplog.text


def test_the_wrapper_of_torch_compile_is_not_in_the_saved_names(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    names = list(run.model.state_dict())
    run.model = torch.compile(run.model)
    run.save("x")
    assert list(load_file(tmp_path / "x.pth")["model"]) == names


def test_the_folder_is_made_at_the_start_and_not_after_the_training(tmp_path: Path) -> None:
    make_run(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_not_the_last(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.save("good", iteration=1)
    with pytest.raises(TypeError, match=r"\['meters'\] is a builtins\.object"):
        run.save("bad", meters=object())
    vanished = make_run(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        vanished.save("x")
    assert run.get_checkpoint_file().name == "good.pth"


def test_killed_after_writing_the_last_checkpoint_is_still_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    run.save("one", iteration=1)
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == "last_checkpoint":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save("two", iteration=2)
    assert run.resume()["iteration"] == 1


@pytest.mark.parametrize("name", ["model", "optimizer", "config", "format"])
def test_an_argument_with_the_name_of_an_entry_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} cannot be arguments"):
        make_run(tmp_path).save("x", **{name: 1})


def test_the_historic_constructor_keeps_the_configuration(tmp_path: Path) -> None:
    cfg = load_config(None, ["CONVENTIONS", "modern", "SOLVER.MAX_ITER", "123"])
    run = DetectronCheckpointer(cfg, make_model(), None, None, tmp_path)
    run.save("x")
    assert "MAX_ITER: 123" in load_file(tmp_path / "x.pth")["config"]


@pytest.mark.parametrize("average", [{"updates": 3}, {"weights": 1}, [1]])
def test_an_average_without_weights_is_an_error(tmp_path: Path, average: object) -> None:
    data = {"format": 1, "model": make_model().state_dict(), "ema": average}
    torch.save(data, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"'ema' in .*x\.pth holds no 'weights'; expected names"):
        make_run("").load(tmp_path / "x.pth")
