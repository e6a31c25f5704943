"""Rows hold every document whole, whatever kills the writing, and bad text is named by file and line."""

import csv
import gzip
import io
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from storage.corpora.corpus import RECEIPT, CorpusRecipe, corpus_attributes, read_rows, write_corpus
from storage.corpora.packing import PADDING, Cut, Layout, Rows, Sides, one_side, pack
from storage.corpora.parquet_pages import Page, WatchedPages
from storage.corpora.python_docs import python_docs
from storage.corpora.sources import pinned, source_fingerprint
from storage.corpora.texts import Field, Position, read_texts, whole_texts
from storage.hashing import file_sha256
from storage.models import open_model
from storage.store import Store, held, open_store
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


def rows_of(texts: list[str], sides: Sides, **settings: int) -> Rows:
    blocks = [block.rows for block in pack(whole_texts(texts), Letters(), sides, **settings)]
    empty = np.zeros((0, sides.rows.n_pos), np.int32)
    return (
        Rows(*(np.concatenate([empty, *arrays]) for arrays in zip(*blocks, strict=True)))
        if blocks
        else Rows(empty, empty)
    )


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
    rows = rows_of(texts, one_side(bos, n_pos, layout), tokens_per_block=tokens_per_block)
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
    whole = rows_of(texts, one_side(bos, 5, layout))
    blocks = list(pack(whole_texts(texts), Letters(), one_side(bos, 5, layout, max_rows), tokens_per_block))
    tokens = [row for block in blocks for row in block.rows.tokens.tolist()]
    assert tokens == whole.tokens[:max_rows].tolist()
    assert all(block.cut is None for block in blocks[:-1])
    if not np.isin(
        whole.tokens[max_rows:], [PADDING, -1 if bos is None else bos]
    ).all():  # a row of BOS alone is no loss
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
    kind=st.sampled_from([".txt", ".txt.zst", ".jsonl", ".jsonl.gz", ".csv", ".tsv.zst", ".parquet", "folder"]),
    piece=st.integers(8, 40),
)
def test_reading_goes_on_from_every_piece(
    texts: list[str], kind: str, piece: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = write_texts(tmp_path_factory.mktemp("texts"), texts, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.corpora.texts.PIECE_CHARACTERS", piece)
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
    if kind.startswith(".txt"):
        texts = ["\n".join(texts)]
    elif kind.startswith((".csv", ".tsv")):
        texts = [text for text in texts if text]  # an empty cell is none
    assert joined == texts


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
    if kind.startswith(".txt"):
        path.write_bytes(packed("\n".join(texts).encode(), kind))
    elif kind.startswith((".csv", ".tsv")):
        table = io.StringIO()
        csv.writer(table, delimiter="," if "csv" in kind else "\t").writerows([("id", "text"), *enumerate(texts)])
        path.write_bytes(packed(table.getvalue().encode(), kind))
    elif kind == ".parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=2)
    else:
        data = "".join(json.dumps({"text": text, "id": 3}) + "\n\n" for text in texts).encode()
        path.write_bytes(packed(data, kind))
    return path


def packed(data: bytes, kind: str) -> bytes:
    if kind.endswith(".gz"):
        return gzip.compress(data)
    return pa.compress(data, "zstd", asbytes=True) if kind.endswith(".zst") else data


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
    texts = list(itertools.islice(python_docs(), 30))
    tokenizer = (
        open_model(ROOT / "demo" / "checkpoint" / "model").tokenizer
        if alphabet == "bytes"
        else metaspace_tokenizer(texts)
    )
    path = tmp_path / "one.txt"
    path.write_text("\n\n".join(texts))
    tokens = []
    for size in (2**20, 5000):
        monkeypatch.setattr("storage.corpora.texts.PIECE_CHARACTERS", size)
        pieces = list(read_texts(str(path)))
        assert (len(pieces) > 10) == (size == 5000)
        blocks = list(pack(pieces, tokenizer, one_side(None, 64)))
        tokens.append(np.concatenate([block.rows.tokens for block in blocks]))
        assert {int(d) for block in blocks for d in np.unique(block.rows.documents)} <= {0, PADDING}
    assert np.array_equal(*tokens)


def test_text_files_keep_their_line_ends_as_python_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert [piece.text for piece in read_texts(str(tmp_path / "a.txt"))] == ["one\ntwo\nthree\n"]


def test_rows_by_hand_and_a_name_for_each_recipe(tmp_path: Path) -> None:
    plain = CorpusRecipe("a", "b", "c", 0, 128, None, "text")
    others = [{"layout": "padded"}, {"held_out": 0.1}, {"held_out_seed": 1}]
    assert len({replace(plain, **other).corpus_id for other in [{}, *others]}) == 4  # pyright: ignore
    assert replace(plain, source="elsewhere").corpus_id == plain.corpus_id
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "abcdefg"}\n{"text": ""}\n{"text": "hi"}\n')
    assert source_fingerprint(Store(tmp_path), str(path)) == file_sha256(path)
    store, recipe = Store(tmp_path), recipe_of(path, n_pos=4)
    write_corpus(store, recipe, Letters())
    rows = read_rows(store, recipe.corpus_id, 0, 9)
    a = ord("a")
    assert rows.tokens.tolist() == [
        [0, a, a + 1, a + 2], [0, a + 3, a + 4, a + 5], [0, a + 6, 0, 0], [0, ord("h"), ord("i"), PADDING],
    ]  # fmt: skip
    assert rows.documents.tolist() == [[0] * 4, [0] * 4, [0, 0, 1, 2], [2, 2, 2, PADDING]]


def test_the_attributes_tell_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * n}) + "\n" for n in (3, 10, 7, 30)))
    recipe = recipe_of(path, n_pos=5, max_tokens=24, layout="padded")
    write_corpus(store, recipe, Letters())
    attributes = corpus_attributes(store, recipe.corpus_id)
    # rows: 3, 4 + 4 + 2, and the first 4 of 7, each behind BOS; 24 tokens are 4 rows of 5
    found = {name: getattr(attributes, name) for name in ("n_sequences", "n_tokens", "n_documents", "cut", "layout")}
    assert found == {
        "n_sequences": 4,
        "n_tokens": 4 + 5 + 5 + 3,
        "n_documents": 2,
        "cut": (1, 7),
        "layout": "padded",
    }
    whole = recipe_of(path, n_pos=5)
    write_corpus(store, whole, Letters())
    attributes = corpus_attributes(store, whole.corpus_id)
    assert (attributes.n_documents, attributes.cut) == (4, None)


