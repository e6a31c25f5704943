"""The catalog's tables and views. This module and those it imports are the only definition of their columns.

`docs/schema.md` is written from here (`make schema`), and so are the Parquet parts.
"""

from storage.catalog import (
    checkpoint_tables,
    corpus_tables,
    description_tables,
    graph_tables,
    prompt_tables,
    weight_tables,
)
from storage.catalog.columns import Column, Table
from storage.catalog.views import VIEWS

__all__ = ["TABLES", "VIEWS", "Column", "Table"]

_GROUPS = (checkpoint_tables, weight_tables, corpus_tables, description_tables, prompt_tables, graph_tables)

TABLES: dict[str, Table] = {table.name: table for group in _GROUPS for table in group.TABLES}
"""All tables by name."""
