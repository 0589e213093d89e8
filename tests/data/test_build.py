import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.transforms import v2

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.data.build import (
    build_datasets,
    build_transforms,
    make_data_loader,
    make_evaluation_loader,
    make_loss_loader,
    make_training_loader,
)
from detengine.data.transforms import RandomCrop, ShortestEdgeResize
from detengine.structures.batch import Batch

MakeConfig = Callable[..., Config]
POLYGON = [[2, 3, 12, 3, 12, 15]]


@pytest.fixture
def make_config(tmp_path: Path, make_coco: Callable[..., Path]) -> MakeConfig:
    """The configuration of two sets of tiny images: "wide" (cat, dog) and "high" (dog, fox)."""
    for name, sizes, classes in (
        ("wide", [(20, 30)] * 5, ("cat", "dog")),
        ("high", [(30, 20), (33, 21), (20, 31), (20, 20)], ("dog", "fox")),
    ):
        annotations = [
            {"image_id": 1 + i % len(sizes), "category_id": 10 + 10 * (i % 2),
             "bbox": [2, 3, 10, 12], "segmentation": POLYGON}
            for i in range(2 * len(sizes) - 3)
        ]  # fmt: skip
        make_coco(sizes, annotations, classes, name)
    document = {
        "CONVENTIONS": "modern",
        "DATASETS": {
            "ROOT": str(tmp_path),
            "DEFINE": {
                name: {"FORMAT": "coco", "IMAGES": name, "ANNOTATIONS": f"{name}/instances.json"}
                for name in ("wide", "high")
            },
            "TRAIN": ["wide", "high"],
            "TEST": ["high", "wide"],
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"MIN_SIZE_TRAIN": [24, 40], "MIN_SIZE_TEST": 24},
        "SOLVER": {"IMS_PER_BATCH": 4, "MAX_ITER": 6, "STEPS": []},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))

    def make(*overrides: str) -> Config:
        return load_config(path, overrides)

    return make


def _training(cfg: Config, start_iter: int = 0) -> Any:
    return make_data_loader(cfg, start_iter=start_iter)


def _evaluation(cfg: Config, **options: Any) -> list[Any]:
    loaders = make_data_loader(cfg, is_train=False, **options)
    assert isinstance(loaders, list)
    return loaders


