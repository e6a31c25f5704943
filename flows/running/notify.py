"""Run the user's command when a stage ended or failed."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from configs.run import RunConfig
from flows.running.progress import console

TIMEOUT_S = 30.0
"""Seconds that the command may take."""

FACTS = ("run_id", "checkpoint_id", "corpus_id", "stage", "recipe")


@contextmanager
def notifying(config: RunConfig, run: Mapping[str, object]) -> Iterator[None]:
    """A context that runs `notify.command` when the work in it ends or fails."""
    try:
        yield
    except BaseException as error:
        notify(config, run, "stage.failed", f"{type(error).__name__}: {error}"[:2000])
        raise
    notify(config, run, "stage.finished", None)


def notify(config: RunConfig, run: Mapping[str, object], event: str, error: str | None) -> None:
    """Run the command with the event on its standard input; report on the terminal if it fails."""
    command = config.notify.command
    if command is None:
        return
    facts = {name: run.get(name) for name in FACTS}
    message = json.dumps({"event": event, "name": config.name, **facts, "error": error}, ensure_ascii=False)
    try:
        done = subprocess.run(
            command, input=message.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as problem:
        _report(command[0], str(problem))
        return
    if done.returncode != 0:
        _report(command[0], f"exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}")


def _report(program: str, problem: str) -> None:
    console.print(f"notify.command: {program}: {problem}", markup=False, soft_wrap=True, highlight=False)
