"""`detengine predict`, as a user types it: files in, drawn pictures and a json out."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detengine.engine.predictor import Predictor
from detengine.loading import load

Command = Callable[..., Any]
ALL = ("--score-threshold", "0", "--device", "cpu")


@pytest.fixture
def pictures(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a/0.jpg, a/1.jpg, b/0.jpg."""
    images = tiny_config.parent / "images"
    for name, source in (("a/0.jpg", "val_0"), ("a/1.jpg", "val_1"), ("b/0.jpg", "val_2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / f"{source}.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(folder: str | Path = "predictions") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "predictions.json").read_text())
    return content


def test_pictures_of_two_folders_are_drawn_and_written(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    code, out, _ = detengine("predict", finished_run, "a", "b", *ALL)
    assert code == 0
    assert "3 pictures: " in out
    content = read()
    assert [each["file_name"] for each in content["images"]] == ["a/0.jpg", "a/1.jpg", "b/0.jpg"]
    assert [each["name"] for each in content["categories"]] == ["disc", "bar", "wedge"]
    assert {each["image_id"] for each in content["annotations"]} == {1, 2, 3}
    assert {"bbox", "segmentation", "score"} < set(content["annotations"][0])
    for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg"):
        with Image.open(pictures / "predictions" / name) as drawn:
            assert min(drawn.size) == 480


def test_only_what_has_the_score_is_written_and_no_pictures_on_request(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    arguments = ("--score-threshold", "1", "--no-pictures", "--device", "cpu")
    code, out, _ = detengine("predict", finished_run, "a", "--output", "x", *arguments)
    assert code == 0
    assert "2 pictures: nothing found, from score 1" in out
    assert "A lower --score-threshold shows" in out
    assert read("x")["annotations"] == []
    assert [path.name for path in (pictures / "x").iterdir()] == ["predictions.json"]


def test_json_prints_the_file_and_nothing_else(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    code, out, _ = detengine("predict", finished_run, "a/0.jpg", "--json", *ALL)
    assert code == 0
    assert json.loads(out) == read()


def test_what_is_written_is_scored_by_name(
    detengine: Command, finished_run: Path, tiny_config: Path, pictures: Path
) -> None:
    """As the evaluation scores the same weights in batches of one."""
    images = tiny_config.parent / "images"
    assert detengine("predict", finished_run, f"{images}/val_*.jpg", "--no-pictures", *ALL)[0] == 0
    arguments = ("-c", finished_run / "config.yaml", "--iou-type", "bbox", "--iou-type", "segm")
    code, _, _ = detengine(
        "eval", "--predictions", "predictions/predictions.json", *arguments, "--output-dir", "again"
    )
    assert code == 0
    weights = finished_run / "model_final.pth"
    code, _, _ = detengine(
        *("eval", "-c", finished_run / "config.yaml", "--weights", weights),
        *("--output-dir", "own", "TEST.IMS_PER_BATCH", "1", "MODEL.DEVICE", "cpu"),
    )
    assert code == 0
    again, own = (json.loads(Path(name, "results.json").read_text()) for name in ("again", "own"))
    assert again == own


def test_tiles_and_batches_are_taken_from_the_command_line(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    code, _, _ = detengine("predict", finished_run, "a", *ALL, "--tile", "64x80", "--batch-size", 3)
    assert code == 0
    assert len(read()["images"]) == 2
    code, _, err = detengine("predict", finished_run, "a", *ALL, "--tile", "big", "--output", "x")
    assert code == 2
    assert "--tile is 'big'; expected a side in pixels" in err.replace("\n", " ")


# What is amiss


def test_a_class_name_cannot_command_the_terminal(
    detengine: Command, finished_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_with_names(*arguments: Any, **options: Any) -> Predictor:
        predictor = load(*arguments, **options)
        predictor.class_names = ("a\x1b[31m", "b\nc", "d\r")
        return predictor

    monkeypatch.setattr("detengine.cli.predict.load", load_with_names)
    code, out, _ = detengine("predict", finished_run, "a", *ALL)
    assert code == 0
    assert r"a\x1b[31m" in out
    assert all(each.isprintable() for each in out.splitlines())


def test_a_name_that_is_no_text_is_escaped_in_the_json(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    try:
        shutil.copy("a/0.jpg", b"b/\xff.jpg")
    except OSError:
        pytest.skip("this file system has no such names")
    assert detengine("predict", finished_run, "b", *ALL)[0] == 0
    assert [each["file_name"] for each in read()["images"]] == ["0.jpg", "\\udcff.jpg"]
    assert os.fsdecode(b"\xff.jpg") in {each.name for each in Path("predictions").iterdir()}


def test_of_several_pictures_in_a_file_the_first_is_taken_and_that_is_said(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    with Image.open("a/0.jpg") as first, Image.open("a/1.jpg") as second:
        first.save("b/two.tif", save_all=True, append_images=[second])
    code, out, _ = detengine("predict", finished_run, "b", *ALL)
    assert code == 0
    assert "two.tif: of 2 pictures the first is taken" in out
    assert len(read()["images"]) == 2


def test_an_unreadable_file_among_others_is_named_at_the_end(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    (pictures / "a/0.jpg").write_text("text")
    code, _, err = detengine("predict", finished_run, "a", "b", *ALL)
    assert code == 1
    assert "1 of the files could not be read, or not to the end:" in err
    assert "a/0.jpg cannot be read as an image" in err
    assert "All others are done, and in predictions." in err
    assert [each["file_name"] for each in read()["images"]] == ["a/1.jpg", "b/0.jpg"]


def test_a_folder_with_files_is_not_written_into(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    (pictures / "out").mkdir()
    (pictures / "out/mine.txt").write_text("mine")
    code, _, err = detengine("predict", finished_run, "a", *ALL, "--output-dir", "out")
    assert code == 1
    assert "out holds files already. Name another folder by --output-dir, or add --overwrite" in err
    code, _, _ = detengine("predict", finished_run, "a", *ALL, "--output-dir", "out", "--overwrite")
    assert code == 0
    assert (pictures / "out/mine.txt").read_text() == "mine"


def test_of_two_commands_at_once_the_second_writes_nothing_into_the_firsts_folder(
    detengine: Command, finished_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_while_another_begins(*arguments: Any, **options: Any) -> Predictor:
        Path("predictions").mkdir()
        Path("predictions/predictions.json.part").write_text("of another")
        return load(*arguments, **options)

    monkeypatch.setattr("detengine.cli.predict.load", load_while_another_begins)
    code, _, err = detengine("predict", finished_run, "a", *ALL)
    assert code == 1
    assert "predictions holds files already" in err
    assert Path("predictions/predictions.json.part").read_text() == "of another"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("RUN", "none.jpg"), "there is no none.jpg"),
        (("RUN", "*.gif"), "no file matches *.gif"),
        (("RUN", "empty"), "the folder empty holds no picture and no video"),
        (("nowhere", "a"), "there is nothing at nowhere. Expected a run's output folder"),
        (("RUN", "a", "--best"), "kept no model_best.pth"),
        (("RUN", "a", "--output-dir", "a/0.jpg"), "a/0.jpg is a file; expected a folder"),
        (("RUN", "a", "--output-dir", "a", "--overwrite"), "a is the one that is written to"),
        (("RUN", "a", "--tile", "64", "--tile-overlap", "1"), "tile_overlap is 1.0; expected"),
    ],
)
def test_what_cannot_be_done_is_one_paragraph(
    detengine: Command, finished_run: Path, pictures: Path, arguments: tuple[str, ...], said: str
) -> None:
    (pictures / "empty").mkdir()
    given = [str(finished_run) if each == "RUN" else each for each in arguments]
    code, _, err = detengine("predict", *given)
    assert code == 1
    assert said in err
    assert not (pictures / "predictions").exists()


def test_where_no_file_can_be_read_none_is_said_to_be_done(
    detengine: Command, finished_run: Path, pictures: Path
) -> None:
    (pictures / "a/0.jpg").write_text("text")
    code, _, err = detengine("predict", finished_run, "a/0.jpg", *ALL)
    assert code == 1
    assert "Copy the file again from its source, or leave it out." in err
    assert "All others" not in err


def test_ctrl_c_leaves_what_was_done_until_then(
    detengine: Command, finished_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Predictor._detect
    calls = iter(range(100))

    def interrupted(self: Predictor, pieces: Any) -> Any:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, pieces)

    monkeypatch.setattr(Predictor, "_detect", interrupted)
    code, _, err = detengine("predict", finished_run, "a", "b", *ALL)
    assert code == 130
    assert "Stopped: predictions/predictions.json has what was found until then" in err
    assert [each["file_name"] for each in read()["images"]] == ["a/0.jpg", "a/1.jpg"]


# Videos


@pytest.fixture
def film(pictures: Path) -> Path:
    """Five frames of 96 x 128 pixels."""
    av = pytest.importorskip("av")
    frame = np.asarray(Image.open("a/0.jpg").convert("RGB").resize((128, 96)))
    with av.open("film.mov", "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return pictures / "film.mov"


def test_a_video_becomes_a_drawn_one_and_an_image_for_each_frame(
    detengine: Command, finished_run: Path, film: Path
) -> None:
    from detengine.data.video import VideoReader

    code, out, _ = detengine("predict", finished_run, film, "a/1.jpg", *ALL, "--batch-size", 2)
    assert code == 0
    assert "1 picture and 5 frames of videos: " in out
    images = read()["images"]
    assert [each.get("frame") for each in images] == [None, 0, 1, 2, 3, 4]
    assert images[2]["file_name"] == "film.mov"
    assert images[2]["seconds"] == pytest.approx(0.2)
    with VideoReader(Path("predictions/film.mov.mp4")) as reader:
        frames = list(reader)
    assert len(frames) == 5
    assert frames[0].image.shape == (3, 96, 128)


def test_of_a_video_cut_short_the_rest_is_missed_and_what_is_there_is_done(
    detengine: Command, finished_run: Path, film: Path
) -> None:
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 3 // 4])
    code, _, err = detengine("predict", finished_run, film, *ALL)
    assert code == 1
    assert "it says that it has 5: it is cut short" in err
    assert 0 < len(read()["images"]) < 5
    assert Path("predictions/film.mov.mp4").is_file()


def test_without_pyav_a_video_is_refused_before_anything_is_done(
    detengine: Command, finished_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (pictures / "film.mp4").write_text("film")
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = detengine("predict", finished_run, "a", "film.mp4")
    assert code == 1
    assert "`pip install detengine[video]`" in err
    assert not (pictures / "predictions").exists()
