"""What pages show of a catalog, and that the SQL beside a panel makes that panel."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from explorer.app import Settings, create_app
from explorer.catalog import Catalog, Limits
from explorer.errors import LimitError
from explorer.meanings import Meanings
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import open_published, publish
from tests.explorer.small_catalog import CHECKPOINT, CORPUS, LATER, write_small_catalog

PAGES = (
    f"/c/{CHECKPOINT}",
    f"/c/{CHECKPOINT}/feature/2/1",
    f"/c/{CHECKPOINT}/feature/1/7",
    f"/c/{CHECKPOINT}/features",
    f"/c/{CHECKPOINT}/token/1",
    f"/c/{CHECKPOINT}/tokens?words=a",
    f"/c/{CHECKPOINT}/search?q=cat&layer=",
    f"/c/{CHECKPOINT}/head/1/2",
    f"/c/{CHECKPOINT}/compare",
    f"/c/{CHECKPOINT}/pair?a=2/1&b=L1+%230",
    "/drift",
    f"/drift/{CHECKPOINT}/{LATER}",
    f"/drift/{CHECKPOINT}/{LATER}?fate=kept&layer=1&surprise=",
    "/runs",
    f"/c/{CHECKPOINT}/features?layer=1&sort=density&order=down&method=maxact&words=cat&min_score=0",
)


@pytest.mark.parametrize("page", PAGES)
def test_every_panel_is_made_by_the_sql_beside_it(explorer: TestClient, small_catalog: Path, page: str) -> None:
    found = explorer.get("/api" + page).json()
    assert found["panels"]
    with open_published(small_catalog) as connection:
        for name, panel in found["panels"].items():
            again = connection.execute(panel["sql"])
            names = [column[0] for column in again.description]
            rows = again.fetchall()
            assert len(rows) == len(panel["rows"]), name
            assert [str(row[names[0]]) for row in panel["rows"]] == [
                str(row[0].isoformat(timespec="seconds") if hasattr(row[0], "isoformat") else row[0]) for row in rows
            ]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_html_without_script_or_style_in_it(explorer: TestClient, page: str) -> None:
    answer = explorer.get(page)
    assert answer.status_code == 200
    assert answer.text.count("<script") == answer.text.count(".js?v=")
    assert "style=" not in answer.text
    assert " onclick" not in answer.text


def test_first_page_is_the_list_of_checkpoints(explorer: TestClient) -> None:
    text = explorer.get("/").text
    assert "small" in text
    assert "later" in text
    assert f'href="/c/{CHECKPOINT}"' in text


def test_what_the_plan_said_stands_beside_what_a_stage_took(explorer: TestClient) -> None:
    assert '<td class="n">4 min</td><td class="n">5 min</td>' in explorer.get("/runs").text


def test_a_checkpoint_is_found_by_its_name_too(explorer: TestClient) -> None:
    assert explorer.get("/api/c/small").json()["checkpoint"]["checkpoint_id"] == CHECKPOINT


def test_overview_says_what_has_not_run_and_what_failed(explorer: TestClient) -> None:
    text = explorer.get(f"/c/{CHECKPOINT}").text
    assert "it went wrong" in text
    stages = {stage["stage"]: stage["run"] for stage in explorer.get(f"/api/c/{CHECKPOINT}").json()["facts"]["stages"]}
    assert stages["coactivation"] is None
    assert stages["evaluate"]["status"] == "failed"


def test_feature_page_leads_up_and_down_the_wiring(explorer: TestClient) -> None:
    text = explorer.get(f"/c/{CHECKPOINT}/feature/1/0").text
    assert f'href="/c/{CHECKPOINT}/feature/0/0"' in text
    assert f'href="/c/{CHECKPOINT}/feature/2/2"' in text
    panels = explorer.get(f"/api/c/{CHECKPOINT}/feature/1/0").json()["panels"]
    (edge,) = panels["upstream"]["rows"]
    assert (edge["virtual_weight"], edge["twera"], edge["z_score"]) == pytest.approx((0.7, 0.4, 6.0))
    assert edge["description"] == "the token cat by wl+cl"


def test_a_feature_says_which_features_it_made_fire(explorer: TestClient) -> None:
    text = explorer.get(f"/c/{CHECKPOINT}/feature/0/0").text
    assert "Features that it made fire" in text
    [row] = explorer.get(f"/api/c/{CHECKPOINT}/feature/0/0").json()["panels"]["caused"]["rows"]
    assert (row["layer"], row["feature"], row["n_samples"], row["mean_share"]) == (2, 1, 6, 0.5)
    assert "Features that it made fire" not in explorer.get(f"/c/{CHECKPOINT}/feature/2/1").text


def test_neighbours_without_arrays_say_so(explorer: TestClient) -> None:
    text = explorer.get(f"/c/{CHECKPOINT}/feature/2/1/neighbours").text
    assert "needed to find neighbours, are not in the store" in text


def test_scores_stand_beside_what_chance_reaches(explorer: TestClient) -> None:
    found = explorer.get(f"/api/c/{CHECKPOINT}/feature/2/1").json()["facts"]["methods"]
    score = next(m for m in found if m["method"] == "weightlens")["judges"]["rule"]["clarity"]
    assert (score["value"], score["shuffled"]) == pytest.approx((0.5, 0.15))


def test_a_feature_without_description_says_why(explorer: TestClient) -> None:
    text = explorer.get(f"/c/{CHECKPOINT}/feature/1/7").text
    assert "No description" in text
    assert "no token stands out" in text


def test_what_a_mechanism_shares_is_said_in_words(explorer: TestClient) -> None:
    found = explorer.get(f"/api/c/{CHECKPOINT}/feature/2/1").json()["facts"]["signatures"]["0"]
    assert [part["words"] for part in found] == ["head 1.2 reading from 1 token before", "feature 0/0"]


def test_search_finds_what_is_said_and_what_is_fired_on(explorer: TestClient) -> None:
    address = f"/api/c/{CHECKPOINT}/search?q=the+cat"
    give_up = time.monotonic() + 60
    while not (found := explorer.get(address).json())["facts"]["ready"] and time.monotonic() < give_up:
        time.sleep(0.02)
    assert {(hit["layer"], hit["feature"]) for hit in found["facts"]["descriptions"]} >= {(0, 0), (2, 2)}
    assert (found["facts"]["contexts"][0]["layer"], found["facts"]["contexts"][0]["feature"]) == (2, 1)
    assert found["panels"]["tokens"]["rows"] == []
    assert [
        row["text"] for row in explorer.get(f"/api/c/{CHECKPOINT}/search?q=cat").json()["panels"]["tokens"]["rows"]
    ] == [" cat"]
    assert explorer.get(f"/api/c/{CHECKPOINT}/search?q=cat&layer=1").json()["facts"]["contexts"] == []


@pytest.mark.parametrize("written", ["2/1", "2.1", "L2 #1", " 2 1 "])
def test_a_feature_is_found_by_its_numbers(explorer: TestClient, written: str) -> None:
    answer = explorer.get(f"/c/{CHECKPOINT}/search", params={"q": written})
    assert (answer.status_code, answer.headers.get("location")) == (303, f"/c/{CHECKPOINT}/feature/2/1")


def test_table_filters_sorts_and_turns_pages(explorer: TestClient) -> None:
    def rows(query: str) -> list[dict]:
        return explorer.get(f"/api/c/{CHECKPOINT}/features?{query}").json()["panels"]["features"]["rows"]

    assert len(rows("")) == 50
    assert [row["feature"] for row in rows("layer=1&activity=dead")] == [59]
    assert [row["feature"] for row in rows("layer=1&judged=judged&sort=score&order=down")] == [2, 1, 0]
    assert {row["feature"] for row in rows("words=by+MAXACT&layer=0")} == {0, 1, 2}
    assert rows("words=nothing+such") == []
    assert len(rows("layer=1&page=2")) == 10
    behind = explorer.get(f"/api/c/{CHECKPOINT}/features?layer=1&page=9").json()
    assert (behind["facts"]["n"], behind["panels"]["features"]["rows"]) == (60, [])
    assert [row["feature"] for row in rows("layer=1&min_score=0.4&max_score=0.6")] == [1]
    assert len(rows("layer=2&described=undescribed")) == 50
    assert 0 < max(row["density"] for row in rows("max_density=0.4")) <= 0.4


def test_table_downloads_whole(explorer: TestClient) -> None:
    table = list(csv.DictReader(io.StringIO(explorer.get(f"/c/{CHECKPOINT}/features.csv").text)))
    assert len(table) == 180
    assert table[0]["description"] == "the token cat by wl+cl"
    assert "n_fitting" not in table[0]
    answer = explorer.get(f"/c/{CHECKPOINT}/features.parquet?layer=1")
    found = pq.read_table(io.BytesIO(answer.content))
    assert found.num_rows == 60
    assert set(found["layer"].to_pylist()) == {1}


def test_features_are_listed_before_a_corpus_was_read(tmp_path: Path) -> None:
    path = write_small_catalog(tmp_path)
    with open_catalog(path, write=True) as connection:
        connection.execute("DELETE FROM features")
    catalog = Catalog(path)
    from explorer.views.features import Filters, feature_table

    with catalog.reading() as reader:
        assert feature_table(reader, "small", Filters(described="described")).facts["n"] == 9


def test_a_newer_copy_is_read_as_soon_as_it_is_published(tmp_path: Path) -> None:
    path = write_small_catalog(tmp_path)
    catalog = Catalog(path)
    with catalog.reading() as before:
        with open_catalog(path, write=True) as connection:
            insert_row(connection, "checkpoints", {"checkpoint_id": "new", "name": "new"})
        publish(path)
        assert len(before.checkpoints) == 2
    with catalog.reading() as after:
        assert after.checkpoint("new")["name"] == "new"


def test_a_query_ends_when_its_time_is_up(small_catalog: Path) -> None:
    catalog = Catalog(small_catalog, Limits(seconds=0.2))
    with catalog.reading() as reader, pytest.raises(LimitError, match=r"longer than 0\.2 s"):
        reader.panel("", "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b", {})


def test_a_query_ends_when_it_needs_too_much_memory(small_catalog: Path) -> None:
    catalog = Catalog(small_catalog, Limits(memory="32MB"))
    with catalog.reading() as reader, pytest.raises(LimitError, match=r"more than the .* of memory"):
        reader.panel("", "SELECT list(random()) FROM range(20000000) GROUP BY range % 10000000", {})


def test_pages_wait_for_their_turn_and_downloads_keep_none_waiting(small_catalog: Path) -> None:
    catalog = Catalog(small_catalog, Limits(pages=1, downloads=1, waiting=0.05))
    refused = pytest.raises(LimitError, match="too many other requests")
    with catalog.downloading(5), catalog.reading(), refused, catalog.reading():
        pass
    with pytest.raises(ValueError, match="goes wrong"), catalog.reading():
        raise ValueError("a page that goes wrong gives its turn back")
    with catalog.reading() as reader:
        assert reader.checkpoints


def test_a_panel_has_no_more_rows_than_it_may(small_catalog: Path) -> None:
    catalog = Catalog(small_catalog, Limits(rows=7))
    with catalog.reading() as reader:
        panel = reader.panel("", "SELECT range FROM range(100)", {})
    assert (len(panel.rows), panel.cut) == (7, True)


def test_every_page_is_in_the_description_of_the_api(explorer: TestClient) -> None:
    paths = explorer.get("/api/openapi.json").json()["paths"]
    assert "/api/c/{checkpoint}/feature/{layer}/{feature}" in paths
    answer = paths["/api/c/{checkpoint}/features"]["get"]
    assert {"layer", "sort", "min_score"} <= {parameter["name"] for parameter in answer["parameters"]}


def test_a_corpus_that_was_not_read_is_not_found(explorer: TestClient) -> None:
    answer = explorer.get(f"/c/{CHECKPOINT}/feature/0/0?corpus=other")
    assert answer.status_code == 404
    assert CORPUS in answer.text


class Letters:
    """Compares texts by how many of each letter they have."""

    embedder_id = "letters"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_search_finds_like_meanings_where_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.search.embedders.open_embedder", lambda place, model: Letters())
    path = write_small_catalog(tmp_path)
    settings = Settings(path, meanings=Meanings(path, "anywhere", None))
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        address, give_up = f"/api/c/{CHECKPOINT}/search?q=tac+token+eht", time.monotonic() + 60
        while not (facts := client.get(address).json()["facts"])["alike"] and time.monotonic() < give_up:
            assert "being read" in facts["alike_reason"]
            time.sleep(0.02)
        assert {(hit["layer"], hit["feature"]) for hit in facts["alike"]} >= {(0, 0), (2, 2)}
        assert "Descriptions with similar meaning" in client.get(address.removeprefix("/api")).text


def test_a_model_that_cannot_be_opened_is_told_on_the_page(tmp_path: Path) -> None:
    path = write_small_catalog(tmp_path)
    settings = Settings(path, meanings=Meanings(path, str(tmp_path / "nothing"), None))
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        address, give_up = f"/api/c/{CHECKPOINT}/search?q=cat", time.monotonic() + 60
        while "being read" in (reason := client.get(address).json()["facts"]["alike_reason"]):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert "nothing" in reason
