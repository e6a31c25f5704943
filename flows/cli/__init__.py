"""The command line, `circuit-insights`: a module for each theme. Importing them registers their commands."""

import atexit
import os
import sys
import traceback

# isort: off
from flows.cli import run, series, catalog, attribute, act, known_answers, serve, agents, maintenance, language_models  # noqa: F401  (in the order of --help)
from flows.cli.app import app
from flows.start import end_at_once_on_signals


def main() -> None:
    """Entry point. It exits without tearing down the interpreter, which would make DuckDB's binding print many
    warnings."""
    code: str | int | None = 0
    end_at_once_on_signals()
    try:
        app()
    except SystemExit as end:
        code = end.code
    except Exception:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # stops the Prefect server that a run may have started
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
