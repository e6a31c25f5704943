"""Read texts piece by piece, from any position; errors name file and line."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from storage.corpora.csv_rows import Table, cells
from storage.corpora.decompress import DAMAGES, is_damage, skip_to, unpacked
from storage.corpora.parquet_pages import Page, PageError, WatchedPages
from storage.corpora.python_docs import python_docs
from storage.corpora.sources import PYTHON_DOCS, TextFile, text_files
from storage.foreign import shown

PIECE_CHARACTERS = 2**17
"""Longer documents are read, and tokenised, in several pieces. For a .txt file, bytes are counted.

With much longer pieces, the gaps between the tokenizer's buffers cost the allocator gigabytes.
"""

ROWS_PER_READ = 256
BYTES_PER_READ = 2**20

MAX_RECORD_BYTES = 2**24
"""The longest line of a .jsonl file or cell of a .parquet file, in bytes. Its parsed form may take thirty times as much
memory."""

MAX_COMPRESSION, MAX_UNPACKED_BEYOND = 50, 100_000_000
"""Largest ratio and size of unpacked bytes for a group of rows. Texts compress to a fifth, repetitive tables to
less."""

MAX_EMPTY_LINES = 2**20
"""Largest number of empty lines in succession; a small compressed file can have billions."""

BYTE_ORDER_MARK = "\ufeff"
"""The byte order mark that programs on Windows put before a text in UTF-8; it is not part of the text."""

OTHER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""The byte order marks of other Unicode encodings."""

MAX_TOKEN_DIGITS = 10
MAX_TOKENS = MAX_RECORD_BYTES // MAX_TOKEN_DIGITS
"""The longest list of token ids in a row."""

TOO_LONG = f"more than {MAX_RECORD_BYTES} bytes; expected a document; a longer one needs a .txt file of its own"
_WORDS = re.compile(r"(?s).*\S(?= \S)")
_LINES = re.compile(r"(?s).*\S\r?\n(?=\S)")


class Field(NamedTuple):
    """The field of a line or row that has the document."""

    name: str = "text"
    is_tokens: bool = False
    """Whether it is a list of token ids; the document is then read as their numbers, separated by spaces."""


class Position(NamedTuple):
    """A position in a source between two pieces."""

    file: int = 0
    offset: int = 0
    """Where the record begins: bytes of the (decompressed) file, rows of a .parquet file, or documents of a list."""
    line: int = 0
    """Lines before it, for messages."""
    characters: int = 0
    """Number of characters of the record's text before it."""
    before: str = ""
    """The character before it; empty where a document begins."""


class Piece(NamedTuple):
    """A document or a part of one."""

    text: str
    before: str
    """The character before it; empty where a document begins."""
    end: Position
    """The position at which reading continues after it."""


def read_texts(
    source: str,
    field: Field = Field(),  # noqa: B008
    start: Position = Position(),  # noqa: B008
    characters: int | None = None,
) -> Iterator[Piece]:
    """The documents of a source: `python-docs`, a file of texts or tables, a folder of these or a Hub dataset.

    A .txt file is one document; other files have one in each line or row, in `field`. Empty lines and rows without a
    value are skipped. Pieces have at most `characters` characters (None: `PIECE_CHARACTERS`).

    Raises:
        ValueError: the source is missing, of another type, damaged or not UTF-8, or a document lacks the field; the
            message names file and line.
    """
    size = characters or PIECE_CHARACTERS
    if source == PYTHON_DOCS:
        yield from whole_texts(python_docs(), start, size)
        return
    for number, file in enumerate(text_files(source)[start.file :], start.file):
        at = start if number == start.file else Position(number)
        try:
            with file.open() as opened:
                yield from _pieces(file, opened, field, at, size)
        except Exception as error:  # readers and networks can raise almost any exception
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


def _pieces(file: TextFile, opened: IO[bytes], field: Field, start: Position, size: int) -> Iterator[Piece]:
    if file.kind == ".parquet":
        yield from _parquet_rows(file.name, opened, field, start, size)
        return
    last = start
    try:
        content = unpacked(opened, file.packing)
        if file.kind == ".txt":
            pieces = _plain_text(file.name, content, start, size)
        elif file.kind == ".jsonl":
            pieces = _json_lines(file.name, content, field, start, size)
        else:
            pieces = _table_rows(file, content, field, start, size)
        for piece in pieces:
            last = piece.end
            yield piece
    except DAMAGES as error:
        if not file.packing or not is_damage(error):
            raise
        kind = {".gz": "gzip", ".zst": "Zstandard"}[file.packing]
        raise ValueError(f"corpus: {file.name} after line {last.line}: damaged {kind} file ({error})") from None


