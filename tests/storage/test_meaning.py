"""Descriptions are found by what they mean to a model of the user's."""

import json
from collections.abc import Sequence
from pathlib import Path

import httpx2
import numpy as np
import pytest

from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import open_published
from storage.search.embedders import KEY_VARIABLE, EndpointEmbedder, open_embedder
from storage.search.lexical import DescriptionHit, Query
from storage.search.meaning import make_vectors, search_meaning, vectors_are_current, vectors_path


class Letters:
    """A model to which texts mean their letters."""

    embedder_id = "letters"

    def __init__(self) -> None:
        self.read: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.read += texts
        vectors = np.array([[text.count(letter) for letter in "abcdefghij"] for text in texts], np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def describe(catalog: Path, layer: int, feature: int, text: str, **more: object) -> None:
    with open_catalog(catalog, write=True) as connection:
        row = {"checkpoint_id": "c", "corpus_id": None, "layer": layer, "feature": feature, "text": text}
        fixed = {"method": "weightlens", "explainer": "tokens", "cluster": -1}
        insert_row(connection, "descriptions", {**row, **fixed, **more})


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.duckdb"
    describe(path, 0, 1, "aaab")
    describe(path, 0, 2, "abab")
    describe(path, 1, 1, "cccc")
    return path


def alike(catalog: Path, model: Letters, text: str, **more: object) -> list[DescriptionHit]:
    if not vectors_are_current(catalog, model):
        list(make_vectors(catalog, model))
    with open_published(catalog) as connection:
        return search_meaning(connection, vectors_path(catalog, model), model, Query(text, **more))  # pyright: ignore


def test_the_nearest_come_first_with_their_cosines(catalog: Path) -> None:
    hits = alike(catalog, Letters(), "a", n=2)
    assert [(hit.layer, hit.feature, hit.text) for hit in hits] == [(0, 1, "aaab"), (0, 2, "abab")]
    assert [hit.score for hit in hits] == pytest.approx([3 / 10**0.5, 0.5**0.5], abs=1e-3)


def test_a_layer_and_a_checkpoint_narrow_it_down(catalog: Path) -> None:
    assert [hit.text for hit in alike(catalog, Letters(), "a", layer=1)] == ["cccc"]
    assert alike(catalog, Letters(), "a", checkpoint_id="other") == []
    assert alike(catalog, Letters(), " ") == []


def test_only_new_texts_are_read_again(catalog: Path) -> None:
    model = Letters()
    alike(catalog, model, "a")
    describe(catalog, 2, 5, "ddd")
    assert [hit.feature for hit in alike(catalog, model, "d", n=1)] == [5]
    assert sorted(model.read) == ["a", "aaab", "abab", "cccc", "d", "ddd"]


def test_a_description_by_a_language_model_stands_for_its_feature(catalog: Path) -> None:
    describe(catalog, 0, 1, "ffff", explainer="anthropic")
    assert alike(catalog, Letters(), "f", n=1)[0].explainer == "anthropic"


def endpoint(handler) -> EndpointEmbedder:
    return EndpointEmbedder("http://here/v1/", "small", httpx2.MockTransport(handler))


def test_an_address_is_asked_in_openais_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        n = len(json.loads(request.content)["input"])
        data = [{"index": i, "embedding": [0, 2] if i else [3, 0]} for i in reversed(range(n))]
        return httpx2.Response(200, json={"data": data})

    assert endpoint(answer).embed(["x", "y"]).tolist() == [[1, 0], [0, 1]]
    assert str(asked[0].url) == "http://here/v1/embeddings"
    assert asked[0].headers["authorization"] == "Bearer secret"
    assert json.loads(asked[0].content) == {"model": "small", "input": ["x", "y"]}


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(500),
        httpx2.Response(200, text="no JSON"),
        httpx2.Response(200, json={"data": [{"index": 0}]}),
        httpx2.Response(200, json={"data": []}),
        httpx2.Response(200, json={"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}),
    ],
)
def test_other_answers_are_refused(answer: httpx2.Response) -> None:
    with pytest.raises(ValueError, match="embeddings: http://here/v1/embeddings"):
        endpoint(lambda _: answer).embed(["x", "y"])


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        open_embedder(str(tmp_path), None)
    with pytest.raises(ValueError, match="--embedding-model"):
        open_embedder("https://here/v1", None)
    with pytest.raises(ValueError, match="neither a folder nor"):
        open_embedder("ftp://here", "m")


def test_a_folder_is_read_as_sentence_transformers_reads_it(tmp_path: Path) -> None:
    """The mean over a text's tokens, whatever it is padded with, at length 1."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "mat"]))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=7, **sizes)).eval()
    model.save_pretrained(tmp_path)
    embedder = open_embedder(str(tmp_path), None)
    together = embedder.embed(["red mat red mat", "red"])
    alone = model(**tokenizer(["red"], return_tensors="pt")).last_hidden_state[0].mean(0).detach().numpy()
    assert together[1] == pytest.approx(alone / np.linalg.norm(alone), abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert open_embedder(str(tmp_path), None).embedder_id == embedder.embedder_id
