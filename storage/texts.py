"""Texts to run a model on: local files, and the documentation that every Python carries."""

import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

PYTHON_DOCS = "python-docs"
"""Names the running Python's own documentation as a text source."""

MIN_DOCSTRING_CHARACTERS = 80
_NOT_DOCUMENTATION = {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"}


def read_texts(source: str, text_field: str = "text") -> Iterator[str]:
    """The documents of a source: `python-docs`, or a .txt, .jsonl or .parquet file.

    A .txt file is one document; the others have one a line or row, in `text_field`.

    Raises:
        ValueError: missing file, unknown kind, a line that is not JSON, or a document without the field.
    """
    if source == PYTHON_DOCS:
        yield from python_docs()
        return
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"corpus: no file {path} (expected .txt, .jsonl or .parquet, or '{PYTHON_DOCS}')")
    if path.suffix == ".txt":
        yield path.read_text(encoding="utf-8")
    elif path.suffix == ".jsonl":
        yield from _json_lines(path, text_field)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path, text_field)
    else:
        raise ValueError(f"corpus: {path} is a '{path.suffix}' file; expected .txt, .jsonl or .parquet")


def _json_lines(path: Path, text_field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[text_field]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"corpus: {path} line {number}: no JSON object with '{text_field}' ({error!r})"
                ) from None
            if not isinstance(text, str):
                raise ValueError(f"corpus: {path} line {number}: '{text_field}' is {type(text).__name__}, not a text")
            yield text


def _parquet_rows(path: Path, text_field: str) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        if text_field not in file.schema_arrow.names:
            raise ValueError(f"corpus: {path} has no column '{text_field}'; it has {file.schema_arrow.names}")
        for batch in file.iter_batches(columns=[text_field]):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)


def python_docs() -> Iterator[str]:
    """The running Python's documentation: the language reference topics, then the library's docstrings."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]
    yield from docstrings(Path(sysconfig.get_path("stdlib")))


def docstrings(root: Path) -> Iterator[str]:
    """The docstrings below a folder, file by file in order, one document a file."""
    for path in sorted(root.rglob("*.py")):
        if _NOT_DOCUMENTATION.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates and deliberately broken sources
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
        long_enough = [text for text in found if text and len(text) >= MIN_DOCSTRING_CHARACTERS]
        if long_enough:
            yield "\n\n".join(long_enough)
