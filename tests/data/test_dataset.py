import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torchvision import tv_tensors
from torchvision.transforms import v2

from detengine.data.coco import load_coco
from detengine.data.dataset import DetectionDataset, EvaluationData, TrainingData
from detengine.data.randomness import seeded
from detengine.data.transforms import RandomCrop, ShortestEdgeResize
from detengine.data.voc import load_voc
from detengine.structures.ground_truth import GroundTruth

MakeCoco = Callable[..., Path]
BOX = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 4, 6]}


def _dataset(path: Path, **options: Any) -> DetectionDataset:
    truth = load_coco(path, path.parent, "pets")
    class_names = options.pop("class_names", truth.categories.names)
    return DetectionDataset("pets", truth, path.parent, class_names, **options)


def test_a_sample_is_the_stored_image_with_its_objects(make_coco: MakeCoco) -> None:
    path = make_coco([(20, 30)], [BOX, {**BOX, "category_id": 20, "bbox": [0, 0, 30, 20]}])
    image, target, image_id = _dataset(path)[0]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 20, 30)
    assert image_id == 1
    assert target.keys() == {"boxes", "labels", "image_size", "original_size"}
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[2, 3, 6, 9], [0, 0, 30, 20]]
    assert target["labels"].dtype == target["image_size"].dtype == torch.int64
    assert target["labels"].tolist() == [1, 2]
    assert target["image_size"].tolist() == target["original_size"].tolist() == [20, 30]


def test_crowds_and_other_classes_are_not_trained_on_but_stay_in_the_truth(
    make_coco: MakeCoco,
) -> None:
    path = make_coco([(20, 30)], [{**BOX, "iscrowd": 1}, BOX, {**BOX, "category_id": 20}])
    dataset = _dataset(path, class_names=("bird", "dog"))
    assert dataset[0].target["labels"].tolist() == [2]
    assert len(dataset.ground_truth().annotation_ids) == 3


def test_difficult_objects_are_not_trained_on(make_voc: Callable[..., Path]) -> None:
    root = make_voc({"a": [("cat", (1, 1, 5, 5), 1), ("cat", (2, 2, 5, 5), 0)]})
    truth = load_voc(root, "train", None, "pets")
    dataset = DetectionDataset("pets", truth, root / "JPEGImages", ("cat",))
    assert dataset[0].target["boxes"].tolist() == [[1, 1, 5, 5]]


def test_an_image_without_objects_has_an_empty_target(make_coco: MakeCoco) -> None:
    dataset = _dataset(make_coco([(20, 30)], []), with_masks=True, with_keypoints=True)
    target = dataset[0].target
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].dense().shape == (0, 20, 30)
    assert target["keypoints"].shape[0] == 0


def test_boxes_without_area_are_dropped_with_one_warning_that_names_them(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture
) -> None:
    empty = [{**BOX, "image_id": 2, "bbox": [1, 1, 0, 5]} for _ in range(12)]
    dataset = _dataset(make_coco([(20, 30), (9, 9)], [BOX, *empty]))
    TrainingData([dataset], [], seed=0)
    assert len(dataset[1].target["boxes"]) == 0
    assert len(dataset.ground_truth().annotation_ids) == 13
    (message,) = caplog.messages
    assert message.startswith(
        "pets: 12 of 13 annotations have a box without area and are not trained on: 2 (2.png), "
    )
    assert message.endswith("11 (2.png), ...")


