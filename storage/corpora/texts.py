"""Read texts piece by piece, from wherever reading stopped; what cannot be read is named by file and line."""

import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from storage.corpora.python_docs import python_docs
from storage.corpora.sources import PYTHON_DOCS, TextFile, text_files
from storage.foreign import shown

PIECE_CHARACTERS = 2**17
"""Longer documents are handed on, and tokenised, in several pieces. In a .txt file it counts bytes.

With much longer ones the allocator loses gigabytes to gaps between the tokenizer's buffers."""

ROWS_PER_READ = 256
BYTES_PER_READ = 2**20

MAX_RECORD_BYTES = 2**24
"""The longest line of a .jsonl file or cell of a .parquet file. What is made of a line may take thirty times it."""

MAX_COMPRESSION, MAX_UNPACKED_BEYOND = 50, 100_000_000
"""Texts are packed to a fifth, tables of few different ones to less; bytes that any group of rows may unpack to."""

MAX_EMPTY_LINES = 2**20
"""One after the other. A small packed file can hold billions."""

TOO_LONG = f"more than {MAX_RECORD_BYTES} bytes; expected a document, a longer one wants a .txt file of its own"
_WORDS = re.compile(r"(?s).*\S(?= \S)")
_LINES = re.compile(r"(?s).*\S\r?\n(?=\S)")


class Position(NamedTuple):
    """A place in a source between two pieces."""

    file: int = 0
    offset: int = 0
    """Bytes of the file (unpacked), rows of a .parquet file, documents of a list: where the record begins."""
    line: int = 0
    """Lines before it, for messages."""
    characters: int = 0
    """How much of the record's text lies before it."""
    before: str = ""
    """The character before it, nothing where a document begins."""


class Piece(NamedTuple):
    """A document or a part of one."""

    text: str
    before: str
    """The character before it, nothing where a document begins."""
    end: Position
    """From where reading goes on after it."""


def read_texts(
    source: str,
    text_field: str = "text",
    start: Position = Position(),  # noqa: B008
    characters: int | None = None,
) -> Iterator[Piece]:
    """The documents of a source: `python-docs`, a .txt, .jsonl, .jsonl.gz or .parquet file, a folder or Hub dataset.

    A .txt file is one document; the others have one a line or row, in `text_field`. Empty lines and rows without
    a value are none. Pieces have so many `characters` at most, None: `PIECE_CHARACTERS`.

    Raises:
        ValueError: missing, of another kind, damaged, not UTF-8, or a document without the field; which file and
            line is said.
    """
    size = characters or PIECE_CHARACTERS
    if source == PYTHON_DOCS:
        yield from whole_texts(python_docs(), start, size)
        return
    for number, file in enumerate(text_files(source)[start.file :], start.file):
        at = start if number == start.file else Position(number)
        try:
            with file.open() as opened:
                yield from _pieces(file, opened, text_field, at, size)
        except Exception as error:  # readers and networks raise whatever they do
            if type(error) is ValueError:
                raise
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(f"corpus: {file.name}: cannot be read ({problem})") from error


def whole_texts(
    texts: Iterable[str],
    start: Position = Position(),  # noqa: B008
    size: int = PIECE_CHARACTERS,
) -> Iterator[Piece]:
    """The documents of a list."""
    for number, text in enumerate(itertools.islice(texts, start.offset, None), start.offset):
        yield from _cut(text, start._replace(offset=number), Position(offset=number + 1), size)
        start = Position()


def _pieces(file: TextFile, opened: IO[bytes], text_field: str, start: Position, size: int) -> Iterator[Piece]:
    if file.kind == ".txt":
        return _plain_text(file.name, opened, start, size)
    if file.kind == ".parquet":
        return _parquet_rows(file.name, opened, text_field, start, size)
    if file.kind == ".jsonl.gz":
        return _json_lines(file.name, gzip.GzipFile(fileobj=opened), text_field, start, size)
    return _json_lines(file.name, opened, text_field, start, size)


def _plain_text(name: str, file: Any, start: Position, size: int) -> Iterator[Piece]:
    file.seek(start.offset)
    data, at = b"", start
    while True:
        data += file.read(size - len(data))
        is_last = len(data) < size
        text = _decoded(name, data, at.line, is_last)
        if not is_last:
            text = text[: cut_at(text)]
        n_bytes = len(text.encode())
        n_lines = text.count("\n")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        end = Position(at.file, at.offset + n_bytes, at.line + n_lines, 0, text[-1:])
        if is_last:
            end = Position(at.file + 1)
        if text or not at.before:
            yield Piece(text, at.before, end)
        if is_last:
            return
        data, at = data[n_bytes:], end


