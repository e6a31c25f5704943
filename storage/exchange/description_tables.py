"""Tables of descriptions and scores as published by others: Parquet, JSON lines, or an array in JSON.

Columns have various names. A table is read if it names the feature of each row and its description; layers may be given
by the files' names. Other columns are ignored.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from storage.exchange.weightlens_json import array_entries
from storage.foreign import check_path, parse_json, shown

NAMES: dict[str, tuple[str, ...]] = {
    "layer": ("layer", "layer_idx", "layer_index"),
    "feature": ("feature", "feature_idx", "feature_index", "feature_id", "latent", "latent_idx", "neuron_index"),
    "text": ("description", "explanation", "text"),
    "method": ("method", "description_method", "approach"),
    "clarity": ("clarity", "clarity_gini", "clarity_score"),
    "responsiveness": ("responsiveness", "responsiveness_gini", "responsiveness_score"),
    "purity": ("purity", "purity_ap", "purity_score"),
    "faithfulness": ("faithfulness", "faithfulness_score"),
}
"""The possible names of each column, in lower case; the first one that exists is used."""

METRICS = ("clarity", "responsiveness", "purity", "faithfulness")

SUFFIXES = (".parquet", ".jsonl", ".json")

MAX_LINE_BYTES = 1 << 24

MAX_TEXT = 20_000
"""Longest description, in characters."""

ROWS_AT_ONCE = 1024

_LAYER = re.compile(r"layer[_-]?([0-9]{1,4})(?![0-9])", re.IGNORECASE)


class Published(NamedTuple):
    """A published description and its scores; None where there is none."""

    layer: int
    feature: int
    method: str | None
    text: str
    tokens: list[str]
    """The tokens, if the description is a list of tokens."""
    scores: dict[str, float | None]
    """Scores by metric, for the metrics that have a column in the table."""


def table_files(folder: Path) -> list[Path]:
    """The tables in a folder.

    Raises:
        ValueError: there is none.
    """
    if not check_path(folder).is_dir():
        raise ValueError(
            f"{folder} is not a folder; expected one with {' or '.join(f'*{end}' for end in SUFFIXES)} files"
        )
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not found:
        raise ValueError(f"{folder}: no {' or '.join(f'*{end}' for end in SUFFIXES)} file")
    return found


def read_table(path: Path) -> Iterator[Published]:
    """Read the rows of a table that describe a feature. Memory: `ROWS_AT_ONCE` rows.

    Raises:
        ValueError: names the file, the row and the column, what was found and what was expected.
    """
    named = _LAYER.search(path.stem)
    columns: dict[str, str] | None = None
    for number, row in enumerate(_rows(path), 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number} is {shown(row)}; expected an object with columns by name")
        if columns is None:
            columns = _columns(path, row, has_layer=named is not None)
        found = _published(f"{path}: row {number}", row, columns, int(named[1]) if named else None)
        if found is not None:
            yield found


def _rows(path: Path) -> Iterator[Any]:
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                    yield from batch.to_pylist()
        elif path.suffix == ".json":
            yield from array_entries(path)
        else:
            with path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                    if len(line) > MAX_LINE_BYTES:
                        raise ValueError(f"{path}: line {number} is longer than {MAX_LINE_BYTES} bytes")
                    if line.strip():
                        yield parse_json(line, f"{path}: line {number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as a table ({' '.join(str(error).split())[:300]})") from None


def _columns(path: Path, row: Mapping[str, Any], *, has_layer: bool) -> dict[str, str]:
    """The table's column for each meaning."""
    there = {str(name).casefold(): str(name) for name in row}
    found = {meant: there[name] for meant, names in NAMES.items() for name in reversed(names) if name in there}
    wanted = ("feature", "text") if has_layer else ("layer", "feature", "text")
    for meant in wanted:
        if meant not in found:
            columns = ", ".join(sorted(map(str, row))[:20])
            raise ValueError(f"{path}: expected a column {' or '.join(NAMES[meant])}; found {columns[:500]}")
    return found


def _published(where: str, row: Mapping[str, Any], columns: dict[str, str], layer: int | None) -> Published | None:
    text, tokens = row.get(columns["text"]), list[str]()
    if isinstance(text, list) and all(isinstance(one, str) for one in text):
        text, tokens = ", ".join(f"‘{one}’" for one in text), text
    if text is None or text == "":
        return None
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ValueError(
            f"{where}: {columns['text']} is {shown(text)}; expected a text of at most {MAX_TEXT} characters"
        )
    if "layer" in columns:
        layer = _whole(where, columns["layer"], row.get(columns["layer"]))
    assert layer is not None
    method = row.get(columns["method"]) if "method" in columns else None
    if method is not None and (not isinstance(method, str) or not 0 < len(method) <= 200):
        raise ValueError(f"{where}: {columns['method']} is {shown(method)}; expected a short text")
    scores = {name: _score(where, columns[name], row.get(columns[name])) for name in METRICS if name in columns}
    feature = _whole(where, columns["feature"], row.get(columns["feature"]))
    return Published(layer, feature, method, text, tokens, scores)


def _whole(where: str, column: str, value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1_000_000_000:
        raise ValueError(f"{where}: {column} is {shown(value)}; expected a whole number from 0 on")
    return value


def _score(where: str, column: str, value: object) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1.0001 <= value <= 1.0001:
        raise ValueError(f"{where}: {column} is {shown(value)}; expected a number from -1 to 1, or none")
    return float(value)
