"""usage: python data_program.py FOLDER OUTPUT: what is made of each folder of data in FOLDER.

OUTPUT gets, as JSON by the folder's name, the configuration that is chosen, or the refusal, and
the digests of all annotations; each without the path of FOLDER.
"""

import json
import sys
from pathlib import Path
from typing import Any

from detengine.choosing.configuration import configuration_for
from detengine.data.build import build_datasets


def made_of(folder: Path) -> dict[str, Any]:
    try:
        chosen = configuration_for(folder, weights="", may_download=False)
    except ValueError as error:
        return {"refused": str(error)}
    names = [*chosen.cfg.DATASETS.TRAIN, *chosen.cfg.DATASETS.TEST]
    datasets = build_datasets(chosen.cfg, names)
    return {
        "text": chosen.text,
        "digests": [each.ground_truth().digest() for each in datasets],
        "files": [[each.name_of(index) for index in range(len(each))] for each in datasets],
    }


if __name__ == "__main__":
    root, output = Path(sys.argv[1]), Path(sys.argv[2])
    found = {folder.name: made_of(folder) for folder in sorted(root.iterdir())}
    output.write_text(json.dumps(found, indent=1).replace(str(root), "ROOT"))
