"""Hub datasets are read at an exact commit, in ranges, and what is wrong with them is said."""

import gzip
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.corpora.corpus import CorpusRecipe, corpus_attributes, read_rows, write_corpus
from storage.corpora.hub_datasets import HUB
from storage.corpora.sources import pinned, source_fingerprint
from storage.corpora.texts import read_texts
from storage.store import Store
from tests.storage.hub import COMMIT, DATASET, Hub, local_hub
from tests.storage.letters import Letters


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the repository holds."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "data").mkdir()
    (folder / "README.md").write_text("about")
    (folder / ".gitattributes").touch()
    noise = random.Random(0)
    for n in (2, 1):
        texts = [f"parquet {n} row {row} {noise.randbytes(row % 100).hex()}" for row in range(3000)]
        pq.write_table(pa.table({"text": texts}), folder / "data" / f"{n}.parquet", row_group_size=1000)
    lines = "".join(json.dumps({"text": f"line {n} {noise.randbytes(9).hex()}"}) + "\n" for n in range(20_000)).encode()
    (folder / "lines.jsonl").write_bytes(lines)
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "long.txt").write_text("some words\n" * 9000)
    return folder


@pytest.fixture
def hub(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    shutil.copytree(files, folder)
    with local_hub(Hub(folder)) as hub:
        client_asks(monkeypatch, hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub


def client_asks(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What $HF_ENDPOINT does when it is set before the client is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.parametrize(
    ("revision", "path"),
    [
        ("", "data/*.parquet"), ("@main", "data"), ("@refs/convert/parquet", "data/1.parquet"),
        ("@refs%2Fconvert%2Fparquet", "**/1.parquet"),
    ],
)  # fmt: skip
def test_a_dataset_is_pinned_to_its_commit(hub: Hub, revision: str, path: str) -> None:
    source = pinned(f"{HUB}{DATASET}{revision}/{path}")
    assert source == f"{HUB}{DATASET}@{COMMIT}/{path}"
    assert source_fingerprint(Store(hub.folder), source) == f"{DATASET}@{COMMIT}/{path}"
    texts = [piece.text for piece in read_texts(source)]
    assert len(texts) == (3000 if "1" in path else 6000)
    assert texts[0] == "parquet 1 row 0 "
    assert texts[2999].startswith("parquet 1 row 2999 ")
    n_requests = len(hub.requests)
    assert pinned(source) == source
    assert len(hub.requests) == n_requests, "a full commit needs no network"


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.jsonl.gz", "long.txt", "data/2.parquet"])
def test_remote_texts_are_those_of_the_file_and_go_on_where_reading_stopped(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.corpora.texts.PIECE_CHARACTERS", 5000)
    source = pinned(f"{HUB}{DATASET}/{name}")
    pieces = list(read_texts(source))
    assert pieces == list(read_texts(str(hub.folder / name)))
    middle = len(pieces) // 2
    assert list(read_texts(source, start=pieces[middle].end)) == pieces[middle + 1 :]


def test_no_more_is_fetched_than_is_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.corpora.hub_datasets.BYTES_PER_REQUEST", 2**12)
    store, source = Store(hub.folder.parent), pinned(f"{HUB}{DATASET}/lines.jsonl")
    recipe = CorpusRecipe(source, source_fingerprint(store, source), "t", 0, 16, 160, "text")
    write_corpus(store, recipe, Letters())
    assert read_rows(store, recipe.corpus_id, 0, 99).tokens.shape == (10, 16)
    assert corpus_attributes(store, recipe.corpus_id).source == source
    assert hub.n_bytes < (hub.folder / "lines.jsonl").stat().st_size / 2
    hub.n_bytes = 0
    rows = read_texts(pinned(f"{HUB}{DATASET}/data/1.parquet"))
    assert next(rows).text == "parquet 1 row 0 "
    assert 0 < hub.n_bytes < (hub.folder / "data" / "1.parquet").stat().st_size


class ShutsTheHub(Letters):
    """After so many texts the Hub gives nothing more."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        found = super().__call__(texts, add_special_tokens)
        self.hub.gated = self.n_texts >= 6000
        return found


@pytest.mark.parametrize("path", ["lines.jsonl", "lines.jsonl.gz", "data/*.parquet"])
def test_when_the_hub_is_back_tokenising_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("storage.corpora.hub_datasets.BYTES_PER_REQUEST", 2**14)
    monkeypatch.setattr("storage.corpora.packing.PIECES_PER_BATCH", 50)
    (hub.folder / "data" / "3.parquet").write_bytes((hub.folder / "data" / "2.parquet").read_bytes())
    source = pinned(f"{HUB}{DATASET}/{path}")
    recipe = CorpusRecipe(source, source, "t", 0, 16, None, "text")
    stores = [Store(hub.folder.parent / name) for name in ("interrupted", "whole")]
    with pytest.raises(ValueError, match=r"corpus: hf://.* cannot be read"):
        write_corpus(stores[0], recipe, ShutsTheHub(hub), tokens_per_block=20_000)
    hub.gated = False
    counters = [Letters(), Letters()]
    for store, counter in zip(stores, counters, strict=True):
        write_corpus(store, recipe, counter, tokens_per_block=20_000)
    assert counters[0].n_texts < counters[1].n_texts - 5000
    rows = [read_rows(store, recipe.corpus_id, 0, 10**6) for store in stores]
    assert np.array_equal(rows[0].tokens, rows[1].tokens)
    assert np.array_equal(rows[0].documents, rows[1].documents)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (f"{HUB}someone/other/a.jsonl", "is not on the Hub, or is private: then set HF_TOKEN"),
        (f"{HUB}{DATASET}@gone/lines.jsonl", "has no such revision"),
        (f"{HUB}{DATASET}/nothing/a.jsonl", "no files|no such file"),
        (f"{HUB}{DATASET}/data/*.jsonl", "no files"),
        (f"{HUB}{DATASET}/*", r"README\.md is a '\.md' file"),
        (f"{HUB}{DATASET}", r"expected hf://datasets/OWNER/NAME\[@REVISION\]/PATH"),
        (f"{HUB}texts/lines.jsonl", "expected hf://datasets/OWNER"),
    ],
)
def test_what_is_missing_is_named(hub: Hub, source: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        pinned(source)


def test_gated_unreachable_and_damaged_datasets_are_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"{HUB}{DATASET}/lines.jsonl"
    hub.gated = True
    with pytest.raises(ValueError, match="is gated: accept its terms on its page, then set HF_TOKEN"):
        pinned(source)
    hub.gated = False
    (hub.folder / "data" / "1.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"hf://.*1\.parquet: cannot be read as Parquet"):
        list(read_texts(pinned(f"{HUB}{DATASET}/data/1.parquet")))
    client_asks(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="cannot be reached"):
        pinned(source)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot be reached"):
        pinned(source)
