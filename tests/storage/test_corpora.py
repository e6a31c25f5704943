"""Rows hold every document whole, whatever kills the writing, and bad text is named by file and line."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from storage.corpora import RECEIPT, CorpusRecipe, corpus_attributes, read_rows, write_corpus
from storage.models import open_model
from storage.packing import PADDING, Cut, Layout, Packer, Rows, pack
from storage.python_docs import python_docs
from storage.recipes import file_sha256
from storage.sources import pinned, source_fingerprint
from storage.store import Store, held, open_store
from storage.texts import Position, read_texts, whole_texts
from tests.storage.letters import Letters

ROOT = Path(__file__).parents[2]
LAYOUTS: tuple[Layout, ...] = ("packed", "padded")


def recipe_of(source: object, **settings: object) -> CorpusRecipe:
    values = {"bos": 0, "n_pos": 8, "max_tokens": None, "text_field": "text", **settings}
    return CorpusRecipe(source=str(source), source_sha256="s", tokenizer_sha256="t", **values)  # pyright: ignore


def documents_of(rows: Rows, n_documents: int, bos: int | None) -> list[list[int]]:
    """The tokens of each document, BOS left out where it opens a document or goes on with it in another row."""
    found: list[list[int]] = [[] for _ in range(n_documents)]
    for tokens, documents in zip(rows.tokens.tolist(), rows.documents.tolist(), strict=True):
        for token, document in zip(tokens, documents, strict=True):
            assert (token == PADDING) == (document == PADDING)
            if token not in (PADDING, bos):
                found[document].append(token)
    return found


def rows_of(texts: list[str], packer: Packer, **settings: int) -> Rows:
    blocks = [block.rows for block in pack(whole_texts(texts), Letters(), packer, **settings)]
    empty = np.zeros((0, packer.n_pos), np.int32)
    return Rows(*(np.concatenate([empty, *arrays]) for arrays in zip(*blocks, strict=True))) if blocks else Rows(empty, empty)


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(st.text("abc", max_size=40), max_size=20),
    n_pos=st.integers(2, 9),
    bos=st.sampled_from([None, 0]),
    layout=st.sampled_from(LAYOUTS),
    tokens_per_block=st.integers(1, 60),
)
def test_rows_give_back_every_document(
    texts: list[str], n_pos: int, bos: int | None, layout: Layout, tokens_per_block: int
) -> None:
    rows = rows_of(texts, Packer(bos, n_pos, layout), tokens_per_block=tokens_per_block)
    assert documents_of(rows, len(texts), bos) == [[ord(letter) for letter in text] for text in texts]
    assert (rows.tokens[:, 0] != PADDING).all()
    if bos is not None:
        assert (rows.tokens[:, 0] == bos).all()
    real = rows.tokens != PADDING
    assert (real == (np.arange(n_pos) < real.sum(1, keepdims=True))).all(), "padding is what a row ends with"
    if layout == "packed":
        assert real[:-1].all(), "only the last row is padded"
    else:
        for row, (documents, kept) in enumerate(zip(rows.documents, real, strict=True)):
            assert len(set(documents[kept])) == 1, "one document a row"
            goes_on = row + 1 < len(real) and rows.documents[row + 1, 0] == documents[0]
            assert kept.all() or not goes_on, "a row is filled before the next is begun"


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text("abc", max_size=30), min_size=1, max_size=12),
    layout=st.sampled_from(LAYOUTS),
    bos=st.sampled_from([None, 0]),
    max_rows=st.integers(1, 12),
    tokens_per_block=st.integers(1, 60),
)
def test_what_is_cut_off_is_told(
    texts: list[str], layout: Layout, bos: int | None, max_rows: int, tokens_per_block: int
) -> None:
    whole = rows_of(texts, Packer(bos, 5, layout))
    blocks = list(pack(whole_texts(texts), Letters(), Packer(bos, 5, layout), max_rows, tokens_per_block))
    tokens = [row for block in blocks for row in block.rows.tokens.tolist()]
    assert tokens == whole.tokens[:max_rows].tolist()
    assert all(block.cut is None for block in blocks[:-1])
    if len(whole.tokens) > max_rows:
        cut = blocks[-1].cut
        assert isinstance(cut, Cut)
        last = int(whole.documents[max_rows - 1].max())
        left = whole.tokens[max_rows:][whole.documents[max_rows:] == last]
        assert cut.after_document == last
        assert cut.n_tokens_known >= (left != bos).sum()
        assert cut.n_tokens_known <= sum(map(len, texts[last : last + 2]))


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text("ab é\n", max_size=60), min_size=1, max_size=8),
    kind=st.sampled_from([".txt", ".jsonl", ".jsonl.gz", ".parquet", "folder"]),
    piece=st.integers(8, 40),
)
def test_reading_goes_on_from_every_piece(
    texts: list[str], kind: str, piece: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = write_texts(tmp_path_factory.mktemp("texts"), texts, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.texts.PIECE_CHARACTERS", piece)
        pieces = list(read_texts(str(source)))
        for n, found in enumerate(pieces, 1):
            end = Position(*json.loads(json.dumps(found.end)))
            assert list(read_texts(str(source), start=end)) == pieces[n:]
    joined: list[str] = []
    for found in pieces:
        assert len(found.text) <= piece
        if found.before:
            assert joined[-1][-1] == found.before
            joined[-1] += found.text
        else:
            joined.append(found.text)
    assert joined == (texts if kind not in (".txt",) else ["\n".join(texts)])


def write_texts(folder: Path, texts: list[str], kind: str) -> Path:
    if kind == "folder":
        (folder / "texts" / "deeper").mkdir(parents=True)
        (folder / "texts" / ".hidden").touch()
        half = len(texts) // 2
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / "texts" / "a.jsonl").write_text("".join(lines[:half]))
        (folder / "texts" / "deeper" / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[half:]).encode()))
        return folder / "texts"
    path = folder / f"texts{kind}"
    if kind == ".txt":
        path.write_bytes("\n".join(texts).encode())
    elif kind == ".parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=2)
    else:
        data = "".join(json.dumps({"text": text, "id": 3}) + "\n\n" for text in texts).encode()
        path.write_bytes(gzip.compress(data) if kind == ".jsonl.gz" else data)
    return path


def metaspace_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("alphabet", ["bytes", "metaspace"])
def test_a_document_in_pieces_has_the_tokens_that_it_has_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alphabet: str
) -> None:
    texts = list(python_docs())[:60]
    tokenizer = (
        open_model(ROOT / "demo" / "checkpoint" / "model").tokenizer
        if alphabet == "bytes"
        else metaspace_tokenizer(texts)
    )
    path = tmp_path / "one.txt"
    path.write_text("\n\n".join(texts))
    tokens = []
    for size in (2**20, 5000):
        monkeypatch.setattr("storage.texts.PIECE_CHARACTERS", size)
        pieces = list(read_texts(str(path)))
        assert (len(pieces) > 20) == (size == 5000)
        blocks = list(pack(pieces, tokenizer, Packer(None, 64)))
        tokens.append(np.concatenate([block.rows.tokens for block in blocks]))
        assert {int(d) for block in blocks for d in np.unique(block.rows.documents)} <= {0, PADDING}
    assert np.array_equal(*tokens)


def test_text_files_keep_their_line_ends_as_python_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert [piece.text for piece in read_texts(str(tmp_path / "a.txt"))] == ["one\ntwo\nthree\n"]
