"""The common base of all commands: shared options, error messages, running a flow."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.markup import escape

from flows.reports.tables import Table
from flows.running.prefect_server import start_early
from flows.running.progress import console, working
from flows.running.terminal import Terminal
from interp.display import escaped_json, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect import Flow

    from configs.run import RunConfig
    from interp.quality import Quality

Returned = TypeVar("Returned")

for _name, _value in {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are printed here, once, without tracebacks
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_name, _value)

# Torch, transformers and Prefect take seconds to import, so each command imports what it needs.

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
out = Terminal()
err = console

BAD_INPUT = 2
MAX_MESSAGE, MAX_LINES = 3000, 20
"""Largest number of characters and lines of an error message: one screen."""
NOT_TO_BE_HAD = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""Errors of the operating system for a path that is wrong or may not be used."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"circuit-insights {version('circuit-insights')}", highlight=False)
        raise typer.Exit


@app.callback()
def _of_all_commands(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Explain every feature of a language model's transcoders, and query the results."""


Config = Annotated[Path, typer.Argument(help="A YAML configuration, or the name of a preset; see configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to its settings, like engine.workers=2.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store: a folder or s3://BUCKET/PREFIX. Default: the config's, $CIRCUIT_INSIGHTS_STORE or ./store.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on each line.")]
AnswerOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, described in docs/json.md.")]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="The target: a token (with its leading space, or #ID), A|B for the difference of two tokens, "
        "feature:LAYER/FEATURE, direction:FILE.npy; add @POSITIONS for positions other than the last (3, -1, 2:5, or "
        "several with commas); @POSITIONS alone means the most probable tokens there. Default: the most probable next.",
    ),
]
CheckpointOption = Annotated[
    str | None, typer.Option(help="Checkpoint id or name; needed when the store holds several.")
]


@contextmanager
def report_errors() -> Iterator[None]:
    """Print one message for wrong input and exit with code 2; for a full disk, also say what to do."""
    try:
        yield
    except ValueError as error:
        fail(str(error), BAD_INPUT)
    except Exception as error:
        if _disk_is_full(error):
            fail(f"disk full: {error}\nFinished work is kept; make room and run the same command again", BAD_INPUT)
        if isinstance(error, OSError) and error.errno in NOT_TO_BE_HAD and error.filename is not None:
            fail(f"{error.filename}: {error.strerror}", BAD_INPUT)
        raise


def _disk_is_full(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def fail(message: str, code: int) -> NoReturn:
    """Print an error message of at most one screen, and exit."""
    lines = message[:MAX_MESSAGE].split("\n")
    shown = [" " * (len(line) - len(line.lstrip(" "))) + visible(line.strip(" ")) for line in lines[:MAX_LINES]]
    if len(message) > MAX_MESSAGE or len(lines) > MAX_LINES:
        shown.append("…")
    err.print("[bold red]error:[/] " + escape("\n".join(shown)), soft_wrap=True)
    raise typer.Exit(code)


def load(config: Path, overrides: list[str] | None, store: str | None) -> "RunConfig":
    """Read a configuration with its overrides; `store` replaces its store."""
    with working("load libraries"):
        from configs.load import load_config

        return load_config(config, list(overrides or []), store)


def load_to_run(config: Path, overrides: list[str] | None, store: str | None) -> "RunConfig":
    """Load the libraries of a command that runs flows; the Prefect server starts meanwhile."""
    start_early()
    return load(config, overrides, store)


def store_root(store: str | None) -> Path:
    """The folder of the store that a command uses; for a URL the local one, with its catalog updated."""
    from flows.inputs.store_location import store_at

    return store_at(store or os.environ.get("CIRCUIT_INSIGHTS_STORE", "store")).root


def run_flow(flow: "Flow[[RunConfig, bool], Returned]", config: "RunConfig", force: bool) -> Returned:
    """Run a flow in this process with a Prefect server and return its result; `force` is passed on to the flow."""
    with working("load libraries"):
        from flows.running.in_process import run_flow as run

    return run(flow, config, force)


def print_quality(layers: "Sequence[Quality]") -> None:
    """Print a table of the transcoders' quality."""
    table = Table("layer", "explained variance", "L0", "dead", "loss", "with it replaced", title="Transcoders")
    for layer in layers:
        shares = f"{layer.explained_variance:.3f}", f"{layer.l0:.1f}", f"{layer.dead_share:.1%}"
        table.add_row(str(layer.layer), *shares, f"{layer.loss:.3f}", f"{layer.loss_replaced:.3f}")
    out.print(table)
    if layers and layers[0].loss_all_replaced is not None:
        out.print(f"loss with all layers replaced: {layers[0].loss_all_replaced:.3f}")


def duration_text(seconds: float) -> str:
    """A duration for people: `< 1 s`, `42 s`, `3 min`, `1.5 h`."""
    if seconds < 1:
        return "< 1 s" if seconds else "-"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def size_text(n_bytes: float) -> str:
    """A size for people, with a unit: `512 B`, `3 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if n_bytes else "-"
        n_bytes /= 1000
    return f"{n_bytes:.0f} PB"


def _as_dict(value: Any) -> Any:
    """NamedTuples as objects of JSON."""
    if hasattr(value, "_asdict"):
        return {name: _as_dict(one) for name, one in value._asdict().items()}
    return [_as_dict(one) for one in value] if isinstance(value, list | tuple) else value


def print_json(value: Any) -> None:
    """A line of JSON on standard output; on a terminal, control characters in texts are shown escaped."""
    text = json.dumps(_as_dict(value), ensure_ascii=False)
    out.print(escaped_json(text) if out.is_terminal else text, soft_wrap=True, markup=False, highlight=False)
