"""Firing tokens in their text, one line each, for a terminal."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import duckdb
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from explorer.texts import running
from interp.display import visible
from interp.excerpts import Excerpt, fitted

FIRING = "bold black on yellow"

LEAST_WIDTH = 40
"""Smallest number of characters of text on a line, even in a narrow terminal."""

N_GREATEST = 5
"""Number of contexts with the feature's greatest activations."""

N_TOP, N_SPREAD = 3, 3
"""Number of contexts for each cluster: its greatest activations, and as many spread over the others."""


class InContext(NamedTuple):
    """A firing token in its text: coloured if the terminal has colours, otherwise between « and »."""

    excerpt: Excerpt
    label: str = ""
    """The text before it on the line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        coloured = console.color_system is not None
        room = options.max_width - len(self.label) - (0 if coloured else 2)
        before, token, after = (running(text) for text in fitted(self.excerpt, max(LEAST_WIDTH, room)))
        firing = (token, FIRING) if coloured else f"«{token}»"
        yield Text.assemble((self.label, "cyan"), before, firing, after, no_wrap=True, overflow="ellipsis")


class _Context(NamedTuple):
    cluster: int | None
    quantile_bin: int | None
    activation: float
    excerpt: Excerpt


def contexts(connection: duckdb.DuckDBPyConnection, key: tuple[str, int, int]) -> Iterator[RenderableType]:
    """The greatest and some other activations of a feature in their texts, by corpus and cluster.

    `key` is checkpoint, layer and feature.
    """
    query = """
        SELECT corpus_id, coalesce(name, corpus_id), has_text, cluster, quantile_bin, activation, before, token, after
        FROM contexts LEFT JOIN corpora USING (corpus_id)
        WHERE checkpoint_id = ? AND layer = ? AND feature = ? ORDER BY corpus_id, activation DESC, sample"""
    by_corpus: dict[str, list[_Context]] = defaultdict(list)
    without: dict[str, str] = {}
    for _, name, has_text, cluster, quantile_bin, activation, *texts in connection.execute(query, key).fetchall():
        if texts[1] is None:
            without[name] = "is kept private (corpus.keep_text)" if has_text is False else "comes with the next run"
        else:
            by_corpus[name].append(_Context(cluster, quantile_bin, activation, Excerpt(*texts)))
    for name, why in without.items():
        yield Text(f"The text of {visible(name)} around its activations {why}.", style="yellow")
    for name, found in by_corpus.items():
        yield Text(f"In {visible(name)}", style="bold")
        yield from _lines("greatest activations", found[:N_GREATEST])
        signatures = _signatures(connection, key)
        for cluster, some in _by_cluster(found).items():
            rest, n = some[N_TOP:], N_SPREAD
            places = sorted({round((i + 1) * (len(rest) - 1) / n) for i in range(n)}) if rest else []
            yield from _lines(_heading(cluster, signatures), [*some[:N_TOP], *(rest[at] for at in places)])


def _by_cluster(found: Sequence[_Context]) -> dict[int | None, list[_Context]]:
    """Attributed samples by cluster, the largest first and noise last; if there are none, the quantile sample."""
    groups: dict[int | None, list[_Context]] = defaultdict(list)
    for one in found:
        if one.quantile_bin is not None:
            groups[one.cluster].append(one)
    if None in groups and len(groups) > 1:
        del groups[None]
    return dict(sorted(groups.items(), key=lambda group: (group[0] in (None, -1), group[0] or 0)))


def _signatures(connection: duckdb.DuckDBPyConnection, key: tuple[str, int, int]) -> dict[int, str]:
    query = """SELECT cluster, n_samples, share, signature FROM clusters
               WHERE checkpoint_id = ? AND layer = ? AND feature = ?"""
    rows = connection.execute(query, key).fetchall()
    return {
        cluster: f"{n} samples ({share:.0%})" + (f", caused by {', '.join(signature[:6])}" if signature else "")
        for cluster, n, share, signature in rows
    }


def _heading(cluster: int | None, signatures: dict[int, str]) -> str:
    if cluster is None:
        return "quantile sample"
    name = f"cluster {cluster}" if cluster >= 0 else "in no cluster"
    return f"{name}: {signatures[cluster]}" if cluster in signatures else name


def _lines(heading: str, found: Sequence[_Context]) -> Iterator[RenderableType]:
    yield Text(f" {heading}", style="cyan")
    for one in found:
        of = "      " if one.quantile_bin is None else f"bin {one.quantile_bin:2d}"
        yield InContext(one.excerpt, f"  {one.activation:8.3g} {of}  ")
