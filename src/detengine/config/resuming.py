"""What a run may be given anew when it goes on, and what must stay as it was."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import yaml

from detengine.config.errors import ConfigError, shortened
from detengine.config.yaml_files import parse_mapping

MAY_CHANGE = (
    "OUTPUT_DIR",
    "REPORT",
    "DATASETS.ROOT",
    "DATASETS.DEFINE.*.IMAGES",
    "DATASETS.DEFINE.*.ANNOTATIONS",
    "DATASETS.DEFINE.*.LABELS",
    "DATASETS.DEFINE.*.ROOT",
    "DATASETS.TEST",
    "DATASETS.CACHE",
    "DATALOADER.NUM_WORKERS",
    "MODEL.DEVICE",
    "MODEL.CHANNELS_LAST",
    "MODEL.FOLD_FROZEN_BN",
    "MODEL.COMPILE",
    "SOLVER.MAX_ITER",
    "SOLVER.ACCUMULATE",
    "SOLVER.*_PERIOD",
    "SOLVER.KEEP_CHECKPOINTS",
    "SOLVER.BEST_METRIC",
    "SOLVER.EARLY_STOPPING",
    "SOLVER.TIME_LIMIT",
    "SOLVER.ON_NONFINITE",
    "SOLVER.SKIP_LIMIT",
    "DISTRIBUTED.STATIC_GRAPH",
    "DISTRIBUTED.TIMEOUT",
    "TEST.*",
    "SINKS",
)
"""Where things are, how fast they go and how often they are looked at, but not what is learnt."""

_ABSENT = object()


def raise_if_another_run(before: str, now: str, source: str) -> list[str]:
    """Compare the configuration that a run was started with and the one it is to go on with.

    before, now: as `to_yaml` wrote them. source: the file that `before` stands in. Returns a line
    for each difference of MAY_CHANGE, and of data sets that are not trained on. Raises ConfigError
    with a table of all others.
    """
    old, new = parse_mapping(before, source, trusted=False), yaml.safe_load(now)
    differences = list(_differences(old, new))
    trained_on = {*old["DATASETS"]["TRAIN"], *new["DATASETS"]["TRAIN"]}
    refused = [each for each in differences if not _may_change(each[0], trained_on)]
    if refused:
        rows = "\n".join(f"  {key}: was {was}, is {now_is}" for key, was, now_is in refused)
        raise ConfigError(
            f"the run in {source} was started with another configuration:\n{rows}\n"
            "To go on with it, give it the configuration it had (config.yaml beside it); only "
            f"{', '.join(MAY_CHANGE)} and data sets that are not trained on may change. To train "
            "from its weights under the new configuration, name the file as MODEL.WEIGHT and set "
            "another OUTPUT_DIR."
        )
    return [
        f"{key} was {was}, and is {now_is} from here on{_consequence(key, new)}"
        for key, was, now_is in differences
        if key != "OUTPUT_DIR"
    ]


def _may_change(key: str, trained_on: set[str]) -> bool:
    parts = key.split(".")
    if parts[:2] == ["DATASETS", "DEFINE"] and parts[2] not in trained_on:
        return True
    return any(fnmatchcase(key, pattern) for pattern in MAY_CHANGE)


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Each key whose values differ, and both in words.

    One that a run of before did not know, and that is off (None, False, nothing), is no difference.
    """
    for name in dict.fromkeys([*old, *new]):
        was, now_is = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if isinstance(was, dict) and isinstance(now_is, dict):
            yield from _differences(was, now_is, f"{above}{name}.")
        elif was != now_is and not (was is _ABSENT and _is_off(now_is)):
            yield f"{above}{name}", _in_words(was), _in_words(now_is)


def _is_off(value: Any) -> bool:
    return value is None or value is False or value == []


def _in_words(value: Any) -> str:
    return "not there" if value is _ABSENT else shortened(value)


def _consequence(key: str, cfg: Mapping[str, Any]) -> str:
    schedule = cfg["SOLVER"]["SCHEDULE"]
    if key == "SOLVER.MAX_ITER" and schedule != "multistep":
        return f": the {schedule} schedule is stretched to it, so its learning rate jumps"
    return ""
