"""`serve`: the explorer, pages over a store's catalog for a browser."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import StoreOption, app, err, out, report_errors, store_root

if TYPE_CHECKING:
    from explorer.security import Access

TOKEN_VARIABLE = "CIRCUIT_INSIGHTS_TOKEN"


@app.command()
def serve(
    store: StoreOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but 127.0.0.1 is seen by others.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8765,
    name: Annotated[list[str] | None, typer.Option(help="Host name that it is reached by, beside --host.")] = None,
    token: Annotated[
        bool, typer.Option("--token", help=f"Serve only who has a token: ${TOKEN_VARIABLE}, else a new one.")
    ] = False,
) -> None:
    """Show the store in a browser: features with their texts, wiring, scores, graphs. Reads, never writes it."""
    with report_errors():
        from explorer.app import Settings, create_app
        from explorer.security import Access, new_token

        secret = (os.environ.get(TOKEN_VARIABLE) or new_token()) if token else None
        root = store_root(store)
        access = Access(host, tuple(name or ()), secret)
        served = create_app(Settings(root / "catalog.duckdb", access, prefect=_prefect_pages()))
        with _listening(host, port) as listener:
            _announce(root, access, listener.getsockname()[1])
            _run(served, listener)


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
