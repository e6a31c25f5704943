"""A store, opened for reading."""

import weakref
from contextlib import ExitStack, closing
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from circuit_insights.feature import Feature
from explorer.catalog import Catalog
from flows.inputs.named import chosen_checkpoint, not_ingested
from flows.inputs.store_location import checkpoint_at, store_at
from flows.reports.query import read_only, relation
from flows.reports.search_results import Found, Wanted, look_up

if TYPE_CHECKING:
    import duckdb
    from torch import nn

    from circuit_insights.prompts import PromptActivations
    from flows.one_prompt.opened import Opened
    from interp.transcoder_module import TranscoderModule


class CheckpointRow(NamedTuple):
    """A checkpoint of a store."""

    checkpoint_id: str
    name: str
    model_name: str
    transcoder_name: str | None
    step: int | None
    n_layers: int
    d_transcoder: int
    """Features of each layer."""
    ingested_at: datetime | None


class Store:
    """A store, opened for reading. Nothing in it is changed, so a run on it may go on.

    It reads the catalog that was published last; a run publishes after every stage. It stays open until `close`, or the
    end of a `with` block.
    """

    def __init__(self, place: str | Path, checkpoint: str | None = None) -> None:
        self._folder = store_at(place)
        self.root = self._folder.root
        self._closing = ExitStack()
        self._at_exit = weakref.finalize(self, self._closing.close)  # open, DuckDB warns at exit
        self._connection: duckdb.DuckDBPyConnection = self._closing.enter_context(read_only(self._catalog))
        self.checkpoint: str | None = None
        """Id of the selected checkpoint; None if the store has several and none was named."""
        if checkpoint is not None or len(self.checkpoints()) == 1:
            self.checkpoint = chosen_checkpoint(self._connection, checkpoint)[0]

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(f"{row.name} ({row.checkpoint_id})" for row in self.checkpoints()) or "no checkpoint"
        return f"<Store {self.root}: {names}>"

    def close(self) -> None:
        """Close the catalog."""
        self._at_exit()

    def at(self, checkpoint: str) -> "Store":
        """The same store with another of its checkpoints selected, by id or name.

        Raises:
            ValueError: it has none of that name.
        """
        return Store(self.root, checkpoint)

    def checkpoints(self) -> list[CheckpointRow]:
        """The checkpoints of the store, the newest first."""
        columns = ", ".join(CheckpointRow._fields)
        query = f"SELECT {columns} FROM checkpoints ORDER BY ingested_at DESC NULLS LAST, checkpoint_id"
        return [CheckpointRow(*row) for row in self._connection.execute(query).fetchall()]

    def feature(self, layer: int, feature: int, corpus: str | None = None) -> Feature:
        """A feature. `corpus` is the id of the corpus of its activations; None: the one read last.

        Raises:
            ValueError: it does not exist, or the store has several checkpoints and none was named.
        """
        return Feature(self._pages, self._chosen, layer, feature, corpus)

    def search(self, words: str, layer: int | None = None, limit: int = 10) -> Found:
        """Search for features by words in their descriptions and in the texts on which they fire.

        A query has words, "phrases" in double quotes, and beginnings of words with a star.

        Raises:
            ValueError: the query has no words.
        """
        return look_up(self._catalog, Wanted(words, self.checkpoint, layer, limit))

    def sql(self, query: str) -> "duckdb.DuckDBPyRelation":
        """A query of the catalog as a relation of DuckDB: `.df()`, `.pl()`, `.arrow()`, `.fetchall()`, or print it.

        docs/schema.md lists the tables. As with the command `sql`, only the catalog can be read and nothing can be
        written. The relation is computed when its rows are fetched.

        Raises:
            ValueError: it is not a query with a result, or it fails.
        """
        return relation(self._connection, query)

    def transcoder(self, layer: int) -> "TranscoderModule":
        """A layer's transcoder as a PyTorch module, in float32, read from the store at each call.

        Raises:
            ValueError: there is no such layer.
        """
        from interp.transcoder_module import TranscoderModule

        checkpoint = checkpoint_at(self._folder, self._chosen)
        if not 0 <= layer < checkpoint.n_layers:
            raise ValueError(f"no layer {layer}: {checkpoint.attributes.name} has layers 0-{checkpoint.n_layers - 1}")
        if layer not in checkpoint.layers:
            raise ValueError(not_ingested(checkpoint.attributes.name, layer, checkpoint.layers))
        return TranscoderModule(checkpoint.transcoder(layer, later=True))

    def model(self) -> "nn.Module":
        """The checkpoint's language model, a transformers model in float32; one is kept in memory at a time.

        Raises:
            ValueError: it is not where the last run found it, or it has changed.
        """
        return self.opened().model

    def activations(self, prompt: str, *, layers: list[int] | None = None, chat: bool = False) -> "PromptActivations":
        """The features that are active at each token of a prompt, in some layers or in all.

        Raises:
            ValueError: the prompt is empty or too long, or there is no such layer.
        """
        from circuit_insights.prompts import activations

        return activations(self, prompt, layers, chat)

    def opened(self) -> "Opened":
        """The checkpoint with its model, as the functions for prompts need it."""
        from flows.one_prompt.opened import open_named

        return open_named(self.root, self._chosen)

    @property
    def _catalog(self) -> Path:
        return self.root / "catalog.duckdb"

    @cached_property
    def _pages(self) -> Catalog:
        return self._closing.enter_context(closing(Catalog(self._catalog)))

    @property
    def _chosen(self) -> str:
        """The selected checkpoint.

        Raises:
            ValueError: the store has several and none was named, or it has none.
        """
        if self.checkpoint is None:
            names = ", ".join(f"{row.name} ({row.checkpoint_id})" for row in self.checkpoints()) or "none"
            raise ValueError(f"{self.root} holds {names}; name one: open_store(PLACE, checkpoint=…) or store.at(…)")
        return self.checkpoint


def open_store(place: str | Path, checkpoint: str | None = None) -> Store:
    """Open a store for reading: a folder, or s3://BUCKET/PREFIX.

    `checkpoint` is an id or a name, needed where the store holds several.

    Raises:
        ValueError: there is no store, or no such checkpoint in it.
    """
    return Store(place, checkpoint)
