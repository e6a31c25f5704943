"""How many rows `datasets` finds in every table of an exported folder: `python datasets_rows.py FOLDER OUTPUT`."""

import json
import sys
from pathlib import Path

from datasets import get_dataset_config_names, load_dataset


def main() -> None:
    folder, output = sys.argv[1:]
    names = get_dataset_config_names(folder)
    rows = {name: load_dataset(folder, name, split="train").num_rows for name in names}
    Path(output).write_text(json.dumps(rows), encoding="utf-8")


main()
