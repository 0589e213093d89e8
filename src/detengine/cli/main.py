"""The command line over run.py. Nothing here imports torch before a command needs it."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from detengine import __version__
from detengine.distributed.report import (
    PeerFailedError,
    is_said_by_another,
    launched_rank,
    message_of,
    tell_launcher,
    with_rank,
)

EXIT_ERROR, EXIT_EXPECTATION_MISSED, EXIT_STOPPED = 1, 3, 75

MEMORY_CURE = (
    "The memory is not enough. In training, lower SOLVER.IMS_PER_BATCH or raise SOLVER.ACCUMULATE; "
    "in scoring, lower TEST.IMS_PER_BATCH; or make the images (INPUT.MAX_SIZE_TRAIN, "
    "MAX_SIZE_TEST) or the model smaller."
)

app = typer.Typer(
    name="detengine",
    help="Train and score object detectors and instance segmenters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path, typer.Option("-c", "--config-file", help="The run's YAML file.", metavar="FILE")
]
OutputFolder = Annotated[
    Path | None,
    typer.Option("--output-dir", help="Where everything is written.", metavar="FOLDER"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Options that win over the file.", metavar="KEY VALUE", show_default=False),
]
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
# A negative VALUE must not be taken for an option; `overrides_of` refuses what is really unknown.
WITH_OVERRIDES = {"ignore_unknown_options": True}


def print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"detengine {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Train and score object detectors and instance segmenters."""


@app.command(context_settings=WITH_OVERRIDES)
def train(
    config_file: ConfigFile,
    overrides: Overrides = None,
    output_dir: OutputFolder = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the folder's run.")] = False,
    skip_test: Annotated[
        bool, typer.Option("--skip-test", help="Do not score at the end.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            help="Repeat the step of a run's nonfinite_*.json, show where it is not finite, and "
            "write nothing.",
            metavar="RECORD",
        ),
    ] = None,
) -> None:
    """Train a detector, then score it on DATASETS.TEST.

    Example: detengine train -c configs/nuclei.yaml --output-dir runs/nuclei SOLVER.MAX_ITER 500
    """
    from detengine.cli.train import replay_from_file, train_from_file

    if replay is not None:
        if resume:
            raise typer.BadParameter("--replay writes nothing, so --resume means nothing beside it")
        replay_from_file(config_file, overrides_of(overrides, output_dir), replay)
        return
    train_from_file(config_file, overrides_of(overrides, output_dir), resume, skip_test)


@app.command(name="eval", context_settings=WITH_OVERRIDES)
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
            help="With --predictions: a COCO json, in the place of a configuration.",
            metavar="JSON",
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
    """Score a checkpoint on DATASETS.TEST, or predictions that are there already.

    Example: detengine eval -c runs/nuclei/config.yaml --weights runs/nuclei/model_final.pth

    Example: detengine eval --predictions bbox.json --annotations instances_val2017.json
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


@app.command()
def demo(
    output_dir: OutputFolder = None,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove-resume",
            help="Kill a training half-way, resume it, and compare its weights with an unbroken "
            "one's.",
        ),
    ] = False,
) -> None:
    """Train a small Mask R-CNN on pictures that the package carries, in a minute or two.

    Example: detengine demo --output-dir demo
    """
    from detengine.cli.demo import run_demo

    run_demo(output_dir, prove=prove)


@app.command()
def selftest(
    nproc: Annotated[
        int, typer.Option("--nproc", help="Ranks that are compared with one.", metavar="N")
    ] = 2,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", help="Keep all runs there; else nothing is kept.", metavar="FOLDER"
        ),
    ] = None,
) -> None:
    """Show that several ranks of this machine train and score like one, in about a minute.

    Example: detengine selftest --nproc 2
    """
    from detengine.cli.selftest import selftest as run_selftest

    run_selftest(nproc, output_dir)


@app.command(context_settings=WITH_OVERRIDES)
def config(
    config_file: Annotated[
        Path | None, typer.Argument(help="The YAML file.", metavar="FILE", show_default=False)
    ] = None,
    overrides: Overrides = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Only what differs from the defaults.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON Schema of all files, for editors.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="The page of all options, as Markdown.")
    ] = False,
) -> None:
    """Print a configuration with every option resolved.

    Example: detengine config configs/nuclei.yaml SOLVER.BASE_LR 0.01 --diff
    """
    from detengine.cli.config import show_config, show_reference, show_schema

    if schema:
        show_schema()
    elif reference:
        show_reference()
    elif config_file is None:
        raise typer.BadParameter("Missing argument 'FILE', or --schema or --reference.")
    else:
        show_config(config_file, overrides_of(overrides), diff)


@app.command(context_settings=WITH_OVERRIDES)
def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="Weights of any known format: a file, or an address."),
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The file: .pth, .safetensors, or .pkl (Caffe2)."),
    ],
    overrides: Overrides = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config-file", help="The model's YAML file, if IN has none.", metavar="FILE"
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take the averaged weights, if there are any.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Convert weights to another format, without training.

    Example: detengine convert -c configs/bccd_r50.yaml R-50.pkl R-50.pth
    """
    from detengine.cli.convert import convert_weights

    pairs = overrides_of([source, str(target), *(overrides or [])])[2:]
    convert_weights(source, target, config_file, pairs, use_ema=ema, overwrite=overwrite)


