"""Random data sets and predictions, and what pycocotools says of them."""

import contextlib
import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from detengine.structures.prediction import Prediction

SIZE = (120, 160)
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass
class Case:
    """A random data set with predictions, and COCO's own evaluator as the oracle."""

    ground_truth: GroundTruth
    class_names: tuple[str, ...]
    predictions: dict[int, Prediction]

    def evaluated(self, iou_type, results=None, **params):
        """COCOeval after accumulate(). params: what to set in its Params, such as iouThrs."""
        ids = self.ground_truth.categories.ids_of_labels(self.class_names)
        truth = COCO()
        truth.dataset = coco_dataset(self.ground_truth)
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            results = self.coco_results(iou_type) if results is None else results
            detections = truth.loadRes(results) if results else COCO()
            evaluation = COCOeval(truth, detections, iou_type)
            evaluation.params.catIds = sorted(each for each in ids if each is not None)
            for name, value in params.items():
                setattr(evaluation.params, name, value)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def reference(self, iou_type, results=None):
        """COCOeval's twelve numbers over the model's classes by name, and each class's AP."""
        evaluation = self.evaluated(iou_type, results)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.summarize()
        precision = evaluation.eval["precision"]
        if iou_type == "keypoints":
            return evaluation.stats.tolist(), None
        name_of_id = dict(
            zip(self.ground_truth.categories.ids, self.ground_truth.categories.names, strict=True)
        )
        per_class = {}
        for k, category_id in enumerate(evaluation.params.catIds):
            of_class = precision[:, :, k, 0, -1]
            of_class = of_class[of_class > -1]
            per_class[name_of_id[category_id]] = np.mean(of_class) if of_class.size else -1
        return dict(zip(NAMES, evaluation.stats.tolist(), strict=True)), per_class

    def coco_results(self, iou_type):
        ids = self.ground_truth.categories.ids_of_labels(self.class_names)
        results = []
        for image_id, prediction in self.predictions.items():
            x1, y1, x2, y2 = prediction.boxes_xyxy.unbind(1)
            boxes_xywh = torch.stack((x1, y1, x2 - x1, y2 - y1), dim=1).tolist()
            scores, labels = prediction.scores.tolist(), prediction.labels.tolist()
            for n in range(len(prediction)):
                part = {"bbox": boxes_xywh[n]}
                if iou_type == "segm":
                    part = {"segmentation": prediction.rles[n]}
                if iou_type == "keypoints":
                    part = {"keypoints": prediction.keypoints[n].flatten().tolist()}
                shared = {"image_id": image_id, "category_id": ids[labels[n] - 1]}
                results.append({**shared, **part, "score": scores[n]})
        return results


def coco_dataset(truth):
    annotations = []
    for index, image_id in enumerate(truth.image_ids.tolist()):
        rows = truth.annotations_of(index)
        annotations.extend(
            {
                "id": truth.annotation_ids[row].item(),
                "image_id": image_id,
                "category_id": truth.category_ids[row].item(),
                "bbox": truth.boxes_xywh[row].tolist(),
                "area": truth.areas[row].item(),
                "iscrowd": int(truth.is_crowd[row] | truth.is_difficult[row]),
                "segmentation": {"size": list(SIZE), "counts": truth.masks[row]},
                **_keypoints_of(truth, row),
            }
            for row in range(rows.start, rows.stop)
        )
    categories = [
        {"id": category_id, "name": name}
        for name, category_id in zip(truth.categories.names, truth.categories.ids, strict=True)
    ]
    height, width = SIZE
    images = [
        {"id": image_id, "height": height, "width": width} for image_id in truth.image_ids.tolist()
    ]
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def _keypoints_of(truth, row):
    if truth.keypoints is None:
        return {}
    return {
        "keypoints": truth.keypoints[row].flatten().tolist(),
        "num_keypoints": truth.num_keypoints[row].item(),
    }


def _ellipse(box_xyxy):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    x1, y1, x2, y2 = box_xyxy
    inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
    return coco_mask.encode(np.asfortranarray(inside, dtype=np.uint8))


def _boxes(rng, number):
    sides = np.exp(rng.uniform(np.log(4), np.log(110), (number, 2)))
    corner = rng.random((number, 2)) * (np.array([160, 120]) - sides)
    return np.concatenate([corner, corner + sides], axis=1).round(2)