def _raise_if_different(first: Batch, second: Batch) -> None:
    assert first.image_ids == second.image_ids
    pairs = zip(first.images, second.images, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    for one, other in zip(first.targets, second.targets, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one if key != "masks")
        if "masks" in one:
            assert torch.equal(one["masks"].dense(), other["masks"].dense())


def test_the_training_loader_yields_batches_of_its_length(make_config: MakeConfig) -> None:
    loader = _training(make_config())
    batches = list(loader)
    assert len(batches) == len(loader) == 6
    for images, targets, image_ids in batches:
        assert len(images) == len(targets) == len(image_ids) == 4
        assert all(image.dtype == torch.uint8 and image.ndim == 3 for image in images)
        assert all(min(image.shape[1:]) in (24, 40) for image in images)
    assert loader.dataset.name == "wide+high"
    assert loader.dataset.class_names == ("cat", "dog", "fox")
    assert len(loader.dataset) == 9


def test_labels_of_several_data_sets_mean_the_same_classes(make_config: MakeConfig) -> None:
    wide, high = build_datasets(make_config(), ["wide", "high"])
    assert wide[0].target["labels"].tolist() == [1, 2]
    assert high[0].target["labels"].tolist() == [2, 2]
    assert high[1].target["labels"].tolist() == [3]


def test_images_without_objects_are_trained_on(make_config: MakeConfig) -> None:
    loader = _training(make_config("DATASETS.TRAIN", "[wide]", "DATALOADER.NUM_WORKERS", "0",
                                   "DATASETS.CLASSES", "[dog]"))  # fmt: skip
    counts = {i: len(t["boxes"]) for _, targets, ids in loader
              for i, t in zip(ids, targets, strict=True)}  # fmt: skip
    assert set(counts) == {1, 2, 3, 4, 5}
    assert 0 in counts.values()


@pytest.mark.parametrize("workers", ["2", "4"])
def test_batches_do_not_depend_on_the_number_of_workers(
    make_config: MakeConfig, workers: str
) -> None:
    options = ["MODEL.MASK_ON", "True", "INPUT.CROP_SIZE_TRAIN", "(22, 22)", "INPUT.HUE", "0.1",
               "SOLVER.MAX_ITER", "4"]  # fmt: skip
    alone = list(_training(make_config(*options)))
    together = list(_training(make_config(*options, "DATALOADER.NUM_WORKERS", workers)))
    assert len(alone) == len(together) == 4
    for one, other in zip(alone, together, strict=True):
        _raise_if_different(one, other)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_loader_started_late_yields_what_the_whole_one_has_left(
    make_config: MakeConfig, start: int
) -> None:
    cfg = make_config("SOLVER.ACCUMULATE", "2")
    whole = list(_training(cfg))
    loader = _training(cfg, start_iter=start)
    rest = list(loader)
    assert len(loader) == 12
    assert len(rest) == 12 - 2 * start
    for one, other in zip(whole[2 * start :], rest, strict=True):
        _raise_if_different(one, other)


def test_micro_batches_are_the_parts_of_the_batch(make_config: MakeConfig) -> None:
    whole = list(_training(make_config()))
    parts: Iterator[Batch] = iter(_training(make_config("SOLVER.ACCUMULATE", "2")))
    for batch in whole:
        first, second = next(parts), next(parts)
        joined = (one + other for one, other in zip(first, second, strict=True))
        _raise_if_different(batch, Batch(*joined))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_global_generator_is_left_alone(make_config: MakeConfig, workers: str) -> None:
    loader = _training(make_config("DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_ITER", "2"))
    before = torch.get_rng_state()
    list(loader)
    list(_evaluation(make_config("DATALOADER.NUM_WORKERS", workers))[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_a_rare_class_are_repeated_in_all_data_sets_together(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loader = _training(make_config("DATALOADER.REPEAT_THRESHOLD", "0.5", "SOLVER.MAX_ITER", "4000"))
    # of 9 images 2 have a fox (sqrt(0.5 * 9 / 2)), 4 a cat (sqrt(0.5 * 9 / 4)), and 5 a dog
    assert caplog.messages[-1] == (
        "DATALOADER.REPEAT_THRESHOLD 0.5: 6 of 9 images are repeated, at most 1.50 times an epoch "
        "on average; an epoch has 10 images"
    )
    keys = {key for batch in loader.batch_sampler for key in batch}
    epochs = max(epoch for epoch, _ in keys)
    seen = Counter(index % 9 for epoch, index in keys if epoch < epochs)
    expected = {0: 1.06, 1: 1.06, 2: 1.06, 3: 1, 4: 1.06, 5: 1, 6: 1.5, 7: 1, 8: 1.5}
    assert {index: times / epochs for index, times in seen.items()} == pytest.approx(
        expected, abs=0.05
    )


def test_repeated_images_do_not_depend_on_the_number_of_workers(make_config: MakeConfig) -> None:
    options = ["DATALOADER.REPEAT_THRESHOLD", "1"]
    alone = list(_training(make_config(*options)))
    together = list(_training(make_config(*options, "DATALOADER.NUM_WORKERS", "2")))
    for one, other in zip(alone, together, strict=True):
        _raise_if_different(one, other)


def test_nothing_is_said_of_repeats_where_there_are_none(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _training(make_config())
    assert not caplog.messages


def test_grouped_batches_are_all_upright_or_all_lying(make_config: MakeConfig) -> None:
    for images, _, _ in _training(make_config()):
        assert len({image.shape[1] >= image.shape[2] for image in images}) == 1
    mixed = _training(make_config("DATALOADER.ASPECT_RATIO_GROUPING", "False"))
    kinds = [{image.shape[1] >= image.shape[2] for image in images} for images, _, _ in mixed]
    assert any(len(kind) == 2 for kind in kinds)


def test_evaluation_sees_every_image_once_in_the_order_of_the_sets(make_config: MakeConfig) -> None:
    loaders = _evaluation(make_config("TEST.IMS_PER_BATCH", "2"))
    assert [loader.dataset.name for loader in loaders] == ["high", "wide"]
    for loader, images in zip(loaders, (4, 5), strict=True):
        batches = list(loader)
        assert len(batches) == len(loader) == -(-images // 2)
        ids = [image_id for batch in batches for image_id in batch.image_ids]
        assert ids == loader.dataset.ground_truth().image_ids.tolist()
        keys = {key for batch in batches for target in batch.targets for key in target}
        assert keys == {"image_size", "original_size"}
        assert loader.dataset.class_names == ("cat", "dog", "fox")


def test_evaluated_ranks_share_the_images_without_padding(
    make_config: MakeConfig,
) -> None:
    cfg = make_config("TEST.IMS_PER_BATCH", "2")
    (wide,) = build_datasets(cfg, ["wide"])
    ids = []
    for rank in range(2):
        loader = make_evaluation_loader(cfg, wide, rank=rank, world_size=2)
        ids.append([batch.image_ids for batch in loader])
    assert ids == [[[1], [3], [5]], [[2], [4]]]


@pytest.mark.parametrize(("done", "missing"), [([2, 4], [[1, 3], [5]]), ([1, 3, 2], [[5]])])
def test_what_is_not_evaluated_yet_comes_in_the_batches_that_it_comes_in_anyway(
    make_config: MakeConfig, done: list[int], missing: list[list[int]]
) -> None:
    """An image that stood beside others would be padded otherwise, and give other detections."""
    cfg = make_config("TEST.IMS_PER_BATCH", "4")
    (wide,) = build_datasets(cfg, ["wide"])
    loader = make_evaluation_loader(cfg, wide, rank=0, world_size=2, without=done)
    assert [batch.image_ids for batch in loader] == missing


@pytest.mark.parametrize("augmented", ["False", "True"])
def test_losses_are_measured_on_the_batches_of_the_evaluation_resized_and_with_targets(
    make_config: MakeConfig, augmented: str
) -> None:
    cfg = make_config("TEST.IMS_PER_BATCH", "4", "TEST.BBOX_AUG.ENABLED", augmented)
    (high,) = build_datasets(cfg, ["high"])
    scored = make_evaluation_loader(cfg, high, rank=1, world_size=2)
    batches = list(make_loss_loader(cfg, high, rank=1, world_size=2))
    assert [batch.image_ids for batch in batches] == [batch.image_ids for batch in scored]
    for batch in batches:
        assert all(min(image.shape[1:]) == 24 for image in batch.images)
        assert all({"boxes", "labels"} <= target.keys() for target in batch.targets)


def test_two_ranks_batches_together_are_that_of_one(
    make_config: MakeConfig,
) -> None:
    cfg = make_config()
    whole, datasets = list(_training(cfg)), build_datasets(cfg, cfg.DATASETS.TRAIN)
    ranks = [
        list(make_training_loader(cfg, datasets, 0, rank=rank, world_size=2)) for rank in range(2)
    ]
    for batch, first, second in zip(whole, *ranks, strict=True):
        joined = (one + other for one, other in zip(first, second, strict=True))
        _raise_if_different(batch, Batch(*joined))


def test_the_classes_may_be_a_subset_in_another_order(make_config: MakeConfig) -> None:
    cfg = make_config("DATASETS.CLASSES", "[fox, cat]")
    wide, high = build_datasets(cfg, ["wide", "high"])
    assert wide.class_names == high.class_names == ("fox", "cat")
    assert wide[0].target["labels"].tolist() == [2]
    assert high[1].target["labels"].tolist() == [1]


def test_given_classes_win_and_must_cover_those_of_the_data(make_config: MakeConfig) -> None:
    names = ("fox", "dog", "cat", "cow")
    loader = _evaluation(make_config(), class_names=names)[0]
    assert loader.dataset.class_names == names
    with pytest.raises(
        ValueError, match="high has 1 of 2 classes that the model does not know: fox"
    ):
        make_data_loader(make_config(), class_names=("cat", "dog"))
    chosen = make_config("DATASETS.CLASSES", "[dog, cat]")
    make_data_loader(chosen, class_names=("dog", "cat"))


def test_data_sets_that_are_built_already_are_not_read_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    cfg = make_config()
    datasets = build_datasets(cfg, cfg.DATASETS.TRAIN)
    whole = list(_training(cfg))
    for name in ("wide", "high"):
        (tmp_path / name / "instances.json").unlink()
    for one, other in zip(whole, make_data_loader(cfg, datasets=datasets), strict=True):
        _raise_if_different(one, other)
    loaders = make_data_loader(cfg, False, datasets=datasets)
    assert [loader.dataset.name for loader in loaders] == ["wide", "high"]


@pytest.mark.parametrize(("device", "pinned"), [("auto", True), ("cuda:1", True), ("cpu", False)])
def test_memory_is_pinned_for_a_gpu_that_is_used(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _training(make_config("MODEL.DEVICE", device)).pin_memory is pinned


def test_a_data_set_named_twice_is_trained_on_twice(make_config: MakeConfig) -> None:
    assert len(_training(make_config("DATASETS.TRAIN", "[wide, wide]")).dataset) == 10


def test_without_training_sets_the_classes_are_those_of_the_test_sets(
    make_config: MakeConfig,
) -> None:
    loaders = _evaluation(make_config("DATASETS.TRAIN", "[]"))
    assert loaders[0].dataset.class_names == ("dog", "fox", "cat")


def test_who_scores_needs_no_training_sets(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = make_config("DATASETS.TRAIN", "[coco_2014_train]")
    assert _evaluation(cfg)[0].dataset.class_names == ("dog", "fox", "cat")
    warning = "labels are taken for the classes of high, wide: the files of data set 'coco_2014_tr"
    assert warning in caplog.text
    with pytest.raises(FileNotFoundError, match="coco_2014_train"):
        _training(cfg)


def test_proposals_have_no_number_of_classes(make_config: MakeConfig) -> None:
    cfg = make_config("MODEL.RPN_ONLY", "True", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "2")
    assert len(build_datasets(cfg, ["wide"])) == 1


def test_voc_folders_are_loaded_by_their_definition(
    tmp_path: Path, make_voc: Callable[..., Path]
) -> None:
    root = make_voc({"a": [("cat", (2, 2, 9, 9), 0)], "b": []})
    definition = {"FORMAT": "voc", "ROOT": root.name, "SPLIT": "train", "CLASSES": ["dog", "cat"]}
    datasets = {"ROOT": str(tmp_path), "DEFINE": {"pets": definition}, "TRAIN": ["pets"]}
    (tmp_path / "voc.yaml").write_text(
        yaml.safe_dump({"CONVENTIONS": "modern", "DATASETS": datasets})
    )
    (pets,) = build_datasets(load_config(tmp_path / "voc.yaml"), ["pets"])
    assert pets.class_names == ("dog", "cat")
    assert pets[0].target["labels"].tolist() == [2]


def test_stages_that_do_nothing_are_not_there(make_config: MakeConfig) -> None:
    plain = build_transforms(make_config("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "0"), True)
    assert [type(stage) for stage in plain] == [ShortestEdgeResize]
    options = ["INPUT.HUE", "0.1", "INPUT.VERTICAL_FLIP_PROB_TRAIN", "0.2", "INPUT.CROP_SIZE_TRAIN",
               "(9, 9)"]  # fmt: skip
    full = build_transforms(make_config(*options), True)
    assert [type(stage) for stage in full] == [
        v2.ColorJitter, v2.RandomHorizontalFlip, v2.RandomVerticalFlip, ShortestEdgeResize,
        RandomCrop,
    ]  # fmt: skip
    assert [type(stage) for stage in build_transforms(make_config(*options), False)] == [
        ShortestEdgeResize
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATASETS.TRAIN", "[wide, wild]"], "'wild' is not defined .*; defined are: high, wide"),
        (["DATASETS.TRAIN", "[]"], "DATASETS.TRAIN is empty"),
        (["DATASETS.CLASSES", "[dog, cow]"], "asks for 'cow', .* are 'cat', 'dog', 'fox'"),
        (["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "3"],
         r"label beyond NUM_CLASSES: .*NUM_CLASSES is 3.* 3 classes \(cat, dog, fox\)"),
        (["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "81"],
         r"NUM_CLASSES is 81, .*3 classes \(cat, dog, fox\) and needs 4\. Leave the key out"),
        (["MODEL.KEYPOINT_ON", "True"], "KEYPOINT_ON is True, but data set 'wide' has no keyp"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused_with_its_key(
    make_config: MakeConfig, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_data_loader(make_config(*overrides))


def test_another_number_of_keypoints_than_the_heads_is_refused_before_the_training(
    make_coco: Callable[..., Path], make_config: MakeConfig
) -> None:
    points = [3, 4, 2, 9, 9, 1]
    annotation = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 10, 12], "keypoints": points}
    path = make_coco([(20, 30)], [annotation], ("cat",), "posed")
    definition = {"FORMAT": "coco", "IMAGES": "posed", "ANNOTATIONS": str(path)}
    options = ["DATASETS.DEFINE.posed", definition, "DATASETS.TRAIN", "[posed]"]
    options += ["MODEL.KEYPOINT_ON", "True"]
    message = r"ROI_KEYPOINT_HEAD\.NUM_CLASSES is 17, but the objects of data set 'posed' have 2 k"
    with pytest.raises(ValueError, match=message):
        build_datasets(make_config(*options), ["posed"])
    fitting = [*options, "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", "2"]
    assert len(build_datasets(make_config(*fitting), ["posed"])) == 1
    of_a_builder = [*options, "MODEL.BUILDER", "models:build"]
    assert len(build_datasets(make_config(*of_a_builder), ["posed"])) == 1


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("images", "data set 'bare' lists no images.* DATASETS.DEFINE.bare name the right file"),
        ("categories", "bare: no class is named there.* categories .COCO., .* CLASSES .VOC."),
    ],
)
def test_a_data_set_without_images_or_classes_is_refused(
    tmp_path: Path, make_coco: Callable[..., Path], missing: str, message: str
) -> None:
    path = make_coco([(9, 9)], [])
    path.write_text(json.dumps(json.loads(path.read_text()) | {missing: []}))
    definition = {"FORMAT": "coco", "IMAGES": str(path.parent), "ANNOTATIONS": str(path)}
    datasets = {"DEFINE": {"bare": definition}, "TRAIN": ["bare"]}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump({"DATASETS": datasets}))
    with pytest.raises(ValueError, match=message):
        build_datasets(load_config(tmp_path / "bare.yaml"), ["bare"])


@pytest.mark.parametrize(
    "overrides", [("MODEL.BUILDER", "models:build"), ("CONVENTIONS", "maskrcnn_benchmark")]
)
def test_more_classes_than_the_data_has_are_left_to_a_builder_and_to_the_predecessors_files(
    make_config: MakeConfig, overrides: tuple[str, str]
) -> None:
    make_data_loader(make_config("MODEL.ROI_BOX_HEAD.NUM_CLASSES", "81", *overrides))


def test_an_indivisible_batch_is_refused_with_the_nearest_that_are(
    make_config: MakeConfig,
) -> None:
    cfg = make_config("SOLVER.ACCUMULATE", "2")
    datasets = build_datasets(cfg, ["wide"])
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH is 4.* 3 ranks .*ACCUMULATE 2.*can: 6\."):
        make_training_loader(cfg, datasets, 0, rank=0, world_size=3)
    cfg = make_config("SOLVER.IMS_PER_BATCH", "10", "SOLVER.ACCUMULATE", "2")
    with pytest.raises(ValueError, match="nearest that can: 6 or 12"):
        make_training_loader(cfg, datasets, 0, rank=0, world_size=3)