@app.command(context_settings=WITH_OVERRIDES)
def analyze(
    predictions: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTIONS", help="A test set's stored predictions: RUN/inference/TEST_SET."
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
    """Show what costs predictions their AP: kinds of errors, confusions, the worst images.

    Example: detengine analyze runs/nuclei/inference/nuclei_val -c runs/nuclei/config.yaml
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


@app.command(context_settings=WITH_OVERRIDES)
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
    """Show what run B scores more than run A on the same images, with intervals.

    Example: detengine compare runs/a/inference/val runs/b/inference/val -c runs/a/config.yaml
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


def overrides_of(given: list[str] | None, output_dir: Path | None = None) -> list[str]:
    """The KEY VALUE list of the command line, with --output-dir as one of its pairs.

    Raises a usage error where an unknown option stands among the keys.
    """
    pairs = list(given or [])
    for key in pairs[::2]:
        if key.startswith("-"):
            raise typer.BadParameter(f"No such option: {key}")
    # first, so that a KEY without its VALUE is still the last word, and can be named
    return pairs if output_dir is None else ["OUTPUT_DIR", str(output_dir), *pairs]


def main() -> None:
    """Run a command. A mistake of the user's is one paragraph; --debug shows where it was found."""
    # OpenMP's threads wait in a busy loop, so that anything else on their cores holds a step up
    # for seconds. A step of the demo on two cores, beside one busy process: 2.6 s by default,
    # 0.6 s with this; alone 0.23 s and 0.25 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if launched_rank() is not None:
        # torch warns with its C++ stack, in every rank, of a lost rank that we name in one line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app()
    except PeerFailedError as error:
        refuse(error, str(error))
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        refuse(error, message_of(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            end_if_said(error)
            raise
        refuse(error, f"{str(error).splitlines()[0]}\n{MEMORY_CURE}")
    except Exception as error:
        end_if_said(error)
        raise


def refuse(error: Exception, message: str) -> NoReturn:
    """End with the message. Called while the error is handled, which --debug lets through.

    Of several ranks with the same message one says it; a rank but the first says its number.
    """
    if "--debug" in sys.argv[1:]:
        raise error
    if not is_said_by_another(error, message):
        typer.secho(with_rank(error, message), err=True, fg=typer.colors.RED)
    tell_launcher(message)
    sys.exit(EXIT_ERROR)


def end_if_said(error: Exception) -> None:
    """End quietly where another rank shows the traceback; else this one has its rank behind it."""
    rank, message = launched_rank(), f"{type(error).__name__}: {error}"
    tell_launcher(message)
    if rank is not None:
        if is_said_by_another(error, message):
            sys.exit(EXIT_ERROR)
        error.add_note(f"on rank {rank}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch's allocators, of the GPU or of the CPU, or Python's had nothing left."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
