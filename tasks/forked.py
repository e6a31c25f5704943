"""The module that the parent of forked processes imports (`flows.running.processes`). Import it only there: it changes
how that process starts others."""

import signal
from importlib import import_module
from multiprocessing import spawn

MODULES = (
    "tasks.circuitlens.gather",
    "tasks.describe.describe",
    "tasks.evaluation.judge",
    "tasks.evaluation.score",
)
"""These modules have the tasks and import what they need, loaded once for all forked processes."""


def _nothing(_: str) -> None:
    """In the place of importing the program that was started: a script without a guard would run once more."""


signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever was started by the user hears Ctrl-C, and ends the others
spawn._fixup_main_from_name = spawn._fixup_main_from_path = _nothing  # pyright: ignore
for name in MODULES:
    import_module(name)