KILLED = """
import sys, time
from pathlib import Path
from storage.corpora.corpus import CorpusRecipe, write_corpus
from storage.store import Store, held
from tests.storage.letters import Letters

class Slow(Letters):
    def __call__(self, texts, add_special_tokens):
        time.sleep(0.01)
        return super().__call__(texts, add_special_tokens)

store = Store(Path(sys.argv[1]))
with held(store, "test"):
    write_corpus(store, CorpusRecipe(**eval(sys.argv[2])), Slow(), tokens_per_block=2000)
"""


@pytest.mark.whole
@pytest.mark.parametrize(
    ("kind", "layout"),
    [(".txt", "packed"), (".jsonl", "padded"), (".jsonl.gz", "packed"), (".parquet", "padded"), ("folder", "packed")],
)
def test_after_kill_9_tokenising_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: Layout
) -> None:
    monkeypatch.setattr("storage.corpora.texts.PIECE_CHARACTERS", 1000)
    program = "import storage.corpora.texts, storage.corpora.packing\n" + KILLED
    program = program.replace("store = ", "storage.corpora.texts.PIECE_CHARACTERS = 1000\nstore = ")
    texts = ["".join(chr(97 + (n * i) % 26) for i in range(n % 97)) + f" {n}" for n in range(8000)]
    source = write_texts(tmp_path, texts, kind)
    limit = None if kind == ".txt" else 400_000
    recipe = recipe_of(source, layout=layout, n_pos=16, max_tokens=limit, held_out=0.2)
    stores = [open_store(tmp_path / name) for name in ("killed", "whole")]
    counters = [Letters(), Letters()]
    command = [sys.executable, "-c", program, str(stores[0].root), repr(vars(recipe))]
    unfinished = stores[0].corpus(f"{recipe.corpus_id}.unfinished")
    for n_receipts in (1, 2):
        with subprocess.Popen(command, cwd=ROOT) as process:
            wait_for(lambda n=n_receipts: rows_finished(unfinished) > 3000 * n)
            assert process.poll() is None, "still at it"
            process.send_signal(signal.SIGKILL)
    for store, counter in zip(stores, counters, strict=True):
        with held(store, "test"):
            write_corpus(store, recipe, counter, tokens_per_block=2000)
    assert 0 < counters[0].n_texts < 0.8 * counters[1].n_texts, "it started over"
    killed, whole = (contents(store.corpus(recipe.corpus_id)) for store in stores)
    assert killed == whole
    assert not unfinished.exists()


