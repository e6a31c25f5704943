"""What people say of features is kept beside the store, exported, and imported as a method of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from explorer.app import Settings, create_app
from flows.import_notes import import_notes
from storage.catalog.database import loaded_recipe, loaded_subject
from storage.catalog.published import open_published
from storage.store import Store
from tasks.describe.describe import loaded_name
from tests.explorer.conftest import HERE
from tests.explorer.small_catalog import CHECKPOINT, CORPUS, write_small_catalog
from tests.explorer.test_security import ATTACK

PAGE = f"/c/{CHECKPOINT}/feature/2/1"


@pytest.fixture
def client(small_catalog: Path, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(small_catalog, notes=tmp_path / "notes.duckdb")
    with TestClient(create_app(settings), base_url=HERE, follow_redirects=False) as client:
        yield client


def say(client: TestClient, **form: str) -> int:
    return client.post(f"{PAGE}/note", data=form).status_code


def said_by_people(store: Store) -> str | None:
    """What names people's descriptions for the stage that judges them."""
    return loaded_recipe(store.catalog, loaded_subject(CHECKPOINT, CORPUS), loaded_name("human"))


def test_what_is_said_stands_on_the_page_and_in_the_list(client: TestClient) -> None:
    assert say(client, kind="note", text="fires on <b>cats</b>" + ATTACK) == 303
    assert say(client, kind="vote", method="maxact", explainer="tokens", vote="-1") == 303
    for page in (PAGE, "/notes"):
        text = client.get(page).text
        assert "fires on &lt;b&gt;cats" in text
        assert "<script>alert" not in text
        assert "against\n" in text or "against maxact" in text
    assert "fires on &lt;b&gt;" not in client.get(f"/c/{CHECKPOINT}/feature/2/0").text


def test_notes_are_exported_and_imported_as_the_method_human(client: TestClient, tmp_path: Path) -> None:
    for text in ("a first try", "cats and dogs"):
        assert say(client, kind="description", text=text) == 303
    assert say(client, kind="note", text="no description") == 303
    file = tmp_path / "notes.jsonl"
    file.write_bytes(client.get("/notes.jsonl").content)
    assert [json.loads(line)["kind"] for line in file.read_text().splitlines()] == ["description"] * 2 + ["note"]
    store = Store(tmp_path / "store")
    write_small_catalog(store.root)
    assert import_notes(store, file, "small") == 1
    first = said_by_people(store)
    assert import_notes(store, file, "small") == 1
    assert said_by_people(store) == first
    with open_published(store.catalog) as connection:
        query = "SELECT layer, feature, corpus_id, text FROM descriptions WHERE method = 'human'"
        assert connection.execute(query).fetchall() == [(2, 1, CORPUS, "cats and dogs")]
    file.write_text(file.read_text().replace("cats and dogs", "cats alone"))
    assert import_notes(store, file, "small") == 1
    assert said_by_people(store) not in (None, first)  # and so it is judged anew
    with TestClient(create_app(Settings(store.catalog)), base_url=HERE) as served:
        assert "cats alone" in served.get(PAGE).text.split("</h1>")[0]


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"kind": "note", "text": " "},
        {"kind": "note", "text": "x" * 3000},
        {"kind": "else", "text": "x"},
        {"kind": "vote", "method": "maxact", "explainer": "tokens", "vote": "7"},
        {"kind": "vote", "vote": "1"},
    ],
)
def test_what_makes_no_sense_is_refused(client: TestClient, form: dict[str, str]) -> None:
    assert (
        client.post(
            f"{PAGE}/note", data=form, headers={"content-type": "application/x-www-form-urlencoded"}
        ).status_code
        == 400
    )
    assert client.get("/notes.jsonl").content == b""


def test_a_feature_that_is_not_there_has_no_notes(client: TestClient) -> None:
    assert client.post(f"/c/{CHECKPOINT}/feature/9/9/note", data={"kind": "note", "text": "x"}).status_code == 404


def test_without_a_file_nothing_can_be_said(explorer: TestClient) -> None:
    assert explorer.post(f"{PAGE}/note", data={"kind": "note", "text": "x"}).status_code == 404
    assert "Notes by people" not in explorer.get(PAGE).text


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"kind": "note"}', '{"kind": "description", "checkpoint_id": "c0ffee000001", "layer": 99}']
)
def test_a_file_that_is_none_of_notes_is_refused(tmp_path: Path, content: str) -> None:
    write_small_catalog(tmp_path)
    file = tmp_path / "notes.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"notes\.jsonl"):
        import_notes(Store(tmp_path), file, "small")
