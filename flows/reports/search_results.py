"""The results of a search as a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table as Grid
from rich.text import Text

from flows.inputs.named import chosen_checkpoint
from flows.reports.in_context import InContext
from flows.reports.tables import Table
from interp.display import visible
from interp.excerpts import Excerpt
from storage.catalog.published import open_published
from storage.search.index import current_index, open_index
from storage.search.lexical import ContextHit, DescriptionHit, Query, search_contexts, search_descriptions


class Wanted(NamedTuple):
    """A search."""

    words: str
    checkpoint: str | None = None
    """Id or name of the checkpoint; None: all are searched."""
    layer: int | None = None
    limit: int = 10
    """Features in each list."""
    embeddings: str | None = None
    """Folder or address of the embedding model; None: only words are searched."""
    embedding_model: str | None = None
    """Name of the model at an address."""


class Found(NamedTuple):
    """The results of a search by words."""

    descriptions: list[DescriptionHit]
    """Features with matching descriptions, the best first."""
    contexts: list[ContextHit]
    """Features that fire on matching text."""
    has_private_text: bool
    """Whether the catalog lacks the text of some corpus, which was therefore not searched."""


def look_up(catalog: Path, wanted: Wanted) -> Found:
    """Search for features by their descriptions and by the texts on which they fire.

    Raises:
        ValueError: there are no words, no catalog, or no such checkpoint.
    """
    if not wanted.words.strip():
        raise ValueError("search: no words to look for")
    with open_published(catalog) as connection:
        checkpoint_id = None if wanted.checkpoint is None else chosen_checkpoint(connection, wanted.checkpoint)[0]
        query = Query(wanted.words, checkpoint_id, wanted.layer, wanted.limit)
        index = open_index(catalog)
        descriptions = search_descriptions(connection, index, query)
        contexts = search_contexts(connection, index, query)
        index.close()
        private = connection.execute("SELECT 1 FROM corpora WHERE has_text = false").fetchone() is not None
    return Found(descriptions, contexts, private)


def found(catalog: Path, wanted: Wanted) -> Iterator[RenderableType]:
    """The results of `look_up`, and descriptions with similar meaning if an embedding model is named.

    Raises:
        ValueError: there are no words, no catalog, no such checkpoint, or no such model.
    """
    if wanted.words.strip() and catalog.is_file() and current_index(catalog) is None:
        yield Text("indexing the catalog's words, once …", style="dim")
    descriptions, contexts, private = look_up(catalog, wanted)
    if descriptions:
        yield _described("Described so", descriptions)
    if wanted.embeddings is not None:
        yield from _alike(catalog, wanted, wanted.embeddings)
    if contexts:
        yield _active(contexts)
    if not descriptions and not contexts:
        yield Text(f"No feature is described by, or fires on, {visible(wanted.words)}.")
    if private:
        yield Text("Text of this store is kept private (corpus.keep_text); only its descriptions were searched.")


def _alike(catalog: Path, wanted: Wanted, place: str) -> Iterator[RenderableType]:
    """Descriptions with similar meaning."""
    from storage.search.embedders import open_embedder  # transformers takes seconds to import
    from storage.search.meaning import make_vectors, search_meaning, vectors_are_current, vectors_path

    embedder = open_embedder(place, wanted.embedding_model)
    if not vectors_are_current(catalog, embedder):
        for progress in make_vectors(catalog, embedder):
            yield Text(f"reading descriptions: {progress.done} of {progress.n} new ones", style="dim")
    with open_published(catalog) as connection:
        checkpoint_id = None if wanted.checkpoint is None else chosen_checkpoint(connection, wanted.checkpoint)[0]
        query = Query(wanted.words, checkpoint_id, wanted.layer, wanted.limit)
        hits = search_meaning(connection, vectors_path(catalog, embedder), embedder, query)
    yield _described("Similar meaning", hits, scores=True)


def _described(title: str, hits: Sequence[DescriptionHit], *, scores: bool = False) -> Table:
    table = Table("feature", *(["likeness"] if scores else []), "method", "description", title=title)
    for hit in hits:
        score = [f"{hit.score:.2f}"] if scores else []
        table.add_row(f"{hit.layer}/{hit.feature}", *score, hit.method, visible(hit.text))
    return table


def _active(hits: Sequence[ContextHit]) -> Grid:
    table = Grid("feature", "activation", "text", title="Active there")
    for hit in hits:
        text = InContext(Excerpt(hit.before, hit.token, hit.after))
        table.add_row(f"{hit.layer}/{hit.feature}", f"{hit.activation:.3g}", text)
    return table