def rows_finished(unfinished: Path) -> int:
    receipt = unfinished / RECEIPT
    return sum(one["n_rows"] for one in json.loads(receipt.read_text())["packers"]) if receipt.exists() else 0


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_kill_between_the_last_block_and_the_end_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "abcdefgh"}\n' * 9)
    for max_tokens in (None, 24):
        store, recipe = open_store(tmp_path / str(max_tokens)), recipe_of(path, max_tokens=max_tokens)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "replace", interrupted_at_the_end(Path.replace))
            write_corpus(store, recipe, Letters(), tokens_per_block=1)
        counter = Letters()
        write_corpus(store, recipe, counter)
        assert counter.n_texts == 0
        whole = open_store(tmp_path / f"whole {max_tokens}")
        write_corpus(whole, recipe, Letters())
        assert contents(store.corpus(recipe.corpus_id)) == contents(whole.corpus(recipe.corpus_id))


def interrupted_at_the_end(replace: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    def interrupted(path: Path, target: Path) -> Path:
        if path.name.endswith(".unfinished"):
            raise KeyboardInterrupt
        return replace(path, target)

    return interrupted


def test_what_was_begun_is_removed_when_its_source_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.corpora.packing.PIECES_PER_BATCH", 1)
    store = open_store(tmp_path / "store")
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for file in (path, other):
        file.write_text('{"text": "abcdefgh"}\n' * 9 + "{\n")
        recipe = CorpusRecipe(str(file), source_fingerprint(store, str(file)) + file.name, "t", 0, 8, None, "text")
        with pytest.raises(ValueError, match="line 10"):
            write_corpus(store, recipe, Letters(), tokens_per_block=1)
    assert len(list((store.root / "corpora").iterdir())) == 2
    path.write_text('{"text": "abcdefgh"}\n')
    recipe = CorpusRecipe(str(path), source_fingerprint(store, str(path)), "t", 0, 8, None, "text")
    write_corpus(store, recipe, Letters())
    left = sorted(path.name for path in (store.root / "corpora").iterdir())
    assert recipe.corpus_id in left
    assert len(left) == 2


BAD_FILES = {
    "cut json": ("a.jsonl", b'{"text": "x"}\n{"text"', r"a\.jsonl line 2: not a JSON object"),
    "no field": ("a.jsonl", b'{"body": "x"}\n', r"line 1: no field 'text'; it has 'body'"),
    "no text": ("a.jsonl", b'\n\n{"text": 5}\n', "line 3: 'text' is int, not a text"),
    "no object": ("a.jsonl", b'{"text": "x"}\n["text"]\n', "line 2: expected a JSON object with 'text', found list"),
    "surrogate": ("a.jsonl", b'{"text": "x\\ud800"}\n', r"line 1: 'text' has a lone surrogate \(U\+D800\)"),
    "json not utf-8": ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"line 2: not UTF-8 \(byte 0xff"),
    "json nul": ("a.jsonl", b'{"text": "x\0"}\n', "line 1: a NUL byte"),
    "text not utf-8": ("a.txt", b"good\n" * 1000 + b"b\xe4d\n", r"a\.txt line 1001: not UTF-8 \(byte 0xe4"),
    "text ends in a character": ("a.txt", b"good\n\xe2\x82", "line 2: not UTF-8"),
    "text nul": ("a.txt", "good\nbad".encode("utf-16-le"), "line 1: a NUL byte.*UTF-16"),
    "gz cut": ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99)[:-9], "damaged gzip file"),
    "gz none": ("a.jsonl.gz", b'{"text": "x"}\n', "after line 0: damaged gzip file"),
    "gz flipped": ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n')[:15] + b"\xff" * 30, "damaged gzip file"),
    "parquet none": ("a.parquet", b"PAR1 nothing", "cannot be read as Parquet"),
    "zst cut": ("a.txt.zst", pa.compress(b"some text" * 999, "zstd", asbytes=True)[:-9], "damaged Zstandard file"),
    "zst none": ("a.jsonl.zst", b'{"text": "x"}\n', "after line 0: damaged Zstandard file"),
    "suffix": ("a.xls", b"x", r"'\.xls' file; expected \.txt, .*\.parquet \(all but the last also with \.gz or"),
    "windows json": ("a.jsonl", '{"text": "ça"}\n'.encode("cp1252"), r"0xe7: .*\), the byte 11 of the line; .*iconv"),
    "utf-16": (
        "a.csv",
        "text\nx".encode("utf-16"),
        "line 1: .* it begins like UTF-16; convert it to UTF-8: iconv -f UTF-16",
    ),
    "csv column": ("a.csv", b"a,b\n1,2\n", r"a\.csv has no column 'text'; it has 'a', 'b'"),
    "csv twice": ("a.csv", b"text,text\n1,2\n", "has 2 columns 'text'"),
    "csv cells": ("a.csv", b'id,text\n1,"a\nb"\n2\n', "line 4: a row of 1 cells; the header names 2 columns"),
    "csv quotes": ("a.csv", b'id,text\n1,"a"b\n', "line 2: not a row of a table"),
    "csv not utf-8": ("a.csv", b"id,text\n1,\xff\n", r"line 2: not UTF-8 \(byte 0xff"),
    "csv open": ("a.csv", b'id,text\n1,"' + b"x\n" * 20, "line 2: not a row of a table"),
    "csv nothing": ("a.csv", b"", "no header"),
    "empty text": ("a.txt", b"", "holds no text"),
    "empty json": ("a.jsonl", b"\n\n", "holds no text"),
    "empty documents": ("a.jsonl", b'{"text": ""}\n' * 40, "holds no text"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("bos", [0, None])
def test_bad_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, bos: int | None) -> None:
    monkeypatch.setattr("storage.corpora.texts.PIECE_CHARACTERS", 64)
    name, content, problem = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(ValueError, match=problem) as raised:
            write_corpus(Store(tmp_path / ".store"), recipe_of(source, bos=bos), Letters())
        assert str(raised.value).startswith(f"corpus: {source}")
        assert type(raised.value) is ValueError


