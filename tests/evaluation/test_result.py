from detengine.evaluation.result import EvaluationResult

RESULT = EvaluationResult(
    metrics={
        "bbox": {"AP": 0.3774, "AP50": 0.5, "APs": -1.0},
        "segm": {"AP": 1.0, "AP50": 0.0, "APs": -1.0},
    },
    per_class={
        "bbox": {"red cell": 0.5, "platelet": -1.0},
        "segm": {"red cell": 0.25, "platelet": 0.0},
    },
    num_images=12,
)


def test_the_table_is_aligned_in_percent_and_says_where_there_is_nothing_to_score():
    assert RESULT.table().splitlines() == [
        "         AP  AP50  APs",
        "bbox   37.7  50.0  n/a",
        "segm  100.0   0.0  n/a",
        "",
        "class     bbox AP  segm AP",
        "red cell     50.0     25.0",
        "platelet      n/a      0.0",
    ]


def test_one_class_needs_no_table_of_classes():
    one = EvaluationResult({"bbox": {"AP": 0.5}}, {"bbox": {"cell": 0.5}}, 1)
    assert one.table().splitlines() == ["        AP", "bbox  50.0"]


def test_iou_types_with_other_metrics_have_a_header_of_their_own():
    metrics = {"bbox": {"AP": 0.5, "APs": 0.1}, "keypoints": {"AP": 0.25}}
    assert EvaluationResult(metrics, {}, 1).table().splitlines() == [
        "        AP   APs",
        "bbox  50.0  10.0",
        "",
        "             AP",
        "keypoints  25.0",
    ]


def test_many_classes_stand_side_by_side_each_once():
    names = [f"class {k}" for k in range(80)]
    per_class = {"bbox": {name: k / 80 for k, name in enumerate(names)}}
    table = EvaluationResult({"bbox": {"AP": 0.5}}, per_class, 1).table()
    assert max(map(len, table.splitlines())) <= 100
    assert len(table.splitlines()) < 25
    assert all(table.count(f"{name} ") == 1 for name in names)
    assert "class 79     98.8" in table.splitlines()[-1]


def test_of_very_many_classes_those_without_objects_are_left_out():
    per_class = {"bbox": {f"class {k}": k / 200 if k % 3 == 0 else -1 for k in range(200)}}
    lines = EvaluationResult({"bbox": {"AP": 0.5}}, per_class, 1).table().splitlines()
    assert lines[3] == "the 67 of 200 classes that have objects:"
    assert "n/a" not in "".join(lines[3:])
    assert sum(line.count("class ") for line in lines[5:]) == 67


def test_of_very_many_classes_with_objects_the_lowest_and_the_highest_are_shown():
    per_class = {"bbox": {f"c{k:03}": k / 300 for k in range(300)}}
    lines = EvaluationResult({"bbox": {"AP": 0.5}}, per_class, 1).table().splitlines()
    assert lines[3].startswith("300 of 300 classes have objects; the lowest and the highest 30")
    text = "".join(lines[4:])
    assert all(f"c{k:03}" in text for k in (*range(30), *range(270, 300)))
    assert "c030" not in text


def test_the_names_for_sinks_carry_the_set_and_the_iou_type():
    assert RESULT.flat("val/cells") == {
        "val/cells/bbox/AP": 0.3774,
        "val/cells/bbox/AP50": 0.5,
        "val/cells/bbox/APs": -1.0,
        "val/cells/segm/AP": 1.0,
        "val/cells/segm/AP50": 0.0,
        "val/cells/segm/APs": -1.0,
    }


def test_the_entry_in_results_json_is_the_metrics_under_either_name():
    assert RESULT.to_json() == RESULT.results == RESULT.metrics


def test_losses_are_no_percentages_and_have_a_table_of_their_own():
    metrics = {"bbox": {"AP": 0.5}, "loss": {"loss": 1.23456, "loss_mask": float("nan")}}
    result = EvaluationResult(metrics, {"bbox": {"cell": 0.5}}, 1)
    assert result.table().splitlines() == [
        "        AP",
        "bbox  50.0",
        "",
        "        loss  loss_mask",
        "loss  1.2346        nan",
    ]
    assert EvaluationResult({"loss": {"loss": 2.0}}, {}, 1).table().splitlines() == [
        "        loss",
        "loss  2.0000",
    ]
