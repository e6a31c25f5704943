"""The Prefect server that is set: where its address comes from, and whether it answers."""

import os
import tomllib
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.context import get_settings_context
from prefect.settings import PREFECT_API_URL

NAME = "PREFECT_API_URL"


def check_prefect_answers() -> None:
    """Check that the Prefect server answers, if one is set.

    Raises:
        ValueError: it does not answer; the message has its address, where that was set, and how to run without it.
    """
    url = PREFECT_API_URL.value()
    if not url:
        return
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{NAME} is {url}, set in {_where_set()}, and no Prefect server answers there ({why}); start it with "
            f"`prefect server start`, or set {NAME}= (to nothing) for this command: the run then starts its own"
        )


def _where_set() -> str:
    """The first place in Prefect's order of settings that sets the server's address."""
    if os.environ.get(NAME):
        return "the environment"
    dotenv = Path(".env")
    if dotenv.is_file() and NAME in dotenv.read_text(encoding="utf-8", errors="replace"):
        return str(dotenv.resolve())
    for path, sections in ((Path("prefect.toml"), ()), (Path("pyproject.toml"), ("tool", "prefect"))):
        if path.is_file() and _names_url(path, sections):
            return str(path.resolve())
    profile = get_settings_context().profile
    return f"the profile '{profile.name}'" + (f" of {profile.source}" if profile.source else "")


def _names_url(path: Path, sections: tuple[str, ...]) -> bool:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    for section in (*sections, "api"):
        values = values.get(section, {})
    return "url" in values