@pytest.mark.parametrize(
    ("column", "damage", "problem"),
    [
        (pa.array([1, 2]), b"", r"a\.parquet: column 'text' is int64, not text"),
        (pa.array([["x"]]), b"", r"column 'text' is list<.*>, not text"),
        (pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()), b"", "row 1: not UTF-8"),
        (pa.array(["abc" * 500 + str(n) for n in range(99)]), b"\0" * 99, r"after row \d+: cannot be read as Parquet"),
    ],
)
def test_bad_parquet_is_named(tmp_path: Path, column: pa.Array, damage: bytes, problem: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path, use_dictionary=False, write_page_checksum=True)
    data, middle = path.read_bytes(), path.stat().st_size // 2
    path.write_bytes(data[:middle] + damage + data[middle + len(damage) :])
    with pytest.raises(ValueError, match=problem):
        list(read_texts(str(path)))
    with pytest.raises(ValueError, match=r"no column 'body'; it has 'text'"):
        list(read_texts(str(path), Field("body")))


def test_parquet_texts_of_every_type_and_null_rows(tmp_path: Path) -> None:
    values = ["a", None, "b", "c"]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"text": pa.array(values, kind)}), tmp_path / "a.parquet", row_group_size=3)
        assert [piece.text for piece in read_texts(str(tmp_path / "a.parquet"))] == ["a", "b", "c"]


