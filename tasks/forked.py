"""What the process imports from which processes for work of the interpreter are forked (`flows.running.processes`).

Imported there alone: it changes how that process makes others.
"""

import signal
from importlib import import_module
from multiprocessing import spawn

MODULES = (
    "tasks.circuitlens.gather",
    "tasks.describe.describe",
    "tasks.evaluation.judge",
    "tasks.evaluation.score",
)
"""They have the work, and import what it needs: loaded once for every process that is forked."""


def _nothing(_: str) -> None:
    """In the place of importing the program that was started: a script without a guard would run once more."""


signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever was started by the user hears Ctrl-C, and ends the others
spawn._fixup_main_from_name = spawn._fixup_main_from_path = _nothing  # pyright: ignore
for name in MODULES:
    import_module(name)
