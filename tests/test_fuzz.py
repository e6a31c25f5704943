"""A small campaign of broken files; `python -m tests.fuzz` makes a large one."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT
from tests.fuzz.formats import FORMATS


def test_broken_files_of_every_format_are_refused_in_time() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--mutations", "4", "--seed", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["format"] for one in found] == list(FORMATS)
    assert all(one["mutations"] == 4 for one in found)
    assert sum(one.get("refused", 0) for one in found) > 2 * len(FORMATS)
