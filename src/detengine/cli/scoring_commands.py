"""The commands around scores: each says what it takes, and hands it on."""

from pathlib import Path
from typing import Annotated

import typer

from detengine.cli.app import WITH_OVERRIDES, OutputFolder, Overrides, overrides_of

scoring = typer.Typer()

TruthConfig = Annotated[
    Path | None,
    typer.Option("-c", "--config-file", help="The YAML file whose test set it is.", metavar="FILE"),
]
TruthAnnotations = Annotated[
    Path | None,
    typer.Option(
        "--annotations",
        help="Instead of it, a COCO annotation file; no images are needed.",
        metavar="GT.json",
    ),
]
IouType = Annotated[
    str, typer.Option("--iou-type", help="bbox, segm or keypoints.", metavar="TYPE")
]


@scoring.command(name="eval", context_settings=WITH_OVERRIDES)
def evaluate(
    overrides: Overrides = None,
    config_file: Annotated[
        Path | None,
        typer.Option("-c", "--config-file", help="The run's YAML file.", metavar="FILE"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="A checkpoint, or an address.", metavar="FILE")
    ] = None,
    output_dir: OutputFolder = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with an interrupted scoring of the same weights."),
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            help="Score these, without a model: RUN/inference/TEST_SET, or a COCO result json.",
            metavar="FILE",
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            help="With --predictions: a COCO annotation file, in the place of -c.",
            metavar="GT.json",
        ),
    ] = None,
    iou_type: Annotated[
        list[str] | None,
        typer.Option(
            "--iou-type", help="With --predictions: bbox, segm or keypoints; may be repeated."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="With --predictions: only these.", metavar="NAME,NAME"),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            help="With --predictions: only these ids, or those in a file.",
            metavar="ID,ID|FILE",
        ),
    ] = None,
) -> None:
    """Score a checkpoint, or predictions that are there already.

    A checkpoint is scored on DATASETS.TEST of the configuration.

    Example: detengine eval -c runs/a/config.yaml --weights runs/a/model_final.pth

    Example: detengine eval --predictions bbox.json --annotations val.json
    """
    if predictions is None:
        if config_file is None:
            raise typer.BadParameter("Missing option '-c' / '--config-file'.")
        if weights is None:
            raise typer.BadParameter(
                "Missing option '--weights', a model to score, or '--predictions', what one found."
            )
        for name, given in {
            "--annotations": annotations,
            "--iou-type": iou_type,
            "--classes": classes,
            "--images": images,
        }.items():
            if given is not None:
                raise typer.BadParameter(f"{name} is for --predictions only.")
        from detengine.cli.train import evaluate_from_file

        evaluate_from_file(config_file, weights, overrides_of(overrides, output_dir), resume)
        return
    if weights is not None or resume:
        raise typer.BadParameter("--predictions needs no model: leave --weights and --resume out.")
    if (config_file is None) == (annotations is None):
        raise typer.BadParameter("With --predictions give either -c or --annotations.")
    from detengine.cli.rescore import rescore_predictions

    rescore_predictions(
        predictions,
        config_file,
        overrides_of(overrides),
        annotations=annotations,
        iou_types=iou_type or (),
        classes=classes,
        images=images,
        output_dir=output_dir,
    )


@scoring.command(context_settings=WITH_OVERRIDES)
def analyze(
    predictions: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTIONS",
            help="A test set's predictions: RUN/inference/TEST_SET, or a COCO result json.",
        ),
    ],
    overrides: Overrides = None,
    config_file: TruthConfig = None,
    annotations: TruthAnnotations = None,
    iou_type: IouType = "bbox",
    score_threshold: Annotated[
        float,
        typer.Option(
            "--score-threshold",
            help="From which score on detections are in the confusion matrix and among the worst "
            "images.",
            metavar="SCORE",
        ),
    ] = 0.5,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Where to write analysis.json.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Show what costs AP: kinds of errors, confusions, worst images.

    Example: detengine analyze runs/a/inference/val -c runs/a/config.yaml
    """
    from detengine.cli.analyze import analyze_predictions

    analyze_predictions(
        Path(predictions),
        config_file,
        annotations,
        overrides_of([predictions, "", *(overrides or [])])[2:],
        iou_type=iou_type,
        score_threshold=score_threshold,
        output_dir=output_dir,
    )


@scoring.command(context_settings=WITH_OVERRIDES)
def compare(
    predictions_a: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTIONS_A", help="One run's predictions: RUN/inference/TEST_SET."
        ),
    ],
    predictions_b: Annotated[
        str, typer.Argument(metavar="PREDICTIONS_B", help="The other's, of the same images.")
    ],
    overrides: Overrides = None,
    config_file: TruthConfig = None,
    annotations: TruthAnnotations = None,
    iou_type: IouType = "bbox",
    samples: Annotated[
        int,
        typer.Option("--samples", help="How often the images are drawn anew.", metavar="N"),
    ] = 1000,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Where to write comparison.json.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Show what run B scores more than run A, with intervals.

    Both are predictions on the same images.

    Example: detengine compare a/inference/val b/inference/val -c a/config.yaml
    """
    from detengine.cli.compare import compare_predictions

    compare_predictions(
        Path(predictions_a),
        Path(predictions_b),
        config_file,
        annotations,
        overrides_of([predictions_a, "", predictions_b, "", *(overrides or [])])[4:],
        iou_type=iou_type,
        samples=samples,
        output_dir=output_dir,
    )
