"""Read a broken file in a process forked from this one, which has imported everything: its time, memory and answer."""

import gc
import json
import os
import random
import resource
import select
import signal
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.formats import FORMATS, Format

CPU_S = 2
"""What reading may take of a processor. Not of a clock, which also counts who else is running."""

WALL_S = 60.0
"""Whoever is not done by then waits for something that does not come."""

MEMORY_BYTES = 1_000_000_000
"""What reading may take beyond the size of the file."""

SCREEN_LINES, SCREEN_CHARACTERS = 25, 4000


class Outcome(NamedTuple):
    """What came of one broken file."""

    number: int
    kind: str
    """read, refused; and what must not be: hang, killed, traceback, unnamed, long, memory."""
    message: str
    cpu_s: float
    beyond_file: int
    """Bytes of memory taken, less those of the file."""

    @property
    def is_bad(self) -> bool:
        return self.kind not in ("read", "refused")


def imported() -> None:
    """Import what reading imports, once for all processes that are forked."""
    import tests.planted
    import tests.storage.releases  # noqa: F401

    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def fuzz(kind: str, folder: Path, seed: int, numbers: Iterable[int]) -> list[Outcome]:
    """Break a good file of a format in so many ways, and read each."""
    format = FORMATS[kind]()
    file = folder / "file"
    _forked(lambda: str(format.write(folder / "good")), file)
    path = Path(json.loads(file.read_text())["message"])
    good = path.read_bytes()
    format.read(path)  # imports whatever it does only now, which otherwise each child would
    gc.freeze()  # nor is what is here copied to them by its collection
    outcomes = []
    for number in numbers:
        path.write_bytes(format.mutate(random.Random(f"{kind}:{seed}:{number}"), good))
        outcomes.append(_read(number, format, path, folder))
    path.write_bytes(good)
    whole = _read(-1, format, path, folder)
    assert whole.kind == "read", f"the good file of {kind} is not read: {whole}"
    return outcomes


def _read(number: int, format: Format, path: Path, folder: Path) -> Outcome:
    answer, size = folder / "answer.json", path.stat().st_size
    status, cpu_s, in_time = _forked(lambda: format.read(path), answer)
    if not in_time or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
        return Outcome(number, "hang", f"{cpu_s:.1f} s", cpu_s, 0)
    if os.WIFSIGNALED(status) or not answer.exists():
        return Outcome(number, "killed", f"status {status}", cpu_s, 0)
    said = json.loads(answer.read_text())
    kind, message, beyond = said["kind"], said["message"], max(0, said["memory"] - size)
    if beyond > MEMORY_BYTES:
        kind = "memory"
    elif kind == "refused" and not any(name in message for name in (path.name, str(path.parent))):
        kind = "unnamed"
    elif kind == "refused" and (message.count("\n") >= SCREEN_LINES or len(message) > SCREEN_CHARACTERS):
        kind = "long"
    return Outcome(number, kind, message, cpu_s, beyond)


def _forked(work, answer: Path) -> tuple[int, float, bool]:
    """Do some work in a child, which writes what came of it; its exit status, CPU time, and whether it ended itself."""
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            _child(work, answer)
        finally:
            os._exit(1)
    ended = os.pidfd_open(child)
    try:
        in_time = bool(select.select([ended], [], [], WALL_S)[0])
    finally:
        os.close(ended)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime, in_time


def _child(work, answer: Path) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # the tokenizers of Rust print there
    os.dup2(quiet, 2)
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (round(used) + CPU_S, round(used) + CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 8 * MEMORY_BYTES,) * 2)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    try:
        kind, message = "read", str(work())
    except ValueError as error:
        kind, message = "refused", str(error)
    except BaseException:
        kind, message = "traceback", traceback.format_exc()[-4000:]
    answer.write_text(json.dumps({"kind": kind, "message": message, "memory": _status("VmHWM") - before}))
    os._exit(0)


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
