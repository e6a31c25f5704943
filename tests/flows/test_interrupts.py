"""Ctrl-C ends the command at once, from its first moment on and whatever code it meets."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

START = "import flows.start; import sys; sys.argv = ['circuit-insights', '--help']; flows.start.main()"

WHILE_IMPORTING = f"""
import builtins, os, time
usual = builtins.__import__
def slow(name, *rest, **named):
    if name == "typer":
        os.write(1, b"importing")
        time.sleep(20)
    return usual(name, *rest, **named)
builtins.__import__ = slow
{START}
"""

WHERE_EXCEPTIONS_ARE_CAUGHT = """
import os, time
from flows import cli
@cli.app.command("stubborn")
def stubborn() -> None:
    os.write(1, b"importing")
    for _ in range(200):
        try:
            time.sleep(0.1)
        except BaseException:
            pass
import sys; sys.argv = ["circuit-insights", "stubborn"]
import flows.start; flows.start.main()
"""

WITH_AN_EVENT_LOOP = """
import asyncio, os, signal
from flows import cli
async def loop() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    os.write(1, b"importing")
    await asyncio.sleep(20)
@cli.app.command("looping")
def looping() -> None:
    asyncio.run(loop())
import sys; sys.argv = ["circuit-insights", "looping"]
import flows.start; flows.start.main()
"""


@pytest.mark.parametrize("program", [WHILE_IMPORTING, WHERE_EXCEPTIONS_ARE_CAUGHT, WITH_AN_EVENT_LOOP])
def test_ctrl_c_ends_it_at_once_with_a_sentence(program: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 100) == b"importing"
    time.sleep(0.05)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert time.monotonic() - sent < 15  # the programs would go on for 20 s
    assert process.returncode == 130
    assert message.strip() == "interrupted; the store is consistent, run the same command again to continue"
