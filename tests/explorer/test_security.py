"""Nobody else's page, name or text gets anything out of the explorer."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from explorer.app import Settings, create_app
from explorer.security import Access
from tests.explorer.conftest import HERE
from tests.explorer.small_catalog import CHECKPOINT, write_small_catalog
from tests.explorer.test_pages import PAGES

ATTACK = "<script>alert(1)</script>\x1b[31m\u202eevil\u2066\x00\"'><img src=x onerror=alert(1)>{{7*7}}"
MEGABYTE = "M" * 1_000_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An explorer of a catalog whose every text is an attack."""

    def attacking(text: str) -> str:
        return f"{text}{ATTACK}{MEGABYTE if text.startswith((' cat', 'the token cat by m')) else ''}"

    path = write_small_catalog(tmp_path_factory.mktemp("hostile"), attacking)
    with TestClient(create_app(Settings(path)), base_url=HERE, follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("page", ["/", *PAGES])
def test_texts_of_models_and_corpora_do_nothing(hostile: TestClient, page: str) -> None:
    answer = hostile.get(page)
    assert answer.status_code == 200
    assert not re.search(r"<script>|<img|\x1b|\x00|[\u202a-\u202e\u2066-\u2069]", answer.text)
    assert ATTACK[:30] not in answer.text
    assert "{{7*7}}" in answer.text or "feature" in page
    assert len(answer.content) < 300_000


@pytest.mark.parametrize("page", PAGES)
def test_texts_in_the_api_are_cut(hostile: TestClient, page: str) -> None:
    answer = hostile.get("/api" + page)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.content) < 600_000


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("/c/small/feature/one/2", "layer is 'one'"),
        ("/c/small/feature/-1/2", "layer is '-1'"),
        ("/c/small/feature/0/99999999999999999999", "feature is"),
        ("/c/small/features?layer=1e9", "layer is '1e9'"),
        ("/c/small/features?min_score=nan", "min_score is 'nan'"),
        ("/c/small/features?sort=density;DROP", "sort is"),
        ("/c/small/features?page=0", "page is '0'"),
        ("/c/small/features?pgae=2", "pgae is '2'"),
        ("/c/small/features?columns=no", "columns has 'no'"),
        ("/c/small/features?words=" + "x" * 300, "words is"),
        ("/c/small/features?words=" + "x" * 5000, "4096"),
    ],
)
def test_hostile_parameters_are_refused_with_a_sentence(explorer: TestClient, page: str, sentence: str) -> None:
    for place in (page, "/api" + page):
        answer = explorer.get(place)
        assert answer.status_code == 400
        assert sentence in answer.text.replace("&#39;", "'")
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "page", ["/c/nothing", "/c/small/feature/3/0", "/c/small/feature/0/60", "/nothing", "/static/../app.py"]
)
def test_what_is_not_there_is_404(explorer: TestClient, page: str) -> None:
    assert explorer.get(page).status_code == 404
    assert explorer.get("/api" + page).status_code == 404


def test_sql_in_a_parameter_is_a_text(explorer: TestClient) -> None:
    answer = explorer.get("/api/c/small/features", params={"words": "cat'); DROP TABLE features; --"})
    assert answer.json()["facts"]["n"] == 0
    assert explorer.get("/api/c/small/features").json()["facts"]["n"] == 180


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_other_host_names_are_refused(explorer: TestClient, host: str) -> None:
    answer = explorer.get("/", headers={"host": host})
    assert answer.status_code == 403
    assert "host name" in answer.text


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
def test_own_host_names_are_served(explorer: TestClient, host: str) -> None:
    assert explorer.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"), [("10.1.2.3:8765", 200), ("lab.example", 200), ("evil.example", 403), ("[fe80::1]", 200)]
)
def test_on_a_network_addresses_and_given_names_are_served(small_catalog: Path, host: str, status: int) -> None:
    access = Access("0.0.0.0", ("lab.example",))
    with TestClient(create_app(Settings(small_catalog, access)), base_url=HERE) as client:
        assert client.get("/", headers={"host": host}).status_code == status


def test_every_answer_has_the_security_headers(explorer: TestClient) -> None:
    for page in ("/", PAGES[1], "/nothing", "/api" + PAGES[0], "/static/explorer.css", "/c/small/features?layer=x"):
        headers = explorer.get(page, headers={"origin": "https://evil.example"}).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert not [name for name in headers if name.startswith("access-control")]


def test_a_preflight_is_refused(explorer: TestClient) -> None:
    answer = explorer.options("/", headers={"origin": "https://evil.example", "access-control-request-method": "GET"})
    assert answer.status_code == 405


def test_without_the_token_nothing_is_served(small_catalog: Path) -> None:
    with TestClient(
        create_app(Settings(small_catalog, Access(token="secret"))), base_url=HERE, follow_redirects=False
    ) as client:
        for page in ("/", "/api/c/small", "/static/explorer.css"):
            assert client.get(page).status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/", headers={"cookie": "circuit_insights_token=wrong"}).status_code == 401
        assert client.get("/api/c/small", headers={"authorization": "Bearer secret"}).status_code == 200
        admitted = client.get(f"/c/{CHECKPOINT}/features?layer=1&token=secret")
        assert admitted.status_code == 303
        assert admitted.headers["location"] == f"/c/{CHECKPOINT}/features?layer=1"
        assert "HttpOnly" in admitted.headers["set-cookie"]
        assert "SameSite=Strict" in admitted.headers["set-cookie"]
        assert client.get(f"/c/{CHECKPOINT}").status_code == 200


def test_the_token_leads_nowhere_else(small_catalog: Path) -> None:
    with TestClient(
        create_app(Settings(small_catalog, Access(token="secret"))), base_url=HERE, follow_redirects=False
    ) as client:
        assert client.get("/%2Fevil.example/?token=secret").headers["location"] == "/evil.example/"