def test_boxes_that_stick_out_are_clipped_and_named_beyond_a_pixel(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_coco([(20, 30)], [{**BOX, "bbox": [-1, 3, 9, 18]}, {**BOX, "bbox": [25, 3, 9, 9]}])
    dataset = _dataset(path)
    dataset.warn_of_what_is_not_trained_on()
    assert dataset[0].target["boxes"].tolist() == [[0, 3, 8, 20], [25, 3, 30, 12]]
    assert caplog.messages == [
        "pets: 1 of 2 annotations reach out of their image by more than a pixel; "
        "they are clipped: 2 (1.png)"
    ]


def test_objects_without_a_mask_are_left_out_where_masks_are_trained(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_coco([(20, 30)], [BOX, {**BOX, "segmentation": [[2, 3, 6, 3, 6, 9]]}])
    dataset = _dataset(path, with_masks=True)
    dataset.warn_of_what_is_not_trained_on()
    assert len(dataset[0].target["masks"]) == len(dataset[0].target["boxes"]) == 1
    assert "1 of 2 annotations have no mask and are not trained on" in caplog.text
    assert len(_dataset(path)[0].target["boxes"]) == 2


def test_sound_annotations_are_passed_without_a_word(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    TrainingData([_dataset(make_coco([(20, 30)], [BOX]))], [], seed=0)
    assert not caplog.messages


@pytest.mark.parametrize(("kind", "key"), [("masks", "MASK_ON"), ("keypoints", "KEYPOINT_ON")])
def test_asking_for_what_no_annotation_has_is_refused(
    make_coco: MakeCoco, kind: str, key: str
) -> None:
    path = make_coco([(20, 30)], [BOX])
    with pytest.raises(ValueError, match=f"MODEL.{key} is True, but data set 'pets' has no {kind}"):
        _dataset(path, **{f"with_{kind}": True})


def test_a_missing_image_is_named_with_its_data_set_when_it_is_read(make_coco: MakeCoco) -> None:
    path = make_coco([(20, 30), (20, 30)], [])
    (path.parent / "2.png").unlink()
    dataset = _dataset(path)
    with pytest.raises(
        FileNotFoundError, match=r"2\.png does not exist, but data set 'pets' lists"
    ):
        dataset[1]


def test_an_image_of_another_size_than_annotated_is_refused_with_both(make_coco: MakeCoco) -> None:
    path = make_coco([(20, 30)], [])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(path.parent / "1.png", exif=exif)
    with pytest.raises(ValueError, match=r"1\.png has 20 x 30 pixels .*'pets' gives it 30 x 20"):
        _dataset(path)[0]


def _columns(truth: GroundTruth) -> int:
    gc.collect()
    seen: set[int] = set()
    waiting: list[object] = [truth]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | torch.dtype | torch.layout):
            continue
        seen.add(id(each))
        waiting.extend(gc.get_referents(each))
    return len(seen)


def test_what_a_worker_inherits_does_not_grow_with_the_annotations(make_coco: MakeCoco) -> None:
    polygon = {**BOX, "segmentation": [[2, 3, 6, 3, 6, 9]]}
    counts = []
    for repeats in (1, 300):
        path = make_coco([(20, 30)] * repeats, [polygon] * (3 * repeats), name=f"coco{repeats}")
        data = TrainingData([_dataset(path, with_masks=True)], [], seed=0)
        assert len(data.datasets[0].ground_truth().annotation_ids) == 3 * repeats
        counts.append(_columns(vars(data)))
    assert counts[0] == counts[1] < 500


STAGES = [
    v2.ColorJitter(0.3, 0.3, 0.3, 0.1),
    v2.RandomHorizontalFlip(0.5),
    ShortestEdgeResize((16, 24, 40), 60),
    RandomCrop((14, 14)),
]


def test_a_sample_is_a_function_of_seed_epoch_and_index(make_coco: MakeCoco) -> None:
    dataset = _dataset(make_coco([(20, 30), (30, 20)], [BOX]))
    data = TrainingData([dataset], STAGES, seed=3)
    first = data[2, 1]
    torch.rand(5)
    data[0, 0]
    assert torch.equal(TrainingData([dataset], STAGES, seed=3)[2, 1].image, first.image)
    others = [data[3, 1].image, data[2, 0].image, TrainingData([dataset], STAGES, 4)[2, 1].image]
    assert not any(torch.equal(first.image, other) for other in others)


def test_a_copy_is_the_same_image_with_randomness_of_its_own(make_coco: MakeCoco) -> None:
    parts = [_dataset(make_coco([(20, 30)] * n, [BOX], name=f"coco{n}")) for n in (1, 2)]
    plain, data = TrainingData(parts, [], seed=3), TrainingData(parts, STAGES, seed=3)
    for index in range(3):
        for copy in (index + 3, index + 6):
            assert torch.equal(plain[0, copy].image, plain[0, index].image)
            assert data.name_of((0, copy)) == data.name_of((0, index))
    images = [data[0, index].image for index in (1, 4, 7)]
    assert not any(torch.equal(images[i], images[i - 1]) for i in range(3))


def test_the_labels_that_are_trained_on_are_those_of_the_targets(make_coco: MakeCoco) -> None:
    annotations = [
        BOX,
        {**BOX, "category_id": 20, "image_id": 2},
        {**BOX, "image_id": 2, "iscrowd": 1},
        {**BOX, "image_id": 2, "bbox": [1, 1, 0, 5]},
    ]
    parts = [_dataset(make_coco([(20, 30)] * n, annotations, name=f"coco{n}")) for n in (2, 3)]
    data = TrainingData(parts, [], seed=0)
    images, labels = data.labels_trained_on()
    found = list(zip(images.tolist(), labels.tolist(), strict=True))
    assert found == [(0, 1), (1, 2), (2, 1), (3, 2)]
    assert found == [(i, label) for i in range(5) for label in data[0, i].target["labels"].tolist()]


def test_several_data_sets_are_one_after_the_other(make_coco: MakeCoco) -> None:
    parts = [_dataset(make_coco([(20, 30)] * n, [BOX], name=f"coco{n}")) for n in (2, 3)]
    data = TrainingData(parts, [], seed=0)
    assert len(data) == 5
    assert data.name == "pets+pets"
    assert data.image_sizes().shape == (5, 2)
    for index in range(5):
        expected = parts[0][index] if index < 2 else parts[1][index - 2]
        assert torch.equal(data[0, index].image, expected.image)
        assert data[0, index].image_id == expected.image_id


def test_evaluation_gives_the_image_and_the_two_sizes_only(make_coco: MakeCoco) -> None:
    dataset = _dataset(make_coco([(20, 30)], [BOX]))
    data = EvaluationData(dataset, [ShortestEdgeResize((40,), 100)])
    image, target, image_id = data[0]
    assert image.shape == (3, 40, 60)
    assert image_id == 1
    assert {key: value.tolist() for key, value in target.items()} == {
        "image_size": [40, 60],
        "original_size": [20, 30],
    }
    assert data.ground_truth() is dataset.ground_truth()
    assert (data.name, data.class_names, len(data)) == ("pets", ("cat", "dog"), 1)


def test_evaluation_with_targets_has_the_same_image_and_what_is_trained_on_in_it(
    make_coco: MakeCoco,
) -> None:
    dataset = _dataset(make_coco([(20, 30), (20, 30)], [BOX]))
    stages = [ShortestEdgeResize((40,), 100)]
    plain = EvaluationData(dataset, stages)
    data = EvaluationData(dataset, stages, with_targets=True)
    for index in range(2):
        assert torch.equal(data[index].image, plain[index].image)
    assert torch.equal(data[0].target["boxes"], 2 * dataset[0].target["boxes"])
    assert torch.equal(data[0].target["labels"], dataset[0].target["labels"])
    assert data[1].target["boxes"].shape == (0, 4)
    assert data[0].target["image_size"].tolist() == [40, 60]


def test_real_voc_images_are_read_and_its_two_boxes_without_area_named(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shared / "data/bccd"
    truth = load_voc(root, "trainval", None, "bccd")
    dataset = DetectionDataset("bccd", truth, root / "JPEGImages", truth.categories.names)
    data = TrainingData([dataset], [], seed=0)
    assert "2 of 3943 annotations have a box without area" in caplog.text
    assert "BloodImage_00338.jpg" in caplog.text
    assert "BloodImage_00343.jpg" in caplog.text
    for index in range(0, len(data), 10):
        image, target, _ = data[0, index]
        assert image.shape == (3, 480, 640)
        assert len(target["boxes"]) > 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize(
    ("annotations", "images", "keypoints"),
    [
        ("nuclei/instances_train.json", "nuclei/images", False),
        ("nuclei/instances_val.json", "nuclei/images", False),
        ("fruits_nuts/trainval.json", "fruits_nuts/images", False),
        ("keypoints/person_keypoints.json", "keypoints", True),
    ],
)
def test_real_masks_are_pycocotools_and_follow_the_transforms(
    shared: Path, annotations: str, images: str, keypoints: bool
) -> None:
    folder = shared / "data" / images
    truth = load_coco(shared / "data" / annotations, folder, "real")
    reference = COCO(str(shared / "data" / annotations))
    names = truth.categories.names
    dataset = DetectionDataset(
        "real", truth, folder, names, with_masks=True, with_keypoints=keypoints
    )
    stages = [v2.RandomHorizontalFlip(1), ShortestEdgeResize((400,), 700), RandomCrop((300, 350))]
    data = TrainingData([dataset], stages, seed=0)
    for index in range(0, len(dataset), 6):
        sample, ids = dataset[index], truth.annotation_ids[truth.annotations_of(index)].tolist()
        decoded = [torch.from_numpy(reference.annToMask(reference.anns[each])) for each in ids]
        stored = sample.target["masks"].dense()
        assert torch.equal(stored, torch.stack(decoded))
        # masks as the channels of an image: v2's nearest neighbour is half a pixel off
        drawn = tv_tensors.Image(stored.amax(dim=0, keepdim=True) * 255)
        with seeded(0, 0, index):
            expected = v2.Compose(stages)({"image": drawn})["image"][0] > 127
        moved = data[0, index].target["masks"].dense().amax(dim=0)
        assert (moved == expected).float().mean() >= 0.99