def _plain_text(name: str, file: IO[bytes], start: Position, size: int) -> Iterator[Piece]:
    skip_to(file, start.offset)
    data, at = b"", start
    if start.offset == 0:
        data = file.read(3)
        if data.decode(errors="replace") == BYTE_ORDER_MARK:
            data, at = b"", start._replace(offset=3)
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
    """Decode bytes that come after `line` lines; all but the last may end within a character."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if is_last or error.reason != "unexpected end of data":
            raise ValueError(f"corpus: {name} {_not_utf8(data, line, error)}") from None
        text = data[: error.start].decode()
    if "\0" in text:
        number = line + 1 + text[: text.index("\0")].count("\n")
        raise ValueError(f"corpus: {name} line {number}: a NUL byte; expected text in UTF-8, is it UTF-16 or binary?")
    return text


def _not_utf8(data: bytes, line: int, error: UnicodeDecodeError) -> str:
    """The message for text that is not UTF-8: where, and which encoding it may have."""
    before = data[: error.start]
    number, at = line + 1 + before.count(b"\n"), error.start - before.rfind(b"\n")
    found = f"line {number}: not UTF-8 (byte 0x{data[error.start]:02x}: {error.reason}), the byte {at} of the line"
    other = next((name for mark, name in OTHER_MARKS.items() if line == 0 and data.startswith(mark)), None)
    if other is not None:
        return f"{found}: it begins like {other}; convert it to UTF-8: iconv -f {other} -t UTF-8"
    return f"{found}; if it is in another encoding, convert it to UTF-8, for instance by iconv -f WINDOWS-1252 -t UTF-8"


def _json_lines(name: str, file: IO[bytes], field: Field, at: Position, size: int) -> Iterator[Piece]:
    skip_to(file, at.offset)
    n_empty = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        if len(line) > MAX_RECORD_BYTES:
            raise ValueError(f"corpus: {name} line {at.line + 1}: {TOO_LONG}")
        end = Position(at.file, at.offset + len(line), at.line + 1)
        text = _decoded(name, line, at.line, is_last=True).removeprefix(BYTE_ORDER_MARK)
        if text.strip():
            n_empty = 0
            yield from _cut(_json_text(name, text, at.line, field), at, end, size)
        elif (n_empty := n_empty + 1) > MAX_EMPTY_LINES:
            raise ValueError(f"corpus: {name} line {at.line + 1}: more than {MAX_EMPTY_LINES} empty lines")
        at = end


def _json_text(name: str, text: str, lines_before: int, field: Field) -> str:
    where = f"corpus: {name} line {lines_before + 1}"
    # A number is wanted among token ids only, and a long one takes its time.
    parse = _token_id if field.is_tokens else len
    try:
        value = json.loads(text, parse_int=parse)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not a JSON object with '{field.name}' ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object with '{field.name}', found {type(value).__name__}")
    if field.name not in value:
        raise ValueError(f"{where}: no field '{field.name}'; it has {_some(value)}")
    return _checked(value[field.name], where, field)


def _token_id(digits: str) -> int:
    return int(digits) if len(digits) <= MAX_TOKEN_DIGITS else -1


def _table_rows(file: TextFile, content: IO[bytes], field: Field, start: Position, size: int) -> Iterator[Piece]:
    if field.is_tokens:
        raise ValueError(f"corpus: {file.name}: token ids are read from .jsonl and .parquet files")

    def decoded(data: bytes, line: int) -> str:
        text = _decoded(file.name, data, line, is_last=True)
        return text.removeprefix(BYTE_ORDER_MARK) if line == 0 else text

    table = Table(file.name, "," if file.kind == ".csv" else "\t", field.name, MAX_RECORD_BYTES, decoded)
    at = start
    for cell in cells(table, content, start.offset, start.line):
        at = at._replace(offset=cell.offset, line=cell.row)
        end = Position(at.file, cell.end, cell.end_line)
        if cell.text:
            yield from _cut(_checked(cell.text, f"corpus: {file.name} line {cell.row + 1}", field), at, end, size)
        at = end


def _parquet_rows(name: str, file: IO[bytes], field: Field, start: Position, size: int) -> Iterator[Piece]:
    text_field = field.name
    try:
        options = {"buffer_size": BYTES_PER_READ, "page_checksum_verification": True}
        parquet = pq.ParquetFile(file, **options)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"corpus: {name}: cannot be read as Parquet ({error})") from None
    schema = parquet.schema_arrow
    if text_field not in schema.names:
        raise ValueError(f"corpus: {name} has no column '{text_field}'; it has {_some(schema.names)}")
    kind, expected = schema.field(text_field).type, "lists of token ids" if field.is_tokens else "text"
    if not (_is_tokens(kind) if field.is_tokens else _is_text(kind)):
        raise ValueError(f"corpus: {name}: column '{text_field}' is {kind}, not {expected}")
    # Read as a dictionary, so that a text that occurs in many rows is in memory once.
    dictionary = [] if field.is_tokens else [text_field]
    sizes = _Unpacked()
    watched: Any = WatchedPages(file, sizes.add)
    parquet = pq.ParquetFile(watched, read_dictionary=dictionary, metadata=parquet.metadata, **options)
    paths = [parquet.schema.column(at).path for at in range(len(parquet.schema))]
    number = next(at for at, path in enumerate(paths) if path == text_field or path.startswith(f"{text_field}."))
    row, at = 0, start
    for group in range(parquet.num_row_groups):
        if row + (n_rows := parquet.metadata.row_group(group).num_rows) <= at.offset:
            row += n_rows
            continue
        column = parquet.metadata.row_group(group).column(number)
        sizes.packed = sizes.unpacked = 0
        watched.watch(_first_byte(column), column.total_compressed_size)
        try:
            for batch in parquet.iter_batches(ROWS_PER_READ, row_groups=[group], columns=[text_field]):
                for value in batch.column(0):
                    if row >= at.offset:
                        end = Position(at.file, row + 1, row + 1)
                        if value.is_valid:
                            text = _checked(value.as_py(), f"corpus: {name} row {row + 1}", field)
                            yield from _cut(text, at, end, size)
                        at = end
                    row += 1
        except UnicodeDecodeError as error:
            raise ValueError(f"corpus: {name} row {row + 1}: not UTF-8 ({error.reason})") from None
        except (pa.ArrowException, OSError, PageError) as error:
            raise ValueError(f"corpus: {name} after row {row}: cannot be read as Parquet ({error})") from None


class _Unpacked:
    """The decompressed size of the texts in a group of rows, since pages are decompressed as a whole.

    It is taken from the headers of the pages; the sizes in the footer may be wrong.
    """

    def __init__(self) -> None:
        self.packed = self.unpacked = 0

    def add(self, page: Page) -> None:
        self.packed, self.unpacked = self.packed + page.packed, self.unpacked + page.unpacked
        if self.unpacked > MAX_UNPACKED_BEYOND + MAX_COMPRESSION * self.packed:
            raise PageError(f"{self.packed} bytes that unpack to {self.unpacked}; expected texts")


def _first_byte(column: pq.ColumnChunkMetaData) -> int:
    """The first byte of a column's part of a group: its pages begin with a dictionary, if it has one."""
    start = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
        return column.dictionary_page_offset
    return start