def _decoded(name: str, data: bytes, line: int, is_last: bool) -> str:
    """Text of bytes that come after `line` lines; all but the last may end within a character."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if is_last or error.reason != "unexpected end of data":
            number = line + 1 + data[: error.start].count(b"\n")
            byte = data[error.start]
            raise ValueError(f"corpus: {name} line {number}: not UTF-8 (byte 0x{byte:02x}: {error.reason})") from None
        text = data[: error.start].decode()
    if "\0" in text:
        number = line + 1 + text[: text.index("\0")].count("\n")
        raise ValueError(f"corpus: {name} line {number}: a NUL byte; expected text in UTF-8, is it UTF-16 or binary?")
    return text


def _json_lines(name: str, file: Any, text_field: str, at: Position, size: int) -> Iterator[Piece]:
    try:
        file.seek(at.offset)
        n_empty = 0
        while line := file.readline(MAX_RECORD_BYTES + 1):
            if len(line) > MAX_RECORD_BYTES:
                raise ValueError(f"corpus: {name} line {at.line + 1}: {TOO_LONG}")
            end = Position(at.file, at.offset + len(line), at.line + 1)
            if line.strip():
                n_empty = 0
                yield from _cut(_json_text(name, line, at.line, text_field), at, end, size)
            elif (n_empty := n_empty + 1) > MAX_EMPTY_LINES:
                raise ValueError(f"corpus: {name} line {at.line + 1}: more than {MAX_EMPTY_LINES} empty lines")
            at = end
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"corpus: {name} after line {at.line}: damaged gzip file ({error})") from None


def _json_text(name: str, line: bytes, lines_before: int, text_field: str) -> str:
    where = f"corpus: {name} line {lines_before + 1}"
    text = _decoded(name, line, lines_before, is_last=True)
    try:
        value = json.loads(text, parse_int=len)  # a number is never wanted, and a long one takes its time
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: no JSON object with '{text_field}' ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object with '{text_field}', found {type(value).__name__}")
    if text_field not in value:
        raise ValueError(f"{where}: no field '{text_field}'; it has {_some(value)}")
    return _checked(value[text_field], where, text_field)


def _parquet_rows(name: str, file: Any, text_field: str, start: Position, size: int) -> Iterator[Piece]:
    try:
        options = {"buffer_size": BYTES_PER_READ, "page_checksum_verification": True}
        parquet = pq.ParquetFile(file, **options)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"corpus: {name}: cannot be read as Parquet ({error})") from None
    schema = parquet.schema_arrow
    if text_field not in schema.names:
        raise ValueError(f"corpus: {name} has no column '{text_field}'; it has {_some(schema.names)}")
    if not _is_text(schema.field(text_field).type):
        raise ValueError(f"corpus: {name}: column '{text_field}' is {schema.field(text_field).type}, not text")
    # Read as a dictionary, a text that stands in many rows is in memory once.
    parquet = pq.ParquetFile(file, read_dictionary=[text_field], metadata=parquet.metadata, **options)
    row, at = 0, start
    for group in range(parquet.num_row_groups):
        if row + (n_rows := parquet.metadata.row_group(group).num_rows) <= at.offset:
            row += n_rows
            continue
        _check_group(name, parquet.metadata.row_group(group))
        try:
            for batch in parquet.iter_batches(ROWS_PER_READ, row_groups=[group], columns=[text_field]):
                for value in batch.column(0):
                    if row >= at.offset:
                        end = Position(at.file, row + 1, row + 1)
                        if value.is_valid:
                            text = _checked(value.as_py(), f"corpus: {name} row {row + 1}", text_field)
                            yield from _cut(text, at, end, size)
                        at = end
                    row += 1
        except UnicodeDecodeError as error:
            raise ValueError(f"corpus: {name} row {row + 1}: not UTF-8 ({error.reason})") from None
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"corpus: {name} after row {row}: cannot be read as Parquet ({error})") from None


def _check_group(name: str, group: Any) -> None:
    """Refuse a group of rows that says that its texts unpack to much more than texts do: pages are unpacked whole."""
    columns = [group.column(at) for at in range(group.num_columns)]
    packed = sum(column.total_compressed_size for column in columns)
    unpacked = sum(column.total_uncompressed_size for column in columns)
    if unpacked > MAX_UNPACKED_BEYOND + MAX_COMPRESSION * packed:
        raise ValueError(f"corpus: {name}: {packed} bytes that unpack to {unpacked}; expected texts")


def _some(names: Iterable[str]) -> str:
    """Names as a message lists them."""
    every = sorted(names)
    return ", ".join(map(shown, every[:12])) + ", …" * (len(every) > 12) if every else "nothing"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _checked(text: Any, where: str, text_field: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{where}: '{text_field}' is {type(text).__name__}, not a text")
    if len(text) > MAX_RECORD_BYTES:
        raise ValueError(f"{where}: {TOO_LONG}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise ValueError(f"{where}: '{text_field}' has a lone surrogate ({surrogate}), which is no text") from None
    return text


def _cut(text: str, at: Position, end: Position, size: int) -> Iterator[Piece]:
    """A record's text from `at` on, in pieces; `end` is where the next record begins."""
    start, before = at.characters, at.before
    while len(text) - start > size:
        window = text[start : start + size]
        piece = window[: cut_at(window)]
        start += len(piece)
        yield Piece(piece, before, at._replace(characters=start, before=piece[-1]))
        before = piece[-1]
    yield Piece(text[start:], before, end)


def cut_at(text: str) -> int:
    """Where to cut a long text so that its tokens are those of the whole.

    Before the last single space between written characters, where every tokenizer here has a boundary; else after the
    last single line end between such; else after the last line end, else at the end of the text.
    """
    if found := _WORDS.match(text) or _LINES.match(text):
        return found.end()
    return text.rfind("\n") + 1 or len(text)
