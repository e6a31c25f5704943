"""`serve`: the explorer, web pages for a store's catalog."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import StoreOption, app, err, out, report_errors, store_root

if TYPE_CHECKING:
    from explorer.security import Access

TOKEN_VARIABLE = "CIRCUIT_INSIGHTS_TOKEN"

ATTRIBUTE_S = 900.0
"""Time limit in seconds for a prompt given on a page."""

PAGE_FEATURES = 3000
"""Largest number of features attributed for it."""


@app.command()
def serve(
    store: StoreOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but 127.0.0.1 can be reached by others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8765,
    name: Annotated[list[str] | None, typer.Option(help="Further host name under which browsers reach it.")] = None,
    graphs: Annotated[
        Path | None,
        typer.Option(help="Folder of attribution graphs; default: a temporary one for those made on pages."),
    ] = None,
    notes: Annotated[
        Path | None, typer.Option(help="Let people describe features, and store their notes in this DuckDB file.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(help="Also search by meaning, with this embedding model: a folder, or an address (…/v1)."),
    ] = None,
    embedding_model: Annotated[
        str | None, typer.Option(help="Name of the model, if --embeddings is an address.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help=f"Require a token: ${TOKEN_VARIABLE}, else a new one.")
    ] = False,
) -> None:
    """Show the store in a browser: features with their texts, edges, scores, graphs. The store is read, never
    written."""
    with report_errors():
        from explorer.app import Settings, create_app
        from explorer.meanings import Meanings
        from explorer.security import Access, new_token

        secret = (os.environ.get(TOKEN_VARIABLE) or new_token()) if token else None
        root = store_root(store)
        meanings = None if embeddings is None else Meanings(root / "catalog.duckdb", embeddings, embedding_model)
        access = Access(host, tuple(name or ()), secret)
        with tempfile.TemporaryDirectory(prefix="circuit-insights-graphs-") as passing:
            folder = Path(passing) if graphs is None else graphs
            folder.mkdir(parents=True, exist_ok=True)
            settings = Settings(
                root / "catalog.duckdb", access, graphs=folder, notes=notes, attribute=partial(attribute_apart, root),
                prefect=_prefect_pages(), meanings=meanings,
            )  # fmt: skip
            served = create_app(settings)
            served.state.explorer.catalog.index_words()
            with _listening(host, port) as listener:
                _announce(root, access, listener.getsockname()[1])
                _run(served, listener)


def attribute_apart(root: Path, checkpoint_id: str, prompt: str, output: Path, tell: Callable[[str], None]) -> None:
    """Run `attribute` in a separate process, whose memory for PyTorch and the model is freed when it ends.

    Raises:
        ValueError: it failed, with its message, or took longer than `ATTRIBUTE_S`.
    """
    command = [sys.executable, "-m", "flows.cli", "attribute", "--store", str(root), "--checkpoint", checkpoint_id]
    # A prompt may begin with dashes, which would be read as an option.
    command += ["--output", str(output), "--max-features", str(PAGE_FEATURES), "--", prompt]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        late = threading.Timer(ATTRIBUTE_S, process.kill)
        late.start()
        said = [line.strip() for line in iter(partial(_heard, process, tell), "")]
        code = process.wait()
        on_time = late.is_alive()
        late.cancel()
    if not on_time:
        raise ValueError(f"it took longer than {ATTRIBUTE_S:.0f} s and was ended; a shorter prompt takes less")
    if code != 0:
        raise ValueError(" ".join(said)[-1000:].removeprefix("error: ") or f"it ended with code {code}")


def _heard(process: "subprocess.Popen[str]", tell: Callable[[str], None]) -> str:
    """The next line of a process's output; lines of progress are passed on."""
    assert process.stderr is not None
    line = process.stderr.readline()
    tell(line.strip())
    return line


def _listening(host: str, port: int) -> socket.socket:
    """Open a socket at the address.

    Raises:
        ValueError: the address is not this machine's, or the port is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another port, or 0 for any"
        ) from None
    return listener


def _prefect_pages() -> str | None:
    """The address of Prefect's pages, if a server is set; without importing Prefect, which takes seconds."""
    named = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "")
    return named.rstrip("/").removesuffix("/api") if named.startswith(("http://", "https://")) else None


def _announce(root: Path, access: "Access", port: int) -> None:
    shown = f"[{access.host}]" if ":" in access.host else access.host
    query = f"/?token={access.token}" if access.token else "/"
    out.print(f"http://{shown}:{port}{query}", soft_wrap=True, markup=False, highlight=False)
    if not access.is_local:
        who = "everyone with the token" if access.token else "everyone, without a password"
        err.print(
            f"Exposed on {access.host}, port {port}, to {who} on this network: the whole catalog of {root}, "
            "including texts of the corpus and names of models and folders. Nothing is encrypted.",
            soft_wrap=True, markup=False,
        )  # fmt: skip


def _run(served: object, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        served,  # pyright: ignore[reportArgumentType]
        log_level="warning", access_log=False, server_header=False, date_header=False,
        limit_concurrency=200, timeout_keep_alive=5, h11_max_incomplete_event_size=32_768,
    )  # fmt: skip
    uvicorn.Server(config).run([listener])