def _some(names: Iterable[str]) -> str:
    """Names as a list for a message."""
    every = sorted(names)
    return ", ".join(map(shown, every[:12])) + ", …" * (len(every) > 12) if every else "nothing"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_tokens(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_integer(kind.value_type)


def _ids_as_text(ids: object, where: str, name: str) -> str:
    """Token ids as a text of numbers, which is cut into pieces and continued like any other."""
    if not isinstance(ids, list) or any(type(one) is not int for one in ids):
        raise ValueError(f"{where}: '{name}' is {type(ids).__name__}; expected a list of token ids")
    if len(ids) > MAX_TOKENS:
        raise ValueError(f"{where}: {len(ids)} token ids; expected at most {MAX_TOKENS} in a row")
    return " ".join(map(str, ids))


def _checked(text: object, where: str, field: Field) -> str:
    text_field = field.name
    if field.is_tokens:
        return _ids_as_text(text, where, text_field)
    if not isinstance(text, str):
        raise ValueError(f"{where}: '{text_field}' is {type(text).__name__}, not a text")
    if len(text) > MAX_RECORD_BYTES:
        raise ValueError(f"{where}: {TOO_LONG}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise ValueError(f"{where}: '{text_field}' has a lone surrogate ({surrogate}), which is not text") from None
    return text


def _cut(text: str, at: Position, end: Position, size: int) -> Iterator[Piece]:
    """A record's text from `at` on, in pieces; `end` is the position of the next record."""
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

    Before the last single space between visible characters, where every supported tokenizer has a boundary; else after
    the last single line end between such characters; else after the last line end, else at the end of the text.
    """
    if found := _WORDS.match(text) or _LINES.match(text):
        return found.end()
    return text.rfind("\n") + 1 or len(text)
