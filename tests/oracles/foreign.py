"""Run a script of this folder by the oracles' Python."""

import os
import subprocess
from pathlib import Path

from tests.conftest import ORACLES, ROOT


def run(script: str, *arguments: object) -> None:
    """Run it to its end."""
    command = [os.environ[ORACLES], Path(__file__).with_name(script), *arguments]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT, timeout=580)
