import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detengine.checkpoint.align import align
from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.classes import ClassNames, rows_by_class
from detengine.checkpoint.files import save_file
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model

BOX = "roi_heads.box_predictor"
SCORES, DELTAS = f"{BOX}.cls_score.weight", f"{BOX}.bbox_pred.weight"
MASKS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
ANCHORS = "head.classification_head.cls_logits.weight"
REGRESSION = "head.regression_head.bbox_reg.weight"


def rows(*values: float, times: int = 1) -> Tensor:
    """float[values * times, 2]: each value in `times` rows."""
    return torch.tensor(values).repeat_interleave(times)[:, None].repeat(1, 2)


def merged(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], of_model: str, of_file: str
) -> dict[str, list[float]]:
    """The first column of each tensor that was filled by name. Names are letters."""
    names = ClassNames(list(of_model), list(of_file))
    found = rows_by_class(ours, theirs, names).merged
    return {name: tensor[:, 0].tolist() for name, tensor in found.items()}


def test_rows_go_where_the_class_of_their_name_is_and_new_ones_stay_fresh() -> None:
    ours = {SCORES: rows(-1, -2, -3, -4), MASKS: rows(-1, -2, -3, -4)}
    theirs = {SCORES: rows(10, 11, 12), MASKS: rows(20, 21, 22)}
    assert merged(ours, theirs, "bxa", "ab") == {
        SCORES: [10, 12, -3, 11],
        MASKS: [20, 22, -3, 21],
    }


def test_as_many_classes_of_other_names_are_told_apart_too() -> None:
    ours, theirs = {SCORES: rows(-1, -2, -3)}, {SCORES: rows(10, 11, 12)}
    assert merged(ours, theirs, "ba", "ab") == {SCORES: [10, 12, 11]}
    assert merged(ours, theirs, "xy", "ab") == {SCORES: [10, -2, -3]}
    assert merged(ours, theirs, "ab", "ab") == {}


def test_a_class_has_four_rows_of_deltas() -> None:
    ours, theirs = {DELTAS: rows(-1, -2, times=4)}, {DELTAS: rows(10, 11, 12, times=4)}
    assert merged(ours, theirs, "b", "ab") == {DELTAS: [10] * 4 + [12] * 4}


def test_deltas_for_all_classes_alike_are_left_alone() -> None:
    ours, theirs = {DELTAS: rows(-1, -2, times=4)}, {DELTAS: rows(10, 11, times=4)}
    assert merged(ours, theirs, "abc", "ab") == {}
    assert rows_by_class(ours, theirs, ClassNames("abc", "ab")).report() == []


def test_of_heads_on_anchors_each_anchor_has_its_classes_in_a_row() -> None:
    ours = {ANCHORS: rows(-1, -2, -3, -4, -5, -6), REGRESSION: rows(0, times=8)}
    theirs = {ANCHORS: rows(11, 12, 21, 22), REGRESSION: rows(0, times=8)}
    assert merged(ours, theirs, "bxa", "ab") == {ANCHORS: [12, -2, 11, 22, -5, 21]}


def test_where_both_heads_on_anchors_count_the_background_it_comes_first() -> None:
    of_model = {ANCHORS: rows(-1, -2, -3, -4, -5, -6), REGRESSION: rows(0, times=8)}
    theirs = {ANCHORS: rows(10, 11, 12, 20, 21, 22), REGRESSION: rows(0, times=8)}
    assert merged(of_model, theirs, "bx", "ab") == {ANCHORS: [10, 12, -3, 20, 22, -6]}


def test_one_spare_row_on_anchors_is_no_background() -> None:
    ours = {ANCHORS: rows(-1, -2, -3, -4), REGRESSION: rows(0, times=8)}
    theirs = {ANCHORS: rows(11, 12, 13, 21, 22, 23), REGRESSION: rows(0, times=8)}
    assert merged(ours, theirs, "bx", "ab") == {ANCHORS: [12, -2, 22, -4]}


def test_spare_rows_behind_the_named_ones_stay_as_they_are() -> None:
    ours, theirs = {SCORES: rows(-1, -2, -3, -4, -5)}, {SCORES: rows(10, 11, 12, 13)}
    assert merged(ours, theirs, "ba", "ab") == {SCORES: [10, 12, 11, -4, -5]}


def test_a_name_that_stands_twice_is_nobodys() -> None:
    ours, theirs = {SCORES: rows(-1, -2, -3)}, {SCORES: rows(10, 11, 12, 13)}
    assert merged(ours, theirs, "ab", "aba") == {SCORES: [10, -2, 12]}


def test_rows_of_another_width_are_not_taken() -> None:
    ours, theirs = {SCORES: rows(-1, -2)}, {SCORES: torch.ones(3, 5)}
    outcome = rows_by_class(ours, theirs, ClassNames("a", "ab"))
    assert (outcome.merged, outcome.afresh) == ({}, [])


