"""The command `circuit-insights`: signal handlers are set before anything else is imported.

Python itself takes 10 to 30 ms before that, in which it answers Ctrl-C with a traceback.
"""

import io
import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED_MESSAGE = "interrupted; the store is consistent, run the same command again to continue"

SHOW_CURSOR = b"\x1b[?25h"
"""Escape code that shows the cursor, which a progress bar hides."""

_ending = threading.Lock()


def main() -> None:
    """Entry point."""
    end_at_once_on_signals()
    show_what_can_be_shown()
    from flows.cli import main as command_line  # takes a tenth of a second, in which Ctrl-C already works

    command_line()


def show_what_can_be_shown() -> None:
    """Escape characters that a terminal's encoding lacks, which would end the command otherwise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_at_once_on_signals() -> None:
    """End the process at once on Ctrl-C and SIGTERM: tasks cannot be stopped in the middle, and the store needs no
    cleanup.

    A thread does it, woken by Python's wake-up descriptor, because Prefect replaces signal handlers and then waits for
    the tasks. The handlers do it too, since an event loop may replace the descriptor. Nothing is raised, since the code
    running at that moment could catch an exception and continue.
    """
    if signal.getsignal(signal.SIGINT) is _end:
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def wait() -> None:
        while (number := os.read(read_end, 1)[0]) not in (signal.SIGINT, signal.SIGTERM):
            pass
        _end(number, None)

    threading.Thread(target=wait, daemon=True).start()


def _end(number: int, _: FrameType | None) -> None:
    if not _ending.acquire(blocking=False):
        return  # the handler and the thread both get the signal; the first one prints the message and ends the process
    shown = SHOW_CURSOR if os.isatty(2) else b""
    os.write(2, shown + f"\n{INTERRUPTED_MESSAGE}\n".encode())
    os._exit(128 + number)
