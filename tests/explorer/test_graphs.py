"""Attribution graphs of a folder: read whoever wrote them, refused if they are none, and computed one at a time."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from explorer.app import Settings, create_app
from explorer.errors import BadRequestError, LimitError
from explorer.graphs import checked
from explorer.jobs import MAX_WAITING, Jobs
from tests.explorer.conftest import HERE
from tests.explorer.small_catalog import CHECKPOINT
from tests.explorer.test_security import ATTACK

FORM = {"content-type": "application/x-www-form-urlencoded"}


def graph(text: Callable[[str], str] = str) -> dict[str, Any]:
    """A graph as circuit-tracer writes it, of four nodes."""

    def node(name: str, layer: str, kind: str, **more: Any) -> dict[str, Any]:
        about = {"clerp": text(f"about {name}"), "influence": 0.4, "activation": None, "ctx_idx": 1}
        return {"node_id": name, "layer": layer, "feature_type": kind, "feature": 1, **about, **more}

    return {
        "metadata": {"slug": "small", "scan": "small", "prompt": text("A cat"),
                     "prompt_tokens": [text("A"), text(" cat")]},
        "qParams": {"pinnedIds": ["1_2_1"], "supernodes": [[text("animals"), "1_2_1", "gone"]]},
        "nodes": [
            node("E_1_1", "E", "embedding"),
            node("1_2_1", "1", "cross layer transcoder", activation=2.5),
            node("0_1_1", "1", "mlp reconstruction error"),
            node("4_3_1", "4", "logit", token_prob=0.5, influence=None),
        ],
        "links": [
            {"source": "E_1_1", "target": "1_2_1", "weight": 2.0},
            {"source": "1_2_1", "target": "4_3_1", "weight": 3.0},
            {"source": "0_1_1", "target": "4_3_1", "weight": -1.0},
            {"source": "gone", "target": "4_3_1", "weight": 1.0},
        ],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("small", graph()), ("hostile", graph(lambda text: text + ATTACK))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    index = {"graphs": [{"slug": "small", "prompt": "A cat" + ATTACK}, None]}
    (tmp_path / "graph-metadata.json").write_text(json.dumps(index))
    return tmp_path


@pytest.fixture
def client(small_catalog: Path, folder: Path) -> Iterator[TestClient]:
    settings = Settings(small_catalog, graphs=folder)
    with TestClient(create_app(settings), base_url=HERE, follow_redirects=False) as client:
        yield client


def test_a_graph_is_shown_with_the_features_that_it_names(client: TestClient) -> None:
    facts = client.get(f"/api/c/{CHECKPOINT}/graph/small").json()["facts"]
    assert (facts["n_nodes"], facts["n_links"], facts["is_own"]) == (4, 3, True)
    assert facts["links"][0]["share"] == pytest.approx(0.75)
    text = client.get(f"/c/{CHECKPOINT}/graph/small").text
    assert f'href="/c/{CHECKPOINT}/feature/1/2"' in text
    assert 'data-feature="' in text


HEAD = {
    "layer": 1, "head": 0, "loading": 1.5, "query_position": 1, "key_position": 0, "through": 1.25, "score": 4.0,
    "pairs": [{"query": {"kind": "token", "index": 3, "position": 1},
               "key": {"kind": "feature", "layer": 1, "index": 2, "position": 0}, "score": 3.0}],
}  # fmt: skip


def test_heads_that_carry_links_are_shown_with_what_they_looked_for(client: TestClient, folder: Path) -> None:
    assert "Heads that carry" not in client.get(f"/c/{CHECKPOINT}/graph/small").text
    own = graph()
    edge = {"source": "1_2_1", "target": "4_3_1", "weight": 3.0, "heads": [HEAD, {**HEAD, "layer": "x"}, 5]}
    own["metadata"]["heads"] = [edge, {**edge, "source": "gone"}, {**edge, "weight": float("nan")}, None]
    (folder / "small.json").write_text(json.dumps(own))
    facts = client.get(f"/api/c/{CHECKPOINT}/graph/small").json()["facts"]
    assert [(one["source"], len(one["heads"])) for one in facts["heads"]] == [("1_2_1", 1)]
    assert facts["heads"][0]["heads"][0]["pairs"][0]["key"] == {
        "kind": "feature", "layer": 1, "index": 2, "position": 0,
    }  # fmt: skip
    text = client.get(f"/c/{CHECKPOINT}/graph/small").text
    assert "Heads that carry" in text
    assert text.count(f'href="/c/{CHECKPOINT}/feature/1/2"') > 2


def test_features_of_another_model_are_not_linked(client: TestClient, folder: Path) -> None:
    other = graph()
    other["metadata"]["scan"] = "gemma-2-2b"
    (folder / "gemma.json").write_text(json.dumps(other))
    text = client.get(f"/c/{CHECKPOINT}/graph/gemma").text
    assert "/feature/" not in text
    assert "gemma-2-2b" in text


def test_the_file_of_a_graph_is_in_the_format_that_it_was_read_in(client: TestClient) -> None:
    found = client.get(f"/c/{CHECKPOINT}/graphs/small.json").json()
    written = graph()
    assert [node["node_id"] for node in found["nodes"]] == [node["node_id"] for node in written["nodes"]]
    assert [node["feature_type"] for node in found["nodes"]] == [node["feature_type"] for node in written["nodes"]]
    assert found["links"] == written["links"][:3]
    assert found["qParams"]["supernodes"] == [["animals", "1_2_1"]]


@pytest.mark.parametrize("page", ["graphs", "graph/hostile", "graph/small"])
def test_texts_of_graphs_do_nothing(client: TestClient, page: str) -> None:
    answer = client.get(f"/c/{CHECKPOINT}/{page}")
    assert answer.status_code == 200
    assert not re.search(r"<script>|<img|\x1b|\x00|[\u202a-\u202e\u2066-\u2069]", answer.text)


@pytest.mark.parametrize(
    ("name", "status", "sentence"),
    [
        ("nothing", 404, "no graph"),
        ("..%2F..%2Fsecret", 404, ""),
        ("other", 400, "not an attribution graph"),
        ("broken", 400, "not JSON"),
        ("a" * 200, 400, "name is"),
    ],
)
def test_what_is_no_graph_is_refused(client: TestClient, name: str, status: int, sentence: str) -> None:
    answer = client.get(f"/c/{CHECKPOINT}/graph/{name}")
    assert answer.status_code == status
    assert sentence in answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": [1, None, {"node_id": 3}, {"node_id": "x" * 1000}]},
        {"metadata": [], "qParams": "x"},
        {"metadata": {"prompt_tokens": "abc"}, "qParams": {"supernodes": [[], "x", [1, 2]], "pinnedIds": {}}},
        {
            "links": [
                3,
                {"source": [], "target": {}, "weight": 1},
                {"source": "1_2_1", "target": "4_3_1", "weight": "x"},
            ]
        },
        {"nodes": [{"node_id": "1_2_1", "layer": "²", "ctx_idx": -5, "influence": 1e400, "feature": "x", "clerp": {}}]},
    ],
)
def test_graphs_of_any_shape_are_read_or_refused(change: dict[str, Any]) -> None:
    found = checked({**graph(), **change}, "graph")
    assert set(found) == {"metadata", "qParams", "nodes", "links"}
    json.dumps(found, allow_nan=False)


def test_graphs_that_are_too_large_are_refused() -> None:
    with pytest.raises(BadRequestError, match="prune it"):
        checked({**graph(), "nodes": [{}] * 20_001}, "graph")


def test_prompts_are_attributed_one_at_a_time_and_in_order(small_catalog: Path, tmp_path: Path) -> None:
    going, done = threading.Semaphore(1), []

    def attribute(checkpoint_id: str, prompt: str, output: Path, tell: Callable[[str], None]) -> None:
        assert going.acquire(blocking=False), "another was going on"
        tell("attributing")
        if prompt == "bad":
            going.release()
            raise ValueError("the prompt is bad")
        output.write_text(json.dumps(graph()))
        done.append((checkpoint_id, prompt))
        going.release()

    settings = Settings(small_catalog, graphs=tmp_path, attribute=attribute)
    with TestClient(create_app(settings), base_url=HERE, follow_redirects=False) as client:
        page = f"/c/{CHECKPOINT}/graphs"
        for prompt in ("A cat", "bad", "A cat"):
            answer = client.post(f"/c/{CHECKPOINT}/attribute", data={"prompt": prompt})
            assert (answer.status_code, answer.headers["location"]) == (303, page)
        give_up = time.monotonic() + 60
        while (text := client.get(page).text).count("done") < 2 and time.monotonic() < give_up:
            time.sleep(0.01)
        assert done == [(CHECKPOINT, "A cat")] * 2
        assert "the prompt is bad" in text
        assert f'href="/c/{CHECKPOINT}/graph/a-cat-2"' in text
        assert client.post(f"/c/{CHECKPOINT}/attribute", data={"prompt": " "}).status_code == 400
        assert client.post(f"/c/{CHECKPOINT}/attribute", content="{}").status_code == 400


def test_the_queue_has_an_end(tmp_path: Path) -> None:
    wait = threading.Event()

    def attribute(*_: object) -> None:
        wait.wait(10)

    jobs = Jobs(attribute, tmp_path)
    with pytest.raises(LimitError, match="are already waiting"):
        for _ in range(MAX_WAITING + 2):
            jobs.add(CHECKPOINT, "A cat")
    wait.set()


def test_without_a_model_nothing_is_attributed(client: TestClient) -> None:
    assert client.post(f"/c/{CHECKPOINT}/attribute", data={"prompt": "A cat"}).status_code == 404
    assert "Attribute a prompt" not in client.get(f"/c/{CHECKPOINT}/graphs").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": HERE, "sec-fetch-site": "same-origin"}, 404),
    ],
)
def test_forms_of_other_sites_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    answer = client.post(f"/c/{CHECKPOINT}/attribute", data={"prompt": "A cat"}, headers=headers)
    assert answer.status_code == status


def test_a_form_that_is_too_long_is_refused(client: TestClient) -> None:
    answer = client.post(f"/c/{CHECKPOINT}/attribute", data={"prompt": "x" * 70_000})
    assert answer.status_code == 413