def test_the_models_own_tensors_are_not_written_to() -> None:
    ours, theirs = {SCORES: rows(-1, -2)}, {SCORES: rows(10, 11, 12)}
    merged(ours, theirs, "b", "ab")
    assert torch.equal(ours[SCORES], rows(-1, -2))


def test_the_report_tells_what_was_taken_what_is_fresh_and_what_is_unused() -> None:
    ours, theirs = {SCORES: rows(-1, -2, -3, -4)}, {SCORES: rows(10, 11, 12, 13)}
    names = ClassNames(["cat", "cow", "dog"], ["dog", "cat", "emu"])
    assert rows_by_class(ours, theirs, names).report() == [
        "the predictors of class scores were filled by the classes' names: 2 of 3 are in the file "
        "(cat, dog); 1 are initialised afresh (cow); 1 of the file are unused (emu)"
    ]


def test_without_names_a_head_for_another_number_is_said_to_be_fresh_in_plain_words() -> None:
    ours = {SCORES: rows(1, 2, 3, 4), DELTAS: rows(1, 2, 3, 4, times=4), MASKS: rows(1, 2, 3, 4)}
    theirs = {
        SCORES: rows(*range(81)),
        DELTAS: rows(*range(81), times=4),
        MASKS: rows(*range(81)),
    }
    assert rows_by_class(ours, theirs, None).report() == [
        "the predictors of class scores, box deltas and masks are initialised afresh: 81 classes "
        "in the file, 4 here, background included"
    ]
    ours = {ANCHORS: rows(1, 2, 3, 4), REGRESSION: rows(0, times=8)}
    assert rows_by_class(ours, {ANCHORS: rows(*range(160))}, None).report() == [
        "the predictors of anchors' class scores are initialised afresh: 80 classes in the file, "
        "2 here"
    ]


def test_the_rows_are_in_the_one_report(model_of: Callable[..., nn.Module]) -> None:
    state = {SCORES: rows(10, 11, 12), "backbone.a": torch.ones(1)}
    model = model_of({SCORES: rows(0, 0), "backbone.a": torch.ones(1)})
    alignment = align(model, state, ClassNames("b", "ab"))
    assert alignment.wrong_shape == []
    assert alignment.report().splitlines()[:2] == [
        "2 tensors match",
        *alignment.class_rows.report(),
    ]
    fresh = align(model, state)
    assert "are initialised afresh: 3 classes in the file, 2 here" in fresh.report()
    assert [name for name, _, _ in fresh.wrong_shape] == [SCORES]


def build(*overrides: object, classes: int) -> nn.Module:
    is_retinanet = "MODEL.RETINANET_ON" in overrides
    body = "R-18-FPN-RETINANET" if is_retinanet else "R-18-FPN"
    options = [
        *("CONVENTIONS", "modern", "MODEL.BACKBONE.CONV_BODY", body, "MODEL.DEVICE", "cpu"),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
        *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 8),
        *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (8,), *overrides),
    ]
    key = "RETINANET" if is_retinanet else "ROI_BOX_HEAD"
    return build_detection_model(load_config(None, [*options, f"MODEL.{key}.NUM_CLASSES", classes]))


@pytest.mark.parametrize("family", ["MODEL.MASK_ON", "MODEL.RETINANET_ON"])
def test_a_model_with_its_classes_in_another_order_says_the_same_of_each(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Detections of the new model, its labels translated, are those of the old one."""
    caplog.set_level(logging.WARNING)
    torch.manual_seed(0)
    old, new = (build(family, True, classes=4).eval() for _ in range(2))
    for name, parameter in old.named_parameters():
        if any(each in name for each in ("cls_score", "cls_logits", "bbox_", "mask_fcn")):
            nn.init.normal_(parameter, std=0.3)  # so that the classes differ
    entries = {"format": 1, "model": old.state_dict(), "categories": ["cat", "dog", "cow"]}
    save_file(tmp_path / "old.pth", entries)
    run = Checkpointer(new, class_names=["cow", "cat", "dog"])
    run.load(tmp_path / "old.pth", strict=False)
    image = (torch.rand(3, 64, 64) * 255).to(torch.uint8)
    with torch.no_grad():
        before, after = old([image])[0], new([image])[0]
    assert len(before["labels"]) > 0
    translated = torch.tensor([0, 2, 3, 1])[before["labels"]]
    assert torch.equal(after["labels"], translated)
    for field in before.keys() - {"labels"}:
        torch.testing.assert_close(after[field], before[field])
    assert "3 of 3 are in the file (cow, cat, dog)" in caplog.text
    assert "<--" not in caplog.text
