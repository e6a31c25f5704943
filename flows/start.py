"""The command `circuit-insights` from its first moment: signals end it before anything else is imported.

Python itself takes one to three hundredths of a second before that, in which it answers Ctrl-C with a traceback.
"""

import io
import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED_MESSAGE = "interrupted; the store is whole, run the same command again to go on"

SHOW_CURSOR = b"\x1b[?25h"
"""A progress bar hides it."""

_ending = threading.Lock()


def main() -> None:
    """Entry point."""
    end_at_once_on_signals()
    show_what_can_be_shown()
    from flows.cli import main as command_line  # takes a tenth of a second, in which Ctrl-C already works

    command_line()


def show_what_can_be_shown() -> None:
    """Have characters that a terminal's encoding lacks written as escapes, where they would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_at_once_on_signals() -> None:
    """On Ctrl-C and SIGTERM, end the process: tasks cannot be stopped in the middle, and the store needs no farewell.

    A thread does it, told by Python's wake-up descriptor, because Prefect puts handlers of its own in our place and
    then waits for the tasks; the handlers do it too, since an event loop may take the descriptor. Nothing is raised:
    whatever code runs at that moment could catch an exception and go on.
    """
    if signal.getsignal(signal.SIGINT) is _end:
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)

    def wait() -> None:
        while (number := os.read(told, 1)[0]) not in (signal.SIGINT, signal.SIGTERM):
            pass
        _end(number, None)

    threading.Thread(target=wait, daemon=True).start()


def _end(number: int, _: FrameType | None) -> None:
    if not _ending.acquire(blocking=False):
        return  # the handler and the thread both heard the signal: who came first says it and ends the process
    shown = SHOW_CURSOR if os.isatty(2) else b""
    os.write(2, shown + f"\n{INTERRUPTED_MESSAGE}\n".encode())
    os._exit(128 + number)
