"""The explorer of a small catalog, asked in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from explorer.app import Settings, create_app
from tests.explorer.small_catalog import write_small_catalog

HERE = "http://127.0.0.1:8765"

Client = Callable[..., TestClient]


@pytest.fixture(scope="session")
def small_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_catalog(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def explorer(small_catalog: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(small_catalog)), base_url=HERE, follow_redirects=False) as client:
        yield client
