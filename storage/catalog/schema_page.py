"""The page that documents every table, view and column of the catalog: docs/schema.md."""

import duckdb

from storage.catalog.database import bring_forward
from storage.catalog.tables import TABLES, VIEWS, Column
from storage.catalog.view_columns import view_columns


def schema_markdown() -> str:
    """The text of `docs/schema.md`.

    Raises:
        ValueError: a column of a view has no description.
    """
    lines = [
        "# The catalog",
        "",
        "Every table and view of `catalog.duckdb` with all columns, written by `make schema` from `storage/catalog/`. "
        "[Questions in SQL](queries.md) has an example for each, [methods](methods.md) the formulas behind columns. "
        "To begin with: `layer_summary` and `feature_card` for an overview, `descriptions` and `method_comparison` for "
        "what features mean and how well that is known, `contexts` for their texts, `feature_edges` for their "
        "connections.",
    ]
    for table in TABLES.values():
        lines += ["", f"## {table.name}", "", f"{table.row} Key: {', '.join(f'`{name}`' for name in table.key)}.", ""]
        lines += _rows(list(table.columns))
    lines += ["", "# Views"]
    with duckdb.connect() as connection:
        bring_forward(connection)
        for name, (meaning, _) in VIEWS.items():
            described = [(row[0], row[1]) for row in connection.execute(f"DESCRIBE {name}").fetchall()]
            lines += ["", f"## {name}", "", meaning, "", *_rows(list(view_columns(name, described)))]
    return "\n".join(lines) + "\n"


def _rows(columns: list[Column]) -> list[str]:
    rows = [f"| `{name}` | {type_} | {meaning} |" for name, type_, meaning in columns]
    return ["| column | type | meaning |", "|---|---|---|", *rows]
