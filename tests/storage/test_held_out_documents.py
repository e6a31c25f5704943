"""Whole documents are held out, by their content alone: copies together, and the same however a corpus is read."""

import json
from pathlib import Path

import numpy as np
import pytest

from storage.corpora.corpus import HELD_OUT, CorpusRecipe, corpus_attributes, read_chosen_rows, write_corpus
from storage.corpora.packing import PADDING, Layout
from storage.store import Store
from tests.storage.letters import Letters


def corpus(store: Store, path: Path, **settings: object) -> CorpusRecipe:
    values = {"bos": 0, "n_pos": 16, "max_tokens": None, "text_field": "text", "held_out": 0.2, **settings}
    recipe = CorpusRecipe(str(path), path.name, "t", **values)  # pyright: ignore
    write_corpus(store, recipe, Letters(), tokens_per_block=500)
    return recipe


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def sides(store: Store, recipe: CorpusRecipe) -> tuple[list[str], list[str]]:
    """The documents of each side, in the order in which they were read."""
    attributes, found = corpus_attributes(store, recipe.corpus_id), []
    for side in ("", HELD_OUT):
        rows = read_chosen_rows(store, recipe.corpus_id, np.arange(getattr(attributes, f"n_{side}sequences")), side)
        documents: dict[int, str] = {}
        for token, document in zip(rows.tokens.ravel().tolist(), rows.documents.ravel().tolist(), strict=True):
            if token not in (PADDING, recipe.bos):
                documents[document] = documents.get(document, "") + chr(token)
        found.append([documents[document] for document in sorted(documents)])
    return found[0], found[1]


def texts_of(n: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return ["".join(chr(97 + letter) for letter in random.integers(0, 26, random.integers(5, 60))) for _ in range(n)]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_document_is_whole_on_one_side(tmp_path: Path, layout: Layout) -> None:
    texts = texts_of(400)
    store = Store(tmp_path)
    recipe = corpus(store, write_lines(tmp_path / "a.jsonl", texts), layout=layout)
    seen, held_out = sides(store, recipe)
    assert sorted([*seen, *held_out]) == sorted(texts)
    assert 0.14 < len(held_out) / 400 < 0.26
    places = [texts.index(text) for text in held_out]
    assert min(places) < 40
    assert max(places) > 360, "from everywhere, not from an end"


def test_sides_follow_from_content_and_seed_alone(tmp_path: Path) -> None:
    """Not from order, copies, layout or what else there is; copies of a document are on the same side."""
    texts, store = texts_of(300), Store(tmp_path)
    first = set(sides(store, corpus(store, write_lines(tmp_path / "a.jsonl", texts)))[1])
    shuffled = [texts[at] for at in np.random.default_rng(1).permutation(300)]
    copied = [*shuffled, *[f" {text}\n" for text in texts], *texts_of(50, seed=5)]
    seen, held_out = sides(store, corpus(store, write_lines(tmp_path / "b.jsonl", copied), layout="padded"))
    assert {text.strip() for text in held_out} & set(texts) == first
    assert not {text.strip() for text in held_out} & {text.strip() for text in seen}
    other = set(sides(store, corpus(store, tmp_path / "a.jsonl", held_out_seed=1))[1])
    assert other != first


def test_a_limit_leaves_each_side_its_share(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = write_lines(tmp_path / "a.jsonl", texts_of(2000))
    for limit in (32, 1600, 16_000):
        recipe = corpus(store, path, max_tokens=limit)
        attributes = corpus_attributes(store, recipe.corpus_id)
        n_held_out = max(1, round(0.2 * limit / 16))
        assert attributes.n_held_out_sequences == n_held_out
        assert attributes.n_sequences == limit // 16 - n_held_out
        assert attributes.cut is not None
        assert attributes.cut.n_tokens_known > 0
    assert corpus_attributes(store, corpus(store, path, max_tokens=16).corpus_id).n_held_out_sequences == 0


def test_of_few_documents_passages_are_drawn(tmp_path: Path) -> None:
    """A text of one document is cut into passages, which count as documents, and the corpus says so."""
    words = " ".join(texts_of(9000))
    (tmp_path / "one.txt").write_text(words)
    store = Store(tmp_path)
    recipe = corpus(store, tmp_path / "one.txt")
    attributes, (seen, held_out) = corpus_attributes(store, recipe.corpus_id), sides(store, recipe)
    assert attributes.passage == 8192
    assert attributes.n_documents == len(seen) + len(held_out) == pytest.approx(len(words) / 8192, rel=0.1)
    assert all(8000 < len(text) <= 8192 for text in [*seen, *held_out][:-1] if text != words[-len(text) :])
    assert sum(map(len, [*seen, *held_out])) == len(words)
    (tmp_path / "short.txt").write_text(words[:3000])
    assert corpus_attributes(store, corpus(store, tmp_path / "short.txt").corpus_id).passage == 128


def test_each_side_has_something_wherever_it_can(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(20):
        path = write_lines(tmp_path / f"{seed}.jsonl", texts_of(10, seed))
        seen, held_out = sides(store, corpus(store, path, held_out=0.01))
        assert (len(seen), len(held_out)) == (9, 1)
        seen, held_out = sides(store, corpus(store, path, held_out=0.999))
        assert (len(seen), len(held_out)) == (1, 9)
    single = corpus(store, write_lines(tmp_path / "single.jsonl", ["abc"] * 30))
    assert corpus_attributes(store, single.corpus_id).n_held_out_sequences == 0
    nothing = corpus(store, tmp_path / "0.jsonl", held_out=0.0)
    assert corpus_attributes(store, nothing.corpus_id).n_held_out_sequences == 0
