"""`serve`: the explorer, pages over a store's catalog for a browser."""

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
"""What a prompt that was given on a page may take."""

PAGE_FEATURES = 3000
"""Features that are attributed for it, at most."""


@app.command()
def serve(
    store: StoreOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but 127.0.0.1 is seen by others.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8765,
    name: Annotated[
        list[str] | None, typer.Option(help="Host name under which browsers reach it, besides --host.")
    ] = None,
    graphs: Annotated[
        Path | None,
        typer.Option(help="Folder of attribution graphs; else those made on pages are gone when this ends."),
    ] = None,
    notes: Annotated[
        Path | None, typer.Option(help="Let people say what features are, and keep it in this DuckDB file.")
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="Search like meanings too, by this model: a folder, or an address (…/v1).")
    ] = None,
    embedding_model: Annotated[
        str | None, typer.Option(help="Name of the model, where --embeddings is an address.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help=f"Serve only those who have a token: ${TOKEN_VARIABLE}, else a new one.")
    ] = False,
) -> None:
    """Show the store in a browser: features with their texts, wiring, scores, graphs. Reads, never writes it."""
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
    """Have `attribute` do it in a process of its own, which takes PyTorch and the model with it when it ends.

    Raises:
        ValueError: it failed, with what it said, or took longer than `ATTRIBUTE_S`.
    """
    command = [sys.executable, "-m", "flows.cli", "attribute", "--store", str(root), "--checkpoint", checkpoint_id]
    # A prompt may begin with dashes, and is no option.
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
    """The next line that a process writes, after passing on lines of progress."""
    assert process.stderr is not None
    line = process.stderr.readline()
    tell(line.strip())
    return line


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the address.

    Raises:
        ValueError: the address is not this machine's, or the port is taken.
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
    """Where Prefect's pages are, if a server of it is named; Prefect itself takes seconds to import."""
    named = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "")
    return named.rstrip("/").removesuffix("/api") if named.startswith(("http://", "https://")) else None


def _announce(root: Path, access: "Access", port: int) -> None:
    shown = f"[{access.host}]" if ":" in access.host else access.host
    query = f"/?token={access.token}" if access.token else "/"
    out.print(f"http://{shown}:{port}{query}", soft_wrap=True, markup=False, highlight=False)
    if not access.is_local:
        who = "who has the token" if access.token else "everyone, without a password"
        err.print(
            f"Exposed on {access.host}, port {port}, to {who} on this network: everything in the catalog of {root}, "
            "with texts of the corpus and names of models and folders. Nothing is encrypted.",
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