def make_case(seed, *, images=6, classes=3, crowded=True, quantum=0.1):
    """Ids neither in order nor contiguous, empty images, absent classes, crowds, equal scores."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(1000, images, replace=False)
    category_ids = rng.choice(90, classes, replace=False).tolist()
    names = tuple(f"class {k}" for k in range(classes))
    used = max(1, classes - int(rng.integers(0, 2)))
    counts = rng.integers(0, 7, images) * (rng.random(images) < 0.8)
    boxes = _boxes(rng, int(counts.sum()))
    rles = [_ellipse(box) for box in boxes]
    of_class = rng.integers(0, used, len(boxes))
    masks = PackedBytes.from_list([rle["counts"] for rle in rles])
    truth = GroundTruth(
        categories=Categories(names, tuple(category_ids)),
        image_ids=torch.from_numpy(image_ids),
        image_sizes=torch.tensor(SIZE).repeat(images, 1),
        file_names=PackedBytes.from_list([f"{image_id}.jpg".encode() for image_id in image_ids]),
        offsets=torch.tensor([0, *counts.cumsum()]),
        annotation_ids=torch.arange(1, len(boxes) + 1),
        category_ids=torch.tensor([category_ids[k] for k in of_class], dtype=torch.int64),
        boxes_xywh=torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)),
        areas=torch.tensor([float(coco_mask.area(rle)) for rle in rles], dtype=torch.float64),
        is_crowd=torch.from_numpy(rng.random(len(boxes)) < 0.15 * crowded),
        is_difficult=torch.from_numpy(rng.random(len(boxes)) < 0.1 * crowded),
        masks=masks,
    )
    order = rng.permutation(classes)
    label_of_class = np.argsort(order) + 1
    predictions = {}
    for index, image_id in enumerate(image_ids.tolist()):
        rows = truth.annotations_of(index)
        found = boxes[rows][rng.random(rows.stop - rows.start) < 0.8]
        labels = label_of_class[of_class[rows]][: len(found)]
        moved = found + rng.normal(0, 2, found.shape) * rng.integers(0, 3, (len(found), 1))
        others = _boxes(rng, int(rng.integers(0, 4)))
        all_boxes = np.concatenate([moved, others]).clip(0, [160, 120, 160, 120])
        keep = (all_boxes[:, 2:] - all_boxes[:, :2] > 1).all(axis=1)
        all_labels = np.concatenate([labels, rng.integers(1, classes + 1, len(others))])
        all_boxes, all_labels = all_boxes[keep], all_labels[keep]
        predictions[image_id] = Prediction(
            boxes_xyxy=torch.tensor(all_boxes, dtype=torch.float32).view(-1, 4),
            scores=torch.tensor((rng.random(len(all_boxes)) / quantum).round() * quantum).float(),
            size=SIZE,
            labels=torch.tensor(all_labels, dtype=torch.int64),
            rles=[_ellipse(box) for box in all_boxes],
        )
    return Case(truth, tuple(names[k] for k in order), predictions)


@pytest.fixture(name="make_case")
def make_case_fixture():
    return make_case


@pytest.fixture
def case():
    return make_case(7, images=8, classes=3)


@pytest.fixture(name="with_keypoints")
def with_keypoints_fixture():
    return with_keypoints


def with_keypoints(case, seed):
    """The same data set with 17 keypoints an object, every fourth object without a labelled one."""
    generator = torch.Generator().manual_seed(seed)
    truth = case.ground_truth
    number = len(truth.annotation_ids)
    corner, extent = truth.boxes_xywh[:, None, :2], truth.boxes_xywh[:, None, 2:]
    places = corner + extent * torch.rand((number, 17, 2), generator=generator)
    visible = torch.randint(0, 3, (number, 17, 1), generator=generator).double()
    visible[::4] = 0
    keypoints = torch.cat([places, visible], dim=2)
    labelled = (visible[:, :, 0] > 0).sum(1)
    predictions = {}
    for index, image_id in enumerate(truth.image_ids.tolist()):
        prediction = case.predictions[image_id]
        near = keypoints[truth.annotations_of(index)][: len(prediction)].float()
        far = torch.zeros(len(prediction) - len(near), 17, 3)
        predictions[image_id] = replace(prediction, keypoints=torch.cat([near, far]))
    truth = replace(truth, keypoints=keypoints, num_keypoints=labelled)
    return Case(truth, case.class_names, predictions)


@pytest.fixture(name="make_by_hand")
def make_by_hand_fixture():
    return make_by_hand


def make_by_hand(images, class_names=("a", "b")):
    """A data set written down: {image id: (objects, detections)}.

    An object is (class, x1, y1, x2, y2, "" or "crowd" or "difficult"), a detection (class, score,
    x1, y1, x2, y2). All masks fill their boxes.
    """
    objects = [each for found, _ in images.values() for each in found]
    boxes = torch.tensor([each[1:5] for each in objects], dtype=torch.float64).view(-1, 4)
    kinds = [each[5] for each in objects]
    truth = GroundTruth(
        categories=Categories(tuple(class_names), tuple(range(70, 70 - len(class_names), -1))),
        image_ids=torch.tensor(list(images)),
        image_sizes=torch.tensor(SIZE).repeat(len(images), 1),
        file_names=PackedBytes.from_list([f"{image_id}.jpg".encode() for image_id in images]),
        offsets=torch.tensor([0, *(len(found) for found, _ in images.values())]).cumsum(0),
        annotation_ids=torch.arange(len(objects)),
        category_ids=torch.tensor([70 - class_names.index(each[0]) for each in objects]).long(),
        boxes_xywh=torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        is_crowd=torch.tensor([kind == "crowd" for kind in kinds]).bool(),
        is_difficult=torch.tensor([kind == "difficult" for kind in kinds]).bool(),
        masks=PackedBytes.from_list([_rectangle(each[1:5])["counts"] for each in objects]),
    )
    predictions = {
        image_id: Prediction(
            boxes_xyxy=torch.tensor([each[2:] for each in found]).float().view(-1, 4),
            scores=torch.tensor([each[1] for each in found]).float(),
            size=SIZE,
            labels=torch.tensor([1 + class_names.index(each[0]) for each in found]).long(),
            rles=[_rectangle(each[2:]) for each in found],
        )
        for image_id, (_, found) in images.items()
    }
    return Case(truth, tuple(class_names), predictions)


def _rectangle(box_xyxy):
    x1, y1, x2, y2 = box_xyxy
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return coco_mask.encode(mask)
