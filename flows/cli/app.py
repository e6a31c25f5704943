"""What all commands share: common options, how errors are printed, how a flow is run."""

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
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are told here, once, without tracebacks
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
"""Characters and lines of an error message: one screen."""
NOT_TO_BE_HAD = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""What the operating system says of a path that was named wrongly or may not be used."""


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
    """Explain every feature of a language model's transcoders, and ask for what was found."""


Config = Annotated[Path, typer.Argument(help="A YAML configuration; see configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to it, like engine.workers=2.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store, folder or s3://BUCKET/PREFIX; else the config's, else $CIRCUIT_INSIGHTS_STORE, else ./store.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
AnswerOption = Annotated[bool, typer.Option("--json", help="One JSON object, described in docs/json.md.")]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="What is explained or measured: a token (with its leading space, or #ID), A|B for the difference of two, "
        "feature:LAYER/FEATURE, direction:FILE.npy; @POSITIONS behind it for others than the last (3, -1, 2:5, or "
        "several with commas), or alone for the likeliest tokens there. Else the likeliest next.",
    ),
]
CheckpointOption = Annotated[
    str | None, typer.Option(help="Checkpoint id or name; needed when the store holds several.")
]


@contextmanager
def report_errors() -> Iterator[None]:
    """Bad input ends with one message and exit code 2; a full disk says what to do."""
    try:
        yield
    except ValueError as error:
        fail(str(error), BAD_INPUT)
    except Exception as error:
        if _disk_is_full(error):
            fail(f"disk full: {error}\nWhat was finished is kept; make room and run the same command again", BAD_INPUT)
        if isinstance(error, OSError) and error.errno in NOT_TO_BE_HAD and error.filename is not None:
            fail(f"{error.filename}: {error.strerror}", BAD_INPUT)
        raise


def _disk_is_full(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on one screen, and end with an exit code."""
    lines = message[:MAX_MESSAGE].split("\n")
    shown = [" " * (len(line) - len(line.lstrip(" "))) + visible(line.strip(" ")) for line in lines[:MAX_LINES]]
    if len(message) > MAX_MESSAGE or len(lines) > MAX_LINES:
        shown.append("…")
    err.print("[bold red]error:[/] " + escape("\n".join(shown)), soft_wrap=True)
    raise typer.Exit(code)


def load(config: Path, overrides: list[str] | None, store: str | None) -> "RunConfig":
    with working("load libraries"):
        from configs.load import load_config

        return load_config(config, list(overrides or []), store)


def load_to_run(config: Path, overrides: list[str] | None, store: str | None) -> "RunConfig":
    """Load what a command needs that will run flows: their server starts while libraries load."""
    start_early()
    return load(config, overrides, store)


def store_root(store: str | None) -> Path:
    """The folder of the store that a command asks; of a URL the local one, its catalog brought up to date."""
    from flows.subject.store_location import store_at

    return store_at(store or os.environ.get("CIRCUIT_INSIGHTS_STORE", "store")).root


def run_flow(flow: "Flow[[RunConfig, bool], Returned]", config: "RunConfig", force: bool) -> Returned:
    """What a flow returns, run in this process with Prefect at hand; `force` as the flow takes it."""
    with working("load libraries"):
        from flows.running.in_process import run_flow as run

    return run(flow, config, force)


def print_quality(layers: "Sequence[Quality]") -> None:
    table = Table("layer", "explained variance", "L0", "dead", "loss", "with it replaced", title="Transcoders")
    for layer in layers:
        shares = f"{layer.explained_variance:.3f}", f"{layer.l0:.1f}", f"{layer.dead_share:.1%}"
        table.add_row(str(layer.layer), *shares, f"{layer.loss:.3f}", f"{layer.loss_replaced:.3f}")
    out.print(table)
    if layers and layers[0].loss_all_replaced is not None:
        out.print(f"loss with all layers replaced: {layers[0].loss_all_replaced:.3f}")


def duration_text(seconds: float) -> str:
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
