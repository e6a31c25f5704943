"""A store below a folder that is named like a column."""

from pathlib import Path

import pytest

from storage.catalog.database import open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.parquet import read_table


@pytest.mark.parametrize("folder", ["lr=0.001", "token_id=7", "a=b=c", "run[1] *"])
def test_a_folder_named_key_value_is_no_column(folder: str, tmp_path: Path) -> None:
    root = tmp_path / folder / "store"
    part = root / "parts" / "tokens.parquet"
    columns = {"checkpoint_id": "c", "token_id": [0, 1], "text": [" a", " b"]}
    write_part(part, "tokens", columns, 2)
    with open_catalog(root / "catalog.duckdb", write=True) as connection:
        replace_rows(connection, "tokens", {"checkpoint_id": "c"}, [part])
        rows = connection.execute("SELECT token_id, text FROM tokens ORDER BY token_id").fetchall()
    assert rows == [(0, " a"), (1, " b")]
    assert read_table(part).column_names == ["checkpoint_id", "token_id", "text"]
