"""The types of tables and columns, and columns that many tables have in common."""

from typing import NamedTuple

import pyarrow as pa

ARROW = {
    "VARCHAR": pa.string(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR[]": pa.list_(pa.string()),
    "SMALLINT[]": pa.list_(pa.int16()),
    "INTEGER[]": pa.list_(pa.int32()),
    "FLOAT[]": pa.list_(pa.float32()),
}


class Column(NamedTuple):
    """A column: its name, its SQL type and its description."""

    name: str
    type: str
    meaning: str


class Table(NamedTuple):
    """A table: the meaning of a row, its key and its columns."""

    name: str
    row: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        """The schema of the table's Parquet parts."""
        return pa.schema([(column.name, ARROW[column.type]) for column in self.columns])

    @property
    def ddl(self) -> str:
        """The SQL statement that creates the table where it does not exist."""
        columns = ", ".join(f"{column.name} {column.type}" for column in self.columns)
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({columns})"


CHECKPOINT = Column(
    "checkpoint_id", "VARCHAR", "The checkpoint: a short hash of model, transcoders and how they are read."
)
CORPUS = Column("corpus_id", "VARCHAR", "The corpus; null if the row depends on weights only.")
READ_CORPUS = Column("corpus_id", "VARCHAR", "The corpus that was read; for several, a hash of them all.")
LAYER = Column("layer", "SMALLINT", "Layer, from 0.")
FEATURE = Column("feature", "INTEGER", "Feature of the layer's transcoder, from 0.")
