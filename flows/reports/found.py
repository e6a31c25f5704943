"""What a search found, as a person reads it."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.reports.in_context import InContext
from flows.subject.named import chosen_checkpoint
from interp.display import visible
from interp.excerpts import Excerpt
from storage.catalog.published import open_published
from storage.search.index import current_index, open_index
from storage.search.lexical import Query, search_contexts, search_descriptions


def found(catalog: Path, words: str, checkpoint: str | None, layer: int | None, limit: int) -> Iterator[RenderableType]:
    """Features by their descriptions and by the texts on which they fire.

    Raises:
        ValueError: no words, no catalog, or no such checkpoint.
    """
    if not words.strip():
        raise ValueError("search: no words to look for")
    with open_published(catalog) as connection:
        checkpoint_id = None if checkpoint is None else chosen_checkpoint(connection, checkpoint)[0]
        if current_index(catalog) is None:
            yield Text("indexing the catalog's words, once …", style="dim")
        index = open_index(catalog)
        query = Query(words, checkpoint_id, layer, limit)
        descriptions = search_descriptions(connection, index, query)
        contexts = search_contexts(connection, index, query)
        private = connection.execute("SELECT 1 FROM corpora WHERE has_text = false").fetchone() is not None
    if descriptions:
        table = Table("feature", "method", "description", title="Described so")
        for hit in descriptions:
            table.add_row(f"{hit.layer}/{hit.feature}", hit.method, escape(visible(hit.text)))
        yield table
    if contexts:
        table = Table("feature", "activation", "text", title="Active there")
        for hit in contexts:
            text = InContext(Excerpt(hit.before, hit.token, hit.after))
            table.add_row(f"{hit.layer}/{hit.feature}", f"{hit.activation:.3g}", text)
        yield table
    if not descriptions and not contexts:
        yield Text(f"No feature is described by, or fires on, {visible(words)}.")
    if private:
        yield Text("Text of this store is kept private (corpus.keep_text); of it, descriptions alone were searched.")