def test_a_folder_is_read_in_order_and_known_by_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "c.txt").write_text("three")
    (folder / "b" / "x.jsonl").write_text('{"text": "two"}\n')
    (folder / "a.txt").write_text("one")
    assert [piece.text for piece in read_texts(str(folder))] == ["one", "two", "three"]
    first = source_fingerprint(Store(tmp_path), str(folder))
    (folder / "a.txt").rename(folder / "d.txt")
    second = source_fingerprint(Store(tmp_path), str(folder))
    assert first != second
    (folder / "d.txt").write_text("four")
    assert source_fingerprint(Store(tmp_path), str(folder)) not in (first, second)
    assert pinned(str(folder)) == str(folder)
    (folder / "notes.md").touch()
    with pytest.raises(ValueError, match=r"notes\.md is a '\.md' file"):
        pinned(str(folder))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        list(read_texts(str(tmp_path / "none")))


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", MARK + b'{"text": "one"}\n' + MARK + b'{"text": "two"}\n'),
        ("a.csv", MARK + b"text,id\none,1\ntwo,2\n"),
        ("a.tsv.gz", gzip.compress(MARK + b"text\tid\none\t1\n\ntwo\t2\n", mtime=0)),
        ("a.ndjson.zst", pa.compress(MARK + b'{"text": "one"}\n{"text": "two"}\n', "zstd", asbytes=True)),
    ],
)
def test_byte_order_marks_are_no_text(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    pieces = list(read_texts(str(tmp_path / name)))
    assert [piece.text for piece in pieces] == ["one", "two"]
    assert list(read_texts(str(tmp_path / name), start=pieces[0].end)) == pieces[1:]


def test_a_plain_texts_byte_order_mark_too(tmp_path: Path) -> None:
    for content, text in ((MARK + b"one", "one"), (MARK, ""), (b"\xef\xbb\xbe", "\ufefe"), (b"a", "a")):
        (tmp_path / "a.txt").write_bytes(content)
        assert "".join(piece.text for piece in read_texts(str(tmp_path / "a.txt"))) == text


def test_a_table_with_line_ends_and_quotes_within_cells(tmp_path: Path) -> None:
    texts = ['he said "a, b"', "two\nlines", "", "x" * 200_000, "last"]
    write_texts(tmp_path, texts, ".csv")
    assert [piece.text for piece in read_texts(str(tmp_path / "texts.csv")) if not piece.before] == [
        text if len(text) < 10**5 else text[:131072] for text in texts if text
    ]


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.zst", ".parquet"])
def test_ready_tokens_are_taken_as_they_are(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.corpora.texts.PIECE_CHARACTERS", 16)
    documents = [[0, 5, 12, 499, 3], [7, *range(100, 140)], [], [31]]
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        pq.write_table(pa.table({"input_ids": pa.array(documents, pa.list_(pa.int32()))}), path)
    else:
        lines = "".join(json.dumps({"input_ids": ids}) + "\n" for ids in documents).encode()
        path.write_bytes(pa.compress(lines, "zstd", asbytes=True) if kind.endswith("zst") else lines)
    recipe = recipe_of(path, text_field="input_ids", ready_tokens=True)
    blocks = pack(read_texts(str(path), recipe.field), recipe.tokens(None, 500), one_side(0, 8), 20)
    rows = Rows(*(np.concatenate(arrays) for arrays in zip(*(block.rows for block in blocks), strict=True)))
    assert documents_of(rows, 4, 0) == [document[1:] if document[:1] == [0] else document for document in documents]
    with pytest.raises(ValueError, match="token id 499; the tokenizer has ids from 0 to 498"):
        list(pack(read_texts(str(path), recipe.field), recipe.tokens(None, 499), one_side(0, 8)))


@pytest.mark.parametrize("ids", ['"1 2"', "[1, 2.5]", "[1, true]", "[[1]]"])
def test_what_is_no_list_of_token_ids_is_refused(ids: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"ids": {ids}}}\n')
    with pytest.raises(ValueError, match=r"line 1: 'ids' is .*; expected a list of token ids"):
        list(read_texts(str(tmp_path / "a.jsonl"), Field("ids", is_tokens=True)))
    pq.write_table(pa.table({"ids": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column 'ids' is string, not lists of token ids"):
        list(read_texts(str(tmp_path / "a.parquet"), Field("ids", is_tokens=True)))


@pytest.mark.parametrize(("how", "n_special"), [("as_tokens", 2), ("as_text", 0)])
def test_names_of_special_tokens_in_a_text(how: str, n_special: int) -> None:
    tokenizer = open_model(ROOT / "demo" / "checkpoint" / "model").tokenizer
    name, special = tokenizer.all_special_tokens[0], tokenizer.all_special_ids[0]
    recipe = recipe_of("a", special_tokens=how)
    text = f"{name}one{name} two"
    (ids,) = recipe.tokens(tokenizer, len(tokenizer))([text], add_special_tokens=False)["input_ids"]
    assert ids.count(special) == n_special
    assert tokenizer.decode(ids) == text


def test_a_document_that_begins_with_bos_gets_no_other() -> None:
    rows = rows_of(["\0ab", "cd"], one_side(0, 8))
    assert rows.tokens[0].tolist() == [0, ord("a"), ord("b"), 0, ord("c"), ord("d"), PADDING, PADDING]


MEASURED = """
import resource, sys
from pathlib import Path
from storage.corpora.corpus import CorpusRecipe, corpus_attributes, write_corpus
from storage.models import open_model
from storage.store import Store

store, recipe = Store(Path(sys.argv[1])), CorpusRecipe(sys.argv[2], "s", "t", 0, 128, None, "text")
class Words:
    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [list(range(1, 1 + len(text.split()))) for text in texts]}
if recipe.source.endswith(".txt"):
    tokenizer = open_model(Path("demo/checkpoint/model")).tokenizer
else:
    tokenizer = Words()
write_corpus(store, recipe, tokenizer)
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(corpus_attributes(store, recipe.corpus_id).n_tokens, peak_mb)
"""


@pytest.mark.whole  # half a minute
@pytest.mark.parametrize(("suffix", "sizes"), [(".jsonl", (50, 200)), (".txt", (6, 24))])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, suffix: str, sizes: tuple[int, int]) -> None:
    """Lines by a tokenizer that costs nothing, one long document by a real one, whose buffers are what is largest."""
    line = json.dumps({"text": "some words of a text, " * 90}) + "\n"
    used = []
    for megabytes in sizes:
        path = tmp_path / f"{megabytes}{suffix}"
        with path.open("w") as file:
            for _ in range(megabytes):
                file.write(line * (2**20 // len(line)))
        command = [sys.executable, "-c", MEASURED, str(tmp_path / f"store{megabytes}"), str(path)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        n_tokens, peak_mb = map(int, result.stdout.split())
        assert n_tokens > megabytes * 2**20 / 6
        used.append(peak_mb)
        path.unlink()
    assert used[1] < used[0] + 40, f"peak in MB: {used}"


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("how", [{"use_dictionary": False}, {"compression": "zstd"}, {"write_page_checksum": True}])
@pytest.mark.parametrize("at_once", [7, 2**20])
def test_every_page_of_a_parquet_column_is_looked_at(tmp_path: Path, version: str, how: dict, at_once: int) -> None:
    path, texts = tmp_path / "a.parquet", [f"text {at} " * (at % 50) if at % 7 else None for at in range(3000)]
    options = {"data_page_version": version, "data_page_size": 4096, "row_group_size": 1000, "write_batch_size": 64}
    pq.write_table(pa.table({"n": range(3000), "text": texts}), path, **options, **how)
    found: list[Page] = []
    with path.open("rb") as file:
        watched = WatchedPages(file, found.append)
        column = pq.ParquetFile(path).metadata.row_group(1).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
        watched.watch(start, column.total_compressed_size)
        watched.seek(start)
        while watched.tell() < start + column.total_compressed_size:
            watched.read(at_once)
    beyond = column.total_uncompressed_size - column.total_compressed_size  # headers are in both
    assert sum(page.unpacked - page.packed for page in found) == beyond
    assert 0 < sum(page.packed for page in found) < column.total_compressed_size
    assert len(found) > (1 if how.get("use_dictionary", True) else 10)


def test_a_footer_that_lies_about_what_texts_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.corpora.texts.MAX_UNPACKED_BEYOND", 1000)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 1_000_000]}), path, compression="zstd", use_dictionary=False)
    size = pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    varint = bytes([2 * size & 127 | 128, 2 * size >> 7 & 127 | 128, 2 * size >> 14 & 127])
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert varint in data[footer:]
    path.write_bytes(data[:footer] + data[footer:].replace(varint, bytes([2 * 5 | 128, 128, 0])))
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 5
    with pytest.raises(
        ValueError,
        match=r"a\.parquet after row 0: cannot be read as Parquet \(\d+ bytes that unpack to 1000\d+; expected",
    ):
        list(read_texts(str(path)))
