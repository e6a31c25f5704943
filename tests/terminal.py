"""The command line at a terminal of a given width, with keys pressed after a while."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from typing import NamedTuple

from tests.conftest import ROOT


class Shown(NamedTuple):
    """What a command left on the screen."""

    text: str
    code: int
    seconds: float


def at_terminal(*arguments: object, width: int = 80, ctrl_c_after_s: float | None = None) -> Shown:
    """Run the command line at a terminal, and press Ctrl-C after so long."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    began = time.monotonic()
    command = [sys.executable, "-c", STARTED, *map(str, arguments)]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    environment["TERM"] = "xterm"
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
    os.close(theirs)
    data = b""
    while True:
        if ctrl_c_after_s is not None and time.monotonic() - began > ctrl_c_after_s:
            os.write(ours, b"\x03")
            ctrl_c_after_s = None
        if select.select([ours], [], [], 0.05)[0]:
            try:
                piece = os.read(ours, 2**16)
            except OSError:  # the other end is closed
                break
            data += piece
    os.close(ours)
    return Shown(data.decode(), process.wait(), time.monotonic() - began)


STARTED = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # keys become signals of the terminal's own session
sys.argv = ["circuit-insights", *sys.argv[1:]]
from flows.start import main
main()
"""
